"""The forest against brute force, ties included: whatever it holds in trees, whoever else has grown it."""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pytest
import torch

from gtmsm_env import forest as module
from gtmsm_env import loops
from gtmsm_env.forest import Floats, Forest, Later, Lift, same
from gtmsm_env.neighbours import search_all
from gtmsm_env.types import phi


@pytest.fixture(autouse=True, params=["k-d trees", "grids"])
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many trees of few entries, on threads and on none; all of pykdtree, or grids among them."""
    if request.param == "grids":
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(loops, "compiled_loops", lambda name: None)
    monkeypatch.setattr(module, "BUFFER", 16)
    monkeypatch.setattr(module, "RATIO", 4)
    monkeypatch.setattr(module, "AT_ONCE", 100)
    monkeypatch.setattr(module, "MOST", 64)


def drawn(kind: str, count: int, size: int, random: np.random.Generator) -> Floats:
    rows = {
        "scattered": lambda: random.normal(size=(count, size)),
        "many ties": lambda: random.integers(0, 12, (count, size)),
        "one place": lambda: random.integers(0, 2, (count, size)),
        "clusters": lambda: random.integers(0, 4, (count, size)) + 1e-6 * random.normal(size=(count, size)),
        "a walk": lambda: 0.1 * random.integers(-1, 2, (count, size)).cumsum(axis=0),
    }[kind]()
    return np.asarray(rows, dtype=np.float32)


def slow(query: Floats, rows: Floats, k: int, lift: Lift) -> list[list[int]]:
    keys = lift(torch.from_numpy(rows))
    found: list[list[int]] = search_all(torch.from_numpy(query)[None], keys[None], torch.tensor([len(rows)]), k)[0].tolist()
    return found


@pytest.mark.parametrize(("size", "lift"), [(2, same), (3, same), (3, phi), (7, same)])
@pytest.mark.parametrize("kind", ["scattered", "many ties", "one place", "clusters", "a walk"])
def test_a_growing_forest_is_brute_force(kind: str, size: int, lift: Lift) -> None:
    """One by one and in bulk; earlier versions still answer as they did."""
    random = np.random.default_rng(0)
    rows = drawn(kind, 1500, size, random)
    versions, count = [(Forest(lift), 0)], 0
    sizes = set()
    while count < len(rows):
        count = min(len(rows), count + int(random.choice([1, 2, 15, 40, 300])))
        versions.append((versions[-1][0].grown(rows[:count]), count))
        for forest, held in (versions[-1], versions[random.integers(len(versions))]):
            at = rows[random.integers(0, len(rows), int(random.choice([1, 3, 50])))]
            away = np.float32(random.choice([0, 0.1])) * random.normal(size=at.shape).astype(np.float32)
            query = lift(torch.from_numpy(at + away)).numpy()
            for k in (1, 5, 20):
                if k <= held:
                    assert forest.nearest(query, rows[:held], k).tolist() == slow(query, rows[:held], k, lift)
        sizes.add(len(versions[-1][0].trees))
    assert max(sizes) > 2


def test_each_tree_is_much_larger_than_all_after_it() -> None:
    """Once nothing is being built; and the entries are all there, once each."""
    rows = np.random.default_rng(0).random((3000, 2), dtype=np.float32)
    forest = Forest()
    for count in range(1, len(rows) + 1):
        forest = forest.grown(rows[:count])
        if forest.rebuild is not None:
            forest.rebuild.result()
            forest = forest.grown(rows[:count])
        assert count - forest.end < 16
        assert [0, *(tree.end for tree in forest.trees)] == [*(tree.start for tree in forest.trees), forest.end]
        assert all(len(tree) >= 4 * (forest.end - tree.end) for tree in forest.trees)
    assert len(forest.trees) <= 5


def test_nobody_waits_for_a_rebuild(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is being built, and after it came to nothing, the other trees answer; then it takes their place."""
    rows = drawn("many ties", 900, 2, np.random.default_rng(0))
    waiting: list[object] = []

    class Never(Later[module.Tree]):
        def __init__(self, work: object) -> None:
            waiting.append(work)

        done = False

    monkeypatch.setattr(module, "Later", Never)
    forest, count = Forest().grown(rows[:400]), 400
    for count in range(400, 900):
        forest = forest.grown(rows[:count])
        assert forest.nearest(rows[:1], rows[:count], 5).tolist() == slow(rows[:1], rows[:count], 5, same)
    assert len(waiting) == 1
    lost = copy.copy(forest.rebuild)
    assert lost is not None
    for found in (None, waiting[0]()):  # type: ignore[operator]
        monkeypatch.setattr(Never, "done", True)
        monkeypatch.setattr(Never, "result", lambda self, found=found: found)
        after = forest.grown(rows[:count])
        assert after.nearest(rows[:20], rows[:count], 5).tolist() == slow(rows[:20], rows[:count], 5, same)
        assert (len(after.trees) < len(forest.trees)) == (found is not None)


def test_far_and_senseless_queries_are_answered_as_by_brute_force() -> None:
    rows = drawn("scattered", 500, 2, np.random.default_rng(0))
    forest = Forest().grown(rows)
    query = np.array([[0, 0], [1e25, 0], [np.inf, 0], [1e6, 1e6]], dtype=np.float32)
    for some in (query, query[:1], query[1:2], query[2:3]):
        assert forest.nearest(some, rows, 4).tolist() == slow(some, rows, 4, same)
    assert forest.nearest(query[:0], rows, 4).shape == (0, 4)
    assert forest.nearest(np.full((1, 2), np.nan, np.float32), rows, 4).shape == (1, 4)


def test_every_entry_can_be_asked_for() -> None:
    rows = drawn("many ties", 200, 2, np.random.default_rng(0))
    for count, k in itertools.product((1, 3, 17, 200), (1, 3, 17, 200)):
        if k <= count:
            forest = Forest().grown(rows[:150][:count]).grown(rows[:count])
            assert forest.nearest(rows[:3], rows[:count], k).tolist() == slow(rows[:3], rows[:count], k, same)


def test_a_copied_forest_is_grown_anew() -> None:
    rows = drawn("scattered", 200, 3, np.random.default_rng(0))
    forest = Forest(phi).grown(rows)
    query = phi(torch.from_numpy(rows[:4])).numpy()
    for other in (copy.deepcopy(forest), pickle.loads(pickle.dumps(forest))):
        assert other.end == 0
        assert other.grown(rows).nearest(query, rows, 3).tolist() == forest.nearest(query, rows, 3).tolist()


def test_no_neighbours_are_none() -> None:
    rows = np.random.default_rng(0).random((3000, 2), dtype=np.float32)
    assert Forest().grown(rows).nearest(rows[:4], rows, 0).shape == (4, 0)
