"""What could be shown of image navigation without a model of it: oracles that know every true position, and two that know nothing.

Positions are (row, column) of the P x P grid; a frame is (c, c, 3) uint8. Pictures stand still, so what is seen depends on the place alone
and every guess is made once for each place: (W, P, P, c, c, 3).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gtmsm_env.envs.windows import Integers, crops
from gtmsm_env.vector import Flags, Frames


def places_seen(frames: Frames, positions: Integers, side: int) -> tuple[Frames, Flags]:
    """What W walks of T steps have seen of each place (W, P, P, c, c, 3), zeros where they have not been, and where they have (W, P, P).

    frames: (W, T, c, c, 3); positions: (W, T, 2)
    """
    walk = np.arange(len(frames))[:, None]
    views = np.zeros((len(frames), side, side, *frames.shape[2:]), np.uint8)
    seen = np.zeros((len(frames), side, side), np.bool_)
    views[walk, positions[..., 0], positions[..., 1]] = frames
    seen[walk, positions[..., 0], positions[..., 1]] = True
    return views, seen


def nearest_crop(views: Frames, seen: Flags) -> Frames:
    """An oracle memory: of each place, what was seen from the nearest place that has been visited."""
    walks, side = seen.shape[:2]
    grid = np.stack(np.divmod(np.arange(side**2), side), axis=1)
    distance = np.square(grid[:, None] - grid).sum(axis=-1)  # (P * P, P * P)
    nearest = np.where(seen.reshape(walks, 1, -1), distance, np.iinfo(np.int64).max).argmin(axis=-1)  # (W, P * P)
    flat = views.reshape(walks, side**2, *views.shape[3:])
    return flat[np.arange(walks)[:, None], nearest].reshape(views.shape)


def pasted_pixels(views: Frames, seen: Flags, step_size: int, fill: Frames) -> Frames:
    """An oracle that pastes: of each place, the pixels of all remembered crops that overlap it, and those of `fill` (W, c, c, 3) elsewhere.

    Where several crops cover a pixel they agree, the nearest among them.
    """
    (walks, side), size = seen.shape[:2], views.shape[3]
    edge = (side - 1) * step_size + size
    canvas = np.zeros((walks, edge, edge, 3), np.uint8)
    covered = np.zeros((walks, edge, edge, 3), np.uint8)
    for row, column in np.ndindex(side, side):
        there = seen[:, row, column]
        window = (there, slice(row * step_size, row * step_size + size), slice(column * step_size, column * step_size + size))
        canvas[window] = views[there, row, column]
        covered[window] = 1
    return np.where(crops(covered, size, step_size) == 1, crops(canvas, size, step_size), fill[:, None, None])


def at(guesses: Frames, positions: Integers) -> NDArray[np.uint8]:
    """The guesses (W, P, P, c, c, 3) at positions (W, H, 2): (W, H, c, c, 3)."""
    return guesses[np.arange(len(guesses))[:, None], positions[..., 0], positions[..., 1]]
