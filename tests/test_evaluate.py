import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from exact import exact_model

from gtmsm_env import evaluate, oracles
from gtmsm_env.data import distinct
from gtmsm_env.evaluate import (
    COPY,
    FLOOR,
    HEAVIEST,
    MEAN,
    NEAREST,
    OURS,
    PAPER,
    PASTED,
    SAMPLED,
    TAU,
    Measured,
    elbo_terms,
    fidelity,
    fit_positions,
    mean_square,
    measure,
    position_figures,
    record_trials,
    together,
)
from gtmsm_env.model import GTMSM
from gtmsm_env.types import Walk

WORLD = {"id": "GTMSM-ImageNavigation-v0", "kwargs": {}}


@pytest.fixture(scope="module", autouse=True)
def short_horizon() -> None:
    """300 imagined steps are as good as 1000 here."""
    patch = pytest.MonkeyPatch()
    patch.setattr(evaluate, "HORIZON", 300)
    patch.setattr(evaluate, "SPANS", ((1, 16), (17, 300), (1, 256), (1, 300)))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def trials() -> evaluate.Trials:
    return next(record_trials(WORLD, 3, seed=5))


@pytest.fixture(scope="module")
def measured(trials: evaluate.Trials) -> tuple[Measured, dict]:
    return measure(exact_model(prior="views"), trials, seed=0)


# ---- worlds


def test_trials_are_what_the_world_shows(trials: evaluate.Trials) -> None:
    frames, size = trials.walk.frames.numpy(), 8
    assert frames.shape == (3, TAU + 300, 8, 8, 3)
    for row in range(3):
        for t in (0, 100, TAU + 299):
            top, left = trials.positions[row, t] * trials.step_size
            np.testing.assert_array_equal(frames[row, t], trials.pictures[row, top : top + size, left : left + size])
    np.testing.assert_array_equal(trials.positions[:, 0], 4)


def test_a_trial_depends_on_its_own_seed_alone(trials: evaluate.Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "CHUNK", 2)
    chunks = list(record_trials(WORLD, 3, seed=5))
    assert [len(chunk.pictures) for chunk in chunks] == [2, 1]
    np.testing.assert_array_equal(torch.cat([chunk.walk.frames for chunk in chunks]), trials.walk.frames)
    np.testing.assert_array_equal(np.concatenate([chunk.pictures for chunk in chunks]), trials.pictures)


def test_visited_equals_a_slow_search(trials: evaluate.Trials) -> None:
    for row in range(3):
        remembered = {tuple(place) for place in trials.positions[row, :TAU]}
        assert trials.visited[row].tolist() == [tuple(place) in remembered for place in trials.positions[row, TAU:]]
    assert 0 < trials.visited.mean() < 1


# ---- oracles, each with a slow twin


def slow_oracles(trials: evaluate.Trials, row: int, t: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest remembered crop and the pasted pixels at step t of a walk, pixel by pixel."""
    remembered, places = trials.walk.frames[row, :TAU].numpy(), trials.positions[row, :TAU]
    here = trials.positions[row, t]
    distance = np.square(places - here).sum(axis=1)
    pasted = remembered.mean(axis=0).round().astype(np.uint8)
    for y in range(8):
        for x in range(8):
            pixel = here * trials.step_size + (y, x)
            nearest = math.inf
            for entry, place in enumerate(places):
                inside = pixel - place * trials.step_size
                if (0 <= inside).all() and (inside < 8).all() and distance[entry] < nearest:
                    nearest = distance[entry]
                    pasted[y, x] = remembered[entry][tuple(inside)]
    # of several places as near, the one that comes first row by row
    first = min((d, *place, entry) for entry, (d, place) in enumerate(zip(distance, places.tolist(), strict=True)))[-1]
    return remembered[first], pasted


def test_oracles_equal_slow_ones(trials: evaluate.Trials, measured: tuple[Measured, dict]) -> None:
    shown = measured[1]
    steps = [(row, h) for row in range(3) for h in [*np.flatnonzero(~trials.visited[row])[:4].tolist(), 7]]
    assert len(steps) > 6
    for row, h in steps:
        nearest, pasted = slow_oracles(trials, row, TAU + h)
        np.testing.assert_array_equal(shown[NEAREST][row, h], nearest)
        np.testing.assert_array_equal(shown[PASTED][row, h], pasted)


def test_oracles_are_exact_where_the_walk_has_been(trials: evaluate.Trials, measured: tuple[Measured, dict]) -> None:
    true = trials.walk.frames[:, TAU:].numpy()
    for name in (NEAREST, PASTED):
        np.testing.assert_array_equal(measured[1][name][trials.visited], true[trials.visited])
        assert (measured[1][name] != true).any()


def test_pasting_fills_what_nothing_covers() -> None:
    views, seen = np.zeros((1, 3, 3, 4, 4, 3), np.uint8), np.zeros((1, 3, 3), np.bool_)
    seen[0, 0, 0], views[0, 0, 0] = True, 9
    pasted = oracles.pasted_pixels(views, seen, 2, np.full((1, 4, 4, 3), 50, np.uint8))
    assert pasted[0, 0, 1, ..., 0].tolist() == [[9, 9, 50, 50]] * 4
    assert (pasted[0, 2, 2] == 50).all()


def test_memory_mean_and_last_frame(trials: evaluate.Trials, measured: tuple[Measured, dict]) -> None:
    for row in range(3):
        mean = np.mean([frame.numpy().astype(float) for frame in trials.walk.frames[row, :TAU]], axis=0)
        for h in (0, 299):
            assert np.abs(measured[1][MEAN][row, h] - mean).max() <= 0.5 + 1e-9
            np.testing.assert_array_equal(measured[1][COPY][row, h], trials.walk.frames[row, TAU - 1])


# ---- the model's read-outs


def test_an_exact_model_is_exact_where_it_has_been(trials: evaluate.Trials, measured: tuple[Measured, dict]) -> None:
    values, shown = measured
    true = trials.walk.frames[:, TAU:].numpy()
    for name in (OURS, HEAVIEST):
        np.testing.assert_array_equal(shown[name][trials.visited], true[trials.visited])
        assert values.error[name][~trials.visited].min() > 0
    np.testing.assert_array_equal(shown[FLOOR], true)
    assert values.right_place[trials.visited].all()
    assert not values.right_place[~trials.visited].any()
    assert 0 < values.error[SAMPLED][trials.visited].mean() < 1e-3


def test_a_wrong_action_is_noticed(trials: evaluate.Trials) -> None:
    """The tables must fall when the model is told of each action a step late."""
    late = torch.roll(trials.walk.actions, 1, dims=1)
    values, _ = measure(exact_model(), replace(trials, walk=replace(trials.walk, actions=late)), seed=0)
    assert fidelity(values.error, values.visited)[HEAVIEST]["visited"]["1-300"]["psnr"] < 25
    figures = position_figures(values)
    assert figures["exact entry on visited places, by true place, %"]["1-300"] < 60
    assert figures["moves right within half a step, %"]["1-300"] < 80


def test_mixture_read_outs_equal_the_models_own() -> None:
    """A model whose prior is the paper's mixture decodes what the row of the paper's mixture shows."""
    trials = next(record_trials(WORLD, 1, seed=2))
    model = exact_model()
    _, shown = measure(model, trials, seed=0)
    belief = model.remember(Walk(trials.walk.frames[:, :TAU], trials.walk.actions[:, : TAU - 1]))
    for t in range(TAU - 1, TAU + 99):
        belief = model.predict(belief, trials.walk.actions[:, t])
        np.testing.assert_array_equal(shown[HEAVIEST][:, t + 1 - TAU], model.decode(belief.mean, belief.memory))


# ---- likelihood


@pytest.mark.parametrize("prior", ["mixture", "views"])
def test_elbo_terms_average_to_the_models_own_elbo(trials: evaluate.Trials, prior: str) -> None:
    model, walks = exact_model(prior=prior), distinct(trials.walk)
    batch = walks.batch(torch.arange(3), 100)
    arguments = (batch.frames, batch.index, batch.actions, 60)
    terms = elbo_terms(model, *arguments, torch.Generator().manual_seed(1))
    elbo = model(*arguments, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(terms.log_likelihood.mean(), elbo.log_likelihood)
    torch.testing.assert_close(terms.kl[OURS if prior == "views" else PAPER].mean(), elbo.kl)
    assert terms.log_likelihood.shape == (3, 40)
    assert set(terms.kl) == ({OURS, PAPER} if prior == "views" else {PAPER})


def test_variance_figures_know_an_honest_variance() -> None:
    noise = np.random.default_rng(0).standard_normal((2, TAU, 64))
    fields = dict.fromkeys(Measured.__dataclass_fields__) | {"visited": np.arange(2 * TAU).reshape(2, TAU) % 2 == 0}
    honest = evaluate.variance_figures(Measured(**fields | {"standardised": noise**2}))
    assert [round(value, 1) for value in honest["all places"].values()] == pytest.approx([68.3, 95.4, 1], abs=0.7)
    sure = evaluate.variance_figures(Measured(**fields | {"standardised": 4 * noise**2}))
    assert sure["visited"]["within 1 deviation, %"] < 45


# ---- figures of merit


def test_fidelity_pools_squares_before_decibels() -> None:
    error, visited = np.zeros((2, 300)), np.zeros((2, 300), np.bool_)
    error[0], error[1, :16], visited[1] = 0.1, 0.3, True
    figures = fidelity({"x": error}, visited)["x"]
    assert figures["all places"]["1-16"] == {"mse": pytest.approx(0.2), "psnr": pytest.approx(-10 * math.log10(0.2))}
    assert figures["visited"]["17-300"] == {"mse": 0.0, "psnr": math.inf}
    assert figures["not visited"]["1-300"]["psnr"] == pytest.approx(10)
    assert math.isnan(fidelity({"x": error}, visited | True)["x"]["not visited"]["1-16"]["psnr"])


def test_mean_square_is_of_frames_in_0_to_1() -> None:
    black, grey = np.zeros((1, 2, 8, 8, 3), np.uint8), np.full((1, 2, 8, 8, 3), 51, np.uint8)
    assert mean_square(black, grey).tolist() == [[pytest.approx(0.04)] * 2]


def test_positions_are_judged_up_to_an_affine_map(measured: tuple[Measured, dict]) -> None:
    values = measured[0]
    moved = values.state @ np.array([[0.3, 0.1], [-0.05, 0.2]]) + 7
    np.testing.assert_allclose(fit_positions(moved, values.position), values.position, atol=1e-6)
    figures = position_figures(replace(values, state=moved))
    assert figures["R^2 of inferred to true position"]["1-300"] == pytest.approx(1)
    assert figures["moves right within half a step, %"]["1-300"] == 100
    assert figures["wall hits right within half a step, %"]["1-300"] == 100
    assert figures["wall hits counted"] > 20


def test_position_figures_see_leaks_drift_and_wrong_entries(measured: tuple[Measured, dict]) -> None:
    values = measured[0]
    through = values.state.copy()
    stuck = np.flatnonzero(~np.diff(values.position[0], axis=0).any(-1) & (values.action[0] < 4) & (np.arange(TAU + 299) >= TAU))
    through[0, stuck[0] + 1 :] += 0.6  # the first hit of the first world goes through the wall
    figures = position_figures(replace(values, state=through))
    wrong = 100 / figures["wall hits counted"]
    assert figures["wall hits right within half a step, %"]["1-300"] == pytest.approx(100 - wrong)
    assert figures["position error, largest, steps"]["1-300"] == pytest.approx(0.6 * 2**0.5, rel=1e-3)
    drifting = values.state + 0.002 * np.maximum(0, np.arange(TAU + 300) - TAU)[:, None]
    drift = position_figures(replace(values, state=drifting))["drift of the error, steps per 1000 steps"]
    assert drift["mean"] == pytest.approx(2 * 2**0.5, rel=1e-2)
    assert drift["95% interval"] < 0.1
    blind = replace(values, right_place=np.zeros_like(values.right_place))
    assert position_figures(blind)["exact entry on visited places, by true place, %"]["1-300"] == 0


def test_chunks_come_together(measured: tuple[Measured, dict]) -> None:
    both = together([measured[0], measured[0]])
    assert both.state.shape[0] == 6
    np.testing.assert_array_equal(both.error[COPY][3:], measured[0].error[COPY])
    assert together([replace(measured[0], standardised=None)]).standardised is None


# ---- the command


def arguments(tmp_path: Path, **changed: object) -> argparse.Namespace:
    given = {"model": "any", "device": "cpu", "episodes": 2, "seed": 0, "images": "procedural", "split": "test", "output": None}
    return argparse.Namespace(**given | {"json": tmp_path / "figures.json"} | changed)


@pytest.mark.parametrize("prior", ["mixture", "views"])
def test_run_prints_and_writes_the_same_figures(
    prior: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(GTMSM, "load", lambda *_: exact_model(prior=prior))
    assert evaluate.run(arguments(tmp_path)) == 0
    printed = capsys.readouterr().out
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["seeds"] == [0]
    copied = written["figures"]["fidelity"][COPY]["all places"]["1-300"]
    assert f"{copied['psnr']:.2f}" in printed
    assert f"{copied['mse']:.5f}" in printed
    assert (OURS in written["figures"]["fidelity"]) == (prior == "views")
    assert "drift" in printed


def test_a_model_that_names_no_world_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = exact_model()
    model.world = None
    monkeypatch.setattr(GTMSM, "load", lambda *_: model)
    with pytest.raises(ValueError, match="names none"):
        evaluate.run(arguments(tmp_path))


def test_an_unwritable_output_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="must be writable"):
        evaluate.run(arguments(tmp_path, output=tmp_path / "file" / "figures"))
