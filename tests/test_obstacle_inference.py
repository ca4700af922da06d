"""The benchmark of inferred obstacles: its observers are what they claim."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from exact import exact_landmarks
from programs import imported

from gtmsm_env.envs.obstacle_grid import ObstacleGridVectorEnv
from gtmsm_env.model import GTMSM


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    with imported("obstacle_inference") as module:
        yield module


def test_every_layout_has_the_probability_with_which_the_world_draws_it(benchmark: ModuleType) -> None:
    """By how often each place is inside an obstacle, and by how many places are."""
    drawn, probability = benchmark.layouts(9)
    assert probability.sum() == pytest.approx(1)
    envs = ObstacleGridVectorEnv(4000, task=None)
    envs.reset(seed=0)
    inside = ~envs._free
    expected = np.tensordot(probability, drawn, 1)
    assert np.abs(inside.mean(axis=0) - expected).max() < 4 * 0.5 / 4000**0.5
    sizes = np.bincount(drawn.sum(axis=(1, 2)), weights=probability, minlength=20)
    assert np.abs(np.bincount(inside.sum(axis=(1, 2)), minlength=20) / 4000 - sizes).max() < 4 * 0.5 / 4000**0.5


def test_observers(benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Who knows more is never worse, and who knows all is right."""
    monkeypatch.setattr(GTMSM, "load", lambda *arguments: exact_landmarks())
    monkeypatch.setattr(sys, "argv", ["obstacle_inference", "--episodes", "8", "--json", str(tmp_path / "figures.json")])
    benchmark.main()
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert figures[benchmark.ALL]["1-256"] == 100
    assert figures[benchmark.TOUCHED]["1-256"] < figures[benchmark.BAYES]["1-256"] < 100
    assert benchmark.BAYES in capsys.readouterr().out
