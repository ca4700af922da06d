"""The benchmark of training: what it counts, and that each part's time is its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from types import ModuleType, SimpleNamespace

import pytest
import torch
from programs import imported

from gtmsm_env import recipe
from gtmsm_env.model import GTMSM
from gtmsm_env.recipe import stages


@pytest.fixture(scope="module")
def speed() -> Iterator[ModuleType]:
    with imported("training_speed") as module:
        yield module


def test_its_figures(speed: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    own = stages("default")
    short = [replace(stage, tau=16, ahead=8) for stage in (own[0], own[2])]
    monkeypatch.setattr(recipe, "stages", lambda size: [short[0], *short])  # one of them twice
    monkeypatch.setattr(recipe, "STEPS", 40)
    before = GTMSM.load("image-navigation").fingerprint()
    loaded: list[GTMSM] = []
    load = GTMSM.load
    monkeypatch.setattr(GTMSM, "load", lambda name: (loaded.append(load(name)), loaded[-1])[1])
    file, threads = tmp_path / "figures.json", torch.get_num_threads()
    small = ["--recipes", "image-navigation", "--rounds", "2", "--walks", "4", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", ["training_speed.py", *small])
    try:
        speed.main()
    finally:
        torch.set_num_threads(threads)
    moves, walls = json.loads(file.read_text())["figures"]["stages"]
    assert [moves["stage"], walls["stage"]] == ["image-navigation 1 moves", "image-navigation 3 walls"]
    for figures in (moves, walls):
        assert len(figures["ms"]) == 2
        assert figures["sequences/s"] == pytest.approx(32e3 / median(figures["ms"]))
        assert figures["steps/s"] == pytest.approx(24 * figures["sequences/s"])
        assert sum(figures["shares, %"].values()) == pytest.approx(100)
    assert moves["times its steps/s"] == pytest.approx(moves["steps/s"] / (540 * 32))
    assert walls["times its steps/s"] is None
    assert walls["shares, %"]["transition"] > moves["shares, %"]["transition"]  # where walls are asked at every step
    assert moves["shares, %"]["backward"] > 0
    assert loaded[0].fingerprint() == before
    assert "image-navigation 3 walls" in capsys.readouterr().out


def test_time_within_a_part_is_not_counted_twice(speed: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that work moves on."""
    now = [0.0]

    def work(seconds: float) -> None:
        now[0] += seconds

    parts = SimpleNamespace(inner=lambda: work(2), outer=lambda: (work(1), parts.inner(), work(4)))
    monkeypatch.setattr(speed, "PARTS", {name: [(parts, name)] for name in ("inner", "outer")})
    monkeypatch.setattr(speed.time, "process_time", lambda: now[0])
    with speed.parts_timed() as spent:
        work(100)
        parts.outer()
        parts.inner()
    assert spent == {"outer": 5, "inner": 4}
