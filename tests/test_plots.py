from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from gtmsm_env import plots
from gtmsm_env.plots import binned, figure_6, film, normal_quantile


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
