"""Equation 4 against NumPy, term by term."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from exact import ExactWalls
from numpy.typing import NDArray

from gtmsm_env.transitions import LinearWithWalls

GRID = torch.tensor([[-1.0, 1, 0, 0, 0], [0, 0, -1, 1, 0]])


def law(state_size: int = 2, seed: int = 0) -> LinearWithWalls:
    """With walls in some places: half of them are more free than not."""
    transition = LinearWithWalls(5, state_size)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in transition.parameters():
            parameter.normal_(std=0.3, generator=generator)
        transition.wall_scale.copy_(torch.rand(state_size, generator=generator) + 0.5)
        transition.g[-1].get_parameter("bias").sub_(transition.g(2 * draws(100, state_size)).median())
    return transition.requires_grad_(False)


def draws(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def actions(*shape: int, seed: int = 2) -> torch.Tensor:
    return torch.randint(5, shape, generator=torch.Generator().manual_seed(seed))


def equation_4(transition: LinearWithWalls, s: NDArray[np.float32], action: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """s + g(s + W_a a) W_a a, and what was moved, for one state."""
    one_hot = np.eye(transition.W_a.shape[1], dtype=np.float32)[action]
    move = transition.W_a.numpy() @ one_hot
    x = (s + move) / transition.wall_scale.numpy()
    for layer in list(transition.g)[::2]:
        x = layer.get_parameter("weight").numpy() @ x + layer.get_parameter("bias").numpy()
        if x.size > 1:
            x = x / (1 + np.exp(-x))
    g = 1 / (1 + np.exp(-x))
    return s + g * move, g * move


@pytest.mark.parametrize("state_size", [2, 3])
def test_a_step_is_equation_4(state_size: int) -> None:
    transition = law(state_size)
    s, a = 2 * draws(3, 4, state_size), actions(3, 4)
    after, u = transition(s, torch.zeros_like(s), a)
    kept = u.norm(dim=-1) / transition.W_a.t()[a].norm(dim=-1)
    assert kept.min() < 0.3 < 0.7 < kept.max()  # the walls differ from place to place
    for at in itertools.product(range(3), range(4)):
        expected, moved = equation_4(transition, s[at].numpy(), int(a[at]))
        np.testing.assert_allclose(after[at].numpy(), expected, atol=1e-4)
        np.testing.assert_allclose(u[at].numpy(), moved, atol=1e-4)


def test_without_walls_every_move_is_whole() -> None:
    transition = law()
    transition.walls = False
    s, a = draws(7, 2), actions(7)
    after, u = transition(s, torch.zeros_like(s), a)
    torch.testing.assert_close(after, s + torch.stack([transition.W_a[:, i] for i in a]))
    torch.testing.assert_close(u, after - s)


def test_walls_cancel_a_move_where_it_would_lead() -> None:
    """Not where it begins: a step back from the wall is free."""
    transition = LinearWithWalls(5)
    transition.W_a.data.copy_(GRID)
    transition.g = ExactWalls(1)  # type: ignore[assignment]
    s = torch.tensor([[1.0, 0.0]])
    for action, expected in ((1, [1.0, 0.0]), (0, [0.0, 0.0]), (3, [1.0, 1.0]), (4, [1.0, 0.0])):
        after, u = transition(s, torch.zeros(1, 2), torch.tensor([action]))
        assert after.tolist() == [expected]
        assert (s + u).tolist() == [expected]


@pytest.mark.parametrize("walls", [True, False])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("steps", [0, 1, 6])
def test_a_rollout_is_step_by_step(walls: bool, batch: tuple[int, ...], steps: int) -> None:
    transition = law()
    transition.walls = walls
    s = u = draws(*batch, 2)
    a = actions(*batch, steps)
    states, displacements = transition.rollout(s, u, a)
    assert states.shape == displacements.shape == (*batch, steps, 2)
    for t in range(steps):
        s, u = transition(s, u, a[..., t])
        torch.testing.assert_close(states[..., t, :], s, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(displacements[..., t, :], u)


def test_lengths_scale_moves_before_walls_are_learned() -> None:
    transition = law()
    transition.walls = False
    a, lengths = actions(4, 5), torch.tensor([1.0, 0, 0.5, 0, 1]).expand(4, 5)
    states, moves = transition.rollout(torch.zeros(4, 2), torch.zeros(4, 2), a, lengths)
    s = torch.zeros(4, 2)
    for t in range(5):
        move = torch.stack([transition.W_a[:, i] for i in a[:, t]]) * lengths[0, t]
        s = s + move
        torch.testing.assert_close(states[:, t], s)
        torch.testing.assert_close(moves[:, t], move)


def test_moves_are_free_before_anything_is_learned() -> None:
    transition = LinearWithWalls(5)
    with torch.no_grad():
        _, u = transition(draws(50, 2), torch.zeros(50, 2), actions(50))
        kept = u / transition.W_a.t()[actions(50)]
    assert 0.7 < kept.min() < kept.max() < 1


@pytest.mark.parametrize(
    "axes",
    [
        pytest.param([[1.0, 0], [0, 1]], id="as they are"),
        pytest.param([[1.6, -0.9], [0.9, 1.6]], id="turned"),
        pytest.param([[1.0, 0], [0, 0.4]], id="stretched"),
        pytest.param([[1.0, 0], [0, 0.15]], id="stretched far"),
        pytest.param([[1.0, 0.6], [0, 0.8]], id="sheared"),
        pytest.param([[1.0, -0.6], [0, 0.5]], id="sheared far"),
        pytest.param([[3e-3, 1e-3], [0, 2e-3]], id="small"),
    ],
)
def test_half_a_step_separates_places_however_the_axes_lie(axes: list[list[float]]) -> None:
    """step_length is the smallest distance between two places of the grid, whatever the unit, and noise in "stay" does not count."""
    transition = LinearWithWalls(5)
    W = torch.tensor(axes) @ GRID
    noise = 1e-3 * W.abs().max() * draws(2, 5)
    transition.W_a.data.copy_(W + noise)
    smallest = min(
        math.dist((torch.tensor(axes) @ torch.tensor(p)).tolist(), (0.0, 0.0))
        for p in itertools.product([float(i) for i in range(-8, 9)], repeat=2)
        if any(p)
    )
    assert transition.step_length == pytest.approx(smallest, rel=0.02)


def test_actions_that_do_the_same_are_no_step() -> None:
    """Two ways of staying, and two of going up."""
    transition = LinearWithWalls(6)
    transition.W_a.data.copy_(torch.tensor([[-1.0, -1, 1, 0, 0, 0], [0, 0.001, 0, 0, 0.001, -1]]))
    assert transition.step_length == pytest.approx(1.0, abs=0.01)
