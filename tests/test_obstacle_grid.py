from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from exact import exact_model
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from test_image_navigation import SAME, STAY, WALK, Place, SlowWorld, assert_same

import gtmsm_env  # noqa: F401  registers the world
from gtmsm_env.data import record
from gtmsm_env.envs.image_navigation import MOVES, ImageNavigationVectorEnv
from gtmsm_env.envs.images import open_images
from gtmsm_env.envs.obstacle_grid import ObstacleGridEnv, ObstacleGridVectorEnv, steps_to
from gtmsm_env.envs.windows import crops, pixels_of
from gtmsm_env.worlds import check_world

WORLD = "GTMSM-ObstacleGrid-v0"


def paths(goals: set[Place], free: set[Place]) -> dict[Place, int]:
    """Fewest steps to the nearest goal, from every place with a way to one."""
    steps = dict.fromkeys(goals & free, 0)
    queue = deque(steps)
    while queue:
        row, column = queue.popleft()
        for beside in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if beside in free and beside not in steps:
                steps[beside] = steps[row, column] + 1
                queue.append(beside)
    return steps


def places(flags: Any) -> set[Place]:
    return {(row, column) for row, column in np.argwhere(flags).tolist()}


class SlowGrid(SlowWorld):
    """The obstacle grid of one row as its rules read: what it draws after the picture, and what stops or diverts a move."""

    def __init__(self, seed: int, horizon: int, slip: float) -> None:
        super().__init__(seed, horizon)
        self.slip = slip

    def layout(self) -> set[Place]:
        while True:
            free = {(row, column) for row in range(9) for column in range(9)}
            for _ in range(self.generator.integers(1, 3)):
                height, width = self.generator.integers(2, 4, size=2)
                top, left = self.generator.integers(10 - height), self.generator.integers(10 - width)
                free -= {(row, column) for row in range(top, top + height) for column in range(left, left + width)}
            if (4, 4) in free and len(paths({(4, 4)}, free)) == len(free):
                return free

    def reset(self, phase: str = "task", world: str = "new") -> None:
        if world == "new":
            super().reset("walk")  # a picture and no goal yet
            self.free, self.walked = self.layout(), phase == "walk"
        elif self.walking:
            self.home = self.place
        self.walking, self.steps = phase == "walk", 0
        if not self.walking:
            self.place = self.home
            goals = [place for place in sorted(self.free) if place in self.been or not self.walked]
            goals = [place for place in goals if self.look(place) != self.look(self.home)]
            self.goal = goals[self.generator.integers(len(goals))]

    def step(self, action: int) -> tuple[float, bool, bool]:
        if self.slip:
            if self.paid % 128 == 0:
                self.numbers = self.generator.random(128)
            number = self.numbers[self.paid % 128]
            if action != STAY and number < self.slip:
                others = [(action + 1 + i) % 5 for i in range(4)]
                action = others[int(4 * number / self.slip)]
        row, column = self.place
        beside = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1), (row, column)][action]
        return super().step(action if beside in self.free else STAY)

    def agrees(self, observation: dict[str, Any], info: dict[str, Any]) -> None:
        assert places(info.pop("free")) == self.free
        if not self.walking:
            alike = {place for place in self.free if self.look(place) == self.look(self.goal)}
            assert info.pop("steps_to_goal") == paths(alike, self.free)[self.place]
        super().agrees(observation, info)


def explored(envs: ObstacleGridVectorEnv, steps: int, seed: int) -> tuple[Any, Any]:
    """Actions and places of a walk by the exploring policy, (steps, N) and (steps + 1, N, 2)."""
    walk = record(envs, steps + 1, np.random.default_rng(seed), seed)
    assert walk.positions is not None
    return walk.actions.numpy().T, walk.positions.numpy().swapaxes(0, 1)


class TestAgainstOthers:
    @pytest.mark.parametrize("slip", [0.0, 0.3])
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_the_scalar_world_agrees_with_the_slow_one_step_for_step(self, seed: int, slip: float) -> None:
        env, slow = ObstacleGridEnv(horizon=20, slip=slip), SlowGrid(seed, 20, slip)
        actions = np.random.default_rng(seed)
        given: int | None = seed
        for phase, world, steps in [("task", "new", 90), ("walk", "new", 300), ("task", "same", 60), ("walk", "new", 30)]:
            options = {"phase": phase, "world": world}
            observation, info = env.reset(seed=given, options=options)
            slow.reset(phase, world)
            given = None
            slow.agrees(observation, info)
            for _ in range(steps):
                action = int(actions.integers(5))
                observation, *outcome, info = env.step(action)
                assert tuple(outcome) == slow.step(action)
                slow.agrees(observation, info)
                if outcome[1] or outcome[2]:
                    observation, info = env.reset(options=options)
                    slow.reset(phase, world)
                    slow.agrees(observation, info)

    @pytest.mark.parametrize(("slip", "horizon"), [(0.0, 9), (0.3, 9), (0.3, 128)])  # 128: new numbers are due as the episode ends
    @pytest.mark.parametrize("mode", list(AutoresetMode))
    def test_the_vector_agrees_with_scalars(self, mode: AutoresetMode, slip: float, horizon: int) -> None:
        kwargs: dict[str, Any] = {"horizon": horizon, "slip": slip, "visible": True, "obstacles": (2, 5)}
        fast = ObstacleGridVectorEnv(5, autoreset_mode=mode, **kwargs)
        slow = SyncVectorEnv([lambda: ObstacleGridEnv(**kwargs)] * 5, autoreset_mode=mode)
        assert fast.observation_space == slow.observation_space == ImageNavigationVectorEnv(5).observation_space

        def agree(ours: Any, theirs: Any) -> None:
            assert_same(ours[:-1], theirs[:-1])
            mask = theirs[-1]["_free"]  # after a reset of some rows, SyncVectorEnv tells of these alone
            for key in ("free", "steps_to_goal", "position", "goal_position"):
                np.testing.assert_array_equal(np.stack(ours[-1][key][mask]), np.stack(theirs[-1][key][mask]))

        agree(fast.reset(seed=3), slow.reset(seed=3))
        fast.action_space.seed(0)
        truncations = 0
        for _ in range(300):
            actions = fast.action_space.sample()
            ours, theirs = fast.step(actions), slow.step(actions)
            agree(ours, theirs)
            over = ours[2] | ours[3]
            truncations += ours[3].sum()
            if mode == AutoresetMode.DISABLED and over.any():
                agree(fast.reset(options={"reset_mask": over}), slow.reset(options={"reset_mask": over}))
        assert truncations >= 500 // horizon

    @pytest.mark.parametrize("slip", [0.0, 0.2])
    def test_walks_longer_than_the_numbers_agree_too(self, slip: float) -> None:
        fast, slow = ObstacleGridVectorEnv(3, slip=slip), SyncVectorEnv([lambda: ObstacleGridEnv(slip=slip)] * 3)
        fast.reset(seed=1, options=WALK)
        slow.reset(seed=1, options=WALK)
        for actions in np.random.default_rng(0).integers(5, size=(300, 3)):
            np.testing.assert_array_equal(fast.step(actions)[-1]["position"], slow.step(actions)[-1]["position"])
        assert_same(fast.reset(options=SAME)[0], slow.reset(options=SAME)[0])

    def test_without_obstacles_it_is_image_navigation(self) -> None:
        grid, plain = ObstacleGridVectorEnv(4, obstacles=(0, 0), horizon=9), ImageNavigationVectorEnv(4, horizon=9)
        ours, theirs = grid.reset(seed=7), plain.reset(seed=7)
        for actions in np.random.default_rng(0).integers(5, size=(60, 4)):
            assert_same(ours[:-1], theirs[:-1])
            for key, value in theirs[-1].items():
                np.testing.assert_array_equal(ours[-1][key], value)
            assert ours[-1]["free"].all()
            np.testing.assert_array_equal(grid.steps_to_goal(), plain.steps_to_goal())
            ours, theirs = grid.step(actions), plain.step(actions)

    def test_the_first_picture_of_a_seed_is_that_of_image_navigation(self) -> None:
        grid, plain = (envs.reset(seed=5) for envs in (ObstacleGridVectorEnv(8), ImageNavigationVectorEnv(8)))
        np.testing.assert_array_equal(grid[1]["image"], plain[1]["image"])
        np.testing.assert_array_equal(grid[0]["frame"], plain[0]["frame"])


class TestObstacles:
    def test_one_obstacle_is_one_rectangle_of_every_size_and_place(self) -> None:
        _, info = ObstacleGridVectorEnv(600, obstacles=(1, 1), obstacle_size=(1, 3), task=None).reset(seed=0)
        corners, sizes = set(), set()
        for free in info["free"]:
            cells = np.argwhere(~free)
            top, left = cells.min(axis=0).tolist()
            height, width = (cells.max(axis=0) - (top, left) + 1).tolist()
            assert len(cells) == height * width
            corners.add((top, left))
            sizes.add((height, width))
        assert sizes == {(height, width) for height in (1, 2, 3) for width in (1, 2, 3)}
        assert len(corners) > 70
        assert {(0, 0), (8, 4)} <= corners

    @pytest.mark.parametrize(
        "kwargs",
        [
            {},
            {"obstacles": (6, 8)},
            {"obstacles": (20, 20), "obstacle_size": (1, 1)},
            {"image_size": 64, "step_size": 4, "obstacles": (8, 12)},
            {"image_size": 64, "crop_size": 16, "step_size": 2, "obstacles": (10, 20), "obstacle_size": (2, 5)},
            {"image_size": 96, "crop_size": 4, "step_size": 23, "obstacles": (3, 3), "obstacle_size": (1, 2)},
        ],
    )
    def test_every_free_place_is_reached_from_the_free_start(self, kwargs: dict[str, Any]) -> None:
        envs = ObstacleGridVectorEnv(40, **kwargs)
        observation, info = envs.reset(seed=0)
        centre = (envs.side // 2, envs.side // 2)
        for free, position, goal, steps in zip(*(info[key] for key in ("free", "position", "goal_position", "steps_to_goal")), strict=True):
            assert free.shape == (envs.side, envs.side)
            assert not free.all()
            assert tuple(position) == centre
            assert paths({centre}, places(free)).keys() == places(free)
            assert 0 < steps <= paths({centre}, places(free))[tuple(goal.tolist())]
        assert observation["frame"].shape == (40, envs.crop_size, envs.crop_size, 3)
        assert len(np.unique(info["free"], axis=0)) > 30  # layouts differ

    def test_moves_into_an_obstacle_stay_and_others_lead_on(self) -> None:
        envs = ObstacleGridVectorEnv(64, obstacles=(3, 5))
        actions, positions = explored(envs, 200, seed=0)
        free = envs.reset(seed=0, options=WALK)[1]["free"]
        hits = 0
        for before, action, after in zip(positions, actions, positions[1:], strict=False):
            for row in range(64):
                aim = np.clip(before[row] + MOVES[action[row]], 0, 8)
                blocked = not free[row][tuple(aim)]
                hits += blocked
                assert after[row].tolist() == (before[row] if blocked else aim).tolist()
        assert hits > 1000

    def test_the_default_number_is_as_hard_as_the_calibration(self) -> None:
        """About 12 hits in the exploring policy's 255 steps; who knows the edges alone is about 1.1 steps off after them."""
        envs = ObstacleGridVectorEnv(512)
        actions, positions = explored(envs, 255, seed=0)
        aims = np.clip(positions[:-1] + MOVES[actions], 0, 8)
        believed = positions[0]
        for action in actions:
            believed = np.clip(believed + MOVES[action], 0, 8)
        assert 12 < (aims != positions[1:]).any(axis=-1).sum(axis=0).mean() < 16
        assert 1.0 < np.linalg.norm(believed - positions[-1], axis=-1).mean() < 1.25

    @pytest.mark.parametrize("visible", [False, True])
    def test_frames_show_them_where_they_are_visible(self, visible: bool) -> None:
        envs = ObstacleGridVectorEnv(20, obstacles=(4, 4), visible=visible)
        _, info = envs.reset(seed=0, options=WALK)
        pictures = open_images(split="test").batch(info["image"])
        for picture, free in zip(pictures, info["free"], strict=True):
            for top, left in np.argwhere(~free) * 3 + 2 if visible else ():
                picture[top : top + 3, left : left + 3] = 128
        seen = crops(pictures)
        for actions in np.random.default_rng(0).integers(5, size=(60, 20)):
            observation, *_, info = envs.step(actions)
            np.testing.assert_array_equal(observation["frame"], seen[(np.arange(20), *info["position"].T)])

    @pytest.mark.parametrize(("size", "crop", "step"), [(32, 8, 3), (64, 16, 4), (40, 4, 9), (20, 8, 1)])
    def test_every_place_has_pixels_of_its_own_in_the_middle_of_its_window(self, size: int, crop: int, step: int) -> None:
        side = (size - crop) // step + 1
        each = np.eye(side**2, dtype=bool).reshape(-1, side, side)
        drawn = pixels_of(each, size, crop, step)
        assert drawn.sum(axis=0).max() == 1  # no pixel belongs to two places
        for (row, column), pixels in zip(np.ndindex(side, side), drawn, strict=True):
            expected = np.zeros((size, size), bool)
            for top in range(row * step + (crop - step) // 2, row * step + (crop - step) // 2 + step):
                for left in range(column * step + (crop - step) // 2, column * step + (crop - step) // 2 + step):
                    if 0 <= top < size and 0 <= left < size:
                        expected[top, left] = True
            assert np.array_equal(pixels, expected)
            assert pixels.any()

    @pytest.mark.parametrize("visible", [False, True])
    def test_the_human_sees_them_hatched(self, visible: bool) -> None:
        env = gym.make(WORLD, render_mode="rgb_array", visible=visible)
        _, info = env.reset(seed=3)
        drawn: Any = env.render()
        plain: Any = gym.make(WORLD, render_mode="rgb_array", visible=visible, obstacles=(0, 0)).unwrapped
        plain.reset(seed=3, options={"goal": info["goal_position"]})
        changed = (drawn != plain.render()).any(axis=-1)
        area = pixels_of(~info["free"], 32).repeat(16, axis=0).repeat(16, axis=1)
        assert not changed[~area].any()
        assert changed[area].mean() > 0.35
        assert {0, 255} <= set(drawn[area].ravel().tolist())


class TestPaths:
    def test_steps_agree_with_a_search_place_by_place(self) -> None:
        generator = np.random.default_rng(0)
        free, goals = generator.random((30, 7, 5)) < 0.7, generator.random((30, 7, 5)) < 0.1
        for steps, open_places, ends in zip(steps_to(goals, free), free, goals, strict=True):
            known = paths(places(ends), places(open_places))
            assert {place: int(steps[place]) for place in np.ndindex(7, 5) if steps[place] >= 0} == known

    def test_a_shortest_path_leads_around(self) -> None:
        envs = ObstacleGridVectorEnv(30, obstacles=(5, 7))
        with pytest.raises(ResetNeeded, match="call reset first"):
            envs.shortest_path(np.zeros(2, int), np.ones(2, int))
        _, info = envs.reset(seed=0)
        found = envs.shortest_path(info["position"], info["goal_position"])
        straight = np.abs(info["position"] - info["goal_position"]).sum(axis=1)
        for row, free in enumerate(info["free"]):
            assert found[row] == paths({tuple(info["goal_position"][row].tolist())}, places(free))[4, 4]
        assert (found > straight).any()
        assert envs.steps_to_goal().tolist() == info["steps_to_goal"].tolist()
        assert (info["steps_to_goal"] <= found).all()
        into = np.array([np.argwhere(~free)[0] for free in info["free"]])
        assert envs.shortest_path(info["position"], into).tolist() == [-1] * 30

    def test_a_walk_has_no_goal(self) -> None:
        env = ObstacleGridEnv()
        _, info = env.reset(seed=0, options=WALK)
        assert info.keys() == {"position", "image", "world_steps", "phase", "free"}
        with pytest.raises(ResetNeeded, match="a goal in every row"):
            env.steps_to_goal()
        assert "steps_to_goal" not in ObstacleGridEnv(task=None).reset(seed=0)[1]


class TestSlips:
    def moves(self, slip: float, action: int) -> Any:
        """How many of 4,000 moves from the centre led up, down, left, right and nowhere."""
        envs = ObstacleGridVectorEnv(4000, obstacles=(0, 0), slip=slip, task=None)
        envs.reset(seed=0, options={"image": np.zeros(4000, int)})
        *_, info = envs.step(np.full(4000, action))
        return np.array([(info["position"] - 4 == move).all(axis=1).sum() for move in MOVES])

    @pytest.mark.parametrize("action", range(4))
    def test_a_move_slips_to_each_other_action_alike(self, action: int) -> None:
        counts = self.moves(0.2, action)
        assert counts.sum() == 4000
        assert np.delete(counts, action) == pytest.approx(200, abs=60)  # more than four deviations
        assert self.moves(1.0, action)[action] == 0
        assert self.moves(0.0, action)[action] == 4000

    def test_staying_does_not_slip(self) -> None:
        assert self.moves(1.0, STAY)[STAY] == 4000

    def test_slips_go_on_at_their_rate(self) -> None:
        envs = ObstacleGridVectorEnv(64, obstacles=(0, 0), slip=0.05, task=None)
        actions, positions = explored(envs, 400, seed=0)
        slipped = (positions[1:] != np.clip(positions[:-1] + MOVES[actions], 0, 8)).any(axis=-1)
        shares = slipped.sum(axis=1).reshape(4, -1).sum(axis=1) / (actions != STAY).reshape(4, -1).sum(axis=1)
        assert shares == pytest.approx(0.05, abs=0.01)
        assert len(np.unique(slipped, axis=1).T) == 64  # each row has its own

    def test_without_slips_steps_draw_nothing(self) -> None:
        env = ObstacleGridEnv(task=None)
        env.reset(seed=0)
        before = env.np_random.bit_generator.state
        for action in range(5):
            env.step(action)
        assert env.np_random.bit_generator.state == before

    def test_saved_rows_go_on_elsewhere_as_they_would_have_here(self) -> None:
        here, there = (ObstacleGridVectorEnv(2, slip=0.3, horizon=9, obstacles=(3, 5)) for _ in range(2))
        here.reset(seed=0)
        there.reset(seed=50)
        actions = np.random.default_rng(0).integers(5, size=(200, 2))
        here.step(actions[0])
        there.load_rows(np.array([1, 0]), here.save_rows(np.array([0, 1])))
        for action in actions[1:]:
            ours, theirs = here.step(action), there.step(action[::-1].copy())
            for key in ("position", "free", "steps_to_goal"):
                np.testing.assert_array_equal(ours[-1][key], theirs[-1][key][::-1])
            np.testing.assert_array_equal(ours[0]["frame"], theirs[0]["frame"][::-1])


class TestErrors:
    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"obstacles": (-1, 2)}, r"obstacles must be two whole numbers.*got \(-1, 2\)"),
            ({"obstacles": (3, 2)}, "obstacles must be two"),
            ({"obstacles": 3}, "obstacles must be two"),
            ({"obstacles": (1, 2, 3)}, "obstacles must be two"),
            ({"obstacles": (0.5, 2)}, "obstacles must be two"),
            ({"obstacle_size": (0, 2)}, "obstacle_size must be two whole numbers.* from 1 on"),
            ({"obstacle_size": "23"}, "obstacle_size must be two"),
            ({"obstacle_size": (2, 10)}, "must fit the 9 x 9 places"),
            ({"visible": "grey"}, "visible must be True or False"),
            ({"slip": -0.1}, "between 0 and 1"),
            ({"slip": 1.5}, "between 0 and 1"),
            ({"slip": float("nan")}, "between 0 and 1"),
            ({"image_size": 33}, "multiple of step_size"),
        ],
    )
    def test_arguments(self, kwargs: dict[str, Any], message: str) -> None:
        for world in (ObstacleGridEnv, ObstacleGridVectorEnv):
            with pytest.raises(ValueError, match=message):
                world(**kwargs)

    @pytest.mark.parametrize(
        "kwargs",
        [
            {"obstacles": (1, 1), "obstacle_size": (9, 9)},  # no free place
            {"obstacles": (1, 1), "obstacle_size": (8, 8)},  # the start covered
            {"obstacles": (40, 40), "obstacle_size": (1, 1)},  # cut in two
        ],
    )
    def test_worlds_without_room(self, kwargs: dict[str, Any]) -> None:
        given = rf"seeded 12, .*obstacles=\({kwargs['obstacles'][0]}, .*obstacle_size=\({kwargs['obstacle_size'][0]}, .*fewer or smaller"
        env, envs = ObstacleGridEnv(**kwargs), ObstacleGridVectorEnv(2, **kwargs)
        with pytest.raises(ValueError, match=given):
            env.reset(seed=12)
        with pytest.raises(ValueError, match=given):
            envs.reset(seed=12)
        for world in (env, envs):
            with pytest.raises(ResetNeeded):
                world.step(np.zeros(2, int) if world is envs else 0)

    def test_layouts_that_cut_the_world_in_two_are_drawn_again(self) -> None:
        """On 3 x 3 places a bar of three cuts, unless it lies along an edge."""
        _, info = ObstacleGridVectorEnv(60, image_size=14, obstacles=(1, 1), obstacle_size=(1, 3)).reset(seed=0)
        for free in info["free"]:
            assert paths({(1, 1)}, places(free)).keys() == places(free)
        assert 6 in info["free"].sum(axis=(1, 2))

    def test_starts_and_goals_outside_and_inside_obstacles(self) -> None:
        env = ObstacleGridEnv()
        _, info = env.reset(seed=0)
        inside, free = np.argwhere(~info["free"])[0], np.argwhere(info["free"])[0]
        for options in ({"position": (9, 0)}, {"position": (0, -1)}, {"goal": (0, 9)}):
            with pytest.raises(ValueError, match="between 0 and 8"):
                env.reset(seed=0, options=options)
        for name in ("position", "goal"):
            with pytest.raises(ValueError, match=rf"options\['{name}'\] of row 0 lies inside an obstacle, \[.*info\['free'\]"):
                env.reset(options={**SAME, name: inside})
            env.step(STAY)  # the world goes on
            with pytest.raises(ValueError, match="lies inside an obstacle"):
                env.reset(seed=0, options={name: inside})
            with pytest.raises(ResetNeeded):
                env.step(STAY)
            env.reset(seed=0)
        _, there = env.reset(seed=0, options={"position": free})  # the same obstacles, whatever the start
        assert np.array_equal(there["position"], free)
        assert np.array_equal(there["free"], info["free"])
        both = ObstacleGridVectorEnv(2)
        first, second = both.reset(seed=0)[1]["free"]
        with pytest.raises(ValueError, match="of row 1 lies inside"):
            both.reset(options={**SAME, "position": np.array([np.argwhere(first)[0], np.argwhere(~second)[0]])})

    def test_a_model_knows_the_grid_with_other_obstacles_and_slips(self) -> None:
        model = exact_model()
        model.world = {"id": WORLD, "kwargs": {"split": "train"}, "start": "center"}
        env = ObstacleGridEnv()
        check_world(model, WORLD, {"obstacles": [0, 0], "slip": 0.05, "visible": True}, env.observation_space, env.action_space)
        with pytest.raises(ValueError, match="the world it was trained for"):
            check_world(model, WORLD, {"step_size": 6}, env.observation_space, env.action_space)
        with pytest.raises(ValueError, match="the world it was trained for"):
            check_world(model, "GTMSM-ImageNavigation-v0", {}, env.observation_space, env.action_space)
