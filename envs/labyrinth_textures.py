"""Surfaces of the labyrinth: seeded textures that never repeat, each with its own colours, and what hangs on them.

A texture covers its whole surface once. Its sides are multiples of `BLOCK` texels, so that each of its `LEVELS` mip levels is the exact
mean of 2 x 2 texels of the level before. Noise is a sum of random lattices enlarged by smooth interpolation: two matrix products each.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gtmsm_env.vector import Flags, Floats, Frames

DENSITY = 24  # texels a unit, at least
LEVELS = 5
BLOCK = 2 ** (LEVELS - 1)

Plane = NDArray[np.float64]  # (rows, columns)
Picture = NDArray[np.float64]  # (rows, columns, 3), from 0 to 1


def texels(length: float) -> int:
    """How many texels a surface of this length in units has along it."""
    return int(np.ceil(length * DENSITY / BLOCK)) * BLOCK


def mip_levels(picture: Picture) -> Frames:
    """All levels of a texture, the finest first, one after another: (texels, 3) uint8."""
    levels = [picture]
    for _ in range(LEVELS - 1):
        p = levels[-1]
        levels.append((p[::2, ::2] + p[1::2, ::2] + p[::2, 1::2] + p[1::2, 1::2]) / 4)
    flat = np.concatenate([level.reshape(-1, 3) for level in levels])
    return (np.clip(flat, 0, 1) * 255 + 0.5).astype(np.uint8)


def noise(generator: np.random.Generator, rows: int, columns: int, coarsest: float = 32, fall: float = 0.6) -> Plane:
    """Smooth noise of mean 0 and deviation about 1; octaves from `coarsest` texels down, each `fall` times as strong as the one before."""
    total, strength, power, period = np.zeros((rows, columns)), 1.0, 0.0, coarsest
    while period >= 3:
        down, across = _enlarging(rows, period), _enlarging(columns, period)
        total += strength * (down @ generator.standard_normal((down.shape[1], across.shape[1])) @ across.T)
        power += strength**2
        strength, period = strength * fall, period / 2
    return total / (0.75 * power**0.5)  # the interpolation takes a quarter of the deviation


@lru_cache(maxsize=256)
def _enlarging(length: int, period: float) -> Plane:
    """The matrix (length, points) that interpolates between lattice points `period` apart, with no slope at the points."""
    place = np.arange(length) / period
    left = place.astype(np.int64)
    share = place - left
    share = share * share * (3 - 2 * share)
    matrix = np.zeros((length, left[-1] + 2))
    matrix[np.arange(length), left], matrix[np.arange(length), left + 1] = 1 - share, share
    return matrix


def colours(generator: np.random.Generator, count: int) -> Floats:
    """Colours (count, 3) of one surface: hues near one another, or of a second hue, from dark to bright."""
    hue = generator.random() + 0.12 * generator.standard_normal(count) + (generator.random() < 0.4) * np.arange(count) * 0.37
    saturation = np.clip(generator.uniform(0.15, 0.75) + 0.15 * generator.standard_normal(count), 0.05, 0.95)
    value = generator.permutation(np.linspace(generator.uniform(0.2, 0.5), generator.uniform(0.6, 0.95), count))
    channel = np.clip(np.abs((hue[:, None] + np.array([0, 2 / 3, 1 / 3])) % 1 * 6 - 3) - 1, 0, 1)
    return value[:, None] * (1 - saturation[:, None] * (1 - channel))


def surface(generator: np.random.Generator, height: float, width: float) -> Picture:
    """A texture of a surface of this height and width in units: clouds, blotches, tiles, bricks, planks or diamonds."""
    rows, columns = texels(height), texels(width)
    v, u = (np.arange(rows)[:, None] + 0.5) / rows * height, (np.arange(columns)[None, :] + 0.5) / columns * width
    palette = colours(generator, 4)
    rough, fine = noise(generator, rows, columns), noise(generator, rows, columns, coarsest=10, fall=0.8)
    kind = generator.choice(["clouds", "blotches", "tiles", "bricks", "planks", "diamonds"])
    if kind == "clouds":
        picture = _mixed(palette, 1.5 + 0.9 * rough)
    elif kind == "blotches":
        picture = _mixed(palette, np.floor(1.5 + rough) + np.clip((1.5 + rough) % 1 * 8 - 7, 0, 1))
    elif kind == "diamonds":
        size = generator.uniform(0.35, 0.8)
        wave = np.sin(np.pi * (u + v) / size + 0.5 * rough) * np.sin(np.pi * (u - v) / size + 0.5 * fine)
        picture = _mixed(palette, 1.5 + np.clip(4 * wave, -0.5, 0.5) + 0.7 * rough)
    else:
        tall = {"tiles": generator.uniform(0.3, 0.8), "bricks": generator.uniform(0.18, 0.35), "planks": generator.uniform(1.5, 3)}[kind]
        wide = {"tiles": tall, "bricks": tall * generator.uniform(2, 3), "planks": generator.uniform(0.2, 0.5)}[kind]
        if kind == "planks" and generator.random() < 0.5:
            tall, wide = wide, tall
        picture = _mixed(palette, *_laid(generator, v + 0 * u, u + 0 * v, tall, wide, shifted=kind != "tiles"))
    return picture * np.clip(1 + 0.07 * fine + 0.06 * rough, 0.5, 1.4)[..., None]


def _mixed(palette: Floats, number: Plane, joint: Plane | None = None) -> Picture:
    """Colours between those of a palette: 0 is the first, 2.5 half way from the third to the fourth. Joints are dark."""
    shades = np.linspace(0, len(palette) - 1, 256)
    ramp = np.stack([np.interp(shades, np.arange(len(palette)), channel) for channel in palette.T], axis=1)
    picture: Picture = ramp[np.clip(number * (255 / (len(palette) - 1)), 0, 255).astype(np.uint8)]
    return picture if joint is None else picture * (1 - 0.55 * joint[..., None])


def _laid(generator: np.random.Generator, v: Plane, u: Plane, tall: float, wide: float, shifted: bool) -> tuple[Plane, Plane]:
    """Pieces of `tall` by `wide` units, side by side: the colour number of each, and how much of a joint every texel is."""
    row = v / tall + generator.random()
    line = row.astype(np.int64)
    shift = generator.random(line.max() + 1) if shifted else np.zeros(line.max() + 1)
    column = u / wide + shift[line]
    number = generator.uniform(0, 3, (line.max() + 1, int(column.max()) + 1))[line, column.astype(np.int64)]
    to_edge = np.minimum(np.minimum(row % 1, 1 - row % 1) * tall, np.minimum(column % 1, 1 - column % 1) * wide)
    return number, np.clip(1.2 - to_edge * DENSITY, 0, 1)


def shade_rim(picture: Picture, edges: Sequence[bool] | Flags = (True,) * 4, depth: float = 0.35, reach: float = 0.3) -> None:
    """Darken a surface towards its edges, where it meets others, in place; `reach` in units.

    `edges` says which: where the first columns are, where the last are, the first rows, the last rows.
    """
    rows, columns = picture.shape[:2]
    for length, axis, first in ((rows, 0, 2), (columns, 1, 0)):
        line = np.arange(length) + 0.5
        far = np.minimum(np.where(edges[first], line, np.inf), np.where(edges[first + 1], length - line, np.inf))
        light = 1 - depth * np.exp(-far / (reach * DENSITY))
        picture *= light[:, None, None] if axis == 0 else light[None, :, None]


def shade_foot(picture: Picture, height: float, width: float, x: float, y: float, radius: float) -> None:
    """Darken a floor around what stands on it at (x, y) units, in place."""
    rows, columns = picture.shape[:2]
    v, u = (np.arange(rows)[:, None] + 0.5) / rows * height, (np.arange(columns)[None, :] + 0.5) / columns * width
    beyond = np.maximum(np.hypot(u - x, v - y) - radius, 0)
    picture *= (1 - 0.5 * np.exp(-beyond / 0.12))[..., None]


def shade_round(picture: Picture, ball: bool) -> None:
    """Light a pillar from the east, and a ball from above too, in place; its columns run around it."""
    rows, columns = picture.shape[:2]
    around = 0.75 + 0.25 * np.cos((np.arange(columns) + 0.5) / columns * 2 * np.pi)
    down = np.cos((np.arange(rows) + 0.5) / rows * np.pi) if ball else np.zeros(rows)
    picture *= (around[None, :] * (0.85 + 0.35 * down[:, None]))[..., None]


def hang(picture: Picture, painting: Frames, top: int, left: int, rim: Floats) -> None:
    """Hang a painting (s, s, 3) uint8 in a frame of one colour, in place; top and left in texels."""
    size = len(painting)
    picture[top - 2 : top + size + 2, left - 2 : left + size + 2] = rim
    picture[top : top + size, left : left + size] = painting / 255
