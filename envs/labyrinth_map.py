"""A map of a labyrinth from above, for humans."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gtmsm_env.envs.labyrinth_rooms import CEILING, FLOOR, RADIUS, Integers, Rooms
from gtmsm_env.vector import Floats, Frames

BACKGROUND, WALL = (19, 21, 27), 0.1  # colour of nowhere; thickness of walls in units
GOAL, AGENT = (255, 214, 0), (255, 255, 255)


def map_from_above(worlds: Rooms, row: int, pose: Floats, goal: Floats | None, size: int = 512) -> Frames:
    """The world of a row from above, (size, size, 3), north up; the agent a white arrow and the goal a yellow one."""
    bounds = worlds.bounds[row, : worlds.sectors[row]]
    low, high = bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)
    scale = (high - low).max() * 1.08 / size  # units a pixel
    middle = (low + high) / 2
    x = middle[0] + (np.arange(size)[None, :] + 0.5 - size / 2) * scale + np.zeros((size, 1))
    y = middle[1] - (np.arange(size)[:, None] + 0.5 - size / 2) * scale + np.zeros((1, size))
    picture = np.full((size, size, 3), BACKGROUND, np.uint8)
    for sector, (west, south, east, north) in enumerate(bounds):  # the walls around every sector, then its ground over them
        near = (x > west - WALL) & (x < east + WALL) & (y > south - WALL) & (y < north + WALL)
        picture[near & (picture == BACKGROUND).all(axis=-1)] = _texture(worlds, row, sector, CEILING).mean(axis=(0, 1)) * 0.5 + 110
    for sector, (west, south, east, north) in enumerate(bounds):
        inside = (x >= west) & (x <= east) & (y >= south) & (y <= north)
        ground = _texture(worlds, row, sector, FLOOR)
        v, u = (y[inside] - south) / (north - south), (x[inside] - west) / (east - west)
        picture[inside] = ground[_number(v, len(ground)), _number(u, ground.shape[1])]
    for disc in range(worlds.discs[row]):
        centre_x, centre_y, radius, height = worlds.disc[row, disc]
        rows, columns = worlds.disc_shape[row, disc]
        first = worlds.disc_first[row, disc]
        colour = worlds.texels[row, first : first + rows * columns].mean(axis=0)
        far = np.hypot(x - centre_x, y - centre_y)
        picture[far < radius] = colour
        picture[(far < radius) & (far > radius - 2.5 * scale)] = 0 if height else 255  # pillars are ringed in white, balls in black
    for there, colour in ((goal, GOAL), (pose, AGENT)):
        if there is not None:
            ahead = (x - there[0]) * np.cos(there[2]) + (y - there[1]) * np.sin(there[2])
            aside = np.abs((y - there[1]) * np.cos(there[2]) - (x - there[0]) * np.sin(there[2]))
            arrow = RADIUS * np.maximum(1, 24 * scale / RADIUS)  # at least some pixels long
            for inset, ink in ((0.0, (0, 0, 0)), (0.2, colour)):
                shape = (ahead < arrow * (1 - 2 * inset)) & (ahead > arrow * (inset - 1)) & (aside < (arrow - ahead) * 0.45 - arrow * inset)
                picture[shape] = ink
    return picture


def _texture(worlds: Rooms, row: int, sector: int, surface: int) -> Frames:
    rows, columns = worlds.shape[row, sector, surface]
    first = worlds.first[row, sector, surface]
    return worlds.texels[row, first : first + rows * columns].reshape(rows, columns, 3)


def _number(share: NDArray[np.float64], count: int) -> Integers:
    """The number, of `count`, of what lies at this share of the whole."""
    return np.clip((share * count).astype(np.int64), 0, count - 1)
