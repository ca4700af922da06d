"""Grids against brute force, ties included: however entries lie, wherever they are asked for."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch

from gtmsm_env import forest as module
from gtmsm_env.forest import NOTHING, Floats, Forest, Lift, same
from gtmsm_env.neighbours import search_all
from gtmsm_env.types import phi

pytest.importorskip("numba")

from gtmsm_env import forest_compiled

KINDS = ["even", "clusters", "a lattice", "a line", "a slope", "one place", "far outliers", "tiny", "far away"]


def drawn(kind: str, count: int, size: int, random: np.random.Generator) -> Floats:
    even, normal = random.random((count, size)), random.normal(size=(count, size))
    rows = {
        "even": lambda: 20 * even,
        "clusters": lambda: random.integers(0, 4, (count, size)) + 1e-4 * normal,
        "a lattice": lambda: random.integers(0, 12, (count, size)),
        "a line": lambda: even * [1, *[0] * (size - 1)],
        "a slope": lambda: even[:, :1] + 1e-3 * normal,
        "one place": lambda: np.ones((count, size)),
        "far outliers": lambda: np.where(even < 0.01, 1e6, normal),
        "tiny": lambda: 1e-24 * random.integers(0, 9, (count, size)),  # squares vanish
        "far away": lambda: 1e7 + normal,  # places are rounded to halves
    }[kind]()
    return np.asarray(rows, dtype=np.float32)


def lifted(rows: Floats, lift: Lift) -> Floats:
    keys: Floats = lift(torch.from_numpy(rows)).numpy()
    return keys


def slow(query: Floats, keys: Floats, k: int) -> list[list[int]]:
    found = search_all(torch.from_numpy(query)[None], torch.from_numpy(keys)[None], torch.tensor([len(keys)]), k)
    nearest: list[list[int]] = found[0].tolist()
    return nearest


def asked(grids: Iterable[forest_compiled.Grid], query: Floats, k: int) -> list[list[int]]:
    best = np.full((len(query), k), NOTHING)
    for grid in grids:
        grid.nearest(query, best)
    found: list[list[int]] = (best & 0xFFFFFFFF).tolist()
    return found


@pytest.mark.parametrize(("size", "lift"), [(2, same), (3, same), (3, phi)])
@pytest.mark.parametrize("count", [7, 700])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "one place"])
def test_grids_are_brute_force(kind: str, count: int, size: int, lift: Lift, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many share a cell; of all in one grid, and of some in one and the others in a second."""
    monkeypatch.setattr(forest_compiled, "CROWDED", np.inf)
    random = np.random.default_rng(0)
    rows = drawn(kind, count, size, random)
    keys, half = lifted(rows, lift), count // 2
    box, away = np.ptp(rows, axis=0) + 1e-30, random.normal(size=(count, size))
    grids = [forest_compiled.grid(keys[start:end], start) for start, end in ((0, count), (0, half), (half, count))]
    for query in (rows, rows[:1], rows + 0.1 * away, rows + 0.1 * box * away, rows + 30 * box * away):
        query = lifted(query.astype(np.float32), lift)
        for k in (1, 5, half, count):
            some = query if k < 10 else query[:20]
            expected = slow(some, keys, min(k, count))
            for together in (grids[:1], grids[1:]):
                assert None not in together
                assert asked(filter(None, together), some, min(k, count)) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_any_two_places_are_in_a_grid(kind: str) -> None:
    """Where there is but one, no cell has a size."""
    keys = drawn(kind, 2, 2, np.random.default_rng(1))
    assert (forest_compiled.grid(keys, 0) is None) == (kind == "one place")
    assert forest_compiled.grid(keys[:1], 0) is None


def test_fewer_entries_than_are_asked_for() -> None:
    grid = forest_compiled.grid(drawn("even", 7, 2, np.random.default_rng(0)), 0)
    assert grid is not None
    best = np.full((3, 9), NOTHING)
    grid.nearest(np.ones((3, 2), np.float32), best)
    assert (np.sort(best[:, :7] & 0xFFFFFFFF) == range(7)).all()
    assert (best[:, 7:] == NOTHING).all()


@pytest.mark.parametrize("kind", ["even", "a lattice", "a line"])
def test_what_lies_evenly_is_in_grids(kind: str) -> None:
    (tree,) = Forest().grown(drawn(kind, 5000, 2, np.random.default_rng(0))).trees
    assert tree.grid is not None
    assert tree.search is None
    assert len(tree.grid.first) <= 5000 / forest_compiled.FILLED + 2


@pytest.mark.parametrize("kind", ["clusters", "a slope", "one place", "far outliers", "infinite", "no number"])
def test_what_does_not_is_in_k_d_trees(kind: str) -> None:
    senseless = {"infinite": np.inf, "no number": np.nan}
    rows = drawn("even" if kind in senseless else kind, 5000, 2, np.random.default_rng(0))
    rows[7, 1] = senseless.get(kind, rows[7, 1])
    (tree,) = Forest().grown(rows).trees
    assert tree.grid is None
    assert tree.search is not None


@pytest.mark.parametrize(("size", "grids"), [(1, False), (2, True), (3, True), (4, False)])
def test_only_places_are_in_grids(size: int, grids: bool) -> None:
    (tree,) = Forest().grown(drawn("even", 2000, size, np.random.default_rng(0))).trees
    assert (tree.grid is not None) == grids


@pytest.mark.parametrize("kinds", [("a lattice", "one place"), ("one place", "a lattice")])
@pytest.mark.parametrize("queries", [1, 50])
def test_grids_and_k_d_trees_in_one_forest(kinds: tuple[str, str], queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a tail of fewer entries than are asked for, of which many queries make a grid as well; all of them share a place."""
    monkeypatch.setattr(module, "BUFFER", 16)
    monkeypatch.setattr(module, "RATIO", 4)
    random = np.random.default_rng(0)
    rows = np.concatenate([drawn(kind, count, 2, random) for kind, count in zip((*kinds, "a lattice"), (1200, 200, 4), strict=True)])
    forest = Forest().grown(rows[:1200]).grown(rows)
    assert [tree.grid is None for tree in forest.trees] == [kind == "one place" for kind in kinds]
    for away in (0, 0.3):
        query = np.concatenate([np.ones((1, 2)), rows[random.integers(0, len(rows), queries - 1)]]).astype(np.float32) + np.float32(away)
        for k in (1, 5, 40):
            assert forest.nearest(query, rows, k).tolist() == slow(query, rows, k)


def test_a_query_that_is_nowhere_harms_no_other() -> None:
    rows = drawn("even", 2000, 2, np.random.default_rng(0))
    query = rows[:4].copy()
    query[1, 0], query[2] = np.nan, np.inf
    found = Forest().grown(rows).nearest(query, rows, 3)
    assert found[[0, 2, 3]].tolist() == slow(query[[0, 2, 3]], rows, 3)
    assert found.min() >= 0
    assert found.max() < len(rows)
