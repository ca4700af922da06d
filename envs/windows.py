"""The geometry of image navigation: a window at the places of a grid laid over a picture."""

from __future__ import annotations

from math import gcd

import numpy as np
from numpy.typing import NDArray

from gtmsm_env.vector import Flags, Frames

RENDER_SIZE = 512  # pixels a side, as near as whole picture pixels allow

Integers = NDArray[np.int64]


def places_a_side(image_size: int, crop_size: int, step_size: int) -> int:
    """Positions of the window along one side; ValueError when the sizes do not fit each other."""
    if min(image_size, crop_size, step_size) < 1 or crop_size >= image_size or (image_size - crop_size) % step_size:
        raise ValueError(
            f"image_size - crop_size must be a positive multiple of step_size, got image_size={image_size}, crop_size={crop_size} and "
            f"step_size={step_size}; try step_size={max(1, gcd(image_size - crop_size, step_size))}"
        )
    return (image_size - crop_size) // step_size + 1


def crops(pictures: Frames, crop_size: int = 8, step_size: int = 3) -> Frames:
    """What is seen from every place of N pictures (N, S, S, 3): (N, P, P, crop_size, crop_size, 3), a copy."""
    windows = np.lib.stride_tricks.sliding_window_view(pictures, (crop_size, crop_size), axis=(1, 2))
    return np.ascontiguousarray(windows[:, ::step_size, ::step_size].transpose(0, 1, 2, 4, 5, 3))


def same_frame(views: Frames, frame: Frames) -> Flags:
    """Where views (N, P, P, c, c, 3) equal the frame (N, c, c, 3) byte for byte: (N, P, P)."""
    flags: Flags = (views == frame[:, None, None]).all(axis=(-3, -2, -1))
    return flags


def pixels_of(places: Flags, image_size: int, crop_size: int = 8, step_size: int = 3) -> Flags:
    """The pixels (..., S, S) that belong to the flagged places (..., P, P): of each the step_size^2 in the middle of its window."""
    side = places.shape[-1]
    place = (np.arange(image_size) - (crop_size - step_size) // 2) // step_size  # of each pixel of a line; the rim belongs to none
    line = np.clip(place, -1, side) % (side + 2)  # -1 and `side` become the two lines of False
    ringed = np.zeros((*places.shape[:-2], side + 2, side + 2), np.bool_)
    ringed[..., :side, :side] = places
    return ringed[..., line[:, None], line]


def outlined(
    picture: Frames, window: Integers, goal: Integers | None, crop_size: int = 8, step_size: int = 3, hatched: Flags | None = None
) -> Frames:
    """The picture (S, S, 3) enlarged by a whole number, the window at (row, column) outlined in white and the goal in yellow.

    `hatched` pixels (S, S) are crossed by black and white stripes.
    """
    scale = max(1, RENDER_SIZE // len(picture))
    canvas = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    if hatched is not None:
        stripe = np.indices(canvas.shape[:2]).sum(axis=0) % 10 // 2  # slanted, of 5 kinds: a black, a white, and three that stay clear
        stripe[~hatched.repeat(scale, axis=0).repeat(scale, axis=1)] = 4
        canvas[stripe == 0], canvas[stripe == 1] = 0, 255
    boxes = [(window, (255, 255, 255))] if goal is None else [(goal, (255, 214, 0)), (window, (255, 255, 255))]
    for place, colour in boxes:
        for inset, ink in ((0, (0, 0, 0)), (1, colour), (2, colour), (3, colour), (4, (0, 0, 0))):
            top, left = place * step_size * scale + inset
            bottom, right = (place * step_size + crop_size) * scale - 1 - inset
            canvas[[top, bottom], left : right + 1] = ink
            canvas[top : bottom + 1, [left, right]] = ink
    return canvas
