"""Nearest neighbours against plain Python, ties included, in both ways of searching."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from gtmsm_env import neighbours
from gtmsm_env.neighbours import _first, nearest, nearest_before, search_all, search_tree


def slow(query: Tensor, keys: Tensor, k: int) -> list[list[int]]:
    """One memory: sorted by squared distance in float32, then by index."""
    found = []
    for q in query.numpy():
        square = []
        for key in keys.numpy():
            total = np.float32(0)
            for axis in range(len(q)):
                total += np.float32(q[axis] - key[axis]) ** 2
            square.append(total)
        found.append(sorted(range(len(keys)), key=lambda i: (square[i], i))[:k])
    return found


def grid(count: int, size: int = 2, seed: int = 0, side: int = 5) -> Tensor:
    """Places on a small grid, drawn with repeats: most distances tie."""
    return torch.randint(side, (count, size), generator=torch.Generator().manual_seed(seed)).float()


def scattered(count: int, size: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("draw", [grid, scattered])
def test_both_ways_are_plain_python(draw: Callable[..., Tensor], size: int) -> None:
    keys, query = draw(60, size), draw(20, size, seed=1)
    for k in (1, 7, 30, 60):
        expected = slow(query, keys, k)
        assert search_tree(query, keys, k).tolist() == expected
        assert search_all(query[None], keys[None], torch.tensor([60]), k)[0].tolist() == expected


def test_a_batch_of_memories_of_unequal_size() -> None:
    """Padding is never found, wherever it lies."""
    count = torch.tensor([5, 12, 9])
    keys = torch.stack([grid(12, seed=row) for row in range(3)])
    query = torch.stack([grid(6, seed=row + 10) for row in range(3)])
    for row, used in enumerate(count):
        keys[row, used:] = query[row, 0]  # as near as can be
    for k in (1, 5):
        index = nearest(query, keys, count, k)
        assert index.shape == (3, 6, k)
        for row, used in enumerate(count):
            assert index[row].tolist() == slow(query[row], keys[row, :used], k)


@pytest.mark.parametrize("walks", [2, 70])
def test_what_came_before_is_plain_python(walks: int) -> None:
    """Ties too; what there is not before a step is told by indices from it on."""
    x = torch.stack([grid(9, 3, seed=row) for row in range(walks)])
    index = nearest_before(x, 4)
    assert index.shape == (walks, 9, 4)
    for row, t in itertools.product(range(walks), range(9)):
        before = slow(x[row, t, None], x[row, :t], 4)[0] if t else []
        assert index[row, t, : len(before)].tolist() == before
        assert (index[row, t, len(before) :] >= t).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (50, 60), (3, 5, 257), (1, 4095), (2, 70_000)])
def test_the_nearest_alone_is_the_first_of_several(shape: tuple[int, ...]) -> None:
    """One is found in another way than more are. Of equal ones it is the first, infinite ones included."""
    square = torch.randint(4, shape, generator=torch.Generator().manual_seed(0)).float()
    square[square == 0] = torch.inf
    square[..., : shape[-1] // 2] += 1  # the smallest come late
    square[0] = torch.inf
    more = min(2, shape[-1])
    found = _first(square, more)[..., :1] if more > 1 else torch.zeros(*shape[:-1], 1, dtype=torch.int64)
    assert torch.equal(_first(square, 1), found)


def test_small_differences_far_from_the_origin_are_told_apart() -> None:
    """|q|^2 - 2 q k + |k|^2 would lose them."""
    keys = 1000 + torch.tensor([[0.3, 0], [0.2, 0], [0.1, 0], [0, 0.05]])
    query = torch.full((1, 2), 1000.0)
    assert search_all(query[None], keys[None], torch.tensor([4]), 4)[0].tolist() == search_tree(query, keys, 4).tolist() == [[3, 2, 1, 0]]


@pytest.mark.parametrize("entries", [4096, 5000])
def test_a_large_memory_is_searched_through_the_tree(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, query = scattered(entries), scattered(40, seed=1)
    used = torch.tensor([entries - 7])
    expected = search_all(query[None], keys[None], used, 8)
    monkeypatch.setattr(neighbours, "search_all", None)  # a search without ties needs no other way
    assert torch.equal(nearest(query[None], keys[None], used, 8), expected)


@pytest.mark.parametrize("side", [1, 2, 12])
def test_ties_in_a_large_memory_are_in_order(side: int) -> None:
    """Places that were visited often: far more entries tie than were asked for, and the first written are the ones found."""
    keys, query = grid(4500, seed=2, side=side), grid(90, seed=3, side=side)
    for k in (1, 5):
        index = search_tree(query, keys, k)
        assert torch.equal(index, search_all(query[None], keys[None], torch.tensor([4500]), k)[0])
        assert index[:2].tolist() == slow(query[:2], keys, k)
    assert (search_tree(query, keys, 5).diff(dim=-1) > 0).all()


def test_ties_that_differ_by_rounding_in_a_large_memory() -> None:
    """The tree sums and takes roots in its own way; which of two almost equal distances is smaller, both ways say alike."""
    angle = torch.rand(4200, generator=torch.Generator().manual_seed(0)) * 6.2831853
    keys, query = torch.stack([angle.cos(), angle.sin()], dim=-1), torch.zeros(1, 2)
    assert torch.equal(search_tree(query, keys, 6), search_all(query[None], keys[None], torch.tensor([4200]), 6)[0])


def test_a_search_carries_no_gradient_and_takes_what_does() -> None:
    for entries in (10, 4096):
        keys = scattered(entries).requires_grad_()
        index = nearest(keys[None, :3], keys[None], torch.tensor([entries]), 1)
        assert not index.requires_grad
        assert index.flatten().tolist() == [0, 1, 2]


def test_states_of_double_precision() -> None:
    for entries in (10, 4096):
        keys = scattered(entries)
        expected = nearest(keys[None, :3], keys[None], torch.tensor([entries]), 2)
        assert torch.equal(nearest(keys[None, :3].double(), keys[None].double(), torch.tensor([entries]), 2), expected)
