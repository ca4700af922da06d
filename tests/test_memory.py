"""The spatial memory against a slow reference that holds every entry as a dictionary in a list, one list a memory."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gtmsm_env.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from gtmsm_env.forest import Later
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.neighbours import LARGE, search_all
from gtmsm_env.types import phi

D = 4
NAMES = ("s_mean", "s_variance", "z_mean", "z_variance", "reward", "termination")
Entry = dict[str, Tensor]

MODEL, OTHER = "abcdef0123456789", "0123456789abcdef"  # fingerprints


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def entries(batch: tuple[int, ...], generator: torch.Generator) -> Entry:
    """One entry a memory, at places of a grid of 4 x 4: many are visited again."""
    return {
        "s_mean": torch.randint(4, (*batch, 2), generator=generator).float(),
        "s_variance": torch.rand(*batch, 2, generator=generator),
        "z_mean": torch.randn(*batch, D, generator=generator),
        "z_variance": torch.rand(*batch, D, generator=generator),
        "reward": torch.rand(batch, generator=generator),
        "termination": torch.rand(batch, generator=generator) < 0.5,
    }


def empty(batch: tuple[int, ...]) -> SpatialMemory:
    x = entries((*batch, 0), draws())
    return SpatialMemory(x.pop("s_mean"), x.pop("s_variance"), x)


def walked(batch: tuple[int, ...] = (), steps: int = 10, seed: int = 0, memory: SpatialMemory | None = None) -> SpatialMemory:
    generator = draws(seed)
    memory = empty(batch) if memory is None else memory
    for _ in range(steps):
        memory = memory.write(**entries(batch, generator))
    return memory


class Slow:
    """The reference: for each memory, by its place in the batch, the list of its entries."""

    def __init__(self, batch: tuple[int, ...]) -> None:
        self.batch = batch
        self.entries: dict[tuple[int, ...], list[Entry]] = {at: [] for at in itertools.product(*map(range, batch))}

    def write(self, where: Tensor | None = None, **values: Tensor) -> Slow:
        after = Slow(self.batch)
        for at, old in self.entries.items():
            new = [{name: value[at].clone() for name, value in values.items()}] if where is None or where[at] else []
            after.entries[at] = old + new
        return after

    def nearest(self, at: tuple[int, ...], query: Tensor, k: int, key: str = "s_mean") -> list[tuple[float, int]]:
        square = [float((query - entry[key]).square().sum()) for entry in self.entries[at]]
        return sorted((math.sqrt(x), i) for i, x in enumerate(square))[:k]

    def distinct(self, at: tuple[int, ...], radius: float, at_least: int) -> list[int]:
        kept: list[int] = []
        for i, entry in enumerate(self.entries[at]):
            if all((entry["s_mean"] - self.entries[at][j]["s_mean"]).norm() > radius for j in kept):
                kept.append(i)
        others = [i for i in range(len(self.entries[at])) if i not in kept]
        return kept + others[: max(0, at_least - len(kept))]


def storage(memory: SpatialMemory, name: str) -> Tensor:
    stored: Tensor = memory.values[name] if name in memory.values else getattr(memory, name)
    return stored


def agrees(memory: SpatialMemory, slow: Slow) -> bool:
    return all(
        int(memory.count[at]) == len(expected)
        and all(torch.equal(storage(memory, name)[at][i], entry[name]) for i, entry in enumerate(expected) for name in NAMES)
        for at, expected in slow.entries.items()
    )


# ---------------------------------------------------------------- write


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_writes_are_the_reference(batch: tuple[int, ...]) -> None:
    """Masked and not, over several growths; every older version still holds what it held."""
    generator, memory, slow = draws(), empty(batch), Slow(batch)
    versions = [(memory, slow)]
    for step in range(40):
        values = entries(batch, generator)
        where = None if step % 3 == 0 else torch.rand(batch, generator=generator) < 0.6
        memory, slow = memory.write(where=where, **values), slow.write(where=where, **values)
        versions.append((memory, slow))
    assert memory.batch_shape == batch
    assert len(memory) == max(len(x) for x in slow.entries.values())
    assert all(agrees(*version) for version in versions)


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("steps", [0, 5, 8, 20])
def test_two_branches_of_one_memory_do_not_see_each_other(batch: tuple[int, ...], steps: int) -> None:
    """Whether or not their common storage has room: an older version that is written again moves to its own."""
    generator, memory, slow = draws(), empty(batch), Slow(batch)
    for _ in range(steps):
        values = entries(batch, generator)
        memory, slow = memory.write(**values), slow.write(**values)
    branches = [(memory, slow), (memory, slow)]
    for step in range(12):
        which = step % 2
        values = entries(batch, generator)
        branches[which] = branches[which][0].write(**values), branches[which][1].write(**values)
        assert all(agrees(*branch) for branch in [*branches, (memory, slow)])


def test_a_masked_branch_does_not_see_another() -> None:
    """Row 0 is written in one branch and row 1 in the other, from the same parent."""
    generator = draws()
    parent, slow = walked((2,), 3), Slow((2,))
    rows = [torch.tensor([True, False]), torch.tensor([False, True]), torch.tensor([False, False])]
    for _ in range(3):
        slow = slow.write(**entries((2,), generator))
    assert agrees(parent, slow)
    for first, second in itertools.product(rows, repeat=2):
        a, b = entries((2,), generator), entries((2,), generator)
        one = parent.write(where=first, **a), slow.write(where=first, **a)
        other = parent.write(where=second, **b), slow.write(where=second, **b)
        assert agrees(*one)
        assert agrees(*other)
        assert agrees(parent, slow)


@pytest.mark.parametrize(
    "share",
    [
        pytest.param(lambda memory: memory.to("cpu"), id="to"),
        pytest.param(lambda memory: memory[torch.tensor(0)], id="row"),
        pytest.param(lambda memory: memory[torch.tensor([0])][torch.tensor(0)], id="rows"),
        pytest.param(lambda memory: memory[:], id="slice"),
        pytest.param(lambda memory: SpatialMemory(memory.s_mean, memory.s_variance, memory.values, memory.count), id="tensors"),
        pytest.param(
            lambda memory: SpatialMemory(
                memory.s_mean.expand(3, -1, -1)[:1], memory.s_variance, memory.values, memory.count.expand(3)[:1].clone()
            ),
            id="expanded",
        ),
    ],
)
def test_memories_of_the_same_tensors_do_not_see_each_other(share: Any) -> None:
    memory = walked((1,), 5)
    other = share(memory)
    a, b = entries((1,), draws(1)), entries((1,), draws(2))
    mine = memory.write(**a)
    assert mine.s_mean.data_ptr() == memory.s_mean.data_ptr()  # there is room, so it is written in place
    theirs = other.write(**b if other.batch_shape else {name: value[0] for name, value in b.items()})
    again = mine.write(**a)
    for name in NAMES:
        assert torch.equal(storage(mine, name)[0, 5], a[name][0])
        assert torch.equal(storage(again, name)[0, 5:7], torch.stack([a[name][0]] * 2))
        assert torch.equal(storage(theirs, name).reshape(-1, *a[name].shape[1:])[5], b[name][0])


def test_growth_is_in_place_but_for_few_copies() -> None:
    memory, copies = empty(()), 0
    for _ in range(500):
        before = memory.s_mean.data_ptr()
        memory = memory.write(**entries((), draws()))
        copies += before != memory.s_mean.data_ptr()
    assert len(memory) == 500
    assert copies <= 8


@pytest.mark.parametrize(
    ("name", "shape"),
    [("s_mean", (3, 2)), ("s_mean", (2, 3)), ("s_variance", (4,)), ("z_mean", (2, D, 1)), ("reward", (2, 1)), ("where", ())],
)
def test_what_is_written_has_the_memorys_shape(name: str, shape: tuple[int, ...]) -> None:
    values = entries((2,), draws()) | {name: torch.ones(shape, dtype=torch.bool if name == "where" else None)}
    with pytest.raises(ValueError, match="One entry a memory is written"):
        walked((2,)).write(**values)


def test_every_entry_has_the_same_kinds_of_values() -> None:
    values = entries((), draws())
    del values["reward"]
    with pytest.raises(ValueError, match=r"this memory holds \['reward', .*given \['termination', 'z_mean', 'z_variance'\]"):
        walked().write(**values)
    with pytest.raises(ValueError, match="one value of each kind: s_mean is"):
        SpatialMemory(torch.zeros(3, 2), torch.zeros(3, 2), {"z_mean": torch.zeros(2, D)})
    with pytest.raises(ValueError, match="one count"):
        SpatialMemory(torch.zeros(2, 3, 2), torch.zeros(2, 3, 2), {}, torch.tensor(3))


@pytest.mark.parametrize("batch", [(), (2, 3)])
@pytest.mark.parametrize("times", [0, 1, 30])
def test_many_entries_are_written_as_one_after_another(batch: tuple[int, ...], times: int) -> None:
    memory, slow = unequal(batch)
    many = [entries(batch, draws(seed)) for seed in range(times)]
    together = {name: torch.stack([x[name] for x in many] or [entries(batch, draws())[name]], dim=len(batch)) for name in NAMES}
    after = memory.extend(**{name: x.narrow(len(batch), 0, times) for name, x in together.items()})
    expected = slow
    for values in many:
        expected = expected.write(**values)
    assert agrees(after, expected)
    assert agrees(memory, slow)
    with pytest.raises(ValueError, match="T entries a memory are written: reward"):
        memory.extend(**together | {"reward": together["reward"][..., :0]})


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memories of 32 entries count as large."""
    monkeypatch.setattr("gtmsm_env.memory.LARGE", 32)
    for name, few in {"BUFFER": 8, "RATIO": 4, "AT_ONCE": 40}.items():
        monkeypatch.setattr(f"gtmsm_env.forest.{name}", few)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("batch", [(), (1,)])
def test_a_large_memory_is_read_while_it_is_written(batch: tuple[int, ...], n: int) -> None:
    """One by one and in bulk; older versions, branches of them, copies and pickles too."""
    generator = draws()

    def some(times: int) -> Entry:
        s = torch.randint(5, (*batch, times, n), generator=generator).float()
        return {"s_mean": s, "s_variance": s, "z_mean": torch.randn(*batch, times, D, generator=generator)}

    def right(memory: SpatialMemory) -> bool:
        query = phi(some(4)["s_mean"]).reshape(4, -1)
        stored = memory.s_mean.reshape(-1, n)[: len(memory)]
        slow = search_all(query[None], phi(stored)[None], torch.tensor([len(stored)]), 3)[0]
        s = torch.cat([query[:, :2], torch.atan2(query[:, 3:], query[:, 2:3])], dim=-1) if n == 3 else query
        return torch.equal(memory.nearest(s.reshape(*batch, 4, n), 3)[1].reshape(4, 3), slow)

    x = some(0)
    versions = [SpatialMemory(x["s_mean"], x["s_variance"], {"z_mean": x["z_mean"]}).extend(**some(4))]
    held = [versions[0].s_mean[..., :4, :].clone()]
    for step in range(250):
        memory = versions[-1] if step % 20 else versions[-1 - int(torch.randint(min(10, len(versions)), (1,), generator=generator))]
        if step % 50 == 7:
            memory = copy.deepcopy(memory) if step % 100 == 7 else pickle.loads(pickle.dumps(memory.but()))
        values = some(25) if step % 30 == 0 else some(1)
        single = {name: value.squeeze(len(batch)) for name, value in values.items()}
        versions.append(memory.extend(**values) if step % 3 == 0 else memory.write(**single) if step % 30 else memory.extend(**values))
        held.append(torch.cat([memory.s_mean[..., : len(memory), :], values["s_mean"]], dim=-2))
        if step % 4 == 0:
            assert right(versions[-1])
            assert right(versions[int(torch.randint(len(versions), (1,), generator=generator))])
    assert max(map(len, versions)) > 200
    assert all(torch.equal(memory.s_mean[..., : len(memory), :], s) for memory, s in zip(versions, held, strict=True))


@pytest.mark.usefixtures("large")
def test_a_large_storage_is_copied_before_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a thread; one that came to nothing is done without."""
    memory, slow, generator, moves = walked((), 30), Slow(()), draws(), []
    for _ in range(30):
        slow = slow.write(**entries((), generator))
    copied = SpatialMemory._copy
    monkeypatch.setattr(SpatialMemory, "_copy", lambda self, size=0: moves.append(threading.current_thread()) or copied(self, size))
    for step in range(300):
        values = entries((), generator)
        memory, slow = memory.write(**values), slow.write(**values)
        if step == 200:
            monkeypatch.setattr(Later, "result", lambda self: None)
    assert agrees(memory, slow)
    assert [thread is threading.main_thread() for thread in moves] == [False, False, False, False, True]


# ---------------------------------------------------------------- read


def unequal(batch: tuple[int, ...]) -> tuple[SpatialMemory, Slow]:
    """Memories of 6 entries or more."""
    generator, memory, slow = draws(), empty(batch), Slow(batch)
    for step in range(15):
        where = torch.rand(batch, generator=generator) < (1 if step < 6 else 0.5)
        values = entries(batch, generator)
        memory, slow = memory.write(where=where, **values), slow.write(where=where, **values)
    return memory, slow


@pytest.mark.parametrize("k", [1, 6])
@pytest.mark.parametrize("queries", [(), (5,), (2, 3)])
@pytest.mark.parametrize("batch", [(), (3,), (2, 2)])
def test_reads_are_the_reference(batch: tuple[int, ...], queries: tuple[int, ...], k: int) -> None:
    """By place and, the other way round, by encoding."""
    memory, slow = unequal(batch)
    for size, key, read in ((2, "s_mean", memory.read), (D, "z_mean", memory.read_reverse)):
        query = torch.randint(4, (*batch, *queries, size), generator=draws(1)).float()
        found = read(query, k)
        assert found.index.shape == found.distance.shape == (*batch, *queries, k)
        for at in itertools.product(*map(range, (*batch, *queries))):
            row = at[: len(batch)]
            expected = slow.nearest(row, query[at], k, key)
            assert found.index[at].tolist() == [i for _, i in expected]
            torch.testing.assert_close(found.distance[at], torch.tensor([distance for distance, _ in expected]), atol=1e-6, rtol=1e-6)
            for name in NAMES:
                value = found.values[name] if name in found.values else getattr(found, name)
                assert torch.equal(value[at], torch.stack([slow.entries[row][i][name] for _, i in expected]))
    assert found.z_mean is found.values["z_mean"]
    assert found.z_variance is found.values["z_variance"]


@pytest.mark.parametrize("k", [1, 6])
@pytest.mark.parametrize("queries", [(), (5,), (2, 3)])
@pytest.mark.parametrize("batch", [(), (3,), (2, 2)])
def test_the_nearest_alone_are_those_of_a_read(batch: tuple[int, ...], queries: tuple[int, ...], k: int) -> None:
    """Gradients too; what the entries hold is not touched: it may lie on a device that computes nothing."""
    memory, _ = unequal(batch)
    keys = memory.s_mean.clone().requires_grad_()
    bare = SpatialMemory(keys, memory.s_variance.to("meta"), {name: x.to("meta") for name, x in memory.values.items()}, memory.count)
    s = (torch.randint(4, (*batch, *queries, 2), generator=draws(1)) + 0.25).requires_grad_()
    found = SpatialMemory(keys, memory.s_variance, memory.values, memory.count).read(s, k)
    distance, index = bare.nearest(s, k)
    assert torch.equal(distance, found.distance)
    assert torch.equal(index, found.index)
    gradients = [torch.autograd.grad(x.sum(), (s, keys)) for x in (distance, found.distance)]
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_no_queries_and_no_memories() -> None:
    memory = walked((2,))
    assert memory.read(torch.zeros(2, 0, 2), 3).z_mean.shape == (2, 0, 3, D)
    assert memory.nearest(torch.zeros(2, 0, 2), 3)[1].shape == (2, 0, 3)
    nothing = memory[torch.tensor([False, False])]
    assert nothing.read(torch.zeros(0, 2), 3).distance.shape == nothing.nearest(torch.zeros(0, 2), 3)[0].shape == (0, 3)
    assert len(nothing) == 0


def test_gradients_of_a_read() -> None:
    """To the query, and to the entries found and no others: against finite differences."""
    x = {name: value.double() for name, value in entries((2, 5), draws(4)).items() if name not in ("reward", "termination")}
    x["s_mean"] += 0.3 * torch.rand(2, 5, 2, generator=draws(5), dtype=torch.float64)  # no ties
    query = torch.rand(2, 3, 2, generator=draws(6), dtype=torch.float64) * 4
    z = torch.rand(2, 3, D, generator=draws(7), dtype=torch.float64)

    def read(query: Tensor, z: Tensor, s_mean: Tensor, s_variance: Tensor, z_mean: Tensor, z_variance: Tensor) -> tuple[Tensor, ...]:
        memory = SpatialMemory(s_mean, s_variance, {"z_mean": z_mean, "z_variance": z_variance})
        found, reverse = memory.read(query, 2), memory.read_reverse(z, 2)
        return found.distance, found.s_mean, found.s_variance, found.z_mean, found.z_variance, reverse.distance, reverse.s_mean

    inputs = tuple(value.requires_grad_() for value in (query, z, *x.values()))
    assert torch.autograd.gradcheck(read, inputs, eps=1e-6)
    found = SpatialMemory(x["s_mean"], x["s_variance"], {"z_mean": x["z_mean"], "z_variance": x["z_variance"]}).read(query[:, :1], 2)
    (gradient,) = torch.autograd.grad(found.z_mean.sum(), x["z_mean"])
    for row in range(2):
        assert gradient[row].any(dim=-1).nonzero().flatten().tolist() == sorted(found.index[row, 0].tolist())


@pytest.mark.parametrize("entries", [20, 5000])
@pytest.mark.parametrize("k", [0, -1])
def test_at_least_one_neighbour_is_read(entries: int, k: int) -> None:
    """In a memory that is searched through a forest, too."""
    s = torch.rand(entries, 2)
    memory = SpatialMemory(s, s, {"z_mean": s})
    for read in (memory.read, memory.read_reverse, memory.nearest):
        with pytest.raises(ValueError, match=f"At least one neighbour is read, K of 1 or more; given {k}"):
            read(s[:3], k)


def test_the_gradient_at_an_entry_is_finite() -> None:
    memory = walked(steps=3)
    query = memory.s_mean[:1].clone().requires_grad_()
    found = memory.read(query, 2)
    assert found.distance.detach()[0, 0] <= 1e-9
    found.distance.sum().backward()
    assert query.grad is not None
    assert torch.isfinite(query.grad).all()


@pytest.mark.parametrize("read", ["read", "nearest", "read_reverse"])
def test_a_memory_too_small(read: str) -> None:
    query = torch.zeros(D if read == "read_reverse" else 2)
    with pytest.raises(ValueError, match=r"The memory is empty\. Walk"):
        getattr(empty(()), read)(query, 1)
    with pytest.raises(ValueError, match=r"K = 11 neighbours .* of 10 entries. Walk \(or observe\) at least 11 steps"):
        getattr(walked(), read)(query, 11)
    one_lacks = walked((2,), 3).write(**entries((2,), draws()), where=torch.tensor([True, False]))
    assert one_lacks.read(torch.zeros(2, 2), 3).index.shape == (2, 3)
    with pytest.raises(ValueError, match="K = 4 neighbours were asked of a memory of 3 entries"):
        getattr(one_lacks, read)(query.expand(2, -1), 4)


@pytest.mark.parametrize("queries", [(), (4,)])
def test_as_many_as_there_are(queries: tuple[int, ...]) -> None:
    """Each memory of a batch for itself; what it lacks lies infinitely far."""
    memory = walked((2,), 3).write(**entries((2,), draws()), where=torch.tensor([True, False]))
    z = torch.randn(2, *queries, D, generator=draws(1))
    for k in (2, 4, 50):
        found = memory.read_reverse(z, k, fewer=True)
        for row, count in enumerate((4, 3)):
            alone = memory[slice(row, row + 1)].read_reverse(z[row, None], min(k, count))
            assert torch.equal(found.distance[row, ..., : min(k, count)], alone.distance[0])
            assert torch.equal(found.s_mean[row, ..., : min(k, count), :], alone.s_mean[0])
            assert found.distance[row, ..., count:].isinf().all()


@pytest.mark.parametrize("read", ["read", "nearest"])
@pytest.mark.parametrize("shape", [(3,), (1, 2), (3, 2), (2, 5, 3), (5, 2, 2)])
def test_a_query_of_another_shape(shape: tuple[int, ...], read: str) -> None:
    with pytest.raises(ValueError, match=r"memory's batch shape first and its key size last: memory .* query"):
        getattr(walked((2,)), read)(torch.zeros(shape), 1)
    with pytest.raises(ValueError, match="key size last"):
        walked((2,)).read_reverse(torch.zeros(2, 2), 1)


# ---------------------------------------------------------------- places and rows


@pytest.mark.parametrize("at_least", [1, 5, 100])
@pytest.mark.parametrize("radius", [0.0, 1.0, 1.5, 9.0])
@pytest.mark.parametrize("batch", [(), (3,), (2, 2)])
def test_distinct_places_are_the_reference(batch: tuple[int, ...], radius: float, at_least: int) -> None:
    memory, slow = unequal(batch)
    places = memory.distinct(radius, at_least)
    for at in slow.entries:
        expected = slow.distinct(at, radius, at_least)
        assert int(places.count[at]) == len(expected)
        for name in NAMES:
            assert torch.equal(storage(places, name)[at][: len(expected)], torch.stack([slow.entries[at][i][name] for i in expected]))
    assert places.s_mean.shape[-2] == len(places)  # no more padding than the fullest needs


def redundant(keys: Tensor, count: int) -> list[int]:
    """By hand: of the two that are nearest to each other the older goes, until so many are left."""
    left = list(range(len(keys)))
    while len(left) > count:
        pairs = [((float((keys[i] - keys[j]).square().sum())), i) for i, j in itertools.permutations(left, 2)]
        left.remove(min(pairs)[1])
    return left


@pytest.mark.parametrize("capacity", [1, 4, 9, 40])
@pytest.mark.parametrize("draw", [lambda g: torch.randint(3, (12, 2), generator=g).float(), lambda g: torch.randn(12, 2, generator=g)])
def test_the_most_redundant_entries_are_forgotten(capacity: int, draw: Any) -> None:
    s = torch.stack([draw(draws(seed)) for seed in range(3)])
    memory = SpatialMemory(s, s, {"z_mean": s}, torch.tensor([12, 7, 3]))
    kept = memory.bounded(capacity, "redundant")
    for row, count in enumerate((12, 7, 3)):
        expected = redundant(s[row, :count], capacity)
        assert torch.equal(kept.values["z_mean"][row, : int(kept.count[row])], s[row, expected])
    assert memory.count.tolist() == [12, 7, 3]


def test_a_thousand_looks_at_one_place_are_forgotten_first() -> None:
    """More of them than the nearest that are known of each."""
    s = torch.cat([torch.zeros(300, 2), 5 * torch.randn(10, 2, generator=draws()), torch.zeros(300, 2)])
    kept = SpatialMemory(s, s, {"at": torch.arange(610)}).bounded(11, "redundant")
    assert kept.values["at"].tolist() == [*range(300, 310), 609]


@pytest.mark.parametrize("batch", [(), (2,)])
def test_a_bound_is_heeded_by_every_write(batch: tuple[int, ...]) -> None:
    memory, generator, writes = empty(batch).bounded(20, "oldest"), draws(), []
    for _ in range(90):
        writes.append(entries(batch, generator))
        before, memory = memory, memory.write(**writes[-1])
        assert len(memory) == min(len(before) + 1, 20) or (len(before), len(memory)) == (20, 18)
        for name in NAMES:
            last = torch.stack([values[name] for values in writes[-len(memory) :]], dim=len(batch))
            assert torch.equal(storage(memory, name).narrow(len(batch), 0, len(memory)), last)
    assert memory.but().bound == memory.to("cpu").bound == (20, "oldest")
    assert len(memory.bounded(5, "redundant")) == 5
    for capacity, policy in ((0, "oldest"), (5, "boring")):
        with pytest.raises(ValueError, match=r"1 entry or more and forgets by one of .*given"):
            memory.bounded(capacity, policy)


def test_rows_of_batches_with_an_axis_more() -> None:
    mine, other = walked((3, 2), 4), walked((2, 2), 20, seed=1)
    for rows in (torch.tensor([2, 0]), torch.tensor([True, False, True])):
        numbers = torch.arange(3)[rows].tolist()
        for put in (mine.put(rows, other), walked((3, 2), 40, seed=2).put(rows, other)):
            assert put.batch_shape == (3, 2)
            for name in NAMES:
                for at, row in enumerate(numbers):
                    assert torch.equal(storage(put, name)[row, :, :20], storage(other, name)[at, :, :20])
        kept = ({0, 1, 2} - set(numbers)).pop()
        put = mine.put(rows, other)
        assert put.count[:, 0].tolist() == [20 if row in numbers else 4 for row in range(3)]
        assert torch.equal(put[slice(kept, kept + 1)].s_mean[:, :, :4], mine.s_mean[kept : kept + 1, :, :4])
        values = entries((3, 2), draws(3))
        after = put.write(**values)  # what was put can be written on
        assert torch.equal(after.count, put.count + 1)
        assert torch.equal(after.values["z_mean"][numbers[0], :, 20], values["z_mean"][numbers[0]])


def test_a_memory_that_is_put_into_another_stays_its_own() -> None:
    mine, other = walked((3,), 4), walked((1,), 4, seed=1)
    before, theirs = mine.s_mean.clone(), other.s_mean.clone()
    put = mine.put(torch.tensor([1]), other)
    for memory in (put, mine, other):
        memory.write(**entries(tuple(memory.batch_shape), draws(9)))
    assert torch.equal(mine.s_mean[:, :4], before[:, :4])
    assert torch.equal(other.s_mean[:, :4], theirs[:, :4])
    assert torch.equal(put.s_mean[:, :4], torch.stack([before[0], theirs[0], before[2]])[:, :4])


def test_rows_hold_the_same_kinds_of_values() -> None:
    bare = SpatialMemory(torch.zeros(1, 3, 2), torch.zeros(1, 3, 2), {"z_mean": torch.zeros(1, 3, D), "z_variance": torch.ones(1, 3, D)})
    with pytest.raises(ValueError, match=r"this memory holds \['reward'.*the other \['z_mean', 'z_variance'\]"):
        walked((2,)).put(torch.tensor([0]), bare)
    with pytest.raises(ValueError, match="same kinds of values"):
        bare.put(torch.tensor([0]), walked((1,)))


def test_what_a_memory_says_of_itself() -> None:
    assert repr(walked((2,), 3)) == (
        "SpatialMemory(batch=(2,), entries=3, n=2, values={'z_mean': (4,), 'z_variance': (4,), 'reward': (), 'termination': ()})"
    )


def test_to_a_device() -> None:
    moved = walked((2,), 3).to("meta")
    assert {x.device.type for x in (moved.s_mean, moved.s_variance, moved.count, *moved.values.values())} == {"meta"}


# ---------------------------------------------------------------- disk


@pytest.mark.parametrize("batch", [(), (3,), (2, 2)])
def test_what_was_saved_is_read_alike(tmp_path: Path, batch: tuple[int, ...]) -> None:
    memory, slow = unequal(batch)
    memory.save(tmp_path / "memory", MODEL)
    for loaded in (SpatialMemory.load(tmp_path / "memory", MODEL), SpatialMemory.load(str(tmp_path / "memory.json"))):
        assert agrees(loaded, slow)
        assert [storage(loaded, name).dtype for name in NAMES] == [storage(memory, name).dtype for name in NAMES]
        assert loaded.s_mean.shape[-2] == len(memory)  # without what the storage had to spare
        values = entries(batch, draws(5))
        assert agrees(loaded.write(**values), slow.write(**values))
    with pytest.raises(
        CheckpointError, match=rf"only be read by the model that wrote it: .* by model {MODEL}, given {OTHER}. Load that model"
    ):
        SpatialMemory.load(tmp_path / "memory", OTHER)


def test_a_model_is_told_by_its_fingerprint_not_its_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="its fingerprint, 16 hexadecimal digits; given 'image-navigation'"):
        walked().save(tmp_path / "memory", "image-navigation")


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_place_that_is_none_is_not_written(number: float) -> None:
    memory, entry = walked(), entries((), draws(6))
    with pytest.raises(ValueError, match="A place is told by finite numbers"):
        memory.write(**{**entry, "s_mean": entry["s_mean"] * number})
    with pytest.raises(ValueError, match="A place is told by finite numbers"):
        memory.extend(**{name: (value * number if name == "s_mean" else value)[None] for name, value in entry.items()})
    two, entry = walked((2,)), entries((2,), draws(6))
    entry["s_mean"][1] *= number
    assert two.write(where=torch.tensor([True, False]), **entry).count.tolist() == [len(two) + 1, len(two)]  # of rows that are written


def test_only_a_memory_is_read_as_one(tmp_path: Path) -> None:
    walked().save(tmp_path / "memory", MODEL)
    tensors, config = load_checkpoint(tmp_path / "memory")
    save_checkpoint(tmp_path / "model", tensors, {"kind": "model"})
    with pytest.raises(CheckpointError, match="kind 'memory' is needed"):
        SpatialMemory.load(tmp_path / "model")
    save_checkpoint(tmp_path / "short", {name: x for name, x in tensors.items() if name != "s_variance"}, config)
    with pytest.raises(CheckpointError, match=r"misses \['s_variance'\]"):
        SpatialMemory.load(tmp_path / "short")
    save_checkpoint(tmp_path / "long", tensors | {"poses": torch.zeros(3)}, config)
    with pytest.raises(CheckpointError, match=r"unexpected \['poses'\]"):
        SpatialMemory.load(tmp_path / "long")
    with pytest.raises(CheckpointError, match="cannot be read"):
        SpatialMemory.load(tmp_path / "missing")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="folder must be writable"):
        walked().save(tmp_path / "file" / "memory", MODEL)


@pytest.mark.parametrize("lost", ["values.z_mean", "model"])
def test_a_memory_that_lacks_something_is_refused(tmp_path: Path, lost: str) -> None:
    tensors = {"s_mean": torch.zeros(3, 2), "s_variance": torch.ones(3, 2), "count": torch.tensor(3)}
    tensors |= {"values.z_mean": torch.zeros(3, D), "values.z_variance": torch.ones(3, D)}
    config = {"kind": "memory", "model": "some"}
    kept = {name: tensor for name, tensor in tensors.items() if name != lost}
    save_checkpoint(tmp_path / "memory", kept, {name: value for name, value in config.items() if name != lost})
    with pytest.raises(CheckpointError, match=lost):
        SpatialMemory.load(tmp_path / "memory")


@pytest.mark.parametrize("mapped", [False, True])
def test_a_file_grows_with_its_memory(tmp_path: Path, mapped: bool) -> None:
    """By little and by much; it can be gone on with from the file."""
    memory, slow, generator, whole = walked((), 5), Slow(()), draws(), 0
    for _ in range(5):
        slow = slow.write(**entries((), generator))
    for times in (0, 1, 2, 0, 30, 1, 1, 1, 1):
        for _ in range(times):
            values = entries((), generator)
            memory, slow = memory.write(**values), slow.write(**values)
        before = (tmp_path / "memory.safetensors").stat().st_ino if times else None
        memory.append(tmp_path / "memory", MODEL)
        whole += before != (tmp_path / "memory.safetensors").stat().st_ino
        memory = SpatialMemory.load(tmp_path / "memory", MODEL, mapped)
        assert agrees(memory, slow)
    assert whole < 6
    with pytest.raises(CheckpointError, match="of one kind with what was saved"):
        memory.append(tmp_path / "memory", OTHER)
    with pytest.raises(CheckpointError, match="continues what was saved; row 42 of"):
        walked((), 50, seed=3).append(tmp_path / "memory", MODEL)
    assert agrees(SpatialMemory.load(tmp_path / "memory", MODEL), slow)
    with pytest.raises(ValueError, match="One memory on the CPU is appended"):
        walked((2,)).append(tmp_path / "memory", MODEL)


class Interrupted(BaseException):
    """Stands for a killed process."""


@pytest.mark.parametrize("call", range(9))
@pytest.mark.parametrize("more", [1, 60])
def test_an_interrupted_append_leaves_the_file_as_it_was_or_as_it_was_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, more: int
) -> None:
    """Cut off before every flush to the disk and every rename: into the room there is, and when all is written anew."""
    before = walked((), 9)
    before.append(tmp_path / "memory", MODEL)
    after = walked((), more, 1, before)
    calls = iter(range(100))

    def cut(function: Any) -> Any:
        def run(*args: Any) -> Any:
            if next(calls) == call:
                raise Interrupted
            return function(*args)

        return run

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", cut(os.fsync))
        patch.setattr(Path, "replace", cut(Path.replace))
        with contextlib.suppress(Interrupted):
            after.append(tmp_path / "memory", MODEL)
    found = SpatialMemory.load(tmp_path / "memory", MODEL, mapped=True)
    assert len(found) in (9, 9 + more)
    assert torch.equal(found.s_mean[: len(found)], after.s_mean[: len(found)])
    after.append(tmp_path / "memory", MODEL)
    assert torch.equal(SpatialMemory.load(tmp_path / "memory").values["z_mean"][: 9 + more], after.values["z_mean"][: 9 + more])


# ---------------------------------------------------------------- places and headings


def headed(batch: tuple[int, ...], steps: int = 15, seed: int = 0) -> tuple[SpatialMemory, Tensor]:
    """A memory of places and headings, headings beyond a full turn among them, and its keys (*M, N, 3)."""
    g = draws(seed)
    s = torch.cat([2 * torch.rand(*batch, steps, 2, generator=g), 20 * torch.rand(*batch, steps, 1, generator=g) - 10], dim=-1)
    z = torch.randn(*batch, steps, D, generator=g)
    return SpatialMemory(s, torch.ones_like(s), {"z_mean": z, "z_variance": torch.ones_like(z)}), s


def apart(s: Tensor, other: Tensor) -> float:
    """Of two poses, by hand: the ground between them, and the chord of the turn."""
    (x, y, heading), (p, q, to) = s.tolist(), other.tolist()
    return math.hypot(x - p, y - q, 2 * math.sin((heading - to) / 2))


@pytest.mark.parametrize("queries", [(), (2, 3)])
@pytest.mark.parametrize("batch", [(), (2, 2)])
def test_poses_are_read_by_place_and_heading(batch: tuple[int, ...], queries: tuple[int, ...]) -> None:
    memory, keys = headed(batch)
    s = headed((*batch, *queries), 1, seed=1)[1].squeeze(-2)
    found = memory.read(s, 4)
    distance, index = memory.nearest(s, 4)
    assert torch.equal(index, found.index)
    assert torch.equal(distance, found.distance)
    for at in itertools.product(*map(range, (*batch, *queries))):
        row = at[: len(batch)]
        expected = sorted((apart(s[at], key), i) for i, key in enumerate(keys[row]))[:4]
        assert found.index[at].tolist() == [i for _, i in expected]
        assert found.distance[at].tolist() == pytest.approx([rho for rho, _ in expected], abs=1e-5)
        assert torch.equal(found.s_mean[at], keys[row][found.index[at]])  # as they were written, headings unwrapped


def test_one_large_memory_of_poses_is_read_as_a_small_one() -> None:
    """Through the tree, over four dimensions."""
    memory, keys = headed((), LARGE)
    s = headed((), 5, seed=1)[1]
    for row, found in enumerate(memory.read(s, 3).index.tolist()):
        assert found == [i for _, i in sorted((apart(s[row], key), i) for i, key in enumerate(keys))[:3]]


def test_poses_are_read_after_a_learned_map() -> None:
    """Who is near is decided after it, and gradients reach it."""
    memory, keys = headed((3,))
    s = headed((3, 4), 1, seed=1)[1].squeeze(-2)
    metric = torch.nn.Linear(4, 5, bias=False)
    found = memory.read(s, 3, metric)
    for row, query in itertools.product(range(3), range(4)):
        mapped = [metric.weight.detach() @ (phi(key) - phi(s[row, query])) for key in keys[row]]
        expected = sorted((float(x.norm()), i) for i, x in enumerate(mapped))[:3]
        assert found.index[row, query].tolist() == [i for _, i in expected]
        assert found.distance[row, query].tolist() == pytest.approx([rho for rho, _ in expected], abs=1e-4)
    assert not torch.equal(found.index, memory.read(s, 3).index)
    found.distance.sum().backward()
    assert metric.weight.grad is not None
    assert (metric.weight.grad != 0).all()


@pytest.mark.parametrize("radius", [0.1, 0.7])
def test_distinct_poses_differ_in_place_or_heading(radius: float) -> None:
    memory, keys = headed((2,), 40)
    places = memory.distinct(radius)
    for row in range(2):
        kept: list[int] = []
        for i, key in enumerate(keys[row]):
            if all(apart(key, keys[row, j]) > radius for j in kept):
                kept.append(i)
        assert torch.equal(places.s_mean[row, : int(places.count[row])], keys[row, kept])
    here = torch.tensor([[1.0, 1, 0], [1, 1, math.pi], [1, 1, 2 * math.pi]])
    at_one_place = SpatialMemory(here, torch.ones_like(here), {})
    assert torch.equal(at_one_place.distinct(0.5).s_mean, here[:2])


@pytest.mark.parametrize("key", [2, 3])
def test_a_pose_is_not_asked_of_a_memory_of_places_nor_the_other_way_round(key: int) -> None:
    s = torch.zeros(4, key)
    with pytest.raises(ValueError, match="key size last"):
        SpatialMemory(s, s, {}).read(torch.zeros(5 - key), 1)


# ---------------------------------------------------------------- facts


def known(batch: tuple[int, ...], seed: int = 0) -> SpatialMemory:
    """Memories of which something is known as a whole."""
    memory = walked(batch, 4, seed)
    return memory.but(facts={"plan": torch.randn(*batch, 2, 5, 5, generator=draws(seed)), "sealed": torch.ones(batch, dtype=torch.bool)})


def test_facts_stay_with_their_memory(tmp_path: Path) -> None:
    memory, other = known((3,)), known((2,), seed=1)
    mine, theirs = memory.facts["plan"].clone(), other.facts["plan"]
    assert torch.equal(memory[torch.tensor([2, 0])].facts["plan"], mine[[2, 0]])
    assert torch.equal(memory.distinct(0.5).facts["plan"], mine)
    put = memory.put(torch.tensor([2, 0]), other)
    assert torch.equal(put.facts["plan"], torch.stack([theirs[1], mine[1], theirs[0]]))
    written = memory
    for _ in range(12):  # beyond the storage's room
        written = written.write(**entries((3,), draws(2)))
    assert torch.equal(written.facts["plan"], mine)
    assert memory.to("meta").facts["plan"].device.type == "meta"
    assert memory.but(facts={}).facts == {}
    assert memory.but(values={}).facts is memory.facts
    memory.save(tmp_path / "memory", MODEL)
    loaded = SpatialMemory.load(tmp_path / "memory").facts
    assert torch.equal(loaded["plan"], mine)
    assert loaded["sealed"].dtype == torch.bool
    assert torch.equal(memory.facts["plan"], mine)
    with pytest.raises(ValueError, match=r"this memory holds \['plan', .*the other \['reward'"):
        memory.put(torch.tensor([0]), walked((1,)))
