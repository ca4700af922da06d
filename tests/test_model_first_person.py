"""The model's verbs in first person, against one another and against worlds that are known; its ELBO; its files."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from exact import exact_model, exact_rotation, exact_walking
from rooms import KnownRoom, psnr
from torch import Tensor
from torch.distributions import Independent, Normal

from gtmsm_env.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from gtmsm_env.data import record
from gtmsm_env.floorplan import CELL, CELLS, clearance, something, standing
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.model import GTMSM
from gtmsm_env.networks import frames_to_x, x_to_frames
from gtmsm_env.projection import stops
from gtmsm_env.recipe_labyrinth import CAMERA
from gtmsm_env.transitions import slide
from gtmsm_env.types import Belief, Walk, phi

FRAME = (8, 8, 3)
KINDS = [(law, prior) for law in ("rotation", "walking") for prior in ("combined", "views")]
PROJECTED = ("walking", "views")
SMALL: dict[str, Any] = {"state_size": 3, "z_size": 6, "K": 3, "sigma_s": 0.05, "sigma_x": 0.2}


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small(law: str = "walking", prior: str = "views", seed: int = 0, **kwargs: Any) -> GTMSM:
    """A model with weights drawn at random, every part of it alive."""
    model = GTMSM(FRAME, 5, law=law, prior=prior, **{**SMALL, "camera": CAMERA if prior == "views" else None, **kwargs})
    generator = draws(seed)
    for parameter in model.requires_grad_(False).parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 25
        parameter.normal_(std=fan_in**-0.5, generator=generator)
    if law == "walking":
        model.transition.c = torch.nn.Parameter(torch.tensor([0.5, 0.4, 0.6]), requires_grad=False)  # type: ignore[union-attr]
    model.transition.W_a.normal_(generator=generator)
    return model.eval()


def drawn_walk(*batch: int, steps: int = 9, seed: int = 0) -> Walk:
    generator = draws(seed)
    return Walk(
        torch.randint(256, (*batch, steps, *FRAME), generator=generator).to(torch.uint8),
        torch.randint(5, (*batch, steps - 1), generator=generator),
    )


def rocks(*batch: int) -> Tensor:
    """`clearance` of plans on which something stands here and there."""
    return clearance(torch.rand(math.prod(batch), CELLS, CELLS, generator=draws(8)) < 0.03).reshape(*batch, CELLS, CELLS)


def close(a: Belief, b: Belief, atol: float = 1e-4) -> None:
    axis, used = len(a.memory.batch_shape), len(a.memory)
    assert torch.equal(a.memory.count, b.memory.count)
    assert a.memory.values.keys() == b.memory.values.keys()
    parts = [(name, getattr(a, name), getattr(b, name)) for name in ("mean", "variance", "displacement")]
    stored = [(name, getattr(a.memory, name), getattr(b.memory, name)) for name in ("s_mean", "s_variance")]
    stored += [(name, value, b.memory.values[name]) for name, value in a.memory.values.items()]
    parts += [(name, mine.narrow(axis, 0, used), other.narrow(axis, 0, used)) for name, mine, other in stored]
    for name, mine, other in parts:
        torch.testing.assert_close(mine, other, atol=atol, rtol=1e-3, msg=name)


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"law": "running"}, r"laws are \['walls', 'rotation', 'walking', 'hard walking'\].*given prior='combined', law='running'"),
        ({"prior": "mixture"}, "priors of 'walking' are 'views' and 'combined', the paper's; given prior='mixture'"),
        ({"law": "walls", "state_size": 2}, "priors of 'walls' are 'views' and 'mixture', the paper's; given prior='combined'"),
        ({"state_size": 2}, r"a place and a heading, state_size=3.*given law='walking', state_size=2"),
        ({"prior": "views"}, r"'views' alone is told its camera, \{'field_of_view'.*prior='views', camera=None"),
        (
            {"law": "walls", "prior": "views", "state_size": 2, "camera": CAMERA},
            "there the prior 'views' alone is told its camera.*law='walls'",
        ),
        ({"camera": CAMERA}, "'views' alone is told its camera.*prior='combined', camera={'field_of_view': 90.0"),
        ({"prior": "views", "camera": CAMERA, "learned_metric": True}, "the prior 'combined' alone.*with prior='views'"),
        ({"frame_shape": (16, 24, 3)}, r"frames are square.*given \(16, 24, 3\)"),
        ({"frame_shape": (12, 12, 3)}, r"of 8, 16, 24, \.\.\. pixels a side.*given \(12, 12, 3\)"),
        ({"landmarks": 4}, "some state_size=2.*given landmarks=4, state_size=3"),
    ],
)
def test_arguments_that_do_not_go_together(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        GTMSM(**{"frame_shape": FRAME, "num_actions": 5, "law": "walking", "prior": "combined", **SMALL, **given})


def test_states_in_first_person_need_three_numbers_of_their_law() -> None:
    for law, prior in KINDS:
        model = small(law, prior)
        assert model.transition.W_a.shape == (3, 5)
        assert model.K == 3
        assert (model.projected is None) == (prior == "combined")
        assert (model.combined is None) == (prior == "views")
        assert model.views is None


# ---------------------------------------------------------------- remembering


@pytest.mark.parametrize(("law", "prior"), KINDS)
@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_a_walk_is_remembered_as_step_by_step(law: str, prior: str, batch: tuple[int, ...]) -> None:
    """Momentum is carried from step to step; frames are kept for projection, and for nothing else."""
    model, walk = small(law, prior), drawn_walk(*batch)
    belief = model.initial(walk.frames.select(len(batch), 0))
    for t in range(1, 9):
        belief = model.observe(belief, walk.actions[..., t - 1], walk.frames.select(len(batch), t))
    close(model.remember(walk), belief)
    assert ("frame" in belief.memory.values) == (prior == "views")
    if prior == "views":
        assert torch.equal(belief.memory.values["frame"].narrow(len(batch), 0, 9), walk.frames)
    assert belief.mean.shape == (*batch, 3)


def test_the_filter_is_equation_3_of_the_walker() -> None:
    model, walk = small(), drawn_walk(2)
    mean, variance, u = model.filter(walk.actions)
    s = last = torch.zeros(2, 3)
    for t in range(1, 9):
        s, last = model.transition(s, last, walk.actions[:, t - 1])
        torch.testing.assert_close(mean[:, t], s, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(u[:, t], last, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(variance[:, t], torch.full((2, 3), (t + 1) * 0.05**2))
    assert not mean[:, 0].any()
    assert not u[:, 0].any()


@pytest.mark.parametrize(("law", "prior"), KINDS)
@pytest.mark.parametrize("where", [[True, False, True], [False, False, False]])
def test_only_rows_that_are_written_remember(law: str, prior: str, where: list[bool]) -> None:
    """Also where the memory is recalled, and where nothing is written at all."""
    model, walk, chosen = small(law, prior), drawn_walk(3), torch.tensor(where)
    belief = model.remember(walk)
    for of in (belief, replace(belief, memory=model.recall(belief.memory))):
        seen, everywhere = (model.observe(of, walk.actions[:, 0], walk.frames[:, 3], where=w) for w in (chosen, None))
        assert torch.equal(seen.mean, everywhere.mean)
        assert torch.equal(seen.memory.count, 9 + chosen.long())
        for row in chosen.nonzero().flatten().tolist():
            close(seen[slice(row, row + 1)], everywhere[slice(row, row + 1)])


@pytest.mark.parametrize("batch", [(), (3,)])
def test_what_is_seen_once_the_memory_is_recalled_is_shown_too(batch: tuple[int, ...]) -> None:
    """Its depth is of the plan as it was; a memory that is recalled afterwards would find a new plan."""
    model, walk = small(), drawn_walk(*batch)
    belief = model.remember(walk)
    recalled = replace(belief, memory=model.recall(belief.memory))
    seen = model.observe(recalled, walk.actions[..., 0], walk.frames.select(len(batch), 3))
    memory = seen.memory
    assert memory.facts["plan"] is recalled.memory.facts["plan"] or torch.equal(memory.facts["plan"], recalled.memory.facts["plan"])
    assert torch.equal(memory.values["frame"].select(len(batch), 9), walk.frames.select(len(batch), 3))
    torch.testing.assert_close(memory.values["view"].select(len(batch), 9), frames_to_x(walk.frames.select(len(batch), 3)))
    assert model.projected is not None
    depth = model.projected.entry(seen.mean, walk.frames.select(len(batch), 3), recalled.memory)["depth"]
    torch.testing.assert_close(memory.values["depth"].select(len(batch), 9), depth)
    before, after = model.expect(seen.mean, recalled.memory)[1], model.expect(seen.mean, memory)[1]
    assert before is not None
    assert after is not None
    assert not torch.allclose(before, after)


# ---------------------------------------------------------------- imagining


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("plans", [(), (4,), (2, 3)])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_plan_is_imagined_as_step_by_step(batch: tuple[int, ...], plans: tuple[int, ...], stopped: bool) -> None:
    """Against what a recalled memory has seen to be in the way; one that is not recalled knows of nothing."""
    model = small()
    belief = model.remember(drawn_walk(*batch))
    if stopped:  # by what stands here and there, drawn at random
        belief = replace(belief, memory=model.recall(belief.memory).but(facts={"clearance": rocks(*batch)}))
    actions = torch.randint(5, (*batch, *plans, 7), generator=draws(1))
    imagined = model.imagine(belief, actions)
    assert imagined.mean.shape == imagined.variance.shape == imagined.displacement.shape == (*batch, *plans, 7, 3)
    free = True
    for row, plan in itertools.product(itertools.product(*map(range, batch)), itertools.product(*map(range, plans))):
        memory = belief.memory[torch.tensor(row[0])] if batch else belief.memory
        step = Belief(belief.mean[row], belief.variance[row], belief.displacement[row], memory)
        for t in range(7):
            moved = model.transition(step.mean, step.displacement, actions[row + plan][t])
            step = model.predict(step, actions[row + plan][t])
            free = free and torch.allclose(moved[0], step.mean)
            at = (*row, *plan, t)
            torch.testing.assert_close(imagined.mean[at], step.mean, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(imagined.displacement[at], step.displacement, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(imagined.variance[at], step.variance)
    assert free != stopped


def test_a_step_is_imagined_as_the_agent_slides() -> None:
    """Along what its own memory has seen."""
    model = small()
    belief = model.remember(drawn_walk(3))
    clear = rocks(3)
    belief = replace(belief, memory=model.recall(belief.memory).but(facts={"clearance": clear}))
    actions = torch.tensor([0, 3, 4])
    moved = model.predict(belief, actions)
    for row in range(3):
        s, u = model.transition(belief.mean[row], belief.displacement[row], actions[row])
        alone = SpatialMemory(torch.zeros(1, 3), torch.ones(1, 3), {}, facts={"clearance": clear[row]})
        expected = slide(belief.mean[row], s, u, stops(alone, model.transition.top_speed))
        torch.testing.assert_close((moved.mean[row], moved.displacement[row]), expected, atol=1e-5, rtol=1e-4)
    free = model.free(belief)
    for row, action in itertools.product(range(3), range(5)):
        u = model.predict(belief, torch.full((3,), action)).displacement[row]
        assert bool(free[row, action]) == (float(u.norm()) > 0.5 * model.step_length)


def test_real_steps_are_not_stopped_by_what_is_imagined() -> None:
    """The world says what is in the way, not the memory."""
    model = small()
    belief = model.remember(drawn_walk(2))
    recalled = model.recall(belief.memory)
    stuck = replace(
        belief, memory=recalled.but(facts=recalled.facts | {"clearance": (CELL * torch.arange(CELLS) - 99).expand(2, CELLS, CELLS)})
    )
    action, frame = torch.tensor([0, 1]), drawn_walk(2).frames[:, 0]
    for real in (model.observe(stuck, action, frame), model.infer(stuck, action, frame)):
        torch.testing.assert_close(real.mean, model.transition(belief.mean, belief.displacement, action)[0])
    assert (model.predict(stuck, action).mean - model.predict(belief, action).mean)[:, 0].min() > 1


# ---------------------------------------------------------------- what the memory shows


@pytest.mark.parametrize(("law", "prior"), KINDS)
@pytest.mark.parametrize("batch", [(), (2,), (2, 2)])
def test_what_is_shown_is_of_each_memory_and_state_alone(law: str, prior: str, batch: tuple[int, ...]) -> None:
    model = small(law, prior)
    memory = model.remember(drawn_walk(*batch)).memory
    for queries in ((), (4,)):
        s = torch.randn(*batch, *queries, 3, generator=draws(3))
        mixture, canvas = model.expect(s, memory)
        frames = model.decode(s, memory)
        assert frames.shape == (*batch, *queries, *FRAME)
        assert mixture.mean.shape == (*batch, *queries, 1, 6)
        assert torch.equal(model.prior(s, memory).mean, mixture.mean)
        for at in itertools.product(*map(range, (*batch, *queries))):
            alone = memory
            for row in at[: len(batch)]:
                alone = SpatialMemory(
                    alone.s_mean[row], alone.s_variance[row], {n: x[row] for n, x in alone.values.items()}, alone.count[row]
                )
            one, shown = model.expect(s[at], alone)
            torch.testing.assert_close(mixture.mean[at], one.mean, atol=2e-3, rtol=2e-3)
            torch.testing.assert_close(mixture.variance[at], one.variance, atol=2e-3, rtol=2e-3)
            if canvas is not None:
                torch.testing.assert_close(canvas[at], shown, atol=1e-3, rtol=1e-3)
            assert (frames[at].int() - model.decode(s[at], alone).int()).abs().max() <= 1


def test_a_canvas_and_what_it_leaves_open() -> None:
    """p(z | s, M) is around the encoding of the canvas; where z is expected, the frame is the canvas itself, and that is decoded."""
    model = small()
    memory, s = model.remember(drawn_walk(2)).memory, torch.randn(2, 4, 3, generator=draws(3))
    mixture, canvas = model.expect(s, memory)
    assert canvas is not None
    torch.testing.assert_close(mixture.mean[..., 0, :], model.encoder(canvas)[0])
    torch.testing.assert_close(model.generate(mixture.heaviest(), canvas), canvas)
    assert torch.equal(model.decode(s, memory), x_to_frames(canvas))
    z = torch.randn(2, 4, 6, generator=draws(4))
    expected = canvas + model.decoder(z) - model.decoder(model.encoder(canvas)[0])
    torch.testing.assert_close(model.generate(z, canvas), expected)
    assert torch.equal(model.generate(z), model.decoder(z))


def test_the_papers_prior_is_read_and_decoded() -> None:
    """The K nearest by phi, combined, decoded; no canvas, and nothing to recall."""
    for learned in (False, True):
        model = small(prior="combined", learned_metric=learned)
        memory, s = model.remember(drawn_walk(2)).memory, torch.randn(2, 4, 3, generator=draws(3))
        assert model.recall(memory) is memory
        mixture, canvas = model.expect(s, memory)
        assert canvas is None
        assert model.combined is not None
        weight = model.combined.metric.weight if learned else torch.eye(4)
        for row, q in itertools.product(range(2), range(4)):
            mapped = [weight @ (phi(key) - phi(s[row, q])) for key in memory.s_mean[row]]
            near = sorted((float(x.norm()), i) for i, x in enumerate(mapped))[:3]
            found = memory.read(s, 3, model.combined.metric)
            assert found.index[row, q].tolist() == [i for _, i in near]
        one = model.combined(memory.read(s, 3, model.combined.metric), s)
        torch.testing.assert_close(mixture.mean, one.mean)
        assert torch.equal(model.decode(s, memory), x_to_frames(model.decoder(one.mean[..., 0, :])))
    with pytest.raises(ValueError, match="K = 3 neighbours were asked of a memory of 1 entries"):
        model.decode(torch.zeros(2, 3), model.initial(drawn_walk(2).frames[:, 0]).memory)


@pytest.mark.parametrize("name", ["labyrinth", "labyrinth-paper"])
def test_a_halved_model_shows_nearly_the_same(name: str) -> None:
    """From the same states; the model that it is a copy of stays as it is."""
    model = GTMSM.load(name)
    signature, halved = model.fingerprint(), model.halved()
    assert model.fingerprint() == signature != halved.fingerprint()
    walk = drawn_walk(2, steps=12)
    walk = replace(walk, frames=torch.randint(256, (2, 12, 4, 4, 3), generator=draws()).to(torch.uint8))
    walk = replace(walk, frames=walk.frames.repeat_interleave(8, 2).repeat_interleave(8, 3), actions=walk.actions % 8)
    plan = torch.randint(8, (2, 6), generator=draws(1))
    dreams, shown = [], []
    for one in (model, halved):
        belief = one.remember(walk)
        dreams.append(one.imagine(replace(belief, memory=one.recall(belief.memory)), plan))  # stopped by what was seen
        shown.append(one.decode(dreams[-1].mean, dreams[-1].memory).float())
    assert torch.equal(dreams[0].mean, dreams[1].mean)
    wrong = (shown[0] - shown[1]).abs()
    assert 0 < wrong.mean() < 2


def test_memories_are_recalled_once_for_many_reads() -> None:
    model = small()
    memory, s = model.remember(drawn_walk(2)).memory, torch.randn(2, 4, 3, generator=draws(3))
    recalled = model.recall(memory)
    assert model.recall(recalled) is recalled
    assert torch.equal(model.decode(s, memory), model.decode(s, recalled))
    assert {"view", "depth"} <= recalled.values.keys()
    assert {"plan", "clearance", "model"} == recalled.facts.keys()


def test_of_no_queries_and_no_memories_nothing_is_decoded() -> None:
    model = small()
    memory = model.remember(drawn_walk(2)).memory
    none = memory[torch.zeros(0, dtype=torch.int64)]
    frame = model.frame_shape
    for use in (model.recall, lambda memory: memory):
        assert model.decode(torch.zeros(2, 0, 3), use(memory)).shape == (2, 0, *frame)
        assert model.decode(torch.zeros(2, 0, 4, 3), use(memory)).shape == (2, 0, 4, *frame)
        assert model.decode(torch.zeros(0, 3), use(none)).shape == (0, *frame)
        assert model.prior(torch.zeros(0, 4, 3), use(none)).mean.shape[:2] == (0, 4)
    nobody = Belief(*torch.zeros(3, 0, 3), model.recall(none))
    frames = torch.zeros(0, *frame, dtype=torch.uint8)
    assert model.observe(nobody, torch.zeros(0, dtype=torch.int64), frames).mean.shape == (0, 3)


def test_a_memory_that_was_recalled_before_walls_were_told_so_is_recalled_again() -> None:
    model = small()
    recalled = model.recall(model.remember(drawn_walk(2)).memory)
    older = recalled.but(facts={name: fact for name, fact in recalled.facts.items() if name != "clearance"} | {"blocked": rocks(2) > 0})
    assert torch.equal(model.recall(older).facts["clearance"], recalled.facts["clearance"])
    assert model.recall(recalled) is recalled


def test_an_empty_memory_is_refused() -> None:
    model = small()
    memory = model.remember(drawn_walk(2)).memory
    nothing = SpatialMemory(memory.s_mean, memory.s_variance, memory.values, torch.tensor([9, 0]))
    for use in (model.decode, model.prior):
        with pytest.raises(ValueError, match=r"The memory is empty\. Walk"):
            use(torch.zeros(2, 3), nothing)


def test_places_differ_in_place_or_heading_and_know_what_stands() -> None:
    """Of a walk there and back: each pose once. Their plan is what is drawn."""
    model = small("rotation")
    model.transition.W_a.copy_(torch.tensor([[0.5, -0.5, 0, 0, 0], [0, 0, 0.5, -0.5, 0], [0, 0, 0, 0, math.pi / 2]]))
    frames = drawn_walk(steps=11).frames
    walk = Walk(frames, torch.tensor([0, 0, 1, 1, 4, 4, 4, 4, 2, 3]))  # out and home twice, a full turn, aside and home
    memory = model.remember(walk).memory
    places = model.places(memory)
    assert memory.s_mean.shape == (11, 3)
    expected = torch.tensor([[0, 0, 0], [0.5, 0, 0], [1, 0, 0], [0, 0, 0.5], [0, 0, 1], [0, 0, 1.5], [0, 0.5, 2]]) * torch.tensor(
        [1, 1, math.pi]
    )
    torch.testing.assert_close(places.s_mean[: int(places.count)], expected * torch.tensor([1, 1, 1.0]), atol=1e-5, rtol=1e-4)
    assert torch.equal(places.values["frame"][:4], frames[[0, 1, 2, 5]])
    assert torch.equal(model.places(places).s_mean, places.s_mean)
    assert model.places(places).facts["plan"] is places.facts["plan"]
    assert torch.equal(places.facts["plan"], model.recall(memory.distinct(0.5 * model.step_length, at_least=3)).facts["plan"])
    drawn = model.obstacle_states(places)
    assert torch.equal(drawn[:, :2], standing(places.facts["plan"]))
    assert drawn.shape[1] == 3
    assert not model.obstacle_states(memory).numel()


def test_places_are_found_in_parts_between_which_others_work() -> None:
    """Stereo of each second entry, 16 at once, twice; the small model's moves are so long that most places of the walk are distinct."""
    model = small("rotation")
    memory = model.remember(drawn_walk(steps=160)).memory
    distinct = memory.distinct(0.5 * model.step_length, at_least=3).s_mean.shape[0]
    parts = sum(1 for _ in model.finding_places(memory))
    assert parts == 2 * math.ceil(distinct / 2 / 16) > 2
    found, expected = model.places(memory), model.projected.recall(memory.distinct(0.5 * model.step_length, at_least=3))
    assert torch.equal(found.facts["plan"], expected.facts["plan"])


# ---------------------------------------------------------------- units


def test_states_as_agents_are_told_them() -> None:
    """Places in steps, headings as a direction; and back again, headings within half a turn."""
    model, s = small(), 5 * torch.randn(2, 7, 3, generator=draws())
    told = model.in_steps(s)
    assert told.shape == (2, 7, 4)
    torch.testing.assert_close(told[..., :2] * model.step_length, s[..., :2])
    torch.testing.assert_close(told[..., 2:], torch.stack([s[..., 2].cos(), s[..., 2].sin()], dim=-1))
    back = model.from_steps(told)
    torch.testing.assert_close(back[..., :2], s[..., :2])
    torch.testing.assert_close(phi(back), phi(s), atol=1e-5, rtol=1e-5)
    assert (back[..., 2].abs() <= math.pi + 1e-6).all()
    plane = exact_model()
    plane.transition.W_a.mul_(3)
    place = torch.tensor([[6.0, -3.0]])
    assert plane.in_steps(place).tolist() == [[2.0, -1.0]]
    torch.testing.assert_close(plane.from_steps(plane.in_steps(place)), place)


def test_the_turn_of_a_step() -> None:
    """In radians as the law makes it of an action, friction and saturation included; in the plane there is none."""
    model = small()
    model.transition = exact_walking()
    assert model.turn_length == pytest.approx(math.radians(8.448), rel=1e-4)
    model.transition = exact_rotation()
    assert model.turn_length == pytest.approx(math.radians(9.3), rel=1e-4)
    assert exact_model().turn_length == math.inf


def test_maps_show_east_to_the_right_and_north_up() -> None:
    """Down and right of a state: x leads right, y up, headings nowhere."""
    assert (torch.tensor([2.0, 3.0, 1.0]) @ small().axes).tolist() == [-3.0, 2.0]
    assert exact_model().axes is None
    views = exact_model(prior="views")
    assert views.views is not None
    assert views.axes is views.views.A


def test_novelty_counts_turns_as_steps() -> None:
    model = small("rotation")
    model.transition = exact_rotation()
    belief = model.remember(drawn_walk(steps=1))
    for turn, steps in ((9.3, 1.0), (18.6, 2.0), (180, 2 / (2 * math.sin(math.radians(4.65))))):
        found = model.novelty(torch.tensor([0, 0, math.radians(turn)]), belief.memory)
        assert float(found) == pytest.approx(steps, rel=0.01)


# ---------------------------------------------------------------- worlds that are known


def walk_of(world: str, steps: int, seed: int, policy: Any = None) -> Walk:
    pytest.importorskip("numba")
    return record(gym.make(world, task=None), steps, np.random.default_rng(seed), seed, policy)


def labyrinth(law: torch.nn.Module, K: int = 8) -> GTMSM:
    """A model that has learned nothing but the law."""
    model = GTMSM((32, 32, 3), 8, state_size=3, law="walking", prior="views", camera=CAMERA, K=K, z_size=8).requires_grad_(False).eval()
    model.transition = law  # type: ignore[assignment]
    return model


def unhidden(memory: SpatialMemory) -> SpatialMemory:
    """A recalled memory whose depths, of a plan by networks that have learned nothing, hide nothing."""
    return memory.but(memory.values | {"depth": torch.full_like(memory.values["depth"], 9.0)})


def test_headings_that_were_seen_are_shown_as_they_were_by_a_turning_agent() -> None:
    """Byte for byte: with one view a pose is covered by its own, which no depth changes. Between headings it is better than a copy."""
    walk = walk_of("GTMSM-LabyrinthRotate-v0", 60, 0, lambda: 4)
    model = labyrinth(exact_rotation(), K=1)
    belief = model.remember(walk)
    assert walk.poses is not None
    torch.testing.assert_close(belief.memory.s_mean[:, 2].cos(), (walk.poses[:, 2] - walk.poses[0, 2]).cos(), atol=1e-4, rtol=0)
    values = {name: x[:39:2] for name, x in belief.memory.values.items()}
    memory = unhidden(model.recall(SpatialMemory(belief.memory.s_mean[:39:2], belief.memory.s_variance[:39:2], values)))
    assert torch.equal(model.decode(memory.s_mean, memory), walk.frames[:39:2])
    unseen, true = belief.memory.s_mean[1:38:2], frames_to_x(walk.frames[1:38:2])
    shown, copied = (frames_to_x(frames) for frames in (model.decode(unseen, memory), walk.frames[0:37:2]))
    assert psnr(shown, true) > psnr(copied, true) + 2
    wrong = frames_to_x(model.decode(unseen * torch.tensor([1, 1, -1.0]), memory))
    assert psnr(shown, true) > psnr(wrong, true) + 5


def test_a_walker_remembers_where_it_was_and_finds_it_again() -> None:
    """Poses as seen from the first one, frames where they were seen: with one view each pose shows its own frame."""
    walk = walk_of("GTMSM-Labyrinth-v0", 61, 11, iter(np.random.default_rng(0).integers(8, size=60)).__next__)
    assert walk.poses is not None
    assert walk.displacements is not None
    model = labyrinth(exact_walking(), K=1)
    belief = model.remember(walk)
    assert not walk.displacements[0].any()
    torch.testing.assert_close(model.filter(walk.actions)[2], walk.displacements, atol=1e-4, rtol=1e-3)
    x, y, heading = walk.poses[0].tolist()
    for s, pose in zip(belief.memory.s_mean.tolist(), walk.poses.tolist(), strict=True):
        back = (
            (pose[0] - x) * math.cos(heading) + (pose[1] - y) * math.sin(heading),
            (pose[1] - y) * math.cos(heading) - (pose[0] - x) * math.sin(heading),
        )
        assert s[:2] == pytest.approx(back, abs=1e-3)
        assert math.cos(s[2] - pose[2] + heading) > 1 - 1e-5
    memory = unhidden(model.recall(belief.memory))
    assert torch.equal(model.decode(memory.s_mean, memory), walk.frames)


def test_imagined_agents_stop_at_the_walls_that_were_seen() -> None:
    """On the plan of true depths: whoever walks on for long stays in the room, and does not stop before its wall."""
    from test_floorplan import true_plan

    room = KnownRoom()
    model, poses = labyrinth(exact_walking()), room.poses(150)
    clear = clearance(something(true_plan(room, poses)))[0]
    memory = SpatialMemory(poses, torch.ones_like(poses), {}, facts={"clearance": clear})
    start = poses[[room.clearance(*pose[:2]) > 0.35 for pose in poses]][:12]
    belief = Belief(start, torch.zeros_like(start), torch.zeros_like(start), memory)
    states = model.imagine(belief, torch.zeros(12, 60, dtype=torch.int64)).mean
    clearances = torch.tensor([[room.clearance(*s[:2]) for s in states_] for states_ in states])
    assert (clearances > 0.2 - 2 * CELL).all()  # its body, less a cell of the plan and one of its depths
    assert (states[:, -1] - states[:, -10]).norm(dim=-1).median() < 0.02  # most have come to a stop
    assert (clearances[:, -1] < 0.2 + 4 * CELL).all()  # at a wall
    free = model.imagine(replace(belief, memory=memory.but(facts={})), torch.zeros(12, 60, dtype=torch.int64)).mean
    assert min(room.clearance(*s[:2]) for s in free[:, -1]) < 0


# ---------------------------------------------------------------- the ELBO


def test_the_elbo_of_the_paper_is_section_3_4() -> None:
    """Step by step with torch.distributions, on the same noise."""
    model, tau, T, B = small(prior="combined"), 6, 9, 2
    assert model.combined is not None
    walk = drawn_walk(B)
    index = torch.tensor([[0, 1, 2, 1, 0, 3, 4, 2, 5], [0, 0, 1, 2, 3, 1, 0, 4, 4]])
    frames = walk.frames[:, :6]
    elbo = model(frames, index, walk.actions, tau, generator=draws(7))
    same = draws(7)
    noise_s, noise_z = torch.empty(B, T - tau, 3).normal_(generator=same), torch.empty(B, T - tau, 6).normal_(generator=same)
    states = model.filter(walk.actions)[0]
    log_likelihoods, kls = [], []
    for b, t in itertools.product(range(B), range(tau, T)):
        q = [Independent(Normal(mean, variance.sqrt()), 1) for mean, variance in zip(*model.encode(frames[b, index[b]]), strict=True)]
        s = states[b, t] + math.sqrt((t + 1) * 0.05**2) * noise_s[b, t - tau]
        values = {"z_mean": torch.stack([q[i].mean for i in range(tau)]), "z_variance": torch.stack([q[i].variance for i in range(tau)])}
        one = model.combined(SpatialMemory(states[b, :tau], torch.ones(tau, 3), values).read(s, 3), s)
        prior = Independent(Normal(one.mean[0], one.variance[0].sqrt()), 1)
        z = q[t].mean + q[t].variance.sqrt() * noise_z[b, t - tau]
        kls.append(q[t].log_prob(z) - prior.log_prob(z))
        log_likelihoods.append(Independent(Normal(model.decoder(z), 0.2), 3).log_prob(frames_to_x(frames[b, index[b, t]])))
    torch.testing.assert_close(elbo.log_likelihood, torch.stack(log_likelihoods).mean(), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(elbo.kl, torch.stack(kls).mean(), rtol=1e-4, atol=1e-3)


def test_the_elbo_of_projected_views_has_their_canvas() -> None:
    """p(x | z, s, M) and p(z | s, M) share it; what is remembered are the frames of the steps before."""
    model, tau, T, B = small(), 6, 9, 2
    walk, index = drawn_walk(B), torch.tensor([[0, 1, 2, 1, 0, 3, 4, 2, 5], [0, 0, 1, 2, 3, 1, 0, 4, 4]])
    frames = walk.frames[:, :6]
    elbo = model(frames, index, walk.actions, tau, generator=draws(7))
    same = draws(7)
    noise_s, noise_z = torch.empty(B, T - tau, 3).normal_(generator=same), torch.empty(B, T - tau, 6).normal_(generator=same)
    states, variance, _ = model.filter(walk.actions)
    log_likelihoods, kls = [], []
    for b in range(B):
        past = Walk(frames[b, index[b, :tau]], walk.actions[b, : tau - 1])
        memory = model.remember(past).memory
        s = states[b, tau:] + variance[b, tau:].sqrt() * noise_s[b]
        for t in range(T - tau):
            mixture, canvas = model.expect(s[t], memory)
            assert canvas is not None
            x = frames[b, index[b, tau + t]]
            q_mean, q_variance = model.encode(x)
            q, prior = (Independent(Normal(m, v.sqrt()), 1) for m, v in ((q_mean, q_variance), (mixture.mean[0], mixture.variance[0])))
            z = q_mean + q_variance.sqrt() * noise_z[b, t]
            kls.append(q.log_prob(z) - prior.log_prob(z))
            shown = canvas + model.decoder(z) - model.decoder(model.encoder(canvas)[0])
            log_likelihoods.append(Independent(Normal(shown, 0.2), 3).log_prob(frames_to_x(x)))
    torch.testing.assert_close(elbo.log_likelihood, torch.stack(log_likelihoods).mean(), rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(elbo.kl, torch.stack(kls).mean(), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(("law", "prior"), KINDS)
def test_gradients_of_the_elbo_reach_every_part(law: str, prior: str) -> None:
    """But stereo, which learns by an objective of its own, and offsets that cancel: in softmaxes, and of what is added to a canvas."""
    model, walk = small(law, prior, learned_metric=prior == "combined").requires_grad_(True), drawn_walk(2, steps=12)
    elbo = model(walk.frames, torch.arange(12).expand(2, 12), walk.actions, 8, generator=draws())
    (elbo.kl - elbo.log_likelihood).backward()
    assert torch.isfinite(torch.stack(elbo)).all()
    cancel = ["projected.sight.net.6.bias", "projected.weigh.4.bias"]
    cancel += ["decoder.net.9.bias"] if prior == "views" else []
    for name, parameter in model.named_parameters():
        if name.startswith("projected.stereo"):
            assert parameter.grad is None
        elif name not in cancel:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.any(), name


# ---------------------------------------------------------------- disk


@pytest.mark.parametrize(("law", "prior"), KINDS)
def test_a_saved_model_is_the_same_model(tmp_path: Path, law: str, prior: str) -> None:
    """And so is a memory that was recalled, with its plan."""
    model = small(law, prior, learned_metric=prior == "combined", world={"id": "World-v0", "kwargs": {}, "start": "anywhere"})
    model.save(tmp_path / "model")
    again, walk, s = GTMSM.load(tmp_path / "model"), drawn_walk(2), torch.randn(2, 4, 3, generator=draws())
    assert json.dumps(again.config) == json.dumps(model.config)
    assert again.fingerprint() == model.fingerprint()
    assert (again.step_length, again.turn_length, again.K) == (model.step_length, model.turn_length, model.K)
    belief = again.remember(walk)
    close(belief, model.remember(walk), atol=0)
    assert torch.equal(again.decode(s, belief.memory), model.decode(s, belief.memory))
    recalled = model.places(belief.memory)
    recalled.save(tmp_path / "memory", model.fingerprint())
    read = SpatialMemory.load(tmp_path / "memory", again.fingerprint())
    assert torch.equal(again.decode(s, read), model.decode(s, recalled))
    actions = torch.randint(5, (2, 7), generator=draws())
    imagined = [m.imagine(replace(belief, memory=memory), actions).mean for m, memory in ((again, read), (model, recalled))]
    assert torch.equal(*imagined)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"law": "rotation"}, "unexpected .*transition.beta"),
        ({"law": "walls"}, "holds the arguments of GTMSM"),
        ({"camera": None}, "holds the arguments of GTMSM.*camera"),
        ({"camera": {"lens": 3}}, "holds the arguments of GTMSM.*lens"),
        ({"prior": "combined", "camera": None}, r"misses \['combined"),
    ],
)
def test_checkpoints_of_another_law_or_prior(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    small(*PROJECTED).save(tmp_path / "model")
    tensors, config = load_checkpoint(tmp_path / "model")
    save_checkpoint(tmp_path / "model", tensors, config | {"model": config["model"] | change})
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        GTMSM.load(tmp_path / "model")
