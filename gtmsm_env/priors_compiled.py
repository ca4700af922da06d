"""The loops of frames that the views prior imagines, compiled for one core of a CPU where no gradient is wanted; torch elsewhere does it.

`frames` stands in for `ViewsPrior.frame`: what it computes is told in `blend` and `fill`. While views are laid, a row of the canvas lies in
memory pixel by pixel, so that a view's row is one run of numbers wherever it is moved; while they are filled, channel by channel.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gtmsm_env.dream_compiled import arrays, compiled, f

if TYPE_CHECKING:
    from gtmsm_env.priors import ViewsPrior

TAILS = f(6)  # deviations of the kernel that moves a view, beyond which it is nothing
BARE = f(2e-3)  # share of a pixel, half a grey level: a frame of which no pixel is barer is not filled


def frames(prior: ViewsPrior, views: Tensor, offset: Tensor) -> Tensor | None:
    """Views (B, K, C, H, W), offset (B, K, 2) -> (B, C, H, W); None of frames that loops cannot fill."""
    B, _, C, H, W = views.shape
    side = H + 2 * prior.margin
    if H != W or side % 4:
        return None
    shown = torch.empty(B, C, H, W)
    blurs = prior.averages(prior.log_reach, side), prior.log_floor.exp(), prior.averages(prior.log_smooth, side)
    _frames(f(prior.log_width.exp()), f(prior.log_falloff.exp()), prior.margin, *arrays(views.contiguous(), offset, *blurs, shown))
    return shown


@compiled
def _frames(width: Any, falloff: Any, margin: Any, views: Any, offset: Any, reach: Any, floor: Any, smooth: Any, shown: Any) -> None:
    C, H = shown.shape[1:3]
    S = H + 2 * margin
    laid, colour = np.empty((S, S * (C + 1)), f), np.empty(C, f)
    bare, canvas = np.empty((S, C * S), f), np.empty((S, C * S), f)  # columns come first, as in `seen`
    for b in range(len(views)):
        _lay(width, falloff, margin, views[b], offset[b], laid, colour)
        seen = np.empty((S, C * S + S), f)  # and how much of it
        for y in range(S):
            for x in range(S):
                total = laid[y, x * (C + 1) + C]
                cover = total / (total + f(1e-3))
                seen[x, C * S + y] = cover
                for c in range(C):
                    i = c * S + y
                    bare[x, i] = f(1) - cover
                    canvas[x, i] = cover * laid[y, x * (C + 1) + c] / (total + f(1e-6)) + bare[x, i] * colour[c]
                    seen[x, i] = cover * canvas[x, i]
        if bare[margin : margin + H, margin : margin + H].max() > BARE:
            _fill(reach, floor, smooth, seen, bare, canvas)
        for c in range(C):
            for y in range(H):
                for x in range(H):
                    shown[b, c, y, x] = canvas[margin + x, c * S + margin + y]


@compiled
def _fill(reach: Any, floor: Any, smooth: Any, seen: Any, bare: Any, canvas: Any) -> None:
    """What is bare of a canvas, in place, from what is `seen` of it, whose last channel says how much."""
    S, n = canvas.shape
    half, around = np.empty_like(seen), np.empty_like(seen)
    filled, believed = np.zeros_like(canvas), np.empty(S, f)
    left = np.ones((S, S), f)
    for r in range(len(reach)):
        _blur(reach[r], seen, half, around)
        for x in range(S):
            for y in range(S):
                believed[y] = left[x, y] / (around[x, n + y] + floor[r])
                left[x, y] = believed[y] * floor[r]
            for c in range(n // S):
                for y in range(S):
                    filled[x, c * S + y] += believed[y] * around[x, c * S + y]
    for x in range(S):
        for c in range(n // S):
            for y in range(S):
                i = c * S + y
                canvas[x, i] = seen[x, i] + bare[x, i] * (filled[x, i] + left[x, y] * canvas[x, i])
    even = np.empty_like(canvas)
    for r in range(len(smooth)):
        _blur(smooth[r], canvas, filled, even)
        for x in range(S):
            for i in range(n):
                canvas[x, i] = seen[x, i] + bare[x, i] * even[x, i]


@compiled
def _lay(width: Any, falloff: Any, margin: Any, views: Any, offset: Any, laid: Any, colour: Any) -> None:
    """Sums of views (K, C, H, H) moved, pixel by pixel, with that of their weights; and their mean colour."""
    (K, C, H), S = views.shape[:3], len(laid)
    channels, reach = C + 1, TAILS * width
    view, row = np.ones((H, H * channels), f), np.empty(H * channels, f)
    laid[:] = f(0)
    colour[:] = f(0)
    share, nearest = f(0), f(math.inf)
    for k in range(K):
        nearest = min(nearest, math.sqrt(offset[k, 0] ** 2 + offset[k, 1] ** 2))
    for k in range(K):
        away = falloff * math.sqrt(offset[k, 0] ** 2 + offset[k, 1] ** 2)
        weight, of_all = math.exp(-away), math.exp(falloff * nearest - away)
        share += of_all
        for c in range(C):
            total = f(0)
            for y in range(H):
                for x in range(H):
                    view[y, x * channels + c] = views[k, c, y, x]
                    total += views[k, c, y, x]
            colour[c] += of_all * total * f(1 / H**2)
        # A view's every row moves likewise: into the few rows of the canvas, from `top` on, that the kernel reaches.
        down, right = f(margin) + offset[k, 0], f(margin) + offset[k, 1]
        top, first = math.ceil(down - reach), math.ceil(right - reach)
        rows, columns = math.floor(down + reach) - top + 1, math.floor(right + reach) - first + 1
        for y in range(max(top, 0), min(top + rows + H - 1, S)):
            row[:] = f(0)
            for j in range(max(y - top - H + 1, 0), min(rows, y - top + 1)):
                share_of = weight * math.exp(f(-0.5) * ((f(top + j) - down) / width) ** 2)
                source = view[y - top - j]
                for i in range(H * channels):
                    row[i] += share_of * source[i]
            for j in range(first, first + columns):
                begin, end = max(j, 0), min(j + H, S)
                share_of = math.exp(f(-0.5) * ((f(j) - right) / width) ** 2)
                target, source = laid[y, begin * channels : end * channels], row[(begin - j) * channels :]
                for i in range((end - begin) * channels):
                    target[i] += share_of * source[i]
    for c in range(C):
        colour[c] /= share


@compiled
def _blur(weight: Any, x: Any, half: Any, blurred: Any) -> None:
    """Along rows and columns; `half` is written over."""
    _mix(weight, x, half)
    _turn(half, blurred)
    _mix(weight, blurred, half)
    _turn(half, blurred)


@compiled
def _mix(weight: Any, x: Any, mixed: Any) -> None:
    """mixed_i = sum_j weight_ij x_j, of rows i and j, two of those and four of these at once."""
    for i in range(0, len(mixed), 2):
        for u in range(x.shape[1]):
            mixed[i, u] = mixed[i + 1, u] = f(0)
        for j in range(0, len(x), 4):
            p0, p1, p2, p3 = weight[i, j], weight[i, j + 1], weight[i, j + 2], weight[i, j + 3]
            q0, q1, q2, q3 = weight[i + 1, j], weight[i + 1, j + 1], weight[i + 1, j + 2], weight[i + 1, j + 3]
            for u in range(x.shape[1]):
                a, b, c, d = x[j, u], x[j + 1, u], x[j + 2, u], x[j + 3, u]
                mixed[i, u] += p0 * a + p1 * b + p2 * c + p3 * d
                mixed[i + 1, u] += q0 * a + q1 * b + q2 * c + q3 * d


@compiled
def _turn(x: Any, turned: Any) -> None:
    """Rows and columns change places, channel by channel."""
    side = len(x)
    for j in range(side):
        for c in range(x.shape[1] // side):
            for i in range(side):
                turned[j, c * side + i] = x[i, c * side + j]
