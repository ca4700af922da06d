"""The door to Stable-Baselines3."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from exact import exact_model
from gymnasium import spaces
from gymnasium.vector import VectorWrapper
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from gtmsm_env.belief import VectorBeliefWrapper
from gtmsm_env.dream import DreamEnv, DreamVectorEnv

pytest.importorskip("stable_baselines3")

from stable_baselines3 import DQN, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor

from gtmsm_env.perspective import relative
from gtmsm_env.sb3 import DreamVecEnv, GoalFromHere, SmallFrameExtractor

MODEL = exact_model()


def dreams(rows: int = 4, **kwargs: Any) -> DreamVectorEnv:
    return DreamVectorEnv(rows, **{"model": MODEL, "walk_steps": 64, "autoreset_mode": "SameStep", "horizon": 6, **kwargs})


def test_finished_rows() -> None:
    """The observation is the new episode's; the old one's last, and whether it was cut short, are in its info."""
    env, plain = DreamVecEnv(dreams(observation="belief")), dreams(observation="belief")
    env.seed(3)
    observation = env.reset()
    expected, _ = plain.reset(seed=3)
    assert all(np.array_equal(observation[key], expected[key]) for key in expected)
    assert env.reset_infos[2]["world_steps"] == 63
    rng = np.random.default_rng(0)
    cut = reached = 0
    for _ in range(60):
        actions = rng.integers(0, 5, 4)
        observation, reward, done, infos = env.step(actions)  # type: ignore[assignment]
        expected, reward_, terminated, truncated, info = plain.step(actions)
        assert isinstance(observation, dict)
        assert all(np.array_equal(observation[key], expected[key]) for key in expected)
        assert reward.dtype == np.float32
        assert np.array_equal(reward, reward_)
        assert np.array_equal(done, terminated | truncated)
        for row in range(4):
            assert ("terminal_observation" in infos[row]) == done[row]
            assert infos[row]["TimeLimit.truncated"] == (truncated[row] and not terminated[row])
            if done[row]:
                assert all(np.array_equal(infos[row]["terminal_observation"][key], info["final_obs"][row][key]) for key in expected)
        cut += int((truncated & ~terminated).sum())
        reached += int(terminated.sum())
    assert cut
    assert reached


@pytest.mark.parametrize("novelty", [False, True])
@pytest.mark.parametrize("observation", ["frame", "state"])
def test_a_dream_tells_it_what_gymnasium_is_told(observation: Any, novelty: bool) -> None:
    """Where loops step a dream, the door does without Gymnasium's infos; around it a wrapper that changes nothing makes it take them."""
    pytest.importorskip("numba")
    kwargs = {"model": "image-navigation", "episodes_per_walk": 2, "observation": observation, "novelty": novelty}
    env, plain = DreamVecEnv(dreams(5, **kwargs)), DreamVecEnv(VectorWrapper(dreams(5, **kwargs)))
    for each in (env, plain):
        each.seed(3)
        each.reset()
    ends, earlier = 0, None
    for count in range(60):
        actions = np.random.default_rng(count).integers(0, 5, 5)
        found, expected = env.step(actions), plain.step(actions)
        assert_equal(found, expected)
        assert_equal(env.reset_infos, plain.reset_infos)
        if earlier:
            assert_equal(*earlier)  # what was told stays as it was told
        earlier = found, copy.deepcopy(found)
        ends += int(found[2].sum())
    assert ends > 40
    assert isinstance(env.envs, DreamVectorEnv)
    assert env.envs.step_rows(actions)
    found[3][0]["mine"] = 1
    assert "mine" not in env.step(actions)[3][0]


def assert_equal(mine: Any, theirs: Any) -> None:
    """To the last bit, however deep in infos, and of the same types."""
    assert type(mine) is type(theirs)
    if isinstance(mine, dict):
        assert mine.keys() == theirs.keys()
        assert_equal([mine[key] for key in mine], [theirs[key] for key in mine])
    elif isinstance(mine, list | tuple):
        for a, b in zip(mine, theirs, strict=True):
            assert_equal(a, b)
    elif isinstance(mine, np.ndarray):
        assert mine.dtype == theirs.dtype
        assert np.array_equal(mine, theirs)
    else:
        assert mine == theirs


def test_what_sb3_asks_of_it() -> None:
    env = DreamVecEnv(dreams(3, render_mode="rgb_array"))
    assert env.render_mode == "rgb_array"
    assert env.seed(7) == [7, 8, 9]
    env.reset()
    assert env.get_attr("horizon") == [6, 6, 6]
    assert env.get_attr("horizon", [0, -1]) == [6, 6]
    env.set_attr("horizon", 9)
    assert env.get_attr("horizon", 0) == [9]
    with pytest.raises(ValueError, match="share"):
        env.set_attr("horizon", 5, indices=[1])
    assert [image.shape for image in env.env_method("render", indices=[0, 2])] == [(512, 512, 3)] * 2
    assert env.env_is_wrapped(gym.Wrapper) == [False] * 3
    assert DreamVecEnv(RecordEpisodeStatistics(dreams(2))).env_is_wrapped(RecordEpisodeStatistics) == [True] * 2  # type: ignore[arg-type]
    picture = env.render()
    assert picture is not None
    assert picture.shape == (1024, 1024, 3)
    env.set_options({"state": np.zeros((3, 2))})
    env.reset()
    assert torch.equal(env.envs.belief.mean, torch.zeros(3, 2))  # type: ignore[attr-defined]
    env.set_options([{"state": np.zeros((3, 2))}, {}, {}])
    with pytest.raises(ValueError, match="one set of options"):
        env.reset()
    env.close()
    with pytest.raises(ValueError, match="SameStep"):
        DreamVecEnv(dreams(2, autoreset_mode="NextStep"))


@pytest.mark.parametrize("observation", ["frame", "belief", "state"])
def test_default_policies_learn_from_it(observation: Any) -> None:
    env = VecMonitor(DreamVecEnv(dreams(8, observation=observation)))
    kwargs = {} if observation == "state" else {"features_extractor_class": SmallFrameExtractor}
    agent = PPO("MultiInputPolicy", env, n_steps=16, batch_size=32, n_epochs=1, policy_kwargs=kwargs, seed=0, device="cpu")
    before = [parameter.clone() for parameter in agent.policy.parameters()]
    agent.learn(128)
    assert any(not torch.equal(a, b) for a, b in zip(before, agent.policy.parameters(), strict=True))
    evaluate_policy(agent, env, n_eval_episodes=8)
    assert agent.ep_info_buffer is not None
    assert len(agent.ep_info_buffer) > 0
    one = DreamEnv(model=MODEL, walk_steps=64, observation=observation)
    assert agent.predict(one.reset(seed=0)[0], deterministic=True)[0] in one.action_space  # the agent moves on unchanged


def test_dqn_and_the_world() -> None:
    world = gym.make_vec("GTMSM-ImageNavigation-v0", num_envs=2, autoreset_mode="Disabled", horizon=8)
    env = DreamVecEnv(VectorBeliefWrapper(world, MODEL, walk_steps=32, observation="state", autoreset_mode="SameStep"))
    agent = DQN("MultiInputPolicy", env, learning_starts=8, batch_size=8, buffer_size=100, seed=0, device="cpu")
    agent.learn(64)
    assert agent.observation_space == DreamEnv(model=MODEL, observation="state").observation_space


def test_extractor() -> None:
    frame, flat = spaces.Box(0, 255, (3, 8, 8), np.uint8), spaces.Box(-1, 1, (2,), np.float32)
    space = spaces.Dict({"frame": frame, "goal": frame, "state": flat})
    see = SmallFrameExtractor(space, features_dim=16)
    seen = see({"frame": torch.rand(5, 3, 8, 8), "goal": torch.rand(5, 3, 8, 8), "state": torch.full((5, 2), 0.5)})
    assert seen.shape == (5, see.features_dim) == (5, 18)
    assert (seen[:, -2:] == 0.5).all()
    assert SmallFrameExtractor(spaces.Dict({"state": flat})).features_dim == 2
    with pytest.raises(ValueError, match="one size"):
        SmallFrameExtractor(spaces.Dict({"frame": frame, "goal": spaces.Box(0, 255, (3, 6, 6), np.uint8)}))


def test_the_goal_from_here() -> None:
    """As poses are seen from one another; nothing breaks at the goal itself."""
    pose = torch.randn(2, 5, 3) * torch.tensor([9.0, 9.0, 2.0])
    pose[:, 0] = pose[0, 0]
    state, goal = torch.cat([pose[..., :2], pose[..., 2:].cos(), pose[..., 2:].sin()], dim=-1)
    box = spaces.Box(-100, 100, (4,), np.float32)
    see = GoalFromHere(spaces.Dict({"state": box, "goal_state": box, "novelty": spaces.Box(0, 1, (1,), np.float32)}))
    told = see({"state": state, "goal_state": goal, "novelty": torch.zeros(5, 1)})
    ahead_left, turn = relative(pose[1], pose[0]).split([2, 1], dim=-1)
    direction = ahead_left / ahead_left.norm(dim=-1, keepdim=True).clamp(min=1e-3)
    expected = [ahead_left / 10, direction, turn.cos(), turn.sin(), state[:, :2] / 10, state[:, 2:]]
    assert see.features_dim == 10
    torch.testing.assert_close(told, torch.cat(expected, dim=-1), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="a place and a heading"):
        GoalFromHere(spaces.Dict({"state": box, "goal_state": spaces.Box(-1, 1, (2,), np.float32)}))


def test_missing_extra_is_named(tmp_path: Path) -> None:
    code = "import sys; sys.modules['stable_baselines3'] = None; import gtmsm_env.sb3"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "pip install 'gtmsm-env[sb3]'" in result.stderr
