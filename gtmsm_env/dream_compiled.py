"""The loops of a dream's step, compiled for one core of a CPU where no gradient is wanted; torch elsewhere computes the same.

`moves` stands in for `LinearWithWalls.rollout`, `judged` for the end of `DreamVectorEnv._move`, `distance` for `Nearby.distance`, `nearest`
for `neighbours.search_all`, `apart` for the search of `SpatialMemory.distinct`, `begin` for `Episodes.begin`: what they compute is told
there. Each is some ten operations of torch, of which most take longer to start than to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn

from gtmsm_env.transitions import LinearWithWalls
from gtmsm_env.types import Tolerance

# All of fastmath but what takes infinities for impossible: places and goals that a row lacks are nowhere.
compiled = njit(cache=True, error_model="numpy", fastmath={"contract", "reassoc", "arcp", "nsz", "afn"})
exact = njit(cache=True, error_model="numpy")  # to the last bit what torch computes
inlined = njit(inline="always")  # into loops whose own arrays it is given, which a CPU then need not suspect of overlapping

f = np.float32
ROWS, LANES = 256, 16  # whose moves are computed at once, by so many numbers in one instruction of the CPU at most


def arrays(*tensors: Tensor) -> list[Any]:
    """The same memory, as loops take it."""
    return [x.numpy() for x in tensors]


@compiled
def silu(x: Any) -> Any:
    """x (1 + tanh(x / 2)) / 2, of which tanh is a quotient of polynomials, to 1e-6."""
    y = min(max(f(0.5) * x, f(-7.9)), f(7.9))
    s = y * y
    p = f(-8.60467152213735e-11) + s * (f(2.00018790482477e-13) + s * f(-2.76076847742355e-16))
    p = f(4.89352455891786e-03) + s * (f(6.37261928875436e-04) + s * (f(1.48572235717979e-05) + s * (f(5.12229709037114e-08) + s * p)))
    q = f(4.89352518554385e-03) + s * (f(2.26843463243900e-03) + s * (f(1.18534705686654e-04) + s * f(1.19825839466702e-06)))
    return f(0.5) * x * (f(1) + y * p / q)


def moves(law: nn.Module) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """A law as a function of s (N, n) and a (N,) or (N, T) int64 to s_1..s_T and u_1..u_T (N, n) or (N, T, n), IndexError for no action.

    None if loops cannot compute it.
    """
    g, weights, where, moved = _prepared.get(law, (None, (), None, None))
    if g and g is law._modules["g"] and weights[0] is law._parameters["W_a"] and law.walls and [x.data_ptr() for x in weights] == where:
        return moved  # weights that change in place are seen
    if not isinstance(law, LinearWithWalls) or not law.walls or len(law.g) != 5:  # somebody's own walls
        return None
    if len(law.W_a) != 2 or len(next(law.g.parameters())) % 4:  # what loops are unrolled for
        return None
    weights, moved = (law.W_a, law.wall_scale, *law.g.parameters()), _moves_of(law)
    _prepared[law] = law.g, weights, [x.data_ptr() for x in weights], moved
    return moved


_prepared: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()  # of each law g, its weights, where they lie, and the function


def _moves_of(law: LinearWithWalls) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    first, _, second, _, last = law.g
    assert isinstance(last, nn.Linear)
    given = law.W_a, law.wall_scale, *first.parameters(), *second.parameters(), last.weight[0], last.bias
    # Where the hidden layer lies decides by a fifth how long the loops take: once and for all where torch puts it.
    prepared = arrays(*(x.detach() for x in given), torch.empty(len(next(second.parameters())), ROWS))

    def moved(s: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        after, u = s.new_empty(*a.shape, s.shape[1]), s.new_empty(*a.shape, s.shape[1])
        walks = [x.numpy() if a.dim() == 2 else x.numpy()[:, None] for x in (a, after, u)]
        _moves(*[*prepared, s.numpy(), *walks])
        return after, u

    return moved


@compiled
def _moves(W_a: Any, scale: Any, W: Any, b: Any, V: Any, c: Any, w: Any, d: Any, first: Any, s: Any, a: Any, after: Any, u: Any) -> None:
    """`ROWS` rows at a time, side by side in memory, so that whatever is done for one is done for all of them at once."""
    hidden, steps = len(b), a.shape[1]
    place, to = np.zeros((2, ROWS), f), np.zeros((2, ROWS), f)
    second, g = np.empty((4, ROWS), f), np.empty(ROWS, f)
    for begin in range(0, len(s), ROWS):
        rows = min(ROWS, len(s) - begin)
        width = (rows + LANES - 1) // LANES * LANES
        for r in range(rows):
            place[0, r], place[1, r] = s[begin + r]
        for t in range(steps):
            for r in range(rows):
                action = a[begin + r, t]
                if not 0 <= action < W_a.shape[1]:
                    raise IndexError("An action is none of the law's.")
                to[0, r] = (place[0, r] + W_a[0, action]) / scale[0]
                to[1, r] = (place[1, r] + W_a[1, action]) / scale[1]
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
            for r in range(rows):
                for i in range(2):
                    moved = g[r] * W_a[i, a[begin + r, t]]
                    place[i, r] += moved
                    u[begin + r, t, i], after[begin + r, t, i] = moved, place[i, r]


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


def judged(there: Tolerance, horizon: int, goals: Tensor, s: Tensor, steps: Tensor, ended: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Reward, terminated and truncated of rows that have come to s (N, n); steps (N,) are counted in place. `ended` ones stay silent."""
    reward, terminated, truncated = s.new_empty(s.shape[0]), torch.empty_like(ended), torch.empty_like(ended)
    near = f(there.radius**2), f(math.cos(there.angle) - 1e-6)
    _judged(*near, horizon, *arrays(goals, s, steps, ended, reward, terminated, truncated))
    return reward, terminated, truncated


@compiled
def _judged(
    square: Any, cos: Any, horizon: Any, goals: Any, s: Any, steps: Any, ended: Any, reward: Any, terminated: Any, truncated: Any
) -> None:
    (N, G), headings = goals.shape[:2], goals.shape[2] == 3
    for i in range(N):
        arrived = False
        for g in range(G):
            x, y = goals[i, g, 0] - s[i, 0], goals[i, g, 1] - s[i, 1]
            near = x * x + y * y <= square
            if near and headings:
                near = math.cos(goals[i, g, 2] - s[i, 2]) >= cos
            arrived |= near
        steps[i] += 1
        terminated[i] = arrived & ~ended[i]
        truncated[i] = (steps[i] >= horizon) & ~arrived & ~ended[i]
        reward[i] = terminated[i]


def distance(places: Tensor, x: Tensor) -> Tensor:
    """places (N or 1, m, P), x (N, m) -> (N,)."""
    found = x.new_empty(x.shape[0])
    _distance(*arrays(places, x, found))
    return found


@compiled
def _distance(places: Any, x: Any, found: Any) -> None:
    square = np.empty(places.shape[2], f)
    bits = square.view(np.int32)  # which order numbers as they do that are not negative, and of which vectors find the least
    for i in range(len(x)):
        own = places[min(i, len(places) - 1)]
        for p in range(len(square)):
            down, right = own[0, p] - x[i, 0], own[1, p] - x[i, 1]
            square[p] = down * down + right * right
        for d in range(2, len(own)):
            for p in range(len(square)):
                apart = own[d, p] - x[i, d]
                square[p] += apart * apart
        least = bits[0]
        for p in range(len(square)):
            least = min(least, bits[p])
        bits[0] = least
        found[i] = math.sqrt(max(square[0], f(1e-20)))


def nearest(query: Tensor, keys: Tensor, count: Tensor, k: int) -> Tensor:
    """query (M, Q, n), keys (M, N, n), of which `count` (M,) are used -> (M, Q, k) int64."""
    found = torch.empty(*query.shape[:2], k, dtype=torch.int64)
    if len(keys) > 1 and keys.stride(0) == 0:  # one memory for all
        query, keys, count = query.flatten(0, 1)[None], keys[:1], count[:1]
    _nearest(*arrays(query.contiguous(), keys.contiguous(), count.contiguous(), found.view(*query.shape[:2], k)))
    return found


@exact
def _nearest(query: Any, keys: Any, count: Any, found: Any) -> None:
    N, n = keys.shape[1:]
    room = (N + LANES - 1) // LANES * LANES
    own, square = np.zeros((n, room), f), np.empty(room, f)
    bits, codes = square.view(np.int32), np.empty(room, np.int64)
    for m in range(len(keys)):
        for i in range(N):
            for d in range(n):
                own[d, i] = keys[m, i, d]
        for q in range(query.shape[1]):
            square[:] = f(0)
            for d in range(n):
                x = query[m, q, d]
                for i in range(room):
                    square[i] += (x - own[d, i]) * (x - own[d, i])
            square[count[m] :] = np.inf
            for i in range(room):  # both in one number, so that the least is the first of those that are nearest
                codes[i] = np.int64(bits[i]) << 32 | i
            for j in range(found.shape[2]):
                least = codes[0]
                for i in range(room):
                    least = min(least, codes[i])
                found[m, q, j] = least & 0xFFFFFFFF
                codes[found[m, q, j]] = np.iinfo(np.int64).max


def apart(keys: Tensor, count: Tensor, radius: float) -> Tensor:
    """keys (M, N, n) of which the first `count` (M,) are used -> (M, N) bool."""
    keep = torch.zeros(keys.shape[:2], dtype=torch.bool)
    _apart(f(radius**2), *arrays(keys.contiguous(), count.contiguous(), keep))
    return keep


@compiled
def _apart(square: Any, keys: Any, count: Any, keep: Any) -> None:
    kept = np.empty(keys.shape[1:], f)
    for m in range(len(keys)):
        places = 0
        for i in range(count[m]):
            close = False
            for p in range(places):
                between = f(0)
                for d in range(keys.shape[2]):
                    between += (keys[m, i, d] - kept[p, d]) ** 2
                close |= between <= square
            if not close:
                kept[places] = keys[m, i]
                keep[m, i] = True
                places += 1


def begin(
    over: Tensor, begun: Tensor, drawn: Tensor, table: Tensor, mean: Tensor, displacement: Tensor, goals: Tensor, steps: Tensor
) -> None:
    """Rows `over` (N,) of all that follows, in place, by their table (N, E, 2 n + G n)."""
    _begin(*arrays(over, begun, drawn, table, mean, displacement, goals.flatten(1), steps))


@compiled
def _begin(over: Any, begun: Any, drawn: Any, table: Any, mean: Any, displacement: Any, goals: Any, steps: Any) -> None:
    n = mean.shape[1]
    for i in range(len(over)):
        if over[i]:
            own = table[i, begun[i] % drawn[i]]
            mean[i], displacement[i], goals[i] = own[:n], own[n : 2 * n], own[2 * n :]
            begun[i] += 1
            steps[i] = 0
