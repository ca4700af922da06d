"""What an agent sees in the labyrinth: a batched ray caster.

For every column of the frame, twice, one ray runs over the ground from sector to sector until it meets a wall or a pillar; what lies above
and below that is ceiling, floor, or a ball in front. A pixel is the mean of two samples, one a column's ray, taken bilinearly from the mip
level whose texels are as large as what the sample stands for.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gtmsm_env.envs.labyrinth_compiled import compiled
from gtmsm_env.envs.labyrinth_rooms import HEIGHT, Integers, Rooms
from gtmsm_env.envs.labyrinth_textures import DENSITY, LEVELS
from gtmsm_env.vector import Floats, Frames

SAMPLES = np.array([[0.25, 0.25], [0.75, 0.75]])  # right and down within a pixel
SHARPNESS = 0.7  # texels of the chosen level are about this part of a pixel: less is sharper and flickers more
MOST_CROSSED, MOST_BALLS = 64, 6  # sectors that a ray passes, and balls that it meets


def draw(rooms: Rooms, rows: Integers, poses: Floats, size: int, field_of_view: float, camera_height: float) -> Frames:
    """Frames (R, size, size, 3) uint8 seen from poses (R, 3), x, y and heading, in the worlds of some rows (R,).

    The camera looks horizontally from `camera_height` units; `field_of_view` is its angle in degrees, across and down.
    """
    frames = np.empty((len(rows), size, size, 3), np.uint8)
    focal = size / 2 / math.tan(math.radians(field_of_view) / 2)  # in pixels
    _draw(rooms, rows, poses, focal, camera_height, frames)
    return frames


def column_depths(rooms: Rooms, rows: Integers, poses: Floats, size: int, field_of_view: float) -> Floats:
    """How deep, along the direction of view, the wall or pillar of every column lies, seen from poses (R, 3): (R, size). For evaluation."""
    depths = np.empty((len(rows), size))
    _measure(rooms, rows, poses, size / 2 / math.tan(math.radians(field_of_view) / 2), depths)
    return depths


@compiled
def _measure(rooms: Rooms, rows: Any, poses: Any, focal: float, depths: Any) -> None:
    size = depths.shape[1]
    passed, passed_at, balls = np.empty(MOST_CROSSED, np.int64), np.empty(MOST_CROSSED), np.empty((MOST_BALLS, 3))
    for i in range(len(rows)):
        x, y, heading = poses[i]
        ahead_x, ahead_y = math.cos(heading), math.sin(heading)
        for u in range(size):
            aside = (u + 0.5 - size / 2) / focal
            depths[i, u] = cast(rooms, rows[i], x, y, ahead_x + aside * ahead_y, ahead_y - aside * ahead_x, passed, passed_at, balls)[2]


@compiled
def cast(rooms: Rooms, row: int, x: float, y: float, dx: float, dy: float, passed: Any, passed_at: Any, balls: Any) -> Any:
    """Follow a ray over the ground from (x, y) along (dx, dy), whose length is the unit of all distances here.

    `passed` and `passed_at` take the sectors on the way and the distances at which the ray leaves them; `balls`, those it meets, with
    the distance to the point nearest the ball's middle and the square of half the height of the ball over the ray.

    Returns how many sectors, how many balls, the distance of the wall or pillar, the first texel, rows and columns of its texture, where
    on it the ray falls (0 to 1 from its left), and the cosine of the angle between the ray and the surface's normal.
    """
    length2 = dx * dx + dy * dy
    length = math.sqrt(length2)
    sector, crossed, met = 0, 0, 0
    for s in range(rooms.sectors[row]):
        west, south, east, north = rooms.bounds[row, s]
        if west <= x <= east and south <= y <= north:
            sector = s
            break
    while True:
        west, south, east, north = rooms.bounds[row, sector]
        to_x = ((east if dx > 0 else west) - x) / dx if dx != 0 else np.inf
        to_y = ((north if dy > 0 else south) - y) / dy if dy != 0 else np.inf
        end = min(to_x, to_y)
        pillar = -1
        for disc in range(rooms.discs[row]):
            if rooms.disc_sector[row, disc] != sector:
                continue
            ahead_x, ahead_y, radius, height = rooms.disc[row, disc]
            ahead_x -= x
            ahead_y -= y
            nearest = (ahead_x * dx + ahead_y * dy) / length2
            half2 = radius * radius - (ahead_x * ahead_x + ahead_y * ahead_y - nearest * nearest * length2)
            if nearest <= 0 or half2 <= 0:
                continue
            if height > 0:
                if met < MOST_BALLS:
                    balls[met, 0], balls[met, 1], balls[met, 2] = disc, nearest, half2
                    met += 1
            elif nearest - math.sqrt(half2 / length2) < end:
                pillar, end = disc, nearest - math.sqrt(half2 / length2)
        passed[crossed], passed_at[crossed] = sector, end
        crossed += 1
        if pillar >= 0:
            out_x, out_y = x + end * dx - rooms.disc[row, pillar, 0], y + end * dy - rooms.disc[row, pillar, 1]
            across = math.atan2(out_y, out_x) / (2 * math.pi) % 1.0
            cosine = -(out_x * dx + out_y * dy) / (rooms.disc[row, pillar, 2] * length)
            shape = rooms.disc_shape[row, pillar]
            return crossed, met, end, rooms.disc_first[row, pillar], shape[0], shape[1], across, cosine
        if to_x < to_y:
            side, along, low, high, cosine = (1 if dx > 0 else 0), y + end * dy, south, north, abs(dx) / length
        else:
            side, along, low, high, cosine = (3 if dy > 0 else 2), x + end * dx, west, east, abs(dy) / length
        beyond = rooms.beyond[row, sector, side]
        opening = rooms.opening[row, sector, side]
        if beyond < 0 or not opening[0] < along < opening[1] or crossed == MOST_CROSSED:
            shape = rooms.shape[row, sector, side]
            return crossed, met, end, rooms.first[row, sector, side], shape[0], shape[1], (along - low) / (high - low), cosine
        sector = beyond


@compiled
def texel(texels: Any, first: int, rows: int, columns: int, level: int, down: float, across: float) -> Any:
    """The colour, three numbers, at (down, across), 0 to 1 each, of one mip level, bilinearly."""
    down_level, across_level = rows >> level, columns >> level
    first += (rows * columns - down_level * across_level) * 4 // 3  # all finer levels
    v, u = max(down * down_level - 0.5, 0.0), max(across * across_level - 0.5, 0.0)
    top, left = min(int(v), down_level - 1), min(int(u), across_level - 1)
    to_bottom, to_right = v - top, u - left
    below = across_level if top + 1 < down_level else 0
    beside = 1 if left + 1 < across_level else 0
    a = first + top * across_level + left
    b, c, d = a + beside, a + below, a + below + beside
    weight_a, weight_b = (1 - to_bottom) * (1 - to_right), (1 - to_bottom) * to_right
    weight_c, weight_d = to_bottom * (1 - to_right), to_bottom * to_right
    return (
        weight_a * texels[a, 0] + weight_b * texels[b, 0] + weight_c * texels[c, 0] + weight_d * texels[d, 0],
        weight_a * texels[a, 1] + weight_b * texels[b, 1] + weight_c * texels[c, 1] + weight_d * texels[d, 1],
        weight_a * texels[a, 2] + weight_b * texels[b, 2] + weight_c * texels[c, 2] + weight_d * texels[d, 2],
    )


@compiled
def mip_level(footprint: float) -> int:
    """The level whose texels suit a sample that stands for so many units."""
    return min(max(round(math.log2(footprint * DENSITY * SHARPNESS)), 0), LEVELS - 1)


@compiled
def _draw(rooms: Rooms, rows: Any, poses: Any, focal: float, camera_height: float, frames: Any) -> None:
    size = frames.shape[1]
    slopes, ground, ground_level = np.empty((2, size)), np.empty((2, size)), np.empty((2, size), np.int64)
    for sample in range(2):
        for v in range(size):
            slope = (size / 2 - v - SAMPLES[sample, 1]) / focal
            distance = camera_height / -slope if slope < 0 else (HEIGHT - camera_height) / slope  # of floor or ceiling
            height = camera_height if slope < 0 else HEIGHT - camera_height
            slopes[sample, v], ground[sample, v] = slope, distance
            ground_level[sample, v] = mip_level(distance / focal * math.sqrt(distance / height))  # a pixel is deeper than wide there
    passed, passed_at, balls = np.empty(MOST_CROSSED, np.int64), np.empty(MOST_CROSSED), np.empty((MOST_BALLS, 3))
    column = np.empty((size, 3), np.float32)
    for i in range(len(rows)):
        row = rows[i]
        texels = rooms.texels[row]
        x, y, heading = poses[i]
        ahead_x, ahead_y = math.cos(heading), math.sin(heading)
        for u in range(size):
            column[:] = 0
            for sample in range(2):
                aside = (u + SAMPLES[sample, 0] - size / 2) / focal
                dx, dy = ahead_x + aside * ahead_y, ahead_y - aside * ahead_x
                _, met, wall, first, down, across, where, cosine = cast(rooms, row, x, y, dx, dy, passed, passed_at, balls)
                level = mip_level(wall / focal / math.sqrt(max(cosine, 0.05)))
                length2 = dx * dx + dy * dy
                for v in range(size):
                    slope = slopes[sample, v]
                    z = camera_height + slope * wall
                    upright = 0 <= z <= HEIGHT
                    distance = wall if upright else ground[sample, v]
                    ball = -1
                    for j in range(met):
                        disc = int(balls[j, 0])
                        lift = camera_height - rooms.disc[row, disc, 3]
                        a, b = length2 + slope * slope, balls[j, 1] * length2 - slope * lift
                        under = b * b - a * (balls[j, 1] * balls[j, 1] * length2 + lift * lift - balls[j, 2])
                        if under > 0 and (b - math.sqrt(under)) / a < distance:
                            ball, distance = disc, (b - math.sqrt(under)) / a
                    if ball >= 0:
                        centre_x, centre_y, radius, height = rooms.disc[row, ball]
                        nx, ny = (x + distance * dx - centre_x) / radius, (y + distance * dy - centre_y) / radius
                        nz = min(max((camera_height + distance * slope - height) / radius, -1.0), 1.0)
                        shape = rooms.disc_shape[row, ball]
                        turn = math.atan2(ny, nx) / (2 * math.pi) % 1.0
                        fall = 0.5 - math.asin(nz) / math.pi
                        start, finer = rooms.disc_first[row, ball], mip_level(distance / focal)
                        red, green, blue = texel(texels, start, shape[0], shape[1], finer, fall, turn)
                    elif upright:
                        red, green, blue = texel(texels, first, down, across, level, 1 - z / HEIGHT, where)
                    else:
                        k = 0
                        while passed_at[k] < distance:
                            k += 1
                        sector, surface = passed[k], (4 if slope < 0 else 5)
                        west, south, east, north = rooms.bounds[row, sector]
                        shape = rooms.shape[row, sector, surface]
                        north_share = (y + distance * dy - south) / (north - south)
                        east_share = (x + distance * dx - west) / (east - west)
                        start = rooms.first[row, sector, surface]
                        red, green, blue = texel(texels, start, shape[0], shape[1], ground_level[sample, v], north_share, east_share)
                    column[v, 0] += red
                    column[v, 1] += green
                    column[v, 2] += blue
            for v in range(size):
                for c in range(3):
                    frames[i, v, u, c] = np.uint8(column[v, c] * np.float32(0.5) + np.float32(0.5))
