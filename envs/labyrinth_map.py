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
    x = (middle[0] + (np.arange(size) + 0.5 - size / 2) * scale)[None, :]
    y = (middle[1] - (np.arange(size) + 0.5 - size / 2) * scale)[:, None]
    picture = np.full((size, size, 3), BACKGROUND, np.uint8)
    for sector, (west, south, east, north) in enumerate(bounds):  # the walls around every sector, then its ground over them
        near = picture[_within(y[:, 0], south - WALL, north + WALL), _within(x[0], west - WALL, east + WALL)]
        near[(near == BACKGROUND).all(axis=-1)] = _texture(worlds, row, sector, CEILING).mean(axis=(0, 1)) * 0.5 + 110
    for sector, (west, south, east, north) in enumerate(bounds):
        rows, columns = _within(y[:, 0], south, north), _within(x[0], west, east)
        ground = _texture(worlds, row, sector, FLOOR)
        v, u = (y[rows, 0] - south) / (north - south), (x[0, columns] - west) / (east - west)
        picture[rows, columns] = ground[_number(v, len(ground))][:, _number(u, ground.shape[1])]
    for disc in range(worlds.discs[row]):
        centre_x, centre_y, radius, height = worlds.disc[row, disc]
        first, texels = worlds.disc_first[row, disc], worlds.disc_shape[row, disc].prod()
        colour = worlds.texels[row, first : first + texels].mean(axis=0)
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


def _within(places: Floats, low: float, high: float) -> slice:
    """Those of ordered places that lie from low to high."""
    inside = np.flatnonzero((places >= low) & (places <= high))
    return slice(inside[0], inside[-1] + 1) if len(inside) else slice(0)


def _number(share: NDArray[np.float64], count: int) -> Integers:
    """The number, of `count`, of what lies at this share of the whole."""
    return np.clip((share * count).astype(np.int64), 0, count - 1)
