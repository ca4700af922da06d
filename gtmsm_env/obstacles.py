"""Remembered obstacles: what moves did where they were tried, so that a dream stops where the walk was stopped.

A transition cannot know obstacles that stand elsewhere in every world; a walk can. An entry of the memory keeps the move that led to it:
`origin` s_{t-1}, `action` a_t (-1 for x_1) and `effect`, the inferred displacement as a share of the expected one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gtmsm_env.memory import SpatialMemory


def effect(displacement: Tensor, expected: Tensor) -> Tensor:
    """How much of an expected displacement (*B, n) there was, along it: 1 for a free move, 0 for a blocked one; (*B,).

    A move that is not expected to lead anywhere has nothing to be stopped and counts as free.
    """
    square = expected.square().sum(dim=-1)
    return torch.where(square > 0, (displacement * expected).sum(dim=-1) / square.clamp(min=1e-12), torch.ones_like(square))


def with_moves(places: SpatialMemory, memory: SpatialMemory, num_actions: int, radius: float) -> SpatialMemory:
    """Distinct places with what the memory knows of moves from each: the value `free` (*M, P, A) bool.

    False where at least half of the expected displacement was missing most of the times that the action was tried there; true where it
    was never tried, which novelty tells. radius: how far an origin may lie from its place, in the unit of the state
    """
    found = places.read(memory.values["origin"], 1)  # (*M, N)
    action, entries = memory.values["action"], memory.s_mean.shape[-2]
    used = torch.arange(entries, device=action.device) < memory.count[..., None]
    counted = (used & (action >= 0) & (found.distance.squeeze(-1) <= radius)).float()
    cell = found.index.squeeze(-1) * num_actions + action.clamp(min=0)
    none = counted.new_zeros(*memory.batch_shape, places.s_mean.shape[-2] * num_actions)
    tried = none.scatter_add(-1, cell, counted)
    moved = none.scatter_add(-1, cell, counted * (memory.values["effect"] > 0.5))
    free = (2 * moved >= tried).unflatten(-1, (-1, num_actions))
    return SpatialMemory(places.s_mean, places.s_variance, places.values | {"free": free}, places.count)


def stopped(places: SpatialMemory, s: Tensor, action: Tensor, radius: float) -> Tensor:
    """Where a move by `action` (*M, *Q) from s (*M, *Q, n) meets an obstacle that the walk has touched from there: (*M, *Q) bool."""
    nearest = places.read(s, 1)
    free = torch.take_along_dim(nearest.values["free"].squeeze(-2), action[..., None], dim=-1).squeeze(-1)
    return ~free & (nearest.distance.squeeze(-1) <= radius)
