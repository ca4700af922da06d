"""The walking experiment in another engine, ViZDoom; skipped where that is not installed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

pytest.importorskip("numba")
pytest.importorskip("vizdoom")

from exact import exact_walker

from gtmsm_env import recipe_vizdoom
from gtmsm_env.data import record
from gtmsm_env.envs.vizdoom import VizDoomEnv
from gtmsm_env.envs.vizdoom_room import build
from gtmsm_env.evaluate_labyrinth import COMPOSED, LINES, MEAN, NEAREST, Trials, draw, judge, model_free_frames, record_trials
from gtmsm_env.model import GTMSM
from gtmsm_env.recipe_labyrinth import LabyrinthTrainer
from gtmsm_env.recipe_vizdoom import WALKING, new_model, policy, stages
from gtmsm_env.train import Experiment, experiment, gather
from gtmsm_env.trials import mean_square, psnr
from gtmsm_env.worlds import check_env

SHORT = replace(WALKING, steps=40, tau=24, horizon=6, far=16, spans=((1, 2), (1, 6)))
WORLD = {"id": WALKING.world, "kwargs": {}, "start": "anywhere"}


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch) -> GTMSM:
    """What ships for the labyrinth, here a model that has learned nothing but the labyrinth's law."""
    model = exact_walker()
    monkeypatch.setattr(GTMSM, "load", lambda *_: model)
    return model


@pytest.fixture(scope="module")
def trials() -> Trials:
    return next(record_trials(SHORT, WORLD, 2, seed=3))


def test_depths_are_where_rays_leave_the_room() -> None:
    room = build("test", 4)
    for x, y, heading in ((0.4, 0.3, 0.0), (1.9, 2.2, 0.7), (2.5, 1.1, 2.5), (1.0, 2.0, -2.0)):
        found = room.depths(np.array([x, y, heading]), 32, 89.7)
        for column in (0, 11, 31):
            aside = (16 - column - 0.5) / 16 * math.tan(math.radians(89.7 / 2))
            dx, dy = math.cos(heading) - aside * math.sin(heading), math.sin(heading) + aside * math.cos(heading)
            depth = 0.0
            while room.clearance(x + depth * dx, y + depth * dy) > 0:
                depth += 0.002
            assert found[column] == pytest.approx(depth, abs=0.004)


def test_trials_are_what_the_engine_shows(trials: Trials) -> None:
    """The composite by true poses, depths and camera is nearer to the true frames than the nearest frame and the mean."""
    assert trials.walk.poses is not None
    assert trials.depth.shape == (2, 30, 32)
    assert trials.camera == {"field_of_view": VizDoomEnv.field_of_view, "height": VizDoomEnv.camera_height, "ceiling": 1.5}
    alone = next(record_trials(SHORT, WORLD, 1, seed=4))
    assert torch.equal(alone.walk.frames[0], trials.walk.frames[1])
    shown, _ = model_free_frames(trials)
    found = {name: psnr(float(mean_square(frames, trials.future.numpy()).mean())) for name, frames in shown.items()}
    assert found[COMPOSED] > max(found[NEAREST], found[MEAN]) + 2


def test_the_model_takes_all_but_the_law(base: GTMSM) -> None:
    one, same, other = new_model(3), new_model(3), new_model(4)
    for name, x in one.state_dict().items():
        assert torch.equal(x, same.state_dict()[name])
        if "stereo" not in name:  # of which the stand-in has none
            starts_alike = name == "transition.rho"
            assert starts_alike or torch.equal(x, base.state_dict()[name]) != name.startswith("transition")
    assert not torch.equal(one.transition.W_a, other.transition.W_a)
    assert one.projected is not None
    assert one.projected.camera.height == VizDoomEnv.camera_height
    env = gym.make(WALKING.world)
    check_env(one, env)
    env.close()
    with pytest.raises(ValueError, match="leave out --size"):
        stages("paper")


def test_its_law_is_learned_from_displacements() -> None:
    """Of an engine whose momentum is no part of the law: what is left is small beside a step."""
    learned: Experiment = replace(experiment("labyrinth-vizdoom", "default", "procedural", 0, False), walks=8, rows=4, steps=40)
    walks = gather(learned, "procedural", 0)
    assert walks.displacements is not None
    assert walks.displacements.shape == (8, 39, 3)
    assert set(walks.actions.unique().tolist()) == set(range(8))  # by whims
    model = learned.new_model()
    few = [replace(stage, iterations=n, tau=32) for stage, n in zip(learned.stages, (60, 60), strict=False)]
    trainer = LabyrinthTrainer(model, walks, few, 0)
    for number, stage in enumerate(few):
        trainer.stage, trainer.iteration = number, 0
        trainer.begin()
        optimizer = trainer.optimizer()
        for _ in range(stage.iterations):
            trainer.step(optimizer)
    wrong = (model.filter(walks.actions)[2][:, 1:] - walks.displacements).square().mean(dim=(0, 1)).sqrt()
    assert wrong[:2].max() < 0.04  # units; a step is .15
    assert wrong[2] < math.radians(2)


def test_walks_with_whims_touch_nothing() -> None:
    envs = gym.make_vec(WALKING.world, num_envs=2, task=None)
    walk = record(envs, 60, seed=0, policy=policy(envs, np.random.default_rng(0)))
    assert walk.poses is not None
    rooms: Any = [env.unwrapped.room for env in envs.unwrapped.envs]  # type: ignore[attr-defined]
    for room, poses in zip(rooms, walk.poses.tolist(), strict=True):
        assert min(room.clearance(x, y) for x, y, _ in poses) > VizDoomEnv.radius
    assert len(walk.actions.unique()) > 5
    envs.close()


def test_it_is_judged_and_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(recipe_vizdoom.AGENTS, "labyrinth-vizdoom", SHORT)
    model = new_model(0)
    figures, measured, first = judge("labyrinth-vizdoom", model, 1, seed=3)
    assert json.dumps(figures)
    assert figures["right room"] is None
    assert figures["fidelity"].keys() == LINES.keys() & figures["fidelity"].keys()
    assert figures["poses"]["units"]["16"] > 0
    draw(tmp_path, model, measured, first)
    assert (tmp_path / "figure-3.png").stat().st_size > 0
