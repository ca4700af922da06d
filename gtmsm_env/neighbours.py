"""Exact nearest neighbours: one function, two ways to the same answer.

Many small memories are searched by brute force on their own device; one large memory on the CPU through pykdtree.
"""

from __future__ import annotations

import numpy as np
import torch
from pykdtree.kdtree import KDTree
from torch import Tensor

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


def search_all(query: Tensor, keys: Tensor, count: Tensor, k: int) -> Tensor:
    """Brute force, batched. Distance and index share one integer, so that ties are exact and ordered by index."""
    square = torch.zeros(query.shape[0], query.shape[1], keys.shape[1], device=query.device)
    for axis in range(query.shape[-1]):  # n is 2 or 3; differences keep digits that |q|^2 - 2qk + |k|^2 loses
        square += (query[:, :, None, axis] - keys[:, None, :, axis]).square()
    index = torch.arange(keys.shape[1], device=query.device)
    square.masked_fill_(index >= count[:, None, None], torch.inf)
    # the bits of a float that is not negative are ordered as the float is
    code = (square.view(torch.int32).to(torch.int64) << 32) | index
    return code.topk(k, dim=-1, largest=False).values & 0xFFFFFFFF


def search_tree(query: Tensor, keys: Tensor, k: int) -> Tensor:
    """One memory through a k-d tree. query (Q, n), keys (N, n) -> (Q, k)"""
    tree = KDTree(keys.numpy())
    more = min(len(keys), 2 * k)  # room to put ties at the border into the order of their index
    distance, index = tree.query(query.numpy(), k=more)
    distance, index = distance.reshape(len(query), more), index.reshape(len(query), more).astype(np.int64)
    order = np.lexsort((index, distance), axis=-1)[:, :k]
    return torch.from_numpy(np.take_along_axis(index, order, axis=1))
