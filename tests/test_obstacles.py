"""Remembered obstacles: which moves a memory has seen fail, against a count by hand."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from exact import exact_landmarks
from torch import Tensor

from gtmsm_env.belief import VectorBeliefWrapper, track
from gtmsm_env.data import record
from gtmsm_env.dream import DreamEnv, DreamVectorEnv
from gtmsm_env.envs.image_navigation_vector import MOVES
from gtmsm_env.envs.obstacle_grid import ObstacleGridEnv, ObstacleGridVectorEnv
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.model import GTMSM
from gtmsm_env.obstacles import Known, Obstacles, axes_of, count_moves, effect, without_moves
from gtmsm_env.types import Belief, Walk

A, RADIUS = 5, 0.5


def remembered(*moves: tuple[tuple[float, float], int, float]) -> SpatialMemory:
    """A memory of moves (origin, action, effect), each entry written at its own origin."""
    origin = torch.tensor([move[0] for move in moves]).float()
    values = {
        "z_mean": torch.zeros(len(moves), 3),
        "z_variance": torch.ones(len(moves), 3),
        "origin": origin,
        "action": torch.tensor([move[1] for move in moves]),
        "effect": torch.tensor([move[2] for move in moves]).float(),
    }
    return SpatialMemory(origin, torch.ones_like(origin), values)


def counted(memory: SpatialMemory) -> SpatialMemory:
    """Its distinct places, all its moves counted."""
    used = torch.arange(memory.s_mean.shape[-2]) < memory.count[..., None]
    origin, action, share = (memory.values[name] for name in ("origin", "action", "effect"))
    return count_moves(without_moves(memory.distinct(RADIUS), A), origin, action, share, used, RADIUS)


def free(memory: SpatialMemory) -> Tensor:
    """(P, A), which moves from which places nothing has stopped most of the times."""
    values = counted(memory).values
    return 2 * values["moved"] >= values["tried"]


@pytest.mark.parametrize(
    ("displacement", "expected", "share"),
    [
        ((2.0, 0.0), (2.0, 0.0), 1.0),
        ((0.0, 0.0), (2.0, 0.0), 0.0),
        ((1.0, 5.0), (2.0, 0.0), 0.5),
        ((0.0, 1.0), (0.0, 0.0), 1.0),
        ((-0.3, 0.0), (0.1, 0.0), 1.0),  # against an edge nothing was expected
    ],
)
def test_the_effect_of_a_move(displacement: tuple[float, float], expected: tuple[float, float], share: float) -> None:
    assert float(effect(torch.tensor(displacement), torch.tensor(expected), RADIUS)) == share


def test_what_was_never_tried_is_free() -> None:
    assert free(remembered(((0, 0), -1, 0), ((0, 0), 2, 1))).all()


def test_a_blocked_move_is_remembered_for_its_place_and_action_alone() -> None:
    known = free(remembered(((0, 0), 1, 0.02), ((1, 0), 1, 0.98), ((0.1, 0.1), 3, -0.1)))
    assert known.tolist() == [[True, False, True, False, True], [True] * 5]


def test_most_tries_decide() -> None:
    """A move that slipped once is free again when it has worked as often."""
    blocked, moved = ((0.0, 0.0), 0, 0.0), ((0.0, 0.0), 0, 1.0)
    assert not free(remembered(blocked))[0, 0]
    assert free(remembered(blocked, moved))[0, 0]
    assert not free(remembered(blocked, moved, blocked))[0, 0]


def test_padding_is_not_read() -> None:
    memory = remembered(((0, 0), 1, 1), ((0, 0), 1, 0), ((0, 0), 1, 0))
    shorter = SpatialMemory(memory.s_mean, memory.s_variance, memory.values, torch.tensor(1))
    assert free(shorter).all()


def test_random_walks_as_by_counting() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, entries, side = 3, 200, 4
    origin = torch.randint(side, (rows, entries, 2), generator=generator).float()
    action = torch.randint(-1, A, (rows, entries), generator=generator)
    share = torch.rand(rows, entries, generator=generator)
    values = {"z_mean": torch.zeros(rows, entries, 3), "z_variance": torch.ones(rows, entries, 3)}
    values |= {"origin": origin + 0.1 * torch.rand(origin.shape, generator=generator), "action": action, "effect": share}
    memory = SpatialMemory(origin, torch.ones_like(origin), values, torch.tensor([200, 120, 30]))
    places = counted(memory)
    for row in range(rows):
        for place in range(int(places.count[row])):
            for a in range(A):
                tries = [
                    float(share[row, entry])
                    for entry in range(int(memory.count[row]))
                    if action[row, entry] == a and math.dist(origin[row, entry].tolist(), places.s_mean[row, place].tolist()) < RADIUS
                ]
                assert places.values["tried"][row, place, a] == len(tries)
                assert places.values["moved"][row, place, a] == sum(t > 0.5 for t in tries)


# ---------------------------------------------------------------- believed


AXES = torch.tensor([[0.0, 2.0], [-3.0, 0.5]])


def test_the_lattice_is_spanned_by_two_moves() -> None:
    """The longest and the one farthest off its line, whatever else there is."""
    W_a = torch.tensor([[0.0, 0.0, 2.0, -2.1, 0.0, 0.1], [1.0, -1.0, 0.1, 0.1, 0.0, 0.0]])
    assert torch.equal(axes_of(W_a), torch.tensor([[-2.1, 0.1], [0.0, 1.0]]))


def test_cells_hold_the_states_in_their_middle() -> None:
    lattice = Obstacles(reach=3)
    states = lattice.states(AXES)
    assert torch.equal(lattice.cells(states, AXES), torch.arange(49))
    noise = (torch.rand(49, 2, generator=torch.Generator().manual_seed(0)) - 0.5) * 0.98
    assert torch.equal(lattice.cells(states + noise @ AXES, AXES), torch.arange(49))
    assert not states[24].any()
    assert lattice.cells(4 * AXES, AXES).tolist() == [49, 49]  # beyond


@pytest.mark.parametrize("queries", [(), (5,), (2, 3), (0,)])
def test_moves_into_an_obstacle_are_stopped(queries: tuple[int, ...]) -> None:
    """Of its own memory; nothing is known beyond the lattice."""
    lattice, generator = Obstacles(reach=2), torch.Generator().manual_seed(0)
    obstacle = torch.rand(4, 5, 5, generator=generator) < 0.4
    steps = torch.randint(-4, 5, (4, *queries, 2), generator=generator)
    told = lattice.stops(obstacle, AXES)((steps + 0.4) @ AXES)
    assert told.shape == (4, *queries)
    for at in np.ndindex(*told.shape):
        i, j = steps[at].tolist()
        assert told[at] == (abs(i) <= 2 and abs(j) <= 2 and bool(obstacle[at[0], i + 2, j + 2]))


def test_marks() -> None:
    cells = torch.tensor([[0, 3, 3, 9], [8, 8, 1, 2]])
    which = torch.tensor([[True, False, True, True], [False, False, True, False]])
    marked = Obstacles(reach=1).marked(cells, which).flatten(1)
    assert [row.nonzero().flatten().tolist() for row in marked] == [[0, 3], [1]]


def test_nothing_is_believed_before_it_is_learned() -> None:
    known = Known(torch.ones(2, 17, 17) > 0, torch.zeros(2, 17, 17) > 0, torch.ones(17, 17) > 0)
    assert (Obstacles()(known) < -3).all()


# ---------------------------------------------------------------- in a world


MODEL = exact_landmarks()
CENTRE = 4


def walked(rows: int = 6, steps: int = 200, seed: int = 4) -> Walk:
    """Walks in pictures of which no two places look alike, for these landmarks have learned nothing."""
    return record(ObstacleGridVectorEnv(rows, task=None, obstacles=(2, 2)), steps, np.random.default_rng(seed), seed)


def known(walk: Walk) -> list[tuple[int, tuple[int, ...], int, bool]]:
    """Every (row, place, action) that a walk has tried, and whether it moved, by true positions."""
    assert walk.positions is not None
    tried = {}
    for row, (places, actions) in enumerate(zip(walk.positions.tolist(), walk.actions.tolist(), strict=True)):
        for before, action, after in zip(places, actions, places[1:], strict=False):
            tried[row, tuple(before), action] = before != after
    return [(*key, moved) for key, moved in tried.items()]


def at(belief: Belief, row: int, place: tuple[int, ...]) -> Belief:
    return replace(belief[torch.tensor([row])], mean=torch.tensor([place]).float() - CENTRE)


def right(belief: Belief, walk: Walk) -> list[bool]:
    """Whether each move that was tried ends, when imagined, where it did."""
    told = []
    for row, place, action, moved in known(walk):
        imagined = MODEL.predict(at(belief, row, place), torch.tensor([action])).mean[0]
        truth = np.array(place) - CENTRE + moved * MOVES[action]
        told.append(math.dist(imagined.tolist(), truth) < 0.5)
    return told


def test_imagined_moves_are_stopped_where_the_walk_was() -> None:
    """Also by a memory of places alone; and one action late, the test would tell."""
    walk = walked()
    belief = MODEL.remember(walk)
    assert all(right(belief, walk))
    assert sum(not moved for *_, moved in known(walk)) > 30
    places = replace(belief, memory=MODEL.places(belief.memory))
    assert "origin" not in places.memory.values
    assert all(right(places, walk))
    late = belief.memory.values | {"action": belief.memory.values["action"].roll(1, dims=-1)}
    memory = SpatialMemory(belief.memory.s_mean, belief.memory.s_variance, late, belief.memory.count)
    assert not all(right(replace(belief, memory=memory), walk))


@pytest.mark.parametrize("plans", [(), (7,), (2, 3)])
def test_plans_are_imagined_as_step_by_step(plans: tuple[int, ...]) -> None:
    belief = MODEL.remember(walked(4))
    actions = torch.randint(5, (4, *plans, 40), generator=torch.Generator().manual_seed(0))
    imagined = MODEL.imagine(belief, actions)
    shape = (4, *plans, 2)
    now = replace(belief, mean=belief.mean.reshape(4, *[1] * len(plans), 2).expand(shape), displacement=torch.zeros(shape))
    for t in range(40):
        now = MODEL.predict(now, actions[..., t])
        torch.testing.assert_close(imagined.mean[..., t, :], now.mean)
        torch.testing.assert_close(imagined.displacement[..., t, :], now.displacement)
    assert not torch.allclose(
        imagined.mean,
        MODEL.transition.rollout(*([belief.mean.reshape(shape[:1] + (1,) * len(plans) + (2,)).expand(shape)] * 2), actions)[0],
    )


def test_an_obstacle_met_on_the_way_is_remembered() -> None:
    """By the place it was met from, in the row that met it, once; other holders of the memory know nothing of it."""
    envs = ObstacleGridVectorEnv(8, task=None, obstacles=(2, 2))
    belief = MODEL.remember(record(envs, 20, np.random.default_rng(1), 1))
    belief = first = replace(belief, memory=MODEL.places(belief.memory))
    copy = first.memory.values["tried"].clone()
    generator, tried = np.random.default_rng(2), torch.zeros(8)
    still = torch.arange(8) != 3  # row 3 is told to remember nothing
    for _ in range(60):
        actions = generator.integers(5, size=8)
        before = torch.tensor(envs._position)
        seen, reward, terminated, _, _ = envs.step(actions)
        tensors = [torch.from_numpy(x) for x in (actions, seen["frame"], reward, terminated)]
        belief, _ = track(MODEL, belief, *tensors, where=still)
        tried += still
        moved = MODEL.predict(replace(belief, mean=before.float() - CENTRE), tensors[0]).mean
        torch.testing.assert_close(moved[still], torch.tensor(envs._position).float()[still] - CENTRE)
    counted = belief.memory.values["tried"].sum(dim=(-1, -2)) - copy.sum(dim=(-1, -2))
    assert (counted <= tried).all()
    assert (counted >= tried - 3).all()  # less the steps at which these landmarks are in doubt
    assert counted[3] == 0
    assert torch.equal(first.memory.values["tried"], copy)


def test_the_dream_is_the_world_with_its_obstacles() -> None:
    """Wherever the walk has been and tried; the world goes on where the walk ended."""
    stops = 0
    for seed in range(4):
        env = ObstacleGridEnv(task=None, obstacles=(2, 2), horizon=None)
        walk = record(env, 256, np.random.default_rng(seed), seed)
        dream = DreamEnv(
            world="GTMSM-ObstacleGrid-v0", world_kwargs={"task": None}, model=MODEL, belief=MODEL.remember(walk), task=None, horizon=None
        )
        dream.reset(seed=0)
        batched = Walk(walk.frames[None], walk.actions[None], positions=None if walk.positions is None else walk.positions[None])
        tried = {(place, action): moved for _, place, action, moved in known(batched)}
        assert walk.positions is not None
        generator, place = np.random.default_rng(seed), tuple(walk.positions[-1].tolist())
        for _ in range(200):
            action = int(generator.choice([a for a in range(5) if (place, a) in tried] or [4]))
            observation, *_, info = env.step(action)
            imagined, *_ = dream.step(action)
            stops += not tried.get((place, action), True)
            place = tuple(info["position"].tolist())
            assert np.array_equal(observation["frame"], imagined["frame"])
    assert stops > 20


def test_a_memory_without_displacements_is_told_once() -> None:
    belief = MODEL.remember(walked(1))
    values = {name: value for name, value in belief.memory.values.items() if name not in ("origin", "action", "effect")}
    without = replace(belief, memory=SpatialMemory(belief.memory.s_mean, belief.memory.s_variance, values))
    arguments: dict[str, Any] = {"world": "GTMSM-ObstacleGrid-v0", "world_kwargs": {"task": None}, "model": MODEL, "task": None}
    with pytest.warns(UserWarning, match="obstacles are not honoured"):
        dream = DreamVectorEnv(2, belief=without, **arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dream.reset(seed=0, options={"belief": without})
        DreamVectorEnv(2, belief=belief, **arguments).reset(seed=0)
    start = dream.belief.mean.clone()
    dream.step(np.array([1, 4]))
    assert not torch.equal(dream.belief.mean[0], start[0])


def test_what_is_free_is_told_alike_in_world_and_dream() -> None:
    """Among the entries of the belief: 0 for what an edge or a known obstacle stops, and for a stay."""
    kwargs: dict[str, Any] = {"obstacles": [2, 2]}
    world = VectorBeliefWrapper(
        gym.make_vec("GTMSM-ObstacleGrid-v0", num_envs=6, autoreset_mode="Disabled", **kwargs), MODEL, walk_steps=200, observation="state"
    )
    dream = DreamVectorEnv(6, world="GTMSM-ObstacleGrid-v0", world_kwargs=kwargs, model=MODEL, walk_steps=200, observation="state")
    generator, here, there = np.random.default_rng(0), world.reset(seed=4)[0], dream.reset(seed=4)[0]
    assert world.observation_space == dream.observation_space
    assert world.observation_space.contains(here)
    assert np.array_equal(here["free"], there["free"])
    truth: Any = world.unwrapped
    beside = np.pad(truth._free, ((0, 0), (1, 1), (1, 1)))
    row, column = truth._position.T
    for a, (down, right) in enumerate(MOVES):
        free = beside[np.arange(6), row + down + 1, column + right + 1]
        assert (here["free"][:, a] >= free * (a != 4)).all()
    assert not here["free"][:, 4].any()
    touched = 0
    for _ in range(60):  # what was tried and stopped a moment ago is not free any more
        actions = generator.integers(4, size=6)
        before = truth._position.copy()
        here = world.step(actions)[0]
        stayed = (truth._position == before).all(axis=1) & ~world._ended
        assert not here["free"][stayed, actions[stayed]].any()
        inside = ((before + MOVES[actions] >= 0) & (before + MOVES[actions] < 9)).all(axis=1)
        touched += int((stayed & inside).sum())
    assert touched > 5


class Believes(torch.nn.Module):
    """In the place of a network: some cells of the lattice are obstacles, whatever is known."""

    def __init__(self, *places: tuple[int, int]) -> None:
        super().__init__()
        self.map = torch.full((17, 17), -1.0)
        for row, column in places:
            self.map[8 - row, 8 - column] = 1.0  # the exact model's lattice is spanned by up and left

    def forward(self, maps: Tensor) -> Tensor:
        return self.map.expand(len(maps), 1, 17, 17)


def test_what_is_believed_stops_moves_unless_it_was_seen() -> None:
    """Nor is anything believed beyond the edges, which the transition knows."""
    model = exact_landmarks()
    assert model.obstacles is not None
    walk = walked(1, steps=40)
    assert walk.positions is not None
    seen = {tuple(place) for place in (walk.positions[0] - CENTRE).tolist()}
    unseen = [(row, column) for row in range(-4, 5) for column in range(-4, 5) if (row, column) not in seen]
    model.obstacles.network = Believes(*seen, *unseen[:5], (6, 0), (0, -7))
    belief = model.remember(walk)
    places = model.places(belief.memory)
    stones = {tuple(place) for place in model.obstacle_states(places[torch.tensor(0)]).round().long().tolist()}
    assert stones >= set(unseen[:5])
    touched = stones - set(unseen[:5])
    assert not stones & seen
    assert all(max(map(abs, place)) <= 4 for place in touched)
    for row, column in unseen:
        start = replace(belief, mean=torch.tensor([[row + 1.0, column]]))
        moved = model.predict(start, torch.tensor([0])).mean[0]
        assert (math.dist(moved.tolist(), (row, column)) < 0.5) != ((row, column) in stones)


def test_a_row_of_dreams_is_its_scalar_dream_whatever_others_enter() -> None:
    """Worlds of few and of many places, entered one row after another."""
    kwargs: dict[str, Any] = {"world": "GTMSM-ObstacleGrid-v0", "world_kwargs": {"task": None, "obstacles": [2, 2]}, "model": MODEL}
    kwargs |= {"task": None, "start": "remembered", "observation": "state", "walk_steps": 60, "episodes_per_walk": 1, "horizon": None}
    dreams, alone = DreamVectorEnv(4, **kwargs, autoreset_mode="Disabled"), [DreamEnv(**kwargs) for _ in range(4)]
    dreams.reset(seed=7)
    for row, one in enumerate(alone):
        one.reset(seed=7 + row)
    generator = np.random.default_rng(0)
    for turn in range(12):
        mask = np.arange(4) == turn % 4
        dreams.reset(options={"reset_mask": mask})
        alone[turn % 4].reset()
        for _ in range(10):
            actions = generator.integers(5, size=4)
            told = dreams.step(actions)[0]
            for row, one in enumerate(alone):
                own = one.step(int(actions[row]))[0]
                assert np.allclose(told["state"][row], own["state"], atol=1e-4)
                assert np.array_equal(told["free"][row], own["free"])


def test_obstacles_are_saved_with_their_memory(tmp_path: Any) -> None:
    places = MODEL.places(MODEL.remember(walked(3)).memory)
    assert places.facts["obstacle"].any()
    places.save(tmp_path / "memory", MODEL.fingerprint())
    again = SpatialMemory.load(tmp_path / "memory", MODEL.fingerprint())
    assert torch.equal(again.facts["obstacle"], places.facts["obstacle"])
    assert torch.equal(again[torch.tensor([1])].facts["obstacle"], places.facts["obstacle"][1:2])
    swapped = places.put(torch.tensor([0]), places[torch.tensor([2])])
    assert torch.equal(swapped.facts["obstacle"], places.facts["obstacle"][[2, 1, 2]])
    with pytest.raises(ValueError, match="same kinds"):
        places.put(torch.tensor([0]), places[torch.tensor([2])].but(facts={}))


def test_a_wider_world_needs_a_wider_lattice() -> None:
    """Nineteen places a side: obstacles far from the start are honoured where they are within reach."""
    walk = record(ObstacleGridVectorEnv(4, task=None, image_size=62, obstacles=(12, 12)), 400, np.random.default_rng(0), 0)
    touched = []
    for reach in (3, 18):
        model = exact_landmarks(side=19, reach=reach)
        touched.append(model.places(model.remember(walk).memory).facts["obstacle"].sum())
    assert 0 < touched[0] < touched[1]


def test_a_lost_agent_remembers_nothing() -> None:
    """Until it knows where it is: its frames would be written at the wrong places."""
    walk = walked(1)
    memory = MODEL.places(MODEL.remember(walk).memory)
    lost = MODEL.relocate(255 - walk.frames[:, 50], memory)
    rest = torch.zeros(1), torch.zeros(1, dtype=torch.bool), torch.ones(1, dtype=torch.bool)
    after, _ = track(MODEL, lost, walk.actions[:, 50], 255 - walk.frames[:, 51], *rest)
    assert len(after.memory) == len(memory)
    assert after.memory.values["tried"].sum() == memory.values["tried"].sum()
    found = MODEL.infer(MODEL.relocate(walk.frames[:, 50], memory), walk.actions[:, 50], walk.frames[:, 51])
    after, _ = track(MODEL, found, walk.actions[:, 51], walk.frames[:, 52], *rest)
    assert after.memory.values["tried"].sum() == memory.values["tried"].sum() + 1


@pytest.mark.parametrize("arguments", [{"landmarks": -1}, {"landmarks": 4, "state_size": 3}, {"landmarks": 4, "reach": 0}])
def test_landmarks_that_cannot_be(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="Landmarks are counted"):
        GTMSM((8, 8, 3), 5, **arguments)
