"""The figures of the labyrinth: of a model that knows its law exactly, by hand and by loops, and what shifts them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from gtmsm_env import evaluate_labyrinth, plots, worlds
from gtmsm_env.__main__ import main
from gtmsm_env.contacts import Contacts
from gtmsm_env.evaluate_labyrinth import (
    ALONE,
    COMPOSED,
    COPY,
    DREAMED,
    FLOOR,
    LINES,
    MEAN,
    NEAREST,
    OBSERVED,
    OURS,
    PAPER,
    TRUE_POSE,
    Measured,
    Trials,
    as_from_above,
    elbo_terms,
    from_start,
    judge,
    last_passage,
    measure,
    record_trials,
    summary,
    text,
    walked_through,
)
from gtmsm_env.model import GTMSM
from gtmsm_env.oracles import composed, nearest_view
from gtmsm_env.perspective import Camera, covering
from gtmsm_env.recipe_labyrinth import AGENTS, CAMERA, JUDGED_ONLY, ROTATING, WALKING
from gtmsm_env.trials import mean_square, psnr
from gtmsm_env.types import Walk, phi

pytest.importorskip("numba")

from exact import WallsAt, exact_walker

from gtmsm_env.envs.labyrinth import LabyrinthVectorEnv
from gtmsm_env.envs.labyrinth_raycaster import column_depths
from gtmsm_env.envs.labyrinth_walker import LEFT, RIGHT

TAU, HORIZON, FAR, SIZE = 20, 6, 17, 16
SHORT = {agent: replace(agent, tau=TAU, horizon=HORIZON, far=FAR, spans=((1, 2), (3, 6), (1, 6))) for agent in (WALKING, ROTATING)}
WORLD = {"id": WALKING.world, "kwargs": {"frame_size": SIZE}, "start": "anywhere"}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short walks: recalling one takes time."""
    for name, agent in list(AGENTS.items()):
        monkeypatch.setitem(AGENTS, name, SHORT[agent])


@pytest.fixture(scope="module")
def recorded() -> Trials:
    return next(record_trials(SHORT[WALKING], WORLD, 2, seed=5))


@pytest.fixture(scope="module")
def measured(recorded: Trials) -> tuple[Measured, dict[str, Any], Tensor]:
    return measure(exact_walker(size=SIZE), recorded, seed=0)


def paper_model(world: dict[str, Any] = WORLD) -> GTMSM:
    """With the exact law; its prior has learned nothing."""
    model = GTMSM((SIZE, SIZE, 3), 8, state_size=3, z_size=16, law="walking", prior="combined", K=4, world=world)
    model.transition.load_state_dict(exact_walker(size=SIZE).transition.state_dict())
    return model.eval().requires_grad_(False)


# ---------------------------------------------------------------- who runs into things


def test_a_path_is_turned_as_the_room_is_drawn(recorded: Trials) -> None:
    poses = recorded.walk.poses
    assert poses is not None
    expected = (poses[1] - poses[1, :1] * torch.tensor([1.0, 1.0, 0.0])).numpy()
    assert np.allclose(as_from_above(recorded, 1, recorded.pose[1]), expected, atol=1e-5)
    assert np.abs(expected[0, 2]) > 0.1  # or nothing would be turned


def test_an_agent_that_runs_into_things_is_judged_by_what_it_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where contacts are told truly, poses are inferred truly; by actions alone they are not; and what is imagined goes on from there."""
    agent = replace(SHORT[WALKING], tau=60, far=60, careful=False)
    trials = next(record_trials(agent, WORLD, 6, seed=5))
    model = exact_walker(size=SIZE)
    model.contacts = Contacts(CAMERA, SIZE).requires_grad_(False)
    assert trials.walk.displacements is not None
    true = {
        frame.numpy().tobytes(): u
        for row, us in zip(trials.walk.frames, trials.walk.displacements, strict=True)
        for frame, u in zip(row, us, strict=True)
    }

    def told(before: Tensor, after: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        moved = torch.stack([true[frame.numpy().tobytes()] for frame in after])
        lost = torch.cat([(u - moved)[:, :2], torch.zeros(len(u), 1)], dim=1)
        return lost, 0 * lost

    monkeypatch.setattr(model.contacts, "lost", told)
    found, _, states = measure(model, trials, seed=0)
    assert found.otherwise.keys() == {ALONE, OBSERVED}
    assert found.otherwise[ALONE].shape == (6, 60)
    assert found.otherwise[ALONE].max() > 0.1
    assert found.otherwise[OBSERVED].max() < 1e-3
    torch.testing.assert_close(states[:, :60], trials.pose[:, :60], atol=1e-3, rtol=0)
    assert found.distance[:, 0].max() < 0.2  # the first step that is imagined


def test_a_dream_is_judged_beside_what_the_law_alone_imagines(measured: tuple[Measured, dict[str, Any], Tensor], recorded: Trials) -> None:
    """Of a careful agent: what its memory takes for walls stops it in a dream alone."""
    assert measured[0].otherwise.keys() == {DREAMED}
    model = exact_walker(size=SIZE)
    torch.testing.assert_close(measured[2], model.filter(recorded.walk.actions)[0], atol=1e-5, rtol=1e-4)
    assert model.projected is not None
    model.projected.stereo = WallsAt(0)  # type: ignore[assignment]
    found, _, states = measure(model, recorded, seed=0)
    torch.testing.assert_close(states, measured[2])
    assert found.otherwise[DREAMED].max() > 0.1
    paper = measure(paper_model(), recorded, seed=0)[0]
    assert paper.otherwise == {}


@pytest.mark.parametrize(("experiment", "physics"), [("labyrinth", "lab"), ("labyrinth-quake", "smooth")])
def test_a_law_is_judged_in_its_own_physics(experiment: str, physics: str) -> None:
    model = exact_walker(size=SIZE)
    model.world = {**WORLD, "kwargs": {"physics": physics}}
    with pytest.raises(ValueError, match=f"(?s)this model's is '{physics}'.*train {experiment}"):
        judge(experiment, model, 1)


def test_figures_of_contacts_stand_among_the_poses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(JUDGED_ONLY, "labyrinth-contacts", replace(SHORT[WALKING], careful=False))
    model = exact_walker(size=SIZE)
    assert list(judge("labyrinth-contacts", model, 1, seed=5)[0]["poses"]) == ["units", "degrees"]  # a model that feels none
    model.contacts = Contacts(CAMERA, SIZE).requires_grad_(False)
    figures = judge("labyrinth-contacts", model, 2, seed=5)[0]
    assert list(figures["poses"]) == ["units", "degrees", ALONE, OBSERVED]
    assert ALONE in text(figures)
    assert json.dumps(summary(figures))


# ---------------------------------------------------------------- what is known for sure


def test_trials_are_what_the_world_shows(recorded: Trials) -> None:
    """Poses seen from the start, frames from them, in rooms of the test split."""
    assert recorded.walk.poses is not None
    assert recorded.pose.shape == (2, TAU + FAR, 3)
    assert recorded.depth.shape == (2, TAU + HORIZON, SIZE)
    assert (recorded.remembered.shape[1], recorded.future.shape[1]) == (TAU, HORIZON)
    assert [part.shape[1] for part in recorded.poses] == [TAU, HORIZON]
    assert torch.equal(recorded.future, recorded.walk.frames[:, TAU : TAU + HORIZON])
    envs: Any = gym.make_vec(WALKING.world, num_envs=2, task=None, split="test", frame_size=SIZE).unwrapped
    _, info = envs.reset(seed=5, options={"phase": "walk"})
    start = info["pose"]
    for row in range(2):
        x, y, heading = start[row]
        turn = np.array([[math.cos(heading), math.sin(heading)], [-math.sin(heading), math.cos(heading)]])
        own = recorded.walk.poses[row].double().numpy() - [x, y, heading]
        np.testing.assert_allclose(recorded.pose[row, :, :2], own[:, :2] @ turn.T, atol=1e-5)
        np.testing.assert_allclose(recorded.pose[row, :, 2], own[:, 2], atol=1e-5)
    at = TAU + 3
    seen = envs.look(np.arange(2), recorded.walk.poses[:, at].double().numpy()).astype(int)
    assert np.abs(seen - recorded.future[:, 3].numpy()).max() <= 2
    depth = column_depths(envs.worlds, np.arange(2), recorded.walk.poses[:, at].double().numpy(), SIZE, 90.0)
    np.testing.assert_allclose(recorded.depth[:, at], depth, rtol=1e-5)


def test_a_trial_depends_on_its_own_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = next(record_trials(SHORT[WALKING], WORLD, 3, seed=5))
    monkeypatch.setattr(evaluate_labyrinth, "CHUNK", 2)
    first, last = record_trials(SHORT[WALKING], WORLD, 3, seed=5)
    assert [len(part.pose) for part in (first, last)] == [2, 1]
    for mine, other in ((first.pose[1], whole.pose[1]), (last.pose[0], whole.pose[2]), (last.depth[0], whole.depth[2])):
        assert torch.equal(mine, other)
    assert torch.equal(last.walk.frames[0], whole.walk.frames[2])


def test_rotating_trials_turn_alone() -> None:
    trials = next(record_trials(SHORT[ROTATING], {"id": ROTATING.world, "kwargs": {"frame_size": SIZE}}, 3, seed=1))
    assert not trials.pose[..., :2].any()
    assert set(trials.walk.actions.unique().tolist()) <= {LEFT, RIGHT}
    np.testing.assert_allclose(np.abs(np.diff(trials.pose[..., 2])), math.radians(9.3), atol=1e-5)


def test_depths_are_those_of_marching_rays() -> None:
    envs = LabyrinthVectorEnv(2, task=None)
    envs.reset(seed=0)
    found = column_depths(envs.worlds, np.arange(2), envs._pose, 32, 90.0)
    worlds, step = envs.worlds, 0.004
    for row, (x, y, heading) in enumerate(envs._pose):
        pillars = worlds.disc[row, : worlds.discs[row]]
        pillars = pillars[pillars[:, 3] == 0]
        for column in (0, 9, 16, 31):
            aside = (column + 0.5 - 16) / 16
            dx, dy = math.cos(heading) + aside * math.sin(heading), math.sin(heading) - aside * math.cos(heading)
            depth = 0.0
            while worlds.sector_at(row, x + depth * dx, y + depth * dy) >= 0 and not any(
                math.hypot(x + depth * dx - px, y + depth * dy - py) < radius for px, py, radius, _ in pillars
            ):
                depth += step
            assert found[row, column] == pytest.approx(depth, abs=2 * step)


# ---------------------------------------------------------------- oracles


def test_the_nearest_view_as_by_loops() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(256, size=(2, 9, 4, 4, 3), dtype=np.uint8)
    seen_from, at = (phi(torch.from_numpy(rng.normal(size=(2, steps, 3)))).numpy() for steps in (9, 5))
    shown = nearest_view(frames, seen_from, at)
    for walk in range(2):
        for step in range(5):
            distances = [float(np.linalg.norm(at[walk, step] - place)) for place in seen_from[walk]]
            assert np.array_equal(shown[walk, step], frames[walk, int(np.argmin(distances))])
    assert np.array_equal(nearest_view(frames, seen_from, seen_from[:, ::-1]), frames[:, ::-1])


def between(picture: Any, column: float, row: float) -> Any:
    """Bilinearly, beyond an edge as at it."""
    column, row = (min(max(at, 0), len(picture) - 1) for at in (column, row))
    left, top = min(int(column), len(picture) - 2), min(int(row), len(picture) - 2)
    across, down = column - left, row - top
    upper, lower = ((1 - across) * picture[r, left] + across * picture[r, left + 1] for r in (top, top + 1))
    return (1 - down) * upper + down * lower


def slow_composed(frames: Any, poses: Any, depths: Any, at: Any, depth_at: Any, which: Any) -> Any:
    """One imagined frame of views `which`: every pixel's point in the room, looked for in each view."""
    size = frames.shape[1]
    focal, (x, y, heading), shown = size / 2, at, np.zeros((size, size, 3))
    for r, c in np.ndindex(size, size):
        aside, slope = (c + 0.5 - size / 2) / focal, (size / 2 - r - 0.5) / focal
        ground = 0.6 / -slope if slope < 0 else 0.9 / slope
        far = min(depth_at[c], ground)
        px = x + far * (math.cos(heading) + aside * math.sin(heading))
        py = y + far * (math.sin(heading) - aside * math.cos(heading))
        total, blended = 0.0, np.zeros(3)
        for k in which:
            vx, vy, turn = poses[k]
            ahead = math.cos(turn) * (px - vx) + math.sin(turn) * (py - vy)
            left = math.cos(turn) * (py - vy) - math.sin(turn) * (px - vx)
            column, row = ((size - 1) / 2 - focal * away / max(ahead, 0.1) for away in (left, slope * far))
            outside = max(-column, column - size + 1, -row, row - size + 1)
            wall = depths[k, min(max(int(column + 0.5), 0), size - 1)]
            visible = ahead > 0.1 and outside < 0.5 and ahead < 1.1 * wall + 0.1
            weight = visible + 1e-6
            weight *= math.exp(-3 * math.hypot(x - vx, y - vy) - 3 * abs(math.log(max(ahead, 0.1) / far)))
            total, blended = total + weight, blended + weight * between(frames[k] / 255, column, row)
        shown[r, c] = blended / total
    return (shown * 255).round().clip(0, 255)


def test_composed_views_as_by_loops(recorded: Trials) -> None:
    """Of a real room, every other pixel of it, from true depths."""
    small = recorded.remembered[:1, :, 1::2, 1::2].numpy()
    (here, there), depth = recorded.poses, recorded.depth[..., 1::2]
    at = there[:1, [0, 2, 5]]
    shown = composed(small, here[:1], depth[:1, :TAU], at, depth[:1, TAU:][:, [0, 2, 5]], CAMERA, K=4)[0]
    which = covering(Camera(8, **CAMERA), here[:1], torch.ones(1, 1, TAU, dtype=torch.bool), at, 4, depth[:1, :TAU])[0]
    off = []
    for step, own in enumerate((0, 2, 5)):
        poses, depths = here[0].double().numpy(), depth[0].double().numpy()
        slow = slow_composed(small[0], poses, depths[:TAU], at[0, step].double().numpy(), depths[TAU + own], which[step].tolist())
        off.append(np.abs(shown[0, step] - slow).max(axis=-1))
    assert (np.array(off) <= 1.01).mean() > 0.97  # a point at the edge of what is seen may fall on either side


def test_composed_views_beat_the_nearest_clearly(recorded: Trials, measured: Any) -> None:
    """And the last frame; what was itself remembered is told better still, and false headings tell worse."""
    error = {name: psnr(float(values.mean())) for name, values in measured[0].error.items()}
    assert error[COMPOSED] > error[NEAREST] + 3
    assert error[COMPOSED] > error[COPY] + 3
    frames, (here, _), depth = recorded.remembered.numpy(), recorded.poses, recorded.depth[:, :TAU]
    again, seen = composed(frames, here, depth, here, depth, CAMERA)
    assert seen.min() == 1  # by itself
    assert psnr(float(mean_square(again, frames).mean())) > error[COMPOSED]
    moved = here + torch.tensor([0.0, 0.0, 0.3])  # a false heading
    assert psnr(float(mean_square(composed(frames, here, depth, moved, depth, CAMERA)[0], frames).mean())) < error[COMPOSED] - 3


# ---------------------------------------------------------------- measured


def test_rows_are_what_they_say(recorded: Trials, measured: Any) -> None:
    model, frames = exact_walker(size=SIZE), recorded.remembered.numpy()
    errors, shown, states = measured[0].error, measured[1], measured[2]
    assert errors.keys() == shown.keys() == {OURS, TRUE_POSE, FLOOR, COMPOSED, NEAREST, MEAN, COPY} <= LINES.keys()
    for name, values in errors.items():
        assert shown[name].shape == (2, HORIZON, SIZE, SIZE, 3), name
        np.testing.assert_allclose(values, mean_square(shown[name], recorded.future.numpy()))
    assert states.shape == (2, TAU + FAR, 3)
    assert (shown[COPY] == frames[:, -1:]).all()
    assert np.abs(shown[MEAN] - frames.mean(axis=1)[:, None]).max() <= 0.5
    (here, there), depth = recorded.poses, recorded.depth
    assert np.array_equal(shown[NEAREST], nearest_view(frames, phi(here).numpy(), phi(there).numpy()))
    assert np.array_equal(shown[COMPOSED], composed(frames, here, depth[:, :TAU], there, depth[:, TAU:], CAMERA)[0])
    x = recorded.future[1, :3].movedim(-1, -3) / 255
    floor = model.decoder(model.encoder(x)[0]).movedim(-3, -1) * 255
    np.testing.assert_allclose(shown[FLOOR][1, :3], floor.clamp(0, 255), atol=0.51)


def test_an_exact_law_makes_no_error_of_poses(recorded: Trials, measured: Any) -> None:
    """And imagined frames are those at the true poses; late actions and another law make errors."""
    right = measured[0]
    assert right.distance.shape == right.turned.shape == (2, FAR)
    assert right.distance.max() < 1e-4
    assert right.turned.max() < 1e-2
    assert np.abs(measured[1][OURS].astype(int) - measured[1][TRUE_POSE]).mean() < 0.5
    late = replace(recorded, walk=replace(recorded.walk, actions=recorded.walk.actions.roll(1, dims=1)))
    model = paper_model()
    alone, shown, _ = measure(model, recorded, 0)
    assert shown.keys() == {PAPER, FLOOR, COMPOSED, NEAREST, MEAN, COPY} <= LINES.keys()
    assert alone.distance.max() < 1e-4
    wrong = measure(model, late, 0)[0]
    assert wrong.distance.mean() > 0.05
    assert wrong.turned.mean() > 1


def test_degrees_are_the_shorter_way_around(recorded: Trials) -> None:
    """A pose that is true but for whole circles is right, and one that is half a circle off is off by 180 degrees."""
    model = paper_model()
    circles = replace(recorded, pose=recorded.pose + torch.tensor([0.0, 0, 4 * math.pi]))
    assert measure(model, circles, 0)[0].turned.max() < 1e-2
    for off in (3 * math.pi + 0.5, -0.2):
        wrong = replace(recorded, pose=recorded.pose + torch.tensor([0.3, 0.4, off]))
        found = measure(model, wrong, 0)[0]
        expected = math.degrees(min(off % (2 * math.pi), -off % (2 * math.pi)))
        np.testing.assert_allclose(found.turned, expected, atol=0.05)
        np.testing.assert_allclose(found.distance, 0.5, atol=1e-4)


def test_nats_are_those_of_the_distributions(recorded: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate_labyrinth, "SLICE", 4)
    model = paper_model()
    memory = model.remember(Walk(recorded.remembered, recorded.walk.actions[:, : TAU - 1])).memory
    s = recorded.poses[1]
    likelihood, kl = elbo_terms(model, memory, s, recorded.future, seed=4)
    generator = torch.Generator().manual_seed(4)
    for at in range(0, HORIZON, evaluate_labyrinth.SLICE):
        part = slice(at, at + evaluate_labyrinth.SLICE)
        x = recorded.future[:, part].movedim(-1, -3) / 255
        mean, variance = model.encoder(x)
        z = mean + variance.sqrt() * torch.randn(mean.shape, generator=generator)
        expected = Normal(model.decoder(z), model.sigma_x).log_prob(x).flatten(2).sum(dim=-1)
        np.testing.assert_allclose(likelihood[:, part], expected, rtol=1e-4)
        mixture = model.prior(s[:, part], memory)
        prior = Normal(mixture.mean[..., 0, :], mixture.variance[..., 0, :].sqrt())
        own = Normal(mean, variance.sqrt()).log_prob(z).sum(dim=-1) - prior.log_prob(z).sum(dim=-1)
        np.testing.assert_allclose(kl[:, part], own, rtol=1e-3, atol=1e-3)
    assert not np.allclose(elbo_terms(model, memory, s, recorded.future, seed=5)[1], kl)


# ---------------------------------------------------------------- figures


def test_images_are_refused() -> None:
    with pytest.raises(ValueError, match="the labyrinth has none: leave out --images photos"):
        judge("labyrinth", exact_walker(size=SIZE), 2, images="photos")


def test_figures_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pooled over rooms and the steps of a span, both ends included; of several chunks as of one."""
    model = exact_walker(size=SIZE)
    whole, measured, (trials, shown, states) = judge("labyrinth", model, 2, seed=2)
    assert whole.keys() == {"worlds", "steps", "fidelity", "fidelity where seen", "right room", "poses", "likelihood"}
    assert whole["worlds"] == {"split": "test", "episodes": 2}
    assert whole["steps"] == {"remembered": TAU, "imagined": HORIZON, "as poses": FAR}
    assert len(trials.pose) == len(states) == len(shown[OURS]) == 2
    for name, spans in whole["fidelity"].items():
        assert list(spans) == ["1-2", "3-6", "1-6"]
        for span, (first, last) in zip(spans, ((1, 2), (3, 6), (1, 6)), strict=True):
            assert spans[span] == pytest.approx(-10 * math.log10(np.mean(measured.error[name][:, first - 1 : last])))
    assert list(whole["poses"]) == ["units", "degrees", DREAMED]
    assert all(list(after) == ["1", "6", "16", "17"] for after in whole["poses"].values())
    assert whole["poses"]["units"]["16"] == pytest.approx(measured.distance[:, 15].mean())
    nats = whole["likelihood"]
    assert nats["elbo per dimension"] == pytest.approx(nats["log likelihood per dimension"] - nats["kl"] / (3 * SIZE**2))
    assert nats["kl"] == pytest.approx(measured.kl.mean())
    monkeypatch.setattr(evaluate_labyrinth, "CHUNK", 1)
    parts, joined, first = judge("labyrinth", model, 2, seed=2)
    for name in (COMPOSED, NEAREST, MEAN, COPY, FLOOR):
        np.testing.assert_allclose(joined.error[name], measured.error[name], rtol=0.02)
    np.testing.assert_allclose(joined.distance, measured.distance, atol=1e-5)
    assert len(first[0].pose) == 1
    held = summary(parts)
    json.dumps(held, allow_nan=False)
    assert held.keys() == parts.keys()
    printed = text(parts)
    assert f"{TAU} steps remembered, {HORIZON} imagined as frames and {FAR} as poses" in printed
    for name in parts["fidelity"]:
        assert name in printed


def test_the_latest_passage_into_a_known_room_is_found() -> None:
    """Rooms 0 to 2 in a row, joined by corridors; both have been remembered, the third has not."""
    worlds = SimpleNamespace(
        bounds=np.array([[[0, 0, 4, 4], [4, 1, 6, 2], [6, 0, 10, 4], [10, 1, 12, 2], [12, 0, 16, 4]]] * 2, float),
        sectors=np.array([5, 5]),
        sector_at=lambda row, x, y: int(np.searchsorted([4, 6, 10, 12], x)),
    )
    x = [[1, 5, 7, 5, 1, 5, 7, 8, 11, 13], [1, 5, 7, 7, 5, 1, 1, 1, 5, 1]]  # three remembered, seven imagined; room 2 is new to it
    pose = torch.tensor(x, dtype=torch.float32)[..., None] * torch.tensor([1.0, 0, 0]) + torch.tensor([0.0, 1.5, 0])
    agent = replace(SHORT[WALKING], tau=3, horizon=7)
    walk = Walk(torch.zeros(2, 10, 1, 1, 3, dtype=torch.uint8), torch.zeros(2, 9, dtype=torch.int64), poses=pose)
    trials = Trials(agent, SimpleNamespace(worlds=worlds), walk, pose, pose)
    rooms, sector = walked_through(trials, 0)
    assert rooms.tolist() == [0, 2, 4]
    assert sector.tolist() == [0, 1, 2, 1, 0, 1, 2, 2, 3, 4]
    assert last_passage(trials) == (0, 3)
    assert last_passage(replace(trials, agent=replace(agent, horizon=3))) == (1, 2)


def test_the_command_prints_writes_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("imageio_ffmpeg")
    world = "labyrinth-rotate"
    monkeypatch.setattr(GTMSM, "load", lambda name, _: exact_walker(AGENTS[world].world, SIZE))
    monkeypatch.setitem(plots.STYLE, "savefig.dpi", 30)
    command = f"evaluate {world} --model mine --episodes 1 --seed 3 --json {tmp_path}/figures.json --output {tmp_path}/figures"
    assert main(command.split()) == 0
    printed = capsys.readouterr().out
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert figures["model"]["name"] == "mine"
    for name, spans in figures["fidelity"].items():
        assert name in printed
        assert list(spans) == ["1-2", "3-6", "1-6"]
    assert max(figures["poses"]["units"].values()) < 1e-4
    drawn = {file.name: file.read_bytes() for file in (tmp_path / "figures").iterdir()}
    assert set(drawn) == {"figure-3.png", "psnr-by-horizon.png", "dream.mp4"}
    assert all(len(data) > 5_000 for data in drawn.values())
    assert all(drawn[name].startswith(b"\x89PNG") for name in ("figure-3.png", "psnr-by-horizon.png"))


@pytest.mark.parametrize("world", AGENTS)
def test_models_of_other_worlds_are_refused(world: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (other,) = AGENTS.keys() - {world}
    monkeypatch.setattr(GTMSM, "load", lambda name, _: exact_walker(AGENTS[other].world))
    assert main(["evaluate", world, "--model", "mine"]) == 1
    assert f"mine names {AGENTS[other].world}" in capsys.readouterr().err


def test_where_no_model_ships_one_is_asked_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(worlds.SHIPPED, WALKING.world, raising=False)
    assert main(["evaluate", "labyrinth"]) == 1
    assert f"none ships for {WALKING.world}" in capsys.readouterr().err


def test_poses_are_seen_from_the_first() -> None:
    poses = torch.tensor([[[1.0, 2, math.pi / 2], [1, 3, math.pi], [0, 2, 0]]])
    expected = torch.tensor([[[0.0, 0, 0], [1, 0, math.pi / 2], [0, 1, -math.pi / 2]]])
    torch.testing.assert_close(from_start(poses), expected, atol=1e-6, rtol=0)
