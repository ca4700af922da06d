"""What could be shown of image navigation without a model of it: oracles that know every true position, and two that know nothing.

Positions are (row, column) of the P x P grid; a frame is (c, c, 3) uint8. Pictures stand still, so what is seen depends on the place alone
and every guess is made once for each place: (W, P, P, c, c, 3).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gtmsm_env.envs.windows import Integers, crops
from gtmsm_env.networks import frames_to_x, x_to_frames
from gtmsm_env.perspective import Camera, covering, relative, sample
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


# -------------------------------------------------------------------- first person: poses (W, T, 3), frames (W, T, h, w, 3) uint8


def nearest_view(frames: Frames, seen_from: NDArray[np.floating], at: NDArray[np.floating]) -> Frames:
    """An oracle memory: at places `at` (W, H, m), the frame that was seen from the nearest of `seen_from` (W, T, m)."""
    nearest = np.stack([np.square(a[:, None] - b).sum(axis=-1).argmin(axis=-1) for a, b in zip(at, seen_from, strict=True)])
    return frames[np.arange(len(frames))[:, None], nearest]


def composed(
    frames: Frames, poses: Tensor, depths: Tensor, at: Tensor, depths_at: Tensor, camera: dict[str, float], K: int = 8
) -> tuple[Frames, NDArray[np.float64]]:
    """An oracle that composes: at poses `at` (W, H, 3), every pixel carried over by true depth from the K views that cover most.

    depths, depths_at: (W, T, w), (W, H, w) true depth of every column. Of the views that show a pixel, the nearer count more; where none
    does, all count. Returns frames (W, H, h, w, 3), and what share of each some view shows (W, H).
    """
    lens = Camera(frames.shape[-2], **camera)
    shown, share = [], []
    for x, pose, depth, there, depth_there in zip(frames, poses, depths, at, depths_at, strict=True):
        views = frames_to_x(torch.from_numpy(x))
        which = covering(lens, pose[None], torch.ones(1, 1, len(pose), dtype=torch.bool), there[None], K, depth[None])[0]  # (H, K)
        far = torch.minimum(depth_there[:, None, None, :], lens.ground[:, None])  # (H, 1, h, w)
        ahead, left = lens.seen_from(relative(there[:, None], pose[which])[..., None, None, :], lens.aside, far)
        column, row = lens.pixels(ahead, left, lens.height + lens.slope[:, None] * far)
        nearest = (column + 0.5).long().clamp(0, lens.size - 1)
        wall = depth[which][..., None, :].expand_as(ahead).take_along_dim(nearest, dim=-1)
        visible = (ahead > 0.1) & (lens.outside(column, row) < 0.5) & (ahead < wall * 1.1 + 0.1)
        away = relative(there[:, None], pose[which])[..., :2].norm(dim=-1)[..., None, None]
        weight = (visible + 1e-6) * torch.exp(-3 * away - (ahead.clamp(min=0.1) / far).log().abs() * 3)
        seen = sample(views[which], column, row)
        blended = (weight[:, :, None] * seen).sum(dim=1) / weight.sum(dim=1)[:, None]
        shown.append(x_to_frames(blended).numpy())
        share.append(visible.any(dim=1).double().mean(dim=(-1, -2)).numpy())
    return np.stack(shown), np.stack(share)
