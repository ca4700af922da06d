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

from gtmsm_env.dream_compiled import arrays, compiled, f, inlined, without_copies

if TYPE_CHECKING:
    from gtmsm_env.priors import ViewsPrior

TAILS = f(6)  # deviations of the kernel that moves a view, beyond which it is nothing
TOGETHER, PART = 4, 4  # frames that are filled at once, and rows of a canvas that are mixed at once
BARE = f(2e-3)  # share of a pixel, half a grey level: a frame of which no pixel is barer is not filled


def frames(prior: ViewsPrior, views: Tensor, row: Tensor, index: Tensor, offset: Tensor) -> Tensor | None:
    """Views (M, P, C, H, W), row (B,), index (B, K), offset (B, K, 2) -> (B, C, H, W); None of frames that loops cannot fill."""
    C, H, W = views.shape[2:]
    side = H + 2 * prior.margin
    if H != W or side % PART:
        return None
    views, row = without_copies(views, row)
    shown = torch.empty(len(row), C, H, W)
    blurs = prior.averages(prior.log_reach, side), prior.log_floor.exp(), prior.averages(prior.log_smooth, side)
    tensors = views.contiguous(), row, index.contiguous(), offset, *blurs, shown
    _frames(f(prior.log_width.exp()), f(prior.log_falloff.exp()), prior.margin, *arrays(*tensors))
    return shown


@compiled
def _frames(
    width: Any,
    falloff: Any,
    margin: Any,
    views: Any,
    row: Any,
    index: Any,
    offset: Any,
    reach: Any,
    floor: Any,
    smooth: Any,
    shown: Any,
) -> None:
    C, H = shown.shape[1:3]
    S = H + 2 * margin
    around = H + int(2 * TAILS * width) + PART
    laid, colour = np.empty((S, (S + 2 * around) * (C + 1)), f), np.empty(C, f)
    cover, share = np.empty(S, f), np.empty(S, f)
    # A row of a canvas holds, for each frame and channel, a row of its pixels; the last channel of what is `seen` says how much is.
    seen = np.zeros((S, TOGETHER * (C + 1) * S), f)
    bare, canvas = np.zeros((S, TOGETHER * C * S), f), np.zeros((S, TOGETHER * C * S), f)
    waiting, count = np.empty(TOGETHER, np.int64), 0  # frames that are to be filled
    near, even = _bands(reach, f(1e-6)), _bands(smooth, f(1e-4))  # small shares tell where nothing else does, but even nothing out
    for b in range(len(row)):
        if not (0 <= row[b] < len(views) and 0 <= index[b].min() and index[b].max() < views.shape[1]):
            raise IndexError("A view is none of those that there are.")
        _lay(width, falloff, margin, views[row[b]], index[b], offset[b], around, laid, colour)
        barest = f(0)
        for y in range(S):
            line = laid[y, around * (C + 1) :]
            mine, own = canvas[y, count * C * S :], seen[y, count * (C + 1) * S :]
            for x in range(S):
                total = line[x * (C + 1) + C]
                cover[x] = total / (total + f(1e-3))
                share[x] = cover[x] / (total + f(1e-6))
                own[C * S + x] = cover[x]
            for c in range(C):
                for x in range(S):
                    mine[c * S + x] = share[x] * line[x * (C + 1) + c] + (f(1) - cover[x]) * colour[c]
                    own[c * S + x] = cover[x] * mine[c * S + x]
                    bare[y, (count * C + c) * S + x] = f(1) - cover[x]
            if margin <= y < margin + H:
                for x in range(margin, margin + H):
                    barest = max(barest, f(1) - cover[x])
        waiting[count] = b
        if barest > BARE:
            count += 1
        else:
            _show(canvas, count, margin, shown[b])
        if count == TOGETHER or (count and b == len(row) - 1):
            _fill(reach, near, floor, smooth, even, margin, seen, bare, canvas)
            for n in range(count):
                _show(canvas, n, margin, shown[waiting[n]])
            count = 0


@compiled
def _show(canvas: Any, n: Any, margin: Any, shown: Any) -> None:
    """What the n-th canvas shows within the frame (C, H, H)."""
    C, H = shown.shape[:2]
    S = H + 2 * margin
    for c in range(C):
        for y in range(H):
            for x in range(H):
                shown[c, y, x] = canvas[margin + y, (n * C + c) * S + margin + x]


@compiled
def _fill(reach: Any, near: Any, floor: Any, smooth: Any, even: Any, margin: Any, seen: Any, bare: Any, canvas: Any) -> None:
    """What is bare of canvases, in place, from what is `seen` of them.

    An average along rows and columns leaves them turned, rows for columns, so that all else is held both ways.
    """
    S, channels = len(canvas), canvas.shape[1] // TOGETHER // len(canvas)
    half, around, mixed = np.empty_like(seen), np.empty_like(seen), np.empty_like(canvas)
    turned, filled = np.empty_like(canvas), np.zeros_like(canvas)
    left, believed = np.ones((S, TOGETHER * S), f), np.empty(S, f)
    for r in range(len(reach)):
        _blur(reach[r], near[r], 0, S, seen, half, around)
        for x in range(S):
            for n in range(TOGETHER):
                own = around[x, n * (channels + 1) * S :]
                for y in range(S):
                    believed[y] = left[x, n * S + y] / (own[channels * S + y] + floor[r])
                    left[x, n * S + y] = believed[y] * floor[r]
                for c in range(channels):
                    for y in range(S):
                        filled[x, (n * channels + c) * S + y] += believed[y] * own[c * S + y]
    known, known_turned, bare_turned = np.empty_like(canvas), np.empty_like(canvas), np.empty_like(canvas)
    for y in range(S):
        for n in range(TOGETHER):
            known[y, n * channels * S : (n + 1) * channels * S] = seen[y, n * (channels + 1) * S :][: channels * S]
    _turn(known, known_turned)
    _turn(bare, bare_turned)
    _turn(canvas, turned)
    for x in range(S):
        for n in range(TOGETHER):
            for c in range(channels):
                for y in range(S):
                    i = (n * channels + c) * S + y
                    turned[x, i] = known_turned[x, i] + bare_turned[x, i] * (filled[x, i] + left[x, n * S + y] * turned[x, i])
    first = margin // PART * PART
    for r in range(len(smooth)):
        begin, end = (first, S - first) if r == len(smooth) - 1 else (0, S)  # of the last, what the frames show
        if r % 2 == 0:
            _blur(smooth[r], even[r], begin, end, turned, filled, mixed)
            _renew(begin, end, known, bare, mixed, canvas)
        else:
            _blur(smooth[r], even[r], begin, end, canvas, filled, mixed)
            _renew(begin, end, known_turned, bare_turned, mixed, turned)
    if len(smooth) % 2 == 0:
        _turn(turned, canvas)


@compiled
def _renew(begin: Any, end: Any, known: Any, bare: Any, mixed: Any, canvas: Any) -> None:
    """What is known stays, what is bare becomes what is mixed of it, in rows `begin` to `end`."""
    for y in range(begin, end):
        for i in range(canvas.shape[1]):
            canvas[y, i] = known[y, i] + bare[y, i] * mixed[y, i]


@compiled
def _lay(width: Any, falloff: Any, margin: Any, views: Any, index: Any, offset: Any, around: Any, laid: Any, colour: Any) -> None:
    """Sums of K of the views (P, C, H, H) moved, pixel by pixel, with that of their weights; and their mean colour.

    `laid` has `around` more pixels at both ends of every row, so that no view that the canvas shows needs to be cut there.
    """
    (C, H), S, K = views.shape[1:3], len(laid), len(index)
    channels, reach = C + 1, TAILS * width
    taps = (int(2 * reach) + PART) // PART * PART  # pixels that the kernel reaches, and more that it does not
    # Rows of the view, and of the view moved along them, each after as many zeros as it may move; above and below are more such rows.
    long = (H + taps) * channels
    view, moved = np.zeros((H + 1) * long, f), np.zeros((H + 2 * taps) * long, f)
    right, down = np.empty(taps, f), np.empty(taps, f)
    laid[:] = f(0)
    colour[:] = f(0)
    share, nearest = f(0), f(math.inf)
    for k in range(K):
        nearest = min(nearest, math.sqrt(offset[k, 0] ** 2 + offset[k, 1] ** 2))
    for y in range(H):
        for x in range(H):
            view[y * long + (taps + x) * channels + C] = f(1)
    for k in range(K):
        away = falloff * math.sqrt(offset[k, 0] ** 2 + offset[k, 1] ** 2)
        weight, of_all = math.exp(-away), math.exp(falloff * nearest - away)
        share += of_all
        for c in range(C):
            source, total = views[index[k], c], f(0)
            for y in range(H):
                for x in range(H):
                    view[y * long + (taps + x) * channels + c] = source[y, x]
            for y in range(H):
                for x in range(H):
                    total += source[y, x]
            colour[c] += of_all * total * f(1 / H**2)
        top, first = math.ceil(f(margin) + offset[k, 0] - reach), math.ceil(f(margin) + offset[k, 1] - reach)
        if not (-H - taps < top < S and -H - taps < first < S):
            continue
        for j in range(taps):
            apart = f(top + j) - f(margin) - offset[k, 0]
            down[j] = weight * math.exp(f(-0.5) * (apart / width) ** 2) if apart <= reach else f(0)
            apart = f(first + j) - f(margin) - offset[k, 1]
            right[j] = math.exp(f(-0.5) * (apart / width) ** 2) if apart <= reach else f(0)
        into = moved[taps * long : (taps + H) * long]
        into[:] = f(0)
        for j in range(taps):
            part, source = right[j], view[(taps - j) * channels :]
            for i in range(H * long):
                into[i] += part * source[i]
        for y in range(max(top, 0), min(top + H + taps, S)):
            target = laid[y, (around + first) * channels : (around + first) * channels + long]
            for j in range(0, taps, PART):
                p, q, v, w = down[j], down[j + 1], down[j + 2], down[j + 3]
                begin = (taps + y - top - j) * long
                a, b, c_, d = moved[begin:], moved[begin - long :], moved[begin - 2 * long :], moved[begin - 3 * long :]
                for i in range(long):
                    target[i] += p * a[i] + q * b[i] + v * c_[i] + w * d[i]
    for c in range(C):
        colour[c] /= share


@inlined
def _blur(weight: Any, bands: Any, begin: Any, end: Any, x: Any, half: Any, blurred: Any) -> None:
    """Along columns and rows, of both those from `begin` to `end`, and turned; `half` is written over."""
    _mix(weight, bands, begin, end, x, blurred)
    _turn(blurred, half)
    _mix(weight, bands, begin, end, half, blurred)


@compiled
def _bands(weight: Any, least: Any) -> Any:
    """Where the weights (R, S, S) of every `PART` rows begin and end that count, from `least` on, in whole parts: (R, S / PART, 2)."""
    R, S = weight.shape[:2]
    bands = np.empty((R, S // PART, 2), np.int64)
    for r in range(R):
        for i in range(S // PART):
            first, last = S, 0
            for u in range(PART * i, PART * (i + 1)):
                for j in range(S):
                    if weight[r, u, j] > least:
                        first, last = min(first, j), max(last, j)
            parts = (last - first) // PART + 1
            bands[r, i, 0] = min(first, S - PART * parts)
            bands[r, i, 1] = bands[r, i, 0] + PART * parts
    return bands


@inlined
def _mix(weight: Any, bands: Any, begin: Any, end: Any, x: Any, mixed: Any) -> None:
    """mixed_i = sum_j weight_ij x_j, of rows i and j, four of those and four of these at once: so many weights stay at hand."""
    for i in range(begin, end, PART):
        m0, m1, m2, m3 = mixed[i], mixed[i + 1], mixed[i + 2], mixed[i + 3]
        for u in range(x.shape[1]):
            m0[u] = m1[u] = m2[u] = m3[u] = f(0)
        for j in range(bands[i // PART, 0], bands[i // PART, 1], PART):
            p0, p1, p2, p3 = weight[i, j], weight[i, j + 1], weight[i, j + 2], weight[i, j + 3]
            q0, q1, q2, q3 = weight[i + 1, j], weight[i + 1, j + 1], weight[i + 1, j + 2], weight[i + 1, j + 3]
            v0, v1, v2, v3 = weight[i + 2, j], weight[i + 2, j + 1], weight[i + 2, j + 2], weight[i + 2, j + 3]
            w0, w1, w2, w3 = weight[i + 3, j], weight[i + 3, j + 1], weight[i + 3, j + 2], weight[i + 3, j + 3]
            for u in range(x.shape[1]):
                a, b, c, d = x[j, u], x[j + 1, u], x[j + 2, u], x[j + 3, u]
                m0[u] += p0 * a + p1 * b + p2 * c + p3 * d
                m1[u] += q0 * a + q1 * b + q2 * c + q3 * d
                m2[u] += v0 * a + v1 * b + v2 * c + v3 * d
                m3[u] += w0 * a + w1 * b + w2 * c + w3 * d


@compiled
def _turn(x: Any, turned: Any) -> None:
    """Rows and columns change places, channel by channel."""
    side = len(x)
    for j in range(side):
        for c in range(x.shape[1] // side):
            for i in range(side):
                turned[j, c * side + i] = x[i, c * side + j]
