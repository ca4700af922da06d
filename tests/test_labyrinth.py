import subprocess
import sys
from itertools import pairwise
from math import asin, atan2, cos, hypot, log2, pi, radians, sin, sqrt, tanh
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import gtmsm_env  # noqa: F401  registers the worlds
from gtmsm_env.data import record

pytest.importorskip("numba")

from gtmsm_env.envs.labyrinth import ACTIONS, LabyrinthEnv, LabyrinthVectorEnv
from gtmsm_env.envs.labyrinth_physics import move
from gtmsm_env.envs.labyrinth_raycaster import cast, draw
from gtmsm_env.envs.labyrinth_rooms import HEIGHT, PASSAGE, RADIUS, Rooms, build
from gtmsm_env.envs.labyrinth_textures import BLOCK, LEVELS, mip_levels, noise, surface
from gtmsm_env.envs.labyrinth_walker import Scavenger

WORLD = "GTMSM-Labyrinth-v0"
WALK, SAME = {"phase": "walk"}, {"phase": "task", "world": "same"}
FORWARD, BACKWARD, STRAFE_LEFT, STRAFE_RIGHT, LEFT, RIGHT, FORWARD_LEFT, FORWARD_RIGHT = range(8)
SMOOTH, LAB = False, True


def hall(discs: Any = ()) -> Rooms:
    """One grey room from (0, 0) to (4, 3) with discs (x, y, radius, height)."""
    world = build("train", 0)
    world.texels[:] = 128
    world.bounds[0, 0], world.discs[0] = [0, 0, 4, 3], len(discs)
    for i, disc in enumerate(discs):
        world.disc[0, i], world.disc_sector[0, i] = disc, 0
    return world


def solids(world: Rooms) -> Any:
    """Every piece of wall as (axis across it, where it lies on that axis, from, to along it, sector, side)."""
    for sector in range(world.sectors[0]):
        west, south, east, north = world.bounds[0, sector]
        for side, (axis, line, low, high) in enumerate(
            [(0, west, south, north), (0, east, south, north), (1, south, west, east), (1, north, west, east)]
        ):
            cut = world.opening[0, sector, side] if world.beyond[0, sector, side] >= 0 else (high, high)
            yield from ((axis, line, a, b, sector, side) for a, b in ((low, cut[0]), (cut[1], high)) if b > a)


class SlowEye:
    """One ray at a time, by the closed forms of planes, cylinders and spheres; knows nothing of doors that lead on."""

    def __init__(self, world: Rooms, size: int, camera: float = 0.6, field_of_view: float = 90) -> None:
        self.world, self.size, self.camera = world, size, camera
        self.focal = size / 2 / np.tan(radians(field_of_view) / 2)

    def frame(self, pose: Any) -> Any:
        pixels = [
            [self.ray(pose, u + 0.25, v + 0.25) + self.ray(pose, u + 0.75, v + 0.75) for u in range(self.size)] for v in range(self.size)
        ]
        return np.array(pixels) / 2

    def ray(self, pose: Any, u: float, v: float) -> Any:
        x, y, heading = pose
        aside, slope = (u - self.size / 2) / self.focal, (self.size / 2 - v) / self.focal
        dx, dy = cos(heading) + aside * sin(heading), sin(heading) - aside * cos(heading)
        world, pixel = self.world, 1 / self.focal
        hits: list[tuple[float, Any]] = []
        for axis, line, low, high, sector, side in solids(world):
            speed, start = (dx, x) if axis == 0 else (dy, y)
            if speed == 0 or (line - start) / speed <= 0:
                continue
            t = (line - start) / speed
            along, z = (y + t * dy if axis == 0 else x + t * dx), self.camera + t * slope
            if low <= along <= high and 0 <= z <= HEIGHT:
                start, end = world.bounds[0, sector][[1, 3] if axis == 0 else [0, 2]]
                footprint = t * pixel / sqrt(max(abs(speed) / hypot(dx, dy), 0.05))
                where = (1 - z / HEIGHT, (along - start) / (end - start))
                hits.append((t, (world.first[0, sector, side], world.shape[0, sector, side], where, footprint)))
        t = (self.camera if slope < 0 else HEIGHT - self.camera) / abs(slope)
        for sector in range(world.sectors[0]):
            west, south, east, north = world.bounds[0, sector]
            if west <= x + t * dx <= east and south <= y + t * dy <= north:
                level = 4 if slope < 0 else 5
                where = ((y + t * dy - south) / (north - south), (x + t * dx - west) / (east - west))
                footprint = t * pixel * sqrt(1 / abs(slope))
                hits.append((t, (world.first[0, sector, level], world.shape[0, sector, level], where, footprint)))
        for disc in range(world.discs[0]):
            px, py, radius, height = world.disc[0, disc]
            a, b, c = dx * dx + dy * dy, dx * (x - px) + dy * (y - py), (x - px) ** 2 + (y - py) ** 2 - radius**2
            if height:
                a, b, c = a + slope**2, b + slope * (self.camera - height), c + (self.camera - height) ** 2
            if b * b <= a * c or -b <= 0:
                continue
            t = (-b - sqrt(b * b - a * c)) / a
            nx, ny, z = (x + t * dx - px) / radius, (y + t * dy - py) / radius, self.camera + t * slope
            round_ = atan2(ny, nx) / (2 * pi) % 1
            skin = world.disc_first[0, disc], world.disc_shape[0, disc]
            if height:
                hits.append((t, (*skin, (0.5 - asin(min(max((z - height) / radius, -1), 1)) / pi, round_), t * pixel)))
            elif 0 <= z <= HEIGHT:
                cosine = -(nx * dx + ny * dy) / hypot(dx, dy)
                hits.append((t, (*skin, (1 - z / HEIGHT, round_), t * pixel / sqrt(max(cosine, 0.05)))))
        return self.colour(*min(hits, key=lambda hit: hit[0])[1])

    def colour(self, first: int, shape: Any, where: tuple[float, float], footprint: float) -> Any:
        level = min(max(round(log2(footprint * 24 * 0.7)), 0), LEVELS - 1)
        rows, columns = shape
        first += sum((rows >> k) * (columns >> k) for k in range(level))
        rows, columns = rows >> level, columns >> level
        picture = self.world.texels[0, first : first + rows * columns].reshape(rows, columns, 3).astype(float)
        v, u = (min(max(share * count - 0.5, 0), count - 1) for share, count in zip(where, (rows, columns), strict=True))
        top, left = int(v), int(u)
        bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
        across = [(1 - u + left) * picture[row, left] + (u - left) * picture[row, right] for row in (top, bottom)]
        return (1 - v + top) * across[0] + (v - top) * across[1]


def free_distance(world: Rooms, x: float, y: float) -> float:
    """How far a place is from the nearest piece of wall or disc."""
    walls = []
    for axis, line, low, high, *_ in solids(world):
        along, across = (y, x) if axis == 0 else (x, y)
        walls.append(hypot(along - min(max(along, low), high), across - line))
    return min(walls + [hypot(x - px, y - py) - radius for px, py, radius, _ in world.disc[0, : world.discs[0]]])


class TestWhatIsSeen:
    @pytest.mark.parametrize(("number", "rooms", "size"), [(0, (1, 1), 32), (4, (1, 1), 24), (1, (3, 4), 24)])
    def test_frames_are_those_of_the_slow_eye(self, number: int, rooms: tuple[int, int], size: int) -> None:
        world = build("train", number, rooms)
        generator = np.random.default_rng(number)
        poses = np.array([world.anywhere(0, generator) for _ in range(2)])
        frames = draw(world, np.zeros(2, np.int64), poses, size, 90.0, 0.6)
        for pose, frame in zip(poses, frames, strict=True):
            off = np.abs(SlowEye(world, size).frame(pose) - frame).max(axis=-1)
            assert (off <= 0.51).mean() > 0.995  # rays that graze an edge may fall on either side of it
            assert np.median(off) < 0.5

    def test_other_cameras(self) -> None:
        world = build("test", 3)
        pose = world.anywhere(0, np.random.default_rng(0))
        for camera, field in ((0.3, 60.0), (1.2, 120.0)):
            off = np.abs(
                SlowEye(world, 16, camera, field).frame(pose) - draw(world, np.zeros(1, np.int64), pose[None], 16, field, camera)[0]
            )
            assert (off.max(axis=-1) <= 0.51).mean() > 0.99

    def test_rays_meet_walls_where_closed_forms_say(self) -> None:
        world = hall()
        spare = np.empty(64, np.int64), np.empty(64), np.empty((6, 3))
        for angle in np.linspace(0.01, 6.2, 40):
            dx, dy = cos(angle), sin(angle)
            _, _, distance, first, rows, columns, across, cosine = cast(world, 0, 1.0, 2.0, dx, dy, *spare)
            to_x, to_y = ((4 - 1) / dx if dx > 0 else -1 / dx), ((3 - 2) / dy if dy > 0 else -2 / dy)
            side = (1 if dx > 0 else 0) if to_x < to_y else (3 if dy > 0 else 2)
            expected = (2 + to_x * dy) / 3 if to_x < to_y else (1 + to_y * dx) / 4
            assert distance == pytest.approx(min(to_x, to_y))
            assert (first, rows, columns) == (world.first[0, 0, side], *world.shape[0, 0, side])
            assert across == pytest.approx(expected)
            assert cosine == pytest.approx(abs(dx) if to_x < to_y else abs(dy))

    def test_a_pillar_hides_the_wall_and_a_ball_does_not_end_the_ray(self) -> None:
        spare = np.empty(64, np.int64), np.empty(64), np.empty((6, 3))
        _, met, distance, *_, across, cosine = cast(hall([(3, 1, 0.25, 0)]), 0, 1.0, 1.0, 1.0, 0.0, *spare)
        assert (met, distance, across, cosine) == (0, pytest.approx(1.75), pytest.approx(0.5), pytest.approx(1))
        _, met, distance, *_ = cast(hall([(3, 1, 0.25, 0.6)]), 0, 1.0, 1.0, 1.0, 0.0, *spare)
        assert (met, distance) == (1, pytest.approx(3))

    def test_left_is_left_and_near_is_large(self) -> None:
        world = hall([(3, 2, 0.25, 0)])
        world.texels[0, world.disc_first[0, 0] :] = 255
        white = draw(world, np.zeros(1, np.int64), np.array([[1.0, 1.5, 0.0]]), 32, 90.0, 0.6)[0, 16, :, 0] > 200
        assert white[:16].any()  # the pillar, to the north of an agent that looks east
        assert not white[16:].any()
        nearer = draw(world, np.zeros(1, np.int64), np.array([[2.0, 1.5, 0.0]]), 32, 90.0, 0.6)[0, 16, :, 0] > 200
        assert nearer.sum() > white.sum()

    def test_small_frames_are_large_ones_made_small(self) -> None:
        """Antialiasing: two samples and mip levels come near the mean of many samples, nearer than one sample of the finest texture."""
        envs = LabyrinthVectorEnv(24, task=None)
        envs.reset(seed=0)
        large = draw(envs.worlds, np.arange(24), envs._pose, 256, 90.0, 0.6).astype(float)
        exact = large.reshape(24, 32, 8, 32, 8, 3).mean(axis=(2, 4))
        ours, one = draw(envs.worlds, np.arange(24), envs._pose, 32, 90.0, 0.6), large[:, 4::8, 4::8]
        error, aliased = (10 * np.log10(255**2 / ((frames - exact) ** 2).mean()) for frames in (ours, one))
        assert error > 29
        assert error > aliased + 3

    def test_rows_are_drawn_in_their_own_worlds(self) -> None:
        worlds = Rooms.empty(3, 1)
        for row in range(3):
            worlds.put(np.array([row]), build("train", row))
        poses = np.array([worlds.anywhere(row, np.random.default_rng(row)) for row in range(3)])
        some = np.array([2, 0, 2])
        frames = draw(worlds, some, poses[some], 32, 90.0, 0.6)
        for row, frame in zip(some, frames, strict=True):
            assert np.array_equal(frame, draw(build("train", int(row)), np.zeros(1, np.int64), poses[row][None], 32, 90.0, 0.6)[0])


class TestRooms:
    def test_a_world_is_a_function_of_split_number_and_rooms(self) -> None:
        for one, other in zip(build("train", 7), build("train", 7), strict=True):
            assert np.array_equal(one, other)
        differ = [build(*which) for which in (("train", 7), ("train", 8), ("validation", 7), ("test", 7))]
        assert len({world.bounds.tobytes() for world in differ}) == len({world.texels.tobytes() for world in differ}) == 4
        with pytest.raises(ValueError, match="numbered 0 to 9999"):
            build("test", 10_000)

    @pytest.mark.parametrize("number", range(6))
    def test_layouts_keep_their_promises(self, number: int) -> None:
        world = build("train", number, (1, 5))
        rooms = [sector for sector in range(world.sectors[0]) if world.disc_sector[0, : world.discs[0]].tolist().count(sector)]
        for west, south, east, north in world.bounds[0, rooms]:
            assert 3.5 <= min(east - west, north - south) <= max(east - west, north - south) <= 5.5
        for sector in range(world.sectors[0]):
            for side, beyond in enumerate(world.beyond[0, sector]):
                if beyond >= 0:  # a door has two sides
                    assert world.beyond[0, beyond, side ^ 1] == sector
                    assert np.array_equal(world.opening[0, beyond, side ^ 1], world.opening[0, sector, side])
                    middle = world._middle(0, sector, side)
                    assert np.allclose(middle, world._middle(0, beyond, side ^ 1))
                    assert free_distance(world, *middle) > RADIUS
        for i, (x, y, radius, _) in enumerate(world.disc[0, : world.discs[0]]):
            world.discs[0] = i  # those before
            assert free_distance(world, x, y) >= radius + PASSAGE - 1e-9
        used = world.first.max() + np.prod(world.shape[0], axis=-1).max() * 4 // 3
        assert used < world.texels.shape[1]

    def test_ways_lead_through_doors(self) -> None:
        world = build("train", 2, (4, 4))
        generator = np.random.default_rng(0)
        for _ in range(20):
            start, goal = world.anywhere(0, generator), world.anywhere(0, generator)
            places = [start[:2], *world.way(0, start, goal)]
            assert np.array_equal(places[-1], goal[:2])
            for a, b in pairwise(places):  # no wall between
                assert all(world.sector_at(0, *(a + share * (b - a))) >= 0 for share in np.linspace(0, 1, 50))

    def test_textures(self) -> None:
        pictures = [surface(np.random.default_rng(seed), 1.5, 4.0) for seed in range(12)]
        for picture in pictures:
            assert picture.shape == (48, 96, 3)
            assert picture.std(axis=(0, 1)).max() > 0.03
            left, right = picture[:, :48], picture[:, 48:]
            assert np.abs(left - right).mean() > 0.01  # no repetition
        levels = mip_levels(pictures[0])
        assert len(levels) == sum((48 >> k) * (96 >> k) for k in range(LEVELS))
        assert (
            np.abs(levels[-3 * 6 :].reshape(3, 6, 3) - pictures[0].clip(0, 1).reshape(3, BLOCK, 6, BLOCK, 3).mean(axis=(1, 3)) * 255).max()
            < 8
        )
        plane = noise(np.random.default_rng(0), 256, 256)
        assert abs(plane.mean()) < 0.3
        assert 0.6 < plane.std() < 1.4

    def test_rooms_are_as_hard_as_the_calibration(self) -> None:
        """Over the 150 steps after 150 remembered ones, the mean of the memory comes to no more than 16.5 dB."""
        envs = LabyrinthVectorEnv(48, split="train")
        frames = record(envs, 300, seed=0, policy=Scavenger(envs, np.random.default_rng(0))).frames.numpy() / np.float32(255)
        mean = frames[:, :150].mean(axis=1, keepdims=True)
        assert 15 < -10 * np.log10(((frames[:, 150:] - mean) ** 2).mean()) <= 16.5


def steps(world: Rooms, pose: Any, actions: Any, lab: bool, speed: float = 0.15, turn: float = 0.2) -> Any:
    """Poses, velocities, displacements and touches of one agent, each (steps, ...)."""
    pose, velocity, told = np.array([pose], float), np.zeros((1, 2)), []
    for action in actions:
        pose, velocity, displacement, touched = move(world, np.zeros(1, np.int64), pose, velocity, np.array([action]), speed, turn, lab)
        told.append((pose[0], velocity[0], displacement[0], touched[0]))
    return [np.array(part) for part in zip(*told, strict=True)]


class TestPhysics:
    def test_by_hand(self) -> None:
        poses, velocity, displacement, touched = steps(hall(), (1, 1.5, 0), [FORWARD, FORWARD, LEFT, RIGHT], SMOOTH)
        one = tanh(0.6)
        two = tanh(0.6 + 0.7 * one)
        three = tanh(0.7 * two)
        assert displacement[:3] == pytest.approx(np.array([[0.15 * one, 0, 0], [0.15 * two, 0, 0], [0.15 * three, 0, 0.2]]))
        assert poses[2] == pytest.approx([1 + 0.15 * (one + two + three), 1.5, 0.2])  # moved by the heading before the turn
        four = 0.15 * tanh(0.7 * three)
        assert poses[3] - poses[2] == pytest.approx([four * cos(0.2), four * sin(0.2), -0.2])  # momentum turns with the agent
        assert np.array_equal(velocity, displacement[:, :2])
        assert not touched.any()

    def test_strafing_leads_to_the_side(self) -> None:
        (north,), *_ = steps(hall(), (2, 1.5, 0), [STRAFE_LEFT], SMOOTH)
        (south,), *_ = steps(hall(), (2, 1.5, 0), [STRAFE_RIGHT], SMOOTH)
        (back,), *_ = steps(hall(), (2, 1.5, 0), [BACKWARD], SMOOTH)
        far = 0.15 * tanh(0.6)
        assert north == pytest.approx([2, 1.5 + far, 0])
        assert south == pytest.approx([2, 1.5 - far, 0])
        assert back == pytest.approx([2 - far, 1.5, 0])

    def test_smooth_is_in_the_class_of_equation_6(self) -> None:
        """u = c tanh(W a + sigmoid(beta) u), s = s + R(s_3) u, with lengths in top speeds: c is 1 for them, and large for angles."""
        world = hall()
        world.bounds[0, 0] = [-50, -50, 50, 50]
        actions = np.random.default_rng(0).integers(8, size=300)
        poses, _, displacement, _ = steps(world, (0, 0, 0), actions, SMOOTH)
        table = np.array(list(ACTIONS.values())) * [0.6, 0.6, np.arctanh(0.2)]
        s, u = np.zeros(3), np.zeros(3)
        for action, pose, moved in zip(actions, poses, displacement, strict=True):
            u = np.tanh(table[action] + [0.7, 0.7, 0] * u)
            turned = np.array([[cos(s[2]), -sin(s[2]), 0], [sin(s[2]), cos(s[2]), 0], [0, 0, 1]])
            s = s + turned @ u
            assert moved / [0.15, 0.15, 1] == pytest.approx(u, abs=1e-12)
            assert pose / [0.15, 0.15, 1] == pytest.approx(s, abs=1e-9)

    def test_lab_by_hand(self) -> None:
        """Quake's frames: friction, then acceleration by a sixth of the top speed, which is hard."""
        poses, velocity, _, _ = steps(hall(), (0.5, 1.5, 0), [FORWARD] * 8 + [LEFT], LAB)
        one = 1 / 6
        two = one - 0.1 * 100 / 320 + 1 / 6  # below the stop speed, friction is that of the stop speed
        three = two - 0.1 * 100 / 320 + 1 / 6
        four = three * 0.9 + 1 / 6
        assert velocity[0] == pytest.approx([0.15 * four, 0])
        assert poses[0] == pytest.approx([0.5 + 0.15 * (one + two + three + four) / 4, 1.5, 0])
        assert velocity[7, 0] == pytest.approx(0.15, abs=1e-12)
        assert velocity[8] == pytest.approx([0.15 * 0.9**4, 0])  # in the world's frame, whatever the agent looks at
        *_, stopped = steps(hall(), (0.5, 1.5, 0), [FORWARD] * 3 + [LEFT] * 10, LAB)[1]
        assert stopped.tolist() == [0, 0]

    def test_lab_turns_before_it_moves(self) -> None:
        poses, _, displacement, _ = steps(hall(), (2, 1.5, 0), [FORWARD_LEFT], LAB)
        assert poses[0, 2] == displacement[0, 2] == 0.2
        assert poses[0, 1] > 1.5
        assert displacement[0, :2] == pytest.approx(poses[0, :2] - [2, 1.5])

    @pytest.mark.parametrize("lab", [SMOOTH, LAB])
    def test_walls_are_slid_along(self, lab: bool) -> None:
        poses, velocity, displacement, touched = steps(hall(), (3.7, 1, 0.5), [FORWARD] * 6, lab)
        assert poses[-1, 0] == pytest.approx(4 - RADIUS)
        assert poses[-1, 1] > 1.2
        assert touched[-1]
        inward = velocity[-1] if lab else [cos(0.5) * velocity[-1, 0] - sin(0.5) * velocity[-1, 1]]
        assert inward[0] == pytest.approx(0, abs=1e-9)  # the momentum into the wall is lost
        moved = np.diff(poses[:, :2], axis=0)
        ahead = np.stack([moved @ [cos(0.5), sin(0.5)], moved @ [-sin(0.5), cos(0.5)]], axis=1)
        assert displacement[1:, :2] == pytest.approx(ahead)  # what was moved, not what was wished

    @pytest.mark.parametrize("lab", [SMOOTH, LAB])
    def test_nothing_is_entered(self, lab: bool) -> None:
        generator, touches = np.random.default_rng(0), 0
        for number in range(4):
            world = build("train", number, (1, 4))
            pose, velocity = world.anywhere(0, generator)[None], np.zeros((1, 2))
            for action in generator.choice(8, 400, p=[0.5, 0.05, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05]):
                pose, velocity, _, touched = move(world, np.zeros(1, np.int64), pose, velocity, np.array([action]), 0.2, 0.3, lab)
                touches += touched[0]
                assert world.sector_at(0, *pose[0, :2]) >= 0
                assert free_distance(world, *pose[0, :2]) >= RADIUS - 1e-6
        assert touches > 200


class TestTheWorld:
    @pytest.mark.parametrize("kwargs", [{}, {"rooms": (2, 3), "frame_size": 16, "physics": "lab"}, {"speed": 0.0, "turn": 9.3}])
    def test_the_vector_agrees_with_scalars(self, kwargs: dict[str, Any]) -> None:
        fast = LabyrinthVectorEnv(3, horizon=20, autoreset_mode=AutoresetMode.SAME_STEP, **kwargs)
        slow = SyncVectorEnv([lambda: LabyrinthEnv(horizon=20, **kwargs)] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
        assert fast.observation_space == slow.observation_space
        ours, theirs = fast.reset(seed=4), slow.reset(seed=4)
        fast.action_space.seed(0)
        for step in range(45):
            for key, value in theirs[0].items():
                np.testing.assert_array_equal(ours[0][key], value)
            for key in ("pose", "velocity", "displacement", "touched", "goal_pose", "room", "world_steps"):
                np.testing.assert_array_equal(ours[-1][key], np.stack(theirs[-1][key]))
            for one, other in zip(ours[1:-1], theirs[1:-1], strict=True):
                np.testing.assert_array_equal(one, other)
            actions = fast.action_space.sample() if step % 5 else np.zeros(3, np.int64)
            ours, theirs = fast.step(actions), slow.step(actions)

    def test_arrival_takes_the_place_and_the_heading(self) -> None:
        env = LabyrinthEnv(split="train")
        env.reset(seed=0, options={"room": 5, "phase": "walk"})
        generator, worlds = np.random.default_rng(1), env.batch_of_one.worlds
        while True:  # a pose with a metre ahead that is free
            start = worlds.anywhere(0, generator)
            ahead = start + np.array([cos(start[2]), sin(start[2]), 0])
            if all(worlds.clearance(0, *(start + share * (ahead - start))[:2]) > 0.25 for share in np.linspace(0, 1, 21)):
                break
        for turned, arrives in ((0, True), (radians(12), True), (radians(13.5), False)):
            goal = ahead + np.array([0, 0, turned])
            observation, info = env.reset(seed=0, options={"room": 5, "pose": start, "goal": goal})
            assert np.array_equal(observation["goal"], env.batch_of_one.look(np.zeros(1, np.int64), goal[None])[0])
            assert info["goal_pose"] == pytest.approx(goal)
            least = env.steps_to_goal()
            assert least == 7  # six steps from rest lead .67 units far
            for step in range(1, 9):
                before = info["pose"]
                _, reward, terminated, _, info = env.step(FORWARD)
                near = hypot(*(info["pose"] - goal)[:2]) <= 0.3
                assert (reward, terminated) == ((1, True) if near and arrives else (0, False))
                if near:
                    assert step >= least
                    assert hypot(*(before - goal)[:2]) > 0.3
                    break
            assert near

    def test_rotating_in_place(self) -> None:
        env: Any = gym.make("GTMSM-LabyrinthRotate-v0").unwrapped
        observation, info = env.reset(seed=0)
        place, heading = info["pose"][:2], info["pose"][2]
        assert info["goal_pose"][:2] == pytest.approx(place)
        for action in range(4):
            same, *_, info = env.step(action)
            assert np.array_equal(same["frame"], observation["frame"])
            assert info["displacement"].tolist() == [0, 0, 0]
        frames, arrived = {observation["frame"].tobytes()}, False
        for turn in range(1, 39):
            observation, _, arrived, _, info = env.step(LEFT)
            assert info["pose"] == pytest.approx([*place, heading + radians(9.3) * turn])
            assert observation["frame"].tobytes() not in frames
            frames.add(observation["frame"].tobytes())
            if arrived:
                break
        assert arrived
        assert ((info["pose"] - info["goal_pose"])[2] + pi) % (2 * pi) - pi == pytest.approx(0, abs=radians(4.66))

    def test_goals_after_a_walk_are_where_it_was_and_it_goes_on_from_its_end(self) -> None:
        envs = LabyrinthVectorEnv(6)
        _, info = envs.reset(seed=2, options=WALK)
        been = [info["pose"]]
        for actions in np.random.default_rng(0).choice([FORWARD, FORWARD, FORWARD_LEFT, LEFT], (50, 6)):
            observation, reward, terminated, truncated, info = envs.step(actions)
            been.append(info["pose"])
            assert not any(value.any() for value in (observation["goal"], reward, terminated, truncated))
            assert info["walking"].all()
            assert not info["_goal_pose"].any()
        end = info
        for _ in range(3):
            observation, info = envs.reset(options=SAME)
            assert np.array_equal(info["pose"], end["pose"])
            assert np.array_equal(info["velocity"], end["velocity"])
            assert (np.array(been) == info["goal_pose"]).all(axis=-1).any(axis=0).all()
            assert np.array_equal(observation["goal"], envs.look(np.arange(6), info["goal_pose"]))
            for _ in range(5):
                *_, info = envs.step(np.zeros(6, np.int64))
            assert (info["world_steps"] > 50).all()

    def test_a_walk_that_went_nowhere_leaves_no_goal(self) -> None:
        env = LabyrinthEnv()
        env.reset(seed=0, options=WALK)
        with pytest.raises(ValueError, match="no goal can be drawn; walk longer"):
            env.reset(options=SAME)

    def test_rows_are_saved_and_loaded(self) -> None:
        one, other = LabyrinthVectorEnv(4), LabyrinthVectorEnv(3)
        one.reset(seed=0)
        other.reset(seed=9)
        one.step(np.zeros(4, np.int64))
        other.load_rows(np.array([2, 0]), one.save_rows(np.array([1, 3])))
        ours, theirs = one.step(np.full(4, FORWARD_LEFT)), other.step(np.full(3, FORWARD_LEFT))
        for a, b in ((1, 2), (3, 0)):
            assert np.array_equal(ours[0]["frame"][a], theirs[0]["frame"][b])
            assert np.array_equal(ours[-1]["pose"][a], theirs[-1]["pose"][b])
        assert np.array_equal(one.reset()[0]["goal"][[1, 3]], other.reset()[0]["goal"][[2, 0]])  # the generators too

    def test_what_the_human_sees(self) -> None:
        env = LabyrinthEnv(render_mode="rgb_array")
        with pytest.raises(ResetNeeded, match="render"):
            env.render()
        observation, _ = env.reset(seed=0)
        picture = env.render()
        assert picture is not None
        assert picture.shape == (512, 1024, 3)
        assert np.array_equal(picture[8:512:16, 8:512:16], observation["frame"])
        for colour in ((255, 255, 255), (255, 214, 0)):
            assert (picture[:, 512:] == colour).all(axis=-1).sum() > 50
        env.step(FORWARD)
        moved = env.render()
        assert moved is not None
        assert not np.array_equal(moved[:, 512:], picture[:, 512:])

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"split": "all"}, "split must be one of 'train', 'validation', 'test'"),
            ({"rooms": (0, 1)}, "rooms must be two whole numbers"),
            ({"rooms": 2}, "rooms must be two whole numbers"),
            ({"rooms": (3, 2)}, "rooms must be two whole numbers"),
            ({"rooms": (1, 10)}, "from 1 to 9"),
            ({"frame_size": 2}, "frame_size must be at least 4"),
            ({"field_of_view": 180}, "field_of_view must be at least 20 and at most 150"),
            ({"camera_height": 1.5}, "camera_height must be at least 0.1 and at most 1.4"),
            ({"physics": "quake"}, "physics must be one of 'smooth', 'lab'"),
            ({"speed": 0.3}, "speed must be at least 0 and at most 0.2"),
            ({"speed": float("nan")}, "speed"),
            ({"turn": -1}, "turn must be at least 0"),
            ({"goal_radius": -0.1}, "goal_radius"),
            ({"goal_angle": 4}, "goal_angle must be at least 4.224"),
            ({"task": "reward"}, "task must be one of 'goal', None"),
            ({"horizon": 0}, "horizon must be at least 1"),
            ({"render_mode": "human"}, "render_mode must be one of None, 'rgb_array'"),
        ],
    )
    def test_arguments(self, kwargs: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            LabyrinthEnv(**kwargs)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"phase": "dream"}, "phase must be"),
            ({"image": 3}, "got also \\['image'\\]"),
            ({"room": 10_000}, "between 0 and 9999"),
            ({"room": 1.0}, "must be integers"),
            ({"pose": (0, 0)}, "numbers x, y, heading"),
            ({"pose": (0, 0, float("nan"))}, "numbers x, y, heading"),
            ({"pose": (99, 0, 0)}, "lies outside"),
            ({"room": 3, "goal": (99, 0, 0)}, "options\\['goal'\\] of row 0 touches"),
            ({"goal": (0, 0, 0), "phase": "walk"}, "needs task='goal' and phase 'task'"),
            ({"world": "same", "room": 3}, "no room"),
            ({"reset_mask": np.array([True])}, "vector"),
        ],
    )
    def test_options(self, options: dict[str, Any], message: str) -> None:
        env = LabyrinthEnv()
        env.reset(seed=0)
        with pytest.raises(ValueError, match=message):
            env.reset(options=options)

    def test_a_goal_at_the_start_is_refused(self) -> None:
        env = LabyrinthEnv()
        _, info = env.reset(seed=0)
        with pytest.raises(ValueError, match="reached at its start already"):
            env.reset(options={"room": info["room"], "pose": info["pose"], "goal": info["pose"] + [0, 0, 0.1]})
        with pytest.raises(ValueError, match="one integer"):
            env.step(np.array([0]))  # type: ignore[arg-type]

    def test_without_numba_it_says_what_to_install(self, tmp_path: Path) -> None:
        code = f"""
import sys
sys.modules["numba"] = None
import gymnasium, gtmsm_env
try:
    gymnasium.make("{WORLD}")
except ModuleNotFoundError as error:
    print(error)
"""
        run = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert "pip install 'gtmsm-env[labyrinth]'" in run.stdout


class TestScavenger:
    @pytest.mark.parametrize(("physics", "rooms"), [("smooth", (1, 1)), ("lab", (1, 1)), ("smooth", (2, 4))])
    def test_it_visits_the_rooms_and_touches_nothing(self, physics: Any, rooms: tuple[int, int]) -> None:
        envs = LabyrinthVectorEnv(16, physics=physics, rooms=rooms, frame_size=4)
        _, info = envs.reset(seed=0, options=WALK)
        policy = Scavenger(envs, np.random.default_rng(0))
        poses, used = [], set()
        for _ in range(300):
            actions = policy()
            used |= set(actions.tolist())
            *_, info = envs.step(actions)
            assert not info["touched"].any()
            poses.append(info["pose"])
        places = np.array(poses)[..., :2]
        later = np.array(poses)[20:] - np.array(poses)[:-20]
        assert ((np.hypot(later[..., 0], later[..., 1]) < 0.05) & (np.abs(later[..., 2]) < 0.4)).mean() < 0.02  # it does not dither
        cells = [len({tuple(cell) for cell in (places[:, row] // 0.5).tolist()}) for row in range(16)]
        assert np.mean(cells) > 25  # of half a unit a side
        assert {FORWARD, LEFT, RIGHT, FORWARD_LEFT, FORWARD_RIGHT} == used
        if rooms[1] > 1:
            seen = [{envs.worlds.sector_at(row, *place[row]) for place in places} for row in range(16)]
            assert np.mean([len(sectors) for sectors in seen]) > 2

    def test_rows_depend_on_their_own_generators_alone(self) -> None:
        def walked(rows: int) -> Any:
            envs = LabyrinthVectorEnv(rows, frame_size=4)
            policy = Scavenger(envs, [np.random.default_rng(row) for row in range(rows)])
            return [record(envs, 60, seed=3, policy=policy).actions[0] for _ in range(2)]

        for one, other in zip(walked(1), walked(3), strict=True):
            assert one.tolist() == other.tolist()
        env = gym.make(WORLD, frame_size=4)
        assert record(env, 60, seed=3, policy=Scavenger(env, np.random.default_rng(0))).actions.tolist() == walked(1)[0].tolist()
        with pytest.raises(ValueError, match="one generator a row"):
            Scavenger(LabyrinthVectorEnv(2), [np.random.default_rng(0)])

    def test_it_only_turns_where_it_can_only_turn(self) -> None:
        envs = gym.make_vec("GTMSM-LabyrinthRotate-v0", num_envs=4, frame_size=4)
        actions = record(envs, 80, seed=0, policy=Scavenger(envs, np.random.default_rng(0))).actions
        assert set(actions.unique().tolist()) <= {LEFT, RIGHT}
