"""The episodes of many dreams, drawn ahead of need: rows that end begin again by mask, in shapes that are always the same.

So a step waits for nothing that a device computes, and a row's beginning costs about what its step does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gtmsm_env.graphs import fused
from gtmsm_env.loops import LANES, loops_for
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.neighbours import LARGE
from gtmsm_env.types import Tolerance, phi
from gtmsm_env.worlds import SAME, alike

NOWHERE = torch.inf  # the coordinates of what fills up a list of places: no state is near


class Nearby:
    """How far states are from the places that each row remembers; what `SpatialMemory.nearest` finds, laid out to be asked at every step.

    memory: of batch shape (N,), of states (N, P, n); rows that share one memory (a view, as `worlds.spread` makes it) share what is kept.
    """

    def __init__(self, memory: SpatialMemory) -> None:
        one = len(memory.s_mean) > 1 and memory.s_mean.stride(0) == 0
        self._tree = memory[torch.tensor(0)] if one and memory.s_mean.shape[1] >= LARGE else None
        # (N or 1, m, P), as phi measures them; None of so many that a tree finds the nearest.
        self.places = _placed(memory[:1] if one else memory) if self._tree is None else None

    def put(self, rows: Tensor, memory: SpatialMemory) -> None:
        """Some rows (R,) remember other places, at most as many as there is room for."""
        assert self.places is not None
        places = _placed(memory)
        self.places[rows] = F.pad(places, (0, self.places.shape[-1] - places.shape[-1]), value=NOWHERE)

    def square(self, s: Tensor) -> Tensor:
        """Squared distances of states (N, n) to all places, as `phi` measures them: (N, P)."""
        assert self.places is not None
        return _square(self.places, phi(s))

    def distance(self, s: Tensor) -> Tensor:
        """To the nearest place (N,), in the model's unit."""
        if self.places is None:
            assert self._tree is not None
            return self._tree.nearest(s, 1)[0].squeeze(-1)
        loops = loops_for("dream_compiled", s, self.places)
        if loops and self.places.shape[1] > 1:  # they take two axes at once
            found: Tensor = loops.distance(self.places, phi(s))
            return found
        # In one pass on a GPU: what lies between is several times as large as the places.
        least = fused(_distance) if s.is_cuda else _distance
        return least(self.places, phi(s))

    def index(self, s: Tensor) -> Tensor:
        """Which place is nearest, (N,) int64."""
        return self.square(s).argmin(dim=1) if self._tree is None else self._tree.nearest(s, 1)[1].squeeze(-1)


def _square(places: Tensor, x: Tensor) -> Tensor:
    return (places - x[..., None]).square().sum(dim=1)


def _distance(places: Tensor, x: Tensor) -> Tensor:
    return _square(places, x).amin(dim=1).clamp(min=1e-20).sqrt()


def _placed(memory: SpatialMemory) -> Tensor:
    """phi of the places of each row, (N, m, P), of those not used nowhere; P is filled up, as loops take `LANES` at once."""
    places = phi(memory.s_mean).masked_fill(~memory.used[..., None], NOWHERE).transpose(1, 2)
    return F.pad(places, (0, -places.shape[-1] % LANES), value=NOWHERE).contiguous()


@dataclass
class Looks:
    """Which places of each memory look alike: those of place p are `order[first[p]]`, `count[p]` of them."""

    label: Tensor  # (M, P) int64, the first place that looks as this one does
    order: Tensor  # (M, P) int64, the places, those that look alike together
    first: Tensor  # (M, P) int64, where in `order` those that look as this one begin
    count: Tensor  # (M, P) int64

    @classmethod
    def of(cls, memory: SpatialMemory) -> Looks:
        label = first_alike(memory.values["z_mean"], memory.used)
        size = torch.zeros_like(label).scatter_add_(1, label, torch.ones_like(label))
        return cls(label, label.argsort(dim=1, stable=True), (size.cumsum(dim=1) - size).gather(1, label), size.gather(1, label))

    def __getitem__(self, rows: Tensor) -> Looks:
        return Looks(self.label[rows], self.order[rows], self.first[rows], self.count[rows])

    def put(self, rows: Tensor, other: Looks) -> None:
        """Some rows (R,) take, in order, those of `other`, of as many places at most."""
        for name in ("label", "order", "first", "count"):
            mine, theirs = getattr(self, name), getattr(other, name)
            mine[rows, : theirs.shape[1]] = theirs

    def places(self, entry: Tensor, s: Tensor) -> Tensor:
        """The states s (M, P, n) of entries (M, E), then of all others that look as they do: (M, E, G, n), filled up with nowhere."""
        count = self.count.gather(1, entry)[..., None]
        each = torch.arange(int(count.max()), device=entry.device)
        row = torch.arange(len(s), device=s.device)[:, None, None]
        where = self.order[row, (self.first.gather(1, entry)[..., None] + each).clamp(max=s.shape[1] - 1)]  # (M, E, G)
        where = torch.cat([entry[..., None], torch.where(where == entry[..., None], where[..., :1], where)[..., 1:]], dim=-1)
        return s[row, where].masked_fill((each >= count)[..., None], NOWHERE)


def first_alike(z: Tensor, used: Tensor) -> Tensor:
    """The first entry whose encoding is `alike` to each of (M, P, d), of those `used` (M, P): (M, P) int64; of the others themselves.

    Only entries whose first numbers are alike are compared, and these are neighbours once they are sorted.
    """
    rows, entries = used.shape
    key, order = z[..., 0].masked_fill(~used, torch.inf).sort(dim=1)
    label = torch.arange(entries, device=z.device).repeat(rows, 1)
    for apart in range(1, entries):
        row, at = (key[:, apart:] - key[:, :-apart] <= SAME).nonzero().unbind(dim=1)
        if not len(row):
            break
        a, b = order[row, at], order[row, at + apart]
        same = alike(z[row, a], z[row, b])
        row, first, other = row[same], torch.minimum(a, b)[same], torch.maximum(a, b)[same]
        label.view(-1).scatter_reduce_(0, row * entries + other, first, "amin")
    return label


@dataclass
class Starts:
    """Where E episodes of each of R rows begin, and what their goals are; without a goal `goals` is empty and `frames` None."""

    mean: Tensor  # (R, E, n)
    displacement: Tensor  # (R, E, n)
    goals: Tensor  # (R, E, G, n), the goal and all places that look as it does, filled up with nowhere
    frames: Tensor | None  # (R, E, H, W, C) uint8, the goal as it is remembered, where frames are shown

    def side_by_side(self) -> Tensor:
        """Means, displacements and goals, (R, E, 2 n + G n)."""
        return torch.cat([self.mean, self.displacement, self.goals.flatten(-2)], dim=-1)


class Episodes:
    """For each of N rows up to E episodes that it will begin, in order, and the one that it is in.

    A row that has begun all of them is `spent`. Where nobody draws it others (`put`), it begins the same again in the same order.
    """

    mean: Tensor  # (N, n), where the rows are
    displacement: Tensor  # (N, n), u_t
    goals: Tensor  # (N, G, n), of the episodes they are in
    frames: Tensor | None = None  # (N, H, W, C) uint8
    steps: Tensor  # (N,) int64, steps of these episodes
    table: Tensor  # (N, E, 2 n + G n), what episodes begin with, side by side: it is looked up once a step
    _frames: Tensor | None = None  # (N, E, H, W, C) uint8

    def __init__(self, rows: int, size: int, device: torch.device) -> None:
        self.size, self._base = size, torch.arange(rows, device=device) * size
        self.begun, self.drawn = torch.zeros(2, rows, dtype=torch.int64, device=device)
        self.numbers = torch.zeros(rows, size, 2, dtype=torch.float64, device=device)

    @property
    def spent(self) -> Tensor:
        """Rows that have begun all that was drawn for them, (N,) bool."""
        return self.begun >= self.drawn

    @property
    def now(self) -> tuple[Tensor, ...]:
        """All that steps and beginnings change."""
        frames = () if self.frames is None else (self.frames,)
        return self.mean, self.displacement, self.goals, self.steps, self.begun, *frames

    @now.setter
    def now(self, tensors: Sequence[Tensor]) -> None:
        self.mean, self.displacement, self.goals, self.steps, self.begun, *frames = tensors
        self.frames = frames[0] if frames else None

    def forget(self, rows: Tensor) -> None:
        """Nothing is drawn for these rows (R,)."""
        self.begun[rows] = self.drawn[rows]

    def put(self, rows: Tensor, starts: Starts, count: Tensor, numbers: Tensor) -> None:
        """What rows (R,) begin next, all rows the first time: `count` (R,) of E episodes, made of `numbers` (R, E, 2)."""
        if not hasattr(self, "table"):
            self.table, self._frames = starts.side_by_side(), starts.frames
            first = starts.mean[:, 0], starts.displacement[:, 0], starts.goals[:, 0]
            self.mean, self.displacement, self.goals = (x.clone(memory_format=torch.contiguous_format) for x in first)
            self.frames = None if starts.frames is None else starts.frames[:, 0].clone()
            self.steps = torch.zeros_like(self.begun)
        else:
            self._put(rows, slice(None), starts)
        self.begun[rows], self.drawn[rows], self.numbers[rows] = 0, count, numbers

    def _next(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return rows, self.begun[rows] % self.drawn[rows]

    def next_of(self, rows: Tensor) -> Starts:
        """The very next episode of rows (R,), as starts of E = 1."""
        mean, displacement, goals = self._apart(self.table[self._next(rows)][:, None])
        return Starts(mean, displacement, goals, None if self._frames is None else self._frames[self._next(rows)][:, None])

    def next_numbers(self, rows: Tensor) -> Tensor:
        """The numbers that it was made of, (R, 1, 2)."""
        return self.numbers[self._next(rows)][:, None]

    def put_next(self, rows: Tensor, starts: Starts) -> None:
        """It is another: starts of E = 1."""
        frames = None if starts.frames is None else starts.frames[:, 0]
        self._put(*self._next(rows), Starts(starts.mean[:, 0], starts.displacement[:, 0], starts.goals[:, 0], frames))

    def _put(self, rows: Tensor, which: Tensor | slice, starts: Starts) -> None:
        room = starts.goals.shape[-2] - self.goals.shape[-2]
        if room > 0:
            self.goals = F.pad(self.goals, (0, 0, 0, room), value=NOWHERE)
            self.table = F.pad(self.table, (0, room * self.goals.shape[-1]), value=NOWHERE)
        table = starts.side_by_side()
        self.table[rows, which] = F.pad(table, (0, self.table.shape[-1] - table.shape[-1]), value=NOWHERE)
        if self._frames is not None and starts.frames is not None:
            self._frames[rows, which] = starts.frames

    def _apart(self, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means, displacements (*B, n) and goals (*B, G, n) that lie side by side (*B, 2 n + G n)."""
        n = self.mean.shape[-1]
        return table[..., :n], table[..., n : 2 * n], table[..., 2 * n :].unflatten(-1, self.goals.shape[-2:])

    def begin(self, over: Tensor) -> None:
        """The rows `over` (N,) bool begin their next episode."""
        if loops := loops_for("dream_compiled", self.mean):
            if not len(rows := over.nonzero().squeeze(1)):
                return
            self.begin_frames(rows)
            self.mean, self.displacement = self.mean.clone(), self.displacement.clone()  # others may hold them, in a belief
            loops.begin(rows, self.begun, self.drawn, self.table, self.mean, self.displacement, self.goals, self.steps)
            return
        at, which = self._base + self.begun % self.drawn, over[:, None]
        mean, displacement, goals = self._apart(self.table.flatten(0, 1).index_select(0, at))
        self.mean, self.displacement = torch.where(which, mean, self.mean), torch.where(which, displacement, self.displacement)
        if self.goals.shape[1]:
            self.goals = torch.where(which[..., None], goals, self.goals)
        if self.frames is not None and self._frames is not None:
            self.frames = torch.where(which[..., None, None], self._frames.flatten(0, 1).index_select(0, at), self.frames)
        self.steps = self.steps.masked_fill(over, 0)
        self.begun = self.begun + over

    def begin_frames(self, rows: Tensor) -> None:
        """What rows (R,) that are about to begin their next episode show of its goal; the rest is for loops."""
        if self.frames is not None and self._frames is not None:
            self.frames[rows] = self._frames[self._next(rows)]


def choose_goals(
    number: Tensor, start: Tensor, s: Tensor, count: Tensor, looks: Looks, there: Tolerance, radius: float
) -> tuple[Tensor, Tensor]:
    """A goal for each of E episodes in the memories of R rows, among the places that look unlike those the episode starts at.

    Args:
        number: (R, E) uniform in [0, 1), picks it
        start: (R, E or 1, n) states
        s: (R, P, n) states of the places
        count: (R,) how many of them are distinct; others are no goals
        there: how near one is where
        radius: how near a place is to be one that the episode starts at

    Returns: which place (R, E) int64, and from how many it was picked (R, E); of none it is meaningless.
    """
    if loops := loops_for("dream_compiled", start, s):
        found: tuple[Tensor, Tensor] = loops.chosen(number, start, s, count, looks.label, there, radius)
        return found
    close = (phi(s)[:, None] - phi(start)[:, :, None]).square().sum(dim=-1) <= radius**2  # (R, E or 1, P)
    label = looks.label[:, None].expand_as(close)
    like = torch.zeros_like(label).scatter_add_(2, label, close.long()).gather(2, label) > 0
    distinct = torch.arange(s.shape[1], device=s.device) < count[:, None, None]
    allowed = (distinct & ~like & ~there(s[:, None], start[:, :, None])).cumsum(dim=-1)  # how many up to each place
    choices = allowed[..., -1].expand_as(number)
    pick = (number * choices).long()
    return (allowed <= pick[..., None]).sum(dim=-1).clamp(max=s.shape[1] - 1), choices
