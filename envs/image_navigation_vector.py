"""The batched core of image navigation: many windows on many pictures."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from gtmsm_env.envs.images import open_images
from gtmsm_env.envs.windows import Integers, crops, outlined, pixels_of, places_a_side, same_frame
from gtmsm_env.vector import BatchedRows, Flags, Frames, Info, Observation

ACTIONS = ("up", "down", "left", "right", "stay")
MOVES = np.array([[-1, 0], [1, 0], [0, -1], [0, 1], [0, 0]])  # (row, column) of each action
REDRAWS = 100  # pictures of one colour in a row that a reset puts up with


class ImageNavigationVectorEnv(BatchedRows):
    """Many windows on many pictures, moved in one batched computation. Row i seeded s + i equals `ImageNavigationEnv` seeded s + i.

    See `ImageNavigationEnv` for spaces, rewards, phases and options. In a vector, `options` may also hold Gymnasium's "reset_mask", and
    "image", "position" and "goal" are arrays with one entry (or pair) a row, those of rows outside the mask being ignored. `info` holds
    one array per key and, as everywhere in Gymnasium, a mask `_key` of the rows it is told for; the phase is the array "walking".
    `autoreset_mode` is an `AutoresetMode` or its value; a row that resets itself walks into a new world as a plain `reset()` would.
    `max_episode_steps` is what `make_vec` hands over; the smaller of it and `horizon` counts.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["rgb_array"],
        "render_fps": 8,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
        "start": "center",
        "content": ("images", "split"),  # arguments that choose what there is to see; a model of other content knows this world's rules
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        images: str = "procedural",
        split: str = "test",
        image_size: int = 32,
        crop_size: int = 8,
        step_size: int = 3,
        task: Literal["goal"] | None = "goal",
        horizon: int | None = 128,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        if task not in ("goal", None):
            raise ValueError(f"task must be 'goal' or None, got {task!r}")
        for name, limit in (("horizon", horizon), ("max_episode_steps", max_episode_steps)):
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1 step, or None for no limit, got {limit}")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode must be 'rgb_array' or None, got {render_mode!r}")
        side = places_a_side(image_size, crop_size, step_size)
        self.num_envs, self.task, self.render_mode = num_envs, task, render_mode
        self.crop_size, self.step_size, self.side = crop_size, step_size, side
        self.horizon = min((limit for limit in (horizon, max_episode_steps) if limit is not None), default=np.iinfo(np.int64).max)
        self._prepare(num_envs, autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self.images = open_images(images, split=split, image_size=image_size)

        frame = spaces.Box(0, 255, (crop_size, crop_size, 3), np.uint8)
        self.single_observation_space = spaces.Dict({"frame": frame, "goal": frame} if task else {"frame": frame})
        self.single_action_space = spaces.Discrete(len(ACTIONS))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        n, c = num_envs, crop_size
        self._rows = np.arange(n)
        self._pictures = np.zeros((n, image_size, image_size, 3), np.uint8)
        self._views = np.zeros((n, side, side, c, c, 3), np.uint8)  # what is seen from each place
        self._free = np.ones((n, side, side), np.bool_)  # the places that can be entered: here, all
        self._image = np.zeros(n, np.int64)
        self._position = np.zeros((n, 2), np.int64)
        self._home = np.zeros((n, 2), np.int64)  # where a task in the same world starts
        self._goal = np.zeros((n, 2), np.int64)
        self._goal_frame = np.zeros((n, c, c, 3), np.uint8)
        self._arrival = np.zeros((n, side, side), np.bool_)  # the places that count as the goal
        self._seen = np.zeros((n, side, side), np.bool_)  # the places a walk has been
        self._walking = np.zeros(n, np.bool_)
        self._walked = np.zeros(n, np.bool_)  # this world began with a walk
        self._task_steps = np.zeros(n, np.int64)
        self._world_steps = np.zeros(n, np.int64)

    @property
    def positions(self) -> Integers:
        """Every place as (row, column), (P * P, 2), row by row."""
        return np.stack(np.divmod(np.arange(self.side**2), self.side), axis=1)

    def shortest_path(self, start: NDArray[np.integer[Any]], goal: NDArray[np.integer[Any]]) -> Integers:
        """Fewest steps between places (..., 2) and (..., 2): their distance along rows and columns."""
        return np.abs(np.asarray(goal, np.int64) - np.asarray(start, np.int64)).sum(axis=-1)

    def steps_to_goal(self) -> Integers:
        """Fewest steps of every row from where it stands to any place that counts as its goal, (N,); ResetNeeded where there is none."""
        if not self._arrival.any(axis=(1, 2)).all():
            raise ResetNeeded("steps_to_goal needs a goal in every row: reset with task='goal' and outside the walk phase")
        distance = self.shortest_path(self.positions, self._position[:, None])  # (N, P * P)
        return np.where(self._arrival.reshape(self.num_envs, -1), distance, 2 * self.side).min(axis=1)

    def render(self) -> tuple[Frames, ...] | None:
        """Every row's picture drawn large, its window outlined in white and its goal in yellow; None without a render_mode."""
        if self.render_mode is None:
            gym.logger.warn("render() was called without a render_mode; make the environment with render_mode='rgb_array'")
            return None
        if not self._ready.all():
            raise ResetNeeded("render needs a world: call reset first")
        goals = [goal if arrival.any() else None for goal, arrival in zip(self._goal, self._arrival, strict=True)]
        hatched = pixels_of(~self._free, self._pictures.shape[1], self.crop_size, self.step_size)
        rows = zip(self._pictures, self._position, goals, hatched, strict=True)
        return tuple(outlined(picture, window, goal, self.crop_size, self.step_size, stripes) for picture, window, goal, stripes in rows)

    def save_rows(self, rows: Integers) -> dict[str, Any]:
        """Some rows as they stand, generators included: what `load_rows` takes, here or in another vector of this kind."""
        saved: dict[str, Any] = {name: value[rows].copy() for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return {**saved, "generators": [deepcopy(self.generators[row]) for row in rows]}

    def load_rows(self, rows: Integers, saved: Mapping[str, Any]) -> None:
        """Let some rows stand as those that were saved, in their order."""
        self.generators = self.generators or [seeding.np_random(None)[0] for _ in self._rows]
        for row, generator in zip(rows, saved["generators"], strict=True):
            self.generators[row] = deepcopy(generator)
        for name in saved.keys() - {"generators", "_rows"}:
            getattr(self, name)[rows] = saved[name]

    # ---- worlds and tasks

    def _begin(self, rows: Integers, options: dict[str, Any]) -> None:
        phase, world = options.pop("phase", "task"), options.pop("world", "new")
        chosen: dict[str, Integers] = {
            name: self._chosen(rows, name, options.pop(name)) for name in ("image", "position", "goal") if name in options
        }
        self._check_reset(rows, phase, world, chosen, unknown=list(options))
        position, goal = chosen.get("position"), chosen.get("goal")
        start = np.full((len(rows), 2), self.side // 2) if position is None else position
        if world == "new":
            self._ready[rows] = False
            self._draw_worlds(rows, chosen.get("image"), start)
        self._check_places(rows, chosen)
        if world == "new":
            self._begin_worlds(rows, phase == "walk", start)
        if phase == "task":
            home = np.where(self._walking[rows, None], self._position[rows], self._home[rows])  # a walk's end becomes home
            self._begin_task(rows, home, home if position is None else position, goal)

    def _advance(self, actions: Integers) -> tuple[NDArray[np.float64], Flags, Flags]:
        self._position = self._moved(actions)
        self._world_steps += 1
        self._task_steps += ~self._walking
        here = (self._rows, self._position[:, 0], self._position[:, 1])
        self._seen[here] |= self._walking
        arrived = self._arrival[here]
        return arrived.astype(np.float64), arrived, self._task_steps >= self.horizon

    def _moved(self, actions: Integers) -> Integers:
        """Where these actions lead, (N, 2)."""
        places: Integers = np.clip(self._position + MOVES[actions], 0, self.side - 1)
        return places

    def _paint_worlds(self, rows: Integers, image: Integers | None) -> None:
        """A picture for each row, drawn or number `image` (N,)."""
        self._image[rows] = [self.generators[row].integers(len(self.images)) for row in rows] if image is None else image
        self._pictures[rows] = self.images.batch(self._image[rows])

    def _draw_worlds(self, rows: Integers, image: Integers | None, start: Integers) -> None:
        """A new world for each row, one in which something looks unlike the start."""
        left = np.arange(len(rows))
        for _ in range(REDRAWS):
            some = rows[left]
            self._paint_worlds(some, None if image is None else image[left])
            views = crops(self._pictures[some], self.crop_size, self.step_size)
            self._views[some] = views
            if not self.task:
                break
            first = views[np.arange(len(some)), start[left, 0], start[left, 1]]
            left = left[(same_frame(views, first) | ~self._free[some]).all(axis=(1, 2))]  # a picture of one frame has no place to go to
            if not len(left):
                break
            if image is not None:
                raise ValueError(
                    f"image {image[left[0]]} of {self.images.name} looks the same from every place, so no goal can be drawn; choose another"
                )
        else:
            raise ValueError(
                f"{REDRAWS} images of {self.images.name} looked the same from every place, so no goal can be drawn; give other images"
            )

    def _begin_worlds(self, rows: Integers, walking: bool, start: Integers) -> None:
        """Put the rows at the start of worlds that are new to them."""
        self._position[rows] = self._home[rows] = start
        self._walking[rows] = self._walked[rows] = walking
        self._seen[rows] = False
        self._seen[rows, start[:, 0], start[:, 1]] = True
        self._arrival[rows] = False
        self._goal_frame[rows] = 0
        self._world_steps[rows] = self._task_steps[rows] = 0
        self._ready[rows], self._ended[rows] = True, False  # a world to step in, even if no goal is found in it

    def _begin_task(self, rows: Integers, home: Integers, start: Integers, goal: Integers | None) -> None:
        """Put the rows at `start` and draw their goals among the places walked (all without a walk) that look unlike it."""
        if self.task:
            each = np.arange(len(rows))
            at_start = same_frame(self._views[rows], self._views[rows, start[:, 0], start[:, 1]])
            allowed = (self._seen[rows] | ~self._walked[rows, None, None]) & self._free[rows] & ~at_start
            if goal is None:
                goal = np.empty_like(start)
                for i, row in enumerate(rows):
                    places = np.argwhere(allowed[i])
                    if not len(places):
                        raise ValueError(
                            f"in its {self._world_steps[row]} steps row {row} saw nothing unlike its start (image {self._image[row]}), "
                            "so no goal can be drawn; walk longer, or begin a new world"
                        )
                    goal[i] = places[self.generators[row].integers(len(places))]
            elif at_start[each, goal[:, 0], goal[:, 1]].any():
                row = rows[at_start[each, goal[:, 0], goal[:, 1]]][0]
                raise ValueError(
                    f"the goal of row {row} looks as its start does, so it is reached already; choose another goal or position"
                )
            self._goal[rows] = goal
            self._goal_frame[rows] = self._views[rows, goal[:, 0], goal[:, 1]]
            self._arrival[rows] = same_frame(self._views[rows], self._goal_frame[rows])
        self._home[rows], self._position[rows] = home, start
        self._walking[rows] = False
        self._task_steps[rows] = 0

    # ---- what the caller gave

    def _chosen(self, rows: Integers, name: str, value: Any) -> Integers:
        """options["image"], ["position"] or ["goal"] of the masked rows, checked for shape, kind and range."""
        shape = (self.num_envs,) if name == "image" else (self.num_envs, 2)
        most = len(self.images) if name == "image" else self.side
        array = np.asarray(value)
        if array.shape != shape or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"options[{name!r}] must be integers of shape {shape}, got {array.dtype} of shape {array.shape}")
        if array[rows].min() < 0 or array[rows].max() >= most:
            raise ValueError(f"options[{name!r}] must lie between 0 and {most - 1}, got {array[rows].tolist()}")
        return array[rows].astype(np.int64)

    def _check_places(self, rows: Integers, chosen: dict[str, Integers]) -> None:
        """Refuse a chosen position or goal that cannot be entered; here, each can."""

    def _check_reset(self, rows: Integers, phase: Any, world: Any, chosen: dict[str, Integers], unknown: list[str]) -> None:
        if unknown:
            raise ValueError(f"reset options are phase, world, image, position, goal and (in a vector) reset_mask, got also {unknown}")
        if phase not in ("walk", "task") or world not in ("new", "same"):
            raise ValueError(f"phase must be 'walk' or 'task' and world 'new' or 'same', got phase={phase!r} and world={world!r}")
        if world == "same" and (phase == "walk" or "image" in chosen):
            raise ValueError("world 'same' goes on in the world a row is in: it needs phase 'task' and no image")
        if world == "same" and not self._ready[rows].all():
            raise ResetNeeded("world 'same' needs a world: reset without it first")
        if "goal" in chosen and (phase == "walk" or not self.task):
            raise ValueError("options['goal'] needs task='goal' and phase 'task'")

    # ---- what the caller gets: copies only

    def _observation(self) -> Observation:
        frame = self._views[self._rows, self._position[:, 0], self._position[:, 1]]
        return {"frame": frame, "goal": self._goal_frame.copy()} if self.task else {"frame": frame}

    def _info(self) -> Info:
        info = self._told(
            position=self._position.copy(), image=self._image.copy(), world_steps=self._world_steps.copy(), walking=self._walking.copy()
        )
        goal = {"goal_position": self._goal.copy(), "_goal_position": ~self._walking} if self.task else {}
        return {**info, **goal}
