"""Contacts felt by what is seen: what the network is shown, what its answers do to a belief, and their likelihood."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from rooms import KnownRoom
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from gtmsm_env.contacts import FELT, SURE, Contacts
from gtmsm_env.model import GTMSM
from gtmsm_env.networks import frames_to_x
from gtmsm_env.perspective import relative
from gtmsm_env.recipe_labyrinth import CAMERA
from gtmsm_env.transitions import turned
from gtmsm_env.types import Belief, Walk


def draws(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def frames(*batch: int, size: int = 8, seed: int = 0) -> Tensor:
    return torch.randint(256, (*batch, size, size, 3), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


def drawn(net: Contacts) -> Contacts:
    """With all weights drawn, and half of all steps meeting something."""
    for seed, x in enumerate(net.requires_grad_(False).parameters()):
        x.copy_(draws(*x.shape, seed=seed) * (2 * x[0].numel() ** -0.5 if x.dim() > 1 else 0.1))
    logit = net(frames(64, size=net.camera.size, seed=7), frames(64, size=net.camera.size, seed=8), 0.1 * draws(64, 3))[0]
    net.head[-1].bias[0] += SURE - logit.median()  # type: ignore[index, union-attr]
    return net


def contacts(size: int = 8) -> Contacts:
    return drawn(Contacts(CAMERA, size, hidden=16))


def model(**kwargs: Any) -> GTMSM:
    torch.manual_seed(0)
    shared: dict[str, Any] = {"state_size": 3, "z_size": 6, "K": 3, "law": "walking", "prior": "views", "camera": CAMERA, "contacts": True}
    found = GTMSM((8, 8, 3), 5, **{**shared, **kwargs}).requires_grad_(False)
    found.transition.W_a.copy_(draws(3, 5))
    if found.contacts is not None:
        drawn(found.contacts)
    return found


# ---------------------------------------------------------------- what is compared


def test_the_floor_is_seen_after_a_move_as_it_will_be() -> None:
    """A frame carried over by the true move is the next frame wherever that shows floor nearer than `FAR`; a wrong move's is not."""
    room, net, size = KnownRoom(), Contacts(CAMERA, 32), 32
    before = room.poses(12)
    u = torch.tensor([0.12, 0.05, 0.1]).expand(12, 3)
    after = before + turned(u, before[:, 2])
    x, true = room.views(before, size), room.views(after, size)
    depth = torch.minimum(room.depths(after, size)[:, None], torch.full((), 2.0))
    floor = (net.camera.ground[:, None] < depth - 0.3)[:, None] & (net.camera.slope[:, None] < 0)

    def unlike(u: Tensor) -> float:
        seen, shown = net.moved(x, u)
        compared = (floor & (shown > 0)).float()
        return float(((seen - true).abs().mean(dim=1, keepdim=True) * compared).sum() / compared.sum())

    assert unlike(u) < 0.5 * unlike(0 * u)
    assert unlike(u) < 0.7 * unlike(torch.tensor([0.0, 0.05, 0.1]).expand(12, 3))


def test_what_no_pixel_shows_is_black() -> None:
    net = contacts()
    seen, shown = net.moved(torch.ones(1, 3, 8, 8), torch.tensor([[0.0, 0.0, math.pi / 2]]))
    assert not seen.any()
    assert not shown.any()
    seen, shown = net.moved(torch.ones(1, 3, 8, 8), torch.zeros(1, 3))
    torch.testing.assert_close(seen, torch.ones(1, 3, 8, 8))
    assert shown.all()


def test_nothing_is_taken_off_where_nothing_is_felt() -> None:
    net, u = contacts(), 0.1 * draws(40, 3, seed=5)
    logit, mean, variance = net(frames(40), frames(40, seed=1), u)
    lost, more = net.lost(frames(40), frames(40, seed=1), u)
    assert 5 < int((logit > SURE).sum()) < 35
    for i in range(40):
        felt = bool(logit[i] > SURE)
        torch.testing.assert_close(lost[i], torch.tensor([*(mean[i].tolist() if felt else (0.0, 0.0)), 0.0]))
        torch.testing.assert_close(more[i], torch.tensor([float(variance[i]) if felt else 0.0] * 2 + [0.0]))


def test_the_loss_is_the_likelihood_of_what_was_lost() -> None:
    net, u = contacts(), 0.1 * draws(20, 3, seed=5)
    lost = 0.05 * draws(20, 2, seed=6) * (torch.arange(20) % 2)[:, None]
    lost[1] = FELT / 2  # too little to be felt
    logit, mean, variance = net(frames(20), frames(20, seed=1), u)
    total = 0.0
    for i in range(20):
        felt = float(lost[i].norm() > FELT)
        total -= float(Bernoulli(logits=logit[i]).log_prob(torch.tensor(felt)))
        total -= felt * float(Normal(mean[i], variance[i].sqrt()).log_prob(lost[i]).sum())
    assert float(net.loss(frames(20), frames(20, seed=1), u, lost)) == pytest.approx(total / 20, rel=1e-4)


# ---------------------------------------------------------------- what they do to a belief


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_a_walk_is_felt_as_step_by_step(batch: tuple[int, ...]) -> None:
    """`remember`, `observe` and `infer`, in plain steps: what was lost is taken off the place and off the momentum, not off the turn."""
    gtmsm, steps = model(), 40  # more than are felt at once
    walk = Walk(frames(*batch, steps), torch.randint(5, (*batch, steps - 1), generator=torch.Generator().manual_seed(1)))
    axis = len(batch)
    seen = [walk.frames.select(axis, t) for t in range(steps)]
    observed = inferred = gtmsm.initial(seen[0])
    assert gtmsm.contacts is not None
    s = u = torch.zeros(*batch, 3)
    felt = 0
    for t in range(1, steps):
        a = walk.actions[..., t - 1]
        expected, momentum = gtmsm.transition(s, u, a)
        given = (seen[t - 1].reshape(-1, 8, 8, 3), seen[t].reshape(-1, 8, 8, 3), relative(expected, s).reshape(-1, 3))
        lost = gtmsm.contacts.lost(*given)[0].reshape(s.shape)
        s, u = expected - turned(lost, s[..., 2]), momentum - lost
        felt += int(lost.any(dim=-1).sum())
        observed, inferred = gtmsm.observe(observed, a, seen[t]), gtmsm.infer(inferred, a, seen[t])
        for belief in (observed, inferred):
            torch.testing.assert_close(belief.mean, s, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(belief.displacement, u, atol=1e-5, rtol=1e-4)
            assert belief.frame is not None
            assert torch.equal(belief.frame, seen[t])
        torch.testing.assert_close(observed.variance, inferred.variance)
    assert 0 < felt < (steps - 1) * math.prod(batch) or not batch
    remembered = gtmsm.remember(walk)
    for name in ("mean", "variance", "displacement", "frame"):
        torch.testing.assert_close(getattr(remembered, name), getattr(observed, name), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(remembered.memory.s_mean, observed.memory.s_mean.narrow(axis, 0, steps), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(remembered.memory.s_variance, observed.memory.s_variance.narrow(axis, 0, steps), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_walk_of_one_frame_has_felt_nothing(batch: tuple[int, ...]) -> None:
    belief = model().remember(Walk(frames(*batch, 1), torch.zeros(*batch, 0, dtype=torch.int64)))
    assert torch.equal(belief.mean, torch.zeros(*batch, 3))
    assert belief.memory.s_mean.shape == (*batch, 1, 3)


@pytest.mark.parametrize("often", [0.0, 0.1, 1.0])
def test_what_is_felt_learns_as_step_by_step(often: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was met where: of two walks, of more steps than are looked at together, and with the gradient of the last place."""
    gtmsm, steps = model(), 60
    walk = Walk(frames(2, steps), torch.randint(5, (2, steps - 1), generator=torch.Generator().manual_seed(1)))
    law, seen = gtmsm.transition.requires_grad_(True), walk.frames.flatten(0, 1).numpy()
    met = {frame.tobytes() for frame in seen[:: round(1 / often)]} if often else set()

    def lost(before: Tensor, after: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        felt = torch.tensor([frame.numpy().tobytes() in met for frame in after])[:, None]
        return torch.where(felt, u * torch.tensor([0.5, 0.3, 0]), 0.0), torch.where(felt, 1e-4, 0.0).expand_as(u)

    monkeypatch.setattr(gtmsm.contacts, "lost", lost)
    mean, _, u, kl = gtmsm.infer_walk(torch.zeros(2, steps, 6), walk.actions, frames=walk.frames)
    s = momentum = torch.zeros(2, 3)
    for t in range(1, steps):
        expected, moved = law(s, momentum, walk.actions[:, t - 1])
        taken = lost(walk.frames[:, t - 1], walk.frames[:, t], relative(expected, s))[0]
        s, momentum = expected - turned(taken, s[:, 2]), moved - taken
        torch.testing.assert_close(mean[:, t], s, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(u[:, t], momentum, atol=1e-5, rtol=1e-4)
    gradient, expected_gradient = (torch.autograd.grad(last.sum(), law.W_a)[0] for last in (mean[:, -1], s))
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-2, rtol=1e-3)
    assert bool((kl > 0).any()) == bool(often)


def test_the_elbo_pays_for_what_is_felt() -> None:
    """KL(q(s_t | s_{t-1}, ...) || p(s_t | s_{t-1}, a_t)) of two Gaussians, by torch.distributions; 0 where nothing was felt."""
    gtmsm, walk = model(), Walk(frames(4, 9), torch.randint(5, (4, 8), generator=torch.Generator().manual_seed(1)))
    mean, variance, u, kl = gtmsm.infer_walk(torch.zeros(4, 9, 6), walk.actions, frames=walk.frames)
    sigma = gtmsm.transition.sigma_s
    for t in range(1, 9):
        expected, _ = gtmsm.transition(mean[:, t - 1], u[:, t - 1], walk.actions[:, t - 1])
        q = Independent(Normal(mean[:, t], (variance[:, t] - variance[:, t - 1]).sqrt()), 1)
        p = Independent(Normal(expected, torch.full_like(expected, sigma)), 1)
        torch.testing.assert_close(kl[:, t], kl_divergence(q, p), rtol=2e-2, atol=1e-2)
    assert (kl[:, 1:] == 0).any()
    assert (kl > 1).any()
    alone = gtmsm.filter(walk.actions)
    for felt, expected in zip(gtmsm.infer_walk(torch.zeros(4, 9, 6), walk.actions)[:3], alone, strict=True):
        assert torch.equal(felt, expected)  # without frames


def test_the_elbo_of_a_model_with_contacts_reads_the_frames() -> None:
    gtmsm, walk = model(), Walk(frames(2, 12), torch.randint(5, (2, 11), generator=torch.Generator().manual_seed(1)))
    index = torch.arange(12).expand(2, -1)
    found = gtmsm(walk.frames, index, walk.actions, tau=8, generator=torch.Generator().manual_seed(0))
    q_mean, q_variance = gtmsm.encode(walk.frames)
    kl, _ = gtmsm.divergence(
        q_mean, q_variance, walk.actions, 8, prior_of(gtmsm, walk), torch.Generator().manual_seed(0), frames=walk.frames
    )
    assert float(found.kl) == pytest.approx(float(kl.mean()), rel=1e-4)
    deaf = gtmsm.divergence(q_mean, q_variance, walk.actions, 8, prior_of(gtmsm, walk), torch.Generator().manual_seed(0))[0]
    assert float(found.kl) != pytest.approx(float(deaf.mean()), rel=1e-2)


def prior_of(gtmsm: GTMSM, walk: Walk) -> Any:
    return lambda s, memory: gtmsm.prior(s, memory.but(memory.values | {"frame": walk.frames[:, :8]}))


def test_beliefs_keep_the_frame_that_the_next_is_compared_with() -> None:
    gtmsm = model()
    belief = gtmsm.initial(frames(5))
    assert belief.frame is not None
    assert torch.equal(belief[torch.tensor([3, 1])].frame, frames(5)[[3, 1]])  # type: ignore[arg-type]
    other = gtmsm.initial(frames(2, seed=9))
    put = belief.put(torch.tensor([4, 0]), other)
    assert put.frame is not None
    assert torch.equal(put.frame[[4, 0]], frames(2, seed=9))
    assert torch.equal(put.frame[1:4], frames(5)[1:4])
    imagined = gtmsm.predict(belief, torch.zeros(5, dtype=torch.int64))
    assert imagined.frame is None, "nothing was seen"
    assert gtmsm.imagine(belief, torch.zeros(5, 3, dtype=torch.int64)).frame is None
    assert belief.put(torch.tensor([4, 0]), replace(other, frame=None)).frame is None
    seen = frames(5)
    kept = gtmsm.initial(seen)
    seen.zero_()
    assert torch.equal(kept.frame, frames(5))  # type: ignore[arg-type]  # not what an environment writes over
    forgotten = Belief(belief.mean, belief.variance, belief.displacement, belief.memory)
    told = gtmsm.infer(forgotten, torch.zeros(5, dtype=torch.int64), frames(5, seed=2))  # with nothing to compare: the law alone
    torch.testing.assert_close(told.mean, imagined.mean)
    assert torch.equal(told.frame, frames(5, seed=2))  # type: ignore[arg-type]
    assert model(contacts=False).initial(frames(5)).frame is None
    felt = gtmsm.infer(belief, torch.zeros(5, dtype=torch.int64), frames(5, seed=2))
    assert not torch.allclose(felt.mean, imagined.mean)
    assert torch.equal(replace(felt).frame, frames(5, seed=2))  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [{"law": "rotation"}, {"prior": "combined", "camera": None}])
def test_who_cannot_feel_is_told(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"(?s)Contacts are felt by a walker that is told its camera.*given contacts=True"):
        model(**given)


def test_frames_are_told_by_their_bytes() -> None:
    """Not by floats: a network fed 0 to 255 would still run."""
    net, u = contacts(), torch.zeros(3, 3)
    told = net(frames(3), frames(3, seed=1), u)
    x, now = frames_to_x(frames(3)) - 0.5, frames_to_x(frames(3, seed=1)) - 0.5
    shown = torch.ones(3, 1, 8, 8)
    expected = net.head(torch.cat([net.net(torch.cat([now, x, shown, x, shown], dim=1)), u], dim=1))
    torch.testing.assert_close(told[0], expected[:, 0], atol=1e-4, rtol=1e-4)
