"""The benchmark of the dream, small: our own doors run; of other packages' only how they are asked is tested, elsewhere."""

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from programs import imported

pytest.importorskip("stable_baselines3")


@pytest.fixture(scope="module")
def speed() -> Iterator[ModuleType]:
    with imported("dream_speed") as module, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WALKS", 8)
        patch.setattr(module, "STEPS", 24)
        yield module


@pytest.fixture
def run(speed: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(*arguments: str) -> Any:
        file, threads = tmp_path / "figures.json", torch.get_num_threads()
        monkeypatch.setattr(sys, "argv", ["dream_speed.py", *arguments, "--peers", "--json", str(file)])
        try:
            speed.main()
        finally:
            torch.set_num_threads(threads)
        return json.loads(file.read_text())["figures"]

    return run


def test_doors(speed: ModuleType, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    told = run("--rows", "1", "3", "--rounds", "2", "--seconds", "0.001")["steps_a_second"]
    ours = [speed.RAW, speed.TENSORS, speed.VECTOR, speed.SB3]
    asked = itertools.product(("image-navigation", "image-navigation-paper"), (False, True), (1, 3))
    expected = [(name, frames, rows, door) for name, frames, rows in asked for door in ours + [speed.SCALAR] * (rows == 1)]
    assert [(of["model"], of["frames"], of["rows"], of["door"]) for of in told] == expected
    assert all(len(of["rounds"]) == 2 and min(of["rounds"]) > 0 for of in told)
    assert all(of["of_raw"] == 1 for of in told if of["door"] == speed.RAW)
    assert "states only" in capsys.readouterr().out


@pytest.mark.parametrize("shown", [[], ["--frames"]])
def test_resets(run: Any, capsys: pytest.CaptureFixture[str], shown: list[str]) -> None:
    told = run("resets", "--rows", "2", "--reset-steps", "20", *shown)["2"]
    assert sum(len(values) for kind, values in told.items() if kind != "first_reset_seconds") == 20
    assert "rows" in capsys.readouterr().out


def test_ppo(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    told = run("sb3", "--n-steps", "128", "--rounds", "1")["sb3"]["128"]
    assert np.shape(told["frames_a_second"]) == np.shape(told["share_in_env"]) == (1, 2)
    assert told["ratio"] > 1
    assert 0 < np.max(told["share_in_env"]) < 1
    assert "rollouts of 128 steps" in capsys.readouterr().out


def test_memory_is_watched(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    told = run("flat", "--steps", "20000")
    assert len(told["bytes"]) == 10
    assert min(told["bytes"]) > 1e7
    assert "bar 1 %" in capsys.readouterr().out
