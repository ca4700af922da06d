"""A uniform grid over entries in the plane, compiled for one core of a CPU: what a forest asks in the place of a k-d tree, exact as well.

A k-d tree of 10^7 entries misses the CPU's caches at one level after another. Here the entries near a query lie in three runs of memory,
whose ends are known from the query's cell: it misses less often, and those misses of many queries at the same time.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from gtmsm_env.forest import NOTHING

exact = njit(cache=True, error_model="numpy", nogil=True)  # to the last bit what NumPy computes, while other threads go on
inlined = njit(inline="always")

f = np.float32
FILLED = 2  # entries a cell, on average
CROWDED = 64  # entries in an entry's own cell, on average, beyond which a k-d tree is as fast
TOGETHER = 128  # queries whose entries lie in the core's own cache together


class Grid(NamedTuple):
    """Entries in the order of their cells; cells are counted row by row from the corner (x, y)."""

    entries: Any  # (N, n + 1) float32: the key, and the bits of the index
    first: Any  # (cells + 2,) int32: where each cell's entries begin
    x: float
    y: float
    side: float  # of a cell
    columns: int
    rows: int

    def nearest(self, query: Any, best: Any) -> None:
        """Put what is nearer to queries (Q, n) into the codes (Q, k) of the k nearest found before, in order."""
        _nearest(self, query, best)


def grid(keys: Any, start: int) -> Grid | None:
    """Of keys (N, n), those of the entries from `start` on; None where they lie too unevenly."""
    (x, y), (right, bottom) = keys.min(axis=0)[:2].tolist(), keys.max(axis=0)[:2].tolist()
    width, height, cells = right - x, bottom - y, max(len(keys) / FILLED, 2)
    half = (width + height) / 2 / (cells - 1)
    side = half + math.sqrt(half**2 + width * height / (cells - 1))  # (width / side + 1) (height / side + 1) = cells
    if not 0 < side < math.inf:
        return None
    columns, rows = int(width / side) + 1, int(height / side) + 1
    found = Grid(np.empty((len(keys), keys.shape[1] + 1), f), np.zeros(columns * rows + 2, np.int32), x, y, side, columns, rows)
    cell = np.empty(len(keys), np.int32)
    if _count(found, keys, cell) > CROWDED * len(keys):
        return None
    _sort(found, keys, cell, start)
    return found


@inlined
def _cell(t: Any, count: Any) -> Any:
    """Of so many cells in a row, each of length 1, that which t lies in or nearest to."""
    return 0 if not t > 0 else (count - 1 if t >= count else int(t))


@inlined
def _place(grid: Any, keys: Any, i: Any) -> Any:
    """Column and row of the cell of a key."""
    return _cell((keys[i, 0] - grid.x) / grid.side, grid.columns), _cell((keys[i, 1] - grid.y) / grid.side, grid.rows)


@exact
def _count(grid: Any, keys: Any, cell: Any) -> Any:
    """Which cell each entry lies in, where the entries of each begin, and how many entries all entries have in their cells."""
    first, shared = grid.first, 0.0
    for i in range(len(keys)):
        column, row = _place(grid, keys, i)
        cell[i] = row * grid.columns + column
        first[cell[i] + 2] += 1
    for c in range(2, len(first)):
        shared += float(first[c]) * first[c]
        first[c] += first[c - 1]
    return shared


@exact
def _sort(grid: Any, keys: Any, cell: Any, start: Any) -> None:
    """What begins one cell late is moved to where it belongs while the cell before it is filled."""
    entries, first, n = grid.entries, grid.first, keys.shape[1]
    index = entries.view(np.int32)
    for i in range(len(keys)):
        at = first[cell[i] + 1]
        first[cell[i] + 1] += 1
        for d in range(n):
            entries[at, d] = keys[i, d]
        index[at, n] = start + i


@exact
def _nearest(grid: Any, query: Any, best: Any) -> Any:
    entries, first, columns, rows = grid.entries, grid.first, grid.columns, grid.rows
    index, last, k, touched = entries.view(np.int32), len(entries) - 1, best.shape[1], f(0)
    for begin in range(0, len(query), TOGETHER):
        end = min(begin + TOGETHER, len(query))
        for q in range(begin, end):  # nothing here waits for what is not yet in the cache
            column, row = _place(grid, query, q)
            for r in range(row - 1, row + 2):
                line = min(max(r, 0), rows - 1) * columns
                i, j = first[line + max(column - 1, 0)], first[line + min(column + 2, columns)]
                touched += entries[min(i, last), 0] + entries[min((i + j) // 2, last), 0] + entries[min(j, last), 0]
        for q in range(begin, end):
            x, own, (column, row) = query[q], best[q], _place(grid, query, q)
            left = right = top = bottom = 0
            if own[k - 1] == NOTHING:  # then a block of cells around the query that holds k entries comes first
                half, held = 1, 0
                while held < min(k, len(entries)):
                    left, right = max(column - half, 0), min(column + half + 1, columns)
                    top, bottom = max(row - half, 0), min(row + half + 1, rows)
                    half, held = 2 * half, 0
                    for r in range(top, bottom):
                        held += first[r * columns + right] - first[r * columns + left]
                for r in range(top, bottom):
                    _compare(entries, index, first[r * columns + left], first[r * columns + right], x, own)
                if own[k - 1] == NOTHING:
                    continue
            # All other cells that are no farther than the k-th; what is added to that outweighs all rounding.
            reach = math.sqrt(np.int32(own[k - 1] >> 32).view(f) * (1 + 1e-6) + 1e-44) / grid.side + 1e-9
            u, v = (x[0] - grid.x) / grid.side, (x[1] - grid.y) / grid.side
            for r in range(_cell(v - reach, rows), _cell(v + reach, rows) + 1):
                down = max(r - v, v - r - 1, 0.0)
                across = math.sqrt(max(reach * reach - down * down, 0.0))
                a, b = _cell(u - across, columns), _cell(u + across, columns) + 1
                if top <= r < bottom:
                    _compare(entries, index, first[r * columns + a], first[r * columns + max(a, left)], x, own)
                    a = max(a, right)
                _compare(entries, index, first[r * columns + a], first[r * columns + max(a, b)], x, own)
    return touched  # or else it would not be


@inlined
def _compare(entries: Any, index: Any, begin: Any, end: Any, x: Any, best: Any) -> None:
    """Entries `begin` to `end` with the best so far."""
    n, last = len(x), len(best) - 1
    for i in range(begin, end):
        square = f(0)
        for d in range(n):
            apart = x[d] - entries[i, d]
            square += apart * apart
        code = np.int64(f(square).view(np.int32)) << 32 | index[i, n]
        if code < best[last]:
            at = last
            while at > 0 and best[at - 1] > code:
                best[at] = best[at - 1]
                at -= 1
            best[at] = code
