"""How a camera sees a place in first person: the geometry that all views of one place share.

The camera looks horizontally, at one height over a flat floor and under a flat ceiling, and what stands between them stands upright: so
one depth a column of the frame, of the first wall along it, tells where every pixel of that column lies. A pose is a state (x, y,
heading); depth is measured along the direction of view; all in the unit of the state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtmsm_env.loops import loops_for
from gtmsm_env.types import result_of

NEAREST, FARTHEST = 0.2, 8.0  # depths that are told apart
FAR = 2.0  # how deep everything is taken to lie where nothing tells
AT_ONCE = 16  # poses or views that a core works on: what they take in between is a few megabytes


class Camera(nn.Module):
    """A pinhole camera of square pixels.

    Args:
        size: pixels a side of the frame
        field_of_view: degrees from its left edge to its right
        height: of the camera over the floor
        ceiling: over the floor
    """

    def __init__(self, size: int, field_of_view: float, height: float, ceiling: float) -> None:
        super().__init__()
        self.size, self.height, self.ceiling = size, height, ceiling
        self.focal = size / 2 / math.tan(math.radians(field_of_view) / 2)  # pixels
        aside = (torch.arange(size) + 0.5 - size / 2) / self.focal
        slope = -aside
        ground = torch.where(slope < 0, height / -slope, (ceiling - height) / slope.clamp(min=1e-6))
        self.aside: Tensor  # (W,) how far to the right a column leads for each unit ahead
        self.slope: Tensor  # (H,) how far up a row leads
        self.ground: Tensor  # (H,) the depth at which a row meets floor or ceiling
        self.compared: Tensor  # (4,) depths at which it is counted how much of one view another covers
        values = {"aside": aside, "slope": slope, "ground": ground, "compared": torch.tensor([0.6, 1.2, 2.4, 4.0])}
        for name, value in values.items():
            self.register_buffer(name, value, persistent=False)

    def seen_from(self, pose: Tensor, aside: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        """Where points lie that are seen from `pose` (*B, 3) at a depth of columns `aside`, in the frame that poses are told in: (*B) each.

        aside, depth: (*B) or what broadcasts
        """
        cos, sin = pose[..., 2].cos(), pose[..., 2].sin()
        return pose[..., 0] + depth * (cos + aside * sin), pose[..., 1] + depth * (sin - aside * cos)

    def pixels(self, ahead: Tensor, left: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        """Column and row, counted from the middle of the first pixel, at which a point is seen: (*B) each."""
        ahead = ahead.clamp(min=0.1)
        middle = self.size / 2 - 0.5
        return middle - self.focal * left / ahead, middle - self.focal * (up - self.height) / ahead

    def outside(self, column: Tensor, row: Tensor) -> Tensor:
        """By how many pixels a point lies outside the frame, (*B); 0 inside."""
        middle = self.size / 2 - 0.5
        return (torch.maximum((column - middle).abs(), (row - middle).abs()) - middle).clamp(min=0)


def relative(pose: Tensor, to: Tensor) -> Tensor:
    """A pose (*B, 3) as it is seen from another: ahead, to the left, turned to the left."""
    cos, sin = to[..., 2].cos(), to[..., 2].sin()
    x, y = pose[..., 0] - to[..., 0], pose[..., 1] - to[..., 1]
    return torch.stack([cos * x + sin * y, cos * y - sin * x, pose[..., 2] - to[..., 2]], dim=-1)


def carried(camera: Camera, views: Tensor, pose: Tensor, depth: Tensor | float) -> tuple[Tensor, Tensor]:
    """Views (*B, C, H, W) as they would be seen at a pose that is seen from theirs (*B, 3), if what is seen there lies at `depth`.

    depth: (H, W), or what broadcasts; for a mere turn none matters. Returns the views, and which of their pixels are shown (*B, H, W).
    """
    depth = torch.as_tensor(depth, device=pose.device).expand(camera.size, camera.size)
    ahead, left = camera.seen_from(pose[..., None, None, :], camera.aside, depth)
    at = camera.pixels(ahead, left, camera.height + camera.slope[:, None] * depth)
    return sample(views, *at), (camera.outside(*at) < 0.5) & (ahead > 0.1)


def sample(pictures: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """Pictures (*B, C, H, W) between their pixels, at columns and rows (*B, a, b), bilinearly; beyond an edge as at it: (*B, C, a, b)."""
    height, width = pictures.shape[-2:]
    grid = torch.stack([column * (2 / (width - 1)) - 1, row * (2 / (height - 1)) - 1], dim=-1)
    count = math.prod(pictures.shape[:-3])  # which may be none
    pictures, grid = pictures.reshape(count, *pictures.shape[-3:]), grid.reshape(count, *grid.shape[-3:])
    found = F.grid_sample(pictures, grid, padding_mode="border", align_corners=True)
    return found.reshape(*column.shape[:-2], *found.shape[1:])


def in_parts(function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
    """A function of tensors (B, ...), which gives tensors (B, ...), a few rows at a time: what it writes on its way stays in a cache."""
    return result_of(part_by_part(function, *inputs))


def part_by_part(function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> Generator[bool, None, tuple[Tensor, ...]]:
    """`in_parts`, which lets others work after each."""
    size, parts = AT_ONCE if inputs[0].device.type == "cpu" else 64 * AT_ONCE, []
    for part in zip(*(x.split(size) for x in inputs), strict=True):
        parts.append(function(*part))
        yield True
    return tuple(torch.cat(x) for x in zip(*parts, strict=True))


def covering(camera: Camera, poses: Tensor, usable: Tensor, s: Tensor, K: int, view_depth: Tensor | None = None) -> Tensor:
    """Which K of N views together show most of what would be seen at s, from as near as can be: one after another, the most added first.

    poses: (M, N, 3); usable: (M, Q, N) bool, or what broadcasts; s (M, Q, 3). Returns (M, Q, K) int64. No gradient.
    view_depth: (M, N, W), how deep the columns of these views are, where that is known: what lies behind counts little.
    """
    with torch.no_grad():
        depth = camera.compared[:, None]
        aside = camera.aside[camera.size // 16 :: camera.size // 8]
        if loops := loops_for("projection_compiled", poses, s):
            return loops.cover(poses, usable, s, aside, depth[:, 0], camera.focal, view_depth, camera.size, K)
        ahead, left = camera.seen_from(relative(s[:, :, None], poses[:, None])[..., None, None, :], aside, depth)  # (M, Q, N, 4, 8)
        shown = (ahead > 0.15) & (left.abs() < camera.aside[-1] * ahead)
        size = (ahead.clamp(min=0.05) / depth).log().abs()  # how much larger or smaller a thing is seen there
        away = (s[:, :, None, :2] - poses[:, None, :, :2]).norm(dim=-1)
        worth = shown * torch.exp(-size - 0.35 * away[..., None, None])
        if view_depth is not None:
            column = camera.pixels(ahead, left, ahead)[0].round().long().clamp(0, camera.size - 1)
            behind = view_depth[:, None].expand(-1, s.shape[1], -1, -1).gather(-1, column.flatten(-2)).view_as(ahead)
            worth = worth * (behind / ahead.clamp(min=0.15)).clamp(max=1) ** 4
        worth = worth.flatten(-2)  # (M, Q, N, P)
        gained = worth.new_zeros(*worth.shape[:2], 1, worth.shape[-1])
        left_over = torch.where(usable, 0.0, -1e9).expand(worth.shape[:3])
        chosen = []
        for _ in range(K):
            gain = (worth - gained).clamp(min=0).sum(dim=-1) + 1e-4 * worth.sum(dim=-1) + left_over  # (M, Q, N)
            best = gain.argmax(dim=-1, keepdim=True)
            chosen.append(best)
            left_over = left_over.scatter(-1, best, -1e9)
            gained = gained.maximum(0.9 * worth.take_along_dim(best[..., None], dim=-2))
        return torch.cat(chosen, dim=-1)
