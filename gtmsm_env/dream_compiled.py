"""The loops of a dream's step, compiled for one core of a CPU where no gradient is wanted; torch elsewhere computes the same.

`judged` stands in for the end of `DreamVectorEnv._move`, `distance` for `Nearby.distance`, `nearest` for `neighbours.search_all`, `apart`
for the search of `SpatialMemory.distinct`, `begin` for `Episodes.begin`, `chosen` for `choose_goals`: what they compute is told there. Most
is in torch a dozen small operations, which take longer to start than to do. `Stepping` is a whole step, for which torch starts none.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from gtmsm_env.loops import LANES
from gtmsm_env.types import Tolerance

if TYPE_CHECKING:
    from gtmsm_env.episodes import Episodes
    from gtmsm_env.networks_compiled import Moves

# All of fastmath but what takes infinities for impossible: places and goals that a row lacks are nowhere.
compiled = njit(cache=True, error_model="numpy", fastmath={"contract", "reassoc", "arcp", "nsz", "afn"})
exact = njit(cache=True, error_model="numpy")  # to the last bit what torch computes
inlined = njit(inline="always")  # into loops whose own arrays it is given, which a CPU then need not suspect of overlapping

f = np.float32


def arrays(*tensors: Tensor) -> list[Any]:
    """The same memory, as loops take it."""
    return [x.numpy() for x in tensors]


def without_copies(views: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """What memories hold (M, ...), and whose a row asks for (N,): where all share one memory, that one, which loops need once."""
    return (views[:1], torch.zeros_like(row)) if len(views) > 1 and views.stride(0) == 0 else (views, row)


def bounds(there: Tolerance) -> tuple[Any, Any]:
    """As loops compare with them: the square of the radius, and the cosine of the angle."""
    return f(there.radius**2), f(math.cos(there.angle) - 1e-6)


def judged(there: Tolerance, horizon: int, goals: Tensor, s: Tensor, steps: Tensor, ended: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Reward, terminated and truncated of rows that have come to s (N, n); steps (N,) are counted in place. `ended` ones stay silent."""
    reward, terminated, truncated = s.new_empty(s.shape[0]), torch.empty_like(ended), torch.empty_like(ended)
    _judged(*bounds(there), horizon, *arrays(goals, s, steps, ended, reward, terminated, truncated))
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
    _distance(*arrays(places, x, torch.arange(len(x)), found))
    return found


@compiled
def _distance(places: Any, x: Any, rows: Any, found: Any) -> None:
    square = np.empty(places.shape[2], f)
    bits = square.view(np.int32)  # which order numbers as they do that are not negative, and of which vectors find the least
    for r in range(len(rows)):
        i = rows[r]
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
        found[r] = math.sqrt(max(square[0], f(1e-20)))


def nearest(query: Tensor, keys: Tensor, count: Tensor, k: int) -> Tensor:
    """query (M, Q, n), keys (M, N, n), of which `count` (M,) are used -> (M, Q, k) int64, k at most N."""
    found = torch.empty(*query.shape[:2], k, dtype=torch.int64)
    if len(keys) > 1 and keys.stride(0) == count.stride(0) == 0:  # one memory for all
        query, keys, count = query.flatten(0, 1)[None], keys[:1], count[:1]
    _nearest(*arrays(query.contiguous(), keys.contiguous(), count.contiguous(), found.view(*query.shape[:2], k)))
    return found


@exact
def _nearest(query: Any, keys: Any, count: Any, found: Any) -> None:
    N, n = keys.shape[1:]
    room, last = (N + LANES - 1) // LANES * LANES, np.iinfo(np.int64).max
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
            for i in range(N):  # both in one number, so that the least is the first of those that are nearest
                codes[i] = np.int64(bits[i]) << 32 | i
            codes[N:] = last
            for j in range(found.shape[2]):
                least = codes[0]
                for i in range(room):
                    least = min(least, codes[i])
                found[m, q, j] = least & 0xFFFFFFFF
                codes[found[m, q, j]] = last


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


def chosen(
    number: Tensor, start: Tensor, s: Tensor, count: Tensor, label: Tensor, there: Tolerance, radius: float
) -> tuple[Tensor, Tensor]:
    """See `episodes.choose_goals`; label: (R, P) int64 as in its `looks`. Cosines of headings may differ from torch's in the last bit."""
    entry, choices = torch.zeros(number.shape, dtype=torch.int64), torch.empty(number.shape, dtype=torch.int64)
    given = (x.contiguous() for x in (number, start, s, count, label))
    _chosen(*bounds(there), f(radius**2), *arrays(*given, entry, choices))
    return entry, choices


@exact
def _chosen(square: Any, cos: Any, near: Any, number: Any, start: Any, s: Any, count: Any, label: Any, entry: Any, choices: Any) -> None:
    allowed, at_start, headings = np.empty(s.shape[1], np.int64), np.empty(s.shape[1], np.bool_), s.shape[2] == 3
    for r in range(len(s)):
        found = 0
        for e in range(number.shape[1]):
            if e < start.shape[1]:
                x = start[r, e]
                at_start[:] = False  # by the first place that looks as a place does
                for p in range(s.shape[1]):
                    apart = (s[r, p, 0] - x[0]) ** 2 + (s[r, p, 1] - x[1]) ** 2
                    if headings:
                        apart += (math.cos(s[r, p, 2]) - math.cos(x[2])) ** 2 + (math.sin(s[r, p, 2]) - math.sin(x[2])) ** 2
                    at_start[label[r, p]] |= apart <= near
                found = 0
                for p in range(count[r]):
                    there = (s[r, p, 0] - x[0]) ** 2 + (s[r, p, 1] - x[1]) ** 2 <= square
                    if there and headings:
                        there = math.cos(s[r, p, 2] - x[2]) >= cos
                    if not there and not at_start[label[r, p]]:
                        allowed[found] = p
                        found += 1
            choices[r, e] = found
            if found:
                entry[r, e] = allowed[int(number[r, e] * found)]


def begin(
    rows: Tensor, begun: Tensor, drawn: Tensor, table: Tensor, mean: Tensor, displacement: Tensor, goals: Tensor, steps: Tensor
) -> None:
    """Rows (R,) of all that follows, in place, by their table (N, E, 2 n + G n)."""
    _begin(*arrays(rows, begun, drawn, table, mean, displacement, goals.flatten(1), steps))


@compiled
def _begin(rows: Any, begun: Any, drawn: Any, table: Any, mean: Any, displacement: Any, goals: Any, steps: Any) -> None:
    n = mean.shape[1]
    for i in rows:
        own = table[i, begun[i] % drawn[i]]
        mean[i], displacement[i], goals[i] = own[:n], own[n : 2 * n], own[2 * n :]
        begun[i] += 1
        steps[i] = 0


class Stepping:
    """All that steps of a dream change and read, as arrays that lie where its tensors do; its states are places, its law is `Moves`."""

    def __init__(self, moves: Moves, there: Tolerance, unit: float, now: Episodes, over: Tensor, places: Tensor) -> None:
        """unit: the length of a step; places: (N or 1, 2, P), as `Nearby` keeps them"""
        self.moves = moves
        self._bounds, self._unit = bounds(there), f(unit)
        self.mean, self.displacement, self.steps, self.begun, self.drawn, self._table = arrays(
            now.mean, now.displacement, now.steps, now.begun, now.drawn, now.table
        )
        self._goals, self._flat_goals, self.over, self._places = arrays(now.goals, now.goals.flatten(1), over, places)
        self._walked = self.mean[:, None], self.displacement[:, None]  # as walks of one step
        self._all = np.arange(len(self.mean))

    def move(self, actions: Any, horizon: int) -> tuple[Any, Any, Any]:
        """All rows by actions (N,): reward float32, terminated and truncated, all zero of rows that were over."""
        # Of one kind to all that compile loops: contiguous, and not read-only.
        self.moves.in_place(self.mean, actions.astype(np.int64)[:, None], *self._walked)
        rows = len(actions)
        reward, terminated, truncated = np.empty(rows, f), np.empty(rows, np.bool_), np.empty(rows, np.bool_)
        _judged(*self._bounds, horizon, self._goals, self.mean, self.steps, self.over, reward, terminated, truncated)
        return reward, terminated, truncated

    def begin(self, rows: Any) -> None:
        """Rows (R,) begin their next episode."""
        _begin(rows, self.begun, self.drawn, self._table, self.mean, self.displacement, self._flat_goals, self.steps)

    def told(self, rows: Any = None) -> dict[str, Any]:
        """What `belief.told` says of rows (R,) or all, without obstacles."""
        rows = self._all if rows is None else rows
        state, goal = np.empty((len(rows), 2), f), np.empty((len(rows) if self._goals.shape[1] else 0, 2), f)
        novelty = np.empty(len(rows), f)
        _told(self._unit, self._places, self._goals, self.mean, rows, state, goal, novelty)
        shown = {"state": state, "novelty": novelty[:, None]}
        return shown | {"goal_state": goal} if len(goal) else shown


@exact
def _told(unit: Any, places: Any, goals: Any, s: Any, rows: Any, state: Any, goal: Any, novelty: Any) -> None:
    """Divided to the last bit as torch does, which tells how rows begin."""
    _distance(places, s, rows, novelty)
    for r in range(len(rows)):
        novelty[r] /= unit
        for d in range(2):
            state[r, d] = s[rows[r], d] / unit
            if len(goal):
                goal[r, d] = goals[rows[r], 0, d] / unit
