"""How an agent moves in the labyrinth: the eight actions, two kinds of physics, and contact with what stands in the way.

"smooth" is in the class of the model's own law (equation 6), so that a model can learn it exactly. With velocities in top speeds, which is
the unit in which the law has this momentum,

    u_t = tanh(PUSH a_t + KEPT u_{t-1}),   place_t = place_{t-1} + speed R(heading_{t-1}) u_t,   heading_t = heading_{t-1} + turn a_t,

in the agent's own frame (ahead, left): the agent has momentum, friction and a smooth top speed, and looks around without inertia.

"lab" has the constants of DeepMind Lab, which are Quake's: four frames a step at 60 a second, each of friction 6 (that of the stop speed at
least, which is 100 / 320 of the top speed), then acceleration 10 up to a hard top speed. Momentum is kept in the world's frame, and the
agent turns a quarter of `turn` before each frame's move.

What is in the way stops the part of a move that leads into it; the agent slides along. The momentum into it is lost.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gtmsm_env.envs.first_person import ACTIONS as ACTIONS
from gtmsm_env.envs.first_person import COMMANDS
from gtmsm_env.envs.labyrinth_compiled import compiled
from gtmsm_env.envs.labyrinth_rooms import RADIUS, Integers, Rooms
from gtmsm_env.vector import Flags, Floats

PUSH, KEPT = 0.6, 0.7  # of "smooth": a steady walk is at .826 of the top speed, and a coasting agent loses a third of it a step
FRAMES, ACCELERATION, FRICTION, STOP = 4, 10 / 60, 6 / 60, 100 / 320  # of "lab": a step; a frame each; in top speeds
STILL = 1 / 320  # "lab" stops below this speed


def move(
    rooms: Rooms,
    rows: Integers,
    poses: Floats,
    velocity: Floats,
    actions: Integers,
    speed: float,
    turn: float,
    lab: bool,
    margin: float = 0.0,
) -> tuple[Floats, Floats, Floats, Flags]:
    """One step of agents at poses (R, 3) with velocity (R, 2) in the worlds of some rows (R,).

    speed: top speed in units a step; turn: radians a step of looking; margin: units that the agents keep from everything, beside RADIUS.

    Returns poses, velocity, the displacement (R, 3) in the agent's frame before the step (ahead and to the left in units, turn to the left
    in radians), and whether something was in the way (R,). Velocities are in units a step, in the agent's frame ("lab": the world's).
    """
    poses, velocity = poses.copy(), velocity.copy()
    displacement, touched = np.zeros_like(poses), np.zeros(len(poses), np.bool_)
    _move(rooms, rows, poses, velocity, COMMANDS[actions], displacement, touched, speed, turn, lab, RADIUS + margin)
    return poses, velocity, displacement, touched


@compiled
def overlap(rooms: Rooms, row: int, x: float, y: float, radius: float) -> Any:
    """The deepest that a disc at (x, y) reaches into anything: how far, and the direction (x, y) that leads out of it."""
    deepest, out_x, out_y = 0.0, 0.0, 0.0
    for sector in range(rooms.sectors[row]):
        west, south, east, north = rooms.bounds[row, sector]
        if not (west - radius < x < east + radius and south - radius < y < north + radius):
            continue
        for side in range(4):
            from_, to = (south, north) if side < 2 else (west, east)
            line = west if side == 0 else east if side == 1 else south if side == 2 else north
            along, across = (y, x - line) if side < 2 else (x, y - line)
            opening = rooms.opening[row, sector, side]
            for part in range(2 if rooms.beyond[row, sector, side] >= 0 else 1):  # the wall, or what an opening leaves of it
                low = opening[1] if part == 1 else from_
                high = opening[0] if part == 0 and rooms.beyond[row, sector, side] >= 0 else to
                if high <= low:
                    continue
                past = along - min(max(along, low), high)
                distance = math.hypot(past, across)
                if radius - distance > deepest and distance > 0:
                    deepest = radius - distance
                    out_x, out_y = (across / distance, past / distance) if side < 2 else (past / distance, across / distance)
    for disc in range(rooms.discs[row]):
        aside_x, aside_y = x - rooms.disc[row, disc, 0], y - rooms.disc[row, disc, 1]
        distance = math.hypot(aside_x, aside_y)
        if radius + rooms.disc[row, disc, 2] - distance > deepest and distance > 0:
            deepest, out_x, out_y = radius + rooms.disc[row, disc, 2] - distance, aside_x / distance, aside_y / distance
    return deepest, out_x, out_y


@compiled
def slide(rooms: Rooms, row: int, x: float, y: float, dx: float, dy: float, radius: float) -> Any:
    """Where a disc at (x, y) that would move by (dx, dy) comes to lie, outside everything, and whether anything was in its way."""
    to_x, to_y = x + dx, y + dy
    for push in range(8):
        depth, out_x, out_y = overlap(rooms, row, to_x, to_y, radius)
        if depth <= 1e-9:
            return to_x, to_y, push > 0
        to_x, to_y = to_x + depth * out_x, to_y + depth * out_y
    return x, y, True  # wedged


@compiled
def _move(
    rooms: Any,
    rows: Any,
    poses: Any,
    velocity: Any,
    commands: Any,
    displacement: Any,
    touched: Any,
    speed: float,
    turn: float,
    lab: bool,
    radius: float,
) -> None:
    for i in range(len(rows)):
        x0, y0, heading = poses[i]
        cos, sin = math.cos(heading), math.sin(heading)
        ahead, left, look = commands[i]
        if speed == 0:
            x, y = x0, y0
        elif not lab:
            u = speed * math.tanh(PUSH * ahead + KEPT * velocity[i, 0] / speed)
            v = speed * math.tanh(PUSH * left + KEPT * velocity[i, 1] / speed)
            x, y, touched[i] = slide(rooms, rows[i], x0, y0, cos * u - sin * v, sin * u + cos * v, radius)
        else:
            x, y = x0, y0
            for frame in range(FRAMES):
                towards = heading + turn * look * (frame + 1) / FRAMES
                wish_x = math.cos(towards) * ahead - math.sin(towards) * left
                wish_y = math.sin(towards) * ahead + math.cos(towards) * left
                u, v = velocity[i, 0] / speed, velocity[i, 1] / speed
                fast = math.hypot(u, v)
                kept = 0.0 if fast < STILL else max(fast - FRICTION * max(fast, STOP), 0.0) / fast
                u, v = kept * u, kept * v
                if ahead != 0 or left != 0:
                    gain = min(max(1 - (u * wish_x + v * wish_y), 0.0), ACCELERATION)
                    u, v = u + gain * wish_x, v + gain * wish_y
                to_x, to_y, hit = slide(rooms, rows[i], x, y, speed * u / FRAMES, speed * v / FRAMES, radius)
                velocity[i, 0], velocity[i, 1] = (to_x - x) * FRAMES, (to_y - y) * FRAMES
                x, y, touched[i] = to_x, to_y, touched[i] or hit
        displacement[i, 0], displacement[i, 1] = cos * (x - x0) + sin * (y - y0), -sin * (x - x0) + cos * (y - y0)
        displacement[i, 2] = turn * look
        if not lab:
            velocity[i, 0], velocity[i, 1] = displacement[i, 0], displacement[i, 1]
        poses[i, 0], poses[i, 1], poses[i, 2] = x, y, heading + turn * look
