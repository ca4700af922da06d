"""The spatial memory: a Differentiable Neural Dictionary (section 2) from places to what was seen there.

An entry's key is q(s_t), its values q(z_t | x_t) and whatever else is remembered of that step (reward, termination).
Sufficient statistics are stored, not samples (section 3). A memory is a value: `write` returns a new one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from gtmsm_env.checkpoint import CheckpointError, append_rows, check_keys, load_checkpoint, save_checkpoint, save_rows
from gtmsm_env.forest import Forest, Later, Lift, same
from gtmsm_env.loops import loops_for
from gtmsm_env.neighbours import LARGE, nearest, spread
from gtmsm_env.types import Neighbours, phi

POLICIES = ("oldest", "redundant")
OF_ALL = "canvas"  # the fact that all entries together make: more or fewer of them make another


class Fingerprinted(Protocol):
    """A model, which says whose a memory is."""

    def fingerprint(self) -> str: ...


def fingerprint(model: str | Fingerprinted) -> str:
    """Of a model, or as it was given. ValueError for another text."""
    if isinstance(model, str) and not re.fullmatch("[0-9a-f]{16}", model):
        raise ValueError(f"A model is told by itself or by its fingerprint, 16 hexadecimal digits; given {model!r}. Load it: GTMSM.load.")
    return model if isinstance(model, str) else model.fingerprint()


@dataclass
class _Storage:
    """What all memories in one storage share."""

    newest: Tensor | None = None  # the count of the newest, which alone may append in place; None where others may hold the tensors
    larger: Later[SpatialMemory] | None = None  # its successor: the newest memory copied to where there is room, which takes a while
    forest: Forest = field(default_factory=partial(Forest, phi))  # the one that was grown last

    def __reduce__(self) -> tuple[Any, ...]:
        return _Storage, ()


class SpatialMemory:
    """A batch of memories of up to N entries each.

    Attributes:
        s_mean, s_variance: (*M, N, n) keys, in the model's own unit
        values: name -> (*M, N, ...), at least `z_mean` and `z_variance` (*M, N, d)
        count: (*M,) int64, entries in use; those beyond are padding that no read returns
        facts: name -> (*M, ...), what is known of each memory as a whole
        bound: entries that each memory holds at most, and what is forgotten for it: see `bounded`
    """

    def __init__(
        self,
        s_mean: Tensor,
        s_variance: Tensor,
        values: dict[str, Tensor],
        count: Tensor | None = None,
        facts: dict[str, Tensor] | None = None,
        bound: tuple[int, str] | None = None,
    ) -> None:
        batch, entries = s_mean.shape[:-2], s_mean.shape[-2]
        for name, value in {"s_variance": s_variance, **values}.items():
            if value.shape[: len(batch) + 1] != (*batch, entries):
                raise ValueError(f"Each entry has one value of each kind: s_mean is {tuple(s_mean.shape)} but {name} {tuple(value.shape)}.")
        self.s_mean, self.s_variance, self.values, self.facts, self.bound = s_mean, s_variance, values, facts or {}, bound
        self.count = torch.full(batch, entries, device=s_mean.device) if count is None else count
        if self.count.shape != batch:
            raise ValueError(f"Each memory has one count: s_mean is {tuple(s_mean.shape)} but count {tuple(self.count.shape)}.")
        self._storage, self._forest = _Storage(), Forest(phi)

    @property
    def batch_shape(self) -> torch.Size:
        return self.s_mean.shape[:-2]

    @property
    def used(self) -> Tensor:
        """Which entries are no padding, (*M, N) bool."""
        return torch.arange(self.s_mean.shape[-2], device=self.count.device) < self.count[..., None]

    def __len__(self) -> int:
        """Entries in the fullest memory of the batch."""
        return int(self.count.max()) if self.count.numel() else 0

    def __repr__(self) -> str:
        sizes = {name: tuple(value.shape[len(self.batch_shape) + 1 :]) for name, value in self.values.items()}
        return f"SpatialMemory(batch={tuple(self.batch_shape)}, entries={len(self)}, n={self.s_mean.shape[-1]}, values={sizes})"

    def but(self, values: dict[str, Tensor] | None = None, facts: dict[str, Tensor] | None = None) -> SpatialMemory:
        """The same entries with other values or facts."""
        values, facts = self.values if values is None else values, self.facts if facts is None else facts
        memory = SpatialMemory(self.s_mean, self.s_variance, values, self.count, facts, self.bound)
        memory._forest = self._known()
        return memory

    # ---------------------------------------------------------------- write

    def write(self, s_mean: Tensor, s_variance: Tensor, where: Tensor | None = None, **values: Tensor) -> SpatialMemory:
        """A memory with one more entry per batch row: s_mean, s_variance (*M, n), values (*M, ...).

        where: (*M,) bool, rows that are written; all by default. This memory stays as it is, whoever holds it.
        """
        axis = len(self.batch_shape)
        entry = {"s_mean": s_mean, "s_variance": s_variance, **values}
        self._check(entry, (), "One entry a memory is written", where)
        return self._append({name: value.unsqueeze(axis) for name, value in entry.items()}, where)

    def extend(self, s_mean: Tensor, s_variance: Tensor, **values: Tensor) -> SpatialMemory:
        """A memory with T more entries per batch row, as after T times `write`: s_mean, s_variance (*M, T, n), values (*M, T, ...)."""
        entries = {"s_mean": s_mean, "s_variance": s_variance, **values}
        self._check(entries, s_mean.shape[-2:-1], "T entries a memory are written")
        return self._append(entries, None)

    def _check(self, entries: Mapping[str, Tensor], times: tuple[int, ...], rule: str, where: Tensor | None = None) -> None:
        stored = self._stored()
        if entries.keys() != stored.keys():
            held, given = (sorted(x.keys() - {"s_mean", "s_variance"}) for x in (stored, entries))
            raise ValueError(f"Every entry holds the same kinds of values: this memory holds {held}, given {given}.")
        batch, axis = self.batch_shape, len(self.batch_shape)
        expected = {name: (*batch, *times, *x.shape[axis + 1 :]) for name, x in stored.items()} | {"where": tuple(batch)}
        for name, value in (entries if where is None else {**entries, "where": where}).items():
            if value.shape != expected[name]:
                raise ValueError(f"{rule}: {name} has shape {expected[name]}; given {tuple(value.shape)}.")
        s = entries["s_mean"] if where is None else entries["s_mean"][where]
        if s.is_cpu and not s.isfinite().all():  # elsewhere the device would be waited for
            raise ValueError("A place is told by finite numbers; given an s_mean with NaN or infinity. Look where the state became that.")

    def _append(self, entries: dict[str, Tensor], where: Tensor | None) -> SpatialMemory:
        """entries: name -> (*M, T, ...)"""
        axis, times = len(self.batch_shape), entries["s_mean"].shape[-2]
        memory = self
        # Only the newest memory of a storage may append to it in place; an older one, or a full one, moves to its own.
        if len(self) + times > self.s_mean.shape[-2]:
            memory = self._move(times)
        elif self._storage.newest is not self.count:
            memory = self._copy()
        if self.count.numel() == 1 and where is None:
            for name, storage in memory._stored().items():
                storage.narrow(axis, int(self.count), times).copy_(entries[name])
            count = memory.count + times
        else:
            chosen = torch.ones_like(self.count.reshape(-1), dtype=torch.bool) if where is None else where.reshape(-1)  # (M,)
            at = self.count.reshape(-1)[chosen][:, None] + torch.arange(times, device=self.count.device)  # (R, T)
            row = chosen.nonzero()  # (R, 1)
            for name, storage in memory._stored().items():
                value = entries[name].reshape(len(chosen), *entries[name].shape[axis:])[chosen].to(storage.dtype)
                storage.view(len(chosen), *storage.shape[axis:])[row, at] = value
            count = memory.count + times * chosen.reshape(self.count.shape)
        grown = SpatialMemory(memory.s_mean, memory.s_variance, memory.values, count, memory._lasting(), self.bound)
        grown._storage = memory._storage
        grown._storage.newest = count
        if self.bound is not None and len(grown) > self.bound[0]:
            capacity, policy = self.bound
            return grown._reduced(capacity - capacity // 8, policy)
        room = grown.s_mean.shape[-2]
        if grown._is_large() and grown._storage.larger is None and 16 * len(grown) > 15 * room:
            grown._storage.larger = Later(partial(grown._copy, 2 * room))
        return grown

    def _lasting(self) -> dict[str, Tensor]:
        """The facts that other entries, or a file of these, have too."""
        return {name: fact for name, fact in self.facts.items() if name != OF_ALL}

    def _stored(self) -> dict[str, Tensor]:
        """What there is of each entry, by name: (*M, N, ...)."""
        return {"s_mean": self.s_mean, "s_variance": self.s_variance, **self.values}

    def _is_large(self) -> bool:
        """Whether this is one memory that is searched through trees."""
        s = self.s_mean
        return self.count.numel() == 1 and s.shape[-2] >= LARGE and s.device.type == "cpu" and s.dtype == torch.float32

    def _move(self, times: int) -> SpatialMemory:
        """This memory in a storage of its own with room for so many more entries."""
        axis, needed = len(self.batch_shape), len(self) + times
        larger = self._storage.larger
        self._storage.larger = None  # what takes it owns it; another branch of this memory makes its own
        memory = larger.result() if larger is not None and self._storage.newest is self.count else None
        if memory is None or memory.s_mean.shape[-2] < needed:
            return self._copy(max(8, needed, 2 * self.s_mean.shape[-2]))
        start = len(memory)
        for name, storage in memory._stored().items():
            storage.narrow(axis, start, len(self) - start).copy_(self._stored()[name].narrow(axis, start, len(self) - start))
        moved = SpatialMemory(memory.s_mean, memory.s_variance, memory.values, self.count.clone(), memory.facts, self.bound)
        moved._storage = _Storage(moved.count, forest=self._known())
        return moved

    def _copy(self, size: int = 0) -> SpatialMemory:
        """This memory in a storage of its own, of at least `size` entries."""
        axis, used = len(self.batch_shape), len(self)

        def copied(x: Tensor) -> Tensor:
            shape = (*x.shape[:axis], max(size, x.shape[axis]), *x.shape[axis + 1 :])
            if x.device.type == "cpu" and 0 not in shape:  # NumPy's zeros take no memory before they are written
                blank = torch.from_numpy(np.zeros(math.prod(shape) * x.element_size(), np.uint8)).view(x.dtype).view(shape)
            else:
                blank = x.new_zeros(shape)
            blank.narrow(axis, 0, used).copy_(x.detach().narrow(axis, 0, used))
            return blank

        values = {name: copied(value) for name, value in self.values.items()}
        facts = {name: fact.clone() for name, fact in self.facts.items()}
        memory = SpatialMemory(copied(self.s_mean), copied(self.s_variance), values, self.count.clone(), facts, self.bound)
        memory._storage = _Storage(memory.count, forest=self._known())
        return memory

    # ---------------------------------------------------------------- read

    def read(self, s: Tensor, k: int, metric: Lift | None = None) -> Neighbours:
        """The k entries nearest to s, by Euclidean distance between means (section 4.1), those of headings too as `phi` measures it.

        s: (*M, *Q, n) in the model's unit; gradients flow to s and to the entries found. Returns Neighbours of shape (*M, *Q).
        metric: what phi(s) (*B, m) is mapped to before distances are measured, (*B, m').
        Raises ValueError if k is less than 1, or a memory of the batch has fewer than k entries.
        """
        if metric is None:
            return self._read(phi(s), self.s_mean, k, phi)
        return self._read(metric(phi(s)), metric(phi(self.s_mean)), k)

    def read_reverse(self, z: Tensor, k: int, fewer: bool = False) -> Neighbours:
        """The k entries whose encodings are nearest to z (appendix D): the memory asked the other way round.

        z: (*M, *Q, d) means of q(z | x). Returns Neighbours of shape (*M, *Q), distances in the unit of z.
        fewer: take what there is, at most k; where a memory of the batch has less than another, the rest lie infinitely far.
        """
        if not fewer:
            return self._read(z, self.values["z_mean"], k)
        found = self._read(z, self.values["z_mean"], min(k, self.s_mean.shape[-2]), padded=True)
        count = self.count.reshape(*self.batch_shape, *[1] * (found.index.dim() - len(self.batch_shape)))
        return replace(found, distance=found.distance.masked_fill(found.index >= count, torch.inf))

    def nearest(self, s: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """`distance` and `index` (*M, *Q, k) of what `read` finds, with its errors; nothing that the entries hold is gathered."""
        return self._nearest(phi(s), self.s_mean, k, phi)

    def _nearest(self, query: Tensor, rows: Tensor, k: int, lift: Lift = same, padded: bool = False) -> tuple[Tensor, Tensor]:
        """By the keys lift(rows): rows (*M, N, ...)"""
        batch, axes = self.batch_shape, len(self.batch_shape)
        size = lift(rows[..., :0, :]).shape[-1]
        if query.shape[:axes] != batch or query.shape[-1] != size:
            raise ValueError(
                f"A query has the memory's batch shape first and its key size last: "
                f"memory {(*rows.shape[:-1], size)}, query {tuple(query.shape)}."
            )
        if k < 1 and not padded:
            raise ValueError(f"At least one neighbour is read, K of 1 or more; given {k}.")
        # While a CUDA graph is recorded no number is known yet, and the memory was read before.
        recorded = self.count.is_cuda and torch.cuda.is_current_stream_capturing()
        fewest = int(self.count.min()) if self.count.numel() and not recorded else k
        if fewest < k and not padded:
            what = "The memory is empty" if fewest == 0 else f"K = {k} neighbours were asked of a memory of {fewest} entries"
            raise ValueError(f"{what}. Walk (or observe) at least {k} steps in the world before reading.")
        flat_query = query.reshape(self.count.numel(), math.prod(query.shape[axes:-1]), size)  # (M, Q, n)
        if rows is self.s_mean and self._is_large():
            index = self._search(flat_query[0], k).reshape(*query.shape[:-1], k)
            found = lift(self._gather(rows, index))
        else:
            keys = lift(rows)
            flat_keys = keys.reshape(-1, *keys.shape[axes:])  # (M, N, n)
            index = nearest(flat_query, flat_keys, self.count.reshape(-1), k).reshape(*query.shape[:-1], k)
            found = self._gather(keys, index)
        return (query[..., None, :] - found).square().sum(dim=-1).clamp(min=1e-20).sqrt(), index

    def _search(self, query: Tensor, k: int) -> Tensor:
        """One large memory through the trees of its states: query (Q, n) -> (Q, k)"""
        rows = self.s_mean.detach().reshape(self.s_mean.shape[-2:]).numpy()[: int(self.count)]
        self._forest = self._known().grown(rows)
        if self._forest.end >= self._storage.forest.end:
            self._storage.forest = self._forest
        return torch.from_numpy(self._forest.nearest(query.detach().float().contiguous().numpy(), rows, k))

    def _known(self) -> Forest:
        """The forest that covers most of this memory and no later one: its own, or that of others in its storage."""
        other = self._storage.forest
        return other if self._forest.end <= other.end <= len(self) else self._forest

    def _gather(self, x: Tensor, index: Tensor) -> Tensor:
        """What is stored of some entries: x (*M, N, ...), index (*M, *Q) -> (*M, *Q, ...)."""
        axes = len(self.batch_shape)
        if self.count.numel() == 1:
            return x.reshape(x.shape[axes:])[index]
        flat = index.reshape(self.count.numel(), math.prod(index.shape[axes:]))
        row = torch.arange(len(flat), device=index.device)[:, None]
        return x.reshape(-1, *x.shape[axes:])[row, flat].reshape(*index.shape, *x.shape[axes + 1 :])

    def _read(self, query: Tensor, rows: Tensor, k: int, lift: Lift = same, padded: bool = False) -> Neighbours:
        distance, index = self._nearest(query, rows, k, lift, padded)
        values = {name: self._gather(value, index) for name, value in self.values.items()}
        return Neighbours(distance, index, self._gather(self.s_mean, index), self._gather(self.s_variance, index), values)

    # ---------------------------------------------------------------- places

    def distinct(self, radius: float, at_least: int = 1) -> SpatialMemory:
        """One entry for each distinct place: in the order of writing, those farther than `radius` from all kept before.

        Where these are fewer than `at_least`, the first of the others fill up, so that as many neighbours can be read.
        """
        keys = phi(self.s_mean.reshape(self.count.numel(), *self.s_mean.shape[-2:]))  # (M, N, n)
        entries = len(self)
        used = torch.arange(entries, device=keys.device) < self.count.reshape(-1, 1)  # (M, N)
        if loops := loops_for("dream_compiled", keys):
            keep = loops.apart(keys[:, :entries], self.count.reshape(-1), radius)
        else:
            keep = used.clone()
            for entry in range(entries - 1):  # a kept entry strikes out all later ones that are close to it
                close = (keys[:, entry + 1 : entries] - keys[:, entry : entry + 1]).square().sum(dim=-1) <= radius**2
                keep[:, entry + 1 :] &= ~(close & keep[:, entry, None])
        count = keep.sum(dim=-1).clamp(min=at_least).minimum(self.count.reshape(-1))
        rank = keep.to(torch.int8) + used.to(torch.int8)  # places, then other entries, then padding
        return self._select(rank.argsort(dim=-1, descending=True, stable=True)[:, : max(count.tolist(), default=0)], count)

    def bounded(self, capacity: int, policy: str) -> SpatialMemory:
        """This memory with at most `capacity` entries in each of its batch, now and after every write.

        policy: which are forgotten, the "oldest", or the most "redundant": again and again, of the two entries nearest to each other the
        older. A write that would exceed the capacity forgets an eighth of it at once, so that writes cost as much on average as without.
        """
        if policy not in POLICIES or capacity < 1:
            raise ValueError(f"A memory holds 1 entry or more and forgets by one of {POLICIES}; given {capacity} and {policy!r}.")
        memory = self._reduced(capacity, policy) if len(self) > capacity else self.but()
        memory.bound = (capacity, policy)
        return memory

    def _reduced(self, entries: int, policy: str) -> SpatialMemory:
        """The entries that are left of each memory, at most so many, in the order of writing."""
        order = torch.zeros(self.count.numel(), entries, dtype=torch.int64)  # (M, E)
        count = self.count.reshape(-1).cpu().clamp(max=entries)
        keys = phi(self.s_mean.detach().reshape(-1, *self.s_mean.shape[-2:]).cpu().float())
        for row, used in enumerate(self.count.reshape(-1).tolist()):
            left = torch.arange(used)[-entries:] if policy == "oldest" or used <= entries else spread(keys[row, :used], entries)
            order[row, : len(left)] = left
        return self._select(order.to(self.count.device), count.to(self.count.device))

    def _select(self, order: Tensor, count: Tensor) -> SpatialMemory:
        """Some entries as memories of their own: order (M, E) of which the first `count` (M,) are no padding."""
        row = torch.arange(len(order), device=order.device)[:, None]
        axes = len(self.batch_shape)

        def select(x: Tensor) -> Tensor:
            return x.reshape(len(order), *x.shape[axes:])[row, order].reshape(*self.batch_shape, order.shape[1], *x.shape[axes + 1 :])

        values = {name: select(value) for name, value in self.values.items()}
        return SpatialMemory(
            select(self.s_mean), select(self.s_variance), values, count.reshape(self.batch_shape), self._lasting(), self.bound
        )

    # ---------------------------------------------------------------- rows

    def __getitem__(self, rows: Tensor | slice) -> SpatialMemory:
        """Some rows of the first batch axis, as memories of their own."""
        if isinstance(rows, slice):
            rows = torch.arange(len(self.count), device=self.count.device)[rows]
        values = {name: value[rows] for name, value in self.values.items()}
        facts = {name: fact[rows] for name, fact in self.facts.items()}
        memory = SpatialMemory(self.s_mean[rows], self.s_variance[rows], values, self.count[rows], facts, self.bound)
        if rows.dim():  # then indexing has copied
            memory._storage.newest = memory.count
        return memory

    def put(self, rows: Tensor, other: SpatialMemory, in_place: bool = False) -> SpatialMemory:
        """This batch of memories with some rows (mask or indices) replaced, in order, by those of `other`.

        in_place: for an owner whom nobody shares this memory with, and in whose room the others fit; it is changed and returned.
        """
        mine, theirs = ({**memory.values, **memory.facts} for memory in (self, other))
        if mine.keys() != theirs.keys():
            raise ValueError(f"Every entry holds the same kinds of values: this memory holds {sorted(mine)}, the other {sorted(theirs)}.")
        size = other.s_mean.shape[-2]
        memory = self if in_place else self._copy(size)
        at: tuple[Tensor | slice, ...] = (rows, *[slice(None)] * (len(self.batch_shape) - 1), slice(size))
        for name in ("s_mean", "s_variance"):
            getattr(memory, name)[at] = getattr(other, name)
        for name, value in memory.values.items():
            value[at] = other.values[name]
        for name, fact in memory.facts.items():
            fact[rows] = other.facts[name]
        memory.count[rows] = other.count
        return memory

    def to(self, device: torch.device | str) -> SpatialMemory:
        values = {name: value.to(device) for name, value in self.values.items()}
        facts = {name: fact.to(device) for name, fact in self.facts.items()}
        return SpatialMemory(self.s_mean.to(device), self.s_variance.to(device), values, self.count.to(device), facts, self.bound)

    # ---------------------------------------------------------------- disk

    def save(self, path: str | Path, model: str | Fingerprinted) -> None:
        """Write the memory as safetensors and JSON, atomically. `model` is the model that wrote it, or its fingerprint."""
        keep = len(self)
        axis = len(self.batch_shape)
        tensors = {name: x.narrow(axis, 0, keep).detach() for name, x in self._named().items()} | {"count": self.count}
        tensors |= {f"facts.{name}": fact.detach() for name, fact in self._lasting().items()}
        save_checkpoint(path, tensors, {"kind": "memory", "model": fingerprint(model)})

    def append(self, path: str | Path, model: str | Fingerprinted) -> None:
        """Add to what `append` wrote before what has been written to this memory since: no more is written, but now and then all of it.

        For one memory on the CPU that is large. A write that is interrupted leaves the file as it was.
        Raises CheckpointError if the file holds no earlier state of this memory, or is of another model.
        """
        if self.batch_shape or self.count.device.type != "cpu":
            raise ValueError(f"One memory on the CPU is appended to a file; this is {self!r} on {self.count.device}: use `save`.")
        used = len(self)
        rows = {name: x.detach()[:used] for name, x in self._named().items()}
        config = {"kind": "memory", "model": fingerprint(model)}
        if not append_rows(path, rows, config):
            grown = self._copy(used + used // 2)
            tensors = grown._named() | {"count": grown.count} | {f"facts.{name}": fact for name, fact in grown._lasting().items()}
            save_rows(path, tensors, used, config)

    def _named(self) -> dict[str, Tensor]:
        """What there is of each entry, by its name in a file."""
        return {"s_mean": self.s_mean, "s_variance": self.s_variance} | {f"values.{k}": v for k, v in self.values.items()}

    @classmethod
    def load(cls, path: str | Path, model: str | Fingerprinted | None = None, mapped: bool = False) -> SpatialMemory:
        """Read a memory. Raises CheckpointError if the file is not one, or was written by another model than `model`, which None lets pass.

        mapped: leave what it holds in the file until it is read. What is written goes to memory alone, until `append`.
        """
        tensors, config = load_checkpoint(path, "memory", mapped)
        needed = {"s_mean", "s_variance", "count", "values.z_mean", "values.z_variance"}
        check_keys(tensors, needed | {name for name in tensors if name.startswith(("values.", "facts."))}, str(path))
        check_keys(config.keys() - {"rows"}, {"kind", "model"}, str(path))
        given = config["model"] if model is None else fingerprint(model)
        if config["model"] != given:
            raise CheckpointError(
                f"A memory can only be read by the model that wrote it: {path} was written by model {config['model']}, given {given}. "
                "Load that model, or walk the world again with this one."
            )
        values, facts = (
            {name.removeprefix(kind): x for name, x in tensors.items() if name.startswith(kind)} for kind in ("values.", "facts.")
        )
        count = torch.tensor(config["rows"]) if "rows" in config else tensors["count"]
        memory = cls(tensors["s_mean"], tensors["s_variance"], values, count, facts)
        memory._storage.newest = count  # nobody else holds these tensors
        return memory
