"""The loops of small networks and of what frames are made of, compiled for one core of a CPU where no gradient is wanted; torch elsewhere
computes the same.

`moves` stands in for `LinearWithWalls.rollout`, `pasted` for the end of `PastedPatches.forward`, `looked_up` for `networks.looked_up`,
`looked_at` for `ViewsPrior.frames`.

All loops that call `silu` or `four` are in this file, as Numba compiles loops anew only where their own file has changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from operator import getitem
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from gtmsm_env.dream_compiled import arrays, compiled, exact, f, inlined, without_copies
from gtmsm_env.loops import LANES
from gtmsm_env.transitions import LinearWithWalls

MOVED = 256  # rows whose moves are computed at once
GATE = [nn.Linear, nn.SiLU, nn.Linear, nn.SiLU, nn.Linear]


@compiled
def silu(x: Any) -> Any:
    """x (1 + tanh(x / 2)) / 2, of which tanh is a quotient of polynomials, to 1e-6."""
    y = min(max(f(0.5) * x, f(-7.9)), f(7.9))
    s = y * y
    p = f(-8.60467152213735e-11) + s * (f(2.00018790482477e-13) + s * f(-2.76076847742355e-16))
    p = f(4.89352455891786e-03) + s * (f(6.37261928875436e-04) + s * (f(1.48572235717979e-05) + s * (f(5.12229709037114e-08) + s * p)))
    q = f(4.89352518554385e-03) + s * (f(2.26843463243900e-03) + s * (f(1.18534705686654e-04) + s * f(1.19825839466702e-06)))
    return f(0.5) * x * (f(1) + y * p / q)


@inlined
def four(weight: Any, bias: Any, j: Any, x: Any, y: Any, width: Any) -> None:
    """Outputs j to j + 3 of a linear layer (m, n), of four inputs at a time, so that their weights stay at hand.

    x (n, at least width) -> y (4, at least width)
    """
    y0, y1, y2, y3 = y[0], y[1], y[2], y[3]
    b0, b1, b2, b3 = bias[j], bias[j + 1], bias[j + 2], bias[j + 3]
    for r in range(width):
        y0[r], y1[r], y2[r], y3[r] = b0, b1, b2, b3
    for k in range(0, weight.shape[1], 4):
        p0, p1, p2, p3 = weight[j, k], weight[j, k + 1], weight[j, k + 2], weight[j, k + 3]
        q0, q1, q2, q3 = weight[j + 1, k], weight[j + 1, k + 1], weight[j + 1, k + 2], weight[j + 1, k + 3]
        v0, v1, v2, v3 = weight[j + 2, k], weight[j + 2, k + 1], weight[j + 2, k + 2], weight[j + 2, k + 3]
        w0, w1, w2, w3 = weight[j + 3, k], weight[j + 3, k + 1], weight[j + 3, k + 2], weight[j + 3, k + 3]
        for r in range(width):
            x0, x1, x2, x3 = x[k, r], x[k + 1, r], x[k + 2, r], x[k + 3, r]
            y0[r] += p0 * x0 + p1 * x1 + p2 * x2 + p3 * x3
            y1[r] += q0 * x0 + q1 * x1 + q2 * x2 + q3 * x3
            y2[r] += v0 * x0 + v1 * x1 + v2 * x2 + v3 * x3
            y3[r] += w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3


def moves(law: nn.Module) -> Moves | None:
    """A law's loops; None if they cannot compute it."""
    if (moved := _prepared.get(law)) and moved.fits(law):
        return moved
    if not isinstance(law, LinearWithWalls) or not law.walls or [type(layer) for layer in law.g] != GATE:  # somebody's own walls
        return None
    weights, h = (law.W_a, law.wall_scale, *law.g.parameters()), len(next(law.g.parameters()))
    shapes = [(2, law.W_a.shape[1]), (2,), (h, 2), (h,), (h, h), (h,), (1, h), (1,)]
    if [tuple(x.shape) for x in weights] != shapes or h % 4 or any(x.dtype != torch.float32 for x in weights):
        return None
    _prepared[law] = moved = Moves(law)
    return moved


_prepared: WeakKeyDictionary[nn.Module, Moves] = WeakKeyDictionary()


class Moves:
    """The steps of a law. IndexError for what is no action; then nothing has moved."""

    def __init__(self, law: LinearWithWalls) -> None:
        first, _, second, _, last = law.g
        assert isinstance(last, nn.Linear)
        given = law.W_a, law.wall_scale, *first.parameters(), *second.parameters(), last.weight[0], last.bias
        # The hidden layer stays where torch puts it: laid anew in each call it lies where loading it takes longer at times. As loops hold
        # the interpreter's lock, no two threads use it at once. Its rows are longer than they need to be: of 1024 bytes, too many of
        # them would share a place in the nearest cache.
        self._prepared = arrays(*(x.detach() for x in given), torch.empty(len(next(second.parameters())), MOVED + LANES))
        self._layers = list(law.g)
        held: list[tuple[Any, Any]] = [(law._parameters, "W_a"), (law._buffers, "wall_scale")]
        held += [(layer._parameters, name) for layer in self._layers for name in layer._parameters]
        self._held, self._names = zip(*held, strict=True)
        self._where = self._lie()

    def _lie(self) -> list[int]:
        weights: Iterator[Tensor] = map(getitem, self._held, self._names)
        return [*map(Tensor.data_ptr, weights)]

    def fits(self, law: nn.Module) -> bool:
        """Whether these are that law's still: of weights that change in place they are."""
        same = self._held[0] is law._parameters and [*law._modules["g"]._modules.values()] == self._layers  # type: ignore[union-attr]
        return same and bool(law.walls) and self._lie() == self._where

    def __call__(self, s: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """s (N, n) and a (N,) or (N, T) int64 -> s_1..s_T and u_1..u_T (N, n) or (N, T, n)."""
        after, u = s.new_empty(*a.shape, s.shape[1]), s.new_empty(*a.shape, s.shape[1])
        walks = [x.numpy() if a.dim() == 2 else x.numpy()[:, None] for x in (a, after, u)]
        _moves(*[*self._prepared, s.numpy(), *walks])
        return after, u

    def in_place(self, s: Any, a: Any, after: Any, u: Any) -> None:
        """Of arrays s (N, n) and a (N, T) int64 into s_1..s_T and u_1..u_T (N, T, n), which may lie where s does if T is 1."""
        _moves(*[*self._prepared, s, a, after, u])


@compiled
def _moves(W_a: Any, scale: Any, W: Any, b: Any, V: Any, c: Any, w: Any, d: Any, first: Any, s: Any, a: Any, after: Any, u: Any) -> None:
    """`MOVED` rows at a time, side by side in memory, so that whatever is done for one is done for all of them at once.

    Of plans that begin alike, as most of a planner's do, each beginning is walked once: rows share a `lane` until their actions differ.
    """
    hidden, steps, actions = len(b), a.shape[1], W_a.shape[1]
    place, before, to = np.zeros((2, MOVED), f), np.zeros((2, MOVED), f), np.zeros((2, MOVED), f)
    second, g = np.empty((4, MOVED), f), np.empty(MOVED, f)
    lane, parent, does = np.empty(MOVED, np.int32), np.empty(MOVED, np.int32), np.empty(MOVED, np.int32)  # of rows; of lanes
    taken = np.empty(MOVED * actions, np.int32)  # which lane goes on from one by an action
    for r in range(len(a)):  # before anything is written, as `after` may be s
        for t in range(steps):
            if not 0 <= a[r, t] < actions:
                raise IndexError("An action is an integer from 0 on, smaller than the number of actions; one of those given is not.")
    for begin in range(0, len(s), MOVED):
        rows = min(MOVED, len(s) - begin)
        lanes = 0
        for r in range(rows):
            x, y = s[begin + r]
            if steps == 1 or r == 0 or x != place[0, lanes - 1] or y != place[1, lanes - 1]:
                place[0, lanes], place[1, lanes] = x, y
                lanes += 1
            lane[r] = lanes - 1
        for t in range(steps):
            for r in range(rows):
                does[r] = a[begin + r, t]
            if lanes < rows:
                taken[: lanes * actions] = -1
                before[:, :lanes] = place[:, :lanes]
                lanes = 0
                for r in range(rows):
                    way = lane[r] * actions + does[r]
                    new = taken[way] < 0
                    own = lanes if new else taken[way]
                    taken[way], parent[own], does[own], lane[r] = own, lane[r], does[r], own
                    lanes += new
                for k in range(lanes):
                    place[0, k], place[1, k] = before[0, parent[k]], before[1, parent[k]]
            for k in range(lanes):
                to[0, k] = (place[0, k] + W_a[0, does[k]]) / scale[0]
                to[1, k] = (place[1, k] + W_a[1, does[k]]) / scale[1]
            width = (lanes + LANES - 1) // LANES * LANES
            for k in range(hidden):
                p, q, bias = W[k, 0], W[k, 1], b[k]
                for r in range(width):
                    first[k, r] = silu(bias + p * to[0, r] + q * to[1, r])
            for r in range(width):
                g[r] = d[0]
            for j in range(0, hidden, 4):
                four(V, c, j, first, second, width)
                p0, p1, p2, p3 = w[j], w[j + 1], w[j + 2], w[j + 3]
                for r in range(width):
                    g[r] += p0 * silu(second[0, r]) + p1 * silu(second[1, r]) + p2 * silu(second[2, r]) + p3 * silu(second[3, r])
            for r in range(width):
                g[r] = f(1) / (f(1) + f(math.exp(-g[r])))
            for k in range(lanes):
                for i in range(2):
                    to[i, k] = g[k] * W_a[i, does[k]]
                    place[i, k] += to[i, k]
            for r in range(rows):
                for i in range(2):
                    u[begin + r, t, i], after[begin + r, t, i] = to[i, lane[r]], place[i, lane[r]]


def pasted(patches: Tensor, bias: Tensor, size: tuple[int, ...], kernel: int, stride: int, padding: int) -> Tensor:
    """patches (N, places, channels * kernel^2), bias (channels,) -> (N, channels, *size)."""
    x = patches.new_empty(len(patches), len(bias), *size)
    _pasted(kernel, stride, padding, *arrays(patches, bias, x))
    return x


@compiled
def _pasted(kernel: Any, stride: Any, padding: Any, patches: Any, bias: Any, x: Any) -> None:
    height, width = x.shape[2:]
    across = (width + 2 * padding - kernel) // stride + 1
    canvas = np.empty((height + 2 * padding, width + 2 * padding), f)
    for n in range(len(x)):
        for c in range(len(bias)):
            canvas[:] = bias[c]
            for place in range(patches.shape[1]):
                top, left = place // across * stride, place % across * stride
                patch = patches[n, place, c * kernel**2 :]
                for i in range(kernel):
                    line = canvas[top + i, left:]
                    for j in range(kernel):
                        line[j] += patch[i * kernel + j]
            x[n, c] = canvas[padding : padding + height, padding : padding + width]


def looked_up(views: Tensor, row: Tensor, index: Tensor) -> Tensor:
    """views (M, P, C, H, W), row and index (N,) int64 -> uint8 (N, H, W, C)."""
    views, row = without_copies(views, row)
    C, H, W = views.shape[2:]
    frames = torch.empty(len(row), H, W, C, dtype=torch.uint8)
    _looked_up(*arrays(views.contiguous(), row, index.contiguous(), frames))
    return frames


@exact
def _looked_up(views: Any, row: Any, index: Any, frames: Any) -> None:
    H, W, C = frames.shape[1:]
    for n in range(len(row)):
        if not (0 <= row[n] < len(views) and 0 <= index[n] < views.shape[1]):
            raise IndexError("A view is none of those that there are.")
        view = views[row[n], index[n]]
        for c in range(C):
            for y in range(H):
                for x in range(W):
                    frames[n, y, x, c] = min(max(np.rint(view[c, y, x] * f(255)), f(0)), f(255))


def looked_at(canvas: Tensor, at: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames of `size` from as many places of each canvas (M, D, H', W'), `at` (N, 2) pixels from its corner: uint8 (N, H, W, D - 1)."""
    shared = len(canvas) > 1 and canvas.stride(0) == 0
    frames = torch.empty(len(at), *size, canvas.shape[1] - 1, dtype=torch.uint8)
    each = len(at) // max(1, len(canvas)) * (len(canvas) if shared else 1)
    _looked_at(each, *arrays((canvas[:1] if shared else canvas).contiguous(), at.contiguous(), frames))
    return frames


@exact
def _looked_at(each: Any, canvas: Any, at: Any, frames: Any) -> None:
    H, W, C = frames.shape[1:]
    for n in range(len(at)):
        if not (at[n, 0] >= 0 and at[n, 1] >= 0):
            raise ValueError("A place is told by finite numbers; given NaN or infinity. Look where the state became that.")
        of, first = canvas[n // each], (min(int(at[n, 0]), canvas.shape[2] - H - 1), min(int(at[n, 1]), canvas.shape[3] - W - 1))
        down, right = at[n, 0] - f(first[0]), at[n, 1] - f(first[1])
        for c in range(C):
            for y in range(H):
                above, below = of[c, first[0] + y, first[1] :], of[c, first[0] + y + 1, first[1] :]
                for x in range(W):
                    left = above[x] + down * (below[x] - above[x])
                    shown = left + right * (above[x + 1] + down * (below[x + 1] - above[x + 1]) - left)
                    frames[n, y, x, c] = min(max(np.rint(shown * f(255)), f(0)), f(255))
