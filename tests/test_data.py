"""Walks: which action led to which frame, what is distinct, what was blocked; all against the world's own positions."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections import Counter
from dataclasses import fields, replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from exact import exact_model, exact_walker
from gymnasium.vector import SyncVectorEnv
from torch import Tensor
from treasure import ID, Treasure, treasure_model, walk_by_hand

from gtmsm_env import data
from gtmsm_env.data import Recordings, Walks, concatenate, distinct, recolour, record, record_walks, walk
from gtmsm_env.envs.image_navigation import ImageNavigationEnv, ImageNavigationVectorEnv
from gtmsm_env.transitions import turned
from gtmsm_env.types import Walk

WORLD = "GTMSM-ImageNavigation-v0"
TRAIN: dict[str, Any] = {"task": None, "split": "train"}


def generators(*seeds: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in seeds]


def walks(rows: int = 6, steps: int = 80, seed: int = 0) -> Walk:
    return record(ImageNavigationVectorEnv(rows, task=None), steps, np.random.default_rng(seed), seed)


# ---------------------------------------------------------------- recording


@pytest.mark.parametrize("world", [lambda: ImageNavigationEnv(task=None), lambda: ImageNavigationVectorEnv(5, task=None)])
def test_an_action_leads_from_the_frame_before_to_the_frame_after(world: Any) -> None:
    """A model that knows the world's law finds every true position from the actions; from shifted ones it does not."""
    recorded = record(world(), 80, np.random.default_rng(0), seed=3)
    assert recorded.positions is not None
    places, model = recorded.positions.float() - 4, exact_model()
    assert torch.equal(model.filter(recorded.actions)[0], places)
    assert not torch.equal(model.filter(recorded.actions.roll(1, dims=-1))[0], places)
    assert not torch.equal(model.filter(recorded.actions.roll(-1, dims=-1))[0], places)


def test_a_frame_is_what_is_seen_at_its_position() -> None:
    recorded = walks(rows=3)
    assert recorded.positions is not None
    for row in range(3):
        seen: dict[tuple[int, ...], Tensor] = {}
        for x, position in zip(recorded.frames[row], recorded.positions[row].tolist(), strict=True):
            assert torch.equal(seen.setdefault(tuple(position), x), x)
        assert len(seen) > 5


def test_a_reward_is_received_on_arriving() -> None:
    """Frame, reward and end as a walk by hand gives them."""
    recorded = record(gym.make(ID), 60, np.random.default_rng(0), seed=5)
    world = Treasure()
    by_hand = walk_by_hand(world, recorded.actions.numpy(), seed=5)
    assert recorded.rewards is not None
    assert recorded.terminations is not None
    assert by_hand.rewards is not None
    assert torch.equal(recorded.frames, by_hand.frames)
    assert torch.equal(recorded.rewards, by_hand.rewards)
    assert recorded.rewards[0] == 0
    assert recorded.rewards[1:].all()
    assert not recorded.terminations.any()  # a walk does not end, where a task would
    assert recorded.positions is None  # this world does not tell
    assert [part.dtype for part in (recorded.frames, recorded.actions, recorded.rewards, recorded.terminations)] == [
        torch.uint8,
        torch.int64,
        torch.float32,
        torch.bool,
    ]


@pytest.mark.parametrize("rows", [1, 4])
def test_a_row_is_the_scalar_world(rows: int) -> None:
    """Given one generator a row. Rows of other worlds than our own are stacked by Gymnasium."""
    seeds = list(range(10, 10 + rows))
    native = record(ImageNavigationVectorEnv(rows, **TRAIN), 30, generators(*seeds), seeds)
    stacked = record(SyncVectorEnv([lambda: ImageNavigationEnv(**TRAIN)] * rows), 30, generators(*seeds), seeds)
    for row, seed in enumerate(seeds):
        alone = record(ImageNavigationEnv(**TRAIN), 30, generators(seed)[0], seed)
        for field in fields(Walk):
            expected = getattr(alone, field.name)
            if expected is None:  # what this world does not tell
                continue
            assert torch.equal(getattr(native, field.name)[row], expected), field.name
            assert torch.equal(getattr(stacked, field.name)[row], expected), field.name


def test_a_seed_makes_the_walk() -> None:
    """The world's own generator draws the actions unless another is given."""
    for world in (ImageNavigationEnv(task=None), ImageNavigationVectorEnv(3, task=None)):
        one, same, other = record(world, 30, seed=1), record(world, 30, seed=1), record(world, 30, seed=2)
        assert torch.equal(one.frames, same.frames)
        assert torch.equal(one.actions, same.actions)
        assert not torch.equal(one.actions, other.actions)
        onward = record(world, 30)  # no seed: another world and other actions
        assert not torch.equal(onward.frames, other.frames)
        assert not torch.equal(onward.actions, other.actions)


@pytest.mark.parametrize("rows", [None, 3])
def test_a_walk_of_one_frame(rows: int | None) -> None:
    world = ImageNavigationEnv(task=None) if rows is None else ImageNavigationVectorEnv(rows, task=None)
    lead = () if rows is None else (rows,)
    recorded = record(world, 1, seed=0)
    assert recorded.frames.shape == (*lead, 1, 8, 8, 3)
    assert recorded.actions.shape == (*lead, 0)
    assert recorded.rewards is not None
    assert recorded.rewards.shape == (*lead, 1)
    assert len(exact_model().remember(recorded).memory) == 1


def test_a_walk_remembered() -> None:
    model = treasure_model()
    belief = walk(gym.make(ID), model, 40, np.random.default_rng(0), seed=1)
    expected = model.remember(record(gym.make(ID), 40, np.random.default_rng(0), seed=1))
    assert torch.equal(belief.mean, expected.mean)
    assert torch.equal(belief.memory.s_mean, expected.memory.s_mean)
    assert torch.equal(belief.memory.values["reward"], expected.memory.values["reward"])


@pytest.mark.parametrize(
    ("world", "message"),
    [
        (lambda: gym.make(ID, size=5), "trained for"),
        (lambda: gym.make_vec(ID, num_envs=2, pay=False), "trained for"),
        (lambda: gym.make(WORLD), "trained for"),
        (Treasure, "by name"),
    ],
)
def test_a_walk_is_remembered_by_a_model_of_its_world(world: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        walk(world(), treasure_model(), 4)


@pytest.mark.parametrize("steps", [0, -3])
def test_a_walk_has_a_frame(steps: int) -> None:
    with pytest.raises(ValueError, match=f"at least one frame, given steps={steps}"):
        record(ImageNavigationEnv(), steps)


class Odd(Treasure):
    """Shows frames of another kind, gives another reward, or numbers its actions from 1."""

    def __init__(self, kind: type = np.uint8, name: str = "frame", reward: float = 0.0, first: int = 0) -> None:
        super().__init__()
        self.kind, self.name, self.reward = kind, name, reward
        self.observation_space = gym.spaces.Dict({name: gym.spaces.Box(0, 255, (4, 4, 3), kind)})
        self.action_space = gym.spaces.Discrete(5, start=first)  # type: ignore[assignment]

    def reset(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:  # type: ignore[override]
        observation, info = super().reset(**kwargs)
        return {self.name: observation["frame"].astype(self.kind)}, info

    def step(self, action: int) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        observation, *_, info = super().step(action)
        return {self.name: observation["frame"].astype(self.kind)}, self.reward, False, False, info


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"kind": np.float32}, "A frame is uint8, 0 to 255; the world's are float32"),
        ({"kind": np.int64}, "A frame is uint8, 0 to 255; the world's are int64"),
        ({"name": "image"}, "A walk is of frames under 'frame'"),
        ({"reward": np.nan}, "A reward is a number, and one given is NaN"),
        ({"first": 1}, r"discrete actions from 0; the world's are Discrete\(5, start=1\)"),
    ],
)
def test_what_is_no_walk_is_not_recorded(odd: dict[str, Any], message: str) -> None:
    for world in (Odd(**odd), SyncVectorEnv([lambda: Odd(**odd)] * 2)):
        with pytest.raises(ValueError, match=message):
            record(world, 5, seed=0)


def test_actions_that_cannot_be_repeated() -> None:
    world = Treasure()
    world.action_space = gym.spaces.Box(-1, 1, (2,))  # type: ignore[assignment]
    for one in (world, SyncVectorEnv([lambda: world])):
        with pytest.raises(ValueError, match=r"discrete actions from 0; the world's are Box.*Record the walk yourself"):
            record(one, 5)


@pytest.mark.parametrize("vector", [False, True])
def test_a_world_that_ends_a_walk(vector: bool) -> None:
    def limited() -> gym.Env[Any, Any]:
        return gym.make(ID, max_episode_steps=7)

    world = SyncVectorEnv([lambda: gym.make(ID), limited]) if vector else limited()
    with pytest.raises(ValueError, match="not interrupted; the world ended it after 7 steps"):
        record(world, 20, seed=0)
    assert record(world, 7, seed=0).frames.shape[-4] == 7


# ---------------------------------------------------------------- distinct frames


def test_distinct_frames_give_the_walk_back() -> None:
    """Byte for byte, each frame once, numbered in the order in which it was first seen."""
    recorded = walks()
    once = distinct(recorded)
    assert len(once) == 6
    assert once.index.shape == (6, 80)
    assert torch.equal(once.actions, recorded.actions)
    for row in range(6):
        assert torch.equal(once.frames[row][once.index[row]], recorded.frames[row])
        seen: list[bytes] = []
        for t, x in enumerate(recorded.frames[row]):
            if x.numpy().tobytes() not in seen:
                seen.append(x.numpy().tobytes())
            assert once.index[row, t] == seen.index(x.numpy().tobytes())
        assert not once.frames[row, len(seen) :].any()
    assert once.frames.shape[1] == int(once.index.max()) + 1


def test_frames_differ_by_any_byte() -> None:
    """Also by the last one, and by zeros at the ends."""
    x = torch.zeros(6, 1, 2, 3, dtype=torch.uint8)
    x[1, 0, 1, 2], x[2, 0, 0, 0], x[4, 0, 1, 2] = 1, 1, 1
    once = distinct(Walk(x[None], torch.zeros(1, 5, dtype=torch.int64)))
    assert once.index.tolist() == [[0, 1, 2, 0, 1, 0]]
    assert torch.equal(once.frames[0], x[:3])


def test_some_steps_of_some_walks() -> None:
    recorded = walks()
    rows = torch.tensor([4, 1])
    part = distinct(recorded).batch(rows, 20)
    assert part.index.shape == (2, 20)
    assert part.actions.shape == (2, 19)
    assert torch.equal(part.actions, recorded.actions[rows, :19])
    for at, row in enumerate(rows):
        assert torch.equal(part.frames[at][part.index[at]], recorded.frames[row, :20])
    assert part.frames.shape[1] == int(part.index.max()) + 1  # no frame that these steps do not see


def test_several_sets_of_walks_as_one() -> None:
    parts = [walks(rows=2, steps=40, seed=seed) for seed in range(3)]
    whole = concatenate([distinct(part) for part in parts])
    assert len(whole) == 6
    frames, actions = torch.cat([part.frames for part in parts]), torch.cat([part.actions for part in parts])
    assert torch.equal(whole.actions, actions)
    for row in range(6):
        assert torch.equal(whole.frames[row][whole.index[row]], frames[row])


def test_blocked_moves_are_found_from_frames_alone() -> None:
    """Equal to the truth wherever no two places of a walk look alike; staying is not blocked."""
    recorded = walks(rows=24, steps=120)
    assert recorded.positions is not None
    moved = (recorded.positions[:, 1:] != recorded.positions[:, :-1]).any(dim=-1)
    truth = ~moved & (recorded.actions != 4)
    once = distinct(recorded)
    places = torch.tensor([len({tuple(p) for p in row}) for row in recorded.positions.tolist()])
    clear = once.index.amax(dim=1) + 1 == places
    assert clear.sum() >= 12
    assert torch.equal(once.unmoved()[clear], truth[clear])
    assert truth[clear].sum() > 50
    stays = recorded.actions == 4
    assert stays.any()
    assert not once.unmoved()[stays].any()


# ---------------------------------------------------------------- walks for training


def test_recoloured_walks_are_the_same_walks() -> None:
    """Each has one colour rule of its own, which keeps apart what was apart; half are left as they are, twelve rules are drawn alike."""
    once = distinct(walks(rows=120))
    recoloured = recolour(once, np.random.default_rng(0))
    assert torch.equal(recoloured.index, once.index)
    assert torch.equal(recoloured.actions, once.actions)
    rules = [(order, negative) for order in itertools.permutations(range(3)) for negative in (False, True)]
    drawn = Counter()
    for row in range(120):
        x = once.frames[row]
        (rule,) = [(o, n) for o, n in rules if torch.equal(recoloured.frames[row], 255 - x[..., list(o)] if n else x[..., list(o)])]
        drawn[rule] += 1
    assert len(drawn) > 8
    assert 48 < drawn.pop(((0, 1, 2), False)) < 85
    assert max(drawn.values()) < 15


def test_as_many_walks_as_were_asked_for() -> None:
    parts = list(record_walks(WORLD, TRAIN, 20, 30, seed=0, chunk=8))
    assert [len(part) for part in parts] == [8, 8, 4]
    whole = concatenate(parts)
    assert whole.index.shape == (20, 30)
    assert whole.actions.shape == (20, 29)
    assert len({row.numpy().tobytes() for row in whole.frames[:, 0]}) == 20  # a world each
    assert len({tuple(row) for row in whole.actions.tolist()}) == 20
    again = concatenate(list(record_walks(WORLD, TRAIN, 20, 30, seed=0, chunk=8)))
    other = concatenate(list(record_walks(WORLD, TRAIN, 20, 30, seed=1, chunk=8)))
    assert all(torch.equal(getattr(whole, name), getattr(again, name)) for name in ("frames", "index", "actions"))
    assert not torch.equal(whole.actions, other.actions)
    few = list(record_walks(WORLD, TRAIN, 8, 30, seed=0, chunk=8))  # more walks leave the first as they are
    assert torch.equal(few[0].frames, parts[0].frames)


def test_parts_recorded_by_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part is what its number says, in order, whoever records it; signals that all processes get do not end it."""
    recordings = Recordings(WORLD, TRAIN, 3, 20, seed=4)
    monkeypatch.setattr(data.os, "sched_getaffinity", lambda _: range(6), raising=False)
    before = multiprocessing.active_children()
    handler = signal.getsignal(signal.SIGTERM)
    parts = recordings.parts(2, 8, sharing=2)
    assert signal.getsignal(signal.SIGTERM) is handler
    workers = [worker for worker in multiprocessing.active_children() if worker not in before]
    assert len(workers) == 2  # of six cores, shared, one is that of who asks
    found = []
    for number in (signal.SIGINT, signal.SIGTERM, None):
        for worker in workers if number else []:
            os.kill(worker.pid or 0, number or 0)
        found.append(next(parts))
    found += parts
    for part, own in enumerate(found, start=2):
        expected = recordings[part]
        assert torch.equal(own.frames, expected.frames)
        assert torch.equal(own.index, expected.index)
        assert torch.equal(own.actions, expected.actions)
    assert len(found) == len({part.actions.numpy().tobytes() for part in found}) == 6
    assert not torch.equal(replace(recordings, seed=5)[2].actions, found[0].actions)


def test_parts_recorded_by_the_one_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    recordings = Recordings(WORLD, TRAIN, 3, 20, seed=4)
    before = multiprocessing.active_children()
    for cores, end, parts in ((1, 4, 2), (6, 2, 0)):  # where there is no other core, or nothing to record
        monkeypatch.setattr(data.os, "sched_getaffinity", lambda _, cores=cores: range(cores), raising=False)
        found = list(recordings.parts(2, end))
        assert len(found) == parts
        assert multiprocessing.active_children() == before
        assert all(torch.equal(own.actions, recordings[part].actions) for part, own in enumerate(found, start=2))


def test_training_reads_no_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only frames, which of them are equal, and actions are kept; wrong positions, rewards and ends change nothing."""
    assert [field.name for field in fields(Walks)] == ["frames", "index", "actions", "displacements"]
    expected = concatenate(list(record_walks(WORLD, TRAIN, 6, 40, seed=0, chunk=6)))

    def poisoned(*args: Any, **kwargs: Any) -> Walk:
        recorded = record(*args, **kwargs)
        assert recorded.positions is not None
        assert recorded.rewards is not None
        return replace(recorded, positions=-recorded.positions, rewards=recorded.rewards + torch.nan, terminations=None)

    monkeypatch.setattr(data, "record", poisoned)
    found = concatenate(list(record_walks(WORLD, TRAIN, 6, 40, seed=0, chunk=6)))
    assert found.displacements is None, "targets of the walking experiment, kept where they are asked for alone"
    assert all(torch.equal(getattr(found, name), getattr(expected, name)) for name in ("frames", "index", "actions"))


# ---------------------------------------------------------------- first person


@pytest.fixture
def small() -> dict[str, Any]:
    """Arguments of labyrinths that are drawn quickly."""
    pytest.importorskip("numba")
    return {"frame_size": 4, "task": None, "split": "train"}


LABYRINTH, LABYRINTH_ROTATE = "GTMSM-Labyrinth-v0", "GTMSM-LabyrinthRotate-v0"


@pytest.mark.parametrize("rows", [None, 3])
def test_a_displacement_leads_from_the_pose_before_to_the_pose_after(small: dict[str, Any], rows: int | None) -> None:
    """u_t in the agent's own frame before the step, as frame t is what is seen after it; a shift by one step shows."""
    world = gym.make_vec(LABYRINTH, num_envs=rows, **small) if rows else gym.make(LABYRINTH, **small)
    recorded = record(world, 60, np.random.default_rng(0), seed=1)
    poses, u = recorded.poses, recorded.displacements
    assert poses is not None
    assert u is not None
    assert poses.shape == u.shape == (*recorded.frames.shape[:-3], 3)
    assert poses.dtype == u.dtype == torch.float32
    assert not u[..., 0, :].any()

    def lead(u: Tensor) -> bool:
        return torch.allclose(poses[..., :-1, :] + turned(u[..., 1:, :], poses[..., :-1, 2]), poses[..., 1:, :], atol=1e-4)

    assert lead(u)
    assert not lead(u.roll(1, dims=-2))
    assert not lead(u.roll(-1, dims=-2))
    law = exact_walker().filter
    torch.testing.assert_close(law(recorded.actions)[2], u, atol=1e-5, rtol=0)
    assert not torch.allclose(law(recorded.actions.roll(1, dims=-1))[2], u, atol=1e-2)


def test_a_frame_is_what_is_seen_from_its_pose(small: dict[str, Any]) -> None:
    world: Any = gym.make_vec(LABYRINTH, num_envs=3, **small)
    recorded = record(world, 30, np.random.default_rng(0), seed=1)
    assert recorded.poses is not None
    for step in (0, 1, 17, 29):
        seen = world.unwrapped.look(np.arange(3), recorded.poses[:, step].double().numpy())
        assert np.abs(seen - recorded.frames[:, step].numpy().astype(int)).max() <= 1  # poses are kept in single precision


@pytest.mark.parametrize("name", [LABYRINTH, LABYRINTH_ROTATE])
def test_a_world_is_walked_by_its_own_explorer(small: dict[str, Any], name: str) -> None:
    """Alone, as a vector, and stacked by Gymnasium; not by the exploring policy, which walks into walls."""
    seeds = [10, 11, 12]
    native = record(gym.make_vec(name, num_envs=3, **small), 40, generators(*seeds), seeds)
    stacked = record(SyncVectorEnv([lambda: gym.make(name, **small)] * 3), 40, generators(*seeds), seeds)
    assert torch.equal(stacked.frames, native.frames)
    assert torch.equal(stacked.actions, native.actions)
    for row, seed in enumerate(seeds):
        world, generator = gym.make(name, **small), np.random.default_rng(seed)
        alone = record(world, 40, generator, seed)
        assert torch.equal(alone.actions, native.actions[row])
        again = np.random.default_rng(seed)
        named = record(world, 40, again, seed, policy=world.unwrapped.explorer(again))  # type: ignore[attr-defined]
        assert torch.equal(named.actions, alone.actions)
    assert stacked.displacements is not None
    model = exact_walker(name)
    torch.testing.assert_close(model.filter(stacked.actions)[2], stacked.displacements, atol=1e-5, rtol=0)  # it touches nothing


def test_walks_of_a_policy_with_true_displacements(small: dict[str, Any]) -> None:
    """One for each action, those of the steps that were recorded; frames as the world shows them."""
    made: list[tuple[int, Any]] = []

    def policy(world: Any, generator: np.random.Generator) -> Any:
        made.append((world.num_envs, generator))
        return world.unwrapped.explorer(generator, 0.2)

    parts = list(record_walks(LABYRINTH, small, 6, 30, seed=0, chunk=4, displacements=True, policy=policy))
    assert [len(part) for part in parts] == [4, 2]
    assert [rows for rows, _ in made] == [4, 4]
    assert made[0][1] is made[1][1]
    whole = concatenate(parts)
    assert whole.displacements is not None
    assert whole.displacements.shape == (6, 29, 3)
    u = exact_walker().filter(whole.actions)[2][:, 1:]
    torch.testing.assert_close(u, whole.displacements, atol=1e-5, rtol=0)
    assert not torch.allclose(u.roll(1, dims=1), whole.displacements, atol=1e-2)
    assert whole.actions.unique().tolist() == list(range(8))  # of whims
    world: Any = gym.make_vec(LABYRINTH, num_envs=4, **small)
    generator = np.random.default_rng(0)
    first = record(world, 30, generator, int(generator.integers(2**31)), policy(world, generator))
    assert torch.equal(parts[0].actions, first.actions)
    assert all(torch.equal(parts[0].frames[row][parts[0].index[row]], first.frames[row]) for row in range(4))
    plain = next(record_walks(LABYRINTH, small, 4, 30, seed=0, chunk=4))
    assert plain.displacements is None


def test_no_pose_is_kept_for_training(small: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong poses change nothing; nor do displacements where they are not asked for."""
    expected = next(record_walks(LABYRINTH_ROTATE, small, 3, 20, seed=0, chunk=3))
    own = record

    def poisoned(*args: Any, **kwargs: Any) -> Walk:
        recorded = own(*args, **kwargs)
        assert recorded.poses is not None
        assert recorded.displacements is not None
        return replace(recorded, poses=recorded.poses + torch.nan, displacements=recorded.displacements + torch.nan)

    monkeypatch.setattr(data, "record", poisoned)
    found = next(record_walks(LABYRINTH_ROTATE, small, 3, 20, seed=0, chunk=3))
    assert found.displacements is None
    assert all(torch.equal(getattr(found, name), getattr(expected, name)) for name in ("frames", "index", "actions"))
