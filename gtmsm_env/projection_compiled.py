"""The loops of `ProjectedViews.blend` and of what it reads, compiled for one core of a CPU, without gradients; those are the readable twins.

Arrays hold one row of pixels of one view after another, each quantity in `WIDE` neighbouring places, so that every loop over a row becomes
vector instructions. Constants are `f(...)`, or else all would be computed in double precision.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch import Tensor, nn

from gtmsm_env.perspective import Camera

compiled = njit(cache=True, error_model="numpy", fastmath=True)
f = np.float32
WIDE = 32  # pixels of a row at once
TOLD, HIDDEN = 11, 16  # features of a point, and neurons of `weigh`, those missing of weight 0
ACROSS, DOWN, AHEAD, BEHIND, PENALTY, LOGIT, NEURON = range(TOLD, TOLD + 7)  # what else is kept of each point


def lay(weigh: nn.Sequential, camera: Camera, views: Tensor, seen_from: Tensor, view_depth: Tensor, depth: Tensor) -> Tensor:
    """What `ProjectedViews.blend` lays before `mend`, of the same arguments: (B, C + 5, H, W), channels last."""
    first, second, last = (torch.cat([layer.weight, layer.bias[:, None]], dim=1) for layer in weigh[::2])  # type: ignore[union-attr,index]
    missing = HIDDEN - len(first)
    first, second, last = F.pad(first, (0, 0, 0, missing)), pad_inputs(F.pad(second, (0, 0, 0, missing)), missing), pad_inputs(last, missing)
    B, K, C, H, W = views.shape
    laid = torch.empty(B, H, W, C + 5)
    arrays = (views.flatten(-2), seen_from, view_depth, depth, camera.aside, camera.slope, camera.ground, first, second, last[0], laid)
    _lay(f(camera.focal), *(x.contiguous().numpy() for x in arrays))
    return laid.permute(0, 3, 1, 2)


def pad_inputs(weight: Tensor, missing: int) -> Tensor:
    return torch.cat([F.pad(weight[:, :-1], (0, missing)), weight[:, -1:]], dim=1)


@compiled
def silu(x: Any) -> Any:
    """x (1 + tanh(x / 2)) / 2, of which tanh is a quotient of polynomials, to 1e-6."""
    y = min(max(f(0.5) * x, f(-7.9)), f(7.9))
    s = y * y
    p = f(-8.60467152213735e-11) + s * (f(2.00018790482477e-13) + s * f(-2.76076847742355e-16))
    p = f(4.89352455891786e-03) + s * (f(6.37261928875436e-04) + s * (f(1.48572235717979e-05) + s * (f(5.12229709037114e-08) + s * p)))
    q = f(4.89352518554385e-03) + s * (f(2.26843463243900e-03) + s * (f(1.18534705686654e-04) + s * f(1.19825839466702e-06)))
    return f(0.5) * x * (f(1) + y * p / q)


@compiled
def log(x: Any) -> Any:
    """To 1e-6, of .1 < x < 10: by the series of atanh at the fourth root."""
    root = math.sqrt(math.sqrt(x))
    t = (root - f(1)) / (root + f(1))
    s = t * t
    return f(8) * t * (f(1) + s * (f(1 / 3) + s * (f(1 / 5) + s * (f(1 / 7) + s * f(1 / 9)))))


@compiled
def exp(x: Any) -> Any:
    """Of x <= 0, to 1e-5 of itself where that is not next to nothing: a 32nd of x five times squared."""
    y = max(x, f(-32)) * f(1 / 32)
    e = f(1) + y * (f(1) + y * (f(1 / 2) + y * (f(1 / 6) + y * (f(1 / 24) + y * f(1 / 120)))))
    e *= e
    e *= e
    e *= e
    e *= e
    return e * e


@compiled
def _lay(
    focal: Any, views: Any, seen_from: Any, view_depth: Any, depth: Any, aside: Any, slope: Any, ground: Any, first: Any, second: Any, last: Any, laid: Any
) -> None:
    (B, K, C), H, W = views.shape[:3], len(slope), len(aside)
    middle, edge = f(W / 2 - 0.5), f(W - 1)
    point = np.zeros((K, NEURON + HIDDEN, WIDE), f)  # of each view
    seen = np.zeros((K, C, WIDE), f)
    pixel = np.ones((7, WIDE), f)  # of all views
    colour = np.zeros((C, WIDE), f)
    for b in range(B):
        for v, start in [(v, start) for v in range(H) for start in range(0, W, WIDE)]:
            n = min(WIDE, W - start)
            for u in range(n):
                pixel[0, u], pixel[1, u] = aside[start + u], min(depth[b, start + u], ground[v])
            for k in range(K):
                x, y, heading = seen_from[b, k]
                cos, sin, away = f(math.cos(heading)), f(math.sin(heading)), math.sqrt(x * x + y * y)
                for u in range(WIDE):
                    far = pixel[1, u]
                    ahead = x + far * (cos + pixel[0, u] * sin)
                    left = y + far * (sin - pixel[0, u] * cos)
                    near = max(ahead, f(0.1))
                    scale = focal / near
                    across, down = middle - scale * left, middle - scale * (slope[v] * far)
                    outside = max(max(abs(across - middle), abs(down - middle)) - middle, f(0))
                    front = f(1) if ahead > f(0.1) else f(0)
                    size = log(min(max(near / far, f(math.exp(-2))), f(math.exp(2))))
                    off_across, off_down = across - np.floor(across + f(0.5)), down - np.floor(down + f(0.5))
                    point[k, 0, u] = front
                    point[k, 1, u] = min(outside, f(3))
                    point[k, 2, u] = front if outside < f(0.5) else f(0)
                    point[k, 5, u] = away
                    point[k, 6, u] = size
                    point[k, 7, u] = abs(size)
                    point[k, 8, u] = f(8) * off_across * off_across
                    point[k, 9, u] = f(8) * off_down * off_down
                    point[k, ACROSS, u] = min(max(across, f(0)), edge)
                    point[k, DOWN, u] = min(max(down, f(0)), edge)
                    point[k, AHEAD, u] = ahead
                    point[k, PENALTY, u] = f(-20) * (f(1) - front) - f(2) * min(outside, f(8))
                for u in range(n):
                    across, down = point[k, ACROSS, u], point[k, DOWN, u]
                    j, i = min(int(across), W - 2), min(int(down), H - 2)
                    right, below = across - f(j), down - f(i)
                    at = i * W + j
                    for c in range(C):
                        picture = views[b, k, c]
                        top = picture[at] + right * (picture[at + 1] - picture[at])
                        bottom = picture[at + W] + right * (picture[at + W + 1] - picture[at + W])
                        seen[k, c, u] = top + below * (bottom - top)
                    point[k, BEHIND, u] = view_depth[b, k, int(across + f(0.5))]
            pixel[2:] = f(0)
            colour[:] = f(0)
            count, most, total, spread = 2, 3, 4, 5
            for k in range(K):
                for u in range(WIDE):
                    pixel[count, u] += point[k, 2, u]
                for c in range(C):
                    for u in range(WIDE):
                        colour[c, u] += point[k, 2, u] * seen[k, c, u]
            for c in range(C):
                for u in range(WIDE):
                    colour[c, u] /= max(pixel[count, u], f(1))
            for k in range(K):
                for u in range(WIDE):
                    point[k, 10, u] = f(0)
                for c in range(C):
                    for u in range(WIDE):
                        point[k, 10, u] += f(4 / C) * abs(seen[k, c, u] - colour[c, u])
                for u in range(WIDE):
                    ahead = point[k, AHEAD, u]
                    hidden = min(max((ahead - point[k, BEHIND, u]) / max(ahead, f(0.3)), f(-1)), f(1))
                    point[k, 3, u] = hidden
                    point[k, 4, u] = max(hidden, f(0))
                    point[k, LOGIT, u] = last[HIDDEN] + point[k, PENALTY, u]
                for j in range(HIDDEN):
                    for u in range(WIDE):
                        total_ = first[j, TOLD]
                        for i in range(TOLD):
                            total_ += first[j, i] * point[k, i, u]
                        point[k, NEURON + j, u] = silu(total_)
                for j in range(HIDDEN):
                    for u in range(WIDE):
                        total_ = second[j, HIDDEN]
                        for i in range(HIDDEN):
                            total_ += second[j, i] * point[k, NEURON + i, u]
                        point[k, LOGIT, u] += last[j] * silu(total_)
            for u in range(WIDE):
                pixel[most, u] = point[0, LOGIT, u]
            for k in range(1, K):
                for u in range(WIDE):
                    pixel[most, u] = max(pixel[most, u], point[k, LOGIT, u])
            colour[:] = f(0)
            for k in range(K):
                for u in range(WIDE):
                    point[k, LOGIT, u] = exp(point[k, LOGIT, u] - pixel[most, u])
                    pixel[total, u] += point[k, LOGIT, u]
                for c in range(C):
                    for u in range(WIDE):
                        colour[c, u] += point[k, LOGIT, u] * seen[k, c, u]
            for c in range(C):
                for u in range(WIDE):
                    colour[c, u] /= pixel[total, u]
            for k in range(K):
                for c in range(C):
                    for u in range(WIDE):
                        pixel[spread, u] += point[k, LOGIT, u] * abs(seen[k, c, u] - colour[c, u])
            for u in range(n):
                place = laid[b, v, start + u]
                for c in range(C):
                    place[c] = colour[c, u] - f(0.5)
                place[C] = f(4 / C) * pixel[spread, u] / pixel[total, u]
                place[C + 1] = f(0.25) * (pixel[most, u] + f(math.log(pixel[total, u])))
                place[C + 2] = f(0.25) / pixel[1, u]
                place[C + 3] = slope[v]
                place[C + 4] = pixel[count, u] / f(K)
