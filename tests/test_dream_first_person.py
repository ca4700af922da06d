"""The dream of the labyrinth and the belief in it, with a model that knows the world's law exactly."""

from __future__ import annotations

import math
import pickle
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import gtmsm_env  # noqa: F401  registers the worlds

pytest.importorskip("numba")

from exact import WallsAt, exact_walker
from rooms import cell_of

from gtmsm_env.belief import BeliefWrapper, VectorBeliefWrapper
from gtmsm_env.data import record
from gtmsm_env.dream import DreamEnv, DreamVectorEnv
from gtmsm_env.envs.first_person import COMMANDS, at_goal
from gtmsm_env.envs.labyrinth_physics import KEPT, PUSH
from gtmsm_env.floorplan import CELL, CELLS, RADIUS, clearance
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.model import GTMSM
from gtmsm_env.networks import x_to_frames
from gtmsm_env.perspective import relative
from gtmsm_env.types import Belief
from gtmsm_env.worlds import tolerance

WORLD, ROTATE = "GTMSM-Labyrinth-v0", "GTMSM-LabyrinthRotate-v0"
MODELS = {name: exact_walker(name) for name in (WORLD, ROTATE)}
MODEL = MODELS[WORLD]
SPEED, TURN, STEP = 0.15, math.radians(8.448), MODEL.step_length
FORWARD, LEFT = 0, 4
WALK = 24  # frames


def dream(**kwargs: Any) -> DreamEnv:
    return DreamEnv(**{"world": WORLD, "model": MODEL, "walk_steps": WALK, "observation": "state", **kwargs})


def dreams(rows: int, **kwargs: Any) -> DreamVectorEnv:
    return DreamVectorEnv(rows, **{"world": WORLD, "model": MODEL, "walk_steps": WALK, "observation": "state", **kwargs})


def remembered(steps: int = WALK) -> Belief:
    return MODEL.remember(record(gym.make(WORLD), steps, np.random.default_rng(0), seed=0))


def told(state: Any) -> Any:
    """A state (x, y, heading) as `state` tells it."""
    x, y, heading = np.moveaxis(np.asarray(state, np.float64), -1, 0)
    return np.stack([x / STEP, y / STEP, np.cos(heading), np.sin(heading)], axis=-1)


def test_the_papers_model_shows_goals_by_their_encodings() -> None:
    """It keeps no views."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GTMSM((32, 32, 3), 8, state_size=3, z_size=16, law="walking", prior="combined", K=4, world=MODEL.world)
    model.transition.load_state_dict(MODEL.transition.state_dict())
    envs = dreams(3, model=model.eval().requires_grad_(False), observation="frame")
    goal = envs.reset(seed=0)[0]["goal"]
    memory, at = envs.belief.memory, envs._goal
    assert "view" not in memory.values
    entry = (memory.s_mean - at[:, None]).norm(dim=-1).argmin(dim=1)
    z = memory.values["z_mean"][torch.arange(3), entry]
    assert np.abs(goal.astype(int) - x_to_frames(model.decoder(z)).numpy()).max() <= 1
    assert len(np.unique(goal)) > 8


class Started(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps the pose at which the last walk began."""

    start: Any = None

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        observation, info = self.env.reset(seed=seed, options=options)
        self.start = info["pose"] if info["phase"] == "walk" else self.start
        return observation, info


def seen_from(start: Any, pose: Any) -> Any:
    """A true pose as states are, from where the walk began."""
    return relative(torch.from_numpy(pose), torch.from_numpy(start)).numpy()


# ---------------------------------------------------------------- the world, its belief, its dream


@pytest.mark.parametrize("world", [WORLD, ROTATE])
def test_the_belief_is_where_the_agent_is(world: str) -> None:
    """Through walks, episodes and momentum, to rounding, while the agent touches nothing; the goal is where its frame was seen."""
    model = MODELS[world]
    env = BeliefWrapper(Started(gym.make(world, horizon=None)), model, walk_steps=WALK, episodes_per_walk=2, observation="state")
    starts, headings = set(), []
    for episode in range(3):
        observation, info = env.reset(seed=None if episode else 0)
        starts.add(tuple(env.env.start))  # type: ignore[attr-defined]
        goal, policy = observation["goal_state"], env.unwrapped.explorer(np.random.default_rng(episode))  # type: ignore[attr-defined]
        for _ in range(20):
            s = seen_from(env.env.start, info["pose"])  # type: ignore[attr-defined]
            expected = [*(s[:2] / model.step_length), math.cos(s[2]), math.sin(s[2])]
            np.testing.assert_allclose(observation["state"], expected, atol=2e-4)
            headings.append(s[2])
            g = seen_from(env.env.start, info["goal_pose"])  # type: ignore[attr-defined]
            there = tolerance(model, env)(model.from_steps(torch.from_numpy(goal)), torch.from_numpy(g).float())
            assert there, "nearer than what counts as arriving"
            observation, _, terminated, _, info = env.step(policy())
            assert not info["touched"]
            if terminated:
                break
    assert len(starts) == 2
    assert np.ptp(headings) > 1


@pytest.mark.parametrize("seed", range(2))
def test_the_dream_is_the_world(seed: int) -> None:
    """Seeded alike, both walk the same world and go on from its end with the same momentum, to rounding, through several episodes."""
    real = BeliefWrapper(gym.make(WORLD, horizon=None), MODEL, walk_steps=WALK)
    imagined = dream(horizon=None)
    compared = moving = 0
    for episode in range(4):
        seen, _ = real.reset(seed=None if episode else seed)
        goal = {"options": {"goal": seen["goal"]}}
        dreamed, _ = imagined.reset(seed=None if episode else seed, **goal)
        policy = real.unwrapped.explorer(np.random.default_rng(episode))  # type: ignore[attr-defined]
        moving += float(imagined.belief.displacement[0, :2].norm()) > 0.05
        for _ in range(30):
            for key in ("state", "goal_state"):
                np.testing.assert_allclose(dreamed[key], seen[key], atol=1e-3)
            compared += 1
            action = int(policy())
            seen, *_, terminated, _, info = real.step(action)
            dreamed, *_, terminated_, _, _ = imagined.step(action)
            assert not info["touched"]
            if terminated or terminated_:
                break
    assert moving, "walks that end in motion, which a start at rest would show"
    assert compared > 60


def test_rows_are_the_scalar_wrapper() -> None:
    envs = gym.make_vec(WORLD, num_envs=3, autoreset_mode="Disabled", horizon=9)
    env = VectorBeliefWrapper(envs, MODEL, walk_steps=WALK, episodes_per_walk=2, autoreset_mode="SameStep")
    first, _ = env.reset(seed=30)
    actions = np.random.default_rng(0).integers(8, size=(20, 3))
    told = [env.step(a) for a in actions]
    for row in range(3):
        alone = BeliefWrapper(gym.make(WORLD, horizon=9), MODEL, walk_steps=WALK, episodes_per_walk=2)
        seen, _ = alone.reset(seed=30 + row)
        assert all(np.allclose(first[key][row], seen[key], atol=1e-4) for key in seen)
        for action, (now, reward, terminated, truncated, infos) in zip(actions[:, row], told, strict=True):
            seen, *result, info = alone.step(int(action))
            assert [reward[row], terminated[row], truncated[row]] == result
            if terminated[row] or truncated[row]:
                seen, info = alone.reset()
            assert np.array_equal(infos["pose"][row], info["pose"])
            assert now.keys() == seen.keys() == {"frame", "goal", "state", "goal_state", "novelty"}
            assert all(np.allclose(now[key][row], seen[key], atol=1e-4) for key in seen)


# ---------------------------------------------------------------- a Gymnasium environment


@pytest.mark.parametrize("shown", ["frame", "belief", "state"])
def test_gymnasium_checker(shown: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = gym.make("GTMSM-Dream-v0", disable_env_checker=True, world=WORLD, model=MODEL, walk_steps=WALK, observation=shown)
        check_env(made.unwrapped)


def test_spaces_are_the_worlds() -> None:
    assert dream(observation="frame").observation_space == gym.make(WORLD).observation_space
    space: Any = dream().observation_space
    assert {name: box.shape for name, box in space.items()} == {"state": (4,), "goal_state": (4,), "novelty": (1,)}
    world: Any = BeliefWrapper(gym.make(WORLD), MODEL, observation="belief").observation_space
    assert dream(observation="belief").observation_space == world
    task_free = dream(observation="belief", world_kwargs={"task": None}, task=None).observation_space
    assert set(task_free) == {"frame", "state", "novelty"}  # type: ignore[call-overload]


def test_a_batch_of_one_is_the_scalar_dream() -> None:
    own = {"observation": "belief", "horizon": 10}
    one, scalar = dreams(1, autoreset_mode="Disabled", **own), dream(**own)
    rng = np.random.default_rng(0)
    for episode in range(3):
        seed = None if episode else 5
        batched, seen = one.reset(seed=seed)[0], scalar.reset(seed=seed)[0]
        for _ in range(10):
            assert batched.keys() == seen.keys()
            assert all(np.array_equal(batched[key][0], seen[key]) for key in seen)
            action = int(rng.integers(8))
            batched, reward, terminated, truncated, _ = one.step(np.array([action]))
            seen, *result, _ = scalar.step(action)
            assert [reward[0], terminated[0], truncated[0]] == result
            if any(result[1:]):
                break


def test_rows_are_seeded_as_scalars() -> None:
    own = {"observation": "belief", "horizon": 7, "episodes_per_walk": 2}
    env = dreams(3, autoreset_mode="SameStep", **own)
    first, _ = env.reset(seed=20)
    actions = np.random.default_rng(0).integers(8, size=(16, 3))
    told = [env.step(a) for a in actions]
    for row in range(3):
        scalar = dream(**own)
        seen, _ = scalar.reset(seed=20 + row)
        assert all(np.allclose(first[key][row], seen[key], atol=1e-3) for key in ("state", "goal_state"))
        for action, (observation, reward, terminated, truncated, _) in zip(actions[:, row], told, strict=True):
            seen, *result, _ = scalar.step(int(action))
            assert [reward[row], terminated[row], truncated[row]] == result
            if any(result[1:]):
                seen, _ = scalar.reset()
            for key in seen:
                assert np.allclose(observation[key][row].astype(float), seen[key].astype(float), atol=1 if key == "frame" else 1e-3), key


def test_what_a_row_does_changes_no_other() -> None:
    def run(own: int) -> list[Any]:
        env = dreams(3, horizon=6, episodes_per_walk=1, observation="belief")
        told = [env.reset(seed=1)[0]]
        for step in range(10):
            told.append(env.step(np.array([step % 8, own, (3 * step) % 8]))[0])
        return told

    one, other = run(FORWARD), run(LEFT)
    for a, b in zip(one, other, strict=True):
        assert all(np.array_equal(a[key][[0, 2]], b[key][[0, 2]]) for key in a)
    assert not np.allclose(one[5]["state"][1], other[5]["state"][1])


# ---------------------------------------------------------------- where it starts, where it is told to


def test_it_starts_where_the_walk_ended_and_as_fast() -> None:
    belief = remembered()
    assert belief.displacement[:2].norm() > 0.05
    env = dream(belief=belief)
    observation, _ = env.reset(seed=0)
    np.testing.assert_allclose(observation["state"], told(belief.mean), atol=1e-5)
    _ = env.step(LEFT)
    coasted = SPEED * np.tanh(KEPT * belief.displacement[:2].numpy() / SPEED)
    moved = env.belief.mean[0].numpy() - belief.mean.numpy()
    assert np.hypot(*moved[:2]) == pytest.approx(np.hypot(*coasted), abs=1e-5)
    assert moved[2] == pytest.approx(TURN, abs=1e-5)


def test_states_are_told_and_taken_back() -> None:
    """In steps, with cosine and sine of the heading; who is put somewhere is at rest there."""
    env = dream(belief=remembered())
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        state = np.append(rng.uniform(-3, 3, 2), rng.uniform(-9, 9))
        observation, _ = env.reset(options={"state": told(state)})
        np.testing.assert_allclose(observation["state"], told(state), atol=1e-4)
        observation, *_ = env.step(FORWARD)
        after = state + SPEED * math.tanh(PUSH) * np.array([math.cos(state[2]), math.sin(state[2]), 0])
        np.testing.assert_allclose(observation["state"], told(after), atol=1e-4)
        again, _ = env.reset(options={"state": observation["state"], "goal": told([9, 9, 1])})
        np.testing.assert_allclose(again["state"], observation["state"], atol=1e-5)
        np.testing.assert_allclose(again["goal_state"], told([9, 9, 1]), atol=1e-4)
    for wrong in (np.zeros(3), np.zeros(2), np.full(4, np.nan)):
        with pytest.raises(ValueError, match=r"finite states in steps of shape \(1, 4\)"):
            env.reset(options={"state": wrong})


def test_it_starts_at_rest_anywhere_remembered() -> None:
    env = dreams(16, belief=remembered(), start="remembered")
    env.reset(seed=0)
    assert (env.belief.displacement == 0).all()
    there = env.belief.memory.s_mean[0]
    for state in env.belief.mean:
        assert (there == state).all(dim=-1).any()
    assert len({tuple(state.tolist()) for state in env.belief.mean}) > 5


# ---------------------------------------------------------------- arriving


@pytest.mark.parametrize("kwargs", [{}, {"goal_radius": 0.5, "goal_angle": 30.0}])
def test_the_tolerance_is_the_worlds(kwargs: dict[str, Any]) -> None:
    worlds: list[Any] = [gym.make(WORLD, **kwargs), gym.make_vec(WORLD, num_envs=2, **kwargs)]
    inner, rng = worlds[1].unwrapped, np.random.default_rng(0)
    goals = np.concatenate([rng.uniform(-2, 2, (20_000, 2)), rng.uniform(-20, 20, (20_000, 1))], axis=1)
    poses = goals + rng.uniform(-1, 1, goals.shape) * [0.6, 0.6, 0.8] + [0, 0, 2 * np.pi] * rng.integers(-2, 3, (20_000, 1))
    expected = at_goal(poses, goals, inner.goal_radius, inner.goal_angle)
    assert 0.02 < expected.mean() < 0.9
    for world in worlds:
        there = tolerance(MODEL, world)
        assert (there(torch.from_numpy(poses), torch.from_numpy(goals)).numpy() == expected).all()


@pytest.mark.parametrize("at_a_place", [False, True])
def test_arrival_is_a_radius_and_a_heading_as_in_the_world(at_a_place: bool) -> None:
    """Rows that look left come to stand at and beside a goal, a remembered place or not; which arrive is what the world would say."""
    rows, kwargs, belief = 80, {"goal_radius": 0.2, "goal_angle": 5.0}, remembered()
    env = dreams(rows, belief=belief, world_kwargs=kwargs, autoreset_mode="Disabled")
    rng = np.random.default_rng(0)
    goal = belief.memory.s_mean[12].double().numpy() if at_a_place else np.array([0.3, -0.2, 3.0])
    after = goal + np.column_stack([rng.uniform(-0.3, 0.3, (rows, 2)), rng.uniform(-0.12, 0.12, rows)])
    before = after - [0, 0, TURN]
    inner = env._walkers.unwrapped
    begins_there = at_goal(before, goal, inner.goal_radius, inner.goal_angle)  # type: ignore[attr-defined]
    before[begins_there] -= [1, 0, 0]
    after[begins_there] -= [1, 0, 0]
    env.reset(seed=0, options={"state": told(before), "goal": told(np.tile(goal, (rows, 1)))})
    _, reward, terminated, _, _ = env.step(np.full(rows, LEFT))
    expected = at_goal(after, goal, inner.goal_radius, inner.goal_angle)  # type: ignore[attr-defined]
    assert terminated.tolist() == expected.tolist()
    assert reward.tolist() == expected.tolist()
    near = np.hypot(*(after - goal)[:, :2].T) <= 0.2
    assert 0 < expected.sum() < near.sum() < rows  # some are near and look elsewhere


def test_a_goal_at_the_start_is_neither_drawn_nor_taken() -> None:
    env = dreams(40, belief=remembered(40), episodes_per_walk=None)
    there = tolerance(MODEL, env._walkers)
    drawn = set()
    for seed in (0, None, None):
        env.reset(seed=seed)
        assert not there(env._goal, env.belief.mean).any()
        drawn |= {tuple(goal) for goal in env._goal.tolist()}
    assert len(drawn) > 3
    one = dream(belief=remembered())
    with pytest.raises(ValueError, match="reached at the start already"):
        one.reset(seed=0, options={"state": told([0, 0, 0]), "goal": told([0.29, 0, 0.2])})
    one.reset(options={"state": told([0, 0, 0]), "goal": told([0.29, 0, 0.3])})  # 17 degrees


# ---------------------------------------------------------------- walls that were seen


def walled(stands: np.ndarray) -> Belief:
    """A belief at rest at the origin, which knows that something stands in these cells (CELLS, CELLS), rows along y."""
    belief = remembered()
    memory = MODEL.places(belief.memory)
    memory = memory.but(facts={**memory.facts, "clearance": clearance(torch.from_numpy(stands)[None])[0]})
    zero = torch.zeros(3)
    return Belief(zero, zero, zero, memory)


def slow_walk(stands: np.ndarray, start: Any, actions: Any) -> Any:
    """Poses by equation 6 in floating point, a step and a place at a time, kept out of what stands."""
    from test_floorplan import clearance_by_loops, kept_out_by_loops

    at = clearance_by_loops(stands)
    (x, y, heading), (u, v), poses = start, (0.0, 0.0), []
    for action in actions:
        ahead, left, look = COMMANDS[action]
        u, v = (SPEED * math.tanh(PUSH * push + KEPT * w / SPEED) for push, w in ((ahead, u), (left, v)))
        cos, sin = math.cos(heading), math.sin(heading)
        to = x + cos * u - sin * v, y + sin * u + cos * v
        kept = kept_out_by_loops(at, *to)
        if kept != to:
            dx, dy = kept[0] - x, kept[1] - y
            if math.hypot(dx, dy) < 0.2 * math.hypot(u, v):
                dx, dy, kept = 0.0, 0.0, (x, y)
            u, v = cos * dx + sin * dy, cos * dy - sin * dx
        (x, y), heading = kept, heading + TURN * look
        poses.append((x, y, heading))
    return np.array(poses)


def test_a_wall_ahead_stops_the_agent() -> None:
    """Nothing leads into it, its momentum is lost there, and alongside it slides."""
    stands = np.zeros((CELLS, CELLS), np.bool_)
    edge = int(cell_of(torch.tensor([0.8, 0.0]))[0])
    stands[:, edge] = True
    wall = (edge - (CELLS - 1) / 2) * CELL
    env = dream(belief=walled(stands), horizon=None)
    env.reset(seed=0, options={"goal": told([5, 5, 3])})
    for _ in range(20):
        env.step(FORWARD)
    x, y, _ = env.belief.mean[0].tolist()
    assert x == pytest.approx(wall - RADIUS, abs=0.01)
    assert abs(y) < 1e-3
    assert env.belief.displacement[0].norm() < 0.01
    env.reset(options={"state": told([x, 0, 0.8]), "goal": told([5, 5, 3])})
    for _ in range(20):
        env.step(FORWARD)
    x_, y_, _ = env.belief.mean[0].tolist()
    assert y_ > 0.5, "it slides north"
    assert x_ < wall - 0.9 * RADIUS


@pytest.mark.parametrize("seed", range(3))
def test_walls_are_those_of_a_slow_twin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stands = rng.random((CELLS, CELLS)) < 0.005
    start = np.array([0.0, 0.0, rng.uniform(-3, 3)])
    actions = rng.integers(8, size=60).repeat(3)
    expected = slow_walk(stands, start, actions)
    env = dream(belief=walled(stands), horizon=None)
    env.reset(seed=0, options={"state": told(start), "goal": told([50, 50, 3])})
    found = []
    for action in actions:
        env.step(int(action))
        found.append(env.belief.mean[0].numpy())
    np.testing.assert_allclose(found, expected, atol=1e-2)
    free = slow_walk(np.zeros_like(stands), start, actions)
    assert np.abs(free - expected).max() > 0.3, "they were in the way"


def test_rows_meet_their_own_walls() -> None:
    """And plans are imagined as steps are."""
    none, east = np.zeros((2, CELLS, CELLS), np.bool_)
    east[:, int(cell_of(torch.tensor([0.7, 0.0]))[0])] = True
    beliefs = [walled(stands) for stands in (none, east)]
    mean, memory = beliefs[0].mean.expand(2, -1), beliefs[0].memory
    both = SpatialMemory(
        memory.s_mean.expand(2, -1, -1),
        memory.s_variance.expand(2, -1, -1),
        {name: value.expand(2, *value.shape) for name, value in memory.values.items()},
        facts={name: torch.stack([belief.memory.facts[name] for belief in beliefs]) for name in memory.facts},
    )
    belief = Belief(mean, mean, mean, both)
    env = dreams(2, belief=belief, horizon=None)
    env.reset(seed=0, options={"goal": told(np.full((2, 3), 5.0))})
    for _ in range(10):
        env.step(np.array([FORWARD, FORWARD]))
    far, near = env.belief.mean[:, 0].tolist()
    assert near < 0.6 < 1 < far
    imagined = MODEL.imagine(belief, torch.full((2, 3, 10), FORWARD))
    torch.testing.assert_close(imagined.mean[:, :, -1], env.belief.mean[:, None].expand(-1, 3, -1))


@pytest.mark.parametrize(("depth", "hindered"), [(-1, False), (0, True)])
def test_what_views_imply_is_in_the_way(depth: int, hindered: bool) -> None:
    """Walls that they tell at the smallest depth, all around; not those at the largest."""
    model = exact_walker()
    assert model.projected is not None
    model.projected.stereo = WallsAt(depth)  # type: ignore[assignment]
    env = dream(model=model)
    env.reset(seed=0)
    memory = env.belief.memory
    column, row = cell_of(memory.s_mean[0, :, :2]).unbind(dim=-1)
    assert bool((memory.facts["clearance"][0, row, column] < RADIUS).any()) == hindered


def test_a_dream_that_shows_no_frames_holds_none_of_what_they_are_made_of() -> None:
    """Four fifths of a memory; who decodes from its belief has them found again."""
    (blind, seeing), s = (dream(observation=shown) for shown in ("state", "belief")), torch.tensor([[[0.1, 0.2, 0.3]]])
    for env in (blind, seeing):
        env.reset(seed=0)
    lean, full = blind.belief.memory, seeing.belief.memory
    assert {"view", "depth"} == full.values.keys() - lean.values.keys()
    assert {"plan"} == full.facts.keys() - lean.facts.keys()
    assert torch.equal(lean.facts["clearance"], full.facts["clearance"])
    assert torch.equal(MODEL.decode(s[:, 0], lean), MODEL.decode(s[:, 0], full))
    one, other = (dream(belief=env.belief, observation="frame").reset(seed=1)[0] for env in (blind, seeing))
    assert np.array_equal(one["frame"], other["frame"])
    drawn = dream(belief=blind.belief, render_mode="rgb_array")
    drawn.reset(seed=1)
    assert "view" in drawn.belief.memory.values  # found once, not at every picture


def test_a_dream_can_be_pickled() -> None:
    env = dreams(2)
    env.reset(seed=0)
    env.step(np.array([FORWARD, LEFT]))
    again = pickle.loads(pickle.dumps(env))
    for _ in range(8):
        here, there = (one.step(np.array([FORWARD, FORWARD]))[0] for one in (env, again))
        assert np.array_equal(here["state"], there["state"])


class Counted(WallsAt):
    compared = 0

    def compare(self, *args: Any) -> Any:
        self.compared += 1
        return super().compare(*args)


def test_a_step_remembers_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Floor plans of worlds to come are drawn in parts, at most one a step: they are what a dream has that waits for them."""
    model, most = exact_walker(), 0
    assert model.projected is not None
    model.projected.stereo = stereo = Counted()  # type: ignore[assignment]
    paced, waiting = (dreams(2, model=own, walk_steps=80, episodes_per_walk=2, horizon=30) for own in (model, MODEL))
    for env in (paced, waiting):
        env.reset(seed=0)
    monkeypatch.setattr(waiting._source, "pay", lambda *_: None)
    for _ in range(150):
        before, actions = stereo.compared, np.array([FORWARD, LEFT])
        found, expected = paced.step(actions), waiting.step(actions)
        most = max(most, stereo.compared - before)
        for name in found[0]:
            np.testing.assert_allclose(found[0][name], expected[0][name], atol=1e-5)
    assert found[4]["world_steps"].min() > 80
    assert most == 1


# ---------------------------------------------------------------- seeing it


def test_render() -> None:
    env = dream(render_mode="rgb_array", view="all", observation="frame")
    observation, _ = env.reset(seed=0)
    assert observation["frame"].shape == (32, 32, 3)
    env.step(FORWARD)
    picture = env.render()
    assert picture is not None
    assert picture.shape[1] > 3 * 512  # world, goal, dream and map
    assert env.get_keys_to_action()[("w",)] == FORWARD
