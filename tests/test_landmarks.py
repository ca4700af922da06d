"""The landmark posterior against plain Python and torch.distributions; the filter it makes, online and in batches; closed cases."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from exact import exact_landmarks
from test_model import FRAME, close, drawn_walk, draws, small
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal, kl_divergence

from gtmsm_env.data import record
from gtmsm_env.envs.obstacle_grid import ObstacleGridEnv
from gtmsm_env.landmarks import UNSEEN, Landmarks
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.model import GTMSM
from gtmsm_env.priors import mixture_prior
from gtmsm_env.types import WITHIN, Belief, Walk

STEP, SIGMA = 1.5, 0.2


def drawn(K: int = 5, seed: int = 0) -> Landmarks:
    """Landmarks whose network has learned something."""
    landmarks = Landmarks(K).requires_grad_(False)
    for parameter in landmarks.score.parameters():
        parameter.normal_(std=0.5, generator=draws(seed))
    return landmarks


def situation(*batch: int, K: int = 5, seed: int = 0) -> tuple[Any, ...]:
    """s, variance, predicted, sigma_s, step, rho, s_k, v_k; some landmarks share a place, the last is none."""
    g = draws(seed)
    s_k = torch.randint(4, (*batch, K, 2), generator=g) * STEP + 0.05 * torch.randn(*batch, K, 2, generator=g)
    rho = torch.rand(*batch, K, generator=g).exp() - 0.9
    rho[..., -1] = torch.inf
    s = torch.randn(*batch, 2, generator=g)
    variance = torch.rand(*batch, 2, generator=g) + 0.01
    return s, variance, s + torch.randn(*batch, 2, generator=g), SIGMA, STEP, rho, s_k, torch.rand(*batch, K, 2, generator=g) + 0.01


def slow(landmarks: Landmarks, s: Tensor, variance: Tensor, predicted: Tensor, rho: Tensor, s_k: Tensor, v_k: Tensor) -> list[float]:
    """The probabilities of none and of each landmark, for one row."""
    odds = [math.exp(landmarks.none)]
    for k in range(len(rho)):
        if math.isinf(rho[k]):
            odds.append(0.0)
            continue
        elsewhere = [float(rho[j]) for j in range(len(rho)) if math.dist(s_k[j], s_k[k]) > STEP / 2 and not math.isinf(rho[j])]
        other = min([*elsewhere, UNSEEN])
        apart, nearer = float(rho[k]) ** 2 + 1e-4, other**2 + 1e-4
        deviations = sum((float(s_k[k, i]) - float(predicted[i])) ** 2 / float(variance[i] + SIGMA**2 + v_k[k, i]) for i in range(2))
        evidence = [
            math.log(apart) / 2,
            math.log(nearer / apart) / 2,
            math.log(math.dist(s_k[k], predicted) / STEP + 0.1),
            math.log(math.dist(s_k[k], s) / STEP + 0.1),
            math.log(1 + deviations),
        ]
        distinct = max((other**2 - float(rho[k]) ** 2) / nearer, 1e-6)
        odds.append(distinct / apart * math.exp(landmarks.score(torch.tensor(evidence) / 3)))
    return [odd / sum(odds) for odd in odds]


@pytest.mark.parametrize("batch", [(3,), (2, 3)])
def test_the_posterior_is_plain_python(batch: tuple[int, ...]) -> None:
    landmarks, given = drawn(), situation(*batch)
    s, variance, predicted, _, _, rho, s_k, v_k = given
    inferred = landmarks(*given)
    assert inferred.kl.shape == batch
    for at in np.ndindex(*batch):
        none, *alpha = slow(landmarks, s[at], variance[at], predicted[at], rho[at], s_k[at], v_k[at])
        mean = [float(predicted[at][i]) + sum(a * float(s_k[at][k, i] - predicted[at][i]) for k, a in enumerate(alpha)) for i in range(2)]
        torch.testing.assert_close(inferred.mean[at], torch.tensor(mean), atol=1e-5, rtol=1e-4)
        # the variance is that of the mixture of the transition, as sure as it is kept, and the landmarks
        kept = variance[at] + landmarks.log_kept.exp() * SIGMA**2
        means, variances = torch.cat([predicted[at][None], s_k[at]]), torch.cat([kept[None], v_k[at]])
        mixture = MixtureSameFamily(Categorical(torch.tensor([none, *alpha]).expand(2, -1)), Normal(means.t(), variances.t().sqrt()))
        torch.testing.assert_close(inferred.variance[at], mixture.variance, atol=1e-5, rtol=1e-4)


def test_the_second_kl_is_an_average_over_states_before() -> None:
    """E_q(s_{t-1}) KL(q(s_t | s_{t-1}, ...) || p(s_t | s_{t-1}, a_t)): a_t moves by the same wherever s_{t-1} is."""
    landmarks, given = drawn(), situation(1, seed=3)
    s, variance, predicted, _, _, rho, s_k, v_k = given
    inferred = landmarks(*given)
    none = slow(landmarks, s[0], variance[0], predicted[0], rho[0], s_k[0], v_k[0])[0]
    assert 0.05 < none < 0.95
    before = s + variance.sqrt() * torch.randn(200_000, 2, generator=draws())
    conditional = inferred.variance - none**2 * variance  # what is left of the variance once s_{t-1} is known
    q = Normal(inferred.mean + none * (before - s), conditional.sqrt())
    kl = kl_divergence(q, Normal(before + predicted - s, SIGMA)).sum(dim=-1)
    assert abs(kl.mean() - inferred.kl[0]) < 4 * kl.std() / len(kl) ** 0.5


# ---------------------------------------------------------------- closed cases, before anything is learned


def pull(rho: list[float], s_k: list[list[float]], predicted: list[float] | None = None) -> Any:
    """From the origin to `predicted`, landmarks being points."""
    s = torch.zeros(2)
    where = torch.tensor(predicted or [STEP, 0.0])
    return Landmarks(len(rho))(s, s + 0.01, where, SIGMA, STEP, torch.tensor(rho), torch.tensor(s_k), torch.full((len(rho), 2), 1e-4))


@torch.no_grad()
def test_a_view_seen_at_one_place_alone_pulls_fully() -> None:
    """However far it is, and surer than the transition."""
    for far in (0.0, 3 * STEP, 100 * STEP):
        inferred = pull([0.0, 6.0, 7.0], [[far, far], [0.0, STEP], [STEP, STEP]])
        weight = 1e4 / (1e4 + math.exp(4))
        torch.testing.assert_close(
            inferred.mean, torch.tensor([STEP + weight * (far - STEP), weight * far]), atol=0.02 * far + 0.02, rtol=0
        )
    assert (pull([0.0], [[STEP, 0.0]]).variance < 0.01).all()


@torch.no_grad()
def test_views_that_repeat_do_not_pull() -> None:
    """In a world that looks the same everywhere the transition alone tells."""
    inferred = pull([0.0] * 4, [[0.0, 0.0], [0.0, STEP], [0.0, -STEP], [9.0, 9.0]])
    torch.testing.assert_close(inferred.mean, torch.tensor([STEP, 0.0]), atol=0.02, rtol=0)
    assert inferred.kl < 20
    assert (pull([0.3, 0.31], [[0.0, 0.0], [0.0, STEP]]).mean - torch.tensor([STEP, 0.0])).norm() < 0.05


@torch.no_grad()
def test_an_unlike_view_does_not_pull() -> None:
    torch.testing.assert_close(pull([6.0], [[9.0, 9.0]]).mean, torch.tensor([STEP, 0.0]), atol=0.02, rtol=0)
    nothing = pull([torch.inf], [[9.0, 9.0]])
    assert torch.equal(nothing.mean, torch.tensor([STEP, 0.0]))
    assert nothing.variance.mean() < 0.01 + SIGMA**2


@torch.no_grad()
def test_landmarks_that_disagree_leave_doubt() -> None:
    """A match at each of two places: in between, and wider than the transition."""
    landmarks = Landmarks(2)
    landmarks.none.fill_(-20.0)
    s = torch.zeros(2)
    s_k = torch.tensor([[4.0, 0.0], [-4.0, 0.0]])
    inferred = landmarks(s, s + 0.01, s, SIGMA, STEP, torch.tensor([1.0, 1.0]), s_k, torch.full((2, 2), 1e-4))
    torch.testing.assert_close(inferred.mean, s, atol=1e-3, rtol=0)
    torch.testing.assert_close(inferred.variance[0], torch.tensor(16.0), atol=0.1, rtol=0)


# ---------------------------------------------------------------- the filter


def learned(**kwargs: Any) -> GTMSM:
    """A small model with landmarks that have learned something."""
    model = small(landmarks=4, **kwargs)
    model.landmarks = drawn(4)
    return model


def seen_again(*batch: int, steps: int = 14) -> Walk:
    """A walk that sees few views."""
    walk = drawn_walk(*batch, steps=steps)
    which = torch.randint(4, (*batch, steps), generator=draws(5))
    frames = torch.take_along_dim(walk.frames, which[..., None, None, None], dim=len(batch))
    return Walk(frames, walk.actions)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_a_walk_is_remembered_as_step_by_step(batch: tuple[int, ...]) -> None:
    model, walk = learned(), seen_again(*batch)
    axis = len(batch)
    belief = model.initial(walk.frames.select(axis, 0))
    for t in range(1, 14):
        action, frame = walk.actions[..., t - 1], walk.frames.select(axis, t)
        inferred = model.infer(belief, action, frame)
        seen = model.observe(belief, action, frame)
        assert torch.equal(inferred.mean, seen.mean)
        assert inferred.memory is belief.memory
        torch.testing.assert_close(seen.displacement, seen.mean - belief.mean)
        belief = seen
    close(model.remember(walk), belief)
    assert not torch.allclose(belief.mean, model.filter(walk.actions)[0].select(axis, -1), atol=0.01)


def test_rows_are_inferred_alone() -> None:
    """Also where their memories hold unequally many entries, fewer than K among them."""
    model, walk = learned(), seen_again(3)
    alone = [model.initial(walk.frames[row, 0]) for row in range(3)]
    for row in range(3):
        for t in range(1, 2 + 4 * row):
            alone[row] = model.observe(alone[row], walk.actions[row, t - 1], walk.frames[row, t])
    together = model.initial(walk.frames[:, 0])
    for t in range(1, 10):
        before, where = together, torch.tensor([t < 2 + 4 * row for row in range(3)])
        together = model.observe(together, walk.actions[:, t - 1], walk.frames[:, t], where=where)
        stayed = {x: torch.where(where[:, None], getattr(together, x), getattr(before, x)) for x in ("mean", "variance", "displacement")}
        together = replace(together, **stayed)
    assert together.memory.count.tolist() == [2, 6, 10]
    seen = model.observe(together, walk.actions[:, 11], walk.frames[:, 12])
    for row in range(3):
        expected = model.observe(alone[row], walk.actions[row, 11], walk.frames[row, 12])
        torch.testing.assert_close(seen.mean[row], expected.mean, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(seen.variance[row], expected.variance, atol=1e-5, rtol=1e-4)


def test_rows_that_are_not_written_are_inferred_too() -> None:
    model, walk = learned(), seen_again(2)
    belief = model.remember(walk)
    seen = model.observe(belief, walk.actions[:, 0], walk.frames[:, 1], where=torch.tensor([False, False]))
    assert torch.equal(seen.mean, model.observe(belief, walk.actions[:, 0], walk.frames[:, 1]).mean)
    assert seen.memory.count.tolist() == [14, 14]


def test_a_model_without_landmarks_does_not_look() -> None:
    model, walk = small(), drawn_walk(2)
    belief = model.remember(walk)
    close(model.infer(belief, walk.actions[:, 0], torch.zeros(0)), model.predict(belief, walk.actions[:, 0]))
    assert not [name for name in model.state_dict() if "landmark" in name]
    mean, variance, u, kl = model.infer_walk(torch.zeros(2, 12, 6), walk.actions)
    for mine, other in zip((mean, variance, u), model.filter(walk.actions), strict=True):
        assert torch.equal(mine, other)
    assert not kl.any()
    with pytest.raises(ValueError, match="this model has none"):
        model.relocate(walk.frames[:, 0], belief.memory)


def test_the_elbo_has_the_second_kl() -> None:
    """The same noise with and without it."""
    model, walk, tau = learned(), seen_again(2), 9
    mean, variance = model.encode(walk.frames)
    kl, z = model.divergence(mean, variance, walk.actions, tau, generator=draws())
    s_mean, s_variance, _, s_kl = model.infer_walk(mean, walk.actions)
    same = draws()
    s = s_mean[:, tau:] + s_variance[:, tau:].sqrt() * torch.empty(2, 5, 2).normal_(generator=same)
    memory = SpatialMemory(s_mean[:, :tau], s_variance[:, :tau], {"z_mean": mean[:, :tau], "z_variance": variance[:, :tau]})
    q = Normal(mean[:, tau:], variance[:, tau:].sqrt()).log_prob(z).sum(dim=-1)
    first = q - mixture_prior(memory.read(s, model.K), model.delta).log_prob(z)
    torch.testing.assert_close(kl, first + s_kl[:, tau:], rtol=1e-4, atol=1e-3)
    assert (s_kl[:, 1:] > 0).all()
    assert not s_kl[:, 0].any()
    elbo = model(walk.frames, torch.arange(14).expand(2, 14), walk.actions, tau, generator=draws())
    torch.testing.assert_close(elbo.kl, kl.mean())


def test_gradients_of_the_elbo_reach_the_landmarks() -> None:
    model, walk = learned().requires_grad_(True), seen_again(2)
    model(walk.frames, torch.arange(14).expand(2, 14), walk.actions, 9, generator=draws()).kl.backward()
    assert model.landmarks is not None
    for name, parameter in model.landmarks.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


# ---------------------------------------------------------------- in a world


def test_obstacles_are_met() -> None:
    """A blocked move looks like the view before it, and leaves the belief where it was."""
    model, hits = exact_landmarks(), 0
    for seed in range(5):
        walk = record(ObstacleGridEnv(task=None, obstacles=(2, 2)), 150, np.random.default_rng(seed), seed)
        assert walk.positions is not None
        moved = walk.positions.diff(dim=0).any(dim=-1)
        belief = model.remember(walk)
        error = (belief.memory.s_mean - (walk.positions - 4)).norm(dim=-1)
        assert error.max() < WITHIN
        without, _, expected = model.filter(walk.actions)
        hits += int((expected[1:].any(dim=-1) & ~moved).sum())
        assert (without - (walk.positions - 4)).norm(dim=-1).max() > 0.9
        assert (belief.displacement.norm() > 0.5) == moved[-1]
    assert hits > 20


def test_a_lost_agent_finds_itself() -> None:
    """A view that was remembered tells at once; another leaves the belief as wide as the world, until a step comes to one that was."""
    model = exact_landmarks()
    walk = record(ObstacleGridEnv(task=None), 200, np.random.default_rng(1), 1)
    assert walk.positions is not None
    memory = model.remember(walk).memory
    places = walk.positions - 4
    for t in range(50, 100):
        found = model.relocate(walk.frames[t], memory)
        assert (found.mean - places[t]).norm() < WITHIN
    lost = model.relocate(255 - walk.frames[50], memory)
    assert (lost.variance > 2).all()
    after = model.infer(lost, walk.actions[50], walk.frames[51])
    assert (after.mean - places[51]).norm() < WITHIN
    assert (after.variance < 0.5).all()


def test_a_wrong_start_is_corrected() -> None:
    """A belief that is sure of being two steps from where it is finds back, by what it sees alone."""
    model = exact_landmarks()
    walk = record(ObstacleGridEnv(task=None), 200, np.random.default_rng(1), 1)
    assert walk.positions is not None
    memory = model.remember(walk).memory
    places = (walk.positions - 4).float()
    wrong = places[100] + torch.tensor([2.0, 0.0])
    belief = Belief(wrong, torch.full((2,), model.transition.sigma_s**2), torch.zeros(2), memory)
    for t in range(100, 112):
        belief = model.infer(belief, walk.actions[t], walk.frames[t + 1])
    assert (belief.mean - places[112]).norm() < WITHIN


def test_landmarks_are_saved(tmp_path: Any) -> None:
    model = small(landmarks=4)
    model.save(tmp_path / "model")
    again = GTMSM.load(tmp_path / "model")
    assert again.landmarks is not None
    assert again.landmarks.K == 4
    assert again.fingerprint() == model.fingerprint() != small().fingerprint()
    assert again.frame_shape == FRAME
