"""Remembered obstacles: what moves did where they were tried, so that a dream stops where the walk was stopped.

A transition cannot know obstacles that stand elsewhere in every world; a walk can. An entry of the memory keeps the move that led to it:
`origin` s_{t-1}, `action` a_t (-1 for x_1) and `effect`, the inferred displacement as a share of the expected one. Distinct places keep
how often each action was `tried` from them and how often it `moved`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from gtmsm_env.memory import SpatialMemory
from gtmsm_env.types import Belief

MOVES = ("origin", "action", "effect")  # what an entry keeps of the move that led to it


def effect(displacement: Tensor, expected: Tensor, least: float) -> Tensor:
    """How much of an expected displacement (*B, n) there was, along it: 1 for a free move, 0 for a blocked one; (*B,).

    least: in the unit of the state; a move that is not expected to lead so far has nothing to be stopped and counts as free
    """
    square = expected.square().sum(dim=-1)
    return torch.where(square > least**2, (displacement * expected).sum(dim=-1) / square.clamp(min=least**2), torch.ones_like(square))


def count_moves(places: SpatialMemory, memory: SpatialMemory, num_actions: int, radius: float) -> SpatialMemory:
    """Distinct places with what the memory knows of moves from each: `tried` and `moved` (*M, P, A), how often.

    A move counts as moved where at least half of the expected displacement was there. radius: how far an origin may lie from its place, in
    the unit of the state
    """
    entries = torch.arange(memory.s_mean.shape[-2], device=memory.count.device)
    counted = (entries < memory.count[..., None]) & (memory.values["action"] >= 0)
    values = {name: value for name, value in places.values.items() if name not in MOVES}
    none = places.s_mean.new_zeros(*places.s_mean.shape[:-1], num_actions)
    places = SpatialMemory(places.s_mean, places.s_variance, values | {"tried": none, "moved": none}, places.count)
    origin, action, share = (memory.values[name] for name in MOVES)
    return _counted(places, origin, action, share, counted, radius)


def count_move(belief: Belief, origin: Tensor, action: Tensor, share: Tensor, where: Tensor, radius: float) -> Belief:
    """A belief that remembers distinct places, with one more move counted where `where`: origin (*M, n), action, share, where (*M,).

    share: the effect of the move
    """
    axis = len(belief.memory.batch_shape)
    one = [x.unsqueeze(axis) for x in (origin, action, share, where)]
    return replace(belief, memory=_counted(belief.memory, one[0], one[1], one[2], one[3], radius))


def _counted(places: SpatialMemory, origin: Tensor, action: Tensor, share: Tensor, counted: Tensor, radius: float) -> SpatialMemory:
    """Places with some more moves: origin (*M, N, n); action, share, counted (*M, N)."""
    found = places.read(origin, 1)  # (*M, N)
    counts = (counted & (found.distance.squeeze(-1) <= radius)).to(origin.dtype)
    num_actions = places.values["tried"].shape[-1]
    cell = found.index.squeeze(-1) * num_actions + action.clamp(min=0)

    def add(name: str, counts: Tensor) -> Tensor:
        return places.values[name].flatten(-2).scatter_add(-1, cell, counts).unflatten(-1, (-1, num_actions))

    more = {"tried": add("tried", counts), "moved": add("moved", counts * (share > 0.5))}
    return SpatialMemory(places.s_mean, places.s_variance, places.values | more, places.count)


class Stops(NamedTuple):
    """The places from which a memory knows that moves are stopped, as many as the memory of the batch that knows most."""

    s: Tensor  # (*M, S, n)
    actions: Tensor  # (*M, S, A) bool, which moves


def stops(places: SpatialMemory) -> Stops:
    """What places that have counted moves know: stopped is an action that did not move most of the times that it was tried from there.

    What was never tried is free; novelty tells.
    """
    actions = 2 * places.values["moved"] < places.values["tried"]
    some = actions.any(dim=-1)  # (*M, P)
    most = int(some.sum(dim=-1).max()) if some.numel() else 0
    which = some.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[..., :most, None]
    return Stops(torch.take_along_dim(places.s_mean, which, dim=-2), torch.take_along_dim(actions, which, dim=-2))


def stopped(known: Stops, s: Tensor, action: Tensor, radius: float) -> Tensor:
    """Where a move by `action` (*M, *Q) from s (*M, *Q, n) is known to be stopped, at most `radius` away: (*M, *Q) bool."""
    memories = known.s.shape[:-2]
    at, by = s.reshape(*memories, -1, 1, s.shape[-1]), action.reshape(*memories, -1, 1)  # (*M, Q, 1, n), (*M, Q, 1)
    near = (at - known.s[..., None, :, :]).square().sum(dim=-1) <= radius**2  # (*M, Q, S)
    those = torch.take_along_dim(known.actions.transpose(-1, -2), by, dim=-2)  # (*M, Q, S)
    return (near & those).any(dim=-1).reshape(action.shape)
