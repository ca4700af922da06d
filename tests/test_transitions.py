"""Equations 4, 5 and 6 against NumPy, term by term; the laws of first person against the worlds' own physics."""

from __future__ import annotations

import itertools
import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from exact import ExactWalls, exact_hard_walking, exact_rotation, exact_walking
from numpy.typing import NDArray

import gtmsm_env  # noqa: F401  registers the worlds
from gtmsm_env.perspective import relative
from gtmsm_env.transitions import FirstPerson, HardWalking, LinearWithWalls, Rotation, Walking, slide, turned

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
    move = (transition.W_a.numpy() * one_hot).sum(axis=1)
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


# ---------------------------------------------------------------- first person


def first_person(kind: type[FirstPerson], seed: int = 0) -> FirstPerson:
    """A law of five actions with all its parameters drawn."""
    transition = kind(5)  # type: ignore[call-arg]  # an abstract law takes sigma_s too
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        transition.W_a.normal_(generator=generator)
        if isinstance(transition, Walking):
            transition.c.copy_(torch.tensor([0.4, 0.9, 2.0]))
            transition.beta.normal_(generator=generator)
            transition.rho.fill_(0.6)
        if isinstance(transition, HardWalking):
            transition.W_a.mul_(0.3)
            transition.c.fill_(0.4)
    return transition.requires_grad_(False)


def hard_walking(transition: HardWalking, s: list[float], u: list[float], action: int) -> tuple[list[float], list[float]]:
    """One step of one state in plain Python, in the world's frame: places and velocities there, in units."""
    ahead, left, turn = (float(x) for x in transition.W_a[:, action])
    c, friction, stop = float(transition.c), *(1 / (1 + math.exp(-float(x))) for x in (transition.friction, transition.stop))
    (x, y, heading), (along, aside, turned_before) = s, u
    last = heading - turned_before  # the heading in whose frame the momentum is told
    vx, vy = math.cos(last) * along - math.sin(last) * aside, math.sin(last) * along + math.cos(last) * aside
    for frame in range(1, 5):
        now = heading + turn * frame / 4
        speed = math.hypot(vx, vy)
        kept = max(0.0, speed - friction * max(speed, stop * c)) / speed if speed else 0.0
        vx, vy = kept * vx, kept * vy
        push = math.hypot(ahead, left)
        wish_x = (math.cos(now) * ahead - math.sin(now) * left) / push
        wish_y = (math.sin(now) * ahead + math.cos(now) * left) / push
        gain = min(max(c - (vx * wish_x + vy * wish_y), 0.0), c * push)
        vx, vy = vx + gain * wish_x, vy + gain * wish_y
        x, y = x + vx / 4, y + vy / 4
    cos, sin = math.cos(heading), math.sin(heading)
    return [x, y, heading + turn], [cos * vx + sin * vy, cos * vy - sin * vx, turn]


def equations_5_and_6(transition: FirstPerson, s: list[float], u: list[float], action: int) -> tuple[list[float], list[float]]:
    """One step of one state in plain Python."""
    if isinstance(transition, HardWalking):
        return hard_walking(transition, s, u, action)
    pushed = [float(x) for x in transition.W_a[:, action]]
    if isinstance(transition, Walking):
        c, beta, rho = transition.c.tolist(), transition.beta.tolist(), float(transition.rho)
        cos, sin = math.cos(rho * u[2]), math.sin(rho * u[2])  # the agent has turned, and its momentum has not, as far as rho says
        u = [cos * u[0] + sin * u[1], cos * u[1] - sin * u[0], u[2]]
        u = [c[i] * math.tanh(pushed[i] + u[i] / c[i] / (1 + math.exp(-beta[i]))) for i in range(3)]
    else:
        u = pushed
    x, y, heading = s
    x += math.cos(heading) * u[0] - math.sin(heading) * u[1]
    y += math.sin(heading) * u[0] + math.cos(heading) * u[1]
    return [x, y, heading + u[2]], u


@pytest.mark.parametrize("kind", [Rotation, Walking, HardWalking])
def test_a_step_in_first_person_is_its_equation(kind: type[FirstPerson]) -> None:
    transition, s, u, a = first_person(kind), 2 * draws(3, 4, 3), draws(3, 4, 3, seed=3), actions(3, 4)
    after, moved = transition(s, u, a)
    for at in itertools.product(range(3), range(4)):
        expected = equations_5_and_6(transition, s[at].tolist(), u[at].tolist(), int(a[at]))
        np.testing.assert_allclose(after[at].numpy(), expected[0], atol=1e-5)
        np.testing.assert_allclose(moved[at].numpy(), expected[1], atol=1e-5)


def test_where_top_speed_is_1_the_law_of_walking_is_the_papers() -> None:
    """u_t = c tanh(W_a a_t + sigmoid(beta) u_{t-1}); and in another unit of place everything scales with it, as lengths do."""
    transition = first_person(Walking)
    assert isinstance(transition, Walking)
    transition.c.fill_(1.0)
    transition.rho.zero_()
    u, a = draws(20, 3), actions(20)
    pushed = torch.stack([transition.W_a[:, i] for i in a])
    torch.testing.assert_close(transition.step(u, a)[0], torch.tanh(pushed + torch.sigmoid(transition.beta) * u))
    s, unit = draws(20, 3, seed=5), torch.tensor([7.0, 7.0, 1.0])
    after, moved = transition(s, u, a)
    transition.c.mul_(unit)
    in_other = transition(s * unit, u * unit, a)
    torch.testing.assert_close(in_other[0], after * unit)
    torch.testing.assert_close(in_other[1], moved * unit)


@pytest.mark.parametrize("rho", [0.0, 0.5, 1.0])
def test_momentum_stays_in_the_agents_frame_or_in_the_worlds(rho: float) -> None:
    """Of an agent that coasts while it looks around: where it drifts turns by 1 - rho of what it turns."""
    law = exact_walking()
    law.rho.fill_(rho)
    s, u = torch.tensor([0.3, -0.2, 0.7]), torch.tensor([0.01, 0.0, 0.0])  # small: top speed is one of each axis
    after, moved = law.rollout(s, u, torch.full((10,), 4))  # looking left
    heading = after[:, 2] - moved[:, 2]  # before each step
    drift = torch.atan2(moved[:, 1], moved[:, 0]) + heading
    torch.testing.assert_close(drift, 0.7 + (1 - rho) * (heading - 0.7), atol=1e-3, rtol=0)


def test_momentum_builds_up_and_fades_and_never_exceeds_top_speed() -> None:
    law = exact_walking()
    held = law.rollout(torch.zeros(3), torch.zeros(3), torch.zeros(40, dtype=torch.int64))[1]  # forward
    assert (held[1:, 0] >= held[:-1, 0]).all()
    steady = float(held[-1, 0]) / 0.15
    assert steady == pytest.approx(math.tanh(0.6 + 0.7 * steady), abs=1e-5)  # pushes as hard as friction holds
    coasting = law.rollout(torch.zeros(3), held[-1], torch.full((40,), 4))[1]  # looking left does not push
    assert (coasting[1:, 0] < coasting[:-1, 0]).all()
    assert coasting[-1, 0] < 1e-5
    assert (coasting[:, 2] - math.radians(8.448)).abs().max() < 1e-5  # without inertia
    u = first_person(Walking).rollout(draws(6, 3), 100 * draws(6, 3), actions(6, 30))[1]
    assert (u.abs() <= torch.tensor([0.4, 0.9, 2.0])).all()


@pytest.mark.parametrize("kind", [Rotation, Walking, HardWalking])
@pytest.mark.parametrize("stops", [None, lambda _, moved: moved.clamp(max=0.5)])
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("steps", [0, 1, 6])
def test_a_rollout_in_first_person_is_step_by_step(kind: type[FirstPerson], stops: Any, batch: tuple[int, ...], steps: int) -> None:
    transition, s, u, a = first_person(kind), draws(*batch, 3), draws(*batch, 3, seed=3), actions(*batch, steps)
    states, displacements = transition.rollout(s, u, a, stops=stops)
    assert states.shape == displacements.shape == (*batch, steps, 3)
    for t in range(steps):
        before = s
        s, u = transition(s, u, a[..., t])
        if stops is not None:
            s, u = slide(before, s, u, stops)
        torch.testing.assert_close(states[..., t, :], s, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(displacements[..., t, :], u, atol=1e-5, rtol=1e-5)


def test_gradients_of_a_rollout_reach_the_whole_law() -> None:
    for kind in (Rotation, Walking, HardWalking):
        transition = first_person(kind).requires_grad_(True)
        states, _ = transition.rollout(torch.zeros(4, 3), torch.zeros(4, 3), actions(4, 9))
        states.square().mean().backward()
        for name, parameter in transition.named_parameters():
            assert parameter.grad is not None
            assert (parameter.grad.abs() > 0).any(dim=-1).all(), name


def test_turning_is_a_rotation_of_the_ground() -> None:
    """By a quarter to the left, what is ahead comes to lie to the left; turning back undoes it. Turns themselves are left as they are."""
    u, heading = draws(50, 3), 4 * draws(50, seed=2)
    quarter = turned(torch.tensor([2.0, 0.0, 0.3]), torch.tensor(math.pi / 2))
    torch.testing.assert_close(quarter, torch.tensor([0.0, 2.0, 0.3]))
    torch.testing.assert_close(turned(turned(u, heading), -heading), u)
    torch.testing.assert_close(turned(u, heading)[:, :2].norm(dim=-1), u[:, :2].norm(dim=-1))
    assert torch.equal(turned(u, heading)[:, 2], u[:, 2])


def test_a_displacement_is_where_a_step_ends_as_seen_from_where_it_began() -> None:
    for kind in (Rotation, Walking):
        s = 3 * draws(50, 3)
        after, u = first_person(kind)(s, draws(50, 3, seed=3), actions(50))
        torch.testing.assert_close(relative(after, s), u, atol=1e-5, rtol=1e-4)


def test_the_length_of_a_step_and_of_a_turn_in_first_person() -> None:
    """As phi measures it: a turn's is its chord. Six actions walk, two turn, so the median walks, at the speed of a steady walk."""
    steady = 0.15 * 0.8271  # of v = tanh(.6 + .7 v)
    assert exact_walking().step_length == pytest.approx(steady, rel=1e-3)
    assert exact_walking().turn_length == pytest.approx(math.radians(8.448), rel=1e-4)
    assert exact_rotation().step_length == pytest.approx(2 * math.sin(math.radians(9.3) / 2), rel=1e-4)
    assert exact_rotation().turn_length == pytest.approx(math.radians(9.3), rel=1e-4)


def wall(_: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
    """Nobody comes farther east than 1."""
    return torch.cat([moved[..., :1].clamp(max=1), moved[..., 1:]], dim=-1)


def test_an_agent_slides_along_what_stops_it() -> None:
    """What was moved is its displacement, in its own frame, where it was stopped, nothing where it was little; elsewhere momentum stays."""
    s, u = draws(200, 3), draws(200, 3, seed=3)
    moved = s + turned(u, s[:, 2])
    after, displacement = slide(s, moved, 2 * u, wall)
    stopped, expected = moved[:, 0] > 1, wall(s, moved)
    for i in range(200):
        if stopped[i] and math.dist(expected[i, :2], s[i, :2]) < 0.2 * math.dist(moved[i, :2], s[i, :2]):
            expected[i, :2] = s[i, :2]
    assert 20 < stopped.sum() < 180
    assert 0 < (expected != wall(s, moved)).any(dim=1).sum() < stopped.sum()
    assert torch.equal(after, expected)
    assert torch.equal(displacement[~stopped], 2 * u[~stopped])
    torch.testing.assert_close(displacement[stopped], relative(after, s)[stopped], atol=1e-5, rtol=1e-4)


def test_momentum_into_a_wall_is_lost() -> None:
    """An agent that walks against a wall and then coasts stays where it is; one that runs along it keeps its speed along it."""
    law, forward, look = exact_walking(), torch.zeros(30, dtype=torch.int64), torch.full((1,), 4)
    states, u = law.rollout(torch.zeros(3), torch.zeros(3), forward, stops=wall)
    assert states[-1, 0] == 1
    assert not states[:, 1].any()
    assert u[-1].norm() < 0.01
    for angle in (20, 45, 70):
        aslant = torch.tensor([1.0, 0.0, math.radians(angle)])
        along = law.rollout(aslant, torch.zeros(3), forward, stops=wall)[0]
        free = law.rollout(aslant, torch.zeros(3), forward)[0]
        assert (along[:, 0] <= 1).all()
        assert (along[:, 1].diff() > 0).all()
        assert along[-1, 1] > 0.6 * free[-1, 1]
    after = law.rollout(states[-1], torch.zeros(3), look, stops=wall)[0]
    torch.testing.assert_close(after[0, :2], states[-1, :2])


@pytest.mark.parametrize(
    ("world", "physics", "law"),
    [
        ("GTMSM-Labyrinth-v0", "smooth", exact_walking()),
        ("GTMSM-Labyrinth-v0", "lab", exact_hard_walking()),
        ("GTMSM-LabyrinthRotate-v0", "smooth", exact_rotation()),
    ],
)
def test_the_laws_are_the_labyrinths_own_physics(world: str, physics: str, law: FirstPerson) -> None:
    """With the right parameters, until the agent touches something: true poses and displacements to the last digits."""
    pytest.importorskip("numba")
    env, generator = gym.make(world, task=None, physics=physics), np.random.default_rng(0)
    _, info = env.reset(seed=11, options={"phase": "walk"})
    poses, taken, displacements = [info["pose"]], [], []
    for _ in range(60):
        action = int(generator.integers(8))
        _, _, _, _, info = env.step(action)
        if info["touched"]:
            break
        poses.append(info["pose"])
        taken.append(action)
        displacements.append(info["displacement"])
    assert len(taken) > 50
    start = torch.tensor(poses[0]).float()
    states, _ = law.rollout(start, torch.zeros(3), torch.tensor(taken))
    u = relative(states, torch.cat([start[None], states[:-1]]))
    np.testing.assert_allclose(u.numpy(), np.array(displacements), atol=1e-5)
    np.testing.assert_allclose(states.numpy()[:, :2], np.array(poses)[1:, :2], atol=1e-4)
    np.testing.assert_allclose(np.cos(states.numpy()[:, 2] - np.array(poses)[1:, 2]), 1, atol=1e-6)
