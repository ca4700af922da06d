"""The contracts that every registered environment keeps. Needs nothing of the repository: runs against whatever is installed."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import gtmsm_env  # noqa: F401  registers the environments

WORLD, DREAM = "GTMSM-ImageNavigation-v0", "GTMSM-Dream-v0"
BUILT = {"GTMSM-DeepMindLab-v0": "deepmind_lab"}  # their modules are on no package index; tests/test_deepmind_lab.py has a double
VIZDOOM = "GTMSM-VizDoom-v0"  # an engine of its own a row: Gymnasium makes its batches, and its scalar alone keeps the contracts
ABSENT = set() if find_spec("labmaze") else {"GTMSM-LabyrinthMaze-v0"}  # labmaze is made for Python up to 3.12
IDS = sorted(name for name in gym.registry if name.startswith("GTMSM-") and name not in {*BUILT, *ABSENT, VIZDOOM})
SHORT: dict[str, dict[str, Any]] = {DREAM: {"walk_steps": 48, "episodes_per_walk": 2}}  # quicker walks
VARIANTS = [
    *((name, SHORT.get(name, {})) for name in IDS),
    (WORLD, {"task": None}),
    ("GTMSM-Labyrinth-v0", {"task": None, "physics": "lab", "frame_size": 64}),
    ("GTMSM-ObstacleGrid-v0", {"slip": 0.3, "visible": True, "obstacles": [2, 4]}),
    (DREAM, {**SHORT[DREAM], "world_kwargs": {"task": None}, "task": None}),
    (DREAM, {**SHORT[DREAM], "observation": "belief", "novelty": True}),
    (DREAM, {**SHORT[DREAM], "observation": "state", "start": "remembered"}),
    (DREAM, {**SHORT[DREAM], "world": "GTMSM-ObstacleGrid-v0", "observation": "belief"}),
]
SCALARS = [*VARIANTS, (VIZDOOM, {}), (VIZDOOM, {"task": None, "frame_size": 64})]
every, every_scalar = (
    pytest.mark.parametrize(("name", "kwargs"), variants, ids=[f"{name}-{i}" for i, (name, _) in enumerate(variants)])
    for variants in (VARIANTS, SCALARS)
)
ROWS, HORIZON, STEPS = 3, 7, 40


def vector(name: str, kwargs: dict[str, Any], mode: AutoresetMode = AutoresetMode.NEXT_STEP, **more: Any) -> Any:
    return gym.make_vec(name, num_envs=ROWS, autoreset_mode=mode, **{"horizon": HORIZON, **kwargs, **more})


def near(a: Any, b: Any, frames: int = 0, numbers: float = 0.0) -> bool:
    """Equal but for rounding: a scalar and a batch add up in different orders."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(near(a[key], b[key], frames, numbers) for key in a)
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype == object:
        return all((x is None and y is None) or near(x, y, frames, numbers) for x, y in zip(a, b, strict=True))
    return bool(np.allclose(a.astype(float), b.astype(float), rtol=0, atol=frames if a.dtype == np.uint8 else numbers))


def row_of(observation: dict[str, Any], row: int) -> dict[str, Any]:
    return {key: value[row] for key, value in observation.items()}


def arrays(data: Any) -> Iterator[Any]:
    if isinstance(data, dict):
        for value in data.values():
            yield from arrays(value)
    elif isinstance(data, np.ndarray) and data.dtype == object:
        for value in data:
            yield from arrays(value)
    elif isinstance(data, np.ndarray):
        yield data


# ---------------------------------------------------------------- the checkers of others


@every_scalar
def test_gymnasium_checker(name: str, kwargs: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(name, disable_env_checker=True, **kwargs).unwrapped)


@every_scalar
@pytest.mark.skipif(find_spec("stable_baselines3") is None, reason="needs the extra sb3")
def test_sb3_checker(name: str, kwargs: dict[str, Any]) -> None:
    from stable_baselines3.common.env_checker import check_env as check

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="The minimal resolution for an image is 36x36")  # why SmallFrameExtractor exists
        check(gym.make(name, **kwargs))


@every_scalar
def test_made_environments_run_without_warnings(name: str, kwargs: dict[str, Any]) -> None:
    """Through all the wrappers of `make`, with its passive checker."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with gym.make(name, render_mode="rgb_array", **kwargs) as env:
            env.action_space.seed(0)
            env.reset(seed=0)
            for _ in range(HORIZON):
                if any(env.step(env.action_space.sample())[2:4]):
                    env.reset()
            picture: Any = env.render()
            assert picture.dtype == np.uint8
            assert min(picture.shape[:2]) >= 256  # small frames are drawn large
            assert isinstance(env.metadata["render_fps"], int)
            keys = env.get_wrapper_attr("get_keys_to_action")()
            assert all(action in env.action_space for action in keys.values())


# ---------------------------------------------------------------- imports and arguments


def test_importing_loads_no_torch(tmp_path: Path) -> None:
    code = "import sys, gtmsm_env; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True).stdout == "False\n"


def test_make_needs_no_argument_and_no_import(tmp_path: Path) -> None:
    code = f"import gymnasium; env = gymnasium.make('gtmsm_env:{DREAM}'); print(env.reset(seed=0)[0] in env.observation_space)"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout == "True\n"


@every_scalar
def test_arguments_are_json(name: str, kwargs: dict[str, Any]) -> None:
    for made in (gym.make(name, **kwargs), gym.make_vec(name, num_envs=2, **kwargs)):
        assert made.spec is not None
        assert gym.envs.registration.EnvSpec.from_json(made.spec.to_json()) == made.spec


def test_a_dream_has_the_spaces_of_its_world() -> None:
    for own in ({}, {"task": None}):
        dream = gym.make_vec(DREAM, num_envs=2, world_kwargs=own, **own)
        world = gym.make_vec(WORLD, num_envs=2, **own)
        assert dream.observation_space == world.observation_space
        assert dream.single_action_space == world.single_action_space
        assert gym.make(DREAM, world_kwargs=own, **own).observation_space == gym.make(WORLD, **own).observation_space


@pytest.mark.parametrize(("name", "module"), BUILT.items())
def test_without_its_module_an_environment_says_how_to_get_it(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    for make in (lambda: gym.make(name), lambda: gym.make_vec(name, num_envs=2)):
        with pytest.raises(ModuleNotFoundError, match=f"`{module}` is on no package index.*pip install"):
            make()


# ---------------------------------------------------------------- batches


@every
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_spaces_and_kinds(name: str, kwargs: dict[str, Any], mode: AutoresetMode) -> None:
    envs = vector(name, kwargs, mode)
    assert envs.metadata["autoreset_mode"] is mode is envs.autoreset_mode
    assert vector(name, kwargs, mode.value).metadata["autoreset_mode"] is mode
    observation, info = envs.reset(seed=0)
    envs.action_space.seed(0)
    for _ in range(2 * HORIZON):
        assert observation in envs.observation_space
        assert row_of(observation, 1) in envs.single_observation_space
        for key, value in info.items():
            assert key.startswith(("_", "final")) or (len(value) == ROWS and info[f"_{key}"].dtype == np.bool_)
        observation, reward, terminated, truncated, info = envs.step(envs.action_space.sample())
        assert (reward.dtype, terminated.dtype, truncated.dtype) == (np.float64, np.bool_, np.bool_)
        assert reward.shape == terminated.shape == truncated.shape == (ROWS,)
        assert not (terminated & truncated).any()
        if mode == AutoresetMode.DISABLED and (terminated | truncated).any():
            observation, info = envs.reset(options={"reset_mask": terminated | truncated})


def episodes(name: str, kwargs: dict[str, Any], mode: AutoresetMode) -> list[list[Any]]:
    """What each row lives through, whenever the batch lets it: resets and steps, with actions of its own."""
    envs = vector(name, kwargs, mode)
    observation, _ = envs.reset(seed=11)
    rngs = [np.random.default_rng(row) for row in range(ROWS)]
    lives: list[list[Any]] = [[row_of(observation, row)] for row in range(ROWS)]
    ended = np.zeros(ROWS, np.bool_)
    for _ in range(STEPS):
        if mode == AutoresetMode.DISABLED and ended.any():
            observation, _ = envs.reset(options={"reset_mask": ended})
            for row in np.flatnonzero(ended).tolist():
                lives[row].append(row_of(observation, row))
            ended = np.zeros(ROWS, np.bool_)
        actions = np.array([0 if over else rng.integers(5) for rng, over in zip(rngs, ended, strict=True)])
        observation, reward, terminated, truncated, info = envs.step(actions)
        done = terminated | truncated
        for row in range(ROWS):
            result = (reward[row], terminated[row], truncated[row])
            if ended[row]:  # next step
                assert result == (0, False, False)
                lives[row].append(row_of(observation, row))
            elif mode == AutoresetMode.SAME_STEP and done[row]:
                assert info["_final_obs"][row]
                assert info["_final_info"][row]
                lives[row] += [(info["final_obs"][row], *result), row_of(observation, row)]
            else:
                lives[row].append((row_of(observation, row), *result))
        assert ("final_obs" in info) == (mode == AutoresetMode.SAME_STEP and done.any())
        if "final_obs" in info:
            assert all((info["final_obs"][row] is not None) == done[row] for row in range(ROWS))
        ended = done if mode != AutoresetMode.SAME_STEP else ended
    return lives


@every
def test_autoreset_modes_tell_the_same_lives(name: str, kwargs: dict[str, Any]) -> None:
    told = [episodes(name, kwargs, mode) for mode in AutoresetMode]
    ends = 0
    for row in range(ROWS):
        for events in zip(*(lives[row] for lives in told), strict=False):
            parts = [event if isinstance(event, tuple) else (event,) for event in events]
            assert len({len(part) for part in parts}) == 1
            ends += len(parts[0]) > 1 and any(parts[0][2:])
            for other in parts[1:]:
                assert all(near(a, b) for a, b in zip(parts[0], other, strict=True))
    assert ends > ROWS


@every
def test_rows_are_scalars_seeded_one_after_another(name: str, kwargs: dict[str, Any]) -> None:
    lives = episodes(name, kwargs, AutoresetMode.SAME_STEP)
    for row in range(ROWS):
        env = gym.make(name, **{"horizon": HORIZON, **kwargs})
        rng = np.random.default_rng(row)
        observation, _ = env.reset(seed=11 + row)
        for event in lives[row]:
            if isinstance(event, dict):
                assert near(event, observation, frames=1, numbers=1e-3)
                continue
            observation, *result = env.step(int(rng.integers(5)))
            assert near(event[0], observation, frames=1, numbers=1e-3)
            assert list(event[1:]) == result[:3]
            if event[2] or event[3]:
                observation, _ = env.reset()


@every
def test_a_batch_of_one_is_the_scalar(name: str, kwargs: dict[str, Any]) -> None:
    envs = gym.make_vec(name, num_envs=1, autoreset_mode="SameStep", horizon=HORIZON, **kwargs)
    env = gym.make(name, horizon=HORIZON, **kwargs)
    rng = np.random.default_rng(0)
    assert near(row_of(envs.reset(seed=2)[0], 0), env.reset(seed=2)[0])
    for _ in range(STEPS):
        action = int(rng.integers(5))
        batched, reward, terminated, truncated, info = envs.step(np.array([action]))
        observation, *result = env.step(action)
        assert [reward[0], terminated[0], truncated[0]] == result[:3]
        if terminated[0] or truncated[0]:
            assert near(info["final_obs"][0], observation)
            observation, _ = env.reset()
        assert near(row_of(batched, 0), observation)


@every
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_what_a_row_does_changes_no_other(name: str, kwargs: dict[str, Any], mode: AutoresetMode) -> None:
    def run(own: int) -> list[Any]:
        envs = vector(name, kwargs, mode)
        told = [envs.reset(seed=1)[0]]
        rng = np.random.default_rng(0)
        for _ in range(STEPS):
            actions = rng.integers(0, 5, ROWS)
            actions[1] = own
            observation, reward, terminated, truncated, _ = envs.step(actions)
            told.append({**observation, "reward": reward, "terminated": terminated, "truncated": truncated})
        return told

    others = [0, 2]
    differs = False
    for a, b in zip(run(0), run(4), strict=True):
        for key in a:
            assert np.array_equal(a[key][others], b[key][others]), key
            differs |= not np.array_equal(a[key][1], b[key][1])
    assert differs


@every
def test_reset_masks(name: str, kwargs: dict[str, Any]) -> None:
    envs = vector(name, kwargs, AutoresetMode.DISABLED)
    envs.reset(seed=0)
    before, *_ = envs.step(np.zeros(ROWS, np.int64))
    mask = np.array([True, False, True])
    after, _ = envs.reset(options={"reset_mask": mask})
    assert near(row_of(after, 1), row_of(before, 1))
    for _ in range(HORIZON - 1):
        *_, terminated, truncated, _ = envs.step(np.full(ROWS, 4))
    assert truncated.tolist() == [False, not terminated[1], False]  # the row that was not reset is one step ahead
    with pytest.raises(ValueError, match="reset_mask"):
        envs.reset(options={"reset_mask": [True, False, True]})


@every
def test_seeds(name: str, kwargs: dict[str, Any]) -> None:
    def run(seed: Any) -> list[Any]:
        envs = vector(name, kwargs)
        return [envs.reset(seed=seed)[0], *(envs.step(np.full(ROWS, step % 4))[0] for step in range(STEPS)), envs.reset()[0]]

    first = run(5)
    assert all(near(a, b) for a, b in zip(first, run(5), strict=True))
    assert all(near(a, b) for a, b in zip(first, run([5, 6, 7]), strict=True))
    assert not all(near(a, b) for a, b in zip(first, run(6), strict=True))
    envs = vector(name, kwargs)
    envs.reset(seed=99)
    envs.step(np.zeros(ROWS, np.int64))
    for _ in range(3):  # row 0 comes to its next world, and others to have theirs in stock
        envs.reset(options={"reset_mask": np.array([True, False, False])})
    assert near(envs.reset(seed=5)[0], first[0])  # whatever came before


@pytest.mark.parametrize("name", IDS)
def test_seeds_of_any_integer_kind(name: str) -> None:
    envs = vector(name, SHORT.get(name, {}))
    first, _ = envs.reset(seed=5)
    for seed in (np.int64(5), np.array(5), np.array([5, 6, 7]), (5, np.int64(6), 7), np.array([5, 6, 7], np.uint8)):
        assert near(envs.reset(seed=seed)[0], first)
    for wrong in (5.0, "5", np.array([5.0, 6, 7]), [5, 6], np.array([[5], [6], [7]]), np.array([5, 6])):
        with pytest.raises(ValueError, match="seed"):
            envs.reset(seed=wrong)


@every
def test_global_generators_are_left_alone(name: str, kwargs: dict[str, Any]) -> None:
    before = torch.get_rng_state(), np.random.get_state(legacy=False)  # noqa: NPY002
    envs = vector(name, kwargs, AutoresetMode.SAME_STEP)
    envs.reset(seed=0)
    for _ in range(STEPS):
        envs.step(np.zeros(ROWS, np.int64))
    assert torch.equal(before[0], torch.get_rng_state())
    assert str(before[1]) == str(np.random.get_state(legacy=False))  # noqa: NPY002


@every
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_nothing_is_shared_out(name: str, kwargs: dict[str, Any], mode: AutoresetMode) -> None:
    """Neither between calls, nor with what lies inside: whoever spoils what was given changes nothing that comes."""
    spoiled, clean = vector(name, kwargs, mode), vector(name, kwargs, mode)
    rng = np.random.default_rng(0)
    calls = [(spoiled.reset(seed=0), clean.reset(seed=0))]
    for _ in range(3 * HORIZON):
        actions = rng.integers(0, 5, ROWS)
        calls.append((spoiled.step(actions), clean.step(actions)))
        (observation, *_, info), (expected, *_, told) = calls[-1]
        assert near(observation, expected)
        assert near(info, told)
        for array in arrays({"observation": observation, "info": info}):
            if array.flags.writeable:
                array[...] = 0
    given = [list(arrays({"observation": call[0][0], "info": call[0][-1]})) for call in calls]
    for i, one in enumerate(given):
        for other in given[i + 1 :]:
            assert not any(np.shares_memory(a, b) for a in one for b in other)


@pytest.mark.parametrize("name", IDS)
def test_one_limit_of_length(name: str) -> None:
    """`horizon` truncates, no limit is registered, and the smaller of it and `make_vec`'s counts."""
    assert gym.spec(name).max_episode_steps is None
    for limits, expected in (({"horizon": 3}, 3), ({"max_episode_steps": 4}, 4), ({"horizon": 6, "max_episode_steps": 5}, 5)):
        envs = gym.make_vec(name, num_envs=2, autoreset_mode="Disabled", **{**SHORT.get(name, {}), **limits})
        envs.reset(seed=0)
        for step in range(1, expected + 1):
            *_, truncated, _ = envs.step(np.array([4, 4]))  # stay
            assert truncated.tolist() == [step == expected] * 2


@every
def test_order_and_actions_are_enforced(name: str, kwargs: dict[str, Any]) -> None:
    envs = vector(name, kwargs, AutoresetMode.DISABLED)
    with pytest.raises(gym.error.ResetNeeded):
        envs.step(np.zeros(ROWS, np.int64))
    envs.reset(seed=0)
    beyond = np.full(ROWS, envs.single_action_space.n)
    for actions in (beyond, np.full(ROWS, -1), np.zeros(ROWS), np.zeros(ROWS + 1, np.int64), np.zeros((ROWS, 1), np.int64)):
        with pytest.raises(ValueError, match="actions"):
            envs.step(actions)
    for _ in range(HORIZON):
        *_, truncated, _ = envs.step(np.full(ROWS, 4))
    assert truncated.all()
    with pytest.raises(gym.error.ResetNeeded):
        envs.step(np.full(ROWS, 4))
    env = gym.make(name, disable_env_checker=True, **{**kwargs, "horizon": 1}).unwrapped
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
    env.reset(seed=0)
    env.step(4)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(4)
