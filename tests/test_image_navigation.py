import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import gtmsm_env  # noqa: F401  registers the world
from gtmsm_env.envs.image_navigation import ImageNavigationEnv, ImageNavigationVectorEnv
from gtmsm_env.envs.images import open_images
from gtmsm_env.envs.windows import crops, places_a_side

Image = pytest.importorskip("PIL.Image")

WORLD = "GTMSM-ImageNavigation-v0"
UP, DOWN, LEFT, RIGHT, STAY = range(5)
WALK, SAME = {"phase": "walk"}, {"phase": "task", "world": "same"}
Place = tuple[int, int]


class SlowWorld:
    """Image navigation of one row as its rules read, to be agreed with step for step."""

    def __init__(self, seed: int, horizon: int, images: str = "procedural", split: str = "test", side: int = 9) -> None:
        self.generator = seeding.np_random(seed)[0]
        self.images = open_images(images, split=split, image_size=3 * (side - 1) + 8)
        self.horizon, self.side, self.walking = horizon, side, False

    def look(self, place: Place) -> bytes:
        row, column = place
        return self.picture[3 * row : 3 * row + 8, 3 * column : 3 * column + 8].tobytes()

    def reset(self, phase: str = "task", world: str = "new") -> None:
        if world == "new":
            self.image = int(self.generator.integers(len(self.images)))
            self.picture = self.images[self.image]
            self.place = self.home = (self.side // 2, self.side // 2)
            self.been, self.walked, self.paid = {self.place}, phase == "walk", 0
        elif self.walking:
            self.home = self.place
        self.walking, self.steps = phase == "walk", 0
        if not self.walking:
            self.place = self.home
            everywhere = [(row, column) for row in range(self.side) for column in range(self.side)]
            goals = [place for place in everywhere if place in self.been or not self.walked]
            goals = [place for place in goals if self.look(place) != self.look(self.home)]
            self.goal = goals[self.generator.integers(len(goals))]

    def step(self, action: int) -> tuple[float, bool, bool]:
        row, column = self.place
        moved = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1), (row, column)][action]
        if 0 <= moved[0] < self.side and 0 <= moved[1] < self.side:
            self.place = moved
        self.paid += 1
        if self.walking:
            self.been.add(self.place)
            return 0.0, False, False
        self.steps += 1
        arrived = self.look(self.place) == self.look(self.goal)
        return float(arrived), arrived, self.steps >= self.horizon and not arrived

    def agrees(self, observation: dict[str, Any], info: dict[str, Any]) -> None:
        assert observation["frame"].tobytes() == self.look(self.place)
        assert observation["goal"].tobytes() == (bytes(192) if self.walking else self.look(self.goal))
        told = {key: tuple(value.tolist()) if key.endswith("position") else value for key, value in info.items()}
        known: dict[str, Any] = {"position": self.place, "image": self.image, "world_steps": self.paid}
        known["phase"] = "walk" if self.walking else "task"
        assert told == (known if self.walking else {**known, "goal_position": self.goal})


@pytest.fixture
def bands(tmp_path: Path) -> str:
    """Pictures whose columns are all alike, so that places of one row look the same, in the 5 x 5 places of 20 pixels."""
    for number in range(3):
        column = np.random.default_rng(number).integers(256, size=(20, 1, 3), dtype=np.uint8)
        Image.fromarray(column.repeat(20, axis=1)).save(tmp_path / f"{number}.png")
    return str(tmp_path)


def plain(tmp_path: Path, colours: list[int]) -> str:
    for number, colour in enumerate(colours):
        Image.new("RGB", (20, 20), (colour, 0, 0)).save(tmp_path / f"plain{number}.png")
    return str(tmp_path)


def assert_same(first: Any, second: Any) -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, tuple) or (isinstance(first, np.ndarray) and first.dtype == object):
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    else:
        np.testing.assert_array_equal(first, second)


class TestAgainstTheSlowWorld:
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_the_scalar_world_agrees_step_for_step(self, seed: int) -> None:
        env, slow = ImageNavigationEnv(horizon=20), SlowWorld(seed, horizon=20)
        actions = np.random.default_rng(seed)
        given: int | None = seed
        for phase, world, steps in [
            ("task", "new", 60),
            ("walk", "new", 150),
            ("task", "same", 60),
            ("walk", "new", 3),
            ("task", "same", 30),
        ]:
            options: dict[str, Any] = {"phase": phase, "world": world}
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

    def test_places_that_look_the_same_agree_too(self, bands: str) -> None:
        env = ImageNavigationEnv(images=bands, split="all", image_size=20, horizon=30)
        slow = SlowWorld(5, 30, bands, "all", side=5)
        actions = np.random.default_rng(5)
        env.reset(seed=5)
        slow.reset()
        arrived_elsewhere = 0
        for _ in range(400):
            action = int(actions.integers(5))
            observation, *outcome, info = env.step(action)
            assert tuple(outcome) == slow.step(action)
            slow.agrees(observation, info)
            if outcome[1] or outcome[2]:
                arrived_elsewhere += outcome[1] and slow.place != slow.goal
                slow.reset()
                slow.agrees(*env.reset())
        assert arrived_elsewhere > 5


class TestAgainstSyncVectorEnv:
    """The native vector equals Gymnasium's vector of scalar worlds: observations, rewards, ends, final observations, infos."""

    def compare(self, mode: AutoresetMode, images: str, options: dict[str, Any], steps: int = 120) -> None:
        kwargs: dict[str, Any] = {"images": images, "split": "all", "image_size": 20, "horizon": 9}
        fast = ImageNavigationVectorEnv(6, autoreset_mode=mode, **kwargs)
        slow = SyncVectorEnv([lambda: ImageNavigationEnv(**kwargs)] * 6, autoreset_mode=mode)
        assert fast.observation_space == slow.observation_space
        assert fast.action_space == slow.action_space
        assert fast.metadata["autoreset_mode"] == fast.autoreset_mode == mode
        self.agree(fast.reset(seed=3, options=dict(options)), slow.reset(seed=3, options=dict(options)))
        fast.action_space.seed(0)
        ends = 0
        for _ in range(steps):
            actions = fast.action_space.sample()
            ours, theirs = fast.step(actions), slow.step(actions)
            self.agree(ours, theirs)
            over = ours[2] | ours[3]
            ends += over.sum()
            if mode == AutoresetMode.DISABLED and over.any():
                again, same = fast.reset(options={"reset_mask": over}), slow.reset(options={"reset_mask": over})
                assert_same(again[0], same[0])
        assert (ends == 0) == (options == WALK)

    def agree(self, ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> None:
        assert_same(ours[:-1], theirs[:-1])
        self.infos_agree(ours[-1], theirs[-1])

    def infos_agree(self, info: dict[str, Any], known: dict[str, Any]) -> None:
        ours, theirs = {"walking", "_walking", "goal_position", "_goal_position"}, {"phase", "_phase", "goal_position", "_goal_position"}
        assert info.keys() - ours == known.keys() - theirs  # a vector of walks has no goal_position at all
        for key in ("position", "image", "world_steps", "goal_position"):
            mask = known.get(f"_{key}", np.zeros(6, bool))
            np.testing.assert_array_equal(info[f"_{key}"], mask)
            if mask.any():
                np.testing.assert_array_equal(info[key][mask], known[key][mask])
        mask = known["_phase"]
        np.testing.assert_array_equal(info["walking"][mask], known["phase"][mask] == "walk")
        if "final_info" in known:
            np.testing.assert_array_equal(info["_final_obs"], known["_final_obs"])
            np.testing.assert_array_equal(info["_final_info"], known["_final_info"])
            assert_same(info["final_obs"], known["final_obs"])
            self.infos_agree(info["final_info"], known["final_info"])

    @pytest.mark.parametrize("mode", list(AutoresetMode))
    @pytest.mark.parametrize("options", [{}, WALK], ids=["task", "walk"])
    def test_they_agree(self, mode: AutoresetMode, options: dict[str, Any], bands: str) -> None:
        self.compare(mode, bands, options)

    def test_they_agree_on_procedural_pictures(self) -> None:
        fast, slow = ImageNavigationVectorEnv(3), SyncVectorEnv([ImageNavigationEnv] * 3)
        assert_same(fast.reset(seed=11)[0], slow.reset(seed=11)[0])
        for options in (WALK, SAME):
            assert_same(fast.reset(options=options)[0], slow.reset(options=options)[0])
            for action in ([UP, LEFT, STAY], [UP, RIGHT, DOWN], [DOWN, DOWN, DOWN]) * 3:
                for ours, theirs in zip(fast.step(np.array(action))[:4], slow.step(np.array(action))[:4], strict=True):
                    assert_same(ours, theirs)


class TestMoves:
    def test_an_action_leads_to_the_frame_that_comes_with_it(self) -> None:
        env = ImageNavigationEnv()
        _, info = env.reset(seed=0, options={**WALK, "image": 7, "position": (4, 4)})
        picture = open_images(split="test")[7]
        assert info["position"].tolist() == [4, 4]
        place = np.array([4, 4])
        for action, move in zip([UP, RIGHT, RIGHT, DOWN, STAY, LEFT], [(-1, 0), (0, 1), (0, 1), (1, 0), (0, 0), (0, -1)], strict=True):
            observation, *_, info = env.step(action)
            place = place + move
            top, left = 3 * place
            assert info["position"].tolist() == place.tolist()
            assert np.array_equal(observation["frame"], picture[top : top + 8, left : left + 8])

    @pytest.mark.parametrize(("action", "edge"), [(UP, (0, 4)), (DOWN, (8, 4)), (LEFT, (4, 0)), (RIGHT, (4, 8))])
    def test_an_edge_stops_the_step(self, action: int, edge: Place) -> None:
        env = ImageNavigationEnv()
        env.reset(seed=0, options=WALK)
        for _ in range(10):
            *_, info = env.step(action)
        assert tuple(info["position"].tolist()) == edge
        assert info["world_steps"] == 10

    def test_sizes_are_arguments(self) -> None:
        env = ImageNavigationEnv(image_size=40, crop_size=10, step_size=5)
        observation, info = env.reset(seed=0)
        assert observation["frame"].shape == (10, 10, 3)
        assert env.positions.tolist() == [[row, column] for row in range(7) for column in range(7)]
        assert info["position"].tolist() == [3, 3]

    def test_crops_are_the_windows(self) -> None:
        pictures = open_images(split="test", image_size=20).batch([1, 2])
        views = crops(pictures, crop_size=5, step_size=3)
        assert views.shape == (2, 6, 6, 5, 5, 3)
        for n, row, column in np.ndindex(2, 6, 6):
            assert np.array_equal(views[n, row, column], pictures[n, 3 * row : 3 * row + 5, 3 * column : 3 * column + 5])


class TestGoals:
    def test_goals_are_places_walked_that_look_unlike_the_start(self) -> None:
        envs = ImageNavigationVectorEnv(8)
        _, info = envs.reset(seed=0, options=WALK)
        been = [{(4, 4)} for _ in range(8)]
        for actions in np.random.default_rng(0).integers(5, size=(12, 8)):
            *_, info = envs.step(actions)
            for row, place in enumerate(info["position"].tolist()):
                been[row].add(tuple(place))
        home = info["position"]
        drawn: list[set[Place]] = [set() for _ in range(8)]
        for _ in range(150):
            observation, info = envs.reset(options=SAME)
            assert np.array_equal(info["position"], home)
            assert not (observation["frame"] == observation["goal"]).all(axis=(1, 2, 3)).any()
            for row, goal in enumerate(info["goal_position"].tolist()):
                drawn[row].add(tuple(goal))
        assert drawn == [places - {tuple(start)} for places, start in zip(been, home.tolist(), strict=True)]

    def test_without_a_walk_the_goal_is_anywhere(self) -> None:
        env = ImageNavigationEnv()
        env.reset(seed=0)
        drawn = {tuple(env.reset(options=SAME)[1]["goal_position"].tolist()) for _ in range(800)}
        assert len(drawn) == 80

    def test_home_is_recorded_once_a_world(self) -> None:
        env = ImageNavigationEnv()
        env.reset(seed=0, options=WALK)
        env.step(UP)
        *_, walked = env.step(UP)
        _, first = env.reset(options={**SAME, "goal": (4, 4)})
        assert first["position"].tolist() == walked["position"].tolist() == [2, 4]
        assert first["world_steps"] == 2
        for action in (RIGHT, RIGHT, DOWN):
            *_, info = env.step(action)
        _, elsewhere = env.reset(options={**SAME, "position": (0, 0), "goal": (4, 4)})
        assert elsewhere["position"].tolist() == [0, 0]
        _, again = env.reset(options=SAME)
        assert again["position"].tolist() == [2, 4]
        assert again["image"] == info["image"]
        assert again["world_steps"] == 5  # steps paid in this world, walk and tasks

    def test_arrival_pays_one_and_ends(self) -> None:
        env = ImageNavigationEnv()
        observation, info = env.reset(seed=0, options={"goal": (4, 6)})
        assert env.steps_to_goal() == env.shortest_path(info["position"], info["goal_position"]) == 2
        assert env.step(RIGHT)[1:4] == (0.0, False, False)
        assert env.steps_to_goal() == 1
        arrived, *outcome, _ = env.step(RIGHT)
        assert outcome == [1.0, True, False]
        assert np.array_equal(arrived["frame"], observation["goal"])

    def test_any_place_that_looks_like_the_goal_counts(self, bands: str) -> None:
        env = ImageNavigationEnv(images=bands, split="all", image_size=20)
        env.reset(seed=0, options={"goal": (3, 0)})
        assert env.shortest_path(np.array([2, 2]), np.array([3, 0])) == 3
        assert env.steps_to_goal() == 1
        assert env.step(DOWN)[1:4] == (1.0, True, False)

    def test_a_picture_of_one_frame_is_drawn_again(self, tmp_path: Path, bands: str) -> None:
        images = plain(tmp_path, [1, 2, 3])
        envs = ImageNavigationVectorEnv(20, images=images, split="all", image_size=20)
        _, info = envs.reset(seed=0)
        assert set(info["image"].tolist()) == {0, 1, 2}
        with pytest.raises(ValueError, match=r"image 4 .* looks the same from every place"):
            envs.reset(options={"image": np.full(20, 4)})
        free = ImageNavigationEnv(images=images, split="all", image_size=20, task=None)
        free.reset(seed=0, options={"image": 4})  # no goal, no difficulty

    def test_only_pictures_of_one_frame(self, tmp_path: Path) -> None:
        env = ImageNavigationEnv(images=plain(tmp_path, [1, 2]), split="all", image_size=20)
        with pytest.raises(ValueError, match="give other images"):
            env.reset(seed=0)
        with pytest.raises(ResetNeeded):
            env.step(0)

    def test_a_walk_that_saw_one_frame_has_no_goal(self, bands: str) -> None:
        env = ImageNavigationEnv(images=bands, split="all", image_size=20)
        env.reset(seed=0, options=WALK)
        for action in (LEFT, STAY, RIGHT):
            env.step(action)
        with pytest.raises(ValueError, match=r"3 steps.*walk longer"):
            env.reset(options=SAME)
        env.step(UP)  # the walk goes on
        env.reset(options=SAME)


class TestEnds:
    def test_the_horizon_counts_the_tasks_steps_alone(self) -> None:
        env = ImageNavigationEnv(horizon=3)
        env.reset(seed=0, options=WALK)
        for action in [UP, DOWN, LEFT] * 4:
            assert env.step(action)[1:4] == (0.0, False, False)
        for _ in range(2):
            env.reset(options={**SAME, "goal": (3, 4)})
            assert [env.step(STAY)[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]

    def test_arriving_at_the_last_moment_is_an_arrival(self) -> None:
        env = ImageNavigationEnv(horizon=1)
        env.reset(seed=0, options={"goal": (3, 4)})
        assert env.step(UP)[1:4] == (1.0, True, False)

    def test_no_horizon_no_task(self) -> None:
        env = ImageNavigationEnv(task=None, horizon=None)
        observation, info = env.reset(seed=0)
        assert observation.keys() == {"frame"} == set(env.observation_space)
        assert "goal_position" not in info
        assert all(env.step(int(action))[1:4] == (0.0, False, False) for action in np.random.default_rng(0).integers(5, size=300))

    @pytest.mark.parametrize(("horizon", "limit", "counts"), [(5, 3, 3), (3, 5, 3), (None, 4, 4), (4, None, 4)])
    def test_the_smaller_limit_of_make_vec_counts(self, horizon: int | None, limit: int | None, counts: int) -> None:
        envs = gym.make_vec(WORLD, num_envs=2, horizon=horizon, max_episode_steps=limit)
        envs.reset(seed=0, options={"goal": np.zeros((2, 2), int)})
        ends = [envs.step(np.full(2, STAY))[3].all() for _ in range(counts)]
        assert ends == [False] * (counts - 1) + [True]

    def test_rows_are_reset_by_mask(self) -> None:
        envs = ImageNavigationVectorEnv(3, horizon=2, autoreset_mode="Disabled")
        _, before = envs.reset(seed=0, options={"goal": np.array([[3, 4], [0, 0], [0, 0]])})
        _, _, terminated, truncated, _ = envs.step(np.array([UP, STAY, STAY]))
        assert terminated.tolist() == [True, False, False]
        with pytest.raises(ResetNeeded, match=r"rows \[0\] have ended"):
            envs.step(np.zeros(3, int))
        options = {"reset_mask": terminated}
        _, info = envs.reset(options=options)
        assert options.keys() == {"reset_mask"}  # the caller's dictionary is left alone
        assert info["world_steps"].tolist() == [0, 1, 1]
        assert info["image"][1:].tolist() == before["image"][1:].tolist()
        _, _, terminated, truncated, _ = envs.step(np.full(3, STAY))
        assert truncated.tolist() == [False, True, True]


class TestRandomness:
    def test_the_same_seed_gives_the_same_worlds(self) -> None:
        envs, again = ImageNavigationVectorEnv(4, horizon=5), ImageNavigationVectorEnv(4, horizon=5)
        for env in (envs, again):
            env.action_space.seed(1)
        assert_same(envs.reset(seed=9)[0], again.reset(seed=9)[0])
        for _ in range(30):
            assert_same(envs.step(envs.action_space.sample())[0], again.step(again.action_space.sample())[0])
        assert_same(envs.reset(seed=9)[0], ImageNavigationVectorEnv(4).reset(seed=[9, 10, 11, 12])[0])

    def test_other_seeds_give_other_worlds(self) -> None:
        images = np.concatenate([ImageNavigationVectorEnv(8).reset(seed=seed)[1]["image"] for seed in (0, 100, None)])
        assert len(set(images.tolist())) > 20

    def test_what_one_row_does_never_changes_another(self) -> None:
        first, second = ImageNavigationVectorEnv(3, horizon=6), ImageNavigationVectorEnv(3, horizon=6)
        first.reset(seed=0, options={"goal": np.array([[3, 4], [0, 0], [8, 8]])})
        second.reset(seed=0, options={"goal": np.array([[8, 8], [0, 0], [8, 8]])})
        generator = np.random.default_rng(0)
        for _ in range(40):
            actions, others = generator.integers(5, size=(2, 3))
            others[1:] = actions[1:]
            ours, theirs = first.step(actions), second.step(others)
            for one, other in zip(ours[:4], theirs[:4], strict=True):
                rest = {key: value[1:] for key, value in one.items()} if isinstance(one, dict) else one[1:]
                assert_same(rest, {key: value[1:] for key, value in other.items()} if isinstance(other, dict) else other[1:])

    def test_saved_rows_go_on_elsewhere_as_they_would_have_here(self) -> None:
        envs, elsewhere = ImageNavigationVectorEnv(3, horizon=5), ImageNavigationVectorEnv(4, horizon=5)
        envs.reset(seed=0)
        elsewhere.reset(seed=50)
        actions = np.random.default_rng(0).integers(5, size=(30, 3))
        envs.step(actions[0])
        elsewhere.load_rows(np.array([3, 1]), envs.save_rows(np.array([0, 2])))
        for action in actions[1:]:
            here, there = envs.step(action), elsewhere.step(np.array([0, action[2], 0, action[0]]))
            for one, other in zip(here[:4], there[:4], strict=True):
                for ours, theirs in zip(*(item.values() if isinstance(item, dict) else [item] for item in (one, other)), strict=True):
                    np.testing.assert_array_equal(ours[[0, 2]], theirs[[3, 1]])

    def test_nothing_is_shared_out(self) -> None:
        envs, untouched = (ImageNavigationVectorEnv(4, horizon=4, autoreset_mode="SameStep") for _ in range(2))

        def spoil(value: Any) -> None:
            for item in value.values() if isinstance(value, dict) else value:
                if isinstance(item, dict | tuple) or (isinstance(item, np.ndarray) and item.dtype == object):
                    spoil(item)
                elif isinstance(item, np.ndarray):
                    item[...] = 1

        ours, theirs = envs.reset(seed=0), untouched.reset(seed=0)
        for actions in np.random.default_rng(0).integers(5, size=(30, 4)):
            assert_same(ours[0], theirs[0])
            assert_same(ours[-1], theirs[-1])
            spoil(ours)
            ours, theirs = envs.step(actions), untouched.step(actions)


class TestErrors:
    @pytest.mark.parametrize("action", [5, -1, 1.0, True, "up", None, np.array([1]), np.array([0, 1])])
    def test_actions_of_the_scalar_world(self, action: Any) -> None:
        env = ImageNavigationEnv()
        env.reset(seed=0)
        with pytest.raises(ValueError, match="action"):
            env.step(action)
        for good in (0, np.int64(1), np.array(2), np.uint8(3)):
            env.step(good)

    @pytest.mark.parametrize("actions", [[0, 5], [0, -1], [0.0, 1.0], [True, False], [0], [[0, 1]], 0])
    def test_actions_of_the_vector(self, actions: Any) -> None:
        envs = ImageNavigationVectorEnv(2)
        envs.reset(seed=0)
        with pytest.raises(ValueError, match="actions must"):
            envs.step(np.array(actions))

    def test_steps_before_reset_and_after_the_end(self) -> None:
        env = ImageNavigationEnv(horizon=1)
        with pytest.raises(ResetNeeded, match="call reset first"):
            env.step(0)
        with pytest.raises(ResetNeeded, match="without it first"):
            env.reset(options=SAME)
        env.reset(seed=0, options={"goal": (0, 0)})
        env.step(STAY)
        with pytest.raises(ResetNeeded, match="have ended"):
            env.step(STAY)
        with pytest.raises(ResetNeeded, match="call reset first"):
            ImageNavigationVectorEnv(2).step(np.zeros(2, int))
        with pytest.raises(ResetNeeded, match="never had a world"):
            ImageNavigationVectorEnv(2).reset(options={"reset_mask": np.array([True, False])})
        with pytest.raises(ResetNeeded, match="call reset first"):
            ImageNavigationEnv(render_mode="rgb_array").render()
        env.reset(options=WALK)
        with pytest.raises(ResetNeeded, match="a goal in every row"):
            env.steps_to_goal()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"phase": "play"}, "phase must be"),
            ({"world": "other"}, "world 'new' or 'same'"),
            ({"start": (0, 0)}, r"got also \['start'\]"),
            ({"phase": "walk", "world": "same"}, "needs phase 'task'"),
            ({"world": "same", "image": 3}, "no image"),
            ({"phase": "walk", "goal": (0, 0)}, "needs task='goal'"),
            ({"goal": (4, 4)}, "looks as its start does"),
            ({"goal": (9, 0)}, "between 0 and 8"),
            ({"position": (0, -1)}, "between 0 and 8"),
            ({"position": (0.5, 1)}, "must be integers"),
            ({"position": 3}, "of shape"),
            ({"image": 10_000}, "between 0 and 9999"),
            ({"image": "first"}, "must be integers"),
            ({"reset_mask": np.array([True])}, "for vector environments"),
        ],
    )
    def test_reset_options(self, options: dict[str, Any], message: str) -> None:
        env = ImageNavigationEnv()
        env.reset(seed=0)
        with pytest.raises(ValueError, match=message):
            env.reset(options=options)

    @pytest.mark.parametrize("mask", [[True, True], np.array([1, 0]), np.array([True]), np.array([False, False])])
    def test_reset_masks(self, mask: Any) -> None:
        envs = ImageNavigationVectorEnv(2)
        envs.reset(seed=0)
        with pytest.raises(ValueError, match="reset_mask"):
            envs.reset(options={"reset_mask": mask})
        with pytest.raises(ValueError, match="one entry a row"):
            envs.reset(seed=[1])

    def test_goals_need_the_goal_task(self) -> None:
        env = ImageNavigationEnv(task=None)
        with pytest.raises(ValueError, match="needs task='goal'"):
            env.reset(seed=0, options={"goal": (0, 0)})

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"num_envs": 0}, "num_envs"),
            ({"task": "reach"}, "task must be"),
            ({"horizon": 0}, "horizon must be"),
            ({"max_episode_steps": 0}, "max_episode_steps must be"),
            ({"render_mode": "human"}, "render_mode must be"),
            ({"split": "training"}, "split must be"),
            ({"image_size": 33}, r"multiple of step_size.*try step_size=1"),
            ({"crop_size": 32}, "multiple of step_size"),
            ({"step_size": 0}, "multiple of step_size"),
            ({"images": "/no/such/folder"}, "looked for"),
            ({"autoreset_mode": "sometimes"}, "autoreset_mode must be one of"),
        ],
    )
    def test_arguments(self, kwargs: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ImageNavigationVectorEnv(**kwargs)

    def test_the_remedy_for_sizes_fits(self) -> None:
        with pytest.raises(ValueError, match="try step_size=2"):
            places_a_side(32, 8, 10)
        assert places_a_side(32, 8, 2) == 13


class TestContracts:
    @pytest.mark.parametrize("task", ["goal", None])
    def test_the_checkers_of_gymnasium_and_sb3_pass(self, task: str | None) -> None:
        sb3 = pytest.importorskip("stable_baselines3.common.env_checker")
        env = gym.make(WORLD, task=task, render_mode="rgb_array").unwrapped
        check_env(env)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The minimal resolution for an image is 36x36")  # true of every small frame
            sb3.check_env(env)

    def test_the_world_can_be_played_and_seen(self) -> None:
        env = gym.make(WORLD, render_mode="rgb_array")
        env.reset(seed=0, options={"goal": (0, 0)})
        picture = env.render()
        assert isinstance(picture, np.ndarray)
        assert picture.shape == (512, 512, 3)
        assert picture[1, 1].tolist() == [255, 214, 0]  # the goal's corner
        assert picture[12 * 16 + 1, 12 * 16 + 1].tolist() == [255, 255, 255]  # the window's
        assert isinstance(env.metadata["render_fps"], int)
        keys = env.get_wrapper_attr("get_keys_to_action")()
        assert sorted(keys.values()) == [0, 1, 2, 3, 4]
        env.reset(options=WALK)
        assert (env.render()[1, 1] != [255, 214, 0]).any()  # type: ignore[index,union-attr]
        frames = gym.make_vec(WORLD, num_envs=2, render_mode="rgb_array")
        frames.reset(seed=0)
        drawn = frames.render()
        assert drawn is not None
        assert len(drawn) == 2

    def test_rendering_without_a_mode_warns(self) -> None:
        env = ImageNavigationEnv()
        env.reset(seed=0)
        with pytest.warns(UserWarning, match="without a render_mode"):
            assert env.render() is None

    def test_the_world_imports_no_torch(self) -> None:
        code = (
            "import sys, gtmsm_env.envs.image_navigation, gtmsm_env.exploration; sys.exit('torch' in sys.modules or 'PIL' in sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
