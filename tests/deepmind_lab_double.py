"""A contract double of the module `deepmind_lab`, for tests: it enforces what the engine's documentation and source say of the real one.

`Lab` refuses wrong types, wrong order and observations that were not asked for, as the real one does, in its words where these are known.
It is stricter in two ways: a second open engine in a process is an error, and so are actions out of range, on which the real one is silent.
Its levels are a square room of our own, seen through a slow eye and walked with the engine's constants. It says nothing about real levels.
"""

from __future__ import annotations

import math
import random
import weakref
from typing import Any

import numpy as np

BOUNDS = {
    "LOOK_LEFT_RIGHT_PIXELS_PER_FRAME": (-512, 512),
    "LOOK_DOWN_UP_PIXELS_PER_FRAME": (-512, 512),
    "STRAFE_LEFT_RIGHT": (-1, 1),
    "MOVE_BACK_FORWARD": (-1, 1),
    "FIRE": (0, 1),
    "JUMP": (0, 1),
    "CROUCH": (0, 1),
}
BUILT_IN, POSES, VELOCITIES = ("RGB_INTERLEAVED", "MAP_FRAME_NUMBER"), ("DEBUG.POS.TRANS", "DEBUG.POS.ROT"), ("VEL.TRANS", "VEL.ROT")
LEVELS = {
    "room": (*POSES, *VELOCITIES),
    "room_without_poses": VELOCITIES,
    "room_without_either": (),
    "room_with_a_goal": (*POSES, *VELOCITIES),  # 10 points in its east, where the map begins anew
    "room_with_a_goal_without_poses": VELOCITIES,
    "room_with_a_teleporter": (*POSES, *VELOCITIES),  # from its east to its west
}
DEGREES = 0.1056  # a pixel and frame
FRAME = 0.016  # seconds of the engine's clock; 960 of its milliseconds are a second
SPEED, FRICTION, ACCELERATION, STOP = 320.0, 6.0, 10.0, 100.0
HALF, RADIUS, EYE, HEIGHT = 200.0, 15.0, 50.0, 150.0  # map units: half the room, the player, his eye, the walls

_open: weakref.WeakSet[Lab] = weakref.WeakSet()  # who is forgotten closes, as in the real one


class Lab:
    def __init__(
        self, level: str, observations: list[str], config: dict[str, str] | None = None, renderer: str = "", level_cache: Any = None
    ) -> None:
        for name, given, kind in (("level", level, str), ("observations", observations, list), ("config", config or {}, dict)):
            if type(given) is not kind:
                raise TypeError(f"argument {name} must be {kind.__name__}, not {type(given).__name__}")
        settings = config or {}
        if not all(type(part) is str for entry in settings.items() for part in entry):
            raise TypeError("bad argument type for built-in operation")
        if renderer not in ("", "software", "hardware"):
            raise RuntimeError(f'Failed to set renderer must be "hardware" or "software" actual "{renderer}"!')
        if _open:
            raise RuntimeError("Failed to connect RL API")
        if level not in LEVELS:
            raise RuntimeError(f'Failed to init environment - "level {level!r} not found"')
        if unknown := settings.keys() - {"width", "height", "fps", "episodeLengthSeconds", "mixerSeed"}:
            raise RuntimeError(f'Failed to init environment - "Invalid setting: {unknown}"')
        for name in observations:
            if name not in BUILT_IN + LEVELS[level]:
                raise ValueError(f"Unknown observation {name!r}.")
        self._level, self._names, self._mixer = level, list(observations), settings.get("mixerSeed", "0")
        self._width, self._height = int(settings.get("width", "320")), int(settings.get("height", "240"))
        assert settings.get("fps", "60") == "60", "the double knows 60 frames a second only"
        self._length = float(settings.get("episodeLengthSeconds", "90"))
        self._status, self._episode, self._frames = "uninitialized", 0, 0
        _open.add(self)

    def observation_spec(self) -> list[dict[str, Any]]:
        shapes: dict[str, tuple[int, ...]] = {"RGB_INTERLEAVED": (self._height, self._width, 3), "MAP_FRAME_NUMBER": (1,)}
        return [
            {"name": name, "dtype": np.uint8 if name == "RGB_INTERLEAVED" else np.float64, "shape": shapes.get(name, (3,))}
            for name in BUILT_IN + LEVELS[self._level]
        ]

    def action_spec(self) -> list[dict[str, Any]]:
        return [{"name": name, "min": least, "max": most} for name, (least, most) in BOUNDS.items()]

    def reset(self, episode: int = -1, seed: int | None = None) -> bool:
        if type(episode) is not int:
            raise TypeError(f"{type(episode).__name__!r} object cannot be interpreted as an integer")
        if seed is not None and type(seed) is not int:
            raise ValueError(f"'seed' must be int or None, was {type(seed).__name__!r}.")
        if self._status == "closed":
            raise RuntimeError("Failed to start environment")
        if seed is not None and not -(2**31) <= seed < 2**31:
            raise OverflowError("the engine would cut this seed to 32 bits")
        self._episode = self._episode if episode < 0 else episode
        self._random = random.Random(f"{self._mixer} {seed} {self._episode}" if seed is not None else None)
        self._episode += 1
        self._colours = np.array([[self._random.uniform(40, 215) for _ in range(3)] for _ in range(6)])  # floor, ceiling, walls
        self._frames, self._status = 0, "running"
        self._load_map()
        return True

    def is_running(self) -> bool:
        return self._status == "running"

    def num_steps(self) -> int:
        return self._frames

    def step(self, action: Any, num_steps: int = 1) -> float:
        if not isinstance(action, np.ndarray):
            raise TypeError(f"argument 1 must be numpy.ndarray, not {type(action).__name__}")
        if type(num_steps) is not int:
            raise TypeError(f"{type(num_steps).__name__!r} object cannot be interpreted as an integer")
        if not self.is_running():
            raise RuntimeError("Environment in wrong status to advance.")
        if action.shape != (7,):
            raise ValueError("action must have shape (7)")
        if action.dtype != np.intc:
            raise ValueError("action must have dtype np.intc")
        assert action.flags.c_contiguous, "the engine reads seven numbers from where the first lies"
        for number, (name, (least, most)) in zip(action, BOUNDS.items(), strict=True):
            if not least <= number <= most:
                raise ValueError(f"{name} must lie in [{least}, {most}], got {number}")
        reward = 0.0
        for _ in range(num_steps):
            reward += self._frame(*map(int, action[:4]))
            self._frames += 1
            if self._frames * FRAME / 0.96 >= self._length:
                self._status = "terminated"
                break
        return reward

    def observations(self) -> dict[str, Any]:
        if not self.is_running():
            raise RuntimeError("Environment in wrong status for call to observations()")
        yaw = math.radians(self._yaw)
        u, v = self._velocity
        told = {
            "MAP_FRAME_NUMBER": lambda: np.array([float(self._age)]),
            "RGB_INTERLEAVED": self._view,
            "DEBUG.POS.TRANS": lambda: np.array([*self._place, EYE]),
            "DEBUG.POS.ROT": lambda: np.array([0.0, self._yaw, 0.0]),
            "VEL.TRANS": lambda: np.array([u * math.cos(yaw) + v * math.sin(yaw), -u * math.sin(yaw) + v * math.cos(yaw), 0.0]),
            "VEL.ROT": lambda: np.array([0.0, self._spin, 0.0]),
        }
        return {name: told[name]() for name in self._names}

    def close(self) -> bool:
        if self._status == "closed":
            return False
        self._status = "closed"
        _open.discard(self)
        return True

    # ---- the room

    def _load_map(self) -> None:
        self._place = np.array([self._random.uniform(-100, 0), self._random.uniform(-100, 100)])
        self._yaw = self._random.uniform(-180, 180)
        self._velocity, self._spin, self._age = np.zeros(2), 0.0, 0

    def _frame(self, look: int, _: int, strafe: int, forward: int) -> float:
        """One frame of Quake's walking: turn, friction, acceleration, and a wall keeps what leads into it."""
        self._age += 1
        turned = -look * DEGREES
        self._yaw, self._spin = (self._yaw + turned + 180) % 360 - 180, turned / FRAME
        yaw, speed = math.radians(self._yaw), float(np.hypot(*self._velocity))
        self._velocity = self._velocity * (max(speed - max(speed, STOP) * FRICTION * FRAME, 0) / speed if speed >= 1 else 0)
        wish = np.array([math.cos(yaw) * forward + math.sin(yaw) * strafe, math.sin(yaw) * forward - math.cos(yaw) * strafe])
        if forward or strafe:
            wish /= np.hypot(*wish)
            gain = min(max(SPEED - self._velocity @ wish, 0), ACCELERATION * FRAME * SPEED)
            self._velocity = self._velocity + gain * wish
        to = self._place + FRAME * self._velocity
        inside = np.clip(to, RADIUS - HALF, HALF - RADIUS)
        self._velocity = np.where(inside == to, self._velocity, 0.0)
        self._place = inside
        if inside[0] > 100 and "goal" in self._level:
            self._load_map()
            return 10.0
        if inside[0] > 100 and "teleporter" in self._level:
            self._place = self._place - np.array([200.0, 0.0])
        return 0.0

    def _view(self) -> Any:
        """What is seen: each wall of a colour of its own that changes along it, floor and ceiling darker with distance; 90 degrees wide."""
        across = (np.arange(self._width) + 0.5) / self._width * 2 - 1
        yaw = math.radians(self._yaw)
        x, y = math.cos(yaw) + across * math.sin(yaw), math.sin(yaw) - across * math.cos(yaw)  # a unit ahead, and aside
        with np.errstate(divide="ignore"):
            far = np.stack([(np.where(ray > 0, HALF, -HALF) - at) / ray for ray, at in ((x, self._place[0]), (y, self._place[1]))])
        side, far = far.argmin(axis=0), far.min(axis=0)
        wall = 2 + 2 * side + np.where(side == 0, x > 0, y > 0)
        along = np.where(side == 0, self._place[1] + far * y, self._place[0] + far * x) / HALF
        down = -((np.arange(self._height) + 0.5) / self._height * 2 - 1)[:, None]
        bottom, top = -EYE / far, (HEIGHT - EYE) / far
        with np.errstate(divide="ignore"):
            near = np.where(down < 0, -EYE, HEIGHT - EYE) / down  # how far floor or ceiling is
        walls = self._colours[wall] * (0.6 + 0.4 * np.cos(9 * along))[:, None]
        floors = np.where(down[..., None] < 0, self._colours[0], self._colours[1]) * (1 / (1 + near / HALF))[..., None]
        view = np.where(((down > bottom) & (down < top))[..., None], walls, floors)
        return np.clip(view, 0, 255).astype(np.uint8)
