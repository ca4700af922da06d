"""Image navigation (section 4.1): a small window moves over a picture and sees only what lies in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from gtmsm_env.envs.images import open_images
from gtmsm_env.envs.windows import Flags, Frames, Integers, crops, outlined, places_a_side, same_frame

ACTIONS = ("up", "down", "left", "right", "stay")
MOVES = np.array([[-1, 0], [1, 0], [0, -1], [0, 1], [0, 0]])  # (row, column) of each action
REDRAWS = 100  # pictures of one colour in a row that a reset puts up with

Observation = dict[str, Frames]


class ImageNavigationVectorEnv(VectorEnv[Observation, Integers, Any]):
    """Many windows on many pictures, moved in one batched computation. Row i seeded s + i equals `ImageNavigationEnv` seeded s + i.

    See `ImageNavigationEnv` for spaces, rewards, phases and options. In a vector, `options` may also hold Gymnasium's "reset_mask", and
    "image", "position" and "goal" are arrays with one entry (or pair) a row, those of rows outside the mask being ignored. `info` holds
    one array per key and, as everywhere in Gymnasium, a mask `_key` of the rows it is told for; the phase is the array "walking".
    `autoreset_mode` is an `AutoresetMode` or its value; a row that resets itself walks into a new world as a plain `reset()` would.
    `max_episode_steps` is what `make_vec` hands over; the smaller of it and `horizon` counts.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 8, "autoreset_mode": AutoresetMode.NEXT_STEP}  # type: ignore[misc]

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
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}  # type: ignore[misc]
        self.images = open_images(images, split=split, image_size=image_size)

        frame = spaces.Box(0, 255, (crop_size, crop_size, 3), np.uint8)
        self.single_observation_space = spaces.Dict({"frame": frame, "goal": frame} if task else {"frame": frame})  # type: ignore[assignment]
        self.single_action_space = spaces.Discrete(len(ACTIONS))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        n, c = num_envs, crop_size
        self._rows = np.arange(n)
        self.generators: list[np.random.Generator] = []  # one a row; made by the first reset
        self._pictures = np.zeros((n, image_size, image_size, 3), np.uint8)
        self._views = np.zeros((n, side, side, c, c, 3), np.uint8)  # what is seen from each place
        self._image = np.zeros(n, np.int64)
        self._position = np.zeros((n, 2), np.int64)
        self._home = np.zeros((n, 2), np.int64)  # where a task in the same world starts
        self._goal = np.zeros((n, 2), np.int64)
        self._goal_frame = np.zeros((n, c, c, 3), np.uint8)
        self._arrival = np.zeros((n, side, side), np.bool_)  # the places that count as the goal
        self._seen = np.zeros((n, side, side), np.bool_)  # the places a walk has been
        self._walking = np.zeros(n, np.bool_)
        self._walked = np.zeros(n, np.bool_)  # this world began with a walk
        self._ended = np.zeros(n, np.bool_)
        self._ready = np.zeros(n, np.bool_)  # has a world
        self._task_steps = np.zeros(n, np.int64)
        self._world_steps = np.zeros(n, np.int64)

    @property
    def positions(self) -> Integers:
        """Every place as (row, column), (P * P, 2), row by row."""
        return np.stack(np.divmod(np.arange(self.side**2), self.side), axis=1)

    @staticmethod
    def shortest_path(start: NDArray[np.integer[Any]], goal: NDArray[np.integer[Any]]) -> Integers:
        """Fewest steps between places (..., 2) and (..., 2): their distance along rows and columns."""
        return np.abs(np.asarray(goal, np.int64) - np.asarray(start, np.int64)).sum(axis=-1)

    def steps_to_goal(self) -> Integers:
        """Fewest steps of every row from where it stands to any place that counts as its goal, (N,); ResetNeeded where there is none."""
        if not self._arrival.any(axis=(1, 2)).all():
            raise ResetNeeded("steps_to_goal needs a goal in every row: reset with task='goal' and outside the walk phase")
        distance = self.shortest_path(self.positions, self._position[:, None])  # (N, P * P)
        return np.where(self._arrival.reshape(self.num_envs, -1), distance, 2 * self.side).min(axis=1)

    def reset(  # type: ignore[override]
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode or a walk in the rows of `options["reset_mask"]` (all by default). See the class for options and errors."""
        options = dict(options or {})
        rows = self._masked_rows(options.pop("reset_mask", None))
        self._seed(rows, seed)
        phase, world = options.pop("phase", "task"), options.pop("world", "new")
        chosen = {name: self._chosen(rows, name, options.pop(name)) for name in ("image", "position", "goal") if name in options}
        self._check_reset(rows, phase, world, chosen, unknown=list(options))
        position, goal = chosen.get("position"), chosen.get("goal")
        if world == "new":
            self._begin_worlds(rows, phase == "walk", chosen.get("image"), position)
        else:
            start = np.where(self._walking[rows, None], self._position[rows], self._home[rows])
            self._begin_task(rows, start, start if position is None else position, goal)
            return self._observation(), self._info()
        if phase == "task":
            self._begin_task(rows, self._position[rows], self._position[rows], goal)
        return self._observation(), self._info()

    def step(self, actions: Integers) -> tuple[Observation, NDArray[np.float64], Flags, Flags, dict[str, Any]]:
        """Move every row by its action, (N,) integers 0 to 4. ValueError for other actions; ResetNeeded before reset or after the end."""
        moves = MOVES[self._checked(actions)]
        if not self._ready.all():
            raise ResetNeeded("step needs a world: call reset first")
        ended = self._ended
        if self.autoreset_mode == AutoresetMode.DISABLED and ended.any():
            raise ResetNeeded(f"rows {np.flatnonzero(ended).tolist()} have ended: reset them first, as options={{'reset_mask': ...}} does")
        self._position = np.clip(self._position + moves, 0, self.side - 1)
        self._world_steps += 1
        self._task_steps += ~self._walking
        here = (self._rows, self._position[:, 0], self._position[:, 1])
        self._seen[here] |= self._walking
        terminated = self._arrival[here] & ~ended
        truncated = (self._task_steps >= self.horizon) & ~terminated & ~ended
        reward = terminated.astype(np.float64)
        if ended.any():  # next-step autoreset: these rows' actions led nowhere
            self._begin_worlds_and_tasks(np.flatnonzero(ended))
        self._ended = terminated | truncated
        final: dict[str, Any] = {}
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self._ended.any():
            final = self._final()
            self._begin_worlds_and_tasks(np.flatnonzero(self._ended))
            self._ended = np.zeros(self.num_envs, np.bool_)
        return self._observation(), reward, terminated, truncated, {**self._info(), **final}

    def render(self) -> tuple[Frames, ...] | None:  # type: ignore[override]
        """Every row's picture drawn large, its window outlined in white and its goal in yellow; None without a render_mode."""
        if self.render_mode is None:
            gym.logger.warn("render() was called without a render_mode; make the environment with render_mode='rgb_array'")
            return None
        if not self._ready.all():
            raise ResetNeeded("render needs a world: call reset first")
        goals = [goal if arrival.any() else None for goal, arrival in zip(self._goal, self._arrival, strict=True)]
        rows = zip(self._pictures, self._position, goals, strict=True)
        return tuple(outlined(picture, window, goal, self.crop_size, self.step_size) for picture, window, goal in rows)

    # ---- worlds and tasks

    def _begin_worlds_and_tasks(self, rows: Integers) -> None:
        self._begin_worlds(rows, False, None, None)
        self._begin_task(rows, self._position[rows], self._position[rows], None)

    def _begin_worlds(self, rows: Integers, walking: bool, image: Integers | None, position: Integers | None) -> None:
        """A new picture for each row, the window at its centre or at `position`."""
        start = np.full((len(rows), 2), self.side // 2) if position is None else position
        self._ready[rows] = False
        left = np.arange(len(rows))
        for _ in range(REDRAWS):
            some = rows[left]
            self._image[some] = [self.generators[row].integers(len(self.images)) for row in some] if image is None else image[left]
            self._pictures[some] = self.images.batch(self._image[some])
            views = crops(self._pictures[some], self.crop_size, self.step_size)
            self._views[some] = views
            if not self.task:
                break
            first = views[np.arange(len(some)), start[left, 0], start[left, 1]]
            left = left[same_frame(views, first).all(axis=(1, 2))]  # a picture of one frame has no place to go to
            if not len(left):
                break
            if image is not None:
                raise ValueError(f"image {image[left[0]]} of {self.images.name} looks the same from every place, so no goal can be drawn; choose another")
        else:
            raise ValueError(f"{REDRAWS} images of {self.images.name} looked the same from every place, so no goal can be drawn; give other images")
        self._position[rows] = self._home[rows] = start
        self._walking[rows] = self._walked[rows] = walking
        self._seen[rows] = False
        self._seen[rows, start[:, 0], start[:, 1]] = True
        self._arrival[rows] = False
        self._goal_frame[rows] = 0
        self._world_steps[rows] = self._task_steps[rows] = 0
        self._ended[rows] = False
        self._ready[rows] = True

    def _begin_task(self, rows: Integers, home: Integers, start: Integers, goal: Integers | None) -> None:
        """Put the rows at `start` and draw their goals among the places walked (all without a walk) that look unlike it."""
        if self.task:
            each = np.arange(len(rows))
            at_start = same_frame(self._views[rows], self._views[rows, start[:, 0], start[:, 1]])
            allowed = (self._seen[rows] | ~self._walked[rows, None, None]) & ~at_start
            if goal is None:
                goal = np.empty_like(start)
                for i, row in enumerate(rows):
                    places = np.argwhere(allowed[i])
                    if not len(places):
                        raise ValueError(
                            f"row {row} has walked only where it looks as at its start (image {self._image[row]}, {self._world_steps[row]} steps), "
                            "so no goal can be drawn; walk longer, or begin a new world"
                        )
                    goal[i] = places[self.generators[row].integers(len(places))]
            elif at_start[each, goal[:, 0], goal[:, 1]].any():
                row = rows[at_start[each, goal[:, 0], goal[:, 1]]][0]
                raise ValueError(f"the goal of row {row} looks as its start does, so it is reached before the first step; choose another goal or position")
            self._goal[rows] = goal
            self._goal_frame[rows] = self._views[rows, goal[:, 0], goal[:, 1]]
            self._arrival[rows] = same_frame(self._views[rows], self._goal_frame[rows])
        self._home[rows], self._position[rows] = home, start
        self._walking[rows] = self._ended[rows] = False
        self._task_steps[rows] = 0

    # ---- what the caller gave

    def _masked_rows(self, mask: Any) -> Integers:
        if mask is None:
            return self._rows
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,) or not mask.any():
            raise ValueError(f"options['reset_mask'] must be a boolean array of shape ({self.num_envs},) with at least one True, got {mask!r}")
        if not (self._ready | mask).all():
            raise ResetNeeded(f"rows {np.flatnonzero(~(self._ready | mask)).tolist()} never had a world: let the first reset_mask include them")
        return np.flatnonzero(mask)

    def _seed(self, rows: Integers, seed: int | Sequence[int | None] | None) -> None:
        """One generator a row: row i of an integer seed s gets s + i; None keeps a row's generator, or draws a first one."""
        if isinstance(seed, Sequence) and len(seed) != self.num_envs:
            raise ValueError(f"a list of seeds needs one entry a row, got {len(seed)} for {self.num_envs} rows")
        if not self.generators:
            self.generators = [seeding.np_random(None)[0] for _ in self._rows]
        if seed is not None:
            for row in rows.tolist():
                own = seed[row] if isinstance(seed, Sequence) else seed + row
                if own is not None:
                    self.generators[row] = seeding.np_random(own)[0]

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

    def _checked(self, actions: Any) -> Integers:
        array = np.asarray(actions)
        if array.shape != (self.num_envs,) or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"actions must be integers of shape ({self.num_envs},), got {array.dtype} of shape {array.shape}")
        if array.min() < 0 or array.max() >= len(ACTIONS):
            raise ValueError(f"actions must lie between 0 and {len(ACTIONS) - 1} ({', '.join(ACTIONS)}), got {array.min()} to {array.max()}")
        return array

    # ---- what the caller gets: copies only

    def _observation(self) -> Observation:
        frame = self._views[self._rows, self._position[:, 0], self._position[:, 1]]
        return {"frame": frame, "goal": self._goal_frame.copy()} if self.task else {"frame": frame}

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {
            "position": self._position.copy(),
            "image": self._image.copy(),
            "world_steps": self._world_steps.copy(),
            "walking": self._walking.copy(),
        }
        masks = {f"_{key}": np.ones(self.num_envs, np.bool_) for key in info}
        if self.task:
            info["goal_position"], masks["_goal_position"] = self._goal.copy(), ~self._walking
        return {**info, **masks}

    def _final(self) -> dict[str, Any]:
        """The last observation and info of the rows that ended, as Gymnasium's same-step autoreset tells them."""
        observation, ended = self._observation(), self._ended
        final = np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(ended):
            final[row] = {key: value[row].copy() for key, value in observation.items()}
        info = self._info()
        info = {key: value & ended if key.startswith("_") else value for key, value in info.items()}
        return {"final_obs": final, "_final_obs": ended.copy(), "final_info": info, "_final_info": ended.copy()}


class ImageNavigationEnv(gym.Env[Observation, int]):
    """A window walks over a picture and sees what lies in it: the paper's image navigation, with a goal frame to find.

    ## Action space
    `Discrete(5)`: up, down, left, right, stay. A move is `step_size` pixels; at an edge of the picture the window stays where it is.

    ## Observation space
    `Dict(frame=Box(0, 255, (crop_size, crop_size, 3), uint8), goal=...)`: what lies in the window, and the frame to find (black during a
    walk, which has no goal). `task=None` drops the goal and its reward.

    ## Rewards and episode end
    1 and termination on arrival at any place whose frame equals the goal byte for byte, 0 before. Truncation after `horizon` steps of the
    task (None: never). A walk gives no reward and neither terminates nor truncates.

    ## Starting state
    The centre of a picture drawn from `images` and `split`, and a goal drawn from the places that look unlike the start. `options`:
    `{"phase": "walk"}` begins a walk in a new world; `{"phase": "task", "world": "same"}` then a task in the walked world: it starts at
    home, where the walk ended (the world's own start without one), whatever tasks came between, and its goal is a place the walk has
    been. "image" (its number), "position" and "goal" (row, column) replace what would be drawn or recorded.

    ## Information
    `position` and `goal_position` (row, column), for evaluation only; `image`, its number in the split; `world_steps`, the steps walked in
    this world so far; `phase`, "walk" or "task".

    ## Arguments
    `images`: "procedural", or a folder or zip of CelebA or of any images; `split`: "train", "validation", "test" or, for a folder, "all";
    `image_size`, `crop_size`, `step_size` in pixels; `task`: "goal" or None; `horizon`; `render_mode`: "rgb_array" or None.

    ValueError for arguments, options and actions out of range; ResetNeeded for a step before `reset` or after the end.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 8}  # type: ignore[misc]

    def __init__(
        self,
        *,
        images: str = "procedural",
        split: str = "test",
        image_size: int = 32,
        crop_size: int = 8,
        step_size: int = 3,
        task: Literal["goal"] | None = "goal",
        horizon: int | None = 128,
        render_mode: str | None = None,
    ) -> None:
        self.batch_of_one = ImageNavigationVectorEnv(
            images=images,
            split=split,
            image_size=image_size,
            crop_size=crop_size,
            step_size=step_size,
            task=task,
            horizon=horizon,
            autoreset_mode=AutoresetMode.DISABLED,
            render_mode=render_mode,
        )
        self.render_mode, self.task = render_mode, task
        self.observation_space = self.batch_of_one.single_observation_space
        self.action_space = self.batch_of_one.single_action_space  # type: ignore[assignment]

    @property
    def positions(self) -> Integers:
        """Every place as (row, column), (P * P, 2), row by row."""
        return self.batch_of_one.positions

    @staticmethod
    def shortest_path(start: Integers, goal: Integers) -> int:
        """Fewest steps from place to place, each (row, column)."""
        return int(ImageNavigationVectorEnv.shortest_path(start, goal))

    def steps_to_goal(self) -> int:
        """Fewest steps from here to any place that counts as the goal."""
        return int(self.batch_of_one.steps_to_goal()[0])

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:  # type: ignore[override]
        """Begin an episode or a walk; see the class for options and errors."""
        super().reset(seed=seed)
        self.batch_of_one.generators = [self.np_random]
        rows = {key: [value] if key in ("image", "position", "goal") else value for key, value in (options or {}).items()}
        if "reset_mask" in rows:
            raise ValueError("options['reset_mask'] is for vector environments")
        observation, info = self.batch_of_one.reset(options=rows)
        return self._first(observation), self._told(info)

    def step(self, action: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:  # type: ignore[override]
        """Take one action, an integer 0 to 4."""
        if np.ndim(action):
            raise ValueError(f"an action is one integer, got an array of shape {np.shape(action)}")
        observation, reward, terminated, truncated, info = self.batch_of_one.step(np.asarray(action)[None])
        return self._first(observation), float(reward[0]), bool(terminated[0]), bool(truncated[0]), self._told(info)

    def render(self) -> Frames | None:  # type: ignore[override]
        """The picture drawn large, the window outlined in white and the goal in yellow; None without a render_mode."""
        drawn = self.batch_of_one.render()
        return drawn[0] if drawn else None

    def get_keys_to_action(self) -> dict[tuple[str, ...], int]:
        """Keys for `gymnasium.utils.play`: w, s, a, d move, no key stays."""
        return {("w",): 0, ("s",): 1, ("a",): 2, ("d",): 3, (): 4}

    @staticmethod
    def _first(observation: Observation) -> Observation:
        return {key: value[0] for key, value in observation.items()}

    @staticmethod
    def _told(info: dict[str, Any]) -> dict[str, Any]:
        """Row 0 of a vector's info."""
        told = {key: info[key][0] for key in ("position", "goal_position") if key in info and info[f"_{key}"][0]}
        phase = "walk" if info["walking"][0] else "task"
        return {**told, "image": int(info["image"][0]), "world_steps": int(info["world_steps"][0]), "phase": phase}
