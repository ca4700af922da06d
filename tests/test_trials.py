import math

import numpy as np
import pytest
import torch

from gtmsm_env import oracles, trials
from gtmsm_env.trials import COPY, MEAN, NEAREST, PASTED, TAU, Trials, fidelity, mean_square, model_free_frames, record_trials

WORLD = {"id": "GTMSM-ImageNavigation-v0", "kwargs": {}}


@pytest.fixture(scope="module")
def recorded() -> Trials:
    return next(record_trials(WORLD, 3, seed=5))


@pytest.fixture(scope="module")
def shown(recorded: Trials) -> dict[str, np.ndarray]:
    return dict(model_free_frames(recorded))


# ---- worlds


def test_trials_are_what_the_world_shows(recorded: Trials) -> None:
    frames, size = recorded.walk.frames.numpy(), 8
    assert frames.shape == (3, TAU + 1000, 8, 8, 3)
    for row in range(3):
        for t in (0, 100, TAU + 999):
            top, left = recorded.positions[row, t] * recorded.step_size
            np.testing.assert_array_equal(frames[row, t], recorded.pictures[row, top : top + size, left : left + size])
    np.testing.assert_array_equal(recorded.positions[:, 0], 4)


def test_a_trial_depends_on_its_own_seed_alone(recorded: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "CHUNK", 2)
    chunks = list(record_trials(WORLD, 3, seed=5))
    assert [len(chunk.pictures) for chunk in chunks] == [2, 1]
    np.testing.assert_array_equal(torch.cat([chunk.walk.frames for chunk in chunks]), recorded.walk.frames)
    np.testing.assert_array_equal(np.concatenate([chunk.pictures for chunk in chunks]), recorded.pictures)


def test_visited_equals_a_slow_search(recorded: Trials) -> None:
    for row in range(3):
        remembered = {tuple(place) for place in recorded.positions[row, :TAU]}
        assert recorded.visited[row].tolist() == [tuple(place) in remembered for place in recorded.positions[row, TAU:]]
    assert 0 < recorded.visited.mean() < 1


# ---- oracles, each with a slow twin


def slow_oracles(recorded: Trials, row: int, t: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest remembered crop and the pasted pixels at step t of a walk, pixel by pixel."""
    remembered, places = recorded.walk.frames[row, :TAU].numpy(), recorded.positions[row, :TAU]
    here = recorded.positions[row, t]
    distance = np.square(places - here).sum(axis=1)
    pasted = remembered.mean(axis=0).round().astype(np.uint8)
    for y in range(8):
        for x in range(8):
            pixel = here * recorded.step_size + (y, x)
            nearest = math.inf
            for entry, place in enumerate(places):
                inside = pixel - place * recorded.step_size
                if (0 <= inside).all() and (inside < 8).all() and distance[entry] < nearest:
                    nearest = distance[entry]
                    pasted[y, x] = remembered[entry][tuple(inside)]
    # of several places as near, the one that comes first row by row
    first = min((d, *place, entry) for entry, (d, place) in enumerate(zip(distance, places.tolist(), strict=True)))[-1]
    return remembered[first], pasted


def test_oracles_equal_slow_ones(recorded: Trials, shown: dict[str, np.ndarray]) -> None:
    steps = [(row, h) for row in range(3) for h in [*np.flatnonzero(~recorded.visited[row])[:4].tolist(), 7]]
    assert len(steps) > 6
    for row, h in steps:
        nearest, pasted = slow_oracles(recorded, row, TAU + h)
        np.testing.assert_array_equal(shown[NEAREST][row, h], nearest)
        np.testing.assert_array_equal(shown[PASTED][row, h], pasted)


def test_oracles_are_exact_where_the_walk_has_been(recorded: Trials, shown: dict[str, np.ndarray]) -> None:
    true = recorded.walk.frames[:, TAU:].numpy()
    for name in (NEAREST, PASTED):
        np.testing.assert_array_equal(shown[name][recorded.visited], true[recorded.visited])
        assert (shown[name] != true).any()


def test_pasting_fills_what_nothing_covers() -> None:
    views, seen = np.zeros((1, 3, 3, 4, 4, 3), np.uint8), np.zeros((1, 3, 3), np.bool_)
    seen[0, 0, 0], views[0, 0, 0] = True, 9
    pasted = oracles.pasted_pixels(views, seen, 2, np.full((1, 4, 4, 3), 50, np.uint8))
    assert pasted[0, 0, 1, ..., 0].tolist() == [[9, 9, 50, 50]] * 4
    assert (pasted[0, 2, 2] == 50).all()


def test_memory_mean_and_last_frame(recorded: Trials, shown: dict[str, np.ndarray]) -> None:
    for row in range(3):
        mean = np.mean([frame.numpy().astype(float) for frame in recorded.walk.frames[row, :TAU]], axis=0)
        for h in (0, 999):
            assert np.abs(shown[MEAN][row, h] - mean).max() <= 0.5 + 1e-9
            np.testing.assert_array_equal(shown[COPY][row, h], recorded.walk.frames[row, TAU - 1])


# ---- fidelity


def test_fidelity_pools_squares_before_decibels() -> None:
    error, visited = np.zeros((2, 1000)), np.zeros((2, 1000), np.bool_)
    error[0], error[1, :16], visited[1] = 0.1, 0.3, True
    figures = fidelity({"x": error}, visited)["x"]
    assert figures["all places"]["1-16"] == {"mse": pytest.approx(0.2), "psnr": pytest.approx(-10 * math.log10(0.2))}
    assert figures["visited"]["257-1000"] == {"mse": 0.0, "psnr": math.inf}
    assert figures["not visited"]["1-1000"]["psnr"] == pytest.approx(10)
    assert math.isnan(fidelity({"x": error}, visited | True)["x"]["not visited"]["1-16"]["psnr"])


def test_mean_square_is_of_frames_in_0_to_1() -> None:
    black, grey = np.zeros((1, 2, 8, 8, 3), np.uint8), np.full((1, 2, 8, 8, 3), 51, np.uint8)
    assert mean_square(black, grey).tolist() == [[pytest.approx(0.04)] * 2]
