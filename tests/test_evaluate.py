import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from exact import exact_model

from gtmsm_env import evaluate, plots
from gtmsm_env.__main__ import main, parser
from gtmsm_env.data import distinct
from gtmsm_env.evaluate import (
    AVERAGE,
    FLOOR,
    HEAVIEST,
    OURS,
    PAPER,
    SAMPLED,
    Measured,
    dream,
    elbo_terms,
    fit_positions,
    measure,
    measure_positions,
    position_figures,
)
from gtmsm_env.model import GTMSM
from gtmsm_env.trials import COPY, TAU, Trials, fidelity, record_trials, together
from gtmsm_env.types import Walk

WORLD = {"id": "GTMSM-ImageNavigation-v0", "kwargs": {}}


@pytest.fixture(scope="module")
def trials() -> Trials:
    return next(record_trials(WORLD, 3, seed=5))


@pytest.fixture(scope="module")
def measured(trials: Trials) -> tuple[Measured, dict]:
    return measure(exact_model(prior="views"), trials, seed=0)


# ---- the model's read-outs


def test_an_exact_model_is_exact_where_it_has_been(trials: Trials, measured: tuple[Measured, dict]) -> None:
    values, shown = measured
    true = trials.walk.frames[:, TAU:].numpy()
    for name in (OURS, HEAVIEST):
        np.testing.assert_array_equal(shown[name][trials.visited], true[trials.visited])
    copied = values.error[HEAVIEST][~trials.visited]
    assert copied.min() > 0
    assert values.error[OURS][~trials.visited].mean() < copied.mean() / 2  # what overlaps a place shows part of it, exactly
    np.testing.assert_array_equal(shown[FLOOR], true)
    assert values.right_place[trials.visited].all()
    assert not values.right_place[~trials.visited].any()
    assert 0 < values.error[SAMPLED][trials.visited].mean() < 1e-3


def test_positions_are_measured_without_a_frame(trials: Trials, measured: tuple[Measured, dict], monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as with all the rest."""
    model = exact_model(prior="views")
    monkeypatch.setattr(model.decoder, "forward", None)
    positions = measure_positions(trials, *dream(model, trials))
    for name, values in vars(positions).items():
        np.testing.assert_array_equal(values, getattr(measured[0], name))
    assert together([positions, positions]).state.shape[0] == 6


def test_a_wrong_action_is_noticed(trials: Trials) -> None:
    """The tables must fall when the model is told of each action a step late."""
    late = torch.roll(trials.walk.actions, 1, dims=1)
    values, _ = measure(exact_model(), replace(trials, walk=replace(trials.walk, actions=late)), seed=0)
    assert fidelity(values.error, values.visited)[HEAVIEST]["visited"]["1-1000"]["psnr"] < 25
    figures = position_figures(values)
    assert figures["exact entry on visited places, by true place, %"]["1-1000"] < 60
    assert figures["moves right within half a step, %"]["1-1000"] < 80


def test_mixture_read_outs_equal_the_models_own() -> None:
    """A model whose prior is the paper's mixture decodes what the row of the paper's mixture shows."""
    trials = next(record_trials(WORLD, 1, seed=2))
    model = exact_model()
    _, shown = measure(model, trials, seed=0)
    belief = model.remember(Walk(trials.walk.frames[:, :TAU], trials.walk.actions[:, : TAU - 1]))
    for t in range(TAU - 1, TAU + 99):
        belief = model.predict(belief, trials.walk.actions[:, t])
        np.testing.assert_array_equal(shown[HEAVIEST][:, t + 1 - TAU], model.decode(belief.mean, belief.memory))


def test_the_mean_of_decodings_equals_a_slow_one(trials: Trials) -> None:
    model = exact_model()
    model.K, model.delta = 3, 0.5
    values, shown = measure(model, trials, seed=0)
    unvisited = np.argwhere(~trials.visited)
    for row, h in unvisited[:: len(unvisited) // 5]:
        frames, states = trials.walk.frames[row, :TAU].numpy() / 255, values.state[row]
        square = np.square(states[:TAU] - states[TAU + h]).sum(axis=1)
        nearest = np.argsort(square, kind="stable")[:3]
        weight = 1 / (square[nearest] + 0.5)
        expected = sum(w * frames[k] for w, k in zip(weight / weight.sum(), nearest, strict=True))
        assert np.abs(shown[AVERAGE][row, h] - 255 * expected).max() < 0.51
        np.testing.assert_array_equal(shown[HEAVIEST][row, h], trials.walk.frames[row, nearest[0]])


# ---- likelihood


@pytest.mark.parametrize("prior", ["mixture", "views"])
def test_elbo_terms_average_to_the_models_own_elbo(trials: Trials, prior: str) -> None:
    model, walks = exact_model(prior=prior), distinct(trials.walk)
    batch = walks.batch(torch.arange(3), 100)
    arguments = (batch.frames, batch.index, batch.actions, 60)
    terms = elbo_terms(model, *arguments, seed=1)
    elbo = model(*arguments, generator=torch.Generator().manual_seed(1))
    own = OURS if prior == "views" else PAPER
    torch.testing.assert_close(terms.log_likelihood[own].mean(), elbo.log_likelihood)
    torch.testing.assert_close(terms.kl[own].mean(), elbo.kl)
    assert terms.log_likelihood[own].shape == (3, 40)
    assert terms.log_likelihood.keys() == terms.kl.keys() == {own, PAPER}


def test_variance_figures_know_an_honest_variance() -> None:
    noise = np.random.default_rng(0).standard_normal((2, TAU, 64))
    visited = np.arange(2 * TAU).reshape(2, TAU) % 2 == 0
    honest = evaluate.variance_figures(noise**2, visited)
    assert [round(value, 1) for value in honest["all places"].values()] == pytest.approx([68.3, 95.4, 1], abs=0.7)
    too_sure = evaluate.variance_figures((1 + visited[..., None]) * noise**2, visited)
    assert too_sure["visited"]["standardised square"] == pytest.approx(2, abs=0.1)
    assert too_sure["not visited"]["standardised square"] == pytest.approx(1, abs=0.1)


# ---- figures of merit


def test_positions_are_judged_up_to_an_affine_map(measured: tuple[Measured, dict]) -> None:
    values = measured[0]
    moved = values.state @ np.array([[0.3, 0.1], [-0.05, 0.2]]) + 7
    np.testing.assert_allclose(fit_positions(moved, values.position), values.position, atol=1e-6)
    figures = position_figures(replace(values, state=moved))
    assert figures["R^2 of inferred to true position"]["1-1000"] == pytest.approx(1)
    assert figures["moves right within half a step, %"]["1-1000"] == 100
    assert figures["wall hits right within half a step, %"]["1-1000"] == 100
    assert figures["wall hits counted"] > 20


def test_position_figures_see_leaks_drift_and_wrong_entries(measured: tuple[Measured, dict]) -> None:
    values = measured[0]
    through = values.state.copy()
    stuck = np.flatnonzero(~np.diff(values.position[0], axis=0).any(-1) & (values.action[0] < 4) & (np.arange(TAU + 999) >= TAU))
    through[0, stuck[0] + 1 :] += 0.6  # the first hit of the first world goes through the wall
    figures = position_figures(replace(values, state=through))
    wrong = 100 / figures["wall hits counted"]
    assert figures["wall hits right within half a step, %"]["1-1000"] == pytest.approx(100 - wrong)
    assert figures["position error, largest, steps"]["1-1000"] == pytest.approx(0.6 * 2**0.5, rel=1e-3)
    drifting = values.state + 0.002 * np.maximum(0, np.arange(TAU + 1000) - TAU)[:, None]
    drift = position_figures(replace(values, state=drifting))["drift of the error, steps per 1000 steps"]
    assert drift["mean"] == pytest.approx(2 * 2**0.5, rel=1e-2)
    assert drift["95% half-width"] < 0.1
    blind = replace(values, right_place=np.zeros_like(values.right_place))
    assert position_figures(blind)["exact entry on visited places, by true place, %"]["1-1000"] == 0


def test_chunks_come_together(measured: tuple[Measured, dict]) -> None:
    both = together([measured[0], measured[0]])
    assert both.state.shape[0] == 6
    np.testing.assert_array_equal(both.error[COPY][3:], measured[0].error[COPY])
    assert together([replace(measured[0], standardised=None)]).standardised is None


# ---- the command


def arguments(tmp_path: Path, **changed: object) -> argparse.Namespace:
    given = vars(parser().parse_args(["evaluate", "image-navigation", "--model", "any", "--episodes", "2"]))
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
    copied = written["figures"]["fidelity"][COPY]["all places"]["1-1000"]
    assert f"{copied['psnr']:.2f}" in printed
    assert f"{copied['mse']:.5f}" in printed
    assert (OURS in written["figures"]["fidelity"]) == (prior == "views")
    assert "drift" in printed


def test_figures_and_film_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    filmed = []

    def keep_the_first_pictures(file: Path, pictures: Iterator[np.ndarray], fps: int) -> None:
        filmed.append((file.name, [next(pictures) for _ in range(3)]))

    monkeypatch.setattr(evaluate, "write_video", keep_the_first_pictures)
    monkeypatch.setitem(plots.STYLE, "savefig.dpi", 40)
    monkeypatch.setattr(GTMSM, "load", lambda *_: exact_model(prior="views"))
    evaluate.run(arguments(tmp_path, episodes=1, output=tmp_path / "figures"))
    drawn = {file.name: file.read_bytes() for file in (tmp_path / "figures").iterdir()}
    assert set(drawn) == {"figure-2.png", "psnr-by-horizon.png", "positions.png"}
    assert all(data.startswith(b"\x89PNG") and len(data) > 10_000 for data in drawn.values())
    ((name, pictures),) = filmed
    assert name == "dream.mp4"
    assert len({picture.shape for picture in pictures}) == 1
    assert all(side % 2 == 0 for side in pictures[0].shape[:2])
    assert (pictures[0] != pictures[2]).any()

    monkeypatch.setattr(evaluate, "missing", lambda: "no video is written without X: pip install 'gtmsm-env[video]'")
    evaluate.run(arguments(tmp_path, episodes=1, output=tmp_path / "figures"))
    assert capsys.readouterr().out.count("no video is written without X") == 1
    assert len(filmed) == 1


def test_without_matplotlib_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["evaluate", "image-navigation", "--output", str(tmp_path)]) == 1
    assert capsys.readouterr() == ("", "error: matplotlib is missing, which the extra 'plot' installs: pip install 'gtmsm-env[plot]'\n")


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
