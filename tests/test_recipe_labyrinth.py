"""The labyrinth's recipe in small: laws are found from what they may read, each stage teaches its part, and every draw is repeated."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from gtmsm_env import data, recipe_labyrinth, recipe_quake, train
from gtmsm_env.__main__ import parser
from gtmsm_env.checkpoint import load_checkpoint
from gtmsm_env.contacts import FELT
from gtmsm_env.data import Recordings, Walks, concatenate, record_walks
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.model import GTMSM
from gtmsm_env.perspective import FAR, Camera, carried
from gtmsm_env.recipe import Stage
from gtmsm_env.recipe_labyrinth import (
    AGENTS,
    CAMERA,
    ROOMS,
    ROTATING,
    WALKING,
    WHIMS,
    Agent,
    LabyrinthTrainer,
    due,
    heedless,
    met_by,
    new_model,
    policy,
    stages,
)
from gtmsm_env.recipe_quake import QuakeTrainer
from gtmsm_env.transitions import HardWalking
from gtmsm_env.types import phi

pytest.importorskip("numba")

from exact import exact_hard_walking, exact_walker

from gtmsm_env.envs.first_person import COMMANDS
from gtmsm_env.envs.labyrinth import LabyrinthVectorEnv
from gtmsm_env.envs.labyrinth_physics import KEPT, PUSH

SPEED, TURN, ROTATED = 0.15, math.radians(8.448), math.radians(9.3)
STEPS, SIZE = 30, 8  # frames of a walk, and pixels a side of each
SHORT = {agent: replace(agent, walks=8, steps=STEPS, tau=14, horizon=6, far=16, spans=((1, 2), (1, 6))) for agent in AGENTS.values()}


def gathered(agent: Agent, rows: int = 8, whims: float = 0.3, size: int = SIZE) -> Walks:
    """Short walks of small frames, with many whims, for all eight actions to be done."""
    kwargs = {"split": "train", "task": None, "frame_size": size}
    parts = record_walks(
        agent.world,
        kwargs,
        rows,
        STEPS,
        seed=0,
        chunk=rows,
        displacements=agent is WALKING,
        policy=lambda world, generator: policy(world, generator, whims),
    )
    return concatenate(list(parts))


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the walks that stages record themselves."""
    monkeypatch.setattr(recipe_labyrinth, "MORE", 8)
    monkeypatch.setattr(recipe_labyrinth, "HEEDLESS", 8)
    monkeypatch.setattr(recipe_labyrinth, "FRESH", 4)
    monkeypatch.setattr(recipe_labyrinth, "ASKED", 24)  # so that an iteration asks for as many
    monkeypatch.setattr(data, "RECORDERS", 0)  # this process records them itself
    monkeypatch.setattr(recipe_labyrinth, "record_walks", lambda *args, **kwargs: record_walks(*args, chunk=8, **kwargs))


@pytest.fixture(scope="module")
def walks() -> dict[Agent, Walks]:
    return {agent: gathered(agent) for agent in AGENTS.values()}


def small_model(size: str, seed: int, agent: Agent, pixels: int = SIZE) -> GTMSM:
    """As the recipe's, of small frames and encodings; ours has the exact law, where that is taken from another model."""
    torch.manual_seed(seed)
    world = {"id": agent.world, "kwargs": {"frame_size": SIZE}, "start": "anywhere"}
    shared: dict[str, Any] = {"state_size": 3, "z_size": 8, "law": agent.law, "sigma_x": 0.05, "world": world}
    if size == "paper":
        return GTMSM((pixels, pixels, 3), 8, prior="combined", K=4, **shared)
    model = GTMSM((pixels, pixels, 3), 8, prior="views", K=4, camera=CAMERA, contacts=agent is WALKING, **shared)
    if agent is WALKING:
        model.transition.load_state_dict(exact_walker().transition.state_dict())
    return model


def short(stage: Stage, iterations: int = 3) -> Stage:
    return replace(stage, iterations=iterations, tau=min(stage.tau, 14), ahead=min(stage.ahead, 8))


EVERY = [  # each kind of stage of each agent once
    pytest.param(size, agent, stage, id=f"{name}-{size}-{stage.name}")
    for name, agent in AGENTS.items()
    for size in ("paper", "default")
    for stage in {stage.name: stage for stage in stages(size, agent)}.values()
    if size == "paper" or stage.name != "turns"
]


# ---------------------------------------------------------------- stages and models


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> GTMSM:
    """The paper's model, in the place of the one that ships."""
    model = new_model("paper", 7)
    monkeypatch.setattr(GTMSM, "load", {"labyrinth-paper": model}.__getitem__)
    return model


@pytest.mark.parametrize("agent", AGENTS.values(), ids=AGENTS)
@pytest.mark.parametrize("size", ["paper", "default"])
def test_stages_teach_all_that_is_not_taken_from_another_model(base: GTMSM, walks: dict[Agent, Walks], size: str, agent: Agent) -> None:
    model = new_model(size, 0, agent)
    trainer = LabyrinthTrainer(model, walks[agent], stages(size, agent), 0)
    taught: set[int] = set()
    for stage in trainer.stages:
        assert stage.name in trainer.losses()
        assert stage.tau + stage.ahead <= agent.steps
        for part in stage.rates:
            assert trainer.parts()[part]
            taught |= {id(parameter) for parameter in trainer.parts()[part]}
    rests = {name.partition(".")[0] for name, parameter in model.named_parameters() if id(parameter) not in taught}
    if size == "paper":
        assert rests == set()
    elif agent is WALKING:
        assert rests == {"encoder", "decoder", "transition"}
    else:  # depth is of no account where the agent only turns
        assert rests == {"encoder", "decoder", "projected"}


@pytest.mark.parametrize("agent", AGENTS.values(), ids=AGENTS)
@pytest.mark.parametrize("size", ["paper", "default"])
def test_new_models_are_of_their_seed_and_share_what_is_learned_once(base: GTMSM, size: str, agent: Agent) -> None:
    one, same, other = (new_model(size, seed, agent) for seed in (3, 3, 4))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    assert one.world == {"id": agent.world, "kwargs": {}, "start": "anywhere"}
    assert (one.combined is None, one.projected is None) == (size == "default", size == "paper")
    shared = {
        name.partition(".")[0]
        for name, x in one.state_dict().items()
        if name in base.state_dict() and torch.equal(x, base.state_dict()[name])
    }
    alike = {"encoder", "decoder"} | ({"transition"} if agent is WALKING else set())
    if (size, agent) == ("paper", WALKING):
        assert not torch.equal(one.encoder.net[0].weight, base.encoder.net[0].weight)
    else:
        assert alike <= shared
        for part in alike:
            mine, theirs = (getattr(model, part).state_dict() for model in (one, base))
            assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_the_walker_of_walks_has_whims() -> None:
    for speed, name in ((0.15, "Scavenger"), (0.0, "Turner")):
        walker = policy(LabyrinthVectorEnv(2, speed=speed, frame_size=4), np.random.default_rng(0))
        assert (type(walker).__name__, walker.whims) == (name, WHIMS)


# ---------------------------------------------------------------- every stage


def trained(trainer: LabyrinthTrainer, iterations: int, moments: Any = None) -> tuple[dict[str, Tensor], Any]:
    """The weights after so many steps more, and Adam's moments."""
    if trainer.iteration == 0:
        trainer.begin()
    optimizer = trainer.optimizer()
    if moments:
        optimizer.load_state_dict(moments)
    for _ in range(iterations):
        assert np.isfinite(trainer.step(optimizer))
    return {name: x.clone() for name, x in trainer.model.state_dict().items()}, optimizer.state_dict()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(x, b[name]) for name, x in a.items())


@pytest.mark.parametrize(("size", "agent", "stage"), EVERY)
def test_a_stage_teaches_its_part_and_repeats_its_draws(size: str, agent: Agent, stage: Stage, walks: dict[Agent, Walks]) -> None:
    """Alike: another trainer, one that goes on from the first iteration, and, but for the law, one whose targets are no numbers."""
    stage = short(stage)

    def trainer(seed: int = 0, iteration: int = 0, of: Walks = walks[agent]) -> LabyrinthTrainer:
        return LabyrinthTrainer(small_model(size, 5, agent), of, [stage], seed, iteration=iteration)

    before = {name: x.clone() for name, x in trainer().model.state_dict().items()}
    whole, _ = trained(first := trainer(), 3)
    parts = {id(parameter) for part in stage.rates for parameter in first.parts()[part]}
    free = ("transition.W_a",) if stage.name == "turns" else ()  # set once
    for name, parameter in first.model.named_parameters():
        if id(parameter) in parts and parameter.numel() > 8:
            assert not torch.equal(whole[name], before[name]), name
        elif id(parameter) not in parts:
            assert torch.equal(whole[name], before[name]) or name.startswith(free), name
    poisoned = walks[agent]
    if poisoned.displacements is not None and stage.name != "law":
        poisoned = replace(poisoned, displacements=poisoned.displacements * torch.nan)
    torch.manual_seed(99)  # of no account
    assert same(trained(trainer(of=poisoned), 3)[0], whole)
    weights, moments = trained(trainer(), 1)
    resumed = trainer(iteration=1)
    resumed.model.load_state_dict(weights)
    assert same(trained(resumed, 2, moments)[0], whole)
    assert not same(trained(trainer(seed=1), 3)[0], whole)


@pytest.mark.parametrize(("size", "agent", "stage"), EVERY)
def test_larger_batches(size: str, agent: Agent, stage: Stage, walks: dict[Agent, Walks]) -> None:
    """Of each draw as many more, and a step of another size; but of the law, which has enough."""
    drawn: list[int] = []

    class Counted(np.random.Generator):
        def integers(self, *args: Any, **kwargs: Any) -> Any:
            numbers = super().integers(*args, **kwargs)
            drawn.append(np.size(numbers))
            return numbers

    counts = []
    for scale in (1, 3):
        trainer = LabyrinthTrainer(small_model(size, 5, agent), walks[agent], [short(stage)], 0, scale=scale)
        trained(trainer, 1)
        drawn.clear()
        loss = trainer.losses()[stage.name](trainer.stages[0], Counted(np.random.PCG64(0)), torch.Generator().manual_seed(0))
        assert loss.isfinite()
        counts.append(max(drawn))
    assert counts[1] == counts[0] * (1 if stage.name == "law" else 3)


@pytest.mark.parametrize(("size", "agent", "stage"), [case for case in EVERY if case.values[2].name != "turns"])
def test_a_stage_can_lower_its_loss(size: str, agent: Agent, stage: Stage, walks: dict[Agent, Walks]) -> None:
    """On one and the same draw."""
    stage = short(stage)
    trainer = LabyrinthTrainer(small_model(size, 0, agent), walks[agent], [stage], 0)
    trainer.half = False  # its rounding hides so little
    optimizer, losses = trainer.optimizer(), []
    for group in optimizer.param_groups:
        group["lr"] = group["rate"] / 32  # Adam takes whole steps at once, and the most probable depth may leap
    for _ in range(12):
        optimizer.zero_grad()
        loss = trainer.losses()[stage.name](stage, np.random.default_rng(0), torch.Generator().manual_seed(0))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("size", "agent", "stage"), [case for case in EVERY if case.values[2].name in LabyrinthTrainer.rough])
def test_what_a_gpu_rounds_hardly_turns_the_gradient(size: str, agent: Agent, stage: Stage, walks: dict[Agent, Walks]) -> None:
    stage = short(stage)
    trainer = LabyrinthTrainer(small_model(size, 0, agent), walks[agent], [stage], 0)
    assert trainer.model.projected is not None
    with torch.no_grad():  # depths that are sure do not leap by rounding
        trainer.model.projected.sight.net[-1].get_parameter("weight").mul_(30)
    parameters = [parameter for group in trainer.optimizer().param_groups for parameter in group["params"]]
    found = []
    for rounded in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
            loss = trainer.losses()[stage.name](stage, np.random.default_rng(0), torch.Generator().manual_seed(0))
        gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
        found.append(torch.cat([gradient.flatten() for gradient in gradients]))
    assert 0.95 < float(torch.cosine_similarity(*found, dim=0)) < 0.999999


# ---------------------------------------------------------------- the law of walking


def test_the_law_loss_by_hand(walks: dict[Agent, Walks]) -> None:
    """The error of each step's displacement, by each axis' own size; none of the exact law, and much of targets a step late."""
    own, stage = walks[WALKING], short(stages("paper")[0])
    trainer = LabyrinthTrainer(small_model("default", 0, WALKING), own, [stage], 0)

    def loss() -> float:
        return float(trainer.law_loss(stage, np.random.default_rng(3), torch.Generator()).detach())

    assert loss() < 1e-6
    with torch.no_grad():
        trainer.model.transition.W_a.mul_(0.8)
    assert own.displacements is not None
    rows = np.random.default_rng(3).integers(len(own), size=64)
    true, scale = own.displacements.double().numpy(), np.square(own.displacements.double().numpy()).mean(axis=(0, 1))
    push, turn = 0.8 * PUSH, math.tanh(0.8 * math.atanh(TURN))
    squares = []
    for row in rows:
        u = np.zeros(2)
        for action, target in zip(own.actions[row, :13].tolist(), true[row], strict=False):
            ahead, left, look = COMMANDS[action]
            u = SPEED * np.tanh(push * np.array([ahead, left]) + KEPT * u / SPEED)
            squares.append(np.square(np.array([*u, turn * look]) - target) / scale)
    assert loss() == pytest.approx(100 * np.mean(squares), rel=1e-4)
    with torch.no_grad():
        trainer.model.transition.W_a.div_(0.8)
    trainer.walks = replace(own, displacements=own.displacements.roll(1, dims=1))
    assert loss() > 10


def test_the_law_of_walking_is_found_from_displacements(walks: dict[Agent, Walks]) -> None:
    """Its poses are nearly true ones after some iterations; what the frames show is of no account."""
    blind = replace(walks[WALKING], frames=torch.zeros_like(walks[WALKING].frames))
    stage = Stage("law", 250, {"law": 2e-2, "friction": 0.1}, 1, falling=True, tau=16)
    trainer = LabyrinthTrainer(small_model("paper", 0, WALKING), blind, [stage], 0)
    assert blind.displacements is not None

    def wrong() -> float:
        with torch.no_grad():
            u = trainer.model.filter(blind.actions)[2][:, 1:]
        assert blind.displacements is not None
        return float((u - blind.displacements).norm() / blind.displacements.norm())

    assert wrong() > 0.8
    trained(trainer, 250)
    assert wrong() < 0.1


# ---------------------------------------------------------------- the law of turning


def test_the_law_of_turning_is_found_from_frames_alone() -> None:
    """No pose, no displacement: what every action turns by, and that it moves nothing. Of frames in another order it finds no turn."""
    own = gathered(ROTATING, rows=4, whims=0.5, size=16)
    assert own.displacements is None
    stage = Stage("turns", 30, {"law": 1e-3}, 1, falling=True, tau=16)
    trainer = LabyrinthTrainer(small_model("paper", 0, ROTATING, pixels=16), own, [stage], 0)
    trainer.begin()
    true = torch.from_numpy(COMMANDS[:, 2] * ROTATED).float()
    found = trainer.model.transition.W_a.detach().clone()
    assert (found[2] - true).abs().max() < 0.0151  # the two angles that are nearest among those tried
    assert not found[:2].any()
    trained_ = trained_from(trainer, 30)
    turning = true != 0
    assert (trained_[2] - true).abs()[turning].max() < 0.006
    assert trained_[:2].abs().max() < 0.05


def test_an_action_that_no_walk_did_turns_nothing(walks: dict[Agent, Walks]) -> None:
    own = walks[ROTATING]
    unseen = replace(own, actions=own.actions.masked_fill(own.actions == 5, 4))
    trainer = LabyrinthTrainer(small_model("paper", 0, ROTATING), unseen, [short(stages("paper", ROTATING)[0])], 0)
    trainer.begin()
    assert (own.actions == 5).any()
    assert not trainer.model.transition.W_a[:, 5].any()
    assert trainer.model.transition.W_a[2].any()


def trained_from(trainer: LabyrinthTrainer, iterations: int) -> Tensor:
    """W_a after more steps of a stage that has begun."""
    optimizer = trainer.optimizer()
    for _ in range(iterations):
        trainer.step(optimizer)
    return trainer.model.transition.W_a.detach()


# ---------------------------------------------------------------- views rotated


def slow_rotated(size: int, pose: tuple[float, float, float]) -> Any:
    """Where each pixel's colour lies in the view, (column, row), by the angle and slope of its ray; 2 units deep."""
    focal, (x, y, turn) = size / 2, pose  # 90 degrees
    at = np.empty((size, size, 2))
    for row in range(size):
        for column in range(size):
            aside, up = (column + 0.5 - size / 2) / focal, (size / 2 - row - 0.5) / focal
            far, angle = 2 * math.hypot(1, aside), turn - math.atan(aside)
            ahead, left = x + far * math.cos(angle), y + far * math.sin(angle)
            at[row, column] = [size / 2 - 0.5 - focal * left / ahead, size / 2 - 0.5 - focal * 2 * up / ahead] if ahead > 0.1 else [-9, -9]
    return at


@pytest.mark.parametrize("pose", [(0.0, 0.0, 0.2), (0.0, 0.0, -0.5), (0.3, 0.0, 0.0), (-0.2, 0.4, 0.3)])
def test_views_are_rotated_as_by_loops(pose: tuple[float, float, float]) -> None:
    """Of a view whose colours are the place of each pixel, colours tell where they were taken from."""
    size = 16
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    view = torch.stack([column, row, row]).float()
    (seen,), (shown,) = carried(Camera(size, **CAMERA), view[None], torch.tensor([pose]), FAR)
    expected = slow_rotated(size, pose)
    inside = (expected >= 0).all(axis=-1) & (expected <= size - 1).all(axis=-1)
    assert inside.sum() > size
    np.testing.assert_allclose(seen[:2].permute(1, 2, 0)[torch.from_numpy(inside)], expected[inside], atol=1e-3)
    margin = np.maximum(-expected, expected - size + 1).max(axis=-1)
    unsure = np.abs(margin - 0.5) < 1e-3
    assert (shown.numpy() == (margin < 0.5))[~unsure].all()


def test_a_rotated_view_is_what_is_seen_after_the_turn() -> None:
    """In a real room, turned left and right by what one step turns, and by more."""
    envs = LabyrinthVectorEnv(4, speed=0.0, split="train", task=None)
    envs.reset(seed=0)
    rows = np.arange(4)
    before = torch.from_numpy(envs.look(rows, envs._pose)).permute(0, 3, 1, 2) / 255
    camera = Camera(32, **CAMERA)
    for turn in (0.16, -0.16, 0.5):
        after = torch.from_numpy(envs.look(rows, envs._pose + np.array([0, 0, turn]))).permute(0, 3, 1, 2) / 255

        def unlike(by: float, after: Tensor = after) -> float:
            seen, shown = carried(camera, before, torch.tensor([0.0, 0.0, float(by)]).expand(4, 3), FAR)
            return float(((seen - after).square().mean(dim=1) * shown).sum() / shown.sum())

        angles = np.linspace(-0.6, 0.6, 61)
        assert angles[np.argmin([unlike(by) for by in angles])] == pytest.approx(turn, abs=0.021)
        assert unlike(turn) < 0.3 * unlike(0)
    same, shown = carried(camera, before, torch.zeros(4, 3), FAR)
    torch.testing.assert_close(same, before, atol=1e-4, rtol=0)
    assert shown.all()


# ---------------------------------------------------------------- of an agent that runs into things


def bumped(rows: int = 8, steps: int = 60, **rules: Any) -> Walks:
    kwargs = {"split": "train", "task": None, "frame_size": SIZE, **rules}
    return concatenate(list(record_walks(WALKING.world, kwargs, rows, steps, seed=2, chunk=rows, displacements=True, policy=heedless)))


def test_what_was_lost_is_what_was_touched() -> None:
    """In the law's own physics, momentum being what was moved: a move lacks something where the world says so, and nowhere else."""
    met = met_by(exact_walker().transition, bumped())  # type: ignore[arg-type]
    env = LabyrinthVectorEnv(8, split="train", task=None, frame_size=SIZE)
    touched = []
    env.reset(seed=int(np.random.default_rng(2).integers(2**31)), options={"phase": "walk"})
    for action in met.walks.actions.numpy().T:
        touched.append(env.step(action)[4]["touched"])
    truth = torch.from_numpy(np.stack(touched, axis=1))
    felt = torch.zeros_like(truth)
    felt[met.steps[0].unbind(dim=1)] = True
    assert truth.float().mean() > 0.02
    assert not (felt & ~truth).any()
    assert felt.sum() > 0.6 * truth.sum()  # other touches cost less than counts
    assert len(met.steps[0]) + len(met.steps[1]) == truth.numel()
    assert met.walks.displacements is not None
    torch.testing.assert_close(met.u[..., :2] - met.lost, met.walks.displacements[..., :2])
    assert (met.lost.norm(dim=-1)[~truth] < 1e-4).all()


def test_contacts_are_asked_of_the_frames_before_and_after_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of those drawn lost something; now and then all is seen in a mirror, and then both agree."""
    model = small_model("default", 0, WALKING).requires_grad_(False)
    walks = bumped()
    stage = Stage("contacts", 1, {"contacts": 1e-3}, 1)
    trainer = LabyrinthTrainer(model, walks, [stage], 0)
    trainer._met = met = met_by(model.transition, walks)  # type: ignore[arg-type]
    monkeypatch.setattr(trainer, "_another_room", lambda rng: trainer._room(mirrored, (0, 1, 2)))
    asked: list[tuple[Tensor, ...]] = []
    monkeypatch.setattr(model.contacts, "loss", lambda *given: asked.append(given) or torch.zeros(()))
    for mirrored in (False, True):  # noqa: B007  the room that is drawn reads it
        trainer.contacts_loss(stage, np.random.default_rng(0), torch.Generator())
    (before, after, u, lost), reflected = asked
    for x, other in zip((before, after), reflected[:2], strict=True):
        assert torch.equal(x.flip(-2), other)
    torch.testing.assert_close(u * torch.tensor([1.0, -1.0, -1.0]), reflected[2])
    torch.testing.assert_close(lost * torch.tensor([1.0, -1.0]), reflected[3])
    felt = lost.norm(dim=-1) > FELT
    assert (felt == (torch.arange(192) < 96)).all()
    seen = [torch.stack([walks.frames[row, walks.index[row, step]] for step in range(60)]) for row in range(8)]
    for i in range(0, 192, 7):
        found = [
            (row, step)
            for row in range(8)
            for step in range(59)
            if torch.equal(seen[row][step], before[i])
            and torch.equal(seen[row][step + 1], after[i])
            and torch.equal(met.u[row, step], u[i])
        ]
        assert found
        assert any(torch.equal(met.lost[at], lost[i]) for at in found)


def test_the_prior_combines_what_any_window_of_a_walk_remembers(walks: dict[Agent, Walks], monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss by hand, a question at a time: the nearest of tau steps in a row, never the step asked for, and the frame it shows."""
    model = small_model("paper", 3, WALKING).requires_grad_(False)
    stage, trainer = Stage("combine", 1, {"combination": 1e-3}, 1, tau=14), None
    trainer = LabyrinthTrainer(model, walks[WALKING], [stage], 0)
    trainer.half = False
    asked: list[Any] = []
    combined = model.combined
    assert combined is not None
    monkeypatch.setattr(combined, "forward", lambda found, s, own=combined.forward: asked.append((found, s)) or own(found, s))
    loss = float(trainer.combine_loss(stage, np.random.default_rng(5), torch.Generator()))
    (found, s), (more, states, _) = asked[0], trainer._resting()
    assert len(more) == 16
    draw = np.random.default_rng(5)
    rows, first, at = draw.integers(len(more), size=384), draw.integers(STEPS - 14 + 1, size=384), draw.integers(STEPS - 14, size=384)
    at = at + 14 * (at >= first)
    mirrored, channels = ROOMS[int(draw.integers(len(ROOMS)))]
    signs = torch.tensor([1.0, -1.0, -1.0]) if mirrored else torch.ones(3)
    total = 0.0
    for i, (row, begin, step) in enumerate(zip(rows.tolist(), first.tolist(), at.tolist(), strict=True)):
        window = range(begin, begin + 14)
        assert step not in window
        place = phi(states[row])
        near = sorted(window, key=lambda k: float((place[k] - place[step]).norm()))[:4]
        torch.testing.assert_close(s[i, 0], states[row, step] * signs)
        torch.testing.assert_close(found.distance[i, 0], (place[near] - place[step]).norm(dim=-1), atol=1e-5, rtol=1e-4)
        x = more.frames[row, more.index[row, step]].float().permute(2, 0, 1)[list(channels)] / 255
        x = x.flip(-1) if mirrored else x
        expected = combined(SpatialMemory(found.s_mean[i], found.s_mean[i], {"z_mean": found.z_mean[i]}).read(s[i], 4), s[i])
        mean, variance = expected.mean[0, 0], expected.variance[0, 0]
        z = model.encoder(x[None])[0][0]
        wrong = (model.decoder(mean[None])[0] - x).square().sum() / (2 * 0.1**2)
        total += float(wrong - 0.1 * Normal(mean, variance.sqrt()).log_prob(z).sum())
    assert loss == pytest.approx(total / 384, rel=2e-3)


def test_the_elbo_of_what_any_window_of_a_walk_remembers(walks: dict[Agent, Walks]) -> None:
    """The loss by hand, a question at a time: the KL, and the likelihood of the frame by its own encoding and by what is imagined."""
    model, own = small_model("paper", 3, WALKING).requires_grad_(False), walks[WALKING]
    stage = Stage("elbo", 1, {"vae": 1e-3, "prior": 1e-3}, 1, tau=14)
    trainer = LabyrinthTrainer(model, own, [stage], 0)
    trainer.half = False
    loss = float(trainer.elbo_loss(stage, np.random.default_rng(5), torch.Generator().manual_seed(1)))
    noise = torch.empty(12, 8, 8).normal_(generator=torch.Generator().manual_seed(1))
    draw = np.random.default_rng(5)
    rows, first = draw.integers(len(own), size=12), draw.integers(STEPS - 14 + 1, size=(12, 1))
    at = draw.integers(STEPS - 14, size=(12, 8))
    at = at + 14 * (at >= first)
    channels, mirrored = draw.permutation(3).tolist(), draw.random() < 0.5
    states = model.filter(own.actions)[0] * torch.tensor([1.0, -1.0, -1.0] if mirrored else [1.0, 1.0, 1.0])
    total = 0.0
    for i, row in enumerate(rows.tolist()):
        x = own.frames[row, own.index[row]].float().permute(0, 3, 1, 2)[:, channels] / 255
        q = [Normal(mean, variance.sqrt()) for mean, variance in zip(*model.encoder(x.flip(-1) if mirrored else x), strict=True)]
        window = slice(begin := int(first[i, 0]), begin + 14)
        memory = SpatialMemory(states[row, window], states[row, window], {"z_mean": torch.stack([z.mean for z in q[window]])})
        for j, step in enumerate(at[i].tolist()):
            assert not window.start <= step < window.stop
            seen, z = (x.flip(-1) if mirrored else x)[step], q[step].mean + q[step].stddev * noise[i, j]
            expected = model.prior(states[row, step], memory)
            shown, imagined = model.decoder(torch.stack([z, expected.mean[0]]))
            kl = q[step].log_prob(z).sum() - Normal(expected.mean[0], expected.variance[0].sqrt()).log_prob(z).sum()
            total += float(kl - Normal(shown, 0.05).log_prob(seen).sum() - Normal(imagined, 0.05).log_prob(seen).sum())
    assert loss == pytest.approx(total / 96, rel=1e-4)


def test_fresh_walks_take_the_place_of_the_oldest(walks: dict[Agent, Walks]) -> None:
    """Part after part, in turn, as their numbers say, with their states; and the same where a training goes on, which records no others."""
    stage = Stage("elbo", 20, {"vae": 1e-3, "prior": 1e-3}, 1, tau=14)

    def trainer(iteration: int, earlier: Sequence[int] = ()) -> LabyrinthTrainer:
        trainer = LabyrinthTrainer(small_model("paper", 3, WALKING), walks[WALKING], [stage], 7)
        for trainer.iteration in (*earlier, iteration):
            trainer._refresh()
        torch.testing.assert_close(trainer._inferred(), trainer.model.filter(trainer.walks.actions)[0])
        return trainer

    untouched = walks[WALKING].actions.clone()
    assert torch.equal(trainer(0).walks.actions, untouched)
    recordings = Recordings("GTMSM-Labyrinth-v0", {"frame_size": SIZE, "split": "train", "task": None}, 4, STEPS, 7, policy)
    read: list[int] = []
    own = Recordings.__getitem__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recordings, "__getitem__", lambda self, part: read.append(part) or own(self, part))
        assert trainer(5)._taken == 5
    assert read == [3, 4]
    for iteration, parts in ((1, (0, None)), (2, (0, 1)), (5, (4, 3)), (6, (4, 5))):
        for earlier in ((), range(iteration)):
            now = trainer(iteration, earlier).walks
            for rows, part in zip((slice(0, 4), slice(4, 8)), parts, strict=True):
                fresh = walks[WALKING].batch(torch.arange(8)[rows], STEPS) if part is None else recordings[part]
                assert torch.equal(now.actions[rows], fresh.actions)
                for frames, index, seen, which in zip(now.frames[rows], now.index[rows], fresh.frames, fresh.index, strict=True):
                    assert torch.equal(frames[index], seen[which])
    assert torch.equal(walks[WALKING].actions, untouched)


def test_larger_batches_are_due_more_walks(walks: dict[Agent, Walks], monkeypatch: pytest.MonkeyPatch) -> None:
    """As many times as many, by which the card counts them: 96 questions an iteration, and 24 a walk of four."""
    stage = Stage("elbo", 4, {"vae": 1e-3, "prior": 1e-3}, 1, tau=14)
    monkeypatch.setattr(Recordings, "__getitem__", lambda self, part: walks[WALKING].batch(torch.arange(self.rows), STEPS))
    for batches, scale in ((1, 1), (2, 1), (1, 3), (2, 3)):
        trainer = LabyrinthTrainer(small_model("paper", 3, WALKING), walks[WALKING], [stage], 7, batches=batches, scale=scale)
        trainer.iteration = 3
        trainer._refresh()
        assert trainer._taken == due(stage, batches * scale) == 3 * batches * scale
        assert recipe_labyrinth.beside([stage, stage], batches * scale) == 2 * 4 * trainer._taken
    for own in (trainer.begin, trainer.end):
        trainer._refresh()
        assert trainer._fresh
        own()
        assert trainer._fresh is None


def test_few_walks_are_replaced_all_at_once(walks: dict[Agent, Walks], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_labyrinth, "FRESH", 64)
    stage = Stage("elbo", 100, {"vae": 1e-3, "prior": 1e-3}, 1, tau=14)
    trainer = LabyrinthTrainer(small_model("paper", 3, WALKING), walks[WALKING], [stage], 7)
    for trainer.iteration in (0, 40):
        trainer._refresh()
    assert trainer._taken == 2
    recordings = Recordings("GTMSM-Labyrinth-v0", {"frame_size": SIZE, "split": "train", "task": None}, 8, STEPS, 7, policy)
    assert torch.equal(trainer.walks.actions, recordings[1].actions)


def test_contacts_are_learned_from_displacements() -> None:
    """What a short training makes of contacts: likelier than before in rooms of other walks."""
    model = small_model("default", 0, WALKING)
    trainer = LabyrinthTrainer(model, bumped(2), [Stage("contacts", 40, {"contacts": 1e-3}, 1)], 0)
    model.requires_grad_(False)
    trainer._met, other = met_by(model.transition, bumped(16, 100)), met_by(model.transition, others())  # type: ignore[arg-type]
    rows, steps = torch.cat([part[:200] for part in other.steps]).unbind(dim=1)
    before, after = (other.walks.frames[rows, other.walks.index[rows, at]] for at in (steps, steps + 1))
    assert model.contacts is not None

    def loss() -> float:
        assert model.contacts is not None
        with torch.no_grad():
            return float(model.contacts.loss(before, after, other.u[rows, steps], other.lost[rows, steps]))

    at_first, optimizer = loss(), trainer.optimizer()
    for _ in range(40):
        trainer.step(optimizer)
    assert loss() < at_first - 0.5


def others() -> Walks:
    kwargs = {"split": "validation", "task": None, "frame_size": SIZE}
    return concatenate(list(record_walks(WALKING.world, kwargs, 8, 100, seed=5, chunk=8, displacements=True, policy=heedless)))


def test_under_hard_limits_some_momentum_after_a_touch_is_not_known() -> None:
    """What is lost though nothing was touched is little, and never without a touch a few steps before."""
    walks = bumped(16, 100, physics="lab")
    met = met_by(exact_hard_walking(), walks)
    env = LabyrinthVectorEnv(16, split="train", task=None, frame_size=SIZE, physics="lab")
    env.reset(seed=int(np.random.default_rng(2).integers(2**31)), options={"phase": "walk"})
    touched = torch.from_numpy(np.stack([env.step(action)[4]["touched"] for action in walks.actions.numpy().T], axis=1))
    lately = torch.stack([touched.roll(k, dims=1) & (torch.arange(99) >= k) for k in range(12)]).any(dim=0)
    size = met.lost.norm(dim=-1)
    assert (size[~lately] < 2e-3).all()
    assert size[~touched].mean() < 0.1 * size[touched].mean()


def test_steps_that_met_something_pull_little_at_the_law_of_hard_limits() -> None:
    """Its loss where the law is right is what contacts leave; and its gradient there is small beside that of squares."""
    walks = bumped(24, physics="lab")
    model = small_model("default", 0, WALKING)
    model.transition = exact_hard_walking()
    stage = Stage("law", 1, {"law": 1e-2}, 1, tau=32)
    trainer = QuakeTrainer(model, walks, [stage], 0)

    def pull(trainer: LabyrinthTrainer) -> tuple[float, float]:
        model.transition.requires_grad_(True).zero_grad()
        loss = trainer.law_loss(stage, np.random.default_rng(0), torch.Generator())
        loss.backward()
        return float(loss.detach()), float(model.transition.c.grad.norm())  # type: ignore[union-attr]

    assert trainer._meeting().walks is walks, "contacts are learned on the same walks"
    robust, squares = pull(trainer), pull(LabyrinthTrainer(model, walks, [stage], 0))
    assert robust[1] / robust[0] < 0.5 * squares[1] / squares[0]
    model.transition.requires_grad_(False).c.mul_(0.8)  # type: ignore[union-attr]
    assert pull(trainer)[0] > 1.5 * robust[0]


def test_the_quake_model_takes_all_but_the_law(monkeypatch: pytest.MonkeyPatch) -> None:
    base = small_model("default", 7, WALKING)
    monkeypatch.setattr(GTMSM, "load", lambda name: base)
    model = recipe_quake.new_model(0)
    assert isinstance(model.transition, HardWalking)
    assert model.world == {"id": WALKING.world, "kwargs": {"physics": "lab"}, "start": "anywhere"}
    for name, x in model.state_dict().items():
        assert name.startswith("transition") or torch.equal(x, base.state_dict()[name])
    with pytest.raises(ValueError, match="leave out --size"):
        recipe_quake.stages("paper")
    learned = train.experiment("labyrinth-quake", "default", "procedural", 0, False)
    assert learned.rules == {"physics": "lab"}
    assert learned.displacements
    assert learned.trainer is QuakeTrainer


# ---------------------------------------------------------------- the command


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, str], int]:
    """Seconds instead of hours: a small model, few and short walks, two iterations a stage. Runs `train WORLD --size paper`."""
    monkeypatch.setattr(recipe_labyrinth, "new_model", small_model)
    monkeypatch.setattr(recipe_labyrinth, "RULES", {"frame_size": SIZE})
    for name, agent in list(AGENTS.items()):
        monkeypatch.setitem(AGENTS, name, SHORT[agent])
    monkeypatch.setattr(recipe_labyrinth, "WALKING", SHORT[WALKING])
    monkeypatch.setattr(recipe_labyrinth, "stages", lambda size, agent: [short(stage, 2) for stage in stages(size, of[agent])])
    of = {short: agent for agent, short in SHORT.items()}
    monkeypatch.setattr(train, "record_walks", lambda *args: record_walks(*args[:5], 8, *args[6:]))  # 8 rooms at once
    monkeypatch.setattr(train, "JUDGED", 1)

    def command(output: Path, *more: str) -> int:
        return train.run(parser().parse_args(["train", *more, "--output", str(output)]))

    return command


def tensors(folder: Path, name: str = "model") -> dict[str, Tensor]:
    return load_checkpoint(folder / name)[0]


@pytest.mark.parametrize("world", AGENTS)
def test_the_command_trains_is_interrupted_and_goes_on(world: str, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the same weights, bit for bit, wherever it was stopped; and its card tells how it was made and how it does."""
    what = (world, "--size", "paper", "--seed", "3")
    assert tiny(tmp_path / "whole", *what) == 0
    step, calls = LabyrinthTrainer.step, iter(range(1, 1000))

    def stopped(trainer: LabyrinthTrainer, optimizer: torch.optim.Adam) -> float:
        if next(calls) in (1, 4):  # in a first stage, and between or in others
            signal.raise_signal(signal.SIGINT)
        return step(trainer, optimizer)

    monkeypatch.setattr(LabyrinthTrainer, "step", stopped)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            tiny(tmp_path / "parts", *what, "--resume")
    assert tiny(tmp_path / "parts", *what, "--resume") == 0
    assert same(tensors(tmp_path / "parts"), tensors(tmp_path / "whole"))
    card = load_checkpoint(tmp_path / "whole" / "model")[1]["card"]
    agent = AGENTS[world]
    assert card["world"] == world
    more = {"labyrinth": 4, "labyrinth-rotate": 8}[world]  # fresh ones by the second of two iterations; for what rests
    assert card["walks"] == {"count": 8 + more, "steps": STEPS, "split": "train"}
    assert [stage["name"] for stage in card["stages"]] == [stage.name for stage in recipe_labyrinth.stages("paper", agent)]
    assert card["figures"]["steps"] == {"remembered": 14, "imagined": 6, "as poses": 16}
    assert card["figures"]["worlds"] == {"split": "test", "episodes": 1}
    json.dumps(card, allow_nan=False)
    model = GTMSM.load(tmp_path / "whole" / "model")
    assert model.world == {"id": agent.world, "kwargs": {"frame_size": SIZE}, "start": "anywhere"}
    assert not any(parameter.requires_grad for parameter in model.parameters())
