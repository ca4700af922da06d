"""The figures of obstacle-grid: of an exact model, by hand, and what shifts them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from exact import exact_model
from test_landmarks import exact_landmarks
from torch import Tensor

from gtmsm_env import plots, trials
from gtmsm_env.__main__ import main
from gtmsm_env.envs.image_navigation_vector import MOVES
from gtmsm_env.evaluate_obstacles import (
    ALONE,
    HEEDED,
    KNOWN,
    STEPS,
    WITH,
    WITHOUT,
    Measured,
    Trials,
    figures_of,
    in_obstacle,
    look_different,
    measure,
    record_trials,
    summary,
    truth,
    walk_figures,
)
from gtmsm_env.model import GTMSM
from gtmsm_env.recipe_obstacles import WORLD
from gtmsm_env.types import Belief, Walk

SIDE, LAST = 9, 1 + STEPS  # the frame at which imagining begins


def exact() -> GTMSM:
    """Knows by its landmarks where it is."""
    model = exact_landmarks()
    model.world = {"id": WORLD, "kwargs": {}, "start": "center"}
    return model


@pytest.fixture(scope="module")
def recorded() -> Trials:
    return next(record_trials({"id": WORLD, "kwargs": {}}, 3, seed=5))


@pytest.fixture(scope="module")
def measured(recorded: Trials) -> Measured:
    return measure(exact(), recorded)


def table(measured: Measured, title: str) -> dict[str, dict[str, float]]:
    """The one whose title begins so."""
    (found,) = (rows for name, rows in figures_of(measured).items() if name.startswith(title))
    return found


# ---- worlds


def test_trials_are_what_the_world_shows(recorded: Trials) -> None:
    """Each frame is the view of its place, no place is an obstacle, and each action leads where it can."""
    assert recorded.views.shape == (3, SIDE, SIDE, 8, 8, 3)
    assert [part.actions.shape[1] for part in (recorded.walk, recorded.lost, recorded.slipping)] == [2 * STEPS, 12, 500]
    for walk in (recorded.walk, recorded.lost):
        places = truth(walk)
        for w in range(3):
            row, column = places[w].T
            np.testing.assert_array_equal(walk.frames[w], recorded.views[w, row, column])
            assert recorded.free[w, row, column].all()
            for before, action, after in zip(places[w], walk.actions[w], places[w, 1:], strict=False):
                target = np.clip(before + MOVES[action], 0, SIDE - 1)
                np.testing.assert_array_equal(after, target if recorded.free[w][tuple(target)] else before)
    for walk, lost in zip(truth(recorded.walk), truth(recorded.lost), strict=True):
        assert lost[0].tolist() in walk[:LAST].tolist()
    assert (truth(recorded.lost)[:, 0] != 4).any()
    slips = np.diff(truth(recorded.slipping), axis=1) != MOVES[recorded.slipping.actions]
    assert 0.01 < (slips.any(-1) & np.diff(truth(recorded.slipping), axis=1).any(-1)).mean() < 0.05  # the others end at edges


def test_a_trial_depends_on_its_own_seed_alone(recorded: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "CHUNK", 2)
    _, last = record_trials({"id": WORLD, "kwargs": {}}, 3, seed=5)
    np.testing.assert_array_equal(last.views[0], recorded.views[2])
    for part in ("walk", "lost", "slipping"):
        mine, other = getattr(last, part), getattr(recorded, part)
        assert torch.equal(mine.frames[0], other.frames[2])
        assert torch.equal(mine.positions[0], other.positions[2])


def test_obstacles_end_at_the_edges() -> None:
    free = np.ones((2, 3, 3), np.bool_)
    free[0, 0, 0] = free[1, 2, 2] = False
    places = np.array([[0, 0], [2, 2], [-1, 0], [0, -1], [3, 3], [9, 9], [1, 1]])
    inside = in_obstacle(free, np.stack([places, places]))
    assert inside.tolist() == [[True] + [False] * 6, [False, True] + [False] * 5]


def test_frames_look_different_from_a_mean_square_on() -> None:
    views = np.zeros((3, 8, 8, 3), np.uint8)
    views[1], views[2] = 18, 37  # of 255: squares of .00498 and more
    assert not look_different(views)
    views[1], views[2] = 19, 38
    assert look_different(views)
    assert not look_different(views[[0, 1, 0]])


# ---- by hand


def test_moves_are_counted_as_by_hand(recorded: Trials, measured: Measured) -> None:
    known: list[list[bool]] = []
    for w in range(3):
        walk, free = truth(recorded.walk)[w].tolist(), recorded.free[w]
        moves = [(*walk[t], int(recorded.walk.actions[w, t])) for t in range(2 * STEPS)]
        hits = []
        for row, column, action in moves:
            target = (row + MOVES[action][0], column + MOVES[action][1])
            hits.append(0 <= min(target) and max(target) < SIDE and not free[target])
        assert measured.hits[w].tolist() == hits[:STEPS]
        touched = {move for move, hit in zip(moves[:STEPS], hits, strict=False) if hit}
        assert {(p // SIDE, p % SIDE, a) for p, a in np.argwhere(measured.touched[w])} == touched
        opened = set()
        for row, column in {tuple(place) for place in walk[:LAST]}:
            for action, (down, right) in enumerate(MOVES[:4]):
                target = (row + down, column + right)
                if 0 <= min(target) and max(target) < SIDE and free[target]:
                    opened.add((row, column, action))
        assert {(p // SIDE, p % SIDE, a) for p, a in np.argwhere(measured.open[w])} == opened
        assert measured.visited[w].tolist() == [place in walk[:LAST] for place in walk[LAST:]]
        surprised = [hit and move not in touched for move, hit in zip(moves[STEPS:], hits[STEPS:], strict=True)]
        known.append([not any(surprised[: h + 1]) for h in range(STEPS)])
    assert measured.known.tolist() == known
    assert 0 < measured.known.mean() < 1


def test_walk_figures_by_hand() -> None:
    error = np.array([[0.0, 0.1, 0.2, 0.3, 0.4], [0.0, 0.4, 0.6, 0.8, 1.0]])
    (figures,) = walk_figures({"x": error}, (2, 4)).values()
    assert figures == pytest.approx(
        {
            "2": 0.4,
            "4": 0.7,
            "mean": 0.475,
            "share over 0.5 at the end": 0.5,
            "growth per 100 steps": 15,  # .1 and .2 a step
            "95% half-width": 1.96 * math.sqrt(50) / math.sqrt(2),
        }
    )


def test_dreams_are_judged_as_by_hand(measured: Measured) -> None:
    """A dream that is wrong at known steps: beside its place, and in an obstacle."""
    position = measured.position[:, LAST:]
    imagined, novelty = position.astype(float), np.zeros(position.shape[:2])
    imagined[0, :4, 0] += 3
    obstacle = np.argwhere(~measured.free[1])[0]
    imagined[1, 100:110] = obstacle + np.array([0.4, -0.4])
    novelty[1, 100:107] = 0.6
    right = np.ones(position.shape[:2], np.bool_)
    right[2, 20:40] = False
    dream = replace(measured, imagined={HEEDED: imagined}, right={HEEDED: right}, novelty={HEEDED: novelty})
    errors, entries = table(dream, "imagined: position error")[HEEDED], table(dream, "imagined: right entry")
    assert errors["1-16"] == pytest.approx(4 * 3 / (3 * 16))
    assert errors["17-64"] == 0
    seen = measured.visited[:, 16:64]
    assert entries[HEEDED]["17-64"] == pytest.approx(100 * (1 - seen[2, 4:24].sum() / seen.sum()))
    assert entries[HEEDED]["1-16"] == 100
    known = seen & measured.known[:, 16:64]
    assert entries[KNOWN]["17-64"] == pytest.approx(100 * (1 - known[2, 4:24].sum() / known.sum()))
    moved = table(dream, "imagined: what is known")[f"states inside an obstacle, {HEEDED}: novel"]
    assert moved["counted"] >= 10
    assert moved["share"] == pytest.approx(100 * 7 / moved["counted"])


def test_kidnapped_worlds_are_apart(measured: Measured) -> None:
    lost = np.full((3, 13), 0.4)
    lost[0, 2:], lost[1, 4] = 0.6, 0.6
    apart = table(replace(measured, lost=lost, unlike=np.array([True, False, False])), "put elsewhere")
    assert apart["all free places look different"] == {"worlds": 1, "0": 100, "1": 100, "2": 0, "4": 0, "8": 0, "12": 0}
    assert apart["some look alike"] == {"worlds": 2, "0": 100, "1": 100, "2": 100, "4": 50, "8": 100, "12": 100}


def test_a_card_holds_some_columns_of_every_table(measured: Measured) -> None:
    figures = {"worlds": {"episodes": 3}, "hits a walk": 17.5, "tables": figures_of(measured)}
    held = summary(figures)
    assert (held["worlds"], held["hits a walk"]) == ({"episodes": 3}, 17.5)
    assert held["tables"].keys() == figures["tables"].keys()
    for title, rows in held["tables"].items():
        assert rows.keys() == figures["tables"][title].keys()
        for row, columns in rows.items():
            assert 0 < len(columns) <= 2
            for name, value in columns.items():
                whole = figures["tables"][title][row][name]
                assert value is None if math.isnan(whole) else value == pytest.approx(whole, abs=1e-5)


# ---- an exact model


def test_an_exact_model_is_right_until_it_cannot_know(measured: Measured) -> None:
    """It stops where the walk was stopped, nowhere else, and knows that it was never inside an obstacle."""
    among, entries = table(measured, "position error in steps, among"), table(measured, "imagined: right entry")
    assert measured.error[WITH].max() < 0.5 < 1 < among[WITHOUT]["mean"]
    assert all(value == 100 for value in entries[KNOWN].values())
    assert entries[ALONE]["1-256"] < entries[HEEDED]["1-256"] < 100
    known = {name: row["share"] for name, row in table(measured, "imagined: what is known").items()}
    assert list(known.values()) == [100, 0, 100, 100]
    assert measured.lost[:, 1:9].max() < 0.5
    assert np.median(measured.slipping[WITH], axis=1).min() < 0.1


def test_without_obstacles_the_transition_is_enough() -> None:
    """Who moves as actions say is right all along: also an agent that was put elsewhere, once it knows where."""
    model, free = exact(), next(record_trials({"id": WORLD, "kwargs": {"obstacles": (0, 0)}}, 2, seed=1))
    seen = []

    def infer(belief: Belief, action: Tensor, frame: Tensor) -> Belief:
        seen.append(frame)
        return model.predict(belief, action)

    model.infer = infer  # type: ignore[method-assign]
    measured = measure(model, free)
    assert torch.equal(torch.stack(seen, dim=1), free.lost.frames[:, 1:])
    assert measured.error[WITHOUT].max() < 1e-4
    assert measured.lost.max() < 0.5
    assert np.ptp(measured.lost, axis=1).max() < 1e-3
    for name in (HEEDED, ALONE):
        assert measured.right[name][measured.visited].all()
        np.testing.assert_allclose(measured.imagined[name], measured.position[:, LAST:], atol=0.05)
    assert not measured.hits.any()
    assert not measured.touched.any()


def test_states_may_be_turned_and_of_another_unit(recorded: Trials) -> None:
    model = exact()
    model.transition.walls = False
    straight = measure(model, recorded)
    with torch.no_grad():
        model.transition.W_a.copy_(torch.tensor([[0.0, 2.0], [-2.0, 0.0]]) @ model.transition.W_a)
        model.transition.sigma_s *= 2
    turned = measure(model, recorded)
    for name in (HEEDED, ALONE):
        np.testing.assert_allclose(turned.imagined[name], straight.imagined[name], atol=1e-3)
        np.testing.assert_allclose(turned.novelty[name], straight.novelty[name], atol=1e-3)
    np.testing.assert_allclose(turned.slipping[WITHOUT], straight.slipping[WITHOUT], atol=1e-3)
    np.testing.assert_array_equal(turned.stops, straight.stops)


# ---- shifts


def late(walk: Walk, part: str) -> Walk:
    """Its actions or its positions a step late."""
    return replace(walk, **{part: torch.roll(getattr(walk, part), 1, dims=1)})


@pytest.mark.parametrize("part", ["actions", "positions"])
def test_a_shift_of_the_walk_shows(recorded: Trials, measured: Measured, part: str) -> None:
    shifted = measure(exact(), replace(recorded, walk=late(recorded.walk, part)))
    assert shifted.error[WITH].mean() > 5 * measured.error[WITH].mean()
    assert table(shifted, "imagined: right entry")[KNOWN]["1-256"] < 90
    known = table(shifted, "imagined: what is known")
    assert known["moves that an obstacle stopped: imagined to stop"]["share"] < 90


def test_a_shift_of_other_walks_shows(recorded: Trials, measured: Measured) -> None:
    late_positions = {name: late(getattr(recorded, name), "positions") for name in ("lost", "slipping")}
    shifted = measure(exact(), replace(recorded, **late_positions))
    assert shifted.lost[:, 1:].mean() > 2 * measured.lost[:, 1:].mean()
    assert np.median(shifted.slipping[WITH]) > 5 * np.median(measured.slipping[WITH])
    shifted = measure(exact(), replace(recorded, slipping=late(recorded.slipping, "actions")))
    assert shifted.slipping[WITHOUT].mean() > 1.2 * measured.slipping[WITHOUT].mean()


# ---- the command


def test_the_command_prints_writes_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With the model that ships for the world, where none is named."""
    loaded: list[str] = []
    monkeypatch.setattr(GTMSM, "load", lambda name, _: loaded.append(name) or exact())
    monkeypatch.setitem(plots.STYLE, "savefig.dpi", 40)
    command = f"evaluate obstacle-grid --episodes 2 --seed 3 --json {tmp_path}/figures.json --output {tmp_path}/figures"
    assert main(command.split()) == 0
    assert loaded == ["obstacle-grid"]
    printed, bar = capsys.readouterr()
    assert "2/2" in bar
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert figures["model"]["name"] == "obstacle-grid"
    assert f"{figures['hits a walk']:.1f} end at an obstacle" in printed
    lines = iter(printed.splitlines())
    for title, rows in figures["tables"].items():
        assert any(line.startswith(title) for line in lines)
        next(lines)
        for row, columns in rows.items():
            digits = 1 if "%" in title else 4
            shown = ["-" if x is None else f"{x:.{digits}f}" if isinstance(x, float) else str(x) for x in columns.values()]
            assert next(lines).removeprefix(row).split() == shown
    drawn = {file.name: file.read_bytes() for file in (tmp_path / "figures").iterdir()}
    assert set(drawn) == {"figure-6.png", "drift.png"}
    assert all(data.startswith(b"\x89PNG") and len(data) > 10_000 for data in drawn.values())


@pytest.mark.parametrize(("world", "model"), [("obstacle-grid", "image-navigation"), ("image-navigation", "obstacle-grid")])
def test_a_model_of_another_world_is_refused(
    world: str, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(GTMSM, "load", lambda name, _: exact() if name == "obstacle-grid" else exact_model())
    assert main(["evaluate", world, "--model", model]) == 1
    assert f"{model} names GTMSM-" in capsys.readouterr().err
