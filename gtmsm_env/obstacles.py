"""Remembered obstacles: what moves did where they were tried, so that a dream stops where the walk was stopped.

A transition cannot know obstacles that stand elsewhere in every world; a walk can. An entry of the memory keeps the move that led to it:
`origin` s_{t-1}, `action` a_t (-1 for x_1) and `effect`, the inferred displacement as a share of the expected one. Distinct places keep
how often each action was `tried` from them and how often it `moved`. From these follows the fact `obstacle` of a memory of places: the
cells of a lattice around the start that stopped a move, and those that a network believes to be obstacles by what is known around them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from gtmsm_env.memory import SpatialMemory
from gtmsm_env.transitions import LinearWithWalls

KEPT = ("origin", "action", "effect")  # what an entry keeps of the move that led to it


def effect(displacement: Tensor, expected: Tensor, least: float) -> Tensor:
    """How much of an expected displacement (*B, n) there was, along it: 1 for a free move, 0 for a blocked one; (*B,).

    least: in the unit of the state; a move that is not expected to lead so far has nothing to be stopped and counts as free
    """
    square = expected.square().sum(dim=-1)
    return torch.where(square > least**2, (displacement * expected).sum(dim=-1) / square.clamp(min=least**2), torch.ones_like(square))


# ---------------------------------------------------------------- counted


def without_moves(places: SpatialMemory, num_actions: int) -> SpatialMemory:
    """Distinct places from which no move is counted yet: `tried` and `moved` (*M, P, A)."""
    values = {name: value for name, value in places.values.items() if name not in KEPT}
    none = places.s_mean.new_zeros(*places.s_mean.shape[:-1], num_actions)
    return places.but(values=values | {"tried": none, "moved": none})


def count_moves(places: SpatialMemory, origin: Tensor, action: Tensor, share: Tensor, counted: Tensor, radius: float) -> SpatialMemory:
    """Places with some more moves counted: origin (*M, N, n); action, share, the effect, and counted, which of them, (*M, N).

    A move counts as moved where at least half of the expected displacement was there. radius: how far an origin may lie from its place, in
    the unit of the state
    """
    distance, index = places.nearest(origin, 1)  # (*M, N, 1)
    counts = (counted & (action >= 0) & (distance.squeeze(-1) <= radius)).to(origin.dtype)
    num_actions = places.values["tried"].shape[-1]
    cell = index.squeeze(-1) * num_actions + action.clamp(min=0)

    def add(name: str, counts: Tensor) -> Tensor:
        return places.values[name].flatten(-2).scatter_add(-1, cell, counts).unflatten(-1, (-1, num_actions))

    return places.but(values=places.values | {"tried": add("tried", counts), "moved": add("moved", counts * (share > 0.5))})


# ---------------------------------------------------------------- believed


class Known(NamedTuple):
    """What is known of the cells of a lattice around the start, (*M, S, S) bool each."""

    seen: Tensor  # a remembered place
    touched: Tensor  # stopped a move most of the times, and was not seen
    inside: Tensor  # (S, S) a place within the edges that the transition knows


class Obstacles(nn.Module):
    """Which places are believed to be obstacles, given what a walk has seen and touched around them; learned from walks that go on.

    States are laid on the lattice that two moves span, `reach` steps to each side of the start; two convolutions see four steps around.
    """

    def __init__(self, reach: int = 8, hidden: int = 32) -> None:
        super().__init__()
        self.reach, self.size = reach, 2 * reach + 1  # S
        last = nn.Conv2d(hidden, 1, 1)
        nn.init.zeros_(last.weight)
        nn.init.constant_(cast(Tensor, last.bias), -4.0)  # nothing is believed before it is learned
        first, second = nn.Conv2d(3, hidden, 5, padding=2), nn.Conv2d(hidden, hidden, 5, padding=2)
        self.network = nn.Sequential(first, nn.SiLU(), second, nn.SiLU(), last)

    def forward(self, known: Known) -> Tensor:
        """The log odds that a cell is an obstacle, (*M, S, S)."""
        seen, touched, inside = known
        maps = torch.stack([seen, touched, inside.expand_as(seen)], dim=-3).float()
        logits: Tensor = self.network(maps.reshape(-1, *maps.shape[-3:]))
        return logits.reshape(seen.shape)

    def cells(self, s: Tensor, axes: Tensor) -> Tensor:
        """The cell of each state (*B, n), counted row by row: (*B,) int64; S * S for those beyond the lattice. axes: (n, n)"""
        return self._cells(s @ torch.linalg.inv(axes))

    def _cells(self, steps: Tensor) -> Tensor:
        at = steps.round().long() + self.reach
        beyond = ((at < 0) | (at >= self.size)).any(dim=-1)
        return torch.where(beyond, self.size**2, at[..., 0] * self.size + at[..., 1])

    def stops(self, obstacle: Tensor, axes: Tensor) -> Callable[[Tensor], Tensor]:
        """Whether moves would lead to what cannot be entered: of obstacle (*M, S, S) bool, by states (*M, *Q, n) -> (*M, *Q) bool."""
        memories, to_steps = obstacle.shape[:-2], torch.linalg.inv(axes)
        known = torch.cat([obstacle.flatten(-2), obstacle.new_zeros(*memories, 1)], dim=-1)  # nothing beyond

        def stopped(target: Tensor) -> Tensor:
            cells = self._cells(target @ to_steps)
            return known.gather(-1, cells.reshape(*memories, math.prod(cells.shape[len(memories) :]))).reshape(cells.shape)

        return stopped

    def inside(self, transition: LinearWithWalls) -> Tensor:
        """The cells within the edges that the transition knows, (S, S) bool."""
        return (transition.gate(self.states(axes_of(transition.W_a))) > 0.5).reshape(self.size, self.size)

    def know(self, places: SpatialMemory, transition: LinearWithWalls) -> Known:
        """What places that have counted moves tell of the cells around the start."""
        W_a = transition.W_a
        axes = axes_of(W_a)
        stops = (2 * places.values["moved"] < places.values["tried"]) & places.used[..., None]  # (*M, P, A)
        targets = places.s_mean[..., None, :] + W_a.t()  # (*M, P, A, n)
        seen = self.marked(self.cells(places.s_mean, axes), places.used)
        touched = self.marked(self.cells(targets, axes).flatten(-2), stops.flatten(-2)) & ~seen
        return Known(seen, touched, self.inside(transition))

    def complete(self, places: SpatialMemory, transition: LinearWithWalls) -> SpatialMemory:
        """Places with the fact of what cannot be entered: what stopped moves, and what is believed to by what is known around it."""
        known = self.know(places, transition)
        believed = (self(known) > 0) & ~known.seen & known.inside
        return places.but(facts=places.facts | {"obstacle": believed | known.touched})

    def states(self, axes: Tensor) -> Tensor:
        """The state in the middle of each cell, (S * S, n)."""
        steps = torch.arange(-self.reach, self.reach + 1, device=axes.device, dtype=axes.dtype)
        return torch.cartesian_prod(steps, steps) @ axes

    def marked(self, cells: Tensor, which: Tensor) -> Tensor:
        """The cells (*M, N) of which one at least is so, `which` (*M, N): (*M, S, S) bool."""
        marks = cells.new_zeros(*cells.shape[:-1], self.size**2 + 1).scatter_add(-1, cells, which.long())
        return (marks[..., :-1] > 0).unflatten(-1, (self.size, self.size))


def axes_of(W_a: Tensor) -> Tensor:
    """Two moves that span the lattice of places, (2, n): the longest, and the one that leads farthest off its line. W_a: (n, A), n = 2"""
    moves = W_a.t()
    first = moves[moves.norm(dim=-1).argmax()]
    across = (moves[:, 0] * first[1] - moves[:, 1] * first[0]).abs()
    return torch.stack([first, moves[across.argmax()]])
