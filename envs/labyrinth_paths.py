"""The shortest path to a goal in the labyrinth, and the fewest steps to it: bounds from below, and close ones.

Paths. The middle of the agent, a disc, keeps RADIUS away from every wall, pillar and ball. What it cannot enter is taken as polygons,
circles as regular ones of `CORNERS` corners inside them: this shortens a path by less than 2 % where it bends and not at all elsewhere. A
shortest path around polygons bends at corners only, so it is one through a graph of all corners that see one another.

Steps. What the physics makes of every velocity and action is tabulated on a grid of velocities, and backward induction gives the most that
steps can do from each: how long n steps are together at most, and how far they lead at most in the direction in which the goal lies when
they begin and end at the headings of start and goal. The goal takes no fewer steps than the shortest path needs for the first, nor than
the straight way needs for the second.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gtmsm_env.envs.first_person import COMMANDS
from gtmsm_env.envs.labyrinth_compiled import compiled
from gtmsm_env.envs.labyrinth_physics import move
from gtmsm_env.envs.labyrinth_rooms import RADIUS, Integers, Rooms
from gtmsm_env.vector import Floats

CORNERS = 16  # a multiple of 4, so that they lie on straight walls too
INNER = math.cos(math.pi / CORNERS)  # radius of the circle inside a polygon whose corners are 1 from its middle
AXIS = {False: np.linspace(-0.9, 0.9, 11), True: np.linspace(-1.3, 1.3, 21)}  # velocities tabulated, by whether the physics is "lab"
ERROR = 0.005  # of lengths, by the grid, at most
STEADY = 64  # steps after which every further one adds as much
LEAST_TURN = math.radians(3)  # for which headings are looked at: smaller turns make too many
NEVER = -1e9
LOOKS = COMMANDS[:, 2].astype(np.int64)


class Moves(NamedTuple):
    """What actions do at each of S velocities, in the agent's frame; in top speeds."""

    displacement: Floats  # (S, 8, 2)
    after: Integers  # (S, 8, 4) four velocities around that which follows
    weight: Floats  # (S, 8, 4) of each
    longest: Floats  # (STEADY + 1, S) most that so many steps are long together


def fewest_steps(
    rooms: Rooms, row: int, pose: Floats, velocity: Floats, goal: Floats, reach: float, angle: float, speed: float, turn: float, lab: bool
) -> int:
    """A bound from below of the steps from a pose, with a velocity in its frame, to within `reach` units and `angle` of the pose `goal`.

    See `labyrinth_physics.move` for the other arguments. Beside a wall or disc, touches may help: they take away a part of the velocity,
    and an agent may turn while it slides along. The first is looked at, and for the second a step is left off; touches further on are not.
    In "lab", as in Quake, who slides along a wall can also come to be faster than anyone in the open, which is not looked at either.
    """
    turned = (goal[2] - pose[2] + np.pi) % (2 * np.pi) - np.pi
    steps = math.ceil(max(abs(turned) - angle, 0) / turn - 1e-6) if turn else 0
    if speed == 0:
        return steps
    moves = _moves(turn, lab)
    near, weight = (part[0] for part in _between(velocity[None] / speed, lab))
    longest = moves.longest[:, near] @ weight
    far = path_length(rooms, row, pose, goal, reach, speed) / speed * (1 - ERROR)
    beyond = max(far - longest[-1], 0) / (moves.longest[-1] - moves.longest[-2]).max()
    steps = max(steps, int(np.searchsorted(longest, min(far, longest[-1]) - 1e-9)) + math.ceil(beyond))
    aside = goal[:2] - pose[:2]
    straight = (math.hypot(*aside) - reach) / speed * (1 - ERROR)
    if turn < LEAST_TURN or straight <= 0:
        return steps
    axis, (u, v) = AXIS[lab], velocity / speed
    beside = rooms.clearance(row, *pose[:2]) < RADIUS + 2 * speed  # as far as an agent may coast
    parts = beside & (np.hypot(axis[:, None] - u / 2, axis[None, :] - v / 2) <= math.hypot(u, v) / 2)  # what touches may leave of (u, v)
    bearing = math.atan2(aside[1], aside[0]) - pose[2]
    return max(steps, _straight(moves, near, weight, np.flatnonzero(parts), straight, bearing, turned, turn, angle) - beside)


@lru_cache(maxsize=8)
def _moves(turn: float, lab: bool) -> Moves:
    """The table for one kind of physics."""
    velocities = np.stack(np.meshgrid(AXIS[lab], AXIS[lab], indexing="ij"), axis=-1).reshape(-1, 2).repeat(len(LOOKS), axis=0)
    nowhere, actions = np.zeros(len(velocities), np.int64), np.tile(np.arange(len(LOOKS)), len(AXIS[lab]) ** 2)
    poses, velocities, displacement, _ = move(Rooms.empty(1, 1), nowhere, np.zeros((len(actions), 3)), velocities, actions, 1.0, turn, lab)
    if lab:
        velocities = in_frame(velocities, poses[:, 2])
    after, weight = _between(velocities, lab)
    after, weight = after.reshape(-1, len(LOOKS), 4), weight.reshape(-1, len(LOOKS), 4)
    displacement = np.ascontiguousarray(displacement[:, :2]).reshape(-1, len(LOOKS), 2)
    longest = np.zeros((STEADY + 1, len(displacement)))
    for step in range(STEADY):
        longest[step + 1] = (np.hypot(*np.moveaxis(displacement, -1, 0)) + (weight * longest[step, after]).sum(axis=-1)).max(axis=-1)
    return Moves(displacement, after, weight, longest)


def in_frame(velocity: Floats, heading: Floats) -> Floats:
    """Velocities (N, 2) of the world's frame in that of agents with these headings (N,): ahead and to the left."""
    cos, sin = np.cos(heading), np.sin(heading)
    u, v = velocity.T
    return np.stack([cos * u + sin * v, cos * v - sin * u], axis=1)


def _between(velocities: Floats, lab: bool) -> tuple[Integers, Floats]:
    """The numbers of the four velocities of the grid around each (N, 2), and their weights, both (N, 4)."""
    axis = AXIS[lab]
    place = np.clip((velocities - axis[0]) / (axis[1] - axis[0]), 0, len(axis) - 1 - 1e-9)
    low = place.astype(np.int64)
    (u, v), (share_u, share_v) = low.T, (place - low).T
    numbers = u[:, None] * len(axis) + v[:, None] + np.array([0, 1, len(axis), len(axis) + 1])
    weights = [(1 - share_u) * (1 - share_v), (1 - share_u) * share_v, share_u * (1 - share_v), share_u * share_v]
    return numbers, np.stack(weights, axis=1)


@compiled
def _straight(moves: Any, near: Any, weight: Any, parts: Any, far: float, bearing: float, turned: float, turn: float, angle: float) -> int:
    """Fewest steps that lead so far in the direction `bearing` and end within `angle` of the heading `turned`, as the agent sees both."""
    circle = math.ceil(2 * math.pi / turn)
    headings, velocities = 2 * circle + 1, len(moves.displacement)
    best = np.full((headings, velocities), NEVER)  # how far so many steps lead at most, from each heading and velocity
    for k in range(headings):
        if abs(((k - circle) * turn - turned + math.pi) % (2 * math.pi) - math.pi) <= angle + 1e-9:
            best[k] = 0.0
    steps = 0
    while True:
        reached = 0.0
        for j in range(4):
            reached += weight[j] * best[circle, near[j]]
        for part in parts:
            reached = max(reached, best[circle, part])
        if reached >= far - 1e-9:
            return steps
        steps += 1
        before, best = best, np.full((headings, velocities), NEVER)
        for k in range(headings):
            ahead, left = math.cos(bearing - (k - circle) * turn), math.sin(bearing - (k - circle) * turn)
            for action in range(len(LOOKS)):
                to = k + LOOKS[action]
                if 0 <= to < headings and before[to, 0] > NEVER / 2:
                    for v in range(velocities):
                        gone = ahead * moves.displacement[v, action, 0] + left * moves.displacement[v, action, 1]
                        for j in range(4):
                            gone += moves.weight[v, action, j] * before[to, moves.after[v, action, j]]
                        best[k, v] = max(best[k, v], gone)


def path_length(rooms: Rooms, row: int, start: Floats, goal: Floats, reach: float, step: float = 0.0) -> float:
    """Length in units of the shortest path from start (x, y) to within `reach` of goal (x, y), touches allowed.

    The agent may take steps of up to `step` units and be nowhere but at their ends, so that it can cut corners a little.
    """
    walls, disc = rooms.walls(row), rooms.disc[row, : rooms.discs[row]]
    ends = np.unique(walls.reshape(-1, 2), axis=0)
    wide = np.sqrt(RADIUS**2 - (step / 2) ** 2)  # a step from a circle to the same circle comes so near to its middle
    round_ = np.sqrt((RADIUS + disc[:, 2]) ** 2 - (step / 2) ** 2)
    cores = np.concatenate([walls, disc[:, [0, 1, 0, 1]]])  # lines and points, and how far around them nobody can be
    around = np.concatenate([np.full(len(walls), wide), round_])
    middles, radii = np.concatenate([ends, disc[:, :2]]), np.concatenate([np.full(len(ends), wide), round_])
    angles = np.arange(CORNERS + 1) * (2 * np.pi / CORNERS)
    polygons = middles[:, None] + radii[:, None, None] * np.stack([np.cos(angles), np.sin(angles)], axis=-1)  # (P, CORNERS + 1, 2), closed
    beside = wide * (walls[:, 2:] != walls[:, :2])[:, ::-1]  # across each wall
    chords = np.concatenate([polygons[:, :-1], polygons[:, 1:]], axis=-1).reshape(-1, 4)
    lines = np.concatenate([chords, *(walls + sign * np.tile(beside, 2) for sign in (-1, 1))])
    corners = np.concatenate([polygons[:, :-1].reshape(-1, 2), _on_circle(lines, goal[:2], reach)])
    return float(_shortest(np.concatenate([start[None, :2], corners]), cores, around * INNER - 1e-9, goal[:2], reach))


def _on_circle(lines: Floats, middle: Floats, radius: float) -> Floats:
    """The points (P, 2) where lines (L, 4), from (x, y) to (x, y), meet a circle."""
    start, along = lines[:, :2] - middle, lines[:, 2:] - lines[:, :2]
    a, b, c = (along**2).sum(axis=1), (start * along).sum(axis=1), (start**2).sum(axis=1) - radius**2
    root = np.sqrt(np.where(b * b < a * c, np.nan, b * b - a * c))
    share = (np.stack([-b - root, -b + root]) / a)[..., None]
    points: Floats = (lines[:, :2] + share * along)[((share >= 0) & (share <= 1))[..., 0]]
    return points


@compiled
def _to_line(x: float, y: float, line: Any) -> float:
    """Distance of a point from a line (x, y, x, y) between two points."""
    dx, dy = line[2] - line[0], line[3] - line[1]
    length2 = dx * dx + dy * dy
    share = min(max(((x - line[0]) * dx + (y - line[1]) * dy) / length2, 0.0), 1.0) if length2 > 0 else 0.0
    return math.hypot(line[0] + share * dx - x, line[1] + share * dy - y)


@compiled
def _sees(way: Any, cores: Any, keep: Any) -> bool:
    """Whether a straight way (x, y, x, y) keeps so far from all cores."""
    low_x, high_x, low_y, high_y = min(way[0], way[2]), max(way[0], way[2]), min(way[1], way[3]), max(way[1], way[3])
    dx, dy = way[2] - way[0], way[3] - way[1]
    for i in range(len(cores)):
        x0, y0, x1, y1 = cores[i]
        aside_x = max(min(x0, x1) - high_x, low_x - max(x0, x1))
        aside_y = max(min(y0, y1) - high_y, low_y - max(y0, y1))
        if max(aside_x, aside_y) >= keep[i]:
            continue
        near = min(_to_line(x0, y0, way), _to_line(x1, y1, way))
        if min(near, _to_line(way[0], way[1], cores[i]), _to_line(way[2], way[3], cores[i])) < keep[i]:
            return False
        left, right = dx * (y0 - way[1]) - dy * (x0 - way[0]), dx * (y1 - way[1]) - dy * (x1 - way[0])
        before = (x1 - x0) * (way[1] - y0) - (y1 - y0) * (way[0] - x0)
        after = (x1 - x0) * (way[3] - y0) - (y1 - y0) * (way[2] - x0)
        if left * right < 0 and before * after < 0:  # it crosses
            return False
    return True


@compiled
def _shortest(places: Any, cores: Any, keep: Any, goal: Any, reach: float) -> float:
    """Dijkstra's algorithm from the first place, looking at a way only where it would be shorter than what is known."""
    far, done = np.full(len(places), np.inf), np.zeros(len(places), np.bool_)
    for i in range(1, len(places)):
        for j in range(len(cores)):
            done[i] |= _to_line(places[i, 0], places[i, 1], cores[j]) < keep[j]  # inside
    far[0], best, way = 0.0, np.inf, np.empty(4)
    while True:
        here = -1
        for i in range(len(places)):
            if not done[i] and far[i] < best and (here < 0 or far[i] < far[here]):
                here = i
        if here < 0:
            return best
        done[here] = True
        way[:2] = places[here]
        aside_x, aside_y = places[here, 0] - goal[0], places[here, 1] - goal[1]
        left = math.hypot(aside_x, aside_y)
        way[2], way[3] = goal[0] + aside_x * reach / left, goal[1] + aside_y * reach / left
        if left <= reach * (1 + 1e-9):
            best = far[here]
        elif far[here] + left - reach < best and _sees(way, cores, keep):
            best = far[here] + left - reach
        for i in range(len(places)):
            to = far[here] + math.hypot(places[i, 0] - places[here, 0], places[i, 1] - places[here, 1])
            if not done[i] and to < min(far[i], best):
                way[2:] = places[i]
                if _sees(way, cores, keep):
                    far[i] = to
