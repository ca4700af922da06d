"""Mazes of the labyrinth: DeepMind Lab's layouts, one sector a cell, with rooms of several cells that are joined by corridors.

Walls are painted in one piece however many cells they run along; so are the floor and the ceiling of each room, and of all corridors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gtmsm_env.envs.labyrinth_lab import open_labmaze
from gtmsm_env.envs.labyrinth_rooms import ACROSS, CELL, FLOOR, GROUNDS, HEIGHT, MAZE, SIDES, SOUTH, Integers, Painter, Rooms, stand
from gtmsm_env.envs.labyrinth_textures import shade_rim, texels

Letters = NDArray[np.str_]

TEXELS = texels(CELL)  # texels that a cell is wide
DISCS = 2  # pillars and balls a room, at most and on average: only where all eight cells around are open


def lay_out(world: Rooms, generator: np.random.Generator, seed: int, rooms: int) -> tuple[Integers, Letters]:
    """The maze of a seed, with up to so many rooms, then pillars and balls.

    Returns where the sectors lie, (S, 2) cells to the east and north, and the letter of the room each is part of, (S,), "." in corridors.
    """
    maze = open_labmaze().RandomMaze(height=MAZE, width=MAZE, max_rooms=rooms, random_seed=seed)
    symbols, letters = (np.asarray(layer)[::-1].T for layer in (maze.entity_layer, maze.variations_layer))  # by x and y, not north first
    free = symbols != "*"
    number = np.where(free, free.cumsum().reshape(free.shape) - 1, -1)
    cells = np.argwhere(free)
    world.sectors[0] = len(cells)
    lines = np.arange(MAZE + 1) * CELL  # so that cells share their sides to the last bit
    for sector, (x, y) in enumerate(cells):
        world.bounds[0, sector] = lines[[x, y, x + 1, y + 1]]
        world.beyond[0, sector] = [number[x + dx, y + dy] for dx, dy in ACROSS]
        world.opening[0, sector] = lines[[[y, y + 1]] * 2 + [[x, x + 1]] * 2]
    inner = [sector for sector, (x, y) in enumerate(cells) if free[x - 1 : x + 2, y - 1 : y + 2].all()]
    for sector in generator.permutation(inner).tolist()[: DISCS * rooms]:
        stand(world, generator, sector, pillar=generator.random() < 0.5)
    return cells, letters[free]


def paint(world: Rooms, painter: Painter, cells: Integers, letters: Letters) -> None:
    """Paint the surfaces of a maze that is laid out, and hang pictures on long walls."""
    number = np.full((MAZE, MAZE), -1)
    number[tuple(cells.T)] = np.arange(len(cells))
    for side in range(FLOOR):
        for line in number if side < SOUTH else number.T:
            run: list[int] = []  # sectors along one wall
            for sector in line.tolist():  # the last is of the rim
                if sector >= 0 and world.beyond[0, sector, side] < 0:
                    run.append(sector)
                elif run:
                    wall = painter.wall(len(run) * CELL)
                    if len(run) * CELL >= SIDES[0]:
                        painter.hang_pictures(wall)
                    for sector, part in zip(run, np.split(wall, len(run), axis=1), strict=True):
                        painter.store(part, sector, side)
                    run = []
    drawn = world.shape[0, :, :4].any(axis=-1)
    world.shape[0, :, :4][~drawn] = texels(HEIGHT), TEXELS  # a ray exactly through a corner meets the first wall
    for letter in sorted(set(letters)):
        group = np.flatnonzero(letters == letter)
        low = cells[group].min(axis=0)
        width, height = (cells[group].max(axis=0) + 1 - low) * CELL
        for level, kind in GROUNDS:
            whole = painter.surface(height, width, kind)
            for sector in group.tolist():
                x, y = (cells[sector] - low) * TEXELS
                ground = whole[y : y + TEXELS, x : x + TEXELS].copy()
                shade_rim(ground, world.beyond[0, sector] < 0)
                painter.shade_feet(ground, sector, level)
                painter.store(ground, sector, level)
