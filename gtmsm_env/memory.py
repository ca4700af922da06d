"""The spatial memory: a Differentiable Neural Dictionary (section 2) from places to what was seen there.

An entry's key is q(s_t), its values q(z_t | x_t) and whatever else is remembered of that step (reward, termination).
Sufficient statistics are stored, not samples (section 3). A memory is a value: `write` returns a new one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from gtmsm_env.checkpoint import CheckpointError, check_keys, load_checkpoint, save_checkpoint
from gtmsm_env.neighbours import nearest
from gtmsm_env.types import Neighbours, phi

Metric = Callable[[Tensor], Tensor]
"""What phi(s) (*B, m) is mapped to before distances are measured, (*B, m')."""


class SpatialMemory:
    """A batch of memories of up to N entries each.

    Attributes:
        s_mean, s_variance: (*M, N, n) keys, in the model's own unit
        values: name -> (*M, N, ...), at least `z_mean` and `z_variance` (*M, N, d)
        count: (*M,) int64, entries in use; those beyond are padding that no read returns
        facts: name -> (*M, ...), what is known of each memory as a whole
    """

    def __init__(
        self,
        s_mean: Tensor,
        s_variance: Tensor,
        values: dict[str, Tensor],
        count: Tensor | None = None,
        facts: dict[str, Tensor] | None = None,
    ) -> None:
        batch, entries = s_mean.shape[:-2], s_mean.shape[-2]
        for name, value in {"s_variance": s_variance, **values}.items():
            if value.shape[: len(batch) + 1] != (*batch, entries):
                raise ValueError(f"Each entry has one value of each kind: s_mean is {tuple(s_mean.shape)} but {name} {tuple(value.shape)}.")
        self.s_mean, self.s_variance, self.values, self.facts = s_mean, s_variance, values, facts or {}
        self.count = torch.full(batch, entries, device=s_mean.device) if count is None else count
        if self.count.shape != batch:
            raise ValueError(f"Each memory has one count: s_mean is {tuple(s_mean.shape)} but count {tuple(self.count.shape)}.")
        # The count of the newest memory in this storage, in a list that all memories in it share; empty where others may hold the storage.
        self._newest: list[Tensor] = []

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
        return SpatialMemory(self.s_mean, self.s_variance, values, self.count, facts)

    # ---------------------------------------------------------------- write

    def write(self, s_mean: Tensor, s_variance: Tensor, where: Tensor | None = None, **values: Tensor) -> SpatialMemory:
        """A memory with one more entry per batch row: s_mean, s_variance (*M, n), values (*M, ...).

        where: (*M,) bool, rows that are written; all by default. This memory stays as it is, whoever holds it.
        """
        if values.keys() != self.values.keys():
            raise ValueError(
                f"Every entry holds the same kinds of values: this memory holds {sorted(self.values)}, given {sorted(values)}."
            )
        where = torch.ones_like(self.count, dtype=torch.bool) if where is None else where
        axes = len(self.batch_shape)
        for name, value in {"s_mean": s_mean, "s_variance": s_variance, **values}.items():
            storage = self.values[name] if name in values else getattr(self, name)
            expected = (*self.batch_shape, *storage.shape[axes + 1 :])
            if value.shape != expected or where.shape != self.batch_shape:
                raise ValueError(
                    f"One entry a memory is written: {name} has shape {tuple(expected)} and where {tuple(self.batch_shape)}; "
                    f"given {tuple(value.shape)} and {tuple(where.shape)}."
                )
        memory = self
        full = bool((self.count >= self.s_mean.shape[-2]).any())
        # Only the newest memory of a storage may append to it in place; an older one, or a full one, moves to its own.
        if full or not any(self.count is newest for newest in self._newest):
            memory = self._copy(room=max(8, self.s_mean.shape[-2]) if full else 0)
        chosen = where.reshape(-1)  # (M,)
        at = (chosen.nonzero().squeeze(-1), memory.count.reshape(-1)[chosen])
        for name, value in {"s_mean": s_mean, "s_variance": s_variance, **values}.items():
            storage = memory.values[name] if name in values else getattr(memory, name)
            storage.view(-1, *storage.shape[axes:])[at] = value.reshape(-1, *storage.shape[axes + 1 :])[chosen].to(storage.dtype)
        grown = SpatialMemory(memory.s_mean, memory.s_variance, memory.values, memory.count + where, memory.facts)
        grown._newest = memory._newest
        grown._newest[:] = [grown.count]
        return grown

    def _copy(self, room: int = 0) -> SpatialMemory:
        axis = len(self.batch_shape)

        def extend(x: Tensor) -> Tensor:
            return torch.cat([x.detach(), x.new_zeros(*x.shape[:axis], room, *x.shape[axis + 1 :])], dim=axis).contiguous()

        values = {name: extend(value) for name, value in self.values.items()}
        facts = {name: fact.clone() for name, fact in self.facts.items()}
        memory = SpatialMemory(extend(self.s_mean), extend(self.s_variance), values, self.count.clone(), facts)
        memory._newest.append(memory.count)
        return memory

    # ---------------------------------------------------------------- read

    def read(self, s: Tensor, k: int, metric: Metric = lambda x: x) -> Neighbours:
        """The k entries nearest to s, by Euclidean distance between means (section 4.1), those of headings too as `phi` measures it.

        s: (*M, *Q, n) in the model's unit; gradients flow to s and to the entries found. Returns Neighbours of shape (*M, *Q).
        Raises ValueError if a memory of the batch has fewer than k entries.
        """
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
        return self._nearest(phi(s), phi(self.s_mean), k)

    def _nearest(self, query: Tensor, keys: Tensor, k: int, padded: bool = False) -> tuple[Tensor, Tensor]:
        batch, axes = self.batch_shape, len(self.batch_shape)
        if query.shape[:axes] != batch or query.shape[-1] != keys.shape[-1]:
            raise ValueError(
                f"A query has the memory's batch shape first and its key size last: memory {tuple(keys.shape)}, query {tuple(query.shape)}."
            )
        fewest = int(self.count.min()) if self.count.numel() else k
        if fewest < k and not padded:
            what = "The memory is empty" if fewest == 0 else f"K = {k} neighbours were asked of a memory of {fewest} entries"
            raise ValueError(f"{what}. Walk (or observe) at least {k} steps in the world before reading.")
        flat_keys = keys.reshape(-1, *keys.shape[axes:])  # (M, N, n)
        flat_query = query.reshape(flat_keys.shape[0], math.prod(query.shape[axes:-1]), query.shape[-1])  # (M, Q, n)
        index = nearest(flat_query, flat_keys, self.count.reshape(-1), k).reshape(*query.shape[:-1], k)
        distance = (query[..., None, :] - self._gather(keys, index)).square().sum(dim=-1).clamp(min=1e-20).sqrt()
        return distance, index

    def _gather(self, x: Tensor, index: Tensor) -> Tensor:
        """What is stored of some entries: x (*M, N, ...), index (*M, *Q) -> (*M, *Q, ...)."""
        axes = len(self.batch_shape)
        flat = index.reshape(self.count.numel(), math.prod(index.shape[axes:]))
        row = torch.arange(len(flat), device=index.device)[:, None]
        return x.reshape(-1, *x.shape[axes:])[row, flat].reshape(*index.shape, *x.shape[axes + 1 :])

    def _read(self, query: Tensor, keys: Tensor, k: int, padded: bool = False) -> Neighbours:
        distance, index = self._nearest(query, keys, k, padded)
        values = {name: self._gather(value, index) for name, value in self.values.items()}
        return Neighbours(distance, index, self._gather(self.s_mean, index), self._gather(self.s_variance, index), values)

    # ---------------------------------------------------------------- places

    def distinct(self, radius: float, at_least: int = 1) -> SpatialMemory:
        """One entry for each distinct place: in the order of writing, those farther than `radius` from all kept before.

        Where these are fewer than `at_least`, the first of the others fill up, so that as many neighbours can be read.
        """
        keys = phi(self.s_mean.reshape(-1, *self.s_mean.shape[-2:]))  # (M, N, n)
        entries = len(self)
        used = torch.arange(entries, device=keys.device) < self.count.reshape(-1, 1)  # (M, N)
        keep = used.clone()
        for entry in range(entries - 1):  # a kept entry strikes out all later ones that are close to it
            close = (keys[:, entry + 1 : entries] - keys[:, entry : entry + 1]).square().sum(dim=-1) <= radius**2
            keep[:, entry + 1 :] &= ~(close & keep[:, entry, None])
        count = keep.sum(dim=-1).clamp(min=at_least).minimum(self.count.reshape(-1))
        rank = keep.to(torch.int8) + used.to(torch.int8)  # places, then other entries, then padding
        order = rank.argsort(dim=-1, descending=True, stable=True)[:, : int(count.max())]
        row = torch.arange(len(keys), device=keys.device)[:, None]
        axes = len(self.batch_shape)

        def select(x: Tensor) -> Tensor:
            return x.reshape(-1, *x.shape[axes:])[row, order].reshape(*self.batch_shape, order.shape[1], *x.shape[axes + 1 :])

        values = {name: select(value) for name, value in self.values.items()}
        return SpatialMemory(select(self.s_mean), select(self.s_variance), values, count.reshape(self.batch_shape), self.facts)

    # ---------------------------------------------------------------- rows

    def __getitem__(self, rows: Tensor | slice) -> SpatialMemory:
        """Some rows of the first batch axis, as memories of their own."""
        if isinstance(rows, slice):
            rows = torch.arange(len(self.count), device=self.count.device)[rows]
        values = {name: value[rows] for name, value in self.values.items()}
        facts = {name: fact[rows] for name, fact in self.facts.items()}
        memory = SpatialMemory(self.s_mean[rows], self.s_variance[rows], values, self.count[rows], facts)
        if rows.dim():  # then indexing has copied
            memory._newest.append(memory.count)
        return memory

    def put(self, rows: Tensor, other: SpatialMemory, in_place: bool = False) -> SpatialMemory:
        """This batch of memories with some rows (mask or indices) replaced, in order, by those of `other`.

        in_place: for an owner whom nobody shares this memory with, and in whose room the others fit; it is changed and returned.
        """
        mine, theirs = ({**memory.values, **memory.facts} for memory in (self, other))
        if mine.keys() != theirs.keys():
            raise ValueError(f"Every entry holds the same kinds of values: this memory holds {sorted(mine)}, the other {sorted(theirs)}.")
        size = other.s_mean.shape[-2]
        memory = self if in_place else self._copy(room=max(0, size - self.s_mean.shape[-2]))
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
        return SpatialMemory(self.s_mean.to(device), self.s_variance.to(device), values, self.count.to(device), facts)

    # ---------------------------------------------------------------- disk

    def save(self, path: str | Path, model: str) -> None:
        """Write the memory as safetensors and JSON, atomically. `model` is the fingerprint of the model that wrote it."""
        keep = len(self)
        axis = len(self.batch_shape)
        tensors = {"s_mean": self.s_mean, "s_variance": self.s_variance} | {f"values.{k}": v for k, v in self.values.items()}
        tensors = {name: x.narrow(axis, 0, keep).detach() for name, x in tensors.items()} | {"count": self.count}
        tensors |= {f"facts.{name}": fact.detach() for name, fact in self.facts.items()}
        save_checkpoint(path, tensors, {"kind": "memory", "model": model})

    @classmethod
    def load(cls, path: str | Path, model: str | None = None) -> SpatialMemory:
        """Read a memory. Raises CheckpointError if the file is not one, or was written by another model than `model`."""
        tensors, config = load_checkpoint(path, kind="memory")
        needed = {"s_mean", "s_variance", "count", "values.z_mean", "values.z_variance"}
        check_keys(tensors, needed | {name for name in tensors if name.startswith(("values.", "facts."))}, str(path))
        check_keys(config, {"kind", "model"}, str(path))
        if model is not None and config["model"] != model:
            raise CheckpointError(
                f"A memory can only be read by the model that wrote it: {path} was written by model {config['model']}, given {model}. "
                "Load that model, or walk the world again with this one."
            )
        values, facts = (
            {name.removeprefix(kind): x for name, x in tensors.items() if name.startswith(kind)} for kind in ("values.", "facts.")
        )
        return cls(tensors["s_mean"], tensors["s_variance"], values, tensors["count"], facts)
