"""Rooms of a third party's engine: ViZDoom (Kempka et al., 2016), walked and seen as the labyrinth is."""

from __future__ import annotations

import math
import shutil
import tempfile
import weakref
from collections import deque
from collections.abc import Mapping
from operator import index
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ClosedEnvironmentError, ResetNeeded

from gtmsm_env.envs.first_person import COMMANDS, KEYS, REDRAWS, REMEMBERED, at_goal, check_between, check_one_of, check_phase, wrapped
from gtmsm_env.envs.procedural import LENGTHS
from gtmsm_env.envs.vizdoom_room import CAMERA_HEIGHT, HEIGHT, RADIUS, UNIT, Room, build, wad
from gtmsm_env.vector import Floats, Frames, Info, Observation

try:
    import vizdoom
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("This world is drawn by ViZDoom: pip install 'gtmsm-env[vizdoom]'") from error

WIDTH, SIDE = 256, 192  # pixels drawn, of which the middle square is kept
WIDE = 106  # degrees over that width; the engine takes whole ones
FIELD_OF_VIEW = math.degrees(2 * math.atan(SIDE / WIDTH * math.tan(math.radians(WIDE / 2))))  # of the square: 89.7
KEPT = 0.90625  # of the velocity after each tic (Doom's friction)
PUSH = 1 / 32  # of Doom's units a tic, which a tic adds to the velocity by a "forward move" of 1
STRONGEST = 50  # forward move
FROZEN = 8  # tics for which the engine lets no agent move that has just come
CIRCLE = 65536  # the smallest turns in a circle

GAMES = ("Doom", "Heretic", "Hexen", "Strife", "Chex")  # that the engine looks for settings of
IDLE = [0.0, 0.0, 0.0]
BUTTONS = (vizdoom.Button.MOVE_FORWARD_BACKWARD_DELTA, vizdoom.Button.MOVE_LEFT_RIGHT_DELTA, vizdoom.Button.TURN_LEFT_RIGHT_DELTA)
TOLD = [getattr(vizdoom.GameVariable, name) for name in ("POSITION_X", "POSITION_Y", "ANGLE", "VELOCITY_X", "VELOCITY_Y")]
UNSEEN = ("hud", "weapon", "crosshair", "decals", "particles", "effects_sprites", "messages", "corpses", "screen_flashes")


class VizDoomEnv(gym.Env[Observation, int]):
    """An agent walks through a room of ViZDoom's and sees it in first person, with a goal frame to find: the labyrinth of another engine.

    A room is a rectangle of 3.5 to 5.5 units; floor, ceiling and three panels of every wall have textures of their own, which come with
    the engine. Nothing moves but the agent.

    ## Action space
    `Discrete(8)`: `gtmsm_env.envs.first_person.ACTIONS`, which `LabyrinthEnv` explains. Looking turns by `turn` degrees, spread over the
    step's tics, without inertia. Walking has Doom's momentum: a tic adds a push towards the heading, moves the agent, and keeps .90625 of
    the velocity, in the world's frame, so that a steady walk comes to `speed`. Walls stop the part of a move that leads into them.

    ## Observation space
    `Dict(frame=Box(0, 255, (frame_size, frame_size, 3), uint8), goal=...)`: what is seen, the mean of all that the engine draws of a pixel,
    and the frame to find (black during a walk, which has no goal). `task=None` drops the goal and its reward. Field of view, heights of
    camera and walls, and the agent's radius are the class's `field_of_view` (degrees, of a square frame), `camera_height`, `room_height`
    and `radius` (units).

    ## Rewards and episode end
    As in `LabyrinthEnv`: 1 and termination within `goal_radius` and `goal_angle` of the goal's pose, or where its frame is seen byte for
    byte; truncation after `horizon` steps of the task (None: never); a walk gives no reward and does not end.

    ## Starting state
    A place and heading drawn from all that touch nothing in a room drawn from `split`, at rest, and a goal drawn likewise that is not
    reached there. `options` are those of `LabyrinthEnv`: `{"phase": "walk"}`, then `{"phase": "task", "world": "same"}`, which starts where
    the walk ended and as fast; "room" (its number), "pose" and "goal" (x, y, heading). Rooms reach from (0, 0) to `room.size`.

    ## Information
    `pose` (x, y, heading) in units and radians, from east over north; `velocity` (ahead, left) in units a step, in the agent's frame;
    `displacement` (ahead, left, turn) of the last step in the agent's frame before it, a target for training and never an input;
    `goal_pose`; `room`, its number in the split; `world_steps`, the steps walked in this world so far; `phase`, "walk" or "task". The
    engine does not tell whether something was in the way.

    ## Arguments
    `split`: "train", "validation" or "test", which share no room; `frame_size` in pixels, a divisor of 192; `frame_skip`, the engine's tics
    in a step, of which 35 make a second; `speed` in units a step (0: the agent only turns) and `turn` in degrees, both taken to the nearest
    that the engine can do; `goal_radius` in units, `goal_angle` in degrees; `task`: "goal" or None; `horizon`; `render_mode`: "rgb_array"
    or None.

    Every environment is a process of its own (`close` ends it), so batches are Gymnasium's SyncVectorEnv or AsyncVectorEnv, of a few rows.

    ValueError for arguments, options and actions out of range; ResetNeeded for a step before `reset` or after the end; ModuleNotFoundError
    without the extra "vizdoom".
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["rgb_array"],
        "render_fps": 9,
        "start": "anywhere",
        "content": ("split", "goal_radius", "goal_angle"),  # a model of other rooms and goals knows this world's rules
    }
    field_of_view, camera_height, room_height, radius = FIELD_OF_VIEW, CAMERA_HEIGHT, HEIGHT, RADIUS

    room: Room
    _start: Floats  # where the engine put the agent down, at rest
    _trail: list[int]  # the actions since; what follows from both is always the same
    _home: tuple[Floats, list[int]]  # start and trail of where tasks in this world begin
    _pose: Floats  # x, y, heading
    _velocity: Floats  # units a step, in the world's frame
    _picture: Frames  # as the engine draws it
    _frame: Frames

    def __init__(
        self,
        *,
        split: str = "test",
        frame_size: int = 32,
        frame_skip: int = 4,
        speed: float = 0.15,
        turn: float = 8.448,
        goal_radius: float = 0.3,
        goal_angle: float = 12.7,
        task: Literal["goal"] | None = "goal",
        horizon: int | None = 256,
        render_mode: str | None = None,
    ) -> None:
        check_one_of("split", split, tuple(LENGTHS))
        check_one_of("frame_size", frame_size, [size for size in range(4, SIDE + 1) if SIDE % size == 0])
        check_one_of("frame_skip", frame_skip, range(1, 36))
        slowest = PUSH * frame_skip / (1 - KEPT) / UNIT  # units a step, by a forward move of 1; the engine takes whole ones
        least = 360 / CIRCLE * frame_skip  # degrees a step
        if speed != 0:
            check_between("speed, where not 0,", speed, slowest, STRONGEST * slowest)
        if turn != 0:
            check_between("turn, where not 0,", turn, least, 90)
        check_between("goal_radius", goal_radius, 0)
        check_between("goal_angle", goal_angle, turn / 2, 180)  # half a turn, so that the agent can come to face every heading
        check_one_of("task", task, ("goal", None))
        check_one_of("render_mode", render_mode, (None, *self.metadata["render_modes"]))
        if horizon is not None:
            check_between("horizon", horizon, 1)
        self.split, self.frame_size, self.frame_skip, self.task, self.render_mode = split, frame_size, frame_skip, task, render_mode
        self.goal_radius, self.goal_angle = goal_radius, math.radians(goal_angle)
        self.horizon = horizon
        strength, turns = round(speed / slowest), round(turn / least)
        self.speed, self.turn = strength * slowest, math.radians(turns * least)  # units and radians a step
        self._moves = [[strength * ahead, -strength * left, _looking(int(turns * look))] for ahead, left, look in COMMANDS]

        frame = spaces.Box(0, 255, (frame_size, frame_size, 3), np.uint8)
        self.observation_space = spaces.Dict({"frame": frame, "goal": frame} if task else {"frame": frame})  # type: ignore[assignment]
        self.action_space = spaces.Discrete(len(COMMANDS))  # type: ignore[assignment]

        folder = Path(tempfile.mkdtemp(prefix="gtmsm-vizdoom-"))
        self._map = folder / "maps" / "map01.wad"
        self._game = vizdoom.DoomGame()
        self._finish = weakref.finalize(self, _finish, self._game, folder)  # also where nobody closes it
        self._running = self._ended = False  # there is a room; its task is over
        self._displacement = np.zeros(3)
        self._goal, self._goal_frame = np.zeros(3), np.zeros((frame_size, frame_size, 3), np.uint8)
        self._has_goal = self._walking = self._walked = False
        self._been: deque[tuple[Floats, Frames]] = deque(maxlen=REMEMBERED)  # poses and frames of the walk
        self._room = self._task_steps = self._world_steps = 0

    # ---- Gymnasium's verbs

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[Observation, Info]:
        """Begin an episode or a walk; see the class for options and errors."""
        if not self._finish.alive:
            raise ClosedEnvironmentError("this environment was closed, and its engine has ended: make another")
        super().reset(seed=seed)
        given = dict(options or {})
        phase, world = given.pop("phase", "task"), given.pop("world", "new")
        chosen = {name: given.pop(name) for name in ("room", "pose", "goal") if name in given}
        check_phase(phase, world, list(chosen), list(given), goals=self.task is not None)
        if world == "same" and not self._running:
            raise ResetNeeded("world 'same' needs a world: reset without it first")
        number = self._room if world == "same" else self._number(chosen.get("room"))
        room = self.room if world == "same" else build(self.split, number)
        pose, goal = (_pose(room, name, chosen[name]) if name in chosen else None for name in ("pose", "goal"))
        if world == "new":
            self._room, self.room = number, room
            self._stand(room.anywhere(self.np_random) if pose is None else pose, [])
            self._home = self._start, []
            self._walking = self._walked = phase == "walk"
            self._been.clear()
            self._been.append((self._pose, self._frame))
            self._world_steps = 0
            self._has_goal, self._goal_frame = False, np.zeros_like(self._frame)
            self._displacement, self._task_steps, self._ended = np.zeros(3), 0, False
            self._running = True  # a room to walk in, even if no goal is found in it
        if phase == "task":
            if self._walking:
                self._home = self._start, list(self._trail)  # a walk's end becomes home
            self._stand(*self._home if pose is None else (pose, []))
            if self.task:
                self._goal, self._goal_frame = self._goal_for(goal)
                self._has_goal = True
            self._walking = False
            self._displacement, self._task_steps, self._ended = np.zeros(3), 0, False
        return self._observation(), self._info()

    def step(self, action: int) -> tuple[Observation, float, bool, bool, Info]:
        """Take one action, an integer 0 to 7."""
        if np.ndim(action) or not isinstance(action, (int, np.integer)) or action not in range(len(self._moves)):
            raise ValueError(f"actions: one is an integer from 0 to {len(self._moves) - 1}, got {action!r}")
        if not self._running:
            raise ResetNeeded("step needs an episode: call reset first")
        if self._ended:
            raise ResetNeeded("the episode has ended: call reset first")
        before = self._pose
        self._game.make_action(self._moves[action], self.frame_skip)
        self._trail.append(int(action))
        self._read()
        self._displacement = np.append(turned(self._pose[:2] - before[:2], -before[2]), wrapped(self._pose[2] - before[2]))
        self._world_steps += 1
        self._task_steps += not self._walking
        if self._walking:
            self._been.append((self._pose, self._frame))
        arrived = self._has_goal and (self._at_goal(self._pose, self._goal) or bool((self._frame == self._goal_frame).all()))
        truncated = self.horizon is not None and self._task_steps >= self.horizon and not arrived
        self._ended = arrived or truncated
        return self._observation(), float(arrived), arrived, truncated, self._info()

    def steps_to_goal(self) -> int:
        """A bound from below of the steps to the goal: at top speed, or just turning. ResetNeeded where there is no goal."""
        if not self._has_goal:
            raise ResetNeeded("steps_to_goal needs a goal: reset with task='goal' and outside the walk phase")
        far, turning = math.dist(self._pose[:2], self._goal[:2]), abs(float(wrapped(self._pose[2] - self._goal[2])))
        walks = max(far - self.goal_radius, 0) / self.speed if self.speed else 0.0
        turns = max(turning - self.goal_angle, 0) / self.turn if self.turn else 0.0
        return math.ceil(max(walks, turns) - 1e-6)

    def explorer(self, generator: np.random.Generator, whims: float = 0.0) -> Any:
        """Who walks here when nobody is named: a `Wanderer`; for its arguments see there."""
        from gtmsm_env.envs.vizdoom_walker import Wanderer  # which knows this class

        return Wanderer(self, generator, whims)

    def render(self) -> Frames | None:
        """What the engine draws, twice as large; None without a render_mode."""
        if self.render_mode is None:
            gym.logger.warn("render() was called without a render_mode; make the environment with render_mode='rgb_array'")
            return None
        if not self._running:
            raise ResetNeeded("render needs a world: call reset first")
        return self._picture[:, (WIDTH - SIDE) // 2 : (WIDTH + SIDE) // 2].repeat(2, axis=0).repeat(2, axis=1)

    def close(self) -> None:
        """End the engine and remove its files."""
        self._running = False
        self._finish()

    def get_keys_to_action(self) -> dict[tuple[str, ...], int]:
        """Keys for `gymnasium.utils.play`; see `KEYS`."""
        return dict(KEYS)

    # ---- the engine

    def look(self, pose: Floats) -> Frames:
        """What is seen from a pose (x, y, heading) of this room: (H, W, 3). The agent stays where it is. ResetNeeded without a room."""
        if not self._running:
            raise ResetNeeded("look needs a world: call reset first")
        here = self._start, self._trail
        self._stand(_pose(self.room, "pose", pose), [])
        seen = self._frame
        self._stand(*here)
        return seen

    def _stand(self, start: Floats, trail: list[int]) -> None:
        """Put the agent down at a pose of this room, at rest, and let it take these actions."""
        if self._running and start is self._start and trail == self._trail:
            return
        self._map.parent.mkdir(exist_ok=True)
        self._map.write_bytes(wad(self.room, start))
        if self._game.is_running():
            self._game.new_episode()  # reads the map anew
        else:
            _begin(self._game, self._map.parent.parent)
        self._game.send_game_command(f"fov {WIDE}")
        self._game.make_action(IDLE, FROZEN)
        rest = wrapped(start[2] - math.radians(self._game.get_game_variable(vizdoom.GameVariable.ANGLE)))  # from a whole degree
        self._game.make_action([0, 0, _looking(round(float(rest) / (2 * math.pi) * CIRCLE))])
        for number, action in enumerate(trail, start=1):
            self._game.set_action(self._moves[action])
            self._game.advance_action(self.frame_skip, number == len(trail))  # only the last is drawn
        self._start, self._trail = start, list(trail)
        self._read()

    def _read(self) -> None:
        """Take over what the engine shows and tells."""
        state = self._game.get_state()
        assert state is not None  # there is no end of an episode in these maps
        assert state.game_variables is not None
        x, y, degrees, velocity_x, velocity_y = state.game_variables
        self._pose = np.array([x / UNIT, y / UNIT, math.radians(degrees)])
        self._velocity = np.array([velocity_x, velocity_y]) * self.frame_skip / UNIT
        self._picture = state.screen_buffer.copy()
        size, each = self.frame_size, SIDE // self.frame_size  # pixels drawn for each one shown, in both directions
        rows = self._picture.reshape(size, each, WIDTH, 3).sum(axis=1, dtype=np.uint32)[:, (WIDTH - SIDE) // 2 : (WIDTH + SIDE) // 2]
        self._frame = ((rows.reshape(size, size, each, 3).sum(axis=2) + each**2 // 2) // each**2).astype(np.uint8)

    # ---- the task

    def _at_goal(self, pose: Floats, goal: Floats) -> bool:
        return bool(at_goal(pose, goal, self.goal_radius, self.goal_angle))

    def _goal_for(self, chosen: Floats | None) -> tuple[Floats, Frames]:
        """A pose that is not reached here, of the walk where there was one, and what is seen from there."""
        here, frame = self._pose, self._frame
        for _ in range(REDRAWS):
            if chosen is not None:
                goal, seen = chosen, self.look(chosen)
            elif self._walked:
                goal, seen = self._been[self.np_random.integers(len(self._been))]
            else:
                goal = self.room.anywhere(self.np_random)
                goal[:2] = goal[:2] if self.speed else here[:2]
                seen = self.look(goal)
            if not self._at_goal(here, goal) and not (seen == frame).all():
                return goal, seen
            if chosen is not None:
                raise ValueError("the goal is reached at its start already; choose another goal or pose")
        raise ValueError(
            f"in {self._world_steps} steps the agent came to no pose unlike its start (room {self._room}), so no goal can be drawn; walk "
            "longer, begin a new world, or let the agent move (speed, turn)"
        )

    def _number(self, given: Any) -> int:
        """The room that was asked for, or one that is drawn."""
        if given is None:
            return int(self.np_random.integers(LENGTHS[self.split]))
        try:
            number = index(given)
        except TypeError:
            raise ValueError(f"options['room'] must be an integer, got {given!r}") from None
        check_between("options['room']", number, 0, LENGTHS[self.split] - 1)
        return number

    # ---- what the caller gets: copies only

    def _observation(self) -> Observation:
        frame = self._frame.copy()
        return {"frame": frame, "goal": self._goal_frame.copy()} if self.task else {"frame": frame}

    def _info(self) -> Info:
        info: Info = {
            "pose": self._pose.copy(),
            "velocity": turned(self._velocity, -self._pose[2]),
            "displacement": self._displacement.copy(),
            "room": self._room,
            "world_steps": self._world_steps,
            "phase": "walk" if self._walking else "task",
        }
        return {**info, "goal_pose": self._goal.copy()} if self._has_goal else info


def _begin(game: vizdoom.DoomGame, folder: Path) -> None:
    """Start the engine, without a window or sound, on the map in a folder, of which it reads the files when it needs them."""
    if " " in str(folder):
        raise ValueError(f"ViZDoom takes a folder whose path has no space, given {str(folder)!r}; let TMPDIR name another")
    game.set_doom_game_path(str(Path(vizdoom.__file__).parent / "freedoom2.wad"))  # and not a doom2.wad that happens to lie about
    settings = folder / "engine.ini"
    settings.write_text("".join(f"[{name}.AutoExec]\n" for name in GAMES))  # or else it makes a folder for them where the user works
    game.set_doom_config_path(str(settings))
    game.add_game_args(f"-file {folder} +movebob 0")  # the view does not bob
    game.set_doom_map("map01")
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_256X192)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    for what in UNSEEN:
        getattr(game, f"set_render_{what}")(False)
    game.set_available_buttons(list(BUTTONS))
    game.set_available_game_variables(TOLD)
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_episode_timeout(0)  # never
    game.set_seed(0)  # nothing is drawn in these maps
    game.init()


def _finish(game: vizdoom.DoomGame, folder: Path) -> None:
    game.close()
    shutil.rmtree(folder, ignore_errors=True)


def _looking(turns: int) -> float:
    """What the button takes, degrees to the right, for some of the smallest turns to the left; the engine rounds down, hence the half."""
    return (0.5 - turns) / CIRCLE * 360 if turns else 0.0


def turned(vector: Floats, angle: float) -> Floats:
    """A vector (x, y) turned to the left."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([cos * vector[0] - sin * vector[1], sin * vector[0] + cos * vector[1]])


def _pose(room: Room, name: str, given: Any) -> Floats:
    """options["pose"] or ["goal"], checked. Raises ValueError."""
    pose = np.asarray(given)
    if pose.shape != (3,) or pose.dtype.kind not in "iuf" or not np.isfinite(pose.astype(float)).all():
        raise ValueError(f"options[{name!r}] must be three numbers x, y, heading, got {given!r}")
    if room.clearance(pose[0], pose[1]) < RADIUS:
        width, depth = (round(side, 2) for side in room.size)
        raise ValueError(
            f"options[{name!r}] touches a wall or lies outside, {pose.tolist()}; keep {RADIUS} units away from the walls of the room, "
            f"which reaches from (0, 0) to ({width}, {depth})"
        )
    return pose.astype(np.float64)
