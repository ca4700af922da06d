"""DeepMind Lab behind the interface of the other worlds.

The engine is the user's own build of https://github.com/google-deepmind/lab; docs/deepmind_lab.md says how, and nothing of it is in this
package. What is assumed here of its module `deepmind_lab` is what its documentation and source of January 2023 say.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from math import cos, hypot, inf, pi, radians, sin
from operator import index
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from numpy.typing import NDArray

from gtmsm_env.drawing import enlarge
from gtmsm_env.vector import Floats, Frames, Info, Observation

LOOK = 20  # pixels a frame: 8.448 degrees in four frames, as the labyrinth's `turn`
ACTIONS: dict[str, tuple[int, ...]] = {  # those of the labyrinth, by its names, as the engine takes them: see RANGES
    "forward": (0, 0, 0, 1, 0, 0, 0),
    "backward": (0, 0, 0, -1, 0, 0, 0),
    "strafe left": (0, 0, -1, 0, 0, 0, 0),
    "strafe right": (0, 0, 1, 0, 0, 0, 0),
    "look left": (-LOOK, 0, 0, 0, 0, 0, 0),
    "look right": (LOOK, 0, 0, 0, 0, 0, 0),
    "forward and look left": (-LOOK, 0, 0, 1, 0, 0, 0),
    "forward and look right": (LOOK, 0, 0, 1, 0, 0, 0),
}
RANGES = {  # of the seven numbers, in the engine's order
    "look right, pixels a frame": (-512, 512),
    "look down or up, pixels a frame": (-512, 512),
    "strafe right": (-1, 1),
    "forward": (-1, 1),
    "fire": (0, 1),
    "jump": (0, 1),
    "crouch": (0, 1),
}

FRAME = 0.016  # seconds of the engine's clock, in which velocities are given; it passes .96 of them in a second of 60 frames
FASTEST = 4 * 320  # map units a second; who is found farther away than that has been put there. 320 is the top speed of walking
REMEMBERED = 1024  # the last frames of a walk, of which one becomes a goal

FRAMES, PLACE, ANGLES, SPEED, SPIN, AGE = (
    *("RGB_INTERLEAVED", "DEBUG.POS.TRANS", "DEBUG.POS.ROT", "VEL.TRANS", "VEL.ROT"),
    "MAP_FRAME_NUMBER",  # frames since the map was loaded or begun anew
)
OWN = ("width", "height", "fps")  # entries of the engine's configuration that are not the caller's

HOW = (
    "DeepMind Lab's module `deepmind_lab` is on no package index: build its wheel from https://github.com/google-deepmind/lab with "
    "`bazel build -c opt //python/pip_package:build_pip_package` and `./bazel-bin/python/pip_package/build_pip_package /tmp/dmlab`, then "
    "`pip install /tmp/dmlab/*.whl dm-env six`; docs/deepmind_lab.md in gtmsm-env's repository has every step"
)

_running: weakref.WeakSet[DeepMindLabEnv] = weakref.WeakSet()  # whose engine runs in this process: one at most


class DeepMindLabEnv(gym.Env[Observation, int]):
    """A level of DeepMind Lab, with the actions, the walk phase and the displacements of `GTMSM-Labyrinth-v0`.

    Needs the module `deepmind_lab`, which its user builds. The engine starts at the first `reset`, one in a process: `make_vec` gives every
    row a process of its own.

    ## Action space
    `Discrete(len(actions))`. By default the labyrinth's eight: forward, backward, strafe left, strafe right, look left, look right, forward
    and look left, forward and look right, each held for `frame_skip` frames of a sixtieth of a second. Looking turns by .1056 degrees a
    pixel and frame at once, 8.448 a step; walking has momentum, friction and a hard top speed.

    ## Observation space
    `Dict(frame=Box(0, 255, (frame_size, frame_size, 3), uint8))`; task "goal" adds `goal`, the frame to find (black during a walk). The
    engine shows nothing once an episode of the level is over, so the last step's frame and pose are then those before it.

    ## Rewards and episode end
    Task "level": the level's own reward, and termination where its episode ends. None: no reward. "goal": 1 and termination on arrival
    within `goal_radius` of the place and `goal_angle` of the heading where the goal frame was seen, or where the same frame is seen byte
    for byte; 0 before. With None and "goal", the end of the level's episode truncates, and so does a map begun anew, which may be another
    world. So does `horizon`, in steps of the task (None: never). A walk gives no reward and neither terminates nor truncates; if the level
    ends its episode or puts the agent elsewhere meanwhile, `step` raises RuntimeError.

    ## Starting state
    Where the level puts the agent, in an episode of the level seeded from the environment's own generator. `options`: `{"phase": "walk"}`
    begins a walk in a new world; `{"phase": "task", "world": "same"}` then a task in the walked world. Nothing can put an agent back in
    DeepMind Lab, so a task in the same world goes on from where the agent stands, as fast: at first where the walk ended, later where the
    last task did. A goal is a frame among the walk's last 1,024 that is not reached there; task "goal" therefore needs a walk, and a level
    that tells poses.

    ## Information
    `displacement` (ahead, left, turn) of the last step in the agent's frame before it, in units and radians, turns from -pi to pi: a target
    for training, and never an input; from the level's debug poses, or else from its velocities, as if they had changed evenly within the
    step. It is not told where the level tells neither, for a step that ends the level's episode, and where the agent was put elsewhere (on
    a map begun anew, which every level tells, or by a teleporter, which poses tell). `pose` (x, y, heading) in units and radians, from x
    over y, and `goal_pose`, where poses are told: for evaluation only. `world_steps`, the steps in this world so far; `phase`, "walk" or
    "task".

    ## Arguments
    `level`: its name; `actions`: rows of seven integers as the engine takes them (see `RANGES`); `frame_size` in pixels; `frame_skip`,
    frames a step; `config`: the level's settings, texts by name, such as {"episodeLengthSeconds": "120"}; `renderer`: "software" or
    "hardware"; `units`: map units per unit of displacements, poses and `goal_radius`. By its default a cell of the engine's own mazes is
    one unit; a step of four frames at top speed is then .205 units. `goal_angle` in degrees; `task`: "level", "goal" or None; `horizon`;
    `render_mode`: "rgb_array" or None.

    ValueError for arguments, options and actions out of range; ResetNeeded for a step before `reset` or after the end; RuntimeError for a
    second engine in the process, and from the engine itself; ModuleNotFoundError without `deepmind_lab`.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["rgb_array"],
        "render_fps": 15,
        "start": "anywhere",
        "returns_home": False,  # a task in the same world goes on from where the agent stands
        "content": ("level", "config", "renderer", "goal_radius", "goal_angle"),  # a model of another level knows this world's rules
    }

    _seen: Observation  # what the engine showed last
    _displacement: Floats | None
    _world_steps: int
    _task_steps: int
    _goal: tuple[Floats, Frames] | None  # the pose and what was seen from it
    _been: deque[tuple[Floats, Frames]]  # those of the walk, where the task is "goal"

    def __init__(
        self,
        *,
        level: str = "seekavoid_arena_01",
        actions: Sequence[Sequence[int]] = tuple(ACTIONS.values()),
        frame_size: int = 32,
        frame_skip: int = 4,
        config: Mapping[str, str] | None = None,
        renderer: Literal["software", "hardware"] = "software",
        units: float = 100.0,
        goal_radius: float = 0.3,
        goal_angle: float = 12.7,
        task: Literal["level", "goal"] | None = "level",
        horizon: int | None = 256,
        render_mode: str | None = None,
    ) -> None:
        try:
            import deepmind_lab
        except ModuleNotFoundError as error:
            if error.name != "deepmind_lab":  # it is there, and something that it needs is not
                raise
            raise ModuleNotFoundError(HOW, name="deepmind_lab") from error
        for name, given, least, most in (
            ("frame_size", frame_size, 4, 1024),
            ("frame_skip", frame_skip, 1, 60),
            ("units", units, 1e-3, 1e6),
            ("goal_radius", goal_radius, 0, inf),
            ("goal_angle", goal_angle, 0, 180),
            ("horizon", 1 if horizon is None else horizon, 1, inf),
        ):
            if not least <= given <= most:
                raise ValueError(f"{name} must be at least {least:g} and at most {most:g}, got {given!r}")
        if frame_size % 1 or frame_skip % 1:
            raise ValueError(f"frame_size and frame_skip must be whole numbers, got {frame_size!r} and {frame_skip!r}")
        for name, chosen, known in (
            ("renderer", renderer, ("software", "hardware")),
            ("task", task, ("level", "goal", None)),
            ("render_mode", render_mode, (None, *self.metadata["render_modes"])),
        ):
            if chosen not in known:
                raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {chosen!r}")
        self.config = _checked_config(config or {})
        self.table = _checked_table(actions)
        self.level, self.renderer, self.units = level, renderer, units
        self.frame_size, self.frame_skip = int(frame_size), int(frame_skip)  # the engine takes Python's own integers
        self.goal_radius, self.goal_angle, self.task, self.horizon = goal_radius, radians(goal_angle), task, horizon
        self.render_mode = render_mode
        frame: Any = spaces.Box(0, 255, (self.frame_size, self.frame_size, 3), np.uint8)
        shown: Any = spaces.Dict({"frame": frame, "goal": frame} if task == "goal" else {"frame": frame})
        chosen_from: Any = spaces.Discrete(len(self.table))
        self.observation_space, self.action_space = shown, chosen_from
        self._module = deepmind_lab
        self._lab: Any = None
        self._episode = 0  # of the level, since the last seed: a level may choose by it what it shows
        self._world = self._stepping = False  # there is a world to go on in; a step may be taken
        self._walking = self._walked = False

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[Observation, Info]:
        """Begin an episode or a walk; see the class for options and errors."""
        super().reset(seed=seed)
        if seed is not None:
            self._episode = 0
        phase, world = self._checked_options(dict(options or {}))
        if world == "new":
            self._begin_world(phase == "walk")
        if phase == "task":
            self._begin_task()
        self._displacement = np.zeros(3) if {PLACE, SPEED} & self._seen.keys() else None
        self._stepping = True
        return self._observation(), self._info()

    def step(self, action: int) -> tuple[Observation, float, bool, bool, Info]:
        """Hold one action, an integer, for `frame_skip` frames."""
        if not self.action_space.contains(action):
            raise ValueError(f"an action is one integer, 0 to {len(self.table) - 1}, got {action!r}")
        if not self._stepping:
            raise ResetNeeded("step needs an episode that goes on: call reset first")
        self._stepping = False  # until all has gone well
        received = float(self._lab.step(self.table[action], num_steps=self.frame_skip))
        running = bool(self._lab.is_running())
        self._world_steps += 1
        self._task_steps += not self._walking
        self._displacement, put = None, False
        self._world = self._world and running
        if running:
            before, self._seen = self._seen, self._lab.observations()
            anew = self._map_begun_anew(before)
            self._world = self._world and not anew
            put = anew or self._jumped(before)
            self._displacement = None if put else self._moved(before)
        if self._walking:
            self._go_on_walking(running, put)
        arrived = bool(self._goal and self._world and (self._at(self._goal[0]) or np.array_equal(self._seen[FRAMES], self._goal[1])))
        over = not (running if self.task == "level" else self._world)
        terminated = arrived or (over and self.task == "level")
        truncated = not terminated and (over or (self.horizon is not None and self._task_steps >= self.horizon))
        self._stepping = not (terminated or truncated)
        reward = received if self.task == "level" and not self._walking else float(arrived)
        return self._observation(), reward, terminated, truncated, self._info()

    def render(self) -> Frames | None:
        """The frame drawn large; None without a render_mode."""
        if self.render_mode is None:
            gym.logger.warn("render() was called without a render_mode; make the environment with render_mode='rgb_array'")
            return None
        if self._lab is None:
            raise ResetNeeded("render needs a world: call reset first")
        return enlarge(self._seen[FRAMES])

    def close(self) -> None:
        """Stop the engine; a reset starts it again."""
        if self._lab is not None:
            self._lab.close()
            self._lab = None
            _running.discard(self)
        self._world = self._stepping = False

    def get_keys_to_action(self) -> dict[tuple[str, ...], int]:
        """Keys for `gymnasium.utils.play`: 1 is action 0, 2 action 1, and so on for the first nine."""
        return {(str(number + 1),): number for number in range(min(len(self.table), 9))}

    # ---- worlds and tasks

    def _begin_world(self, walking: bool) -> None:
        """Begin an episode of the level."""
        self._world = self._stepping = False
        if self._lab is None:
            self._start()
        if self.task == "goal" and PLACE not in self._names:
            raise ValueError(
                f"task 'goal' tells arrival by poses, and the level {self.level!r} tells none ({PLACE}, {ANGLES}): take a level with "
                "custom observations, or task 'level' or None"
            )
        self._lab.reset(episode=self._episode, seed=int(self.np_random.integers(2**31)))
        self._episode += 1
        self._seen = self._lab.observations()
        self._world, self._walking, self._walked = True, walking, walking
        self._world_steps = self._task_steps = 0
        self._goal, self._been = None, deque(maxlen=REMEMBERED)
        if self.task == "goal":
            self._been.append((self._pose(self._seen), self._seen[FRAMES]))

    def _start(self) -> None:
        """Start the engine, asking for those observations that the level has."""
        if others := [env for env in _running if env is not self]:
            raise RuntimeError(
                f"one engine of DeepMind Lab runs in a process, and that of the level {others[0].level!r} does in this one: close() that "
                "environment first, or take gymnasium.make_vec, which gives every row a process"
            )
        settings = {**self.config, "width": str(self.frame_size), "height": str(self.frame_size), "fps": "60"}
        create = partial(self._module.Lab, self.level, config=settings, renderer=self.renderer)
        asked = create([])
        told = {spec["name"] for spec in asked.observation_spec()}
        asked.close()
        pairs = [pair for pair in ((PLACE, ANGLES), (SPEED, SPIN), (AGE,)) if told.issuperset(pair)]
        self._names = [FRAMES, *(name for pair in pairs for name in pair)]
        self._lab = create(self._names)
        _running.add(self)

    def _begin_task(self) -> None:
        """Begin a task where the agent stands, with a goal from the walk."""
        if self.task == "goal":
            goals = [(pose, frame) for pose, frame in self._been if not self._at(pose) and not np.array_equal(frame, self._seen[FRAMES])]
            if not goals:
                raise ValueError(
                    "a goal is a frame seen on the walk from a pose unlike the agent's, and the walk came to none; walk longer"
                )
            self._goal = goals[self.np_random.integers(len(goals))]
        self._walking, self._task_steps = False, 0

    def _go_on_walking(self, running: bool, put: bool) -> None:
        """Remember where the walk has come to. RuntimeError when the level has interrupted it."""
        if put or not running:
            what = "put the agent elsewhere" if running else "ended its episode"
            self._world = False
            raise RuntimeError(
                f"a walk is not interrupted, and after {self._world_steps} steps of it the level {self.level!r} {what}. Walk fewer steps, "
                "give the level more time, as config={'episodeLengthSeconds': '600'}, or take a level without teleporters and goals"
            )
        if self.task == "goal":
            self._been.append((self._pose(self._seen), self._seen[FRAMES]))

    # ---- poses

    def _pose(self, seen: Observation) -> Floats:
        """x, y in units, heading in radians, counterclockwise."""
        return np.array([seen[PLACE][0] / self.units, seen[PLACE][1] / self.units, radians(seen[ANGLES][1])])

    def _at(self, pose: Floats) -> bool:
        """Whether the agent is within the goal's tolerance of a pose."""
        off = self._pose(self._seen) - pose
        return hypot(off[0], off[1]) <= self.goal_radius and abs(_wrapped(off[2])) <= self.goal_angle + 1e-9

    def _map_begun_anew(self, before: Observation) -> bool:
        return AGE in before and bool(self._seen[AGE][0] < before[AGE][0] + self.frame_skip)

    def _jumped(self, before: Observation) -> bool:
        """Whether the agent is farther away than it can have walked."""
        far = np.hypot(*(self._seen[PLACE] - before[PLACE])[:2]) if PLACE in before else 0
        return bool(far > FASTEST * FRAME * self.frame_skip)

    def _moved(self, before: Observation) -> Floats | None:
        """Ahead, left and turn since `before`, in the frame of then; None where the level tells nothing of it."""
        if PLACE in before:
            start = self._pose(before)
            (x, y, turn), heading = self._pose(self._seen) - start, start[2]
            return np.array([*_turned(x, y, -heading), _wrapped(turn)])
        if SPEED not in before:
            return None
        n = self.frame_skip
        turn = radians(self._seen[SPIN][1]) * FRAME * n
        first, (u, v) = before[SPEED][:2], self._seen[SPEED][:2]
        last = _turned(u, v, turn)  # each is told in the agent's frame of its own time
        moved = FRAME * ((n - 1) / 2 * first + (n + 1) / 2 * last) / self.units  # a frame moves by the velocity that it ends with
        return np.array([*moved, _wrapped(turn)])

    # ---- what the caller gave and gets

    def _checked_options(self, options: dict[str, Any]) -> tuple[str, str]:
        phase, world = options.pop("phase", "task"), options.pop("world", "new")
        if options:
            raise ValueError(f"reset options are phase and world, got also {list(options)}")
        if phase not in ("walk", "task") or world not in ("new", "same"):
            raise ValueError(f"phase must be 'walk' or 'task' and world 'new' or 'same', got phase={phase!r} and world={world!r}")
        if world == "same" and phase == "walk":
            raise ValueError("world 'same' goes on in the world the agent is in: it needs phase 'task'")
        if world == "same" and not self._world:
            raise ResetNeeded("world 'same' needs a world, and there is none yet or the level has left it: reset without it first")
        if phase == "task" and self.task == "goal" and not (world == "same" and self._walked):
            raise ValueError(
                "task 'goal' asks for a frame seen on a walk, since the engine shows only what lies before the agent: walk first, "
                "reset(options={'phase': 'walk'}), then reset(options={'phase': 'task', 'world': 'same'})"
            )
        return phase, world

    def _observation(self) -> Observation:
        """Copies only."""
        frame: Frames = self._seen[FRAMES].copy()
        if self.task != "goal":
            return {"frame": frame}
        return {"frame": frame, "goal": self._goal[1].copy() if self._goal else np.zeros_like(frame)}

    def _info(self) -> Info:
        info: Info = {"phase": "walk" if self._walking else "task", "world_steps": self._world_steps}
        if self._displacement is not None:
            info["displacement"] = self._displacement
        if PLACE in self._seen:
            info["pose"] = self._pose(self._seen)
        return info | ({"goal_pose": self._goal[0].copy()} if self._goal else {})


def make_vector(
    num_envs: int = 1,
    *,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    max_episode_steps: int | None = None,
    horizon: int | None = 256,
    **kwargs: Any,
) -> AsyncVectorEnv:
    """`num_envs` levels, each in a process of its own, with the arguments of `DeepMindLabEnv`; what `gymnasium.make_vec` calls.

    `max_episode_steps` is what `make_vec` hands over; the smaller of it and `horizon` counts.
    """
    limit = min((limit for limit in (horizon, max_episode_steps) if limit is not None), default=None)
    return AsyncVectorEnv([partial(DeepMindLabEnv, horizon=limit, **kwargs)] * num_envs, autoreset_mode=autoreset_mode)


def _checked_table(actions: Sequence[Sequence[int]]) -> NDArray[np.intc]:
    """The action table (A, 7) as the engine takes it. ValueError for anything else."""
    try:
        rows = [[index(number) for number in row] for row in actions]
    except TypeError:
        rows = []
    if not rows or any(len(row) != len(RANGES) for row in rows):
        raise ValueError(f"actions must be one row or more of {len(RANGES)} integers ({', '.join(RANGES)}), got {actions!r}")
    for action, row in enumerate(rows):
        for number, (name, (least, most)) in zip(row, RANGES.items(), strict=True):
            if not least <= number <= most:
                raise ValueError(f"action {action} must have {name!r} from {least} to {most}, got {number}")
    return np.array(rows, np.intc)


def _checked_config(config: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(config, Mapping) or not all(isinstance(part, str) for entry in config.items() for part in entry):
        raise ValueError(f"config must map texts to texts, as {{'episodeLengthSeconds': '120'}}, got {config!r}")
    if taken := [name for name in OWN if name in config]:
        raise ValueError(f"config leaves {', '.join(OWN)} to the environment (frame_size; 60 frames a second), got also {taken}")
    return dict(config)


def _turned(x: float, y: float, angle: float) -> Floats:
    """A vector turned to the left."""
    return np.array([cos(angle) * x - sin(angle) * y, sin(angle) * x + cos(angle) * y])


def _wrapped(angle: float) -> float:
    """The same angle from -pi to pi."""
    return float((angle + pi) % (2 * pi) - pi)
