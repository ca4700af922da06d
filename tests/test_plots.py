from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from gtmsm_env import plots
from gtmsm_env.plots import binned, figure_3, figure_4, figure_6, film, first_person_film, normal_quantile


def test_bins_are_means_of_what_counts() -> None:
    values, chosen = (
        np.arange(12.0).reshape(2, 6),
        np.array([[True, False, True, True, False, False], [True, True, True, False, False, False]]),
    )
    means = binned(values, chosen, np.array([0, 2, 3, 6]))
    np.testing.assert_allclose(means, [np.mean([0, 6, 7]), np.mean([2, 8]), 3])
    assert np.isnan(binned(values, chosen, np.array([4, 6]))).all()


def test_quantiles_of_the_normal_distribution() -> None:
    assert abs(normal_quantile(0.975) - 1.96) < 1e-3
    assert normal_quantile(0.5) == 0


def test_a_film_shows_each_step_once() -> None:
    frames = np.random.default_rng(0).integers(256, size=(4, 8, 8, 3), dtype=np.uint8)
    positions, states = np.array([[0, 0], [0, 1], [1, 1], [1, 0]]), np.random.default_rng(1).normal(size=(10, 2))
    picture = np.zeros((11, 11, 3), np.uint8)
    pictures = list(film(picture, positions, states, frames, frames[::-1], np.ones(4, np.bool_), 3, None, steps=4))
    assert len(pictures) == 4
    for t, shown in enumerate(pictures):  # whole pixels enlarged: each colour of the frames is found where they are drawn
        for colour in (*frames[t, ::3, 1], *frames[3 - t, ::3, 1]):
            assert (shown == colour).all(axis=-1).sum() >= 16


def test_figure_6_marks_hits_between_a_place_and_its_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(plots, "save", lambda figure, file: drawn.append(figure))
    free = np.ones((3, 3), np.bool_)
    free[0, 2] = False
    at = np.array([[0.0, 1], [0, 1], [1, 1], [1, 2], [1, 2]])
    moves = np.array([[0, 1], [1, 0], [0, 1], [-1, 0]])  # into the obstacle, down, right, into it again
    figure_6(Path("unused"), free, {"true": at, "inferred": at}, np.array([True, False, False, True]), moves)
    for axes in drawn[0].axes[:2]:
        (obstacle,) = axes.patches
        assert obstacle.get_bbox().bounds == (1.5, -0.5, 1, 1)  # across and down, of column 2 and row 0
        path, _, hits = axes.collections
        assert np.asarray(path.get_offsets()).tolist() == at[:, ::-1].tolist()
        assert np.asarray(hits.get_offsets()).tolist() == [[1.5, 0], [2, 0.5]]


def test_figure_3_shows_places_headings_and_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is drawn to a file: remembered and imagined steps apart, the arrow of now at the last frame shown."""
    monkeypatch.setitem(plots.STYLE, "savefig.dpi", 30)
    rng = np.random.default_rng(0)
    poses, frames = rng.normal(size=(12, 3)), rng.integers(256, size=(6, 8, 8, 3), dtype=np.uint8)
    drawn: list[Figure] = []
    save = plots.save
    monkeypatch.setattr(plots, "save", lambda figure, file: (drawn.append(figure), save(figure, file))[1])
    figure_3(tmp_path / "figure-3.png", np.zeros((16, 16, 3), np.uint8), poses, poses + 9, 5, frames, 255 - frames, [1, 4])
    data = (tmp_path / "figure-3.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) > 5_000
    axes = drawn[0].axes
    for panel, places in ((axes[1], poses), (axes[2], poses + 9)):
        remembered, imagined = (np.array(line.get_xydata()) for line in panel.lines)
        assert np.array_equal(remembered, places[:5, :2])
        assert np.array_equal(imagined, places[5:9, :2])
        now: Any = panel.collections[2]
        assert now.get_offsets().tolist() == [places[8, :2].tolist()]
        assert (float(now.U[0]), float(now.V[0])) == pytest.approx((np.cos(places[8, 2]), np.sin(places[8, 2])))
    shown = [np.asarray(panel.images[0].get_array()) for panel in axes[3:]]
    assert all(np.array_equal(a, b) for a, b in zip(shown, (frames[0], frames[3], 255 - frames[0], 255 - frames[3]), strict=True))


def test_figure_4_shows_true_frames_over_imagined_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plots.STYLE, "savefig.dpi", 30)
    frames = np.random.default_rng(0).integers(256, size=(6, 8, 8, 3), dtype=np.uint8)
    drawn: list[Figure] = []
    save = plots.save
    monkeypatch.setattr(plots, "save", lambda figure, file: (drawn.append(figure), save(figure, file))[1])
    figure_4(tmp_path / "figure-4.png", np.zeros((16, 16, 3), np.uint8), frames, 255 - frames, [2, 3, 5])
    assert (tmp_path / "figure-4.png").read_bytes().startswith(b"\x89PNG")
    shown = [np.asarray(panel.images[0].get_array()) for panel in drawn[0].axes[1:]]
    expected = [frames[1], frames[2], 255 - frames[1], 255 - frames[2], frames[4], 255 - frames[4]]
    assert all(np.array_equal(a, b) for a, b in zip(shown, expected, strict=True))


def test_a_first_person_film_shows_each_step_once() -> None:
    frames = np.random.default_rng(0).integers(256, size=(4, 8, 8, 3), dtype=np.uint8)
    states = np.random.default_rng(1).normal(size=(10, 3))
    rooms = [np.full((32, 32, 3), 10 * step, np.uint8) for step in range(1, 5)]
    pictures = list(first_person_film(iter(rooms), frames, frames[::-1], states, 6))
    assert len(pictures) == 4
    for t, shown in enumerate(pictures):
        assert (shown == 10 * (t + 1)).all(axis=-1).sum() >= 16 * 16
        for colour in (*frames[t, ::3, 1], *frames[3 - t, ::3, 1]):
            assert (shown == colour).all(axis=-1).sum() >= 16
    assert all((a != b).any() for a, b in pairwise(pictures))


def test_the_film_of_a_turn_maps_headings() -> None:
    """Where nothing is walked, rounding is not magnified into a path."""
    frames, states = np.zeros((3, 8, 8, 3), np.uint8), np.zeros((7, 3))
    states[:, 2] = np.arange(7)
    rooms = [np.zeros((32, 32, 3), np.uint8)] * 3
    shaken = states + np.random.default_rng(0).normal(size=(7, 3)) * [1e-4, 1e-4, 0]
    walked = np.stack([np.cos(states[:, 2]), np.sin(states[:, 2]), states[:, 2]], axis=1)
    turned, trembled, on_a_circle = (list(first_person_film(iter(rooms), frames, frames, of, 4)) for of in (states, shaken, walked))
    for turn, shake, circle in zip(turned, trembled, on_a_circle, strict=True):
        assert np.array_equal(turn, shake)
        map_ = slice(-256, None)
        assert np.array_equal(turn[-256:, map_], circle[-256:, map_])
        assert (turn != circle).any()  # told as headings and as places
