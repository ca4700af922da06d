"""The loops of imagining in first person, compiled for one core of a CPU where no gradient is wanted; torch elsewhere computes the same.

`lay` stands in for `ProjectedViews.lay`, `sweep` for `Stereo.sweep`, `along` for that of the floor plan, `sight` for the end of
`Sight.depth`, `cover` for the choice of `covering`: what they compute is told there. Of pixels in a row each quantity lies in `WIDE`
neighbouring places, so that loops over them become vector instructions. Constants are `f(...)`, or else all would be computed in double
precision.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn

from gtmsm_env.floorplan import BEYOND, CELL, LITTLE, TOLD
from gtmsm_env.perspective import Camera

compiled = njit(cache=True, error_model="numpy", fastmath=True)
f = np.float32
WIDE = 128  # pixels at once: few enough for a core's nearest cache
KNOWN, HIDDEN = 11, 16  # features of a point, and neurons of `weigh`, those missing of weight 0
AHEAD, NEAREST, CORNER, RIGHT, BELOW, BEHIND, LOGIT, NEURON = range(KNOWN, KNOWN + 8)  # what else is kept of each point
ASIDE, UP, FAR, COUNT, MOST, SUM, SHARE, SPREAD = range(8)  # and of each pixel


def lay(weigh: nn.Sequential, camera: Camera, views: Tensor, seen_from: Tensor, view_depth: Tensor, depth: Tensor) -> Tensor:
    """Views (B, K, C, H, W), seen_from (B, K, 3), view_depth (B, K, W), depth (B, W) -> (B, C + 5, H, W), channels last."""
    B, _, C, H, W = views.shape
    weights = padded(weigh[0], HIDDEN, KNOWN), padded(weigh[2], HIDDEN, HIDDEN), padded(weigh[4], 1, HIDDEN)[0]
    laid = torch.empty(B, H * W, C + 5)
    arrays = (views.flatten(2), seen_from, view_depth, depth, camera.aside, camera.slope, camera.ground, *weights, laid)
    _lay(f(camera.focal), *(x.contiguous().detach().numpy() for x in arrays))
    return laid.unflatten(1, (H, W)).permute(0, 3, 1, 2)


def padded(layer: Any, outputs: int, inputs: int) -> Tensor:
    """The weights of a linear layer as if it were larger, and in one more column its biases."""
    weight = torch.zeros(outputs, inputs + 1)
    weight[: layer.out_features, : layer.in_features], weight[: layer.out_features, -1] = layer.weight, layer.bias
    return weight


@compiled
def silu(x: Any) -> Any:
    """x (1 + tanh(x / 2)) / 2, of which tanh is a convergent of its continued fraction, to 5e-5 of x: enough for what is seen."""
    y = min(max(f(0.5) * x, f(-4.97)), f(4.97))
    s = y * y
    p = f(135135) + s * (f(17325) + s * (f(378) + s))
    q = f(135135) + s * (f(62370) + s * (f(3150) + s * f(28)))
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
    (B, K), (W, C) = seen_from.shape[:2], (len(aside), laid.shape[2] - 5)
    area = np.uint64(W * W)
    middle, edge, one, below = f(W / 2 - 0.5), f(W - 1), np.uint64(1), np.uint64(W)
    point = np.zeros((K, NEURON + HIDDEN, WIDE), f)  # of each view
    seen = np.zeros((K, C, WIDE), f)
    pixel = np.ones((SPREAD + 1, WIDE), f)  # of all views
    colour = np.zeros((C, WIDE), f)
    for b in range(B):
        for start in range(0, W * W, WIDE):
            n = min(WIDE, W * W - start)
            for u in range(n):
                v, w = (start + u) // W, (start + u) % W
                pixel[ASIDE, u], pixel[UP, u], pixel[FAR, u] = aside[w], slope[v], min(depth[b, w], ground[v])
            for k in range(K):
                x, y, heading = seen_from[b, k]
                cos, sin, away = f(math.cos(heading)), f(math.sin(heading)), math.sqrt(x * x + y * y)
                for u in range(WIDE):
                    right, far = pixel[ASIDE, u], pixel[FAR, u]
                    ahead = x + far * (cos + right * sin)
                    left = y + far * (sin - right * cos)
                    near = max(ahead, f(0.1))
                    scale = focal / near
                    across, down = middle - scale * left, middle - scale * (pixel[UP, u] * far)
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
            pixel[3:] = f(0)
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
                        x = first[j, KNOWN]
                        for i in range(KNOWN):
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
            for u in range(WIDE):
                pixel[SPREAD, u] *= f(4 / C) * pixel[SHARE, u]
                pixel[SUM, u] = f(0.25) * (pixel[MOST, u] + log(pixel[SUM, u]))
                pixel[FAR, u] = f(0.25) / pixel[FAR, u]
                pixel[COUNT, u] *= f(1 / K)
            for u in range(n):
                place = laid[b, start + u]
                for c in range(C):
                    place[c] = colour[c, u] - f(0.5)
                place[C], place[C + 1], place[C + 2] = pixel[SPREAD, u], pixel[SUM, u], pixel[FAR, u]
                place[C + 3], place[C + 4] = pixel[UP, u], pixel[COUNT, u]


def sweep(camera: Camera, view: Tensor, seen_from: Tensor, sources: Tensor, depth: Tensor, up: Tensor) -> tuple[Tensor, ...]:
    """A view (E, C, H, W), `seen_from` (E, J, 3) and sources (E, J, C, H, W), depths (D,), heights (h,) -> as `Stereo.sweep`."""
    (E, J), size = seen_from.shape[:2], camera.size
    walls, ground = torch.zeros(E, J, size, len(depth)), torch.zeros(E, J, size, size)
    seen, ground_seen = torch.zeros_like(walls, dtype=torch.bool), torch.zeros_like(ground, dtype=torch.bool)
    given = (view.flatten(2), sources.flatten(3), seen_from, camera.aside, camera.slope, camera.ground, depth, up - camera.height)
    _sweep(f(camera.focal), *(x.contiguous().detach().numpy() for x in (*given, walls, seen, ground, ground_seen)))
    return walls, seen, ground, ground_seen


@compiled
def _sweep(
    focal: Any,
    view: Any,
    sources: Any,
    seen_from: Any,
    aside: Any,
    slope: Any,
    ground: Any,
    depth: Any,
    over: Any,
    walls: Any,
    seen: Any,
    on_ground: Any,
    ground_seen: Any,
) -> None:
    (E, J, W, D), C, heights = walls.shape, view.shape[1], len(over)
    middle, edge, beyond, width = f(W / 2 - 0.5), f(W - 1), f(W / 2 - 0.5 + BEYOND), np.uint64(W)
    wall, floor = np.empty((W, heights, C, D), f), np.empty((W, C, W), f)  # what the view itself shows at each depth, and at each row
    inside = np.empty((heights, D), f)
    at, right, below, shown, unlike = np.empty((5, max(D, W)), f)
    total, count = np.empty((2, D), f)
    for e in range(E):
        for w in range(W):  # the same rows for each: quicker found again than read
            for c in range(C):
                column = view[e, c, w::W]
                floor[w, c] = column
                for h in range(heights):
                    for d in range(D):
                        row = middle - focal * over[h] / max(depth[d], f(0.1))
                        inside[h, d] = f(1) if abs(row - middle) < beyond else f(0)
                        y = min(max(row, f(0)), edge)
                        top = min(np.floor(y), edge - f(1))
                        above, under = column[np.uint64(top)], column[np.uint64(top + f(1))]
                        wall[w, h, c, d] = above + (y - top) * (under - above)
        for j in range(J):
            x, y, heading = seen_from[e, j]
            cos, sin, picture = f(math.cos(heading)), f(math.sin(heading)), sources[e, j].ravel()
            for w in range(W):
                forth, across = cos + aside[w] * sin, sin - aside[w] * cos
                total[:] = f(0)
                count[:] = f(0)
                for h in range(heights):
                    for d in range(D):
                        ahead, left, up = x + depth[d] * forth, y + depth[d] * across, over[h]
                        at[d], right[d], below[d], shown[d] = _place(ahead, focal * left, focal * up, middle, edge, beyond)
                    _compare(picture, width, at, right, below, wall[w, h], unlike)
                    for d in range(D):
                        total[d] += shown[d] * inside[h, d] * unlike[d]
                        count[d] += shown[d] * inside[h, d]
                for d in range(D):
                    walls[e, j, w, d] = total[d] / max(count[d], f(1))
                    seen[e, j, w, d] = count[d] > f(1)
                for v in range(W):
                    ahead, left, up = x + ground[v] * forth, y + ground[v] * across, slope[v] * ground[v]
                    at[v], right[v], below[v], shown[v] = _place(ahead, focal * left, focal * up, middle, edge, beyond)
                _compare(picture, width, at, right, below, floor[w], unlike)
                for v in range(W):
                    on_ground[e, j, w, v], ground_seen[e, j, w, v] = unlike[v], shown[v] > f(0)


@compiled
def _place(ahead: Any, left: Any, up: Any, middle: Any, edge: Any, beyond: Any) -> Any:
    """Where in a picture a point is seen: the number of the pixel above and left of it, how far it is beyond that, and whether it is."""
    near = max(ahead, f(0.1))
    column, row = middle - left / near, middle - up / near
    shown = f(1) if max(abs(column - middle), abs(row - middle)) < beyond and ahead > f(0.12) else f(0)
    x, y = min(max(column, f(0)), edge), min(max(row, f(0)), edge)
    j, i = min(np.floor(x), edge - f(1)), min(np.floor(y), edge - f(1))
    return i * (edge + f(1)) + j, x - j, y - i, shown


@compiled
def _compare(picture: Any, width: Any, at: Any, right: Any, below: Any, own: Any, unlike: Any) -> None:
    """How unlike a picture's places are to colours (C, n), the mean over C."""
    one, first, share = np.uint64(1), np.uint64(0), f(1 / len(own))
    unlike[:] = f(0)
    for c in range(len(own)):
        for i in range(own.shape[1]):
            corner = np.uint64(at[i]) + first
            high = picture[corner] + right[i] * (picture[corner + one] - picture[corner])
            low = picture[corner + width] + right[i] * (picture[corner + width + one] - picture[corner + width])
            unlike[i] += share * abs(high + below[i] * (low - high) - own[c, i])
        first += width * width


@compiled
def log_of_large(x: Any) -> Any:
    """To 1e-5, of .01 < x < 10,000: four times that of the fourth root."""
    return f(4) * log(math.sqrt(math.sqrt(x)))


def along(camera: Camera, plan: Tensor, s: Tensor, depths: Tensor) -> Tensor:
    """A plan (M, 2, CELLS, CELLS), poses s (M, Q, 3) -> (M, Q, TOLD, W, D), which come last in memory."""
    found = torch.empty(*s.shape[:2], camera.size, len(depths), TOLD)
    if len(plan) > 1 and plan.stride(0) == 0:  # one plan for all, which is not to be copied
        return along(camera, plan[:1], s.flatten(0, 1)[None], depths).reshape(*s.shape[:2], TOLD, camera.size, len(depths))
    _along(f(1 / CELL), *(x.contiguous().detach().numpy() for x in (plan, s, camera.aside, depths, found)))
    return found.movedim(-1, 2)


@compiled
def _along(cells: Any, plan: Any, s: Any, aside: Any, depth: Any, told: Any) -> None:
    (M, Q, W, D), side = told.shape[:4], plan.shape[-1]
    middle, edge, width, one = f(0.5 * (side - 1)), f(side - 1), np.uint64(side), np.uint64(1)
    at, right, up = np.empty(D, f), np.empty(D, f), np.empty(D, f)
    stands, free, tell = np.empty(D, f), np.empty(D, f), np.empty((TOLD, D), f)
    tell[4] = f(1) / depth - f(2)
    for m in range(M):
        standing, floor = plan[m, 0].ravel(), plan[m, 1].ravel()
        for q in range(Q):
            cos, sin = f(math.cos(s[m, q, 2])), f(math.sin(s[m, q, 2]))
            for u in range(W):
                across, along = (cos + aside[u] * sin) * cells, (sin - aside[u] * cos) * cells
                for d in range(D):
                    x = min(max(s[m, q, 0] * cells + depth[d] * across + middle, f(0)), edge)
                    y = min(max(s[m, q, 1] * cells + depth[d] * along + middle, f(0)), edge)
                    left, below = min(np.floor(x), edge - f(1)), min(np.floor(y), edge - f(1))
                    right[d], up[d] = x - left, y - below
                    at[d] = below * f(side) + left
                for d in range(D):
                    i, r, t = np.uint64(at[d]), right[d], up[d]
                    both = r * t
                    lower_left, lower_right, upper_left = f(1) - r - t + both, r - both, t - both
                    beyond, above = i + one, i + width
                    stands[d] = lower_left * standing[i] + lower_right * standing[beyond]
                    stands[d] += upper_left * standing[above] + both * standing[above + one]
                    free[d] = lower_left * floor[i] + lower_right * floor[beyond] + upper_left * floor[above] + both * floor[above + one]
                for d in range(D):
                    share = stands[d] / (stands[d] + free[d] + f(LITTLE))
                    tell[0, d], tell[1, d], tell[2, d] = log_of_large(f(1) + stands[d]), log_of_large(f(1) + free[d]), f(4) * share
                    tell[3, d] = log(f(1) - min(share, f(0.97))) * f(1 / 3)
                for d in range(1, D):
                    tell[3, d] += tell[3, d - 1]
                place = told[m, q, u]
                for d in range(D):
                    for i in range(TOLD):
                        place[d, i] = tell[i, d]


def sight(last: Any, features: Tensor, depths: Tensor) -> Tensor:
    """The depth of each column (B, W), of what the last convolution takes (B, C, W, D)."""
    found = torch.empty(len(features), features.shape[2])
    weight = last.weight[0].flatten(1).mT.to(features.dtype)  # of each neighbour, (9, C): its part of the convolution is a product
    parts = (weight @ features.flatten(2)).float().unflatten(-1, features.shape[2:])
    _sight(f(last.bias.item()), *(x.contiguous().detach().numpy() for x in (parts, 1 / depths, found)))
    return found


@compiled
def _sight(bias: Any, parts: Any, inverse: Any, found: Any) -> None:
    B, _, W, D = parts.shape
    logit = np.empty(D, f)
    for b in range(B):
        for u in range(W):
            logit[:] = bias
            for i in range(max(u - 1, 0), min(u + 2, W)):
                nearer, same, farther = parts[b, 3 * (i - u + 1)], parts[b, 3 * (i - u + 1) + 1], parts[b, 3 * (i - u + 1) + 2]
                for d in range(1, D - 1):
                    logit[d] += nearer[i, d - 1] + same[i, d] + farther[i, d + 1]
                logit[0] += same[i, 0] + farther[i, 1]
                logit[D - 1] += nearer[i, D - 2] + same[i, D - 1]
            best = logit.argmax()
            total, mean = f(0), f(0)
            for d in range(max(best - 3, 0), min(best + 4, D)):
                p = exp(logit[d] - logit[best])
                total += p
                mean += p * inverse[d]
            found[b, u] = total / mean


def cover(
    poses: Tensor,
    usable: Tensor,
    s: Tensor,
    aside: Tensor,
    depth: Tensor,
    focal: float,
    view_depth: Tensor | None,
    size: int,
    K: int,
) -> Tensor:
    """Which views show most of the points at each `depth` of columns `aside`: (M, Q, K).

    focal: of the camera, in pixels; view_depth: (M, N, `size`), by which views count less for a point the farther it lies behind a wall
    """
    usable = usable.expand(*s.shape[:2], poses.shape[1])
    behind = torch.empty(0, 0, size) if view_depth is None else view_depth
    chosen = torch.empty(*s.shape[:2], K, dtype=torch.int64)
    _cover(f(focal), *(x.contiguous().detach().numpy() for x in (poses, usable, s, aside, depth, behind, chosen)))
    return chosen


@compiled
def _cover(focal: Any, poses: Any, usable: Any, s: Any, aside: Any, depth: Any, behind: Any, chosen: Any) -> None:
    (M, Q, K), N, A, P, W = chosen.shape, poses.shape[1], len(aside), len(aside) * len(depth), behind.shape[2]
    worth, gained, left_over = np.empty((N, P), f), np.empty(P, f), np.empty(N, f)
    far, column = np.empty(P, f), np.empty(P, f)
    middle = f(W / 2 - 0.5)
    edge = middle / focal  # how far aside the outermost column leads
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
                        far[i * A + j], column[i * A + j] = max(ahead, f(0.15)), middle + f(0.5) - focal * left / max(ahead, f(0.15))
                if total > f(0) and len(behind):  # many views show nothing at all
                    total = f(0)
                    for p in range(P):
                        share = min(behind[m, n, min(max(int(column[p]), 0), W - 1)] / far[p], f(1)) ** 2
                        worth[n, p] *= share * share
                        total += worth[n, p]
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
