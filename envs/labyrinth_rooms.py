"""Rooms of the labyrinth: what stands where, and how it is painted, as plain arrays.

The ground is laid out in *sectors*, rectangles whose sides are walls: rooms and corridors, or the cells of a maze. A side may have one
opening that leads on to another sector: a door, a mouth of a corridor, or, where the opening is as long as the side, nothing at all.
Pillars and balls are *discs* on the ground of one sector. x points east and y north, headings turn from east over north, and z points up
from the floor; all in units.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gtmsm_env.envs.labyrinth_lab import Kind, lab_surface
from gtmsm_env.envs.labyrinth_textures import BLOCK, Picture, colours, hang, mip_levels, shade_foot, shade_rim, shade_round, surface, texels
from gtmsm_env.envs.procedural import LENGTHS, SPLITS
from gtmsm_env.envs.procedural import paint as paint_pictures
from gtmsm_env.vector import Flags, Floats, Frames

HEIGHT = 1.5  # of every wall
SIDES = (3.5, 5.5)  # of rooms: shortest and longest
PITCH = 6.25  # between the middles of neighbouring rooms
CORRIDOR = (0.9, 1.2)  # width
RADIUS = 0.2  # of the agent, a disc
PASSAGE = 2 * RADIUS + 0.15  # left free between any two things, so that the agent can walk around each of them
MOST_DISCS = 6  # pillars and balls of a room
WEST, EAST, SOUTH, NORTH, FLOOR, CEILING = range(6)  # the surfaces of a sector
GROUNDS: tuple[tuple[int, Kind], ...] = ((FLOOR, "floor"), (CEILING, "ceiling"))
ACROSS = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])  # where the sides lie
ALONG = np.array([[1, 3], [1, 3], [0, 2], [0, 2]])  # the bounds from and to which they run
MAZE, CELL = 11, 4 / 3  # cells of a maze a side, its rim of walls included, and their side in units, a whole number of `BLOCK`s of texels

Integers = NDArray[np.int64]


class Rooms(NamedTuple):
    """The worlds of N rows: up to S sectors, D discs and T texels each. A texture is `first`, its first texel, and `shape`."""

    sectors: Integers  # (N,) how many there are
    bounds: Floats  # (N, S, 4) west, south, east, north
    opening: Floats  # (N, S, 4, 2) of each side, from and to, along y for west and east, along x for south and north
    beyond: Integers  # (N, S, 4) the sector that the opening of a side leads to, -1 where there is none
    first: Integers  # (N, S, 6) of the four walls, floor and ceiling
    shape: Integers  # (N, S, 6, 2) rows and columns
    discs: Integers  # (N,) how many there are
    disc: Floats  # (N, D, 4) x, y, radius, and the height of a ball's middle; 0 for a pillar, which reaches from floor to ceiling
    disc_sector: Integers  # (N, D)
    disc_first: Integers  # (N, D)
    disc_shape: Integers  # (N, D, 2)
    texels: Frames  # (N, T, 3) all textures of a row with their mip levels

    @staticmethod
    def empty(rows: int, most: int, layout: str = "rooms") -> Rooms:
        """Space for worlds of up to `most` rooms."""
        corridors = most * (most - 1) // 2 if most < 4 else 2 * most  # of rooms on a square grid
        S, D = most + corridors, most * MOST_DISCS
        discs, side = D * texels(2.2) * texels(HEIGHT), texels(SIDES[1])
        room = 2 * side**2 + 4 * side * texels(HEIGHT)
        corridor = 2 * texels(PITCH - SIDES[0]) * (texels(CORRIDOR[1]) + 2 * texels(HEIGHT))
        T = most * room + corridors * corridor + discs
        if layout == "maze":
            S = (MAZE - 2) ** 2
            T = 2 * S * texels(CELL) ** 2 + (2 * S + 2) * texels(CELL) * texels(HEIGHT) + discs  # all cells hang together
        integers, floats = np.int64, np.float64
        return Rooms(
            sectors=np.zeros(rows, integers),
            bounds=np.zeros((rows, S, 4), floats),
            opening=np.zeros((rows, S, 4, 2), floats),
            beyond=np.full((rows, S, 4), -1, integers),
            first=np.zeros((rows, S, 6), integers),
            shape=np.zeros((rows, S, 6, 2), integers),
            discs=np.zeros(rows, integers),
            disc=np.zeros((rows, D, 4), floats),
            disc_sector=np.zeros((rows, D), integers),
            disc_first=np.zeros((rows, D), integers),
            disc_shape=np.zeros((rows, D, 2), integers),
            texels=np.zeros((rows, T * 4 // 3 + 1, 3), np.uint8),
        )

    def put(self, rows: Integers, others: Rooms) -> None:
        """Copy these worlds into some rows."""
        fields: Iterable[tuple[NDArray[Any], NDArray[Any]]] = zip(self, others, strict=True)
        for mine, theirs in fields:
            mine[rows] = theirs

    def take(self, rows: Integers) -> Rooms:
        """A copy of the worlds of some rows."""
        fields: Iterable[NDArray[Any]] = self
        return Rooms._make(field[rows] for field in fields)

    def sector_at(self, row: int, x: float, y: float) -> int:
        """The sector that a place lies in, -1 for none."""
        west, south, east, north = self.bounds[row, : self.sectors[row]].T
        inside = np.flatnonzero((west <= x) & (x <= east) & (south <= y) & (y <= north))
        return int(inside[0]) if len(inside) else -1

    def walls(self, row: int) -> Floats:
        """Every piece of wall, (W, 4), from (x, y) to (x, y), what openings leave of a side included."""
        n = self.sectors[row]
        bounds, opening = self.bounds[row, :n], self.opening[row, :n]
        low, high = bounds[:, ALONG[:, 0]], bounds[:, ALONG[:, 1]]
        shut = self.beyond[row, :n] < 0
        starts = np.stack([low, np.where(shut, high, opening[..., 1])])  # (2, n, 4) before and after the opening
        ends = np.stack([np.where(shut, high, opening[..., 0]), high])
        line = np.broadcast_to(bounds[:, [0, 2, 1, 3]], starts.shape)
        upright = np.broadcast_to(np.arange(4) < SOUTH, starts.shape)
        pieces = np.where(upright, [line, starts, line, ends], [starts, line, ends, line])
        return pieces[:, ends > starts].T

    def wide(self, row: int, sector: int) -> Flags:
        """The sides (4,) that are open along their whole length, here and beyond: no wall is left of them, as between cells of a maze."""
        beyond, sides = self.beyond[row, sector], np.arange(4)[:, None]
        own, theirs = self.bounds[row, sector][ALONG], self.bounds[row, beyond][sides, ALONG]
        flags: Flags = (beyond >= 0) & (self.opening[row, sector] == own).all(axis=1) & (own == theirs).all(axis=1)
        return flags

    def clearance(self, row: int, x: float, y: float) -> float:
        """Distance from a place to the nearest wall or door of its sector, or disc; negative inside a disc, -1 outside all sectors."""
        sector = self.sector_at(row, x, y)
        if sector < 0:
            return -1.0
        west, south, east, north = self.bounds[row, sector]
        disc, wide = self.disc[row, : self.discs[row]], self.wide(row, sector)
        near = np.array([x - west, east - x, y - south, north - y])[~wide]
        if wide.any():  # walls of the sectors beyond
            x0, y0, x1, y1 = self.walls(row).T
            near = np.append(near, np.hypot(x - np.clip(x, x0, x1), y - np.clip(y, y0, y1)))
        return float(min([*near, *(np.hypot(disc[:, 0] - x, disc[:, 1] - y) - disc[:, 2])]))

    def anywhere(self, row: int, generator: np.random.Generator) -> Floats:
        """A pose (x, y, heading) drawn from all those of an agent that touches nothing."""
        west, south, east, north = self.bounds[row, : self.sectors[row]].T
        share = ((east - west) * (north - south)).cumsum()
        while True:  # most of every room is free
            sector = int(np.searchsorted(share / share[-1], generator.random()))
            x, y, heading = generator.uniform([west[sector], south[sector], 0], [east[sector], north[sector], 2 * np.pi])
            if self.clearance(row, x, y) > RADIUS:
                return np.array([x, y, heading])

    def way(self, row: int, start: Floats, goal: Floats) -> list[Floats]:
        """Places (x, y) to pass from start to goal through the fewest sectors, the goal last. Pillars are not looked at."""
        here, there = (self.sector_at(row, *place[:2]) for place in (start, goal))
        after, queue = {there: (-1, goal[:2])}, [there]
        while here not in after:
            sector = queue.pop(0)
            for side in range(4):
                beyond = int(self.beyond[row, sector, side])
                if beyond >= 0 and beyond not in after:
                    after[beyond] = (sector, self._middle(row, sector, side))
                    queue.append(beyond)
        places, sector = [], here
        while sector >= 0:
            sector, place = after[sector]
            places.append(place)
        return places

    def _middle(self, row: int, sector: int, side: int) -> Floats:
        """The middle of an opening."""
        along, across = self.opening[row, sector, side].mean(), self.bounds[row, sector, (0, 2, 1, 3)[side]]
        return np.array([across, along] if side < SOUTH else [along, across])


def build(split: str, number: int, rooms: Sequence[int] = (1, 1), layout: str = "rooms", textures: str = "procedural") -> Rooms:
    """World `number` of a split, one row: a function of these, the fewest and most rooms, layout and textures alone.

    No two splits share a seed.
    """
    if not 0 <= number < LENGTHS[split]:
        raise ValueError(f"rooms of {split} are numbered 0 to {LENGTHS[split] - 1}, got {number}")
    generator = np.random.default_rng([len(SPLITS) + SPLITS[split], number])  # pictures have the seeds before
    world = Rooms.empty(1, rooms[1], layout)
    painter = Painter(world, generator, split, textures)
    count = int(generator.integers(rooms[0], rooms[1] + 1))
    if layout == "maze":
        from gtmsm_env.envs import labyrinth_maze  # which imports this module

        cells, places = labyrinth_maze.lay_out(world, generator, SPLITS[split] * max(LENGTHS.values()) + number, count)
        labyrinth_maze.paint(world, painter, cells, places)
    else:
        _lay_out(world, generator, count)
        _paint(world, painter)
    painter.discs()
    return world


def _lay_out(world: Rooms, generator: np.random.Generator, count: int) -> None:
    """Rooms on a square grid, corridors between all that are neighbours, then pillars and balls."""
    grid = int(np.ceil(count**0.5))
    cells = [divmod(cell, grid) for cell in range(count)]
    for room, cell in enumerate(cells):
        size = generator.uniform(*SIDES, 2)
        middle = PITCH * np.array(cell) + generator.uniform(-0.5, 0.5, 2) * (SIDES[1] - size)
        world.bounds[0, room] = [*(middle - size / 2), *(middle + size / 2)]
    sectors = count
    for one, cell in enumerate(cells):
        for side in (EAST, NORTH):
            beside = (cell[0] + ACROSS[side, 0], cell[1] + ACROSS[side, 1])
            if beside in cells:
                _dig(world, generator, one, cells.index(beside), side, PITCH * cell[side == EAST], sectors)
                sectors += 1
    world.sectors[0] = sectors
    for room in range(count):
        for disc in range(generator.integers(1, MOST_DISCS)):
            stand(world, generator, room, pillar=disc < 2 and generator.random() < 0.6)


def _dig(world: Rooms, generator: np.random.Generator, one: int, other: int, side: int, middle: float, sector: int) -> None:
    """A corridor that leaves room `one` through the middle of its east or north side, straight to `other`."""
    low, high = (
        (world.bounds[0, one, 2], world.bounds[0, other, 0]) if side == EAST else (world.bounds[0, one, 3], world.bounds[0, other, 1])
    )
    middle, half = middle + generator.uniform(-0.1, 0.1), generator.uniform(*CORRIDOR) / 2
    near, far = middle - half, middle + half
    world.bounds[0, sector] = [low, near, high, far] if side == EAST else [near, low, far, high]
    world.opening[0, [one, other, sector, sector], [side, side - 1, side - 1, side]] = near, far
    world.beyond[0, [one, other, sector, sector], [side, side - 1, side - 1, side]] = sector, sector, one, other


def stand(world: Rooms, generator: np.random.Generator, room: int, pillar: bool) -> None:
    """Stand a pillar or a ball where there is space for it and around it."""
    radius = generator.uniform(0.18, 0.32) if pillar else generator.uniform(0.12, 0.24)
    height = 0.0 if pillar else generator.choice([radius, generator.uniform(0.35, 0.95)])
    west, south, east, north = world.bounds[0, room]
    sides = np.flatnonzero(world.beyond[0, room] >= 0)
    free = np.where(world.wide(0, room)[sides], 1.25 * RADIUS, 1.0)  # to keep around the middles of openings, where ways lead
    middles = np.array([world._middle(0, room, side) for side in sides.tolist()]).reshape(-1, 2)
    for _ in range(20):
        x, y = generator.uniform([west, south], [east, north])
        passable = (np.hypot(*(middles - [x, y]).T) >= radius + free).all()
        inside = min(x - west, east - x, y - south, north - y) >= radius  # as rays look for it in this sector alone
        if inside and world.clearance(0, x, y) >= radius + PASSAGE and passable:
            disc = world.discs[0]
            world.disc[0, disc], world.disc_sector[0, disc] = (x, y, radius, height), room
            world.discs[0] += 1
            return


class Painter:
    """Paints the surfaces of a world that is laid out, one row, one after another."""

    def __init__(self, world: Rooms, generator: np.random.Generator, split: str, textures: str) -> None:
        self.world, self.generator, self.split, self.lab, self.used = world, generator, split, textures == "lab", 0

    def surface(self, height: float, width: float, kind: Kind) -> Picture:
        """A surface of this height and width in units."""
        return lab_surface(self.generator, height, width, kind) if self.lab else surface(self.generator, height, width)

    def wall(self, width: float) -> Picture:
        """A wall, dark towards its edges."""
        wall = self.surface(HEIGHT, width, "wall")
        shade_rim(wall)
        return wall

    def store(self, picture: Picture, sector: int, side: int) -> None:
        """Keep what a surface of a sector looks like."""
        self._store(picture, self.world.first[0, sector, side, None], self.world.shape[0, sector, side])

    def _store(self, picture: Picture, first: Integers, shape: Integers) -> None:
        levels = mip_levels(picture)
        first[:], shape[:] = self.used, picture.shape[:2]
        self.world.texels[0, self.used : self.used + len(levels)] = levels
        self.used += len(levels)

    def shade_feet(self, ground: Picture, sector: int, level: int) -> None:
        """Darken the floor or ceiling of a sector around the discs that touch it, in place."""
        west, south, east, north = self.world.bounds[0, sector]
        for (x, y, radius, height), home in zip(self.world.disc[0], self.world.disc_sector[0, : self.world.discs[0]], strict=False):
            if home == sector and (height == 0 or (level == FLOOR and height == radius)):
                shade_foot(ground, north - south, east - west, x - west, y - south, radius)

    def discs(self) -> None:
        """Paint pillars and balls."""
        for disc in range(self.world.discs[0]):
            radius, height = self.world.disc[0, disc, 2:]
            tall, round_ = (HEIGHT, 2 * np.pi * radius) if height == 0 else (np.pi * radius, 2 * np.pi * radius)
            skin = self.surface(tall, round_, "wall")
            shade_round(skin, ball=height > 0)
            self._store(skin, self.world.disc_first[0, disc, None], self.world.disc_shape[0, disc])

    def hang_pictures(self, wall: Picture) -> None:
        """Up to two of the procedural pictures of the same split, in frames, in place."""
        generator = self.generator
        count = generator.integers(3)
        sizes = generator.integers(BLOCK, wall.shape[0] - 12, count)
        numbers = generator.integers(LENGTHS[self.split], size=count)
        for place, (size, number) in enumerate(zip(sizes.tolist(), numbers.tolist(), strict=True)):
            half = wall.shape[1] // 2
            left = place * half + int(generator.integers(4, half - size - 4))
            top = int(generator.integers(4, wall.shape[0] - size - 4))
            hang(wall, paint_pictures(self.split, [number], size)[0], top, left, colours(generator, 2)[0])


def _paint(world: Rooms, painter: Painter) -> None:
    """Paint the walls, floors and ceilings of rooms and corridors, and hang pictures on the walls of rooms."""
    for sector in range(world.sectors[0]):
        west, south, east, north = world.bounds[0, sector]
        for side in (WEST, EAST, SOUTH, NORTH):
            width = north - south if side < SOUTH else east - west
            wall = painter.wall(width)
            if world.beyond[0, sector, side] < 0 and width >= SIDES[0]:
                painter.hang_pictures(wall)
            painter.store(wall, sector, side)
        for level, kind in GROUNDS:
            ground = painter.surface(north - south, east - west, kind)
            shade_rim(ground)
            painter.shade_feet(ground, sector, level)
            painter.store(ground, sector, level)
