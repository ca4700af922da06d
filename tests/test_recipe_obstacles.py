"""Landmarks are learned, alone, from either objective."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from exact import exact_landmarks, exact_model
from torch import Tensor

from gtmsm_env import recipe_obstacles, train
from gtmsm_env.__main__ import parser
from gtmsm_env.checkpoint import load_checkpoint
from gtmsm_env.data import Walks, concatenate, recolour, record_walks
from gtmsm_env.envs.image_navigation_vector import MOVES
from gtmsm_env.model import GTMSM
from gtmsm_env.obstacles import Known, Obstacles
from gtmsm_env.recipe import Trainer
from gtmsm_env.recipe_obstacles import WORLD, new_model, stages


@pytest.fixture(scope="module")
def walks() -> Walks:
    return concatenate(list(record_walks(WORLD, {"split": "train", "task": None}, 40, 40, 0, chunk=40, displacements=True)))


def test_displacements_are_of_the_frames_and_actions(walks: Walks) -> None:
    """Targets of the step they belong to, wherever a walk is cut, gathered or recoloured."""
    assert walks.displacements is not None
    moved = walks.displacements.any(dim=-1)
    assert torch.equal(walks.displacements[moved], torch.from_numpy(MOVES).to(torch.int8)[walks.actions[moved]])
    same = walks.index[:, 1:] == walks.index[:, :-1]
    assert not same[moved].any()
    assert same[~moved].all()
    for other in (recolour(walks, np.random.default_rng(0)), walks.to("cpu"), concatenate([walks, walks]).batch(torch.arange(40, 80), 40)):
        assert other.displacements is not None
        assert torch.equal(other.displacements, walks.displacements)
    cut = walks.batch(torch.tensor([3, 1]), 7).displacements
    assert cut is not None
    assert torch.equal(cut, walks.displacements[[3, 1], :6])


def test_the_rest_of_the_model_is_the_shipped_one() -> None:
    base, model = GTMSM.load("image-navigation"), new_model("default", 0)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in base.state_dict().items())
    assert {name.partition(".")[0] for name in model.state_dict().keys() - base.state_dict().keys()} == {"landmarks", "obstacles"}
    assert model.world == {**(base.world or {}), "id": WORLD}
    assert model.transition.sigma_s == pytest.approx(base.step_length / 10)
    assert new_model("paper", 0).views is None


@pytest.mark.parametrize("displacements", [False, True])
def test_landmarks_learn_and_the_rest_rests(walks: Walks, displacements: bool) -> None:
    stage = replace(stages(displacements)[0], iterations=4, tau=24, ahead=0 if displacements else 8)
    model = new_model("default", 0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = Trainer(model, walks, [stage], 0)
    trainer.begin()
    optimizer = trainer.optimizer()
    for _ in range(4):
        trainer.step(optimizer)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) != name.startswith("landmarks"), name


def test_the_error_of_displacements(walks: Walks) -> None:
    """In tenths of a step: the exact model moves in steps, along the world's axes, and knows nothing of obstacles."""
    model = exact_model()
    trainer = Trainer(model, walks, stages(displacements=True), 0)
    stage = replace(trainer.stages[0], tau=40)
    batch = walks.batch(torch.from_numpy(np.random.default_rng(0).integers(len(walks), size=32)), 40)
    assert batch.displacements is not None
    wrong = (model.filter(batch.actions)[2][:, 1:] - batch.displacements).norm(dim=-1)
    assert (wrong > 0.5).any()
    loss = trainer.displacement_loss(stage, np.random.default_rng(0), torch.Generator())
    torch.testing.assert_close(loss, 0.5 * (wrong / 0.1).square().mean(), rtol=1e-3, atol=1e-3)


def test_what_walks_felt(walks: Walks) -> None:
    """Cells and stops are those of true positions, for a model that knows where it is; its lattice is spanned by up and left."""
    cells, targets, stops, inside = Trainer(exact_landmarks(), walks, stages(displacements=False), 0)._felt()
    assert walks.displacements is not None
    true = torch.cat([torch.zeros(len(walks), 1, 2), walks.displacements.cumsum(dim=1)], dim=1).long()

    def cell(place: Tensor) -> Tensor:
        return (8 - place[..., 0]) * 17 + 8 - place[..., 1]

    moves = torch.from_numpy(MOVES)[walks.actions]
    goal = true[:, :-1] + moves
    within = (goal.abs() <= 4).all(dim=-1)
    blocked = ~walks.displacements.any(dim=-1) & moves.any(dim=-1) & within
    assert torch.equal(cells, cell(true))
    assert torch.equal(stops, blocked)
    assert blocked.sum() > 50
    assert torch.equal(targets[within], cell(goal)[within])
    assert inside.sum() == 81


def test_what_comes_to_be_known_is_later_than_what_is_known(walks: Walks, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand, step by step: a move is known once it was made, and what is asked is what was not known then."""
    trainer = Trainer(exact_landmarks(), walks, stages(displacements=False)[-1:], 0)
    cells, targets, stops, _ = trainer._felt()
    obstacles = trainer.model.obstacles
    assert obstacles is not None
    given: list[Known] = []
    monkeypatch.setattr(Obstacles, "forward", lambda self, known: (given.append(known), torch.zeros(known.seen.shape))[1])
    stage = replace(trainer.stages[0], tau=16)
    loss = trainer.obstacles_loss(stage, np.random.default_rng(0), torch.Generator())
    assert float(loss) == pytest.approx(100 * math.log(2))  # of a network that knows nothing
    generator = np.random.default_rng(0)
    rows, tau = generator.integers(len(walks), size=128), generator.integers(16, cells.shape[1], size=(128, 1))[:, 0]
    for case in range(128):
        seen = {int(cell) for cell in cells[rows[case], : tau[case]]}
        touched = {int(targets[rows[case], t]) for t in range(tau[case] - 1) if stops[rows[case], t]} - seen
        assert set(given[0].seen[case].flatten().nonzero().flatten().tolist()) == seen
        assert set(given[0].touched[case].flatten().nonzero().flatten().tolist()) == touched


def test_displacements_are_learned_from_as_many_walks_as_are_encoded(walks: Walks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gtmsm_env.recipe.RECALLED", 8)
    trainer = Trainer(new_model("default", 0), walks, [replace(stages(displacements=True)[0], iterations=3, tau=16)], 0)
    trainer.begin()
    optimizer = trainer.optimizer()
    assert all(np.isfinite(trainer.step(optimizer)) for _ in range(3))


def test_obstacles_are_learned_from_what_walks_come_to_know(walks: Walks) -> None:
    """They are told from free places better and better."""
    model = exact_landmarks()
    stage = replace(stages(displacements=False)[-1], iterations=100)
    assert stage.name == "obstacles"
    trainer = Trainer(model, walks, [stage], 0)
    optimizer = trainer.optimizer()
    losses = [trainer.step(optimizer) for _ in range(stage.iterations)]
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == name.startswith("obstacles"), name


# ---------------------------------------------------------------- the command


def test_the_command_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = replace(stages(displacements=True)[0], iterations=2, tau=16)
    monkeypatch.setattr(recipe_obstacles, "stages", lambda displacements: [stage])
    monkeypatch.setattr(recipe_obstacles, "WALKS", 40)
    monkeypatch.setattr(recipe_obstacles, "STEPS", 30)
    monkeypatch.setattr(train, "JUDGED", 2)
    monkeypatch.chdir(tmp_path)
    assert train.run(parser().parse_args(["train", "obstacle-grid", "--displacements"])) == 0
    assert GTMSM.load("runs/obstacle-grid/model").landmarks is not None
    card = load_checkpoint("runs/obstacle-grid/model")[1]["card"]
    assert card["command"].endswith("train obstacle-grid --seed 0 --size default --images procedural --displacements")
    assert card["walks"] == {"count": 40, "steps": 30, "split": "train"}
    assert card["figures"].keys() == {"worlds", "hits a walk", "tables"}
    assert card["figures"]["worlds"]["episodes"] == 2
    with pytest.raises(ValueError, match="Leave out --displacements"):
        train.run(parser().parse_args(["train", "image-navigation", "--displacements"]))
