"""DeepMind Lab's own textures and maze layouts, from the package `labmaze`, for the labyrinth."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gtmsm_env.envs.labyrinth_textures import Picture, texels

Kind = Literal["wall", "floor", "ceiling"]

TILE, SKY = 4 / 3, 4.0  # units that a picture is wide, about, and one of the sky; on walls it is as high as they are
PIXELS = 128  # kept of its 1024 a side, still four times finer than texels


def open_labmaze() -> Any:
    """The package `labmaze`. ModuleNotFoundError says what to install where it, or what reads its pictures, is missing."""
    if find_spec("labmaze") is None or find_spec("PIL") is None:
        raise ModuleNotFoundError(
            "layout='maze' and textures='lab' take DeepMind Lab's mazes and textures from the package labmaze, which is made for Python up "
            "to 3.12: pip install 'gtmsm-env[labmaze]'"
        )
    import labmaze.assets

    return labmaze


def lab_surface(generator: np.random.Generator, height: float, width: float, kind: Kind) -> Picture:
    """One of DeepMind Lab's pictures of this kind, side by side over a surface of this height and width in units.

    Ceilings are panels, or the top of a sky.
    """
    from PIL import Image

    paths = _pictures(kind)
    path = paths[generator.integers(len(paths))]
    tile = SKY if path.parent.name.startswith("sky") else TILE
    down = 1 if kind == "wall" else max(1, round(height / tile))
    whole = Image.fromarray(np.tile(_read(path), (down, max(1, round(width / tile)), 1)))
    return np.asarray(whole.resize((texels(width), texels(height)), Image.Resampling.BOX)) / 255


@lru_cache
def _pictures(kind: Kind) -> list[Path]:
    """The files of all styles, in an order that does not depend on the machine."""
    assets = open_labmaze().assets
    if kind == "ceiling":
        panels = [Path(assets.ROOT_DIR) / "style_01" / name for name in ("ceiling_d.png", "4tile_d.png")]
        return panels + [Path(assets.get_sky_texture_paths(style).up) for style in assets.SKY_STYLES]
    paths_of = assets.get_wall_texture_paths if kind == "wall" else assets.get_floor_texture_paths
    return [Path(path) for style in assets.MAZE_STYLES for _, path in sorted(paths_of(style).items())]


@lru_cache(maxsize=128)
def _read(path: Path) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(path) as file:  # through RGBA, as some colours are half transparent, with nothing behind
        return np.asarray(file.convert("RGBA").convert("RGB").resize((PIXELS, PIXELS), Image.Resampling.BOX))
