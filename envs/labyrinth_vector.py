"""The batched core of the labyrinth: many agents in many worlds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from operator import index
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from gtmsm_env.envs.first_person import ACTIONS, REDRAWS, REMEMBERED, at_goal, check_between, check_one_of, check_phase
from gtmsm_env.envs.labyrinth_lab import open_labmaze
from gtmsm_env.envs.labyrinth_map import map_from_above
from gtmsm_env.envs.labyrinth_paths import fewest_steps, in_frame
from gtmsm_env.envs.labyrinth_physics import move
from gtmsm_env.envs.labyrinth_raycaster import draw
from gtmsm_env.envs.labyrinth_rooms import HEIGHT, RADIUS, Integers, Rooms, build
from gtmsm_env.envs.procedural import LENGTHS
from gtmsm_env.vector import BatchedRows, Flags, Floats, Frames, Info, Observation

PHYSICS = ("smooth", "lab")
MOST_ROOMS = 9


class LabyrinthVectorEnv(BatchedRows):
    """Many agents in many worlds, moved and seen in one batched computation. Row i seeded s + i equals `LabyrinthEnv` seeded s + i.

    See `LabyrinthEnv` for spaces, rewards, phases and options. In a vector, `options` may also hold Gymnasium's "reset_mask", and "room",
    "pose" and "goal" are arrays with one entry (or three numbers) a row, those of rows outside the mask being ignored. `info` holds one
    array per key and, as everywhere in Gymnasium, a mask `_key` of the rows it is told for; the phase is the array "walking".
    `autoreset_mode` is an `AutoresetMode` or its value; a row that resets itself comes into a new world as a plain `reset()` would.
    `max_episode_steps` is what `make_vec` hands over; the smaller of it and `horizon` counts.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["rgb_array"],
        "render_fps": 15,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
        "start": "anywhere",
        "content": ("split", "rooms", "layout", "textures", "goal_radius", "goal_angle"),  # a model of other rooms knows this one's rules
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        split: str = "test",
        rooms: Sequence[int] = (1, 1),
        layout: Literal["rooms", "maze"] = "rooms",
        textures: Literal["procedural", "lab"] = "procedural",
        frame_size: int = 32,
        field_of_view: float = 90.0,
        camera_height: float = 0.6,
        physics: Literal["smooth", "lab"] = "smooth",
        speed: float = 0.15,
        turn: float = 8.448,
        goal_radius: float = 0.3,
        goal_angle: float = 12.7,
        task: Literal["goal"] | None = "goal",
        horizon: int | None = 256,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        check_between("num_envs", num_envs, 1)
        check_one_of("split", split, tuple(LENGTHS))
        check_one_of("layout", layout, ("rooms", "maze"))
        check_one_of("textures", textures, ("procedural", "lab"))
        check_one_of("physics", physics, PHYSICS)
        check_one_of("task", task, ("goal", None))
        check_one_of("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        check_between("frame_size", frame_size, 4, 1024)
        check_between("field_of_view", field_of_view, 20, 150)
        check_between("camera_height", camera_height, 0.1, HEIGHT - 0.1)
        check_between("speed", speed, 0, RADIUS)  # a faster agent might jump over what it should meet
        check_between("turn", turn, 0, 90)
        check_between("goal_radius", goal_radius, 0)
        check_between("goal_angle", goal_angle, turn / 2, 180)  # half a turn, so that the agent can come to face every heading
        for name, limit in (("horizon", horizon), ("max_episode_steps", max_episode_steps)):
            if limit is not None:
                check_between(name, limit, 1)
        try:
            fewest, most = (index(bound) for bound in rooms)
        except (TypeError, ValueError):
            fewest, most = 0, 0
        if not 1 <= fewest <= most <= MOST_ROOMS:
            raise ValueError(f"rooms must be two whole numbers, the fewest and the most, from 1 to {MOST_ROOMS}, got {rooms!r}")
        if layout == "maze" or textures == "lab":
            open_labmaze()
        self.num_envs, self.task, self.render_mode = num_envs, task, render_mode
        self.split, self.rooms, self.frame_size = split, (fewest, most), frame_size
        self.layout, self.textures = layout, textures
        self.field_of_view, self.camera_height = field_of_view, camera_height
        self.physics, self.speed, self.turn = physics, float(speed), math.radians(turn)
        self.goal_radius, self.goal_angle = goal_radius, math.radians(goal_angle)
        self.horizon = min((limit for limit in (horizon, max_episode_steps) if limit is not None), default=np.iinfo(np.int64).max)
        self._prepare(num_envs, autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}

        frame = spaces.Box(0, 255, (frame_size, frame_size, 3), np.uint8)
        self.single_observation_space = spaces.Dict({"frame": frame, "goal": frame} if task else {"frame": frame})
        self.single_action_space = spaces.Discrete(len(ACTIONS))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

        n = num_envs
        self._rows = np.arange(n)
        self.worlds = Rooms.empty(n, most, layout)
        self._room = np.zeros(n, np.int64)
        self._pose = np.zeros((n, 3))
        self._velocity = np.zeros((n, 2))  # units a step; of the agent's frame, or of the world's ("lab")
        self._displacement = np.zeros((n, 3))
        self._touched = np.zeros(n, np.bool_)
        self._home = np.zeros((n, 5))  # the pose and velocity with which a task in the same world starts
        self._goal = np.zeros((n, 3))
        self._has_goal = np.zeros(n, np.bool_)
        self._frame, self._goal_frame = np.zeros((2, n, frame_size, frame_size, 3), np.uint8)
        self._been = np.zeros((n, REMEMBERED if task else 0, 3))  # poses of the walk
        self._walking = np.zeros(n, np.bool_)
        self._walked = np.zeros(n, np.bool_)  # this world began with a walk
        self._walk_steps = np.zeros(n, np.int64)
        self._task_steps = np.zeros(n, np.int64)
        self._world_steps = np.zeros(n, np.int64)

    def look(self, rows: Integers, poses: Floats, worlds: Rooms | None = None) -> Frames:
        """What is seen from poses (R, 3) in the worlds of some rows (R,), or in others of their kind: (R, H, W, 3)."""
        return draw(self.worlds if worlds is None else worlds, rows, poses, self.frame_size, self.field_of_view, self.camera_height)

    def steps_to_goal(self) -> Integers:
        """The fewest steps from every row to its goal, (N,): a close bound from below, for shortest paths with momentum and turns.

        See `labyrinth_paths`; agents that slide along walls can be a little faster in "lab". ResetNeeded where there is no goal.
        """
        if not self._has_goal.all():
            raise ResetNeeded("steps_to_goal needs a goal in every row: reset with task='goal' and outside the walk phase")
        how = self.goal_radius, self.goal_angle, self.speed, self.turn, self.physics == "lab"
        rows = zip(self._rows, self._pose, self._own_velocity(), self._goal, strict=True)
        return np.array([fewest_steps(self.worlds, int(row), pose, velocity, goal, *how) for row, pose, velocity, goal in rows])

    def explorer(self, generator: np.random.Generator | Sequence[np.random.Generator], whims: float = 0.0) -> Any:
        """Who walks here when nobody is named: a `Scavenger`, or a `Turner` where the agent only turns; for its arguments see there."""
        from gtmsm_env.envs.labyrinth_walker import Scavenger, Turner  # which know this class

        return (Scavenger if self.speed else Turner)(self, generator, whims)

    def render(self) -> tuple[Frames, ...] | None:
        """Every row's frame drawn large beside a map of its world from above; None without a render_mode."""
        if self.render_mode is None:
            gym.logger.warn("render() was called without a render_mode; make the environment with render_mode='rgb_array'")
            return None
        if not self._ready.all():
            raise ResetNeeded("render needs a world: call reset first")
        size = self.frame_size * max(1, 512 // self.frame_size)
        drawn = []
        for row in range(self.num_envs):
            frame = self._frame[row].repeat(size // self.frame_size, axis=0).repeat(size // self.frame_size, axis=1)
            goal = self._goal[row] if self._has_goal[row] else None
            drawn.append(np.concatenate([frame, map_from_above(self.worlds, row, self._pose[row], goal, size)], axis=1))
        return tuple(drawn)

    def save_rows(self, rows: Integers) -> dict[str, Any]:
        """Some rows as they stand, generators included: what `load_rows` takes, here or in another vector of this kind."""
        saved: dict[str, Any] = {name: value[rows].copy() for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return {**saved, "worlds": self.worlds.take(rows), "generators": [deepcopy(self.generators[row]) for row in rows]}

    def load_rows(self, rows: Integers, saved: Mapping[str, Any]) -> None:
        """Let some rows stand as those that were saved, in their order."""
        self.generators = self.generators or [seeding.np_random(None)[0] for _ in self._rows]
        for row, generator in zip(rows, saved["generators"], strict=True):
            self.generators[row] = deepcopy(generator)
        self.worlds.put(rows, saved["worlds"])
        for name in saved.keys() - {"generators", "worlds", "_rows"}:
            getattr(self, name)[rows] = saved[name]

    # ---- worlds and tasks

    def _begin(self, rows: Integers, options: dict[str, Any]) -> None:
        phase, world = options.pop("phase", "task"), options.pop("world", "new")
        chosen: dict[str, Any] = {name: self._chosen(rows, name, options.pop(name)) for name in ("room", "pose", "goal") if name in options}
        check_phase(phase, world, list(chosen), list(options), goals=self.task is not None)
        if world == "same" and not self._ready[rows].all():
            raise ResetNeeded("world 'same' needs a world: reset without it first")
        if world == "new":
            self._ready[rows] = False
            self._build(rows, chosen.get("room"))
        for name in ("pose", "goal"):
            self._check_poses(rows, name, chosen.get(name))
        pose = chosen.get("pose")
        if world == "new":
            start = np.stack([self.worlds.anywhere(row, self.generators[row]) for row in rows]) if pose is None else pose
            self._begin_worlds(rows, phase == "walk", start)
        if phase == "task":
            now = np.concatenate([self._pose[rows], self._velocity[rows]], axis=1)
            home = np.where(self._walking[rows, None], now, self._home[rows])  # a walk's end becomes home
            self._begin_task(rows, home, pose, chosen.get("goal"))

    def _advance(self, actions: Integers) -> tuple[NDArray[np.float64], Flags, Flags]:
        self._pose, self._velocity, self._displacement, self._touched = move(
            self.worlds, self._rows, self._pose, self._velocity, actions, self.speed, self.turn, self.physics == "lab"
        )
        self._frame = self.look(self._rows, self._pose)
        self._world_steps += 1
        self._task_steps += ~self._walking
        if self.task:
            rows = np.flatnonzero(self._walking)
            self._walk_steps[rows] += 1
            self._been[rows, self._walk_steps[rows] % REMEMBERED] = self._pose[rows]
        arrived = self._has_goal & (self._at_goal(self._pose, self._goal) | (self._frame == self._goal_frame).all(axis=(1, 2, 3)))
        return arrived.astype(np.float64), arrived, self._task_steps >= self.horizon

    def _at_goal(self, pose: Floats, goal: Floats) -> Flags:
        """Whether poses (..., 3) are within the tolerance of goals (..., 3)."""
        return at_goal(pose, goal, self.goal_radius, self.goal_angle)

    def _build(self, rows: Integers, room: Integers | None) -> None:
        """A world for each row, drawn or number `room`."""
        self._room[rows] = [self.generators[row].integers(LENGTHS[self.split]) for row in rows] if room is None else room
        for row in rows:
            self.worlds.put(row[None], build(self.split, int(self._room[row]), self.rooms, self.layout, self.textures))

    def _begin_worlds(self, rows: Integers, walking: bool, start: Floats) -> None:
        """Put the rows at the start of worlds that are new to them."""
        self._pose[rows], self._velocity[rows], self._displacement[rows], self._touched[rows] = start, 0, 0, False
        self._home[rows] = np.concatenate([start, np.zeros((len(rows), 2))], axis=1)
        self._walking[rows] = self._walked[rows] = walking
        self._world_steps[rows] = self._walk_steps[rows] = self._task_steps[rows] = 0
        if self.task:
            self._been[rows, 0] = start
        self._has_goal[rows] = False
        self._goal_frame[rows] = 0
        self._frame[rows] = self.look(rows, start)
        self._ready[rows], self._ended[rows] = True, False  # a world to step in, even if no goal is found in it

    def _begin_task(self, rows: Integers, home: Floats, pose: Floats | None, goal: Floats | None) -> None:
        """Put the rows at home, or at rest at `pose`, and draw goals among the poses walked (all without a walk) not reached there."""
        start = home if pose is None else np.concatenate([pose, np.zeros((len(rows), 2))], axis=1)
        frame = self.look(rows, start[:, :3])
        if self.task:
            goals = np.empty((len(rows), 3))
            frames = np.empty_like(frame)
            for i, row in enumerate(rows):
                goals[i], frames[i] = self._goal_for(row, start[i, :3], frame[i], None if goal is None else goal[i])
            self._goal[rows], self._goal_frame[rows], self._has_goal[rows] = goals, frames, True
        self._home[rows], self._pose[rows], self._velocity[rows], self._frame[rows] = home, start[:, :3], start[:, 3:], frame
        self._displacement[rows], self._touched[rows] = 0, False
        self._walking[rows] = False
        self._task_steps[rows] = 0

    def _goal_for(self, row: int, start: Floats, frame: Frames, chosen: Floats | None) -> tuple[Floats, Frames]:
        """A pose that is not reached at the start, and what is seen from there."""
        if chosen is not None:
            seen = self.look(np.array([row]), chosen[None])[0]
            if self._at_goal(start, chosen) or (seen == frame).all():
                raise ValueError(f"the goal of row {row} is reached at its start already; choose another goal or pose")
            return chosen, seen
        been = self._been[row, : min(self._walk_steps[row] + 1, REMEMBERED)]
        been = been[~self._at_goal(start, been)]
        for _ in range(REDRAWS if len(been) or not self._walked[row] else 0):
            if self._walked[row]:
                goal = been[self.generators[row].integers(len(been))]
            else:
                goal = self.worlds.anywhere(row, self.generators[row])
                goal[:2] = start[:2] if self.speed == 0 else goal[:2]
            seen = self.look(np.array([row]), goal[None])[0]
            if not self._at_goal(start, goal) and not (seen == frame).all():
                return goal, seen
        raise ValueError(
            f"in its {self._world_steps[row]} steps row {row} came to no pose unlike its start (room {self._room[row]}), so no goal can be "
            "drawn; walk longer, begin a new world, or let the agent move (speed, turn)"
        )

    # ---- what the caller gave

    def _chosen(self, rows: Integers, name: str, value: Any) -> Any:
        """options["room"], ["pose"] or ["goal"] of the masked rows, checked for shape, kind and range."""
        array = np.asarray(value)
        if name == "room":
            if array.shape != (self.num_envs,) or not np.issubdtype(array.dtype, np.integer):
                raise ValueError(f"options['room'] must be integers of shape {(self.num_envs,)}, got {array.dtype} of shape {array.shape}")
            if array[rows].min() < 0 or array[rows].max() >= LENGTHS[self.split]:
                raise ValueError(f"options['room'] must lie between 0 and {LENGTHS[self.split] - 1}, got {array[rows].tolist()}")
            return array[rows].astype(np.int64)
        if array.shape != (self.num_envs, 3) or array.dtype.kind not in "iuf" or not np.isfinite(array[rows].astype(float)).all():
            raise ValueError(f"options[{name!r}] must be numbers x, y, heading of shape {(self.num_envs, 3)}, got {value!r}")
        return array[rows].astype(np.float64)

    def _check_poses(self, rows: Integers, name: str, poses: Floats | None) -> None:
        for row, pose in zip(rows, () if poses is None else poses, strict=False):
            if self.worlds.clearance(row, pose[0], pose[1]) < RADIUS:
                west, south, east, north = self.worlds.bounds[row, 0].round(2).tolist()
                raise ValueError(
                    f"options[{name!r}] of row {row} touches a wall, a pillar or a ball, or lies outside, {pose.tolist()}; keep {RADIUS} "
                    f"units away from them: the first room of world {self._room[row]} reaches from ({west}, {south}) to ({east}, {north})"
                )

    # ---- what the caller gets: copies only

    def _observation(self) -> Observation:
        frame = self._frame.copy()
        return {"frame": frame, "goal": self._goal_frame.copy()} if self.task else {"frame": frame}

    def _own_velocity(self) -> Floats:
        """Velocities (N, 2) in the agents' frames."""
        return in_frame(self._velocity, self._pose[:, 2]) if self.physics == "lab" else self._velocity.copy()

    def _info(self) -> Info:
        info = self._told(
            pose=self._pose.copy(),
            velocity=self._own_velocity(),
            displacement=self._displacement.copy(),
            touched=self._touched.copy(),
            room=self._room.copy(),
            world_steps=self._world_steps.copy(),
            walking=self._walking.copy(),
        )
        goal = {"goal_pose": self._goal.copy(), "_goal_pose": self._has_goal.copy()} if self.task else {}
        return {**info, **goal}
