"""The recurrent baseline of the labyrinth: what it may look at, and that the benchmark runs."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest.importorskip("numba")

from exact import exact_walker
from programs import imported

from gtmsm_env import recipe_labyrinth
from gtmsm_env.evaluate_labyrinth import record_trials
from gtmsm_env.model import GTMSM
from gtmsm_env.trials import mean_square, psnr

SHORT = replace(recipe_labyrinth.WALKING, tau=12, horizon=6, far=6, spans=((1, 2), (1, 6)))
WORLD = {"id": SHORT.world, "kwargs": {}}


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """With short walks."""
    monkeypatch.setattr(recipe_labyrinth, "WALKING", SHORT)
    monkeypatch.setattr(GTMSM, "load", lambda *_: exact_walker())
    with imported("rssm_labyrinth") as module:
        yield module


def test_it_dreams_from_what_was_seen_and_from_actions_alone(benchmark: ModuleType) -> None:
    trials = next(record_trials(SHORT, WORLD, 2, seed=0))
    model = benchmark.RSSM((32, 32, 3), 8, SHORT.tau)
    with torch.no_grad():
        for parameter in model.parameters():  # an untrained one passes on too little for a byte
            parameter.mul_(2)
    shown = benchmark.dream(model, trials, SHORT.horizon)
    assert shown.shape == trials.future.shape
    for step, seen in ((SHORT.tau - 1, True), (SHORT.tau, False)):
        frames = trials.walk.frames.clone()
        frames[:, step] = 255 - frames[:, step]
        changed = replace(trials, walk=replace(trials.walk, frames=frames))
        assert (benchmark.dream(model, changed, SHORT.horizon) != shown).any() == seen


def test_it_learns_large_frames(benchmark: ModuleType) -> None:
    torch.manual_seed(0)
    model = benchmark.RSSM((32, 32, 3), 8, SHORT.tau)
    frames, index = torch.full((4, 2, 32, 32, 3), 40, dtype=torch.uint8), torch.arange(10).expand(4, -1) % 2
    frames[:, 1] = 220
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = model(frames, index, torch.zeros(4, 9, dtype=torch.int64), 6)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_benchmark_runs(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "STAGES", ((0.0, 4, 6),))
    monkeypatch.setattr(benchmark, "VALIDATED", 2)
    monkeypatch.setattr(benchmark, "ROOMS", 16)
    file = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["x", "--minutes", "0.005", "--episodes", "2", "--json", str(file), "--output", str(tmp_path)])
    benchmark.main()
    figures = json.loads(file.read_text())["figures"]
    assert figures["learning curve"][-1]["cpu seconds"] >= 0.3
    assert {path.name for path in tmp_path.iterdir()} == {"figures.json", "rssm-labyrinth.png"}
    trials = next(record_trials(SHORT, WORLD, 2, seed=0))
    mean = trials.remembered.float().mean(dim=1).round().byte()[:, None].expand_as(trials.future)
    found = figures["fidelity"][benchmark.MEAN]["1-2"]
    assert found == pytest.approx(psnr(float(mean_square(mean.numpy(), trials.future.numpy())[:, :2].mean())))
    assert f"{figures['fidelity']['RSSM']['1-6']:.2f}" in capsys.readouterr().out


def test_a_model_of_another_world_is_refused(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GTMSM, "load", lambda *_: exact_walker("GTMSM-LabyrinthRotate-v0"))
    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(ValueError, match="a model of that world"):
        benchmark.main()
