from itertools import product
from math import acos, ceil, hypot, pi, radians, sqrt, tanh
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import gtmsm_env  # noqa: F401  registers the worlds

pytest.importorskip("numba")

from gtmsm_env.envs.labyrinth import LabyrinthEnv, LabyrinthVectorEnv
from gtmsm_env.envs.labyrinth_paths import _moves, fewest_steps, in_frame, path_length
from gtmsm_env.envs.labyrinth_physics import move, overlap
from gtmsm_env.envs.labyrinth_rooms import RADIUS, Rooms, build

SPEED, TURN, ANGLE = 0.15, radians(8.448), radians(12.7)
FORWARD, STRAFE_LEFT = 0, 2


def hall(*discs: tuple[float, float, float, float], size: tuple[float, float] = (6, 4)) -> Rooms:
    """One room from (0, 0), with discs (x, y, radius, height)."""
    world = build("train", 0)
    world.bounds[0, 0], world.discs[0] = [0, 0, *size], len(discs)
    for i, disc in enumerate(discs):
        world.disc[0, i], world.disc_sector[0, i] = disc, 0
    return world


def two_rooms() -> Rooms:
    """Two rooms of 4 by 4 units, one to the east of the other, with an opening from y = 0 to y = 1 between them."""
    world = build("train", 0, (2, 2))
    world.sectors[0], world.discs[0] = 2, 0
    world.bounds[0, :2] = [[0, 0, 4, 4], [4, 0, 8, 4]]
    world.beyond[0, :2] = [[-1, 1, -1, -1], [0, -1, -1, -1]]
    world.opening[0, 0, 1] = world.opening[0, 1, 0] = 0, 1
    return world


def bound(world: Rooms, pose: Any, goal: Any, velocity: Any = (0, 0), reach: float = 0.3, lab: bool = False) -> int:
    return fewest_steps(world, 0, np.array(pose, float), np.array(velocity, float), np.array(goal, float), reach, ANGLE, SPEED, TURN, lab)


def around_a_circle(a: Any, b: Any, middle: Any, radius: float, long: bool = False) -> float:
    """Length of the shortest path from a to b around one circle that is in the way, or of the other way around: two tangents and an arc."""
    (far_a, far_b), between = (hypot(*np.subtract(p, middle)) for p in (a, b)), np.subtract(a, middle) @ np.subtract(b, middle)
    angle = acos(between / far_a / far_b)
    arc = (2 * pi - angle if long else angle) - acos(radius / far_a) - acos(radius / far_b)
    return sqrt(far_a**2 - radius**2) + sqrt(far_b**2 - radius**2) + radius * arc


def on_a_grid(world: Rooms, start: Any, goal: Any, reach: float, fine: float = 0.06) -> float:
    """Length of the shortest path over a grid, whose places have ways to those up to two along and across."""
    csgraph, sparse = pytest.importorskip("scipy.sparse.csgraph"), pytest.importorskip("scipy.sparse")
    bounds = world.bounds[0, : world.sectors[0]]
    low, high = bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)
    x, y = (np.arange(a + (s - a) % fine, b, fine) for a, b, s in zip(low, high, start, strict=False))
    free = np.array([[world.sector_at(0, i, j) >= 0 and overlap(world, 0, i, j, RADIUS)[0] <= 1e-9 for j in y] for i in x])
    number = np.arange(free.size).reshape(free.shape)
    number[~free] = -1
    ways = []
    for along, across in [(1, 0), (0, 1), (1, 1), (1, -1), (1, 2), (2, 1), (1, -2), (2, -1)]:
        one = number[: len(x) - along, max(0, -across) : len(y) - max(0, across)]
        other = number[along:, max(0, across) : len(y) - max(0, -across)]
        both = (one >= 0) & (other >= 0)
        ways.append(np.stack([one[both], other[both], np.full(both.sum(), fine * hypot(along, across))]))
    one, other, length = np.concatenate(ways, axis=1)
    graph = sparse.coo_matrix((length, (one.astype(int), other.astype(int))), shape=(free.size, free.size)).tocsr()
    at = number[np.abs(x - start[0]).argmin(), np.abs(y - start[1]).argmin()]
    far = csgraph.dijkstra(graph, directed=False, indices=at).reshape(free.shape)
    return float((far + np.maximum(np.hypot(x[:, None] - goal[0], y[None, :] - goal[1]) - reach, 0) * 1e3).min())


class TestPaths:
    def test_straight_on(self) -> None:
        world = hall()
        assert path_length(world, 0, np.array([1, 1]), np.array([4, 3]), 0.5) == pytest.approx(sqrt(13) - 0.5)
        assert path_length(world, 0, np.array([1, 1]), np.array([1.2, 1]), 0.5) == 0
        assert path_length(world, 0, np.array([1, 1]), np.array([1, 1]), 0.0) == 0

    @pytest.mark.parametrize("height", [0.0, 0.7])
    @pytest.mark.parametrize("y", [1.5, 1.8])
    def test_around_pillars_and_balls(self, height: float, y: float) -> None:
        world, start, goal = hall((3, y, 0.3, height)), np.array([0.5, 1.5]), np.array([5.5, 1.6])
        exact = around_a_circle(start, goal, (3, y), 0.3 + RADIUS)
        for reach in (0.0, 0.4):  # it comes straight to the goal
            assert 0.998 * exact - reach < path_length(world, 0, start, goal, reach) <= exact - reach
        assert 0.995 * exact < path_length(world, 0, start, goal, 0.0, step=0.15) < path_length(world, 0, start, goal, 0.0)

    def test_around_the_end_of_a_wall(self) -> None:
        start, goal = np.array([3, 3]), np.array([5, 2.5])
        exact = around_a_circle(start, goal, (4, 1), RADIUS, long=True)
        assert 0.995 * exact < path_length(two_rooms(), 0, start, goal, 0.0) <= exact
        assert path_length(two_rooms(), 0, goal, start, 0.0) == pytest.approx(path_length(two_rooms(), 0, start, goal, 0.0))

    def test_no_way_leads_through_a_gap_that_is_too_narrow(self) -> None:
        narrow, wide = (hall((3, 1 - gap, 0.3, 0), (3, 1.6 + gap, 0.3, 0)) for gap in (0.19, 0.21))
        start, goal = np.array([0.5, 1.3]), np.array([5.5, 1.3])
        assert path_length(wide, 0, start, goal, 0.0) == pytest.approx(5)
        assert path_length(narrow, 0, start, goal, 0.0) > 5.2

    def test_the_goal_s_circle_may_be_entered_beside_an_obstacle(self) -> None:
        """The nearest point of the circle cannot be entered, nor seen: the best that can is that of a fine choice."""
        world, start, goal = hall((3, 1.5, 0.3, 0)), np.array([0.5, 1.55]), np.array([3.52, 1.45])
        angles = np.linspace(0, 2 * pi, 720, endpoint=False)
        rim = goal + 0.3 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        best = min(path_length(world, 0, start, place, 0.0) for place in rim if hypot(*(place - [3, 1.5])) >= 0.5)
        assert best - 0.01 < path_length(world, 0, start, goal, 0.3) <= best

    @pytest.mark.parametrize(("rooms", "number"), [((1, 1), 3), ((3, 4), 5)])
    def test_a_fine_grid_has_no_shorter_ones(self, rooms: tuple[int, int], number: int) -> None:
        world, generator = build("train", number, rooms), np.random.default_rng(number)
        for _ in range(3):
            start, goal = world.anywhere(0, generator)[:2], world.anywhere(0, generator)[:2]
            ours, grid = path_length(world, 0, start, goal, 0.3), on_a_grid(world, start, goal, 0.3)
            assert 0.96 * grid - 0.15 < ours < grid + 1e-6  # ways over the grid are up to 2.7 % longer, and bend late


class TestSteps:
    @pytest.mark.parametrize("lab", [False, True])
    def test_no_walk_is_longer_than_the_tables_say(self, lab: bool) -> None:
        world, generator, rows = hall(size=(99, 99)), np.random.default_rng(0), np.zeros(256, np.int64)
        pose, velocity, gone = np.array([[50, 50, 0.0]]).repeat(256, 0), np.zeros((256, 2)), np.zeros(256)
        longest = _moves(TURN, lab).longest
        rest = longest.shape[1] // 2  # the middle of the grid
        for step in range(1, 33):
            actions = generator.integers(8, size=256)
            actions[0] = (FORWARD, STRAFE_LEFT)[step % 2]  # the longest, or nearly
            pose, velocity, displacement, _ = move(world, rows, pose, velocity, actions, SPEED, TURN, lab)
            gone += np.hypot(*displacement[:, :2].T) / SPEED
            assert gone.max() <= longest[step, rest] * 1.005 + 1e-9
        assert gone[0] > 0.97 * longest[step, rest]

    def test_straight_ahead_from_rest(self) -> None:
        gone, u = 0.0, 0.0
        for step in range(1, 25):
            u = tanh(0.6 + 0.7 * u)
            gone += SPEED * u
            least = bound(hall(size=(9, 9)), (2, 4, 0), (2.3 + gone, 4, 0))
            assert 0.93 * step - 1 < least <= step

    def test_going_ahead_and_aside_by_turns_is_faster(self) -> None:
        """In the direction between: 3 % of a steady walk."""
        world, pose, velocity = hall(size=(9, 9)), np.array([[2, 2, 0.0]]), np.zeros((1, 2))
        for step in range(1, 41):
            action = np.array([(FORWARD, STRAFE_LEFT)[step % 2]])
            pose, velocity, *_ = move(world, np.zeros(1, np.int64), pose, velocity, action, SPEED, TURN, False)
        gone = hypot(*(pose[0, :2] - 2))
        assert gone > 1.02 * 40 * SPEED * 0.826 - 0.15
        goal = np.array([2, 2, 0]) + np.append((1 + 0.299 / gone) * (pose[0, :2] - 2), 0)
        assert 38 <= bound(world, (2, 2, 0), goal) <= 40

    def test_turning_on_the_way(self) -> None:
        """A goal straight ahead, with a heading to the back: who turns cannot go aside or back, so it takes more than either alone."""
        world = hall(size=(9, 9))
        walk, turn, both = (bound(world, (2, 4, 0), goal) for goal in ((4.5, 4, 0), (2.2, 4, pi), (4.5, 4, pi)))
        assert turn == ceil((pi - ANGLE) / TURN) == 20
        assert walk == 19  # as many as straight ahead
        assert both >= 23

    @pytest.mark.parametrize("lab", [False, True])
    def test_exhaustive_search_needs_as_many_or_few_more(self, lab: bool) -> None:
        """All plans of up to five actions, from rest and from walks that end anywhere, touches included."""
        found, promised, generator = 0, 0, np.random.default_rng(lab)
        for number, moving in product(range(4), (False, True)):
            world = build("train", number, (1, 3))
            one = np.zeros(1, np.int64)
            pose, velocity = world.anywhere(0, generator)[None], np.zeros((1, 2))
            for action in generator.integers(8, size=6).repeat(6) if moving else ():
                pose, velocity, *_ = move(world, one, pose, velocity, np.array([action]), SPEED, TURN, lab)
            start, own = pose[0], in_frame(velocity, pose[:, 2])[0] if lab else velocity[0]
            layers = []
            for _ in range(5):
                rows, actions = np.zeros(8 * len(pose), np.int64), np.tile(np.arange(8), len(pose))
                pose, velocity, *_ = move(world, rows, pose.repeat(8, 0), velocity.repeat(8, 0), actions, SPEED, TURN, lab)
                layers.append(pose)
            for _ in range(25):
                goal = layers[-1][generator.integers(len(pose))] + generator.uniform(-0.15, 0.15, 3)
                if world.clearance(0, *goal[:2]) < RADIUS:
                    continue
                reached = [hypot(*(start - goal)[:2]) <= 0.1 and abs(start[2] - goal[2]) <= ANGLE] + [
                    bool(((np.hypot(*(poses - goal)[:, :2].T) <= 0.1) & (np.abs(poses[:, 2] - goal[2]) <= ANGLE)).any()) for poses in layers
                ]
                if any(reached):
                    fewest = reached.index(True)
                    least = bound(world, start, goal, own, reach=0.1, lab=lab)
                    assert least <= fewest
                    found, promised = found + fewest, promised + least
        assert found > 300
        assert promised > 0.85 * found

    @pytest.mark.parametrize("physics", ["smooth", "lab"])
    def test_the_environment_s_own(self, physics: Any) -> None:
        """It is told for the velocity that the agent has, falls by one on a good way, and is 0 or 1 before arrival."""
        envs = LabyrinthVectorEnv(4, physics=physics, rooms=(1, 3), frame_size=4)
        _, info = envs.reset(seed=0)
        for _ in range(6):
            *_, info = envs.step(np.full(4, FORWARD))
        how = envs.goal_radius, envs.goal_angle, envs.speed, envs.turn, physics == "lab"
        told = [fewest_steps(envs.worlds, i, info["pose"][i], info["velocity"][i], info["goal_pose"][i], *how) for i in range(4)]
        assert envs.steps_to_goal().tolist() == told
        assert envs.steps_to_goal().dtype == np.int64
        at_rest = [fewest_steps(envs.worlds, i, info["pose"][i], np.zeros(2), info["goal_pose"][i], *how) for i in range(4)]
        assert at_rest != told

    def test_a_walk_to_the_goal_takes_no_fewer(self) -> None:
        env = LabyrinthEnv(split="train", frame_size=4)
        generator, checked = np.random.default_rng(0), 0
        for number in range(12):
            _, info = env.reset(seed=number, options={"phase": "walk"})
            start, velocity, goal, poses = info["pose"], info["velocity"], None, []
            action = 0
            for step in range(60):
                action = int(generator.integers(8)) if step % 7 == 0 else action
                *_, info = env.step(action)
                poses.append(info["pose"])
            goal = poses[-1]
            first = next(
                step
                for step, pose in enumerate(poses, start=1)
                if hypot(*(pose - goal)[:2]) <= 0.3 and abs((pose[2] - goal[2] + pi) % (2 * pi) - pi) <= ANGLE
            )
            worlds = env.batch_of_one.worlds
            assert fewest_steps(worlds, 0, start, velocity, goal, 0.3, ANGLE, SPEED, TURN, False) <= first
            checked += first
        assert checked > 200

    def test_turning_alone_and_standing_still(self) -> None:
        env: Any = gym.make("GTMSM-LabyrinthRotate-v0").unwrapped
        _, info = env.reset(seed=1)
        for turned in (0.5, -2.0, 3.0):
            goal = info["pose"] + [0, 0, turned]
            env.reset(seed=1, options={"room": info["room"], "pose": info["pose"], "goal": goal})
            assert env.steps_to_goal() == ceil((abs(turned) - radians(4.65)) / radians(9.3))
        world = hall(size=(9, 9))  # turns too small to be looked at on the way
        slow = fewest_steps(world, 0, np.array([2, 4, 0.0]), np.zeros(2), np.array([4, 4, 0.5]), 0.3, 0.1, SPEED, 0.01, False)
        assert slow == 40
