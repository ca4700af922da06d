"""The benchmark of learning places: which stages it runs, and when it says that a training held its bars."""

import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from exact import exact_model
from programs import imported

from gtmsm_env import recipe
from gtmsm_env.recipe import Trainer, new_model, stages
from gtmsm_env.trials import SPANS, span_name


@pytest.fixture(scope="module")
def place_learning() -> Iterator[ModuleType]:
    with imported("place_learning") as module:
        yield module


def run(benchmark: ModuleType, patch: pytest.MonkeyPatch, file: Path, *arguments: object) -> list[dict[str, Any]]:
    """Runs it, on one thread, and returns what it wrote of each seed."""
    patch.setattr(sys, "argv", ["place_learning.py", *map(str, arguments), "--json", str(file)])
    threads = torch.get_num_threads()
    try:
        benchmark.main()
    finally:
        torch.set_num_threads(threads)
    seeds: list[dict[str, Any]] = json.loads(file.read_text())["figures"]["seeds"]
    return seeds


def test_only_moves_and_walls_are_learned(place_learning: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    short = [replace(stage, iterations=2, tau=min(stage.tau, 16), ahead=8, K=min(stage.K, 8)) for stage in stages("default")]
    steps: Counter[str] = Counter()
    step = Trainer.step

    def counted(trainer: Trainer, optimizer: torch.optim.Adam) -> float:
        steps[trainer.stages[trainer.stage].name] += 1
        return step(trainer, optimizer)

    monkeypatch.setattr(Trainer, "step", counted)
    for name, small in {"stages": lambda size: short, "WALKS": 32, "STEPS": 40}.items():
        monkeypatch.setattr(recipe, name, small)
    model, cpu, wall = place_learning.learn(3, "procedural")
    assert steps == {"moves": 2 * 2, "walls": 3 * 2}
    before, after = new_model("default", 3).state_dict(), model.state_dict()
    assert {name.partition(".")[0] for name, x in before.items() if not torch.equal(x, after[name])} >= {"transition"}
    assert all(torch.equal(x, after[name]) for name, x in before.items() if name.startswith("views"))
    assert model.transition.walls
    assert min(cpu, wall) > 0


def test_bars(place_learning: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is held if it is reached, at both spans, within the time; a figure that is no number holds nothing."""
    perfect = {name: {span_name(span): 100.0 for span in SPANS} for name in place_learning.BARS}
    perfect["drift of the error, steps per 1000 steps"] = {"mean": 0.0, "95% half-width": 0.0}
    trainings: list[tuple[dict[str, Any], float, bool]] = [(perfect, 599.0, True), (perfect, 600.0, False)]
    for name, bar in place_learning.BARS.items():
        for span, value, held in [
            ("1-256", bar, True),
            ("1-1000", bar - 1e-6, False),
            ("1-256", bar - 1e-6, False),
            ("1-256", math.nan, False),
            ("65-256", 0.0, True),
        ]:
            trainings.append((perfect | {name: perfect[name] | {span: value}}, 1.0, held))
    monkeypatch.setattr(place_learning, "learn", lambda seed, images: (exact_model(), 7.0, trainings[seed][1]))
    monkeypatch.setattr(place_learning, "record_trials", lambda *_: [])
    monkeypatch.setattr(place_learning, "together", lambda parts: parts)
    figures = iter([training[0] for training in trainings])
    monkeypatch.setattr(place_learning, "position_figures", lambda parts: next(figures))
    expected = [held for _, _, held in trainings]
    seeds = run(place_learning, monkeypatch, tmp_path / "figures.json", "--seeds", *range(len(trainings)))
    assert [seed["bars held"] for seed in seeds] == expected
    assert [seed["wall seconds"] for seed in seeds] == [wall for _, wall, _ in trainings]
    printed = capsys.readouterr().out
    assert f"{sum(expected)} of {len(expected)} seeds hold every bar" in printed
    rows = [line.split() for line in printed.split("hold every bar")[1].splitlines() if line.startswith("seed ")]
    assert [row[-1] for row in rows] == ["yes" if held else "NO" for held in expected]


def test_models_are_judged(
    place_learning: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that is exact, and one whose walls stand a step too far out."""
    monkeypatch.setattr(place_learning, "learn", lambda seed, images: (exact_model(side=9 + 2 * seed), 1.0, 2.0))
    exact, wide = run(place_learning, monkeypatch, tmp_path / "figures.json", "--seeds", 0, 1, "--episodes", 2)
    assert [exact["bars held"], wide["bars held"]] == [True, False]
    first, second = (line.split() for line in capsys.readouterr().out.splitlines()[-2:])
    assert first[:8] == ["seed", "0", "1", "2", "100.000", "1.00000", "100.000", "100.000"]
    assert second[:2] == ["seed", "1"]
    assert float(second[4]) == pytest.approx(min(wide["positions"][place_learning.ENTRY][span] for span in ("1-256", "1-1000")), abs=1e-3)
    assert float(second[4]) < 99
