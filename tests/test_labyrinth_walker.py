"""Who walks in the labyrinth: whims, the agent that turns, and who is taken where nobody is named. See also test_labyrinth.py."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import gtmsm_env  # noqa: F401  registers the worlds
from gtmsm_env.data import record

pytest.importorskip("numba")

from gtmsm_env.envs.labyrinth import LabyrinthEnv, LabyrinthVectorEnv
from gtmsm_env.envs.labyrinth_walker import LEFT, RIGHT, WHIM, Scavenger, Turner

WALK = {"phase": "walk"}
ROTATE: dict[str, Any] = {"speed": 0.0, "turn": 9.3, "frame_size": 4, "task": None}


def generators(rows: int, first: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng(first + row) for row in range(rows)]


def walked(envs: LabyrinthVectorEnv, policy: Any, steps: int, seed: int = 0) -> Any:
    """Actions (steps, N) of a walk that touches nothing."""
    envs.reset(seed=seed, options=WALK)
    actions = []
    for _ in range(steps):
        actions.append(policy())
        assert not envs.step(actions[-1])[-1]["touched"].any()
    return np.array(actions)


# ---------------------------------------------------------------- whims


@pytest.mark.parametrize("physics", ["smooth", "lab"])
def test_whims_do_every_action_and_touch_nothing(physics: Any) -> None:
    counts = []
    for whims in (0.0, 0.05):
        envs = LabyrinthVectorEnv(16, physics=physics, frame_size=4, task=None)
        counts.append(np.bincount(walked(envs, Scavenger(envs, np.random.default_rng(0), whims), 150).ravel(), minlength=8))
    none, some = counts
    assert none[1:4].tolist() == [0, 0, 0]  # backward and to the sides
    assert (some[1:4] > 16).all()
    assert (some > 0).all()


def test_whims_begin_by_chance_and_pass() -> None:
    """One lasts up to `WHIM` steps, each length as often, and the chance is that of each step without one."""
    policy = Scavenger(LabyrinthVectorEnv(200, frame_size=4, task=None), np.random.default_rng(0), whims=0.1)
    wished = np.full(200, 8)  # no action of the world
    steps = np.array([policy._whimsical(wished) for _ in range(400)]).T  # (rows, steps)
    mean = (1 + WHIM) / 2
    assert (steps != 8).mean() == pytest.approx(mean / (mean + 0.9 / 0.1), abs=0.01)
    alone = [  # whims after and before steps without any
        part for row in steps for part in "".join(map(str, row)).split("8")[1:-1] if part and len(set(part)) == 1
    ]
    lengths = np.bincount([len(part) for part in alone])
    assert len(lengths) > WHIM
    assert (lengths[1 : WHIM + 1] > 0.5 * lengths[1]).all()
    assert lengths[WHIM + 1 :].sum() < 0.1 * lengths.sum()  # two alike that follow one another
    assert np.bincount(steps[steps != 8], minlength=8).min() > 0.1 * (steps != 8).sum()
    assert wished.tolist() == [8] * 200


@pytest.mark.parametrize("walker", [Scavenger, Turner])
def test_whims_of_a_row_depend_on_its_own_generator_alone(walker: Any) -> None:
    kwargs = ROTATE if walker is Turner else {"frame_size": 4, "task": None}

    def actions(rows: int) -> Any:
        envs = LabyrinthVectorEnv(rows, **kwargs)
        return record(envs, 60, seed=3, policy=walker(envs, generators(rows), whims=0.2)).actions[0].tolist()

    alone = actions(1)
    assert alone == actions(3)
    env = LabyrinthEnv(**kwargs)
    assert record(env, 60, seed=3, policy=walker(env, np.random.default_rng(0), whims=0.2)).actions.tolist() == alone


def test_a_heedless_scavenger_runs_into_things_on_its_way() -> None:
    touched = {}
    for careful in (True, False):
        envs = LabyrinthVectorEnv(16, frame_size=4, task=None)
        policy, told = Scavenger(envs, np.random.default_rng(0), careful=careful), []
        envs.reset(seed=0, options={"phase": "walk"})
        for _ in range(100):
            told.append(envs.step(policy())[4]["touched"])
        touched[careful] = np.mean(told)
    assert touched[True] == 0
    assert 0.02 < touched[False] < 0.2


# ---------------------------------------------------------------- turning


def test_a_turner_turns_one_way_in_every_world() -> None:
    envs = LabyrinthVectorEnv(12, **ROTATE)
    policy = Turner(envs, np.random.default_rng(0))
    ways = []
    for world in range(4):
        actions = walked(envs, policy, 20, seed=world)
        assert (actions == actions[0]).all()
        ways.append(actions[0])
    assert set(np.ravel(ways).tolist()) == {LEFT, RIGHT}
    assert (np.array(ways) != ways[0]).any(axis=0).mean() > 0.5  # of rows: it is drawn anew in every world
    given = policy()
    given[:] = 7
    assert set(policy().tolist()) <= {LEFT, RIGHT}  # what was given is the caller's


def test_whims_of_a_turner_last_a_step() -> None:
    envs = LabyrinthVectorEnv(40, **ROTATE)
    actions = walked(envs, Turner(envs, np.random.default_rng(0), whims=0.2), 200)
    own = (actions == np.array([LEFT, RIGHT])[:, None, None]).mean(axis=1).max(axis=0)  # of each row's own way
    assert own.mean() == pytest.approx(0.8 + 0.2 / 8, abs=0.01)
    assert np.bincount(actions.ravel(), minlength=8).min() > 0.02 * actions.size


# ---------------------------------------------------------------- who walks where nobody is named


@pytest.mark.parametrize(("kwargs", "walker"), [({"frame_size": 4, "task": None}, Scavenger), (ROTATE, Turner)])
def test_worlds_say_who_explores_them(kwargs: dict[str, Any], walker: Any) -> None:
    def named(envs: Any) -> Any:
        own = generators(3)
        return record(envs, 40, own, seed=1, policy=walker(envs, own)).actions

    envs = LabyrinthVectorEnv(3, **kwargs)
    assert isinstance(envs.explorer(np.random.default_rng(0)), walker)
    assert envs.explorer(np.random.default_rng(0), 0.25).whims == 0.25
    assert record(envs, 40, generators(3), seed=1).actions.tolist() == named(LabyrinthVectorEnv(3, **kwargs)).tolist()
    name = "GTMSM-LabyrinthRotate-v0" if walker is Turner else "GTMSM-Labyrinth-v0"
    scalar = record(gym.make(name, frame_size=4, task=None), 40, np.random.default_rng(0), seed=1).actions
    assert scalar.tolist() == named(LabyrinthVectorEnv(3, **kwargs))[0].tolist()


@pytest.mark.parametrize("walker", [Scavenger, Turner])
def test_a_generator_for_all_rows_or_one_a_row(walker: Any) -> None:
    with pytest.raises(ValueError, match="one generator a row is needed, got 1 for 2 rows"):
        walker(LabyrinthVectorEnv(2), generators(1))
