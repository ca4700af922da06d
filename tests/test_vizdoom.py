"""The walking experiment's world in another engine, ViZDoom; skipped where that is not installed."""

from __future__ import annotations

import gc
import struct
import subprocess
import sys
import warnings
from math import cos, hypot, pi, radians, sin, tan
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

import gtmsm_env  # noqa: F401  registers the worlds
from gtmsm_env.data import record
from gtmsm_env.envs.first_person import ACTIONS, wrapped

pytest.importorskip("vizdoom")

import vizdoom

from gtmsm_env.envs.vizdoom import FIELD_OF_VIEW, IDLE, KEPT, VizDoomEnv
from gtmsm_env.envs.vizdoom_room import CAMERA_HEIGHT, HEIGHT, PANELS, RADIUS, TEXELS, TEXTURES, Room, build
from gtmsm_env.envs.vizdoom_walker import Wanderer

WORLD = "GTMSM-VizDoom-v0"
WALK, SAME = {"phase": "walk"}, {"phase": "task", "world": "same"}
FORWARD, BACKWARD, STRAFE_LEFT, STRAFE_RIGHT, LEFT, RIGHT, FORWARD_LEFT, FORWARD_RIGHT = range(8)
TURN = 4 * 384 * 2 * pi / 65536  # the engine's nearest to 8.448 degrees in four tics


def at(*pose: float) -> dict[str, Any]:
    return {"phase": "walk", "pose": pose}


def ahead_and_left(pose: Any, move: Any) -> Any:
    return [cos(pose[2]) * move[0] + sin(pose[2]) * move[1], cos(pose[2]) * move[1] - sin(pose[2]) * move[0]]


class TestWhatIsSeen:
    @pytest.mark.parametrize("pose", [(1.0, 2.0, 0.0), (2.0, 1.2, pi / 2), (3.1, 2.4, pi), (1.5, 2.9, 3 * pi / 2)])
    def test_the_camera_is_as_told(self, pose: tuple[float, float, float]) -> None:
        """A blue wall between a red floor and a red ceiling, and the corners where it ends, lie where a pinhole camera sees them."""
        env = VizDoomEnv(frame_size=192, task=None)
        env.reset(seed=0)
        env.room = Room((4.0, 5.0), ("REDWALL", "REDWALL", *(("ZZWOLF9",) * PANELS + ("SKIN2",) * PANELS) * 2))
        frame = env.look(np.array(pose)).astype(int)
        focal = 96 / tan(radians(env.field_of_view) / 2)
        assert (env.field_of_view, env.camera_height, env.room_height, env.radius) == (FIELD_OF_VIEW, CAMERA_HEIGHT, HEIGHT, RADIUS)
        x, y, heading = pose
        far = abs((4 - x if cos(heading) > 0 else -x) if abs(cos(heading)) > 0.5 else (5 - y if sin(heading) > 0 else -y))
        east_west = abs(cos(heading)) > 0.5
        blue = frame[:, 96, 2] > frame[:, 96, 0]
        if east_west:  # the blue walls
            rows = np.flatnonzero(blue)
            assert rows[0] == pytest.approx(96 - focal * (HEIGHT - CAMERA_HEIGHT) / far, abs=1.5)
            assert rows[-1] + 1 == pytest.approx(96 + focal * CAMERA_HEIGHT / far, abs=1.5)
        else:
            assert not blue.any()
        columns = np.flatnonzero((frame[96, :, 2] > frame[96, :, 0]) == east_west)  # of the wall ahead, to where the next begins
        left, right = (5 - y, y) if heading == 0 else (y, 5 - y) if heading == pi else (x, 4 - x) if heading == pi / 2 else (4 - x, x)
        assert columns[0] == pytest.approx(max(96 - focal * left / far, 0), abs=1.5)
        assert columns[-1] + 1 == pytest.approx(min(96 + focal * right / far, 192), abs=1.5)
        env.close()

    def test_a_small_frame_is_the_mean_of_a_large_one(self) -> None:
        large, small = VizDoomEnv(frame_size=192), VizDoomEnv()
        for step in range(4):
            frames = [env.step(FORWARD_LEFT)[0]["frame"] if step else env.reset(seed=3)[0]["frame"] for env in (large, small)]
            mean = frames[0].reshape(32, 6, 32, 6, 3).mean(axis=(1, 3))
            assert np.abs(mean - frames[1]).max() <= 0.5
        for env in (large, small):
            env.close()

    def test_textures_are_there_and_of_the_size_told(self) -> None:
        """Read from the file that comes with the engine; the engine itself would draw what is missing in its own way and say nothing."""
        file = (Path(vizdoom.__file__).parent / "freedoom2.wad").read_bytes()
        count, at = struct.unpack("<ii", file[4:12])
        lumps = {file[k + 8 : k + 16].rstrip(b"\0"): struct.unpack("<ii", file[k : k + 8]) for k in range(at, at + 16 * count, 16)}
        start, length = lumps[b"TEXTURE1"]
        table = file[start : start + length]
        (many,) = struct.unpack("<i", table[:4])
        offsets = struct.unpack(f"<{many}i", table[4 : 4 + 4 * many])
        sizes = {table[k : k + 8].rstrip(b"\0").decode(): struct.unpack("<hh", table[k + 12 : k + 16]) for k in offsets}
        assert len(set(TEXTURES)) == len(TEXTURES) > 50
        assert {sizes.get(name) for name in TEXTURES} == {(TEXELS, TEXELS)}

    def test_nothing_moves_but_the_agent(self) -> None:
        env, unseen, number = VizDoomEnv(split="train", task=None), set(TEXTURES), 0
        while unseen:
            room = build("train", number)
            number += 1
            if not unseen & set(room.textures):
                continue
            unseen -= set(room.textures)
            for heading in (0, pi / 2, pi, 3 * pi / 2):
                env.reset(options={"room": number - 1, **at(room.size[0] / 2, room.size[1] / 2, heading)})
                before = env._picture
                for tics in (8, 27, 64):
                    env._game.make_action(IDLE, tics)
                    env._read()
                    assert np.array_equal(before, env._picture)
        assert number < 40
        env.close()

    def test_what_is_seen_on_the_move_is_what_is_seen_at_rest(self) -> None:
        """From the same pose: a walking agent's view does not bob."""
        env = VizDoomEnv(frame_size=192, task=None, speed=0.4)
        env.reset(seed=0, options={"room": 1, **at(0.5, 1.75, 0.1)})
        for _ in range(8):
            observation, *_, info = env.step(FORWARD)
            off = np.abs(observation["frame"].astype(int) - env.look(info["pose"])).max(axis=-1)
            assert (off > 0).mean() < 0.01
        env.close()

    def test_rooms(self) -> None:
        assert build("train", 7) == build("train", 7)
        assert len({build(*which) for which in (("train", 7), ("train", 8), ("validation", 7), ("test", 7))}) == 4
        for number in range(20):
            room = build("test", number)
            assert 3.5 <= min(room.size) <= max(room.size) <= 5.5
            assert len(set(room.textures)) == 2 + 4 * PANELS
        with pytest.raises(ValueError, match="numbered 0 to 9999"):
            build("test", 10_000)


class TestHowItMoves:
    @pytest.mark.parametrize("action", range(8))
    def test_actions_do_what_the_table_says(self, action: int) -> None:
        ahead, left, look = list(ACTIONS.values())[action]
        env = VizDoomEnv(task=None)
        env.reset(seed=0, options=at(1.75, 1.75, 0.7))
        *_, info = env.step(action)
        moved, first = info["displacement"], 0.15 * sum((1 - KEPT**tic) / 4 for tic in range(1, 5))
        assert moved[2] == pytest.approx(TURN * look, abs=1e-9)
        assert moved[:2] == pytest.approx([first * ahead, first * left], abs=4e-3 if look else 2e-5)
        if look and ahead:
            assert moved[1] * look > 0  # it turns before it moves
        env.close()

    @pytest.mark.parametrize("kwargs", [{}, {"frame_skip": 2, "speed": 0.1, "turn": 5.0}, {"frame_skip": 7, "speed": 0.3}])
    def test_dooms_law_by_hand(self, kwargs: dict[str, Any]) -> None:
        env = VizDoomEnv(task=None, **kwargs)
        _, info = env.reset(seed=0, options=at(1.75, 1.75, 0.3))
        x, y, heading = info["pose"]
        u = v = 0.0
        for action in np.random.default_rng(0).integers(8, size=10):
            before = heading
            ahead, left, look = list(ACTIONS.values())[action]
            for _ in range(env.frame_skip):
                heading += look * env.turn / env.frame_skip
                push = env.speed / env.frame_skip * (1 - KEPT)
                u += push * (cos(heading) * ahead - sin(heading) * left)
                v += push * (sin(heading) * ahead + cos(heading) * left)
                x, y, u, v = x + u, y + v, KEPT * u, KEPT * v
            *_, info = env.step(int(action))
            assert info["pose"][:2] == pytest.approx([x, y], abs=1e-3)
            assert wrapped(info["pose"][2] - heading) == pytest.approx(0, abs=1e-9)
            assert info["velocity"] == pytest.approx(ahead_and_left([0, 0, heading], [u * env.frame_skip, v * env.frame_skip]), abs=1e-3)
            assert info["displacement"][2] == pytest.approx(heading - before, abs=1e-9)
        env.close()

    def test_displacements_are_differences_of_poses_in_the_agents_frame(self) -> None:
        env = VizDoomEnv(task=None)
        _, info = env.reset(seed=1, options=WALK)
        assert info["displacement"].tolist() == [*info["velocity"].tolist(), 0] == [0, 0, 0]
        for action in np.random.default_rng(1).integers(8, size=80):  # walls are touched too
            before = info["pose"]
            *_, info = env.step(int(action))
            assert info["displacement"][:2] == pytest.approx(ahead_and_left(before, (info["pose"] - before)[:2]))
            assert wrapped(info["displacement"][2] - (info["pose"] - before)[2]) == pytest.approx(0)
        env.close()

    def test_momentum(self) -> None:
        """A coasting agent keeps .90625 of its speed a tic and its direction in the world, whatever it looks at."""
        env = VizDoomEnv(task=None)
        env.reset(seed=0, options=at(0.5, 1.75, 0.0))
        for _ in range(14):
            *_, info = env.step(FORWARD)
        assert info["displacement"][0] == pytest.approx(0.15, rel=0.01)
        place, moved = info["pose"], info["displacement"][0]
        *_, info = env.step(LEFT)
        one = info["pose"] - place
        *_, info = env.step(LEFT)
        two = info["pose"] - place - one
        assert one[0] / moved == pytest.approx(sum(KEPT**tic for tic in range(1, 5)) / 4, rel=0.01)
        assert two[0] / one[0] == pytest.approx(KEPT**4, rel=0.01)
        assert abs(one[1]) + abs(two[1]) < 1e-3
        env.close()

    def test_walls_are_slid_along(self) -> None:
        env = VizDoomEnv(task=None)
        env.reset(seed=0, options={"room": 0, **at(0.5, 1.0, pi - 0.5)})
        for _ in range(12):
            *_, info = env.step(FORWARD)
        assert info["pose"][0] == pytest.approx(RADIUS, abs=2e-3)
        assert info["pose"][1] > 1.3
        assert info["displacement"][0] < 0.1  # what was moved, not what was wished
        env.close()

    def test_an_agent_put_down_beside_a_wall_can_leave_it(self) -> None:
        env = VizDoomEnv(task=None)
        env.reset(seed=0, options=at(RADIUS, RADIUS, 0.0))
        *_, info = env.step(FORWARD)
        assert info["displacement"][0] > 0.03
        env.close()

    def test_one_that_only_turns(self) -> None:
        env = VizDoomEnv(speed=0, turn=9.3, goal_angle=4.65)
        _, info = env.reset(seed=0)
        place = info["pose"][:2]
        assert info["goal_pose"][:2] == pytest.approx(place)
        arrived = False
        for step in range(40):
            if arrived:
                break
            *_, arrived, _, info = env.step(step % 4 if step < 4 else LEFT)
            assert info["pose"][:2].tolist() == place.tolist()
        assert arrived
        env.close()


class TestTheWorld:
    @pytest.mark.parametrize("kwargs", [{}, {"task": None, "split": "train", "frame_size": 64, "frame_skip": 2}])
    def test_gymnasiums_checker(self, kwargs: dict[str, Any]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            env = gym.make(WORLD, disable_env_checker=True, **kwargs)
            check_env(env.unwrapped)
            env.close()

    def test_a_seed_makes_the_walk_byte_for_byte(self) -> None:
        def walked(seed: int, split: str = "test") -> list[bytes]:
            env = VizDoomEnv(split=split)
            observation, info = env.reset(seed=seed)
            told = [observation["goal"].tobytes()]
            for action in np.random.default_rng(0).integers(8, size=20):
                told += [observation["frame"].tobytes(), info["pose"].tobytes(), info["displacement"].tobytes()]
                observation, *_, info = env.step(int(action))
            observation, _ = env.reset()
            env.close()
            return [*told, observation["frame"].tobytes()]

        first = walked(5)
        assert first == walked(5)
        assert not set(first[1::3]) & set(walked(6)[1::3])
        assert not set(first[1::3]) & set(walked(5, "train")[1::3])

    def test_goals_after_a_walk_are_where_it_was_and_it_goes_on_from_its_end(self) -> None:
        env = VizDoomEnv()
        observation, info = env.reset(seed=2, options=WALK)
        been = [(info["pose"].tolist(), observation["frame"].tobytes())]
        for action in np.random.default_rng(0).choice([FORWARD, FORWARD, FORWARD_LEFT, LEFT], 50):
            observation, reward, terminated, truncated, info = env.step(int(action))
            been.append((info["pose"].tolist(), observation["frame"].tobytes()))
            assert not any((observation["goal"].any(), reward, terminated, truncated))
            assert info["phase"] == "walk"
            assert "goal_pose" not in info
        assert info["world_steps"] == 50
        end, seen, onward = info, observation["frame"], []
        for _ in range(3):
            observation, info = env.reset(options=SAME)
            assert np.array_equal(observation["frame"], seen)
            assert np.array_equal(info["pose"], end["pose"])
            assert np.array_equal(info["velocity"], end["velocity"])
            assert (info["goal_pose"].tolist(), observation["goal"].tobytes()) in been
            assert (info["phase"], info["room"]) == ("task", end["room"])
            onward.append([env.step(action)[0]["frame"].tobytes() for action in (FORWARD, RIGHT, FORWARD)])
        assert onward[0] == onward[1] == onward[2]
        assert env.step(LEFT)[-1]["world_steps"] == 60
        env.close()

    def test_a_walk_that_went_nowhere_leaves_no_goal(self) -> None:
        env = VizDoomEnv()
        env.reset(seed=0, options=WALK)
        with pytest.raises(ValueError, match="no goal can be drawn; walk longer"):
            env.reset(options=SAME)
        env.close()

    def test_looking_elsewhere_changes_nothing(self) -> None:
        one, other = VizDoomEnv(), VizDoomEnv()
        one.reset(seed=4)
        other.reset(seed=4)
        for action in (FORWARD, FORWARD_LEFT, STRAFE_RIGHT):
            one.step(action)
            expected = other.step(action)[0]["frame"]
            pose = one.room.anywhere(np.random.default_rng(action))
            seen = one.look(pose)
            assert not np.array_equal(seen, expected)
            assert np.array_equal(one.look(pose), seen)
        ours, theirs = one.step(FORWARD), other.step(FORWARD)
        assert np.array_equal(ours[0]["frame"], theirs[0]["frame"])
        assert np.array_equal(ours[-1]["pose"], theirs[-1]["pose"])
        for env in (one, other):
            env.close()

    def test_arrival_takes_the_place_and_the_heading(self) -> None:
        env = VizDoomEnv()
        start = np.array([1.2, 1.5, 0.4])
        for turned, arrives in ((0, True), (radians(12), True), (radians(13.5), False)):
            goal = np.array([1.2 + cos(0.4), 1.5 + sin(0.4), 0.4 + turned])
            observation, info = env.reset(seed=0, options={"room": 5, "pose": start, "goal": goal})
            assert info["pose"] == pytest.approx(start, abs=1e-4)
            assert info["goal_pose"] == pytest.approx(goal)
            assert np.array_equal(observation["goal"], env.look(goal))
            least = env.steps_to_goal()
            assert least == 5  # .7 units at .15 a step
            for step in range(1, 13):
                _, reward, terminated, truncated, info = env.step(FORWARD)
                near = hypot(*(info["pose"] - goal)[:2]) <= 0.3
                assert (reward, terminated, truncated) == ((1, True, False) if near and arrives else (0, False, False))
                if near:
                    assert step >= least
                    break
            assert near
        env.reset(options={"room": 5, "pose": start, "goal": (*start[:2], start[2] + 2 * TURN + radians(12.8))})
        assert env.steps_to_goal() == 3
        env.close()

    def test_the_same_frame_is_the_goal_wherever_it_is_seen(self) -> None:
        env = VizDoomEnv()
        env.reset(seed=0, options={"room": 5, "pose": (1.2, 1.5, 0.4), "goal": (2.5, 2.5, 2.0)})
        seen = env.step(LEFT)[0]["frame"]
        env.reset(seed=0, options={"room": 5, "pose": (1.2, 1.5, 0.4), "goal": (2.5, 2.5, 2.0)})
        env._goal_frame = seen
        assert env.step(LEFT)[1:3] == (1, True)
        env.close()

    def test_the_horizon_and_the_order_of_calls(self) -> None:
        env = VizDoomEnv(horizon=3)
        for call in (lambda: env.step(0), lambda: env.reset(options=SAME), lambda: env.look(np.ones(3)), env.steps_to_goal):
            with pytest.raises(ResetNeeded):
                call()
        env.reset(seed=0)
        assert [env.step(LEFT)[3] for _ in range(3)] == [False, False, True]
        with pytest.raises(ResetNeeded, match="ended"):
            env.step(LEFT)
        env.reset(options=WALK)
        assert not any(env.step(LEFT)[3] for _ in range(5))
        for action in (8, -1, 1.0, np.array([0]), "forward"):
            with pytest.raises(ValueError, match="integer from 0 to 7"):
                env.step(action)  # type: ignore[arg-type]
        env.close()
        with pytest.raises(ResetNeeded):
            env.step(0)
        with pytest.raises(ClosedEnvironmentError, match="make another"):
            env.reset()

    def test_what_the_human_sees(self) -> None:
        env = VizDoomEnv(frame_size=192, render_mode="rgb_array")
        with pytest.raises(ResetNeeded, match="render"):
            env.render()
        observation, _ = env.reset(seed=0)
        picture = env.render()
        assert picture is not None
        assert np.array_equal(picture[1::2, ::2], observation["frame"])
        assert all(action in env.action_space for action in env.get_keys_to_action().values())
        env.close()

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"split": "all"}, "split must be one of 'train', 'validation', 'test'"),
            ({"frame_size": 30}, "frame_size must be one of 4, 6, 8"),
            ({"frame_skip": 0}, "frame_skip must be one of"),
            ({"speed": 0.9}, "speed, where not 0, must be at least 0.0166667 and at most 0.833"),
            ({"speed": float("nan")}, "speed"),
            ({"speed": 0.01}, "speed, where not 0"),
            ({"turn": -1}, "turn, where not 0, must be at least 0.0219727 and at most 90"),
            ({"goal_radius": -0.1}, "goal_radius"),
            ({"goal_angle": 4}, "goal_angle must be at least 4.224"),
            ({"task": "reward"}, "task must be one of 'goal', None"),
            ({"horizon": 0}, "horizon must be at least 1"),
            ({"render_mode": "human"}, "render_mode must be one of None, 'rgb_array'"),
        ],
    )
    def test_arguments(self, kwargs: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            VizDoomEnv(**kwargs)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"phase": "dream"}, "phase must be"),
            ({"image": 3}, "got also \\['image'\\]"),
            ({"room": 10_000}, "at most 9999"),
            ({"room": 1.0}, "must be an integer"),
            ({"pose": (0, 0)}, "numbers x, y, heading"),
            ({"pose": (1, 1, float("nan"))}, "numbers x, y, heading"),
            ({"pose": (99, 0, 0)}, "lies outside"),
            ({"room": 3, "goal": (0.1, 2, 0)}, "options\\['goal'\\] touches a wall"),
            ({"goal": (1, 1, 0), "phase": "walk"}, "needs task='goal' and phase 'task'"),
            ({"world": "same", "room": 3}, "no room"),
            ({"pose": (1, 1, 0), "goal": (1, 1.1, 0.1)}, "reached at its start already"),
        ],
    )
    def test_options(self, options: dict[str, Any], message: str) -> None:
        env = VizDoomEnv()
        env.reset(seed=0)
        with pytest.raises(ValueError, match=message):
            env.reset(options=options)
        env.close()

    def test_without_vizdoom_it_says_what_to_install(self, tmp_path: Path) -> None:
        code = f"""
import sys
sys.modules["vizdoom"] = None
import gymnasium, gtmsm_env
try:
    gymnasium.make("{WORLD}")
except ModuleNotFoundError as error:
    print(error)
"""
        run = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert "pip install 'gtmsm-env[vizdoom]'" in run.stdout

    def test_it_needs_no_numba_and_leaves_nothing_behind(self, tmp_path: Path) -> None:
        """Neither where the user works nor where it writes its map, closed or forgotten or not even that."""
        (tmp_path / "work").mkdir()
        (tmp_path / "temporary").mkdir()
        code = f"""
import os, sys, tempfile
sys.modules["numba"] = None
tempfile.tempdir = "{tmp_path / "temporary"}"
from gtmsm_env.envs.vizdoom import VizDoomEnv
one, two, three = VizDoomEnv(), VizDoomEnv(), VizDoomEnv()
for env in (one, two, three):
    env.reset(seed=0)
print(len(os.listdir(tempfile.tempdir)))
one.close()
del two, env
print(len(os.listdir(tempfile.tempdir)))
three.step(0)
"""
        run = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path / "work", capture_output=True, text=True, check=True)
        assert run.stdout == "3\n1\n"
        assert run.stderr == ""
        assert [list(folder.iterdir()) for folder in sorted(tmp_path.iterdir())] == [[], []]

    def test_a_folder_that_the_engine_cannot_take(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "with space"))
        (tmp_path / "with space").mkdir()
        env = VizDoomEnv()
        with pytest.raises(ValueError, match="path has no space"):
            env.reset(seed=0)
        env.close()


class TestBatches:
    @pytest.mark.parametrize("kind", ["sync", "async"])
    def test_rows_are_scalars(self, kind: Any) -> None:
        envs = gym.make_vec(WORLD, num_envs=2, vectorization_mode=kind, horizon=6)
        assert isinstance(envs, SyncVectorEnv if kind == "sync" else AsyncVectorEnv)
        alone = [VizDoomEnv(horizon=6) for _ in range(2)]
        ours, theirs = envs.reset(seed=7), [env.reset(seed=7 + row) for row, env in enumerate(alone)]
        for action in (FORWARD, LEFT, FORWARD_LEFT, STRAFE_LEFT, BACKWARD):
            for row in range(2):
                assert np.array_equal(ours[0]["frame"][row], theirs[row][0]["frame"])
                assert np.array_equal(ours[0]["goal"][row], theirs[row][0]["goal"])
                for key in ("pose", "displacement", "velocity", "goal_pose", "room", "world_steps", "phase"):
                    assert np.array_equal(ours[-1][key][row], theirs[row][-1][key])
            ours, theirs = envs.step(np.full(2, action)), [env.step(action) for env in alone]
        for env in (envs, *alone):
            env.close()


class TestWanderer:
    @pytest.mark.parametrize("kwargs", [{}, {"frame_skip": 2, "speed": 0.25}])
    def test_it_goes_all_over_the_room_and_touches_nothing(self, kwargs: dict[str, Any]) -> None:
        envs = SyncVectorEnv([lambda: VizDoomEnv(task=None, split="train", frame_size=4, **kwargs)] * 4)
        policy = Wanderer(envs, np.random.default_rng(0))
        envs.reset(seed=0, options=WALK)
        used, places = set(), []
        for _ in range(300):
            actions = policy()
            used |= set(actions.tolist())
            *_, info = envs.step(actions)
            places.append(info["pose"][:, :2])
        sizes = np.array([env.unwrapped.room.size for env in envs.envs])  # type: ignore[attr-defined]
        least = np.minimum(places, sizes - places).min(axis=(0, 2))
        assert (least > RADIUS + 0.005).all()
        cells = [len({tuple(cell) for cell in (np.array(places)[:, row] // 0.5).tolist()}) for row in range(4)]
        assert np.mean(cells) > 25  # of half a unit a side
        assert used == {FORWARD, LEFT, RIGHT, FORWARD_LEFT, FORWARD_RIGHT}
        envs.close()

    def test_it_leaves_a_wall_and_stops_nowhere(self) -> None:
        env = VizDoomEnv(task=None, frame_size=4)
        _, info = env.reset(seed=0, options={"room": 0, **at(RADIUS + 0.001, 1.5, pi / 2)})
        policy, places = Wanderer(env, np.random.default_rng(0)), [info["pose"]]
        for _ in range(60):
            places.append(env.step(policy())[-1]["pose"])
        assert max(place[0] for place in places) > 1
        assert min(place[0] for place in places) > RADIUS
        env.close()

    def test_a_recorded_walk(self) -> None:
        """The same alone and as a row, by the seeds alone."""
        env, envs = gym.make(WORLD, task=None), gym.make_vec(WORLD, num_envs=2, task=None)
        alone = record(env, 30, seed=3, policy=Wanderer(env, np.random.default_rng(0)))
        rows = record(envs, 30, seed=3, policy=Wanderer(envs, [np.random.default_rng(row) for row in range(2)]))
        assert alone.frames.shape == (30, 32, 32, 3)
        assert rows.actions.shape == (2, 29)
        assert alone.actions.tolist() == rows.actions[0].tolist() != rows.actions[1].tolist()
        assert np.array_equal(alone.frames, rows.frames[0])
        assert not np.array_equal(rows.frames[0], rows.frames[1])
        with pytest.raises(ValueError, match="one generator a row"):
            Wanderer(envs, [np.random.default_rng(0)])
        for each in (env, envs):
            each.close()

    def test_it_only_turns_where_it_can_only_turn(self) -> None:
        env = VizDoomEnv(speed=0.0, frame_size=4)
        actions = record(env, 60, seed=0, policy=Wanderer(env, np.random.default_rng(0))).actions
        assert set(actions.unique().tolist()) <= {LEFT, RIGHT}
        env.close()


def test_engines_end_with_their_environments() -> None:
    env = VizDoomEnv()
    env.reset(seed=0)
    folder, game = env._map.parent.parent, env._game
    assert folder.exists()
    del env
    gc.collect()
    assert not folder.exists()
    assert not game.is_running()
