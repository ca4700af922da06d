"""The loops of imagining in first person, compiled for one core of a CPU where no gradient is wanted; torch elsewhere computes the same.

`lay` stands in for `ProjectedViews.lay`, `sight` for the end of `Sight.depth`, `cover` for the choice of `covering`: what they compute is
told there. Of a row of pixels each quantity lies in `WIDE` neighbouring places, so that loops over a row become vector instructions.
Constants are `f(...)`, or else all would be computed in double precision.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn

from gtmsm_env.perspective import Camera

compiled = njit(cache=True, error_model="numpy", fastmath=True)
f = np.float32
WIDE = 32  # pixels of a row at once
TOLD, HIDDEN = 11, 16  # features of a point, and neurons of `weigh`, those missing of weight 0
AHEAD, NEAREST, CORNER, RIGHT, BELOW, BEHIND, LOGIT, NEURON = range(TOLD, TOLD + 8)  # what else is kept of each point
ASIDE, FAR, COUNT, MOST, SUM, SHARE, SPREAD = range(7)  # and of each pixel


def lay(weigh: nn.Sequential, camera: Camera, views: Tensor, seen_from: Tensor, view_depth: Tensor, depth: Tensor) -> Tensor:
    """Views (B, K, C, H, W), seen_from (B, K, 3), view_depth (B, K, W), depth (B, W) -> (B, C + 5, H, W), channels last."""
    B, _, C, H, W = views.shape
    weights = padded(weigh[0], HIDDEN, TOLD), padded(weigh[2], HIDDEN, HIDDEN), padded(weigh[4], 1, HIDDEN)[0]
    laid = torch.empty(B, H, W, C + 5)
    arrays = (views.flatten(2), seen_from, view_depth, depth, camera.aside, camera.slope, camera.ground, *weights, laid)
    _lay(f(camera.focal), *(x.contiguous().detach().numpy() for x in arrays))
    return laid.permute(0, 3, 1, 2)


def padded(layer: Any, outputs: int, inputs: int) -> Tensor:
    """The weights of a linear layer as if it were larger, and in one more column its biases."""
    weight = torch.zeros(outputs, inputs + 1)
    weight[: layer.out_features, : layer.in_features], weight[: layer.out_features, -1] = layer.weight, layer.bias
    return weight


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
    focal: Any,
    views: Any,
    seen_from: Any,
    view_depth: Any,
    depth: Any,
    aside: Any,
    slope: Any,
    ground: Any,
    first: Any,
    second: Any,
    last: Any,
    laid: Any,
) -> None:
    (B, K), (W, C) = seen_from.shape[:2], (len(aside), laid.shape[3] - 5)
    blocks, area, H = (W - 1) // WIDE + 1, np.uint64(W * W), W
    middle, edge, one, below = f(W / 2 - 0.5), f(W - 1), np.uint64(1), np.uint64(W)
    point = np.zeros((K, NEURON + HIDDEN, WIDE), f)  # of each view
    seen = np.zeros((K, C, WIDE), f)
    pixel = np.ones((SPREAD + 1, WIDE), f)  # of all views
    colour = np.zeros((C, WIDE), f)
    for b in range(B):
        for block in range(H * blocks):
            v, start = block // blocks, block % blocks * WIDE
            n = min(WIDE, W - start)
            for u in range(n):
                pixel[ASIDE, u], pixel[FAR, u] = aside[start + u], min(depth[b, start + u], ground[v])
            for k in range(K):
                x, y, heading = seen_from[b, k]
                cos, sin, away = f(math.cos(heading)), f(math.sin(heading)), math.sqrt(x * x + y * y)
                for u in range(WIDE):
                    right, far = pixel[ASIDE, u], pixel[FAR, u]
                    ahead = x + far * (cos + right * sin)
                    left = y + far * (sin - right * cos)
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
                    point[k, LOGIT, u] = last[HIDDEN] + f(-20) * (f(1) - front) - f(2) * min(outside, f(8))
                    point[k, AHEAD, u] = ahead
                    across, down = min(max(across, f(0)), edge), min(max(down, f(0)), edge)
                    left, top = min(np.floor(across), edge - f(1)), min(np.floor(down), edge - f(1))
                    point[k, NEAREST, u] = across + f(0.5)
                    point[k, CORNER, u] = top * f(W) + left
                    point[k, RIGHT, u] = across - left
                    point[k, BELOW, u] = down - top
                picture, walls = views[b, k], view_depth[b, k]
                for u in range(n):
                    point[k, BEHIND, u] = walls[np.uint64(point[k, NEAREST, u])]
                    at, r, s = np.uint64(point[k, CORNER, u]), point[k, RIGHT, u], point[k, BELOW, u]
                    both = r * s
                    upper_right, lower_left, upper_left = r - both, s - both, f(1) - r - s + both
                    for c in range(C):
                        upper = upper_left * picture[at] + upper_right * picture[at + one]
                        seen[k, c, u] = upper + lower_left * picture[at + below] + both * picture[at + below + one]
                        at += area
            pixel[2:] = f(0)
            colour[:] = f(0)
            for k in range(K):
                for u in range(WIDE):
                    pixel[COUNT, u] += point[k, 2, u]
                for c in range(C):
                    for u in range(WIDE):
                        colour[c, u] += point[k, 2, u] * seen[k, c, u]
            for u in range(WIDE):
                pixel[SHARE, u] = f(1) / max(pixel[COUNT, u], f(1))
                pixel[MOST, u] = f(-1e9)
            for c in range(C):
                for u in range(WIDE):
                    colour[c, u] *= pixel[SHARE, u]
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
                for j in range(HIDDEN):
                    for u in range(WIDE):
                        x = first[j, TOLD]
                        for i in range(TOLD):
                            x += first[j, i] * point[k, i, u]
                        point[k, NEURON + j, u] = silu(x)
                for j in range(HIDDEN):
                    for u in range(WIDE):
                        x = second[j, HIDDEN]
                        for i in range(HIDDEN):
                            x += second[j, i] * point[k, NEURON + i, u]
                        point[k, LOGIT, u] += last[j] * silu(x)
                for u in range(WIDE):
                    pixel[MOST, u] = max(pixel[MOST, u], point[k, LOGIT, u])
            colour[:] = f(0)
            for k in range(K):
                for u in range(WIDE):
                    point[k, LOGIT, u] = exp(point[k, LOGIT, u] - pixel[MOST, u])
                    pixel[SUM, u] += point[k, LOGIT, u]
                for c in range(C):
                    for u in range(WIDE):
                        colour[c, u] += point[k, LOGIT, u] * seen[k, c, u]
            for u in range(WIDE):
                pixel[SHARE, u] = f(1) / pixel[SUM, u]
            for c in range(C):
                for u in range(WIDE):
                    colour[c, u] *= pixel[SHARE, u]
            for k in range(K):
                for c in range(C):
                    for u in range(WIDE):
                        pixel[SPREAD, u] += point[k, LOGIT, u] * abs(seen[k, c, u] - colour[c, u])
            for u in range(n):
                place = laid[b, v, start + u]
                for c in range(C):
                    place[c] = colour[c, u] - f(0.5)
                place[C] = f(4 / C) * pixel[SPREAD, u] * pixel[SHARE, u]
                place[C + 1] = f(0.25) * (pixel[MOST, u] + f(math.log(pixel[SUM, u])))
                place[C + 2] = f(0.25) / pixel[FAR, u]
                place[C + 3] = slope[v]
                place[C + 4] = pixel[COUNT, u] / f(K)


def sight(last: Any, features: Tensor, depths: Tensor) -> Tensor:
    """The depth of each column (B, W), of what the last convolution takes (B, C, W, D)."""
    found = torch.empty(len(features), features.shape[2])
    arrays = (features.float(), last.weight[0], 1 / depths, found)
    _sight(f(last.bias.item()), *(x.contiguous().detach().numpy() for x in arrays))
    return found


@compiled
def _sight(bias: Any, features: Any, weight: Any, inverse: Any, found: Any) -> None:
    B, C, W, D = features.shape
    logit = np.empty(D, f)
    for b in range(B):
        for u in range(W):
            logit[:] = bias
            for c in range(C):
                for i in range(max(u - 1, 0), min(u + 2, W)):
                    row = features[b, c, i]
                    nearer, same, farther = weight[c, i - u + 1]
                    for d in range(1, D - 1):
                        logit[d] += nearer * row[d - 1] + same * row[d] + farther * row[d + 1]
                    logit[0] += same * row[0] + farther * row[1]
                    logit[D - 1] += nearer * row[D - 2] + same * row[D - 1]
            best = logit.argmax()
            total, mean = f(0), f(0)
            for d in range(max(best - 3, 0), min(best + 4, D)):
                p = exp(logit[d] - logit[best])
                total += p
                mean += p * inverse[d]
            found[b, u] = total / mean


def cover(poses: Tensor, usable: Tensor, s: Tensor, aside: Tensor, edge: Tensor, depth: Tensor, K: int) -> Tensor:
    """Which views show most of the points at each `depth` of columns `aside`; `edge` is the outermost column: (M, Q, K)."""
    usable = usable.expand(*s.shape[:2], poses.shape[1])
    chosen = torch.empty(*s.shape[:2], K, dtype=torch.int64)
    _cover(f(edge.item()), *(x.contiguous().detach().numpy() for x in (poses, usable, s, aside, depth, chosen)))
    return chosen


@compiled
def _cover(edge: Any, poses: Any, usable: Any, s: Any, aside: Any, depth: Any, chosen: Any) -> None:
    (M, Q, K), N, A, P = chosen.shape, poses.shape[1], len(aside), len(aside) * len(depth)
    worth, gained, left_over = np.empty((N, P), f), np.empty(P, f), np.empty(N, f)
    for m in range(M):
        for q in range(Q):
            for n in range(N):
                x, y = s[m, q, 0] - poses[m, n, 0], s[m, q, 1] - poses[m, n, 1]
                cos, sin = f(math.cos(poses[m, n, 2])), f(math.sin(poses[m, n, 2]))
                turn = s[m, q, 2] - poses[m, n, 2]
                along, across, near = f(math.cos(turn)), f(math.sin(turn)), f(math.exp(f(-0.35) * math.sqrt(x * x + y * y)))
                total = f(0)
                for i in range(len(depth)):
                    for j in range(A):
                        ahead = cos * x + sin * y + depth[i] * (along + aside[j] * across)
                        left = cos * y - sin * x + depth[i] * (across - aside[j] * along)
                        size = max(ahead, f(0.05)) / depth[i]
                        shown = ahead > f(0.15) and abs(left) < edge * ahead
                        worth[n, i * A + j] = near * min(size, f(1) / size) if shown else f(0)
                        total += worth[n, i * A + j]
                left_over[n] = f(1e-4) * total if usable[m, q, n] else f(-1e9)
            gained[:] = f(0)
            for k in range(K):
                most, best = f(-4e9), 0
                for n in range(N):
                    gain = left_over[n]
                    for p in range(P):
                        gain += max(worth[n, p] - gained[p], f(0))
                    if gain > most:
                        most, best = gain, n
                chosen[m, q, k] = best
                left_over[best] = f(-1e9)
                for p in range(P):
                    gained[p] = max(gained[p], f(0.9) * worth[best, p])
