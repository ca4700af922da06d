"""Exact nearest neighbours: one function, two ways to the same answer.

Many small memories are searched by brute force on their own device; one large memory on the CPU through a forest (see there).
"""

from __future__ import annotations

from heapq import heapify, heappop, heapreplace

import torch
from torch import Tensor

from gtmsm_env.forest import Forest
from gtmsm_env.loops import loops_for

LARGE = 4096  # entries from which one memory on the CPU is searched through a tree


def nearest(query: Tensor, keys: Tensor, count: Tensor, k: int) -> Tensor:
    """Indices of the k keys nearest to each query (Euclidean), nearest first, equal ones in the order of their index.

    Args:
        query: (M, Q, n) float32, M memories with Q queries each
        keys: (M, N, n) float32
        count: (M,) int64, how many of the N keys of each memory are in use
        k: at most the smallest count

    Returns: (M, Q, k) int64. The search carries no gradient: distances are recomputed from the keys found.
    """
    with torch.no_grad():
        if keys.shape[0] == 1 and keys.shape[1] >= LARGE and keys.device.type == "cpu":
            return search_tree(query[0], keys[0, : int(count[0])], k)[None]
        return search_all(query, keys, count, k)


def nearest_before(x: Tensor, k: int) -> Tensor:
    """Indices of the k of x_1..x_{t-1} that are nearest to x_t, ordered as `nearest` does: x (M, T, n) -> (M, T, k).

    The first steps have fewer before them; the rest of their indices are t or later.
    """
    with torch.no_grad():
        index = torch.arange(x.shape[1], device=x.device)
        found = []
        for part in x.split(64):  # walks; their pairs of steps fill memory
            square = _square_distance(part[:, :, None], part[:, None])  # (m, T, T)
            found.append(_first(square.masked_fill_(index >= index[:, None], torch.inf), k))
        return torch.cat(found)


def spread(keys: Tensor, entries: int) -> Tensor:
    """Which so many of keys (N, n) are left after, again and again, of the two nearest to each other the earlier is dropped. In order."""
    x = keys.flip(0)  # of equal neighbours the last is the one that stays longest: all others are told of it
    near = nearest(x[None], x[None], torch.tensor([len(x)]), min(len(x), 17))[0]  # (N, 17), itself among them
    distance = _square_distance(x[:, None], x[near]).tolist()
    left = [True] * len(x)

    def closest(i: int) -> tuple[float, int, int]:
        """The distance to the nearest other that is left, and i, earlier ones first."""
        for square, j in zip(distance[i], near_list[i], strict=True):
            if j != i and left[j]:
                return square, -i, j
        others = torch.tensor(left).index_fill_(0, torch.tensor(i), False).nonzero().squeeze(1)
        found = others[_first(_square_distance(x[i], x[others]), min(len(others), 17))]
        near_list[i], distance[i] = found.tolist(), _square_distance(x[i], x[found]).tolist()
        return distance[i][0], -i, near_list[i][0]

    near_list = near.tolist()
    pairs = [closest(i) for i in range(len(x))]
    heapify(pairs)
    for _ in range(len(x) - entries):
        while not left[pairs[0][2]]:
            heapreplace(pairs, closest(-pairs[0][1]))
        left[-heappop(pairs)[1]] = False
    return torch.tensor(left).flip(0).nonzero().squeeze(1)


def search_all(query: Tensor, keys: Tensor, count: Tensor, k: int) -> Tensor:
    """Brute force, batched."""
    loops = loops_for("dream_compiled", query, keys)
    if loops and len(query) == len(keys) == len(count) and k <= keys.shape[1]:
        found: Tensor = loops.nearest(query, keys, count, k)
        return found
    square = _square_distance(query[:, :, None], keys[:, None])  # (M, Q, N)
    index = torch.arange(keys.shape[1], device=query.device)
    return _first(square.masked_fill_(index >= count[:, None, None], torch.inf), k)


def search_tree(query: Tensor, keys: Tensor, k: int) -> Tensor:
    """One memory that is asked once, through a forest. query (Q, n), keys (N, n) -> (Q, k)"""
    rows = keys.detach().float().numpy()
    return torch.from_numpy(Forest().grown(rows).nearest(query.detach().float().contiguous().numpy(), rows, k))


def _square_distance(query: Tensor, keys: Tensor) -> Tensor:
    """Squared distances of queries and keys (..., n) that broadcast: (...) float32, the same to the last bit wherever it is computed."""
    square = torch.zeros(torch.broadcast_shapes(query.shape, keys.shape)[:-1], dtype=torch.float32, device=query.device)
    for axis in range(query.shape[-1]):  # n is 2 or 3; differences keep digits that |q|^2 - 2qk + |k|^2 loses
        square += (query[..., axis] - keys[..., axis]).square()
    return square


def _first(square: Tensor, k: int, index: Tensor | None = None) -> Tensor:
    """The indices of the k smallest of (..., N) squares, smallest first, equal ones by index. index: (..., N), 0 to N - 1 by default"""
    if index is None:
        if k == 1:
            return square.argmin(dim=-1, keepdim=True)  # of equal ones the first, and three times as fast
        index = torch.arange(square.shape[-1], device=square.device)
    # Square and index share one integer, so that ties are exact: the bits of a float that is not negative are ordered as the float is.
    code = (square.view(torch.int32).to(torch.int64) << 32) | index
    return code.topk(k, dim=-1, largest=False).values & 0xFFFFFFFF
