"""The compiled loops of planning against torch, which computes the same where they cannot."""

from __future__ import annotations

import math

import pytest
import torch

from gtmsm_env import loops
from gtmsm_env.planning import draw, reach
from gtmsm_env.types import Tolerance

pytest.importorskip("numba")


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(1, 500, 15, 5), (3, 7, 1, 8), (2, 4, 6, 1)])
def test_drawn_plans_are_the_same(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    B, C, T, A = shape
    probability = torch.rand(B, T, A, generator=draws(0)).softmax(dim=-1)
    found = draw(probability, C, draws(1))
    monkeypatch.setattr(loops, "compiled_loops", lambda name: None)
    assert torch.equal(found, draw(probability, C, draws(1)))
    assert A == 1 or len(found.unique()) == A


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("plans", [(1, 500, 15), (3, 20, 1)])
def test_returns_are_the_same(n: int, plans: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of plans of which some arrive, and of worlds whose goals lie far away."""
    goals = torch.randn(plans[0], 4, n, generator=draws(0))
    states = 2 * torch.randn(*plans, n, generator=draws(1))
    for far in (0, 100):
        objective = reach(goals + far, 0.7, Tolerance(0.4, math.radians(60)), math.radians(20))
        found = objective(states)
        with monkeypatch.context() as patch:
            patch.setattr(loops, "compiled_loops", lambda name: None)
            expected = objective(states)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-5)
        arrived = found >= -plans[2]
        assert torch.equal(arrived, expected >= -plans[2])
        assert arrived.any() == (far == 0)


def test_goals_that_all_worlds_share() -> None:
    goals, states = torch.randn(1, 2, 2, generator=draws(0)), torch.randn(3, 4, 5, 2, generator=draws(1))
    torch.testing.assert_close(reach(goals, 1.0)(states), reach(goals.expand(3, 2, 2), 1.0)(states))


def test_what_learns_is_left_to_torch() -> None:
    states = torch.randn(1, 2, 3, 2, requires_grad=True)
    reach(torch.zeros(1, 1, 2), 1.0)(states).sum().backward()
    assert states.grad is not None
