"""What all worlds seen in first person share, whoever draws them: the eight actions, headings, and when a goal is reached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gtmsm_env.vector import Flags, Floats

ACTIONS: dict[str, tuple[int, int, int]] = {  # forward, to the left, turn to the left; DeepMind Lab agents have these eight and "fire"
    "forward": (1, 0, 0),
    "backward": (-1, 0, 0),
    "strafe left": (0, 1, 0),
    "strafe right": (0, -1, 0),
    "look left": (0, 0, 1),
    "look right": (0, 0, -1),
    "forward and look left": (1, 0, 1),
    "forward and look right": (1, 0, -1),
}
COMMANDS = np.array(list(ACTIONS.values()), np.float64)
KEYS: dict[tuple[str, ...], int] = {  # for `gymnasium.utils.play`: w, s walk, a, d strafe, q, e look
    **{("w",): 0, ("s",): 1, ("a",): 2, ("d",): 3, ("q",): 4, ("e",): 5, ("q", "w"): 6, ("e", "w"): 7},
    (): 4,  # there is no action that does nothing: no key looks left
}

REMEMBERED = 1024  # the last poses of a walk, of which one becomes a goal
REDRAWS = 100  # poses drawn before a reset gives up


def wrapped(angle: Floats) -> Floats:
    """The same angles from -pi to pi."""
    turned: Floats = (angle + np.pi) % (2 * np.pi) - np.pi
    return turned


def at_goal(pose: Floats, goal: Floats, radius: float, angle: float) -> Flags:
    """Whether poses (..., 3) are within `radius` and `angle` (radians) of goals (..., 3)."""
    near = np.hypot(*np.moveaxis((pose - goal)[..., :2], -1, 0)) <= radius
    flags: Flags = near & (np.abs(wrapped(pose[..., 2] - goal[..., 2])) <= angle + 1e-9)
    return flags


def check_between(name: str, given: float, least: float, most: float = math.inf) -> None:
    """Refuses a number out of range. Raises ValueError."""
    if not least <= given <= most:
        raise ValueError(f"{name} must be at least {least:g}{f' and at most {most:g}' if most < math.inf else ''}, got {given!r}")


def check_one_of(name: str, given: Any, known: Sequence[Any]) -> None:
    """Refuses what is not among the known. Raises ValueError."""
    if given not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {given!r}")


def check_phase(phase: Any, world: Any, chosen: Sequence[str], unknown: Sequence[str], goals: bool) -> None:
    """Refuses reset options that do not go together. Raises ValueError.

    Args:
        phase, world: as given, or their defaults
        chosen: which of "room", "pose" and "goal" are given
        unknown: the names of all other options
        goals: whether the task has goals
    """
    if unknown:
        raise ValueError(f"reset options are phase, world, room, pose, goal and (in a vector) reset_mask, got also {list(unknown)}")
    if phase not in ("walk", "task") or world not in ("new", "same"):
        raise ValueError(f"phase must be 'walk' or 'task' and world 'new' or 'same', got phase={phase!r} and world={world!r}")
    if world == "same" and (phase == "walk" or "room" in chosen):
        raise ValueError("world 'same' goes on in the world a row is in: it needs phase 'task' and no room")
    if "goal" in chosen and (phase == "walk" or not goals):
        raise ValueError("options['goal'] needs task='goal' and phase 'task'")
