"""The model's verbs against one another and against plain Python; its ELBO against torch.distributions; its files."""

from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact import exact_model
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from gtmsm_env.checkpoint import VERSION, CheckpointError, load_checkpoint, save_checkpoint
from gtmsm_env.data import record
from gtmsm_env.envs.image_navigation import ImageNavigationEnv
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.model import GTMSM
from gtmsm_env.types import Belief, Walk, result_of

FRAME = (4, 5, 3)
SMALL: dict[str, Any] = {"z_size": 6, "hidden": 8, "K": 3, "sigma_s": 0.05, "sigma_x": 0.2, "delta": 0.01}


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(prior: str = "mixture", seed: int = 0, **kwargs: Any) -> GTMSM:
    """A model with weights drawn at random, every part of it alive."""
    model = GTMSM(FRAME, 5, prior=prior, **{**SMALL, **kwargs}).requires_grad_(False)
    generator = draws(seed)
    for parameter in (*model.encoder.parameters(), *model.decoder.parameters(), *model.transition.parameters()):
        parameter.normal_(std=0.3, generator=generator)
    return model.eval()


def drawn_walk(*batch: int, steps: int = 12, seed: int = 0) -> Walk:
    generator = draws(seed)
    return Walk(
        torch.randint(256, (*batch, steps, *FRAME), generator=generator).to(torch.uint8),
        torch.randint(5, (*batch, steps - 1), generator=generator),
        torch.rand(*batch, steps, generator=generator),
        torch.rand(*batch, steps, generator=generator) < 0.3,
    )


def close(a: Belief, b: Belief) -> None:
    parts = [("mean", a.mean, b.mean), ("variance", a.variance, b.variance), ("displacement", a.displacement, b.displacement)]
    assert torch.equal(a.memory.count, b.memory.count)
    used = len(a.memory)
    axis = len(a.memory.batch_shape)
    for name in ("s_mean", "s_variance"):
        parts.append((name, getattr(a.memory, name).narrow(axis, 0, used), getattr(b.memory, name).narrow(axis, 0, used)))
    for name in a.memory.values:
        parts.append((name, a.memory.values[name].narrow(axis, 0, used), b.memory.values[name].narrow(axis, 0, used)))
    for name, mine, other in parts:
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4, msg=name)


# ---------------------------------------------------------------- remembering


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_a_walk_is_remembered_as_step_by_step(batch: tuple[int, ...]) -> None:
    model, walk = small(), drawn_walk(*batch)
    assert walk.rewards is not None
    assert walk.terminations is not None
    walk.rewards[..., 0], walk.terminations[..., 0] = 0, False  # nothing is received on x_1
    axis = len(batch)
    belief = model.initial(walk.frames.select(axis, 0))
    for t in range(1, 12):
        x, reward, end = (part.select(axis, t) for part in (walk.frames, walk.rewards, walk.terminations))
        belief = model.observe(belief, walk.actions[..., t - 1], x, reward, end)
    close(model.remember(walk), belief)
    assert belief.memory.batch_shape == batch
    assert len(belief.memory) == 12


def test_a_belief_begins_at_the_origin() -> None:
    model, walk = small(), drawn_walk(3, steps=1)
    belief = model.initial(walk.frames[:, 0])
    assert not belief.mean.any()
    assert not belief.displacement.any()
    torch.testing.assert_close(belief.variance, torch.full((3, 2), 0.05**2))
    assert torch.equal(belief.memory.values["z_mean"][:, 0], model.encode(walk.frames[:, 0])[0])
    close(model.remember(Walk(walk.frames, walk.actions)), belief)  # a walk of one frame


def test_a_world_without_a_task_gives_no_reward() -> None:
    model, walk = small(), drawn_walk(3)
    belief = model.remember(Walk(walk.frames, walk.actions))
    seen = model.observe(belief, walk.actions[:, 0], walk.frames[:, 0])
    for memory in (belief.memory, seen.memory):
        assert memory.values["reward"].dtype == torch.float32
        assert memory.values["termination"].dtype == torch.bool
        assert not memory.values["reward"].any()
        assert not memory.values["termination"].any()


@pytest.mark.parametrize("where", [[True, False, True], [False, False, False], [True, True, True]])
def test_only_rows_that_are_written_remember(where: list[bool]) -> None:
    model, walk = small(), drawn_walk(3)
    belief, action, x, chosen = model.remember(walk), walk.actions[:, 0], walk.frames[:, 3], torch.tensor(where)
    seen, everywhere = model.observe(belief, action, x, where=chosen), model.observe(belief, action, x)
    assert torch.equal(seen.mean, everywhere.mean)  # every row moves
    assert torch.equal(seen.memory.count, 12 + chosen.long())
    for row in chosen.nonzero().flatten().tolist():
        rows = slice(row, row + 1)
        close(seen[rows], everywhere[rows])
    assert torch.equal(belief.memory.count, torch.full((3,), 12))


@pytest.mark.parametrize(
    ("where", "given"),
    [
        (torch.tensor([1, 0, 1]), "int64 of shape (3,)"),
        (torch.tensor([0, 2]), "int64 of shape (2,)"),
        (torch.tensor([True, False]), "bool of shape (2,)"),
        (torch.tensor(True), "bool of shape ()"),
        (torch.ones(3, 1, dtype=torch.bool), "bool of shape (3, 1)"),
    ],
)
def test_rows_that_are_no_rows(where: Tensor, given: str) -> None:
    model, walk = small(), drawn_walk(3)
    with pytest.raises(ValueError, match=re.escape(f"bool of shape (3,), given torch.{given}")):
        model.observe(model.remember(walk), walk.actions[:, 0], walk.frames[:, 3], where=where)


def test_rewards_that_are_no_numbers() -> None:
    model, walk = small(), drawn_walk(3)
    with pytest.raises(ValueError, match="A reward is a number"):
        model.observe(model.remember(walk), walk.actions[:, 0], walk.frames[:, 3], torch.tensor([0.0, torch.nan, 1.0]))
    with pytest.raises(ValueError, match="NaN, which would be remembered"):
        model.remember(replace(walk, rewards=torch.full(walk.frames.shape[:2], torch.nan)))


def test_the_filter_is_equation_3() -> None:
    """Means through the law, variances by sigma_s^2 a step, s_1 = 0."""
    model, walk = small(), drawn_walk(2, 3)
    mean, variance, u = model.filter(walk.actions)
    assert mean.shape == variance.shape == u.shape == (2, 3, 12, 2)
    assert not mean[..., 0, :].any()
    assert not u[..., 0, :].any()
    s = torch.zeros(2, 3, 2)
    for t in range(1, 12):
        moved, step = model.transition(s, torch.zeros_like(s), walk.actions[..., t - 1])
        torch.testing.assert_close(mean[..., t, :], moved)
        torch.testing.assert_close(u[..., t, :], step)
        torch.testing.assert_close(mean[..., t, :] - mean[..., t - 1, :], step, atol=1e-5, rtol=1e-4)
        s = moved
    for t in range(12):
        torch.testing.assert_close(variance[..., t, :], torch.full((2, 3, 2), (t + 1) * 0.05**2))


# ---------------------------------------------------------------- imagining


@pytest.mark.parametrize("walls", [True, False])
@pytest.mark.parametrize("plans", [(), (4,), (2, 3)])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_plan_is_imagined_as_step_by_step(batch: tuple[int, ...], plans: tuple[int, ...], walls: bool) -> None:
    """C plans for each belief; the memory is neither asked nor changed."""
    model = small()
    model.transition.walls = walls
    belief = model.remember(drawn_walk(*batch))
    actions = torch.randint(5, (*batch, *plans, 7), generator=draws(1))
    imagined = model.imagine(belief, actions)
    assert imagined.mean.shape == imagined.variance.shape == imagined.displacement.shape == (*batch, *plans, 7, 2)
    assert imagined.memory is belief.memory
    for row, plan in itertools.product(itertools.product(*map(range, batch)), itertools.product(*map(range, plans))):
        step = Belief(belief.mean[row], belief.variance[row], belief.displacement[row], belief.memory)
        for t in range(7):
            step = model.predict(step, actions[row + plan][t])
            at = (*row, *plan, t)
            torch.testing.assert_close(imagined.mean[at], step.mean, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(imagined.displacement[at], step.displacement, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(imagined.variance[at], step.variance)


def test_an_empty_plan() -> None:
    model = small()
    belief = model.remember(drawn_walk(3))
    assert model.imagine(belief, torch.zeros(3, 4, 0, dtype=torch.int64)).mean.shape == (3, 4, 0, 2)


def test_several_hypotheses_of_one_world() -> None:
    """The memory's batch shape is a prefix of the state's."""
    model = small()
    belief = model.remember(drawn_walk(3))
    s = torch.randn(3, 4, 2, generator=draws())
    many = Belief(s, torch.ones(3, 4, 2), torch.zeros(3, 4, 2), belief.memory)
    actions = torch.randint(5, (3, 4), generator=draws(1))
    moved = model.predict(many, actions)
    frames, novelty = model.decode(moved.mean, moved.memory), model.novelty(moved.mean, moved.memory)
    assert frames.shape == (3, 4, *FRAME)
    for row, h in itertools.product(range(3), range(4)):
        one = belief[slice(row, row + 1)]
        alone = model.predict(Belief(s[row, h][None], one.variance, one.displacement, one.memory), actions[row, h][None])
        torch.testing.assert_close(moved.mean[row, h], alone.mean[0])
        difference = frames[row, h].int() - model.decode(alone.mean, one.memory)[0].int()
        assert difference.abs().max() <= 1  # sums in another order
        torch.testing.assert_close(novelty[row, h], model.novelty(alone.mean, one.memory)[0])


# ---------------------------------------------------------------- what the memory shows


def world_and_walk(steps: int = 150, seed: int = 0) -> tuple[Walk, Tensor]:
    """A walk in a picture, and where it went, in steps from the centre."""
    walk = record(ImageNavigationEnv(task=None), steps, np.random.default_rng(seed), seed)
    assert walk.positions is not None
    return walk, walk.positions - 4


@pytest.mark.parametrize("prior", ["mixture", "views"])
def test_places_that_were_seen_are_shown_as_they_were(prior: str) -> None:
    """Byte for byte; a frame is found where it was seen, and nothing is new there."""
    walk, positions = world_and_walk()
    model = exact_model(prior=prior)
    belief = model.remember(walk)
    assert torch.equal(belief.memory.s_mean, positions.float())
    assert torch.equal(model.decode(belief.memory.s_mean, belief.memory), walk.frames)
    found = model.locate(walk.frames, belief.memory)
    assert found.index.shape == (150, 1)
    same = (walk.frames[found.index[:, 0]] == walk.frames).flatten(1).all(dim=1)
    assert same.all()
    assert torch.equal(found.s_mean[:, 0], positions.float())  # frames of different places differ in this picture
    assert model.novelty(belief.memory.s_mean, belief.memory).max() <= 1e-9


def test_novelty_counts_steps_from_the_nearest_place() -> None:
    walk, _ = world_and_walk()
    model = exact_model()
    memory = model.remember(walk).memory
    top, right = memory.s_mean[:, 0].min(), memory.s_mean[:, 1].max()
    s = torch.stack([torch.stack([top - 20, right]), torch.stack([torch.tensor(0.0), right + 7])])
    expected = [min(math.dist(q, p) for p in memory.s_mean.tolist()) for q in s.tolist()]
    assert model.novelty(s, memory).tolist() == pytest.approx(expected)
    model.transition.W_a.mul_(0.5)  # the same places are now twice as many steps away
    assert model.novelty(s, memory).tolist() == pytest.approx([2 * x for x in expected])


def test_a_place_never_seen_is_shown_from_what_overlaps_it() -> None:
    """Byte for byte where sharp views of its neighbours cover all of it; the paper's mixture can only copy one of them."""
    picture = torch.randint(256, (32, 32, 3), generator=draws()).to(torch.uint8)

    def crop(row: int, column: int) -> Tensor:
        return picture[3 * row : 3 * row + 8, 3 * column : 3 * column + 8]

    model = exact_model(prior="views")
    hidden = (4, 4)
    places = [p for p in itertools.product(range(9), repeat=2) if p != hidden]
    z_mean, z_variance = model.encode(torch.stack([crop(*p) for p in places]))
    s = torch.tensor(places).float() - 4
    memory = SpatialMemory(s, torch.ones_like(s), {"z_mean": z_mean, "z_variance": z_variance})
    shown = model.decode(torch.zeros(2), memory)
    assert torch.equal(shown, crop(*hidden))
    assert torch.equal(model.decode(s, memory), torch.stack([crop(*p) for p in places]))
    copied = exact_model().decode(torch.zeros(2), memory)
    assert any(torch.equal(copied, crop(*p)) for p in places)


def test_views_are_laid_once_for_many_reads() -> None:
    walk, _ = world_and_walk()
    model = exact_model(prior="views")
    memory = model.remember(walk).memory
    places = model.recall(memory)
    assert places.facts["canvas"].shape == (4, 56, 56)  # 16 + 8 pixels around a frame
    assert len(places) == len({tuple(p) for p in memory.s_mean.tolist()})
    assert model.recall(places) is places
    s = 2 * torch.randn(20, 2, generator=draws())
    assert torch.equal(model.decode(s, memory), model.decode(s, places))
    assert exact_model().recall(memory) is memory  # the mixture reads it as it is


@pytest.mark.parametrize("change", ["observe", "write", "extend", "bounded", "save", "append"])
def test_other_entries_are_shown_by_another_canvas(change: str, tmp_path: Path) -> None:
    """What was laid is of the entries that there were: more, fewer or those read from a file are laid anew."""
    walk, _ = world_and_walk()
    model = exact_model(prior="views")
    recalled = model.recall(model.remember(Walk(walk.frames[:60], walk.actions[:59])).memory)
    assert "canvas" in recalled.facts
    elsewhere = torch.full((2,), 4.5)
    entry = {"s_mean": elsewhere, "s_variance": elsewhere, **{name: value[0] for name, value in recalled.values.items()}}
    if change == "observe":
        changed = model.observe(Belief(elsewhere, elsewhere, elsewhere, recalled), torch.tensor(4), walk.frames[0]).memory
    elif change == "write":
        changed = recalled.write(**entry)
    elif change == "extend":
        changed = recalled.extend(**{name: value[None] for name, value in entry.items()})
    elif change == "bounded":
        changed = recalled.bounded(8, "oldest")
    else:
        recalled.save(tmp_path / "memory", model) if change == "save" else recalled.append(tmp_path / "memory", model)
        changed = SpatialMemory.load(tmp_path / "memory", model)
    assert "canvas" not in changed.facts
    assert torch.equal(model.recall(changed).facts["canvas"], recalled.facts["canvas"]) is (change in ("save", "append"))


def test_a_mixture_that_has_looked_up_its_views_may_see_more() -> None:
    walk, _ = world_and_walk()
    model = exact_model()
    drawn = result_of(model.drawing(model.remember(Walk(walk.frames[:60], walk.actions[:59])).memory))
    elsewhere = torch.full((2,), 4.5)
    seen = model.observe(Belief(elsewhere, elsewhere, elsewhere, drawn), torch.tensor(4), walk.frames[70])
    assert torch.equal(model.decode(seen.mean, seen.memory), walk.frames[70])


@pytest.mark.parametrize("prior", ["mixture", "views"])
def test_a_memory_smaller_than_the_prior_reads(prior: str) -> None:
    model = small(prior)
    belief = model.initial(drawn_walk(steps=1).frames[0])
    with pytest.raises(ValueError, match=r"K = \d neighbours were asked of a memory of 1 entries"):
        model.prior(belief.mean, belief.memory)
    nothing = SpatialMemory(torch.zeros(0, 2), torch.zeros(0, 2), {"z_mean": torch.zeros(0, 6), "z_variance": torch.zeros(0, 6)})
    for ask in (model.novelty, model.decode, model.prior):
        with pytest.raises(ValueError, match=r"The memory is empty\. Walk"):
            ask(torch.zeros(2), nothing)


# ---------------------------------------------------------------- the ELBO


def test_the_elbo_is_section_3_4() -> None:
    """Step by step in plain Python with torch.distributions, on the same noise."""
    model, tau, T, B = small(), 6, 10, 2
    walk = drawn_walk(B, steps=T)
    index = torch.tensor([[0, 1, 2, 1, 0, 3, 4, 2, 5, 0], [0, 0, 1, 2, 3, 1, 0, 4, 4, 1]])
    frames = walk.frames[:, :6]
    elbo = model(frames, index, walk.actions, tau, generator=draws(7))

    same = draws(7)
    noise_s = torch.empty(B, T - tau, 2).normal_(generator=same)
    noise_z = torch.empty(B, T - tau, 6).normal_(generator=same)
    log_likelihoods, kls = [], []
    for b in range(B):
        x = [frames[b, int(i)] for i in index[b]]
        q = []
        for frame in x:
            mean, variance = model.encode(frame)
            q.append(Independent(Normal(mean, variance.sqrt()), 1))
        s, states = torch.zeros(2), [torch.zeros(2)]
        for a in walk.actions[b]:
            move = model.transition.W_a[:, a]
            s = s + torch.sigmoid(model.transition.g((s + move) / model.transition.wall_scale)) * move
            states.append(s)
        for t in range(tau, T):
            s = states[t] + math.sqrt((t + 1) * 0.05**2) * noise_s[b, t - tau]
            square = [float((states[i] - s).square().sum()) for i in range(tau)]
            nearest = sorted(range(tau), key=lambda i: square[i])[:3]
            weight = torch.tensor([1 / (square[i] + 0.01) for i in nearest])
            means, deviations = (torch.stack([getattr(q[i].base_dist, name) for i in nearest]) for name in ("loc", "scale"))
            prior = MixtureSameFamily(Categorical(weight), Independent(Normal(means, deviations), 1))
            z = q[t].base_dist.loc + q[t].base_dist.scale * noise_z[b, t - tau]
            kls.append(q[t].log_prob(z) - prior.log_prob(z))
            image = (x[t].float() / 255).movedim(-1, 0)
            log_likelihoods.append(Independent(Normal(model.decoder(z), 0.2), 3).log_prob(image))
    torch.testing.assert_close(elbo.log_likelihood, torch.stack(log_likelihoods).mean(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(elbo.kl, torch.stack(kls).mean(), rtol=1e-4, atol=1e-3)


def test_the_elbo_under_another_prior() -> None:
    """What the recipe does: a softer mixture than the model's own."""
    model, walk = small(), drawn_walk(2)
    index = torch.arange(12).expand(2, 12)
    seen: list[tuple[Any, ...]] = []

    def standard(s: Tensor, memory: SpatialMemory) -> Any:
        seen.append((tuple(s.shape), len(memory)))
        return MixtureSameFamily(Categorical(torch.ones(2, 4, 1)), Independent(Normal(torch.zeros(2, 4, 1, 6), 1.0), 1))

    elbo = model(walk.frames, index, walk.actions, 8, standard, draws())
    assert seen == [((2, 4, 2), 8)]
    own = model(walk.frames, index, walk.actions, 8, generator=draws())
    assert torch.equal(elbo.log_likelihood, own.log_likelihood)
    assert elbo.kl != own.kl


def test_the_sampled_kl_is_the_closed_form_on_average() -> None:
    """With a single entry the prior is one Gaussian."""
    model, count = small(K=1), 4000
    frames = torch.randint(256, (2, *FRAME), generator=draws()).to(torch.uint8)
    mean, variance = model.encode(frames)
    variance = variance + 0.2
    kl, z = model.divergence(
        mean.expand(count, 2, 6), variance.expand(count, 2, 6), torch.zeros(count, 1, dtype=torch.int64), 1, generator=draws(1)
    )
    assert kl.shape == (count, 1)
    first, second = (Independent(Normal(mean[i], variance[i].sqrt()), 1) for i in range(2))
    expected = kl_divergence(second, first)
    assert abs(kl.mean() - expected) < 4 * kl.std() / count**0.5
    assert ((z[:, 0].mean(dim=0) - mean[1]).abs() < 4 * variance[1].sqrt() / count**0.5).all()


def test_gradients_of_the_elbo_reach_every_part() -> None:
    """Also through what was remembered: the moves of steps 1 to tau and the encodings of their frames."""
    for prior in ("mixture", "views"):
        model = small(prior).requires_grad_(True)
        walk = drawn_walk(2, steps=20)
        elbo = model(walk.frames, torch.arange(20).expand(2, 20), walk.actions, 16, generator=draws())
        (elbo.kl - elbo.log_likelihood).backward()
        for name, parameter in model.named_parameters():
            if name not in ("views.mlp.0.weight", "views.mlp.0.bias", "views.mlp.2.weight", "views.mlp.2.bias"):  # behind a silent layer
                assert parameter.grad is not None, name
                assert torch.isfinite(parameter.grad).all(), name
                assert parameter.grad.any(), name


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("frames", "given"),
    [
        (torch.zeros(2, 4, 5, 3), r"given torch.float32 of shape \(2, 4, 5, 3\)"),
        (torch.full((4, 5, 3), torch.nan), "given torch.float32 with NaN of shape"),
        (torch.zeros(4, 5, 3, dtype=torch.int64), "given torch.int64 of"),
        (torch.zeros(5, 4, 3, dtype=torch.uint8), r"of shape \(5, 4, 3\)"),
        (torch.zeros(3, 4, 5, dtype=torch.uint8), r"of shape \(3, 4, 5\)"),
        (torch.zeros(5, 3, dtype=torch.uint8), r"of shape \(5, 3\)"),
    ],
)
def test_frames_that_are_none(frames: Tensor, given: str) -> None:
    model = small()
    belief = model.remember(drawn_walk())
    for use in (model.encode, model.initial, lambda x: model.locate(x, belief.memory), lambda x: model.observe(belief, torch.tensor(0), x)):
        with pytest.raises(ValueError, match=rf"A frame is uint8 of shape \(4, 5, 3\), 0 to 255; .*{given}.*Pass the world's frames"):
            use(frames)


def test_frames_that_are_none_where_nothing_is_written() -> None:
    """They are refused as well: a row that is not written today is tomorrow."""
    for model in (small(), small(landmarks=4)):
        belief, action, nobody = model.remember(drawn_walk(2)), torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.bool)
        with pytest.raises(ValueError, match="with NaN"):
            model.observe(belief, action, torch.full((2, 4, 5, 3), torch.nan), where=nobody)
        with pytest.raises(ValueError, match=r"Each belief sees one frame: beliefs are \(2,\), given frames of shape \(3, 4, 5, 3\)"):
            model.observe(belief, action, torch.zeros(3, 4, 5, 3, dtype=torch.uint8))
    for use in (lambda x: model.infer(belief, action, x), lambda x: model.relocate(x, belief.memory)):  # with landmarks
        with pytest.raises(ValueError, match="with NaN"):
            use(torch.full((2, 4, 5, 3), torch.nan))


BAD_ACTIONS = [
    pytest.param(torch.tensor([0, 5]), r"one of 0 to 4; given 5\. Number actions", id="too large"),
    pytest.param(torch.tensor([-1, 0]), r"one of 0 to 4; given -1\. Number actions", id="negative"),
    pytest.param(torch.tensor([0.0, 1.0]), r"integers from 0 to 4, as int64; given torch\.float32", id="float"),
    pytest.param(torch.tensor([0.0, math.nan]), r"given torch\.float32", id="NaN"),
    pytest.param(torch.tensor([0, 1], dtype=torch.uint8), r"given torch\.uint8", id="bytes"),
    pytest.param(torch.tensor([True, False]), r"given torch\.bool", id="bool"),
]


@pytest.mark.parametrize(("action", "message"), BAD_ACTIONS)
def test_actions_outside_the_space(action: Tensor, message: str) -> None:
    """Indexing would take -1 for the last action, and bytes for a mask."""
    model, walk = small(), drawn_walk(2)
    belief = model.remember(walk)
    sequence = action[:, None].expand(2, 11)
    for use in (
        lambda: model.predict(belief, action),
        lambda: model.observe(belief, action, walk.frames[:, 0]),
        lambda: model.imagine(belief, sequence),
        lambda: model.imagine(belief, sequence[:, None]),
        lambda: model.filter(sequence),
        lambda: model.remember(Walk(walk.frames, sequence)),
    ):
        with pytest.raises(ValueError, match=message):
            use()


@pytest.mark.parametrize("shape", [(), (2,), (1,), (3, 1), (4,)])
def test_actions_of_another_shape(shape: tuple[int, ...]) -> None:
    """They would be broadcast, and move every belief by every action."""
    model = small()
    belief = model.remember(drawn_walk(3))
    with pytest.raises(ValueError, match=r"takes one action: beliefs are \(3,\), given actions of shape"):
        model.predict(belief, torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("shape", [(), (3,), (4, 3), (1, 5)])
def test_plans_of_another_shape(shape: tuple[int, ...]) -> None:
    model = small()
    belief = model.remember(drawn_walk(3))
    with pytest.raises(ValueError, match=r"takes sequences of actions: beliefs are \(3,\), given actions of shape"):
        model.imagine(belief, torch.zeros(shape, dtype=torch.int64))


def test_a_prior_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="'views' and 'mixture', the paper's; given prior='mixtures'"):
        GTMSM(FRAME, 5, prior="mixtures")


# ---------------------------------------------------------------- disk


@pytest.mark.parametrize("prior", ["mixture", "views"])
def test_a_saved_model_is_the_same_model(tmp_path: Path, prior: str) -> None:
    model = small(prior, world={"id": "World-v0", "kwargs": {"size": 3}, "start": "center"})
    model.save(tmp_path / "model", command="train", seconds=3)
    walk = drawn_walk(2)
    for again in (GTMSM.load(tmp_path / "model"), GTMSM.load(str(tmp_path / "model.safetensors"))):
        assert again.world == model.world
        assert json.dumps(again.config) == json.dumps(model.config)
        assert (again.frame_shape, again.num_actions, again.K, again.delta, again.sigma_x) == (FRAME, 5, 3, 0.01, 0.2)
        assert again.fingerprint() == model.fingerprint()
        assert not again.training
        assert not any(parameter.requires_grad for parameter in again.parameters())
        belief = again.remember(walk)
        close(belief, model.remember(walk))
        s = torch.randn(2, 4, 2, generator=draws())
        assert torch.equal(again.decode(s, belief.memory), model.decode(s, belief.memory))
    assert load_checkpoint(tmp_path / "model")[1]["card"] == {"command": "train", "seconds": 3}


def test_a_fingerprint_names_the_weights(tmp_path: Path) -> None:
    model = small()
    assert model.fingerprint() == small().fingerprint() != small(seed=1).fingerprint()
    before = model.fingerprint()
    model.transition.W_a[0, 0] += 1e-3
    assert model.fingerprint() != before
    small().remember(drawn_walk(2)).memory.save(tmp_path / "memory", small())
    with pytest.raises(CheckpointError, match=f"given {model.fingerprint()}. Load that model"):
        SpatialMemory.load(tmp_path / "memory", model)


def test_models_are_loaded_by_name_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gtmsm_env.model.PRETRAINED", tmp_path / "pretrained")
    small().save(tmp_path / "pretrained" / "meadow")
    small(seed=1).save(tmp_path / "mine")
    assert GTMSM.load("meadow").fingerprint() == small().fingerprint()
    assert GTMSM.load(tmp_path / "mine").fingerprint() == small(seed=1).fingerprint()
    for name in ("forest", str(tmp_path / "forest")):
        with pytest.raises(CheckpointError, match=r"forest\.json cannot be read.*models that ship are \['meadow'\]; any other .* path"):
            GTMSM.load(name)
    (tmp_path / "training.json").touch()
    with pytest.raises(CheckpointError, match="once its training has ended: go on with it, --resume"):
        GTMSM.load(tmp_path / "model")


def test_a_memory_of_other_sizes_is_not_decoded() -> None:
    belief = small().remember(drawn_walk(2))
    other = GTMSM(small().frame_shape, 5, hidden=8, z_size=7)
    with pytest.raises(ValueError, match="read by the model that wrote it, here of states of 2 and encodings of 7 numbers"):
        other.decode(belief.mean, belief.memory)
    with pytest.raises(ValueError, match="tensor of integers from 0 to 4, as int64; given <class 'list'>"):
        small().imagine(belief, [[0, 1], [1, 1]])  # type: ignore[arg-type]


def edit(path: Path, **changes: Any) -> None:
    file = path.with_suffix(".json")
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, config: (tensors, config | {"kind": "training"}), "kind 'model' is needed"),
        (lambda tensors, config: (dict(list(tensors.items())[1:]), config), r"misses \['"),
        (lambda tensors, config: (tensors | {"poses": torch.zeros(1)}, config), r"unexpected \['poses'\]"),
        (lambda tensors, config: (tensors, {"kind": "model"}), "holds the arguments of GTMSM"),
        (lambda tensors, config: (tensors, config | {"model": config["model"] | {"depth": 3}}), "holds the arguments .*depth.*saved it"),
        (lambda tensors, config: (tensors, config | {"model": config["model"] | {"z_size": 7}}), "its tensors fit them; .*size mismatch"),
        (lambda tensors, config: (tensors, config | {"model": config["model"] | {"prior": "better"}}), "holds the arguments .*better"),
        (lambda tensors, config: (tensors, config | {"model": config["model"] | {"prior": "views"}}), r"misses \['views"),
    ],
)
def test_checkpoints_that_are_no_model_of_this_version(tmp_path: Path, change: Any, message: str) -> None:
    small().save(tmp_path / "model")
    save_checkpoint(tmp_path / "model", *change(*load_checkpoint(tmp_path / "model")))
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        GTMSM.load(tmp_path / "model")


def test_newer_cut_and_foreign_checkpoints(tmp_path: Path) -> None:
    small().save(tmp_path / "model")
    edit(tmp_path / "model", version=VERSION + 1)
    with pytest.raises(CheckpointError, match="pip install --upgrade"):
        GTMSM.load(tmp_path / "model")
    edit(tmp_path / "model", version=VERSION, format="other")
    with pytest.raises(CheckpointError, match="name a file that gtmsm-env saved"):
        GTMSM.load(tmp_path / "model")
    small().save(tmp_path / "model")
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match="cut short"):
        GTMSM.load(tmp_path / "model")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="folder must be writable"):
        small().save(tmp_path / "file" / "model")
