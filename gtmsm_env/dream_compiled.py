"""The loops of a dream's step, compiled for one core of a CPU where no gradient is wanted; torch elsewhere computes the same.

`moves` stands in for `LinearWithWalls.forward`, `judged` for the end of `DreamVectorEnv._move`, `distance` for `Nearby.distance`, `apart`
for the search of `SpatialMemory.distinct`, `begin` for `Episodes.begin`: what they compute is told there. Each is some ten operations of
torch, of which most take longer to start than to do.
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

f = np.float32


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
    """A law as a function of s (N, n) and a (N,) int64 to s_t and u_t (N, n), IndexError for no action; None if loops cannot compute it."""
    g, weights, where, moved = _prepared.get(law, (None, (), None, None))
    if g and g is law._modules["g"] and weights[0] is law._parameters["W_a"] and law.walls and [x.data_ptr() for x in weights] == where:
        return moved  # weights that change in place are seen
    if not isinstance(law, LinearWithWalls) or not law.walls or len(law.g) != 5:  # somebody's own walls
        return None
    weights, moved = (law.W_a, law.wall_scale, *law.g.parameters()), _moves_of(law)
    _prepared[law] = law.g, weights, [x.data_ptr() for x in weights], moved
    return moved


_prepared: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()  # of each law g, its weights, where they lie, and the function


def _moves_of(law: LinearWithWalls) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    layers: list[Any] = [*law.g]
    first, _, second, _, last = layers
    W_a, w, b, c, v, d = (x.detach() for x in (law.W_a, first.weight, first.bias, second.bias, last.weight[0], last.bias))
    before, behind, weight = arrays(W_a, law.wall_scale, w, b), arrays(W_a, c, v, d), second.weight.detach().t()

    def moved(s: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        hidden, after, u = s.new_empty(s.shape[0], weight.shape[0]), torch.empty_like(s), torch.empty_like(s)
        there = arrays(s, a)
        _hidden(*[*before, *there, hidden.numpy()])
        _gated(*[*behind, *there, *arrays(hidden @ weight, after, u)])
        return after, u

    return moved


@compiled
def _hidden(W_a: Any, scale: Any, weight: Any, bias: Any, s: Any, a: Any, hidden: Any) -> None:
    """The first layer of g, at what the moves would lead to."""
    rows = weight.T.copy()
    for i in range(len(s)):
        if not 0 <= a[i] < W_a.shape[1]:
            raise IndexError("An action is none of the law's.")
        for j in range(len(bias)):
            hidden[i, j] = bias[j]
        for d in range(s.shape[1]):
            x = (s[i, d] + W_a[d, a[i]]) / scale[d]
            for j in range(len(bias)):
                hidden[i, j] += rows[d, j] * x
        for j in range(len(bias)):
            hidden[i, j] = silu(hidden[i, j])


@compiled
def _gated(W_a: Any, bias: Any, weight: Any, last: Any, s: Any, a: Any, hidden: Any, after: Any, u: Any) -> None:
    """The last layer of g, and equation 4."""
    for i in range(len(s)):
        x = last[0]
        for j in range(len(bias)):
            x += weight[j] * silu(hidden[i, j] + bias[j])
        g = f(1) / (f(1) + f(math.exp(-x)))
        for d in range(s.shape[1]):
            u[i, d] = g * W_a[d, a[i]]
            after[i, d] = s[i, d] + u[i, d]


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
            apart = own[0, p] - x[i, 0]
            square[p] = apart * apart
        for d in range(1, len(own)):
            for p in range(len(square)):
                apart = own[d, p] - x[i, d]
                square[p] += apart * apart
        least = bits[0]
        for p in range(len(square)):
            least = min(least, bits[p])
        bits[0] = least
        found[i] = math.sqrt(max(square[0], f(1e-20)))


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
