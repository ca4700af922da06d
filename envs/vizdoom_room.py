"""Rooms for ViZDoom: drawn from a seed, and written as the map of a file that Doom engines read.

x points east and y north, headings turn from east over north; lengths are in units, of which one is UNIT of Doom's. The engine draws what
is upright 1.2 times as high as it is (pixels were once taller than wide), so heights are given here as they are seen.

A map is text in the Universal Doom Map Format (UDMF 1.1, namespace "zdoom"); the engine builds the nodes that it needs by itself. A WAD
file is a header, the parts ("lumps"), and a directory that says where each lies.
"""

from __future__ import annotations

import math
import struct
from typing import Any, NamedTuple

import numpy as np

from gtmsm_env.envs.procedural import LENGTHS, SPLITS
from gtmsm_env.vector import Floats

UNIT = 80  # Doom's units in one of ours
STRETCH = 1.2
RADIUS = 16 / UNIT  # of the agent, whose ground is a square of twice that a side
CAMERA_HEIGHT = 41 * STRETCH / UNIT  # .615
HEIGHT = 1.5  # of every wall
SIDES = (3.5, 5.5)  # of rooms: shortest and longest
PANELS = 3  # of every wall, side by side
BYTES = 8192  # of every map: the engine learns its length once

TEXTURES = tuple(  # of freedoom2.wad, 128 x 128 texels each, that do not move
    """
    A-TILE A-VINES AQCONC03 AQCONC04 AQDOOR01 AQMETL04 AQPANL02 BIGDOOR2 BIGDOOR4 BIGDOOR7 BRICK5 BRNPOIS BROWN1 BROWN144 BROWNPIP CEMENT1
    CEMENT2 CEMENT5 CEMPOIS COMPOHSO COMPSTA1 COMPSTA2 GRAYTALL GRAYTALG LITEMET MARBFAC2 MARBFAC3 MARBFACE MARBLE1 NUKEPOIS PLAT1 REDWALL
    ROCK4 ROCK5 SHAWN1 SKIN2 SKSPINE1 SLIME1 SLIME3 SP_ROCK1 STARBR2 STARG2 STARGR2 STARTAN3 STONE3 STONGARG TEKBRON1 TEKWALL1 TEKWALL4
    WOOD10 ZDOORB1 ZELDOOR ZZWOLF1 ZZWOLF2 ZZWOLF3 ZZWOLF4 ZZWOLF6 ZZWOLF7 ZZWOLF9 ZZWOLF11 ZZWOLF12 ZZWOLF13
    """.split()
)
TEXELS = 128


class Room(NamedTuple):
    """A rectangle from (0, 0) to `size`, and the textures of its floor, its ceiling, and its walls' panels from west over north."""

    size: tuple[float, float]  # east-west, south-north
    textures: tuple[str, ...]  # 2 + 4 PANELS

    def anywhere(self, generator: np.random.Generator) -> Floats:
        """A pose (x, y, heading) drawn from all those of an agent that touches nothing."""
        return generator.uniform([RADIUS, RADIUS, 0], [self.size[0] - RADIUS, self.size[1] - RADIUS, 2 * np.pi])

    def depths(self, pose: Floats, size: int, field_of_view: float) -> Floats:
        """How deep the walls lie in every column of a frame (size,) that is seen from poses (..., 3): (..., size) units."""
        aside = np.tan(np.radians(field_of_view) / 2) * (1 - (2 * np.arange(size) + 1) / size)  # to the left, of every unit ahead
        x, y, heading = np.moveaxis(np.asarray(pose)[..., None], -2, 0)
        along = np.cos(heading) - aside * np.sin(heading), np.sin(heading) + aside * np.cos(heading)
        with np.errstate(divide="ignore"):  # a wall that is never met is infinitely deep
            walls = [np.where(way > 0, side - at, -at) / way for at, side, way in zip((x, y), self.size, along, strict=True)]
        return np.minimum(*(np.abs(wall) for wall in walls))

    def clearance(self, x: float, y: float) -> float:
        """Distance from a place to the nearest wall; negative outside."""
        return min(x, self.size[0] - x, y, self.size[1] - y)


def build(split: str, number: int) -> Room:
    """Room `number` of a split. ValueError for a number out of range."""
    if not 0 <= number < LENGTHS[split]:
        raise ValueError(f"the rooms of split {split!r} are numbered 0 to {LENGTHS[split] - 1}, got {number}")
    generator = np.random.default_rng([SPLITS[split], number])
    width, depth = generator.uniform(*SIDES, 2).tolist()
    return Room((width, depth), tuple(generator.choice(TEXTURES, 2 + 4 * PANELS, replace=False).tolist()))


def wad(room: Room, start: Floats) -> bytes:
    """A WAD file of one map, MAP01: the room, and an agent at a pose (x, y, heading), which the engine takes in whole degrees."""
    width, depth = (side * UNIT for side in room.size)
    height = round(HEIGHT / STRETCH * UNIT)  # the format takes whole heights
    corners = [(0, 0), (0, depth), (width, depth), (width, 0)]
    floor, ceiling, *walls = room.textures
    angle = round(math.degrees(start[2])) % 360
    skills = {f"skill{skill}": True for skill in range(1, 6)}
    text = 'namespace = "zdoom";'
    text += _block("thing", x=start[0] * UNIT, y=start[1] * UNIT, angle=angle, type=1, single=True, **skills)
    text += _block("sector", heightfloor=0, heightceiling=height, texturefloor=floor, textureceiling=ceiling, lightlevel=255, **{
        f"{axis}scale{where}": TEXELS / side for where in ("floor", "ceiling") for axis, side in (("x", width), ("y", depth))
    })  # fmt: skip
    for panel, texture in enumerate(walls):  # clockwise, so that the room lies to their right
        (x0, y0), (x1, y1) = corners[panel // PANELS], corners[(panel // PANELS + 1) % 4]
        share = panel % PANELS / PANELS
        text += _block("vertex", x=x0 + share * (x1 - x0), y=y0 + share * (y1 - y0))
        text += _block("linedef", v1=panel, v2=(panel + 1) % len(walls), sidefront=panel, blocking=True)
        scale = TEXELS / math.hypot(x1 - x0, y1 - y0) * PANELS
        text += _block("sidedef", sector=0, texturemiddle=texture, scalex_mid=scale, scaley_mid=TEXELS / height)
    lumps = [("MAP01", b""), ("TEXTMAP", text.encode().ljust(BYTES)), ("ENDMAP", b"")]
    directory, at = b"", 12
    for name, lump in lumps:
        directory += struct.pack("<ii8s", at, len(lump), name.encode())
        at += len(lump)
    return struct.pack("<4sii", b"PWAD", len(lumps), at) + b"".join(lump for _, lump in lumps) + directory


def _block(kind: str, **values: Any) -> str:
    """One block of a map: numbers as they are, names in quotes."""
    words = {key: f'"{value}"' if isinstance(value, str) else str(value).lower() for key, value in values.items()}
    return f"{kind} {{ {' '.join(f'{key} = {word};' for key, word in words.items())} }}\n"
