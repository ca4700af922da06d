"""Exact nearest neighbours in one large memory that is written while it is read: a few k-d trees or grids, and a short tail.

pykdtree's trees do not change. So consecutive entries share a tree, each tree is at least RATIO times as large as all that follows it,
and the last entries, fewer than BUFFER, are in none. What has become too large for the tree before it is built anew together with it:
an entry passes through few trees. Large ones are built on a thread while the old ones answer (pykdtree lets go of Python's lock).
Where Numba is and places lie evenly, a grid stands in for a tree: it answers several times as fast (see `forest_compiled`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pykdtree.kdtree import KDTree
from torch import Tensor

from gtmsm_env.loops import loops_for

T = TypeVar("T")
Floats = NDArray[np.float32]
Lift = Callable[[Tensor], Tensor]
"""Stored rows (..., m) -> the keys (..., n) whose Euclidean distances count, each row for itself: `phi`, for example."""

BUFFER = 1024  # entries; to compare a query with half as many costs what a tree costs it
RATIO = 32  # so 10^6 entries take two trees and 10^7 three, and an entry is built into each size some 16 times, at .1 to .2 us
AT_ONCE = 65_536  # entries; a tree of so many is built in less than 10 ms, and on no thread
MOST = 2048  # entries asked of one tree, beyond which all are compared: pykdtree sorts what it finds by insertion
ROUNDING = 1e-5  # relative; the trees sum and take roots in their own way
NOTHING = np.iinfo(np.int64).max  # the code after all others


def same(rows: Tensor) -> Tensor:
    """The rows are the keys."""
    return rows


@dataclass(frozen=True)
class Tree:
    """Entries start to end - 1."""

    start: int
    end: int
    grid: Any = None  # `forest_compiled.Grid` of their keys; or, where that is None, ...
    keys: Any = None  # ... these themselves, (end - start, n) float32, ...
    search: Any = None  # ... and pykdtree's KDTree of them

    def __len__(self) -> int:
        return self.end - self.start


class Later(Generic[T]):
    """What a thread is working out."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._found: list[T] = []
        self._thread = threading.Thread(target=lambda: self._found.append(work()), daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> T | None:
        """Waits for it. None if it did not come about: in a process that was forked meanwhile no thread works."""
        self._thread.join()
        return self._found[0] if self._found else None


@dataclass(frozen=True)
class Forest:
    """Trees over the first entries of a memory: a value, as the memory is; `grown` returns the next one, this one still answers.

    Stored rows are (N, m) float32 and are always handed in: all that this forest was grown over, unchanged, and what was written since.
    """

    lift: Lift = same
    trees: tuple[Tree, ...] = ()  # in the order of their entries, without gaps from entry 0 on
    rebuild: Later[Tree] | None = None  # the tree that takes the place of those ...
    rebuilt: int = 0  # ... of entries before this one, from some on

    def __reduce__(self) -> tuple[Any, ...]:
        return Forest, (self.lift,)  # trees cannot be copied, but are built again

    @property
    def end(self) -> int:
        """Entries that are in trees."""
        return self.trees[-1].end if self.trees else 0

    def grown(self, rows: Floats) -> Forest:
        """The forest to search `rows` with: at most BUFFER - 1 of them are left in no tree."""
        trees, rebuild, rebuilt, count = self.trees, self.rebuild, self.rebuilt, len(rows)
        if rebuild is not None and rebuild.done:
            if (tree := rebuild.result()) is not None:
                trees = (*(x for x in trees if x.end <= tree.start), tree, *(x for x in trees if x.start >= tree.end))
            rebuild, rebuilt = None, 0
        if count - self.end >= BUFFER:
            now, due = (_first_to_join(trees, count, rebuilt, most) for most in (AT_ONCE, count))
            trees = (*(x for x in trees if x.end <= now), self.build(rows, now, count))
            if due < now and rebuild is None:
                rebuild, rebuilt = Later(partial(self.build, rows, due, count)), count
        return self if trees is self.trees and rebuild is self.rebuild else Forest(self.lift, trees, rebuild, rebuilt)

    def build(self, rows: Floats, start: int, end: int) -> Tree:
        keys = np.ascontiguousarray(self._keys(rows[start:end]))
        # Grids part entries by the first two numbers, which tell too little where there are more than three.
        loops = loops_for("forest_compiled") if rows.shape[1] in (2, 3) else None
        if loops and (grid := loops.grid(keys, start)):
            return Tree(start, end, grid)
        return Tree(start, end, None, keys, KDTree(keys))

    def nearest(self, query: Floats, rows: Floats, k: int) -> NDArray[np.int64]:
        """Indices (Q, k) of the k rows whose keys are nearest to each query (Q, n), as `neighbours.nearest` orders them; k at most N."""
        if not len(query) or not k:
            return np.empty((len(query), k), np.int64)
        with np.errstate(over="ignore", invalid="ignore"):  # squares beyond float32 are infinite, here as elsewhere
            return self._nearest(query, rows, k, k + 1)

    def _nearest(self, query: Floats, rows: Floats, k: int, asked: int) -> NDArray[np.int64]:
        """asked: how many each tree is asked for. Where those beyond may be as near as the k-th, more are asked for."""
        trees, tail = self.trees, self.end
        if len(query) * (len(rows) - tail) > 4 * BUFFER:
            trees, tail = (*trees, self.build(rows, tail, len(rows))), len(rows)
        found: list[NDArray[np.int64]] = []  # (Q, .) codes of the candidates
        within = None  # (Q, 1) k entries are no farther, and later trees seldom have one as near
        farthest = None
        unsure = np.zeros((len(query), 1), bool)
        if grids := [tree.grid for tree in trees if tree.grid]:
            best = np.full((len(query), k), NOTHING)
            for grid in grids:
                grid.nearest(query, best)
            found.append(best)
            if best[0, -1] != NOTHING:
                within = np.sqrt((best[:, -1:] >> 32).astype(np.int32).view(np.float32)) * np.float32(1 + ROUNDING)
                farthest = max(float(within.max()), 1e-18)  # pykdtree finds what is nearer, by the square, than this
        for tree in trees:
            if tree.grid:
                continue
            distance, index = tree.search.query(query, k=min(asked, len(tree)), distance_upper_bound=farthest)
            if index.ndim == 1:
                distance, index = distance[:, None], index[:, None]
            width = index.shape[1]
            first = within is None and width >= k
            if first:
                within = distance[:, k - 1 : k] * np.float32(1 + ROUNDING)
                farthest = max(within[:, 0].tolist())
            if within is not None:
                near = distance <= within
                if not first:
                    width = np.count_nonzero(near[0] if len(near) == 1 else np.logical_or.reduce(near))
                    if not width:
                        continue
                if width == asked < len(tree):
                    unsure |= near[:, -1:]
            index = index[:, :width]
            square = _square_distance(query, tree.keys.take(index, axis=0, mode="clip"))
            if not first:
                square[index == len(tree)] = np.inf  # it has no more within the farthest
            found.append(_code(square, index + np.int64(tree.start)))
        if trees and not (farthest is not None and farthest < 1e18):  # beyond float32; or too few in any tree
            keys = self._keys(rows)
            return np.stack([_compared(q, keys, k) for q in query])
        if tail < len(rows):
            index = np.arange(tail, len(rows))
            if within is not None:
                kept = slice(rows.shape[1] if self.lift is same else 2)  # columns that are keys: a lower bound
                near = _square_distance(query[:, kept], rows[tail:, kept]) <= within * within
                index = index[near[0] if len(near) == 1 else np.logical_or.reduce(near)]
            if len(index):
                found.append(_code(_square_distance(query, self._keys(rows[index])), index))
        code = found[0] if len(found) == 1 else np.concatenate(found, axis=1)
        code.sort(axis=1)
        nearest: NDArray[np.int64] = code[:, :k] & 0xFFFFFFFF
        if unsure.any():
            again = unsure[:, 0]
            if asked < MOST:
                nearest[again] = self._nearest(query[again], rows, k, 8 * asked)
            else:
                keys = self._keys(rows)
                nearest[again] = [_compared(q, keys, k) for q in query[again]]
        return nearest

    def _keys(self, rows: Floats) -> Floats:
        keys: Floats = self.lift(torch.from_numpy(rows)).numpy()
        return keys


def _first_to_join(trees: tuple[Tree, ...], count: int, floor: int, most: int) -> int:
    """Where the tree begins that is to end at `count`: with the first that is too small for all after it, `most` entries in all.

    What lies before `floor` is being built anew already.
    """
    start = trees[-1].end if trees else 0
    for tree in reversed(trees):
        if tree.start < floor or count - tree.start > most:
            break
        if len(tree) < RATIO * (count - tree.end):
            start = tree.start
    return start


def _square_distance(query: Floats, keys: Floats) -> Floats:
    """query (Q, n), keys (Q, C, n) or (C, n) -> (Q, C), to the last bit what `neighbours` computes."""
    square = query[:, None] - keys
    square *= square
    total: Floats = square[..., 0]
    for axis in range(1, square.shape[-1]):
        total = total + square[..., axis]
    return total


def _code(square: Floats, index: NDArray[np.int64]) -> NDArray[np.int64]:
    """One number that is ordered as the square and then the index: as in `neighbours`."""
    code: NDArray[np.int64] = square.view(np.int32).astype(np.int64)
    code <<= 32
    code |= index
    return code


def _compared(query: Floats, keys: Floats, k: int) -> NDArray[np.int64]:
    """Of one query (n,) by brute force: (k,)"""
    code = _code(_square_distance(query[None], keys)[0], np.arange(len(keys)))
    code.partition(k - 1)
    return np.sort(code[:k]) & 0xFFFFFFFF
