"""Remembered obstacles: which moves a memory has seen fail, against a count by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gtmsm_env.memory import SpatialMemory
from gtmsm_env.obstacles import count_moves, effect, stopped

A, RADIUS = 5, 0.5


def remembered(*moves: tuple[tuple[float, float], int, float]) -> SpatialMemory:
    """A memory of moves (origin, action, effect), each entry written at its own origin."""
    origin = torch.tensor([move[0] for move in moves])
    values = {
        "z_mean": torch.zeros(len(moves), 3),
        "z_variance": torch.ones(len(moves), 3),
        "origin": origin,
        "action": torch.tensor([move[1] for move in moves]),
        "effect": torch.tensor([move[2] for move in moves]),
    }
    return SpatialMemory(origin, torch.ones_like(origin), values)


def free(memory: SpatialMemory) -> Tensor:
    """(P, A), which moves from which places nothing has stopped."""
    places = count_moves(memory.distinct(RADIUS), memory, A, RADIUS)
    return ~torch.stack([stopped(places, places.s_mean, torch.full((len(places),), a), RADIUS) for a in range(A)], dim=-1)


@pytest.mark.parametrize(
    ("displacement", "expected", "share"),
    [
        ((2.0, 0.0), (2.0, 0.0), 1.0),
        ((0.0, 0.0), (2.0, 0.0), 0.0),
        ((1.0, 5.0), (2.0, 0.0), 0.5),
        ((0.0, 1.0), (0.0, 0.0), 1.0),
        ((-0.3, 0.0), (0.1, 0.0), 1.0),  # against an edge nothing was expected
    ],
)
def test_the_effect_of_a_move(displacement: tuple[float, float], expected: tuple[float, float], share: float) -> None:
    assert float(effect(torch.tensor(displacement), torch.tensor(expected), RADIUS)) == share


def test_what_was_never_tried_is_free() -> None:
    assert free(remembered(((0, 0), -1, 0), ((0, 0), 2, 1))).all()


def test_a_blocked_move_is_remembered_for_its_place_and_action_alone() -> None:
    known = free(remembered(((0, 0), 1, 0.02), ((1, 0), 1, 0.98), ((0.1, 0.1), 3, -0.1)))
    assert known.tolist() == [[True, False, True, False, True], [True] * 5]


def test_most_tries_decide() -> None:
    """A move that slipped once is free again when it has worked as often."""
    blocked, moved = ((0.0, 0.0), 0, 0.0), ((0.0, 0.0), 0, 1.0)
    assert not free(remembered(blocked))[0, 0]
    assert free(remembered(blocked, moved))[0, 0]
    assert not free(remembered(blocked, moved, blocked))[0, 0]


def test_padding_is_not_read() -> None:
    memory = remembered(((0, 0), 1, 1), ((0, 0), 1, 0), ((0, 0), 1, 0))
    shorter = SpatialMemory(memory.s_mean, memory.s_variance, memory.values, torch.tensor(1))
    assert free(shorter).all()


def test_moves_are_stopped_where_they_were() -> None:
    """Within the radius of the place; not beside it, not by another action. A batch is its rows."""
    memory = remembered(((0, 0), 1, 0), ((2, 0), 4, 0))
    places = count_moves(memory.distinct(RADIUS), memory, A, RADIUS)
    s = torch.tensor([[0.0, 0.0], [0.3, 0.3], [0.0, 0.6], [2.0, 0.0], [2.0, 0.0]])
    action = torch.tensor([1, 1, 1, 1, 4])
    assert stopped(places, s, action, RADIUS).tolist() == [True, True, False, False, True]


def test_random_walks_as_by_counting() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, entries, side = 3, 200, 4
    origin = torch.randint(side, (rows, entries, 2), generator=generator).float()
    action = torch.randint(-1, A, (rows, entries), generator=generator)
    share = torch.rand(rows, entries, generator=generator)
    values = {"z_mean": torch.zeros(rows, entries, 3), "z_variance": torch.ones(rows, entries, 3)}
    values |= {"origin": origin + 0.1 * torch.rand(origin.shape, generator=generator), "action": action, "effect": share}
    memory = SpatialMemory(origin, torch.ones_like(origin), values, torch.tensor([200, 120, 30]))
    places = count_moves(memory.distinct(RADIUS), memory, A, RADIUS)
    for row in range(rows):
        for place in range(int(places.count[row])):
            for a in range(A):
                tries = [
                    float(share[row, entry])
                    for entry in range(int(memory.count[row]))
                    if action[row, entry] == a and math.dist(origin[row, entry].tolist(), places.s_mean[row, place].tolist()) < RADIUS
                ]
                moved = sum(t > 0.5 for t in tries)
                assert places.values["tried"][row, place, a] == len(tries)
                assert places.values["moved"][row, place, a] == moved
