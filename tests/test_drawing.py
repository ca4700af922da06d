"""Pictures: what is where, in which colour."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from exact import exact_model

from gtmsm_env.drawing import BACKGROUND, GOAL, HERE, OBSTACLE, PANEL, PATH, PLACE, PLAN, Picture, enlarge, map_of_places, side_by_side
from gtmsm_env.types import Walk

pytest.importorskip("PIL")


def where(picture: Picture, colour: tuple[int, int, int]) -> tuple[float, float] | None:
    """The mean (row, column) of the pixels of one colour."""
    rows, columns = np.nonzero((picture == colour).all(axis=2))
    return (float(rows.mean()), float(columns.mean())) if len(rows) else None


def test_enlarge_keeps_pixels() -> None:
    frame = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    large = enlarge(frame)
    assert large.shape == (512, 512, 3)
    assert np.array_equal(large[::64, ::64], frame)
    assert np.array_equal(enlarge(frame, 3)[1::3, 2::3], frame)
    assert not np.shares_memory(enlarge(frame, 1), frame)


def test_map() -> None:
    """The first axis of the state points down and the second right, or as `axes` turns them."""
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8))
    model = exact_model()
    memory = model.remember(Walk(frames, torch.tensor([1, 1, 3, 3]))).memory  # an L: down, then right
    path, plan = torch.tensor([[0.0, 0], [1, 0]]), torch.tensor([[2.0, 0], [2, 1]])
    picture = map_of_places(memory, list(path), torch.tensor([2.0, 2]), 300, plan=plan)
    assert picture.shape == (300, 300, 3)
    assert tuple(picture[0, 0]) == PANEL
    here, goal = where(picture, HERE), where(picture, GOAL)
    assert here is not None
    assert goal is not None
    assert np.allclose(here, (150, 81), atol=2)  # on the left edge, half way down
    assert np.allclose(goal, (219, 219), atol=2)
    assert all(where(picture, colour) is not None for colour in (PATH, PLAN))
    turned = where(map_of_places(memory, path, None, 300, axes=np.array([[0.0, 1.0], [1.0, 0.0]])), HERE)
    assert turned is not None
    assert np.allclose(turned, here[::-1], atol=2)
    alone = map_of_places(memory.s_mean[:1])  # one place, given as states
    assert where(alone, PLACE) is not None


def test_obstacles_are_drawn() -> None:
    s = torch.tensor([[0.0, 0], [1, 0], [2, 0], [2, 1], [2, 2]])
    spot = where(map_of_places(s, size=300, obstacles=torch.tensor([[0.0, 2.0]])), OBSTACLE)
    assert spot is not None
    assert np.allclose(spot, (81, 219), atol=2)
    assert where(map_of_places(s, size=300), OBSTACLE) is None


def test_side_by_side() -> None:
    frame = np.full((8, 8, 3), 200, np.uint8)
    row = side_by_side([enlarge(frame, 32), frame], ["one", "two"])
    assert row.shape[0] % 2 == row.shape[1] % 2 == 0
    assert tuple(row[-1, -1]) == BACKGROUND
    assert (row == 200).all(axis=2).sum() >= 2 * 256 * 256  # both as tall
    assert not np.array_equal(row[:30], side_by_side([enlarge(frame, 32), frame], ["one", "three"])[:30])


def test_missing_extra_is_named(tmp_path: Path) -> None:
    code = "import sys, numpy; sys.modules['PIL'] = None; from gtmsm_env.drawing import map_of_places; map_of_places(numpy.zeros((3, 2)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "pip install 'gtmsm-env[images]'" in result.stderr
