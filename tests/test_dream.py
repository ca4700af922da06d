"""The dream. With a model in closed form it must equal the world, byte for byte, wherever the walk has been."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from exact import exact_model
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from treasure import ID, Treasure, treasure_model, walk_by_hand

from gtmsm_env.belief import BeliefWrapper, VectorBeliefWrapper
from gtmsm_env.data import record
from gtmsm_env.dream import DreamEnv, DreamVectorEnv
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.model import GTMSM
from gtmsm_env.types import Belief, Walk
from gtmsm_env.worlds import keep_places

WORLD = "GTMSM-ImageNavigation-v0"
MODEL = exact_model()
FREE: dict[str, Any] = {"world_kwargs": {"task": None}, "task": None}


def dream(**kwargs: Any) -> DreamEnv:
    return DreamEnv(**{"model": MODEL, "walk_steps": 128, **kwargs})


def dreams(rows: int, **kwargs: Any) -> DreamVectorEnv:
    return DreamVectorEnv(rows, **{"model": MODEL, "walk_steps": 64, **kwargs})


def world(**kwargs: Any) -> BeliefWrapper:
    return BeliefWrapper(gym.make(WORLD), MODEL, walk_steps=128, **kwargs)


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return np.array_equal(a, b)


# ---------------------------------------------------------------- the dream and the world


@pytest.mark.parametrize("seed", range(2))
def test_dream_is_the_world_where_the_walk_has_been(seed: int) -> None:
    """Seeded alike, both walk the same world; given the same goal, every frame, reward and end comes at the same step."""
    real, imagined = world(), dream(observation="belief")
    rng = np.random.default_rng(seed)
    compared = ended = 0
    for episode in range(16):
        seen, _ = real.reset(seed=seed if episode == 0 else None)
        dreamed, _ = imagined.reset(seed=seed if episode == 0 else None, options={"goal": seen["goal"]})
        known = True
        for _ in range(60):
            assert np.allclose(dreamed["state"], seen["state"])
            assert np.allclose(dreamed["goal_state"], seen["goal_state"])
            if dreamed["novelty"][0] < 0.5:
                assert np.array_equal(dreamed["frame"], seen["frame"])
                compared += 1
            known &= dreamed["novelty"][0] < 0.5
            down, right = dreamed["goal_state"] - dreamed["state"]
            towards = int(down > 0) if abs(down) > abs(right) else 2 + int(right > 0)
            action = towards if rng.random() < 0.4 else int(rng.integers(5))
            seen, reward, terminated, _, _ = real.step(action)
            dreamed, reward_, terminated_, _, _ = imagined.step(action)
            if known and dreamed["novelty"][0] < 0.5:
                assert (reward, terminated) == (reward_, terminated_)
            ended += terminated and terminated_
            if terminated or terminated_:
                break
    assert compared > 100
    assert ended > 4


def trace(walk: Walk, actions: np.ndarray) -> dict[str, list[Any]]:
    """What a dream of a walk shows along some actions."""
    model = treasure_model()
    imagined = DreamEnv(
        model=model, world=ID, belief=model.remember(walk), task="reward", horizon=None, novelty=True, episodes_per_walk=None
    )
    observation, info = imagined.reset(seed=0)
    told: dict[str, list[Any]] = {"frames": [observation["frame"]], "rewards": [0.0], "terminations": [False], "novelty": [0.0]}
    for action in actions:
        observation, reward, terminated, _, info = imagined.step(int(action))
        for name, value in zip(told, (observation["frame"], reward, terminated, info["novelty"]), strict=True):
            told[name].append(value)
        if terminated:  # goes on from there
            imagined.reset(options={"state": imagined.belief.mean[0].numpy()})
    return told


def agree(told: dict[str, list[Any]], truth: dict[str, list[Any]]) -> dict[str, bool]:
    visited = [i for i, novelty in enumerate(told["novelty"]) if novelty < 0.5]
    assert len(visited) > 50
    return {name: equal(np.array(told[name])[visited], np.array(truth[name])[visited]) for name in truth}


def shifted(walk: Walk, field: str) -> Walk:
    return replace(walk, **{field: getattr(walk, field).roll(1, dims=0)})


@pytest.mark.parametrize("field", [None, "actions", "frames", "rewards", "terminations"])
def test_alignment_of_dream_and_walk(field: str | None) -> None:
    """a_t leads from x_{t-1} to x_t, and reward and end belong to x_t: a walk whose parts are shifted by one step gives another dream."""
    rng = np.random.default_rng(3)
    real = Treasure()
    first, then = rng.integers(0, 5, 160), rng.integers(0, 5, 120)
    walk = walk_by_hand(real, first, seed=7)
    truth: dict[str, list[Any]] = {"frames": [walk.frames[-1].numpy()], "rewards": [0.0], "terminations": [False]}
    for action in then:
        observation, reward, terminated, _, _ = real.step(int(action))
        for name, value in zip(truth, (observation["frame"], reward, terminated), strict=True):
            truth[name].append(value)
    if field is None:
        told = trace(walk, then)
        assert all(agree(told, truth).values())
        for name in truth:  # a dream that lags or leads is noticed too
            for lag in (1, -1):
                assert not agree({**told, name: list(np.roll(np.array(told[name]), lag, axis=0))}, truth)[name]
        assert not agree(trace(walk, np.roll(then, 1)), truth)["frames"]
    else:
        assert not all(agree(trace(shifted(walk, field), then), truth).values())


@pytest.mark.parametrize("field", [None, "actions", "frames", "rewards"])
def test_alignment_of_recorded_walks(field: str | None) -> None:
    """What `record` writes down is what the world answers when its actions are taken again."""
    walk = record(Treasure(), 100, np.random.default_rng(0), seed=5)
    again = walk_by_hand(Treasure(), walk.actions.numpy(), seed=5)
    if field is None:
        assert torch.equal(walk.frames, again.frames)
        assert walk.rewards is not None
        assert again.rewards is not None
        assert torch.equal(walk.rewards, again.rewards)
    else:
        walk = shifted(walk, field)
        again = walk_by_hand(Treasure(), walk.actions.numpy(), seed=5)
        assert not (torch.equal(walk.frames, again.frames) and torch.equal(walk.rewards, again.rewards))  # type: ignore[arg-type]


@pytest.mark.parametrize("field", [None, "actions", "frames", "rewards", "terminations"])
def test_alignment_of_observe(field: str | None) -> None:
    """Observing step by step remembers what remembering the whole walk does, and not what a shifted one does."""
    model = treasure_model()
    walk = walk_by_hand(Treasure(), np.random.default_rng(1).integers(0, 5, 60), seed=2)
    whole = model.remember(walk if field is None else shifted(walk, field)).memory
    belief = model.initial(walk.frames[0])
    assert walk.rewards is not None
    assert walk.terminations is not None
    for t, action in enumerate(walk.actions, start=1):
        belief = model.observe(belief, action, walk.frames[t], walk.rewards[t], walk.terminations[t])
    step = belief.memory
    size = len(step)
    same = torch.allclose(whole.s_mean[:size], step.s_mean[:size]) and all(
        torch.allclose(whole.values[name][:size].float(), step.values[name][:size].float()) for name in whole.values
    )
    assert same == (field is None)


# ---------------------------------------------------------------- batches


def test_batch_of_one_is_the_scalar_dream() -> None:
    one, scalar = (
        dreams(1, observation="belief", autoreset_mode="Disabled", horizon=20),
        dream(observation="belief", walk_steps=64, horizon=20),
    )
    rng = np.random.default_rng(0)
    for episode in range(12):
        seed = 5 if episode == 0 else None
        first, info = one.reset(seed=seed)
        first_, info_ = scalar.reset(seed=seed)
        assert equal({key: value[0] for key, value in first.items()}, first_)
        assert info["world_steps"][0] == info_["world_steps"]
        for _ in range(20):
            action = int(rng.integers(5))
            a, reward, terminated, truncated, _ = one.step(np.array([action]))
            a_, reward_, terminated_, truncated_, _ = scalar.step(action)
            assert equal({key: value[0] for key, value in a.items()}, a_)
            assert (reward[0], terminated[0], truncated[0]) == (reward_, terminated_, truncated_)
            if terminated_ or truncated_:
                break


def test_what_a_row_does_changes_no_other() -> None:
    """Not even when it needs a new world earlier, or the frames' last bits."""

    def run(own: int) -> list[Any]:
        env = dreams(5, horizon=6, episodes_per_walk=1, observation="belief", walk_steps=32)
        told = [env.reset(seed=1)[0]]
        rng = np.random.default_rng(0)
        for _ in range(30):
            actions = rng.integers(0, 5, 5)
            actions[2] = own
            observation, reward, terminated, truncated, _ = env.step(actions)
            told.append({**observation, "reward": reward, "ended": terminated | truncated})
        return told

    others = [0, 1, 3, 4]
    differs = False
    for a, b in zip(run(0), run(4), strict=True):
        for key in a:
            assert np.array_equal(a[key][others], b[key][others]), key
            differs |= not np.array_equal(a[key][2], b[key][2])
    assert differs


def test_rows_are_seeded_as_scalars() -> None:
    env = dreams(3, autoreset_mode="SameStep", horizon=9, observation="belief", episodes_per_walk=2)
    rng = np.random.default_rng(0)
    first, _ = env.reset(seed=20)
    actions = rng.integers(0, 5, (40, 3))
    told = [env.step(a) for a in actions]
    for row in range(3):
        scalar = dream(horizon=9, observation="belief", episodes_per_walk=2, walk_steps=64)
        seen, _ = scalar.reset(seed=20 + row)
        assert equal({key: value[row] for key, value in first.items()}, seen)
        for action, (observation, reward, terminated, truncated, info) in zip(actions[:, row], told, strict=True):
            seen, reward_, terminated_, truncated_, _ = scalar.step(int(action))
            assert (reward[row], terminated[row], truncated[row]) == (reward_, terminated_, truncated_)
            if terminated_ or truncated_:
                assert equal(info["final_obs"][row], seen)
                seen, _ = scalar.reset()
            for key in seen:
                assert np.allclose(observation[key][row].astype(float), seen[key].astype(float), atol=1e-4), key


def test_last_rows_of_make_vec() -> None:
    env = gym.make_vec("GTMSM-Dream-v0", num_envs=3, model=MODEL, walk_steps=16, max_episode_steps=4, horizon=9)
    env.reset(seed=0)
    for step in range(4):
        *_, truncated, _ = env.step(np.full(3, 4))
        assert truncated.all() == (step == 3)


# ---------------------------------------------------------------- the life of a dream


def test_a_world_is_walked_every_few_resets() -> None:
    env = dream(episodes_per_walk=3, novelty=True)
    starts, paid, sizes = [], [], []
    for episode in range(7):
        _, info = env.reset(seed=0 if episode == 0 else None)
        starts.append(tuple(env.belief.mean[0].tolist()))
        sizes.append(env.belief.memory.values["z_mean"].clone())
        paid.append(info["world_steps"])
        for _ in range(5):
            if env.step(int(env.action_space.sample()))[2]:
                break
    assert paid == [127] * 3 + [254] * 3 + [381]
    assert len(set(starts[:3])) == len(set(starts[3:6])) == 1
    assert all(torch.equal(sizes[0], other) for other in sizes[1:3])  # dreaming writes no memory
    assert sizes[0].shape != sizes[3].shape or not torch.equal(sizes[0], sizes[3])


def test_the_same_seed_is_the_same_dream_and_touches_no_global_generator() -> None:
    before = torch.get_rng_state(), np.random.get_state(legacy=False)  # noqa: NPY002

    def run() -> list[Any]:
        env = dream(start="remembered", episodes_per_walk=2)
        told = [env.reset(seed=4)[0]]
        for _ in range(5):
            told.append(env.step(1)[0])
            told.append(env.reset()[0])
        return told

    assert all(equal(a, b) for a, b in zip(run(), run(), strict=True))
    assert torch.equal(before[0], torch.get_rng_state())
    assert str(before[1]) == str(np.random.get_state(legacy=False))  # noqa: NPY002


def test_start_anywhere_remembered() -> None:
    env = dreams(64, start="remembered", episodes_per_walk=None, observation="state")
    env.reset(seed=0)
    spots = set()
    for _ in range(6):
        observation, _ = env.reset()
        assert (observation["novelty"] < 1e-3).all()
        spots.add(tuple(observation["state"][0]))
    assert len(spots) > 2


def test_places_are_drawn_alike_where_others_fill_up_a_small_memory() -> None:
    """Three places and a prior that reads six entries: starts and goals are drawn from the three."""
    model = exact_model()
    model.K = 6
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8))
    belief = model.remember(Walk(frames[[0, 0, 0, 0, 1, 2]], torch.tensor([4, 4, 4, 3, 3])))
    env = dreams(900, model=model, belief=belief, start="remembered", observation="state")
    observation, _ = env.reset(seed=0)
    assert len(env.belief.memory) == 6
    drawn = np.zeros((3, 3), int)
    np.add.at(drawn, (observation["state"][:, 1].astype(int), observation["goal_state"][:, 1].astype(int)), 1)
    assert (np.abs(drawn - 150 * (1 - np.eye(3))) < 40).all()  # 6 pairs, each of deviation 11


@pytest.mark.parametrize("prior", ["mixture", "views"])
def test_goals_are_elsewhere_and_look_different(prior: str) -> None:
    model = exact_model(prior=prior)
    env = dreams(32, model=model, observation="belief", episodes_per_walk=None)
    env.reset(seed=0)
    drawn = []
    for _ in range(8):
        observation, _ = env.reset()
        assert (np.linalg.norm(observation["goal_state"] - observation["state"], axis=1) > 0.5).all()
        assert (observation["goal"] != observation["frame"]).any(axis=(1, 2, 3)).all()
        drawn.append(observation["goal_state"][0])
        nearest = env.belief.memory.read(torch.from_numpy(observation["goal_state"]), 1)
        assert nearest.distance.max() < 1e-3  # goals are remembered places, shown as they are remembered
        assert np.array_equal(observation["goal"], model.decode(nearest.s_mean[:, 0], env.belief.memory).numpy())
    assert len({tuple(goal) for goal in drawn}) > 3


def twins() -> Belief:
    """Places at 0, 1, 2 and 3 to the right; those at 1 and 3 look the same."""
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8))
    frames[3] = frames[1]
    walk = Walk(frames[[0, 1, 2, 3, 2, 1, 0]], torch.tensor([3, 3, 3, 2, 2, 2]))
    return MODEL.remember(walk)


def test_any_place_that_looks_the_same_counts() -> None:
    env = dream(belief=twins())
    observation, _ = env.reset(seed=0, options={"goal": np.array([0.0, 3.0])})  # a state
    assert env.step(3)[1:3] == (1.0, True)  # at 1
    env.reset(options={"goal": observation["goal"], "state": np.array([0.0, 2.0])})  # a frame
    assert env.step(3)[1:3] == (1.0, True)  # at 3
    env.reset(options={"goal": np.array([0.0, 9.0]), "state": np.array([0.0, 2.0])})  # far from all that is remembered
    assert env.step(3)[1:3] == (0.0, False)  # the nearest place is no goal
    for _ in range(5):
        env.step(3)
    assert env.step(4)[1:3] == (0.0, False)
    for _ in range(20):  # from 1 neither 1 nor 3 is ever drawn
        observation, _ = env.reset(options={"state": np.array([0.0, 1.0])})
        assert (observation["goal"] != observation["frame"]).any()


def test_options_override() -> None:
    env = dream(observation="belief")
    env.reset(seed=0)
    observation, info = env.reset(options={"belief": twins(), "state": [0.25, 2.0], "goal": [0.0, 0.0]})
    assert info["world_steps"] == 127  # nothing was walked
    assert np.allclose(observation["state"], [0.25, 2.0])
    assert np.allclose(observation["goal_state"], [0, 0])
    assert np.allclose(observation["novelty"], 0.25)
    assert len(env.belief.memory) == 4
    for options, rule in (
        ({"goal": [0.0, 2.1], "state": [0.0, 2.0]}, "reached at the start"),
        ({"goal": np.zeros((3, 3, 3), np.uint8)}, "uint8 frames"),
        ({"state": [0.0, np.nan]}, "finite"),
        ({"state": [0.0, 0.0, 0.0]}, "shape"),
        ({"position": [0, 0]}, "position"),
        ({"reset_mask": np.array([True])}, "vector"),
    ):
        with pytest.raises(ValueError, match=rule):
            env.reset(options=options)
    with pytest.raises(ValueError, match="goal"):
        dream(**FREE).reset(options={"goal": [0.0, 0.0]})
    batch = dreams(3, observation="state")
    batch.reset(seed=0)
    states = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    mask = np.array([True, False, True])
    before = batch.belief.mean[1].clone()
    observation, _ = batch.reset(options={"state": states, "reset_mask": mask})
    assert np.allclose(observation["state"][mask], states[mask])
    assert torch.equal(batch.belief.mean[1], before)


@pytest.mark.parametrize("rows", [1, 3])
def test_one_memory_for_all_rows_or_one_a_row(rows: int) -> None:
    beliefs = [MODEL.remember(record(gym.make(WORLD), 60, np.random.default_rng(i), seed=i)) for i in range(rows)]
    memories = [keep_places(MODEL, belief).memory for belief in beliefs]
    most = max(map(len, memories))
    padded = [m._copy(most) for m in memories]
    memory = SpatialMemory(
        torch.stack([m.s_mean for m in padded]),
        torch.stack([m.s_variance for m in padded]),
        {name: torch.stack([m.values[name] for m in padded]) for name in padded[0].values},
        torch.stack([m.count for m in padded]),
    )
    env = dreams(3, memory=memory, start="remembered", observation="belief")
    observation, info = env.reset(seed=0)
    assert (info["world_steps"] == 0).all()
    assert (observation["novelty"] < 1e-3).all()
    with pytest.raises(ValueError, match="one for each of its 4"):
        dreams(4, memory=SpatialMemory(memory.s_mean.repeat(2, 1, 1), memory.s_variance.repeat(2, 1, 1), {
            name: value.repeat(2, *[1] * (value.dim() - 1)) for name, value in memory.values.items()
        }))  # fmt: skip


def test_saved_memory(tmp_path: Path) -> None:
    model = GTMSM((8, 8, 3), 5, hidden=8, z_size=6, world=MODEL.world).eval().requires_grad_(False)
    model.save(tmp_path / "model")
    belief = model.remember(record(gym.make(WORLD), 50, np.random.default_rng(0), seed=0))
    belief.memory.save(tmp_path / "memory", model.fingerprint())
    env = gym.make("GTMSM-Dream-v0", model=str(tmp_path / "model"), memory=str(tmp_path / "memory"))
    assert env.spec is not None
    assert gym.envs.registration.EnvSpec.from_json(env.spec.to_json()) == env.spec  # the arguments are JSON
    env.reset(seed=0)
    assert torch.allclose(env.unwrapped.belief.mean[0], belief.mean)  # type: ignore[attr-defined]
    GTMSM((8, 8, 3), 5, hidden=8, z_size=6, world=MODEL.world).save(tmp_path / "other")
    with pytest.raises(ValueError, match="the model that wrote it"):
        gym.make("GTMSM-Dream-v0", model=str(tmp_path / "other"), memory=str(tmp_path / "memory"))


# ---------------------------------------------------------------- what is computed


def test_states_are_cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that sees states makes the dream decode nothing."""
    model = exact_model()
    env = DreamVectorEnv(4, model=model, walk_steps=64, observation="state", episodes_per_walk=1, horizon=5)

    def refuse(*_: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(model.decoder, "forward", refuse)
    env.reset(seed=0)
    for _ in range(12):
        observation, *_ = env.step(env.action_space.sample())
    assert set(observation) == {"state", "goal_state", "novelty"}
    assert observation["state"].dtype == np.float32


def test_a_dream_without_frames_holds_nothing_that_they_are_made_of() -> None:
    model = exact_model(prior="views")
    for shown, held in (("state", False), ("frame", True)):
        env = dreams(2, model=model, observation=shown)
        env.reset(seed=0)
        assert ("canvas" in env.belief.memory.facts) is held


def test_belief_is_sugar_for_the_wrapper() -> None:
    for shown in ("belief", "state"):
        sugar, wrapped = dream(observation=shown), BeliefWrapper(dream(), observation=shown)
        assert sugar.observation_space == wrapped.observation_space
        assert equal(sugar.reset(seed=1)[0], wrapped.reset(seed=1)[0])
        for action in (0, 1, 2, 3, 4):
            assert equal(sugar.step(action)[0], wrapped.step(action)[0])
    batch = VectorBeliefWrapper(dreams(2), observation="state")
    assert equal(batch.reset(seed=1)[0], dreams(2, observation="state").reset(seed=1)[0])
    assert batch.step(np.array([0, 1]))[0] in batch.observation_space
    with pytest.raises(ValueError, match="before its first reset"):
        VectorBeliefWrapper(batch.env)


def test_spaces_are_the_worlds() -> None:
    for kwargs in ({}, {"task": None}):
        task = {"task": None} if kwargs else {}
        assert dream(world_kwargs=kwargs, **task).observation_space == gym.make(WORLD, **kwargs).observation_space
        batch, real = dreams(3, world_kwargs=kwargs, **task), gym.make_vec(WORLD, num_envs=3, **kwargs)
        assert batch.observation_space == real.observation_space
        assert batch.action_space == real.action_space
    added = dream(observation="belief").observation_space
    assert added == world().observation_space
    assert dream(observation="state").observation_space == world(observation="state").observation_space
    assert set(world(observation="state").observation_space) == {"state", "goal_state", "novelty"}  # type: ignore[call-overload]


@pytest.mark.parametrize("shown", ["frame", "belief", "state"])
def test_novelty_is_searched_once_a_step(shown: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    env = dreams(3, observation=shown, novelty=True, horizon=3, autoreset_mode="SameStep")
    env.reset(seed=0)
    asked: list[Any] = []
    search = env._nearby.distance
    monkeypatch.setattr(env._nearby, "distance", lambda *of: asked.append(of) or search(*of))
    for step in range(1, 4):
        observation, *_, info = env.step(np.array([0, 1, 4]))
        assert len(asked) == step + (step == 3)  # what ends an episode, and what begins the next
        if "novelty" in observation:
            assert np.array_equal(observation["novelty"][:, 0], info["novelty"])


def test_novelty_is_told_when_asked() -> None:
    env = dream(novelty=True, belief=twins())
    _, info = env.reset(seed=0)
    assert info["novelty"] < 1e-3
    assert np.isclose(env.step(0)[4]["novelty"], 1)
    assert np.isclose(env.step(0)[4]["novelty"], 2)
    assert "novelty" not in dream(belief=twins()).reset(seed=0)[1]


# ---------------------------------------------------------------- seeing it


def test_render() -> None:
    env = dream(render_mode="rgb_array", view="all", observation="state")
    env.reset(seed=0)
    env.step(1)
    picture = env.render()
    assert picture is not None
    assert picture.dtype == np.uint8
    assert picture.shape[0] >= 512
    assert picture.shape[1] > 3 * 512  # world, dream and map
    env = dream(render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    assert np.array_equal(env.render()[::64, ::64], observation["frame"])  # type: ignore[index]
    assert env.get_keys_to_action()[("w",)] == 0
    assert isinstance(env.metadata["render_fps"], int)
    with pytest.warns(UserWarning, match="render_mode"):
        assert dream().render() is None


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("kwargs", "rule"),
    [
        ({"world_kwargs": {"step_size": 2}}, "trained for"),
        ({"world_kwargs": {"image_size": 35}}, "trained for"),
        ({"world_kwargs": {"task": None}}, "no source of reward"),
        ({"world_kwargs": {"task": None}, "task": "goal"}, "needs a world that shows one"),
        ({"task": "reward"}, "shows a goal"),
        ({"task": None}, "shows a goal"),
        ({"task": "treasure"}, "task must be"),
        ({"start": "anywhere"}, "start must be"),
        ({"horizon": 0}, "horizon"),
        ({"episodes_per_walk": 0}, "episodes_per_walk"),
        ({"observation": "pixels"}, "observation must be"),
        ({"render_mode": "human"}, "render_mode"),
        ({"view": "side"}, "view must be"),
        ({"walk_steps": 0}, "walk_steps"),
        ({"belief": "both", "memory": "both"}, "not both"),
        ({"model": GTMSM((8, 8, 3), 5, hidden=8)}, "says none"),
        ({"model": GTMSM((8, 8, 3), 4, hidden=8, world=MODEL.world)}, "4 discrete actions"),
        ({"model": GTMSM((6, 8, 3), 5, hidden=8, world=MODEL.world)}, "frames of the model's shape"),
        ({"model": GTMSM((8, 8, 3), 5, hidden=8, K=8, world=MODEL.world), "walk_steps": 7}, "at least 8"),
        ({"model": GTMSM((8, 8, 3), 5, hidden=8, world={"id": "CartPole-v1", "kwargs": {}})}, "trained for"),
        ({"model": treasure_model()}, "trained for"),
        ({"model": "no-such-model"}, "cannot be read"),
        ({"model": "image-navigation", "device": "toaster"}, "Take 'cpu'"),
        ({"memory": "no-such-memory"}, "cannot be read"),
    ],
)
def test_refused(kwargs: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        dream(**kwargs)


def test_other_content_is_the_same_world() -> None:
    assert dream(world_kwargs={"split": "train", "horizon": 9}).reset(seed=0)


def test_memories_that_cannot_be_dreamed_of() -> None:
    belief = twins()
    memory = belief.memory
    empty = SpatialMemory(memory.s_mean[:0], memory.s_variance[:0], {name: value[:0] for name, value in memory.values.items()})
    with pytest.raises(ValueError, match="is empty"):
        dream(memory=empty)
    with pytest.raises(ValueError, match="begins at a state of finite numbers"):
        dream(belief=replace(belief, mean=belief.mean * math.nan))
    greedy = GTMSM((8, 8, 3), 5, hidden=8, z_size=192, K=8, world=MODEL.world)
    with pytest.raises(ValueError, match="K = 8"):
        dream(model=greedy, memory=memory)
    with pytest.raises(ValueError, match="encodings of 6 numbers"):
        dream(model=GTMSM((8, 8, 3), 5, hidden=8, z_size=6, prior="mixture", world=MODEL.world), memory=memory.but(facts={}))
    other = exact_model()
    other.transition.W_a[0, 0] = -1.5
    for given in ({"memory": memory}, {"belief": belief}, {"memory": other.places(memory)}):  # of the same sizes
        with pytest.raises(ValueError, match="written by another"):
            dream(model=other, **given)
    alone = MODEL.remember(Walk(torch.zeros(5, 8, 8, 3, dtype=torch.uint8), torch.tensor([3, 3, 2, 2])))
    with pytest.raises(ValueError, match="looks the same"):
        dream(belief=alone)
    with pytest.raises(ValueError, match="nothing was"):
        DreamEnv(model=MODEL, world_kwargs={"task": None}, task="reward", memory=memory)
    with pytest.raises(ValueError, match="nothing was"):  # image navigation without a task pays nothing on its walks
        DreamEnv(model=MODEL, world_kwargs={"task": None}, task="reward", walk_steps=20).reset(seed=0)


def test_bad_steps() -> None:
    scalar, batch = dream(horizon=2), dreams(2, horizon=2, autoreset_mode=AutoresetMode.DISABLED)
    with pytest.raises(ResetNeeded):
        scalar.step(0)
    with pytest.raises(ResetNeeded):
        batch.step(np.array([0, 0]))
    with pytest.raises(ResetNeeded):
        _ = scalar.belief
    scalar.reset(seed=0)
    batch.reset(seed=0)
    for action in (5, -1, 1.0, np.array([1]), "left"):
        with pytest.raises(ValueError, match="action"):
            scalar.step(action)  # type: ignore[arg-type]
    for actions in ([0, 5], [0], [0.0, 1.0], [[0, 1]]):
        with pytest.raises(ValueError, match="actions must"):
            batch.step(np.array(actions))
    for _ in range(2):
        scalar.step(4)
        batch.step(np.array([4, 4]))
    with pytest.raises(ResetNeeded):
        scalar.step(4)
    with pytest.raises(ResetNeeded):
        batch.step(np.array([4, 4]))
    batch.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ResetNeeded, match=r"\[1\]"):
        batch.step(np.array([4, 4]))
    for mask in (np.array([True]), [True, False], np.array([False, False]), np.array([1, 0])):
        with pytest.raises(ValueError, match="reset_mask"):
            batch.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match="seeds"):
        batch.reset(seed=[1, 2, 3])


def test_worlds_are_walked_while_the_dream_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that rows find their next one: in no step more than a few steps of it are taken; and they are what others walk at once."""
    taken, most = [0], 0
    paced, at_once = (dreams(4, episodes_per_walk=4, horizon=30) for _ in range(2))
    for env in (paced, at_once):
        env.reset(seed=0)
    monkeypatch.setattr(at_once._source, "pay", lambda *_: None)
    step = paced._walkers.step

    def counted(actions: Any) -> Any:
        taken[0] += 1
        return step(actions)

    monkeypatch.setattr(paced._walkers, "step", counted)
    rng = np.random.default_rng(0)
    for _ in range(400):
        before, actions = taken[0], rng.integers(5, size=4)
        found, expected = paced.step(actions), at_once.step(actions)
        most = max(most, taken[0] - before)
        for name in found[0]:
            np.testing.assert_allclose(found[0][name], expected[0][name], atol=1e-5)
        assert np.array_equal(found[4]["world_steps"], expected[4]["world_steps"])
    assert found[4]["world_steps"].min() > 2 * paced.walk_steps
    assert most < paced.walk_steps / 4
