"""The adapter of DeepMind Lab against a contract double of its module. None of this has run against the engine."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from math import cos, hypot, pi, radians, sin
from pathlib import Path
from typing import Any

import deepmind_lab_double as double
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

import gtmsm_env  # noqa: F401  registers the environment
import gtmsm_env.envs.deepmind_lab as adapter
from gtmsm_env.data import record
from gtmsm_env.envs.deepmind_lab import ACTIONS, FRAME, DeepMindLabEnv

NAME = "GTMSM-DeepMindLab-v0"
WALK, SAME = {"phase": "walk"}, {"phase": "task", "world": "same"}
FORWARD, BACKWARD, STRAFE_LEFT, STRAFE_RIGHT, LEFT, RIGHT, FORWARD_LEFT, FORWARD_RIGHT = range(8)
TURN = radians(8.448)


@pytest.fixture(autouse=True)
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The double in the module's place; no engine runs after a test."""
    monkeypatch.setitem(sys.modules, "deepmind_lab", double)
    yield double
    for one in [*adapter._running, *double._open]:
        one.close()


def made(level: str = "room", **kwargs: Any) -> DeepMindLabEnv:
    return DeepMindLabEnv(level=level, **kwargs)


def placed(env: DeepMindLabEnv, x: float = 0.0, y: float = 0.0, yaw: float = 0.0) -> None:
    """Put the double's player somewhere, at rest."""
    env._lab._place, env._lab._yaw, env._lab._velocity = np.array([x, y]), yaw, np.zeros(2)
    env._seen = env._lab.observations()


class TestTheDouble:
    """It refuses what the real module refuses: what passes with it has kept to the module's contract."""

    def test_types_and_names(self) -> None:
        for wrong in ((3, []), ("room", ("RGB_INTERLEAVED",)), ("room", [], ["width"]), ("room", [], {"width": 32})):
            with pytest.raises(TypeError):
                double.Lab(*wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"Unknown observation 'VEL\.TRANS'"):
            double.Lab("room_without_either", ["VEL.TRANS"])
        with pytest.raises(RuntimeError, match="not found"):
            double.Lab("hall", [])
        assert not double._open  # nothing that failed holds the process

    def test_order_and_actions(self) -> None:
        engine = double.Lab("room", ["RGB_INTERLEAVED"], {"width": "8", "height": "8"})
        nothing = np.zeros(7, np.intc)
        for early in (lambda: engine.step(nothing), engine.observations):
            with pytest.raises(RuntimeError, match="wrong status"):
                early()
        with pytest.raises(RuntimeError, match="connect"):
            double.Lab("room", [])
        with pytest.raises(ValueError, match="'seed' must be int"):
            engine.reset(seed=np.int64(3))  # type: ignore[arg-type]
        engine.reset(seed=3)
        assert engine.observations().keys() == {"RGB_INTERLEAVED"}
        for wrong in (np.zeros(7), np.zeros(7, np.int64), np.zeros(8, np.intc), np.full(7, 2, np.intc)):
            with pytest.raises(ValueError, match=r"dtype|shape|must lie"):
                engine.step(wrong)
        with pytest.raises(TypeError, match="integer"):
            engine.step(nothing, num_steps=np.int64(4))  # type: ignore[arg-type]
        assert engine.step(nothing, num_steps=4) == 0
        assert engine.num_steps() == 4
        assert engine.close()
        assert not engine.close()
        with pytest.raises(RuntimeError, match="wrong status"):
            engine.observations()


class TestContracts:
    @pytest.mark.parametrize("task", ["level", None])
    @pytest.mark.parametrize("level", ["room", "room_without_poses", "room_without_either", "room_with_a_goal"])
    def test_gymnasium_checker(self, level: str, task: Any) -> None:
        """But for the checks that make a second environment while the first runs, which one engine a process rules out."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_env(made(level, task=task), skip_render_check=True)

    def test_sb3_checker(self) -> None:
        check = pytest.importorskip("stable_baselines3.common.env_checker").check_env
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message="The minimal resolution for an image is 36x36")
            check(made("room_with_a_goal"))

    def test_made_by_name(self) -> None:
        kwargs = {"level": "room", "actions": [[0] * 7, [5, 0, 0, 1, 0, 0, 0]], "config": {"mixerSeed": "3"}}
        with gym.make(NAME, render_mode="rgb_array", **kwargs) as env:
            assert env.spec is not None
            assert gym.envs.registration.EnvSpec.from_json(env.spec.to_json()) == env.spec
            observation, _ = env.reset(seed=0)
            assert observation["frame"].shape == (32, 32, 3)
            picture: Any = env.render()
            assert np.array_equal(picture[8::16, 8::16], observation["frame"])
            env.step(1)
            assert env.get_wrapper_attr("get_keys_to_action")() == {("1",): 0, ("2",): 1}
        assert gym.spec(NAME).max_episode_steps is None

    def test_spaces(self) -> None:
        env = made(frame_size=24, task="goal")
        assert env.action_space == gym.spaces.Discrete(8)
        frame = gym.spaces.Box(0, 255, (24, 24, 3), np.uint8)
        assert env.observation_space == gym.spaces.Dict({"frame": frame, "goal": frame})
        assert made(task=None).observation_space == gym.spaces.Dict({"frame": gym.spaces.Box(0, 255, (32, 32, 3), np.uint8)})
        assert env.reset(options=WALK)[0] in env.observation_space

    @pytest.mark.parametrize("level", double.LEVELS)
    def test_what_a_seed_draws(self, level: str) -> None:
        """Also which episode of the level it is, whatever came before."""

        def life(env: DeepMindLabEnv, seed: int) -> list[bytes]:
            frames = [env.reset(seed=seed)[0]["frame"].tobytes()]
            frames += [env.step(action)[0]["frame"].tobytes() for action in (FORWARD_LEFT, LEFT, FORWARD)]
            return [*frames, env.reset()[0]["frame"].tobytes()]

        env = made(level)
        first = life(env, 5)
        env.reset()
        assert life(env, 5) == first
        assert life(env, 6)[0] != first[0]
        assert first[0] != first[-1]
        env.close()
        assert life(made(level), 5) == first

    def test_no_global_generator_is_used(self) -> None:
        before = str(np.random.get_state(legacy=False))  # noqa: NPY002
        env = made()
        for seed in (0, None):
            env.reset(seed=seed)
            env.step(FORWARD)
        assert before == str(np.random.get_state(legacy=False))  # noqa: NPY002

    def test_nothing_is_shared_out(self) -> None:
        """Whoever spoils what was given changes nothing that comes."""

        def life(spoil: bool) -> list[Any]:
            env, told = made(task="goal", render_mode="rgb_array"), []
            calls = [lambda: env.reset(seed=1, options=WALK), *(lambda: env.step(FORWARD_LEFT) for _ in range(4))]  # type: ignore[list-item]
            calls += [lambda: env.reset(options=SAME), lambda: env.step(RIGHT), lambda: env.reset(options=SAME), lambda: env.step(RIGHT)]
            for call in calls:
                given: Any = call()
                arrays = {**given[0], **{key: value for key, value in given[-1].items() if isinstance(value, np.ndarray)}}
                arrays["picture"] = env.render()
                told.append({key: value.copy() for key, value in arrays.items()})
                for value in arrays.values():
                    value[...] = 0 if spoil else value
            env.close()
            return told

        for spoiled, clean in zip(life(True), life(False), strict=True):
            assert spoiled.keys() == clean.keys()
            for key, value in clean.items():
                np.testing.assert_array_equal(spoiled[key], value)

    def test_order_is_enforced(self) -> None:
        env = made(horizon=2, render_mode="rgb_array")
        for early in (lambda: env.step(0), env.render):
            with pytest.raises(ResetNeeded):
                early()
        env.reset(seed=0)
        for wrong in (8, -1, 1.0, np.array([0]), "forward"):
            with pytest.raises(ValueError, match="an action is one integer, 0 to 7"):
                env.step(wrong)  # type: ignore[arg-type]
        assert [env.step(np.int64(0))[3], env.step(0)[3]] == [False, True]
        with pytest.raises(ResetNeeded):
            env.step(0)

    def test_what_the_human_sees_needs_a_mode(self) -> None:
        env = made()
        env.reset(seed=0)
        with pytest.warns(UserWarning, match="without a render_mode"):
            assert env.render() is None


class TestActions:
    def test_they_are_the_labyrinths(self) -> None:
        pytest.importorskip("numba")
        from gtmsm_env.envs import labyrinth_physics

        assert list(ACTIONS) == list(labyrinth_physics.ACTIONS)
        for name, (look, _, strafe, forward, *others) in ACTIONS.items():
            assert (forward, -strafe, -look / 20) == labyrinth_physics.ACTIONS[name]
            assert not any(others)

    @pytest.mark.parametrize("action", range(8))
    def test_each_does_what_the_table_says(self, action: int) -> None:
        ahead, left, turn = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1), (1, 0, 1), (1, 0, -1)][action]
        env = made()
        env.reset(seed=0)
        placed(env, yaw=90)
        before = env._seen
        *_, info = env.step(action)
        assert env._lab.num_steps() == 4
        speeds = np.array([0.16, 0.29, 0.42, 0.42 * 0.904 + 0.16]) * 320  # friction is .096, and up to the stop speed .03
        headings = pi / 2 + turn * TURN * np.arange(1, 5) / 4
        if turn == 0:
            assert info["displacement"] == pytest.approx([ahead * speeds.sum() * FRAME / 100, left * speeds.sum() * FRAME / 100, 0])
        assert np.sign(info["displacement"][0]) == ahead
        assert info["displacement"][2] == pytest.approx(turn * TURN)
        assert info["pose"][2] == pytest.approx(headings[-1])
        assert info["pose"][:2] == pytest.approx([-info["displacement"][1], info["displacement"][0]])  # north is ahead, west is left
        if ahead and turn:
            assert np.sign(info["displacement"][1]) == turn
        assert not np.array_equal(env._seen["RGB_INTERLEAVED"], before["RGB_INTERLEAVED"])

    def test_what_is_seen_turns_with_the_agent(self) -> None:
        """Looking left moves what is seen to the right; so it does in the double, whose frames depend on its pose alone."""
        env = made(frame_size=64, task=None)
        env.reset(seed=3)
        placed(env)
        before = env._seen["RGB_INTERLEAVED"].astype(float)
        after = env.step(LEFT)[0]["frame"].astype(float)

        def unlike(shift: int) -> float:
            return float(np.abs(after[32, 12 + shift : 52 + shift] - before[32, 12:52]).mean())

        assert min(range(-12, 13), key=unlike) == pytest.approx(32 * np.tan(TURN), abs=1)

    def test_a_table_of_ones_own(self) -> None:
        env = made(actions=[[0, 0, 0, 0, 0, 0, 0], [-512, 0, 0, 0, 0, 0, 0]], frame_skip=2)
        _, info = env.reset(seed=0)
        assert env.step(0)[-1]["displacement"].tolist() == [0, 0, 0]
        turned = env.step(1)[-1]
        assert env._lab.num_steps() == 4
        assert turned["displacement"] == pytest.approx([0, 0, radians(2 * 512 * 0.1056)])
        assert turned["pose"][:2] == pytest.approx(info["pose"][:2])

    def test_turns_add_up_to_a_circle(self) -> None:
        env = made(actions=[[-375, 0, 0, 0, 0, 0, 0]], frame_skip=1)  # 39.6 degrees; a hundred are eleven circles
        _, start = env.reset(seed=0)
        infos = [env.step(0)[-1] for _ in range(100)]
        assert [info["displacement"][2] for info in infos] == pytest.approx([radians(39.6)] * 100)
        assert sin((infos[-1]["pose"] - start["pose"])[2]) == pytest.approx(0, abs=1e-9)


class TestDisplacement:
    def walked(self, env: DeepMindLabEnv, steps: int = 60) -> Any:
        env.reset(seed=4, options=WALK)
        placed(env)
        actions = np.random.default_rng(0).choice([FORWARD, FORWARD_LEFT, FORWARD_RIGHT, LEFT, STRAFE_RIGHT, BACKWARD], steps)
        return [env.step(int(action))[-1] for action in actions]

    def test_from_poses(self) -> None:
        """Displacements added up, each in the frame of its time, lead along the true way."""
        env = made(units=50)
        x, y, heading = 0.0, 0.0, 0.0
        for info in self.walked(env):
            ahead, left, turn = info["displacement"]
            x, y = x + cos(heading) * ahead - sin(heading) * left, y + sin(heading) * ahead + cos(heading) * left
            heading += turn
            assert info["pose"][:2] == pytest.approx([x, y])
            assert sin(info["pose"][2] - heading) == pytest.approx(0, abs=1e-9)
        assert env._lab._place / 50 == pytest.approx([x, y])
        assert hypot(x, y) > 0.5

    @pytest.mark.parametrize("frame_skip", [1, 4])
    def test_from_velocities_where_there_are_no_poses(self, frame_skip: int) -> None:
        walks = []
        for level in ("room", "room_without_poses"):
            env = made(level, frame_skip=frame_skip)
            env.reset(seed=0, options=WALK)
            infos = []
            for step, action in enumerate(np.random.default_rng(0).integers(8, size=300)):
                if step % 6 == 0:  # no wall is met on the way: who is stopped within a step is not told by how fast he is at its end
                    env._lab._place = np.zeros(2)
                    env._seen = env._lab.observations()
                infos.append(env.step(int(action))[-1])
            assert all(("pose" in info) == (level == "room") for info in infos)
            walks.append(np.array([info["displacement"] for info in infos]))
            env.close()
        true, told = walks
        assert told[:, 2] == pytest.approx(true[:, 2])
        assert np.abs(true[:, :2]).max() > 0.045 * frame_skip
        # a frame moves by the velocity that it ends with, so one is exact; within four, neither speed nor direction changes quite evenly
        assert np.abs(told - true)[:, :2].max() < (1e-9 if frame_skip == 1 else 0.009)

    def test_a_wall_stops_it(self) -> None:
        for level in ("room", "room_without_poses"):
            env = made(level)
            env.reset(seed=0)
            placed(env, x=150)
            infos = [env.step(FORWARD)[-1] for _ in range(8)]
            assert infos[0]["displacement"][0] > 0.05
            assert infos[-1]["displacement"] == pytest.approx([0, 0, 0])
            env.close()

    def test_neither_is_told_where_the_level_has_neither(self) -> None:
        env = made("room_without_either", task=None)
        for info in (env.reset(seed=0, options=WALK)[1], env.step(FORWARD)[-1]):
            assert info.keys() == {"phase", "world_steps"}

    def test_only_what_the_level_has_is_asked_for(self) -> None:
        for level, has in double.LEVELS.items():
            env = made(level)
            env.reset(seed=0)
            wanted = {"RGB_INTERLEAVED", "MAP_FRAME_NUMBER", *has}
            assert set(env._lab._names) == (wanted if "room_without" in level else wanted - {"none"})
            env.close()

    def test_a_jump_is_no_displacement(self) -> None:
        """Neither a teleporter's nor a new map's, but the next step's is told again."""
        for level, reward in (("room_with_a_teleporter", 0), ("room_with_a_goal", 10), ("room_with_a_goal_without_poses", 10)):
            env = made(level)
            env.reset(seed=0)
            placed(env, x=85)
            told = [env.step(FORWARD) for _ in range(4)]
            jumped = [i for i, (*_, info) in enumerate(told) if "displacement" not in info]
            assert len(jumped) == 1 < jumped[0] + 1 < 4
            assert [step[1] for step in told] == [reward if i in jumped else 0 for i in range(4)]
            env.close()


SHORT = {"episodeLengthSeconds": "0.5"}  # 30 frames: seven steps, and two frames of the eighth


class TestEnds:
    @pytest.mark.parametrize("task", ["level", None])
    def test_the_level_ends(self, task: Any) -> None:
        env = made(task=task, config=SHORT)
        env.reset(seed=0)
        for _ in range(7):
            observation, _, *ended, _ = env.step(FORWARD_LEFT)
            assert ended == [False, False]
        last, reward, *ended, info = env.step(FORWARD_LEFT)
        assert ended == [task == "level", task is None]
        assert reward == 0
        assert np.array_equal(last["frame"], observation["frame"])  # the engine shows nothing any more
        assert "displacement" not in info
        with pytest.raises(ResetNeeded):
            env.step(FORWARD)
        with pytest.raises(ResetNeeded, match="the level has left it"):
            env.reset(options=SAME)
        env.reset()
        assert env.step(FORWARD)[-1]["world_steps"] == 1

    def test_the_horizon_truncates_tasks_alone(self) -> None:
        env = made(horizon=3)
        env.reset(seed=0, options=WALK)
        assert not any(env.step(LEFT)[3] for _ in range(6))
        for _ in range(2):
            env.reset(options=SAME)
            assert [env.step(LEFT)[2:4] for _ in range(3)] == [(False, False)] * 2 + [(False, True)]
        endless = made(horizon=None, config={"episodeLengthSeconds": "600"})
        env.close()
        endless.reset(seed=0)
        assert not any(endless.step(LEFT)[3] for _ in range(600))

    def test_the_levels_reward(self) -> None:
        """It is task "level"'s alone, and a new map ends the worlds of the other tasks."""
        for task, received, over in (("level", 10, False), (None, 0, True)):
            env = made("room_with_a_goal", task=task)
            env.reset(seed=0)
            placed(env, x=99)
            _, reward, terminated, truncated, _ = env.step(FORWARD)
            assert (reward, terminated, truncated) == (received, False, over)
            with pytest.raises(ResetNeeded, match="the level has left it"):
                env.reset(options=SAME)
            env.close()


class TestWalks:
    def test_a_walk_and_a_task_in_its_world(self) -> None:
        env = made()
        _, info = env.reset(seed=0, options=WALK)
        assert (info["phase"], info["world_steps"]) == ("walk", 0)
        placed(env)
        for step in range(1, 11):
            observation, reward, terminated, truncated, info = env.step(FORWARD)
            assert (reward, terminated, truncated) == (0, False, False)
            assert (info["phase"], info["world_steps"]) == ("walk", step)
        again, told = env.reset(options=SAME)
        assert np.array_equal(again["frame"], observation["frame"])
        assert np.array_equal(told["pose"], info["pose"])
        assert (told["phase"], told["world_steps"]) == ("task", 10)
        assert told["displacement"].tolist() == [0, 0, 0]
        placed_there = env.step(FORWARD)[-1]
        assert env._lab.num_steps() == 44  # the engine was not reset
        _, told = env.reset(options=SAME)  # from where it stands, as nothing can put it back
        assert np.array_equal(told["pose"], placed_there["pose"])
        _, new = env.reset(options=WALK)
        assert new["world_steps"] == 0
        assert not np.array_equal(new["pose"], told["pose"])

    @pytest.mark.parametrize("action", ["level", None])
    def test_a_walk_gives_no_reward(self, action: Any) -> None:
        env = made("room_with_a_goal", task=action)
        env.reset(seed=0, options=WALK)
        env._lab._frame = lambda *_: setattr(env._lab, "_age", env._lab._age + 1) or 5.0
        assert env.step(FORWARD)[1] == 0

    @pytest.mark.parametrize(
        ("level", "config", "message"),
        [
            ("room", SHORT, "after 8 steps of it the level 'room' ended its episode.*episodeLengthSeconds"),
            ("room_with_a_goal", {}, "put the agent elsewhere"),
            ("room_with_a_goal_without_poses", {}, "put the agent elsewhere"),
            ("room_with_a_teleporter", {}, "put the agent elsewhere"),
        ],
    )
    def test_an_interrupted_walk_is_an_error(self, level: str, config: Any, message: str) -> None:
        env = made(level, config=config)
        env.reset(seed=0, options=WALK)
        placed(env, x=-50)
        with pytest.raises(RuntimeError, match=message):
            [env.step(FORWARD) for _ in range(20)]
        with pytest.raises(ResetNeeded):
            env.step(FORWARD)
        with pytest.raises(ResetNeeded):
            env.reset(options=SAME)

    def test_walks_are_recorded(self) -> None:
        env = gym.make(NAME, level="room", task=None)
        walk = record(env, 40, seed=0)
        assert walk.frames.shape == (40, 32, 32, 3)
        assert len(np.unique(walk.frames.numpy().reshape(40, -1), axis=0)) > 20
        assert walk.actions.max() > 4
        again = record(env, 40, seed=0)
        assert (walk.frames == again.frames).all()


class TestGoals:
    def walked(self, **kwargs: Any) -> DeepMindLabEnv:
        env = made(task="goal", **kwargs)
        observation, _ = env.reset(seed=0, options=WALK)
        assert not observation["goal"].any()
        placed(env, x=-80)
        for _ in range(8):
            env.step(FORWARD)
        return env

    def test_a_goal_is_a_frame_of_the_walk_and_arrival_is_told(self) -> None:
        env = made(task="goal")
        observation, info = env.reset(seed=0, options=WALK)
        seen = [(info["pose"], observation["frame"])]
        placed(env, *env._lab._place, yaw=130)  # a yaw of 180 is among the goals
        for _ in range(12):
            observation, *_, info = env.step(LEFT)
            seen.append((info["pose"], observation["frame"]))
        goals = set()
        for _ in range(12):
            observation, start = env.reset(options=SAME)
            assert any(np.array_equal(start["goal_pose"], pose) and np.array_equal(observation["goal"], frame) for pose, frame in seen)
            goals.add(start["goal_pose"][2])
            for _ in range(60):
                observation, reward, terminated, truncated, info = env.step(RIGHT)
                off = (info["pose"] - start["goal_pose"])[2]
                near = abs((off + pi) % (2 * pi) - pi) <= radians(12.7) + 1e-9
                assert (reward, terminated, truncated) == (float(near), near, False)
                if terminated:
                    break
            assert terminated
        assert len(goals) > 3

    def test_a_long_walk_is_remembered_by_its_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(adapter, "REMEMBERED", 3)
        env = made(task="goal")
        env.reset(seed=0, options=WALK)
        poses = [env.step(LEFT)[-1]["pose"][2] for _ in range(20)]
        goals = {env.reset(options=SAME)[1]["goal_pose"][2] for _ in range(20)}
        assert goals == {poses[-3]}  # of the last three those that are not within 12.7 degrees

    def test_the_place_counts_too(self) -> None:
        env = self.walked(goal_radius=0.05)
        _, start = env.reset(options=SAME)
        placed(env, *(start["goal_pose"][:2] * 100 + [0, 20]))
        assert not env.step(LEFT)[2]
        placed(env, *(start["goal_pose"][:2] * 100 + [0, 4]))
        assert env.step(LEFT)[1:3] == (1, True)

    def test_the_same_frame_counts_wherever_it_is_seen(self) -> None:
        env = self.walked(goal_radius=0.0, goal_angle=0.0)
        observation, _ = env.reset(options=SAME)
        env._lab._view = lambda: observation["goal"].copy()
        assert env.step(LEFT)[1:3] == (1, True)

    def test_a_level_that_leaves_the_world_truncates(self) -> None:
        env = self.walked(level="room_with_a_goal")
        env.reset(options=SAME)
        placed(env, x=99, yaw=90)
        env._lab._velocity = np.array([300.0, 0.0])
        assert env.step(FORWARD)[1:4] == (0, False, True)

    def test_what_it_needs(self) -> None:
        env = made(task="goal")
        for options in (None, {"phase": "task"}):
            with pytest.raises(ValueError, match="walk first"):
                env.reset(seed=0, options=options)
        env.reset(options=WALK)
        with pytest.raises(ValueError, match="the walk came to none; walk longer"):
            env.reset(options=SAME)
        for _ in range(4):
            assert env.step(LEFT)[-1]["phase"] == "walk"
        env.reset(options=SAME)
        env.close()
        for level in ("room_without_poses", "room_without_either"):
            env = made(level, task="goal")
            with pytest.raises(ValueError, match="tells arrival by poses"):
                env.reset(options=WALK)
            env.close()


class TestTheModule:
    def printed(self, code: str, folder: Path) -> str:
        """What is printed in a fresh process, since a fork of one that has threads warns."""
        start = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import deepmind_lab_double
deepmind_lab_double.LEVELS["seekavoid_arena_01"] = deepmind_lab_double.LEVELS["room"]
sys.modules["deepmind_lab"] = deepmind_lab_double
"""
        run = subprocess.run([sys.executable, "-W", "error", "-c", start + code], cwd=folder, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return run.stdout

    def test_the_documentation_runs(self, tmp_path: Path) -> None:
        text = (Path(__file__).parents[1] / "docs" / "deepmind_lab.md").read_text()
        one, many = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        code = f"{one}print(observation['goal'].any())\n{many}print({{name: array.shape for name, array in np.load('walks.npz').items()}})"
        assert "num_envs=8" in code
        assert "range(255)" in code
        assert self.printed(code.replace("num_envs=8", "num_envs=2").replace("range(255)", "range(30)"), tmp_path).splitlines() == [
            "True",
            "{'frames': (2, 31, 32, 32, 3), 'actions': (2, 30), 'displacements': (2, 30, 3)}",
        ]

    def test_it_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "deepmind_lab", None)
        for make in (DeepMindLabEnv, lambda: gym.make(NAME), lambda: gym.make_vec(NAME, num_envs=2)):
            with pytest.raises(ModuleNotFoundError, match=r"is on no package index.*bazel build.*pip install"):
                make()

    def test_what_it_needs_is_missing(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """As dm_env, which the wheel imports: that error says more than ours would."""
        (tmp_path / "deepmind_lab.py").write_text("import no_such_module_at_all")
        monkeypatch.delitem(sys.modules, "deepmind_lab")
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
            DeepMindLabEnv()

    def test_one_engine_a_process(self) -> None:
        first, second = made(), made("room_with_a_goal")
        first.reset(seed=0)
        with pytest.raises(RuntimeError, match=r"that of the level 'room' does in this one.*close\(\).*make_vec"):
            second.reset(seed=0)
        first.close()
        first.close()
        second.reset(seed=0)
        with pytest.raises(ResetNeeded):
            first.step(0)
        with pytest.raises(RuntimeError, match="one engine"):
            first.reset()
        del second  # who is forgotten gives the process free too
        gc.collect()
        first.reset()
        first.step(0)

    def test_an_engine_that_fails_holds_nothing(self) -> None:
        for wrong in ({"level": "hall"}, {"config": {"noSuchSetting": "1"}}):
            with pytest.raises(RuntimeError, match="Failed to init environment"):
                DeepMindLabEnv(**{"level": "room", **wrong}).reset()
        made().reset()

    def test_make_vec_gives_every_row_a_process(self, tmp_path: Path) -> None:
        code = f"""
import gymnasium as gym, numpy as np, gtmsm_env
envs = gym.make_vec("{NAME}", num_envs=2, level="room", horizon=5, max_episode_steps=3, autoreset_mode="SameStep")
assert not deepmind_lab_double._open  # no engine in this process
observation, info = envs.reset(seed=7, options={{"phase": "walk"}})
print(observation["frame"].shape, info["phase"], info["displacement"].shape, info["_pose"])
frames = [observation["frame"]]
for _ in range(4):
    observation, reward, terminated, truncated, info = envs.step(np.array([0, 6]))
    frames.append(observation["frame"])
    print(terminated, truncated)
envs.reset(seed=7)
for _ in range(3):
    *_, truncated, info = envs.step(np.array([0, 6]))
print(truncated, "final_obs" in info, envs.metadata["autoreset_mode"])
envs.close()
for row, action in enumerate((0, 6)):
    env = gym.make("{NAME}", level="room")
    told = [env.reset(seed=7 + row, options={{"phase": "walk"}})[0], *(env.step(action)[0] for _ in range(4))]
    print(all(np.array_equal(one["frame"], frame[row]) for one, frame in zip(told, frames)))
    env.close()
"""
        assert self.printed(code, tmp_path).splitlines() == [
            "(2, 32, 32, 3) ['walk' 'walk'] (2, 3) [ True  True]",
            *["[False False] [False False]"] * 4,
            "[ True  True] True AutoresetMode.SAME_STEP",
            "True",
            "True",
        ]


class TestArguments:
    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"frame_size": 2}, "frame_size must be at least 4"),
            ({"frame_skip": 0}, "frame_skip must be at least 1"),
            ({"frame_skip": 2.5}, "must be whole numbers"),
            ({"units": 0}, "units must be at least 0.001"),
            ({"units": float("nan")}, "units"),
            ({"goal_radius": -1}, "goal_radius"),
            ({"goal_angle": 181}, "goal_angle must be at least 0 and at most 180"),
            ({"horizon": 0}, "horizon must be at least 1"),
            ({"task": "reward"}, "task must be one of 'level', 'goal', None"),
            ({"renderer": "glx"}, "renderer must be one of 'software', 'hardware'"),
            ({"render_mode": "human"}, "render_mode must be one of None, 'rgb_array'"),
            ({"config": {"fps": "30"}}, r"leaves width, height, fps to the environment.*\['fps'\]"),
            ({"config": {"episodeLengthSeconds": 60}}, "config must map texts to texts"),
            ({"config": ["fps"]}, "config must map texts to texts"),
            ({"actions": []}, "actions must be one row or more of 7 integers"),
            ({"actions": [[0] * 6]}, "actions must be one row or more of 7 integers"),
            ({"actions": [[0.5] * 7]}, "actions must be one row or more of 7 integers"),
            ({"actions": 8}, "actions must be one row or more of 7 integers"),
            ({"actions": [[0] * 7, [513, 0, 0, 0, 0, 0, 0]]}, "action 1 must have 'look right, pixels a frame' from -512 to 512, got 513"),
            ({"actions": [[0, 0, 0, 0, -1, 0, 0]]}, "action 0 must have 'fire' from 0 to 1, got -1"),
        ],
    )
    def test_wrong_ones(self, kwargs: dict[str, Any], message: str) -> None:
        for make in (made, lambda **given: gym.make_vec(NAME, num_envs=2, **given)):
            with pytest.raises(ValueError, match=message):
                make(**kwargs)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"phase": "dream"}, "phase must be 'walk' or 'task'"),
            ({"world": "old"}, "world 'new' or 'same'"),
            ({"phase": "walk", "world": "same"}, "it needs phase 'task'"),
            ({"pose": (0, 0, 0)}, r"phase and world, got also \['pose'\]"),
        ],
    )
    def test_wrong_options(self, options: dict[str, Any], message: str) -> None:
        env = made()
        with pytest.raises(ResetNeeded, match="there is none yet"):
            env.reset(options=SAME)
        env.reset(seed=0)
        with pytest.raises(ValueError, match=message):
            env.reset(options=options)
        env.step(0)  # nothing has been touched
