"""The belief that a world is given is the one a dream of it has: tracked from actions alone, row by row."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from exact import exact_model
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from treasure import ID, treasure_model

from gtmsm_env.belief import BeliefWrapper, VectorBeliefWrapper, track
from gtmsm_env.dream import DreamVectorEnv

WORLD = "GTMSM-ImageNavigation-v0"
MODEL = exact_model()


def scalar(world_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> BeliefWrapper:
    return BeliefWrapper(gym.make(WORLD, **(world_kwargs or {})), MODEL, **{"walk_steps": 64, **kwargs})


def batch(rows: int, world_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> VectorBeliefWrapper:
    envs = gym.make_vec(WORLD, num_envs=rows, autoreset_mode="Disabled", **(world_kwargs or {}))
    return VectorBeliefWrapper(envs, MODEL, **{"walk_steps": 64, **kwargs})


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return np.array_equal(a, b)


def test_the_belief_is_where_the_agent_is() -> None:
    """In steps from the centre, where this model's walks begin; the goal is where its frame was seen."""
    env = scalar(episodes_per_walk=2)
    env.action_space.seed(0)
    observation, info = env.reset(seed=0)
    for episode in range(6):
        for _ in range(30):
            assert np.allclose(observation["state"], info["position"] - 4)
            assert np.allclose(observation["goal_state"], info["goal_position"] - 4)
            observation, _, terminated, _, info = env.step(env.action_space.sample())
            if terminated:
                assert np.allclose(observation["state"], observation["goal_state"])
                break
        before = info["world_steps"]
        observation, info = env.reset()
        assert info["world_steps"] == before + (63 if episode % 2 else 0)


def test_a_wrapped_world_can_be_pickled() -> None:
    for env, actions in ((scalar(), [0, 3]), (batch(2), [np.array([0, 1]), np.array([3, 3])])):
        env.reset(seed=0)
        env.step(actions[0])
        again = pickle.loads(pickle.dumps(env))
        assert equal(env.step(actions[1])[0], again.step(actions[1])[0])
        assert equal(env.reset()[0], again.reset()[0])


def test_the_belief_goes_on_where_the_agent_does() -> None:
    """In a world that cannot take the agent home, as DeepMind Lab."""

    class Onward(gym.Wrapper[Any, Any, Any, Any]):
        place: Any = None

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            on = {"position": self.place} if options == {"phase": "task", "world": "same"} and self.place is not None else {}
            return self.env.reset(seed=seed, options={**options, **on})

        def step(self, action: Any) -> Any:
            told = self.env.step(action)
            self.place = told[-1]["position"] if told[-1]["phase"] == "task" else None
            return told

    world = Onward(gym.make(WORLD))
    world.metadata = {**world.metadata, "returns_home": False}
    env = BeliefWrapper(world, MODEL, walk_steps=64, episodes_per_walk=3)
    env.action_space.seed(0)
    homes = set()
    for episode in range(7):
        observation, info = env.reset(seed=None if episode else 0)
        homes.add(tuple(info["position"].tolist()))
        for _ in range(10):
            assert np.allclose(observation["state"], info["position"] - 4)
            observation, _, terminated, _, info = env.step(env.action_space.sample())
            if terminated:
                break
    assert len(homes) > 4  # of three walks


def test_a_place_is_remembered_when_it_is_first_come_to() -> None:
    env = scalar(walk_steps=4, episodes_per_walk=None)
    env.action_space.seed(1)
    env.reset(seed=3)
    visited: set[tuple[int, ...]] = set()
    for _ in range(200):
        size = len(env._now.memory)
        observation, _, terminated, truncated, info = env.step(env.action_space.sample())
        place = tuple(info["position"].tolist())
        new = observation["novelty"][0] > 0.5
        assert new == (len(env._now.memory) == size + 1)
        assert not (new and place in visited)
        visited.add(place)
        assert len(env._now.memory) <= 81
        if terminated or truncated:
            env.reset()
    assert len(visited) > 10


def test_what_is_written_is_what_is_seen() -> None:
    """The frame, reward and end that come with an action belong where it leads."""
    model = treasure_model()
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.integers(0, 256, (3, 4, 4, 3), np.uint8))
    belief = model.initial(frames[0])
    yes = torch.tensor(True)
    for action, frame, reward in ((3, frames[1], 0.5), (1, frames[2], 0.25), (0, frames[1], 9.0)):
        belief, _ = track(model, belief, torch.tensor(action), frame, torch.tensor(reward), torch.tensor(reward == 0.25), yes)
    memory = belief.memory
    assert int(memory.count) == 3  # the last step led back
    assert torch.equal(memory.s_mean[:3], torch.tensor([[0.0, 0], [0, 1], [1, 1]]))
    assert memory.values["reward"][:3].tolist() == [0, 0.5, 0.25]
    assert memory.values["termination"][:3].tolist() == [False, False, True]
    assert torch.equal(model.decode(memory.s_mean[:3], memory), frames)
    still, novelty = track(model, belief, torch.tensor(3), frames[2], torch.tensor(0.0), yes, torch.tensor(False))
    assert int(still.memory.count) == 3  # rows that do not move remember nothing
    assert novelty == 1


@pytest.mark.parametrize("observation", ["belief", "state"])
def test_rows_are_the_scalar_wrapper(observation: Any) -> None:
    """Frames, beliefs, goals, rewards, ends and what was paid, over several worlds."""
    own = {"observation": observation, "episodes_per_walk": 2}
    env = batch(3, {"horizon": 12}, autoreset_mode="SameStep", **own)
    first, _ = env.reset(seed=30)
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 5, (60, 3))
    told = [env.step(a) for a in actions]
    for row in range(3):
        alone = scalar({"horizon": 12}, **own)
        seen, info = alone.reset(seed=30 + row)
        assert equal({key: value[row] for key, value in first.items()}, seen)
        for action, (now, reward, terminated, truncated, infos) in zip(actions[:, row], told, strict=True):
            seen, reward_, terminated_, truncated_, info = alone.step(int(action))
            assert (reward[row], terminated[row], truncated[row]) == (reward_, terminated_, truncated_)
            if terminated_ or truncated_:
                last = infos["final_obs"][row]
                assert all(np.allclose(last[key].astype(float), seen[key].astype(float), atol=1e-5) for key in seen)
                assert infos["final_info"]["world_steps"][row] == info["world_steps"]
                seen, info = alone.reset()
            assert now.keys() == seen.keys()
            assert all(np.allclose(now[key][row].astype(float), seen[key].astype(float), atol=1e-5) for key in seen)
            assert infos["world_steps"][row] == info["world_steps"]
            assert np.array_equal(infos["position"][row], info["position"])


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_what_a_row_does_changes_no_other(mode: AutoresetMode) -> None:
    def run(own: int) -> list[Any]:
        env = batch(4, {"horizon": 5}, walk_steps=32, episodes_per_walk=1, autoreset_mode=mode)
        told: list[Any] = [env.reset(seed=1)[0]]
        rng = np.random.default_rng(0)
        for _ in range(25):
            actions = rng.integers(0, 5, 4)
            actions[2] = own
            observation, reward, terminated, truncated, info = env.step(actions)
            told.append({**observation, "reward": reward, "ended": terminated | truncated, "position": info["position"]})
            if mode == AutoresetMode.DISABLED and (terminated | truncated).any():
                observation, info = env.reset(options={"reset_mask": terminated | truncated})
                told.append({**observation, "position": info["position"]})
        return told

    for a, b in zip(run(0), run(4), strict=False):
        if a.keys() != b.keys():  # reset earlier, of its own doing
            break
        for key in a:
            assert np.array_equal(np.delete(a[key], 2, axis=0), np.delete(b[key], 2, axis=0)), key


def test_next_step_autoreset_moves_no_resting_row() -> None:
    env = batch(3, {"horizon": 4}, episodes_per_walk=None)
    env.reset(seed=0)
    homes = env._home.mean.clone()
    ended = np.zeros(3, bool)
    for step in range(40):
        observation, reward, terminated, truncated, info = env.step(np.array([step % 4, 3, 4]))
        assert not (ended & (terminated | truncated)).any()
        assert (reward[ended] == 0).all()
        assert np.allclose(observation["state"][ended], homes.numpy()[ended])
        assert np.allclose(observation["state"], info["position"] - 4)
        ended = terminated | truncated
    assert (info["world_steps"] < 63 + 40).all()  # the step that resets is none in the world


def test_autoreset_modes_draw_the_same_goals() -> None:
    def goals(mode: str) -> list[list[Any]]:
        env = batch(3, {"horizon": 5}, episodes_per_walk=2, autoreset_mode=mode)
        observation, _ = env.reset(seed=4)
        drawn = [[goal] for goal in observation["goal_state"]]
        ended = np.zeros(3, bool)
        for _ in range(40):
            observation, _, terminated, truncated, _ = env.step(np.full(3, 4))
            begun = terminated | truncated if mode == "SameStep" else ended
            ended = terminated | truncated
            for row in np.flatnonzero(begun):
                drawn[row].append(observation["goal_state"][row])
        return drawn

    for same, following in zip(goals("SameStep"), goals("NextStep"), strict=True):
        assert len(same) == 9  # after every fifth step
        assert len(following) == 7  # after every sixth
        assert np.allclose(same[:7], following)


def test_dream_and_world_of_one_seed_hold_the_same_belief() -> None:
    real, imagined = batch(3, observation="state"), DreamVectorEnv(3, model=MODEL, walk_steps=64, observation="state")
    seen, info = real.reset(seed=5)
    dreamed, info_ = imagined.reset(seed=5)
    assert equal(seen["state"], dreamed["state"])
    assert np.array_equal(info["world_steps"], info_["world_steps"])
    assert torch.equal(real._now.memory.s_mean, imagined.belief.memory.s_mean)
    assert real.single_observation_space == imagined.single_observation_space


def test_user_vectors_go_through_the_scalar_wrapper() -> None:
    env = SyncVectorEnv([lambda: scalar(observation="state")] * 2)
    observation, _ = env.reset(seed=0)
    assert observation["state"].shape == (2, 2)
    assert (env.step(np.array([0, 1]))[4]["world_steps"] == 64).all()


def test_the_world_keeps_its_options() -> None:
    env = scalar()
    _, info = env.reset(seed=0)
    goal = info["goal_position"]
    _, info = env.reset(options={"goal": goal})
    assert np.array_equal(info["goal_position"], goal)
    for taken in ({"position": (0, 0)}, {"phase": "walk"}, {"world": "new"}, {"image": 3}):
        with pytest.raises(ValueError, match="decides"):
            env.reset(options=taken)


def test_refused() -> None:
    with pytest.raises(ResetNeeded):
        scalar().step(0)
    with pytest.raises(ValueError, match="trained for"):
        scalar({"step_size": 2})
    with pytest.raises(ValueError, match="trained for"):
        BeliefWrapper(gym.make(WORLD), treasure_model())
    with pytest.raises(ValueError, match="by name"):
        BeliefWrapper(gym.make(WORLD).unwrapped.__class__(), MODEL)
    with pytest.raises(ValueError, match="observation must be"):
        scalar(observation="pixels")
    with pytest.raises(ValueError, match="walk phase"):
        BeliefWrapper(gym.make(ID), treasure_model(), walk_steps=20).reset(seed=0)
    for mode in ("NextStep", "SameStep"):
        with pytest.raises(ValueError, match="Disabled"):
            VectorBeliefWrapper(gym.make_vec(WORLD, num_envs=2, autoreset_mode=mode), MODEL)
    with pytest.raises(ValueError, match="save_rows"):
        VectorBeliefWrapper(gym.make_vec(WORLD, num_envs=2, vectorization_mode="sync"), MODEL)
    with pytest.raises(ValueError, match="at least 1"):
        batch(2, walk_steps=0)
