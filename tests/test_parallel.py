"""Several processes train as one: two that torch.distributed.run really starts, beside one with the batches of both."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_train import command, make_small, same, some_walks, tensors
from torch import nn

from gtmsm_env import parallel, worlds
from gtmsm_env.__main__ import parser
from gtmsm_env.checkpoint import CheckpointError, load_checkpoint
from gtmsm_env.data import Walks
from gtmsm_env.model import GTMSM
from gtmsm_env.recipe import SIZES, Trainer, stages

few_walks = pytest.fixture(some_walks, scope="module", name="few_walks")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, few_walks: Walks) -> None:
    make_small(monkeypatch, few_walks)


@dataclass(frozen=True)
class Two:
    """What two processes left."""

    folder: Path
    told: list[dict[str, Any]]  # by each


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Two:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for _ in range(2):
        folder = tmp_path_factory.mktemp("two")
        program = [str(Path(__file__).with_name("two_processes.py")), str(folder)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        run = subprocess.run([*launcher, *program], timeout=600, env=environment, capture_output=True, text=True)
        # Seldom, on a busy machine, C++ aborts the process that has nothing left to do as it ends: it has done all that is tested.
        if "terminate called without an active exception" not in run.stderr:
            break
    assert run.returncode == 0, run.stderr
    return Two(folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)])


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, few_walks: Walks) -> Path:
    """One process with the batches of two."""
    output = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch, few_walks)
        assert command(output, "--batches", "2") == 0
    return output


def furthest(a: Path, b: Path) -> float:
    """The largest difference between two models' weights."""
    weights, others = tensors(a, "model"), tensors(b, "model")
    assert weights.keys() == others.keys()
    return max(float((x - others[name]).abs().max()) for name, x in weights.items())


def test_two_processes_learn_what_one_does_from_the_double_batch(two: Two, one: Path, tmp_path: Path) -> None:
    """Though a signal stopped them on their way, and they were resumed."""
    assert command(tmp_path) == 0
    assert furthest(two.folder / "run", one) < 1e-5
    assert furthest(tmp_path, one) > 1e-3
    card, alone = (load_checkpoint(folder / "model")[1]["card"] for folder in (two.folder / "run", one))
    assert card["batches"] == 2
    assert (card["command"], card["stages"]) == (alone["command"], alone["stages"])
    assert card["command"].endswith(" --batches 2")


def test_a_signal_to_one_stops_both(two: Two) -> None:
    assert [told["ended"] for told in two.told] == [["interrupted", 0]] * 2


def test_the_first_alone_writes_and_prints(two: Two) -> None:
    first, second = two.told
    assert (second["written"], second["printed"]) == ([], "")
    assert {"run/training.json.new", "run/model.safetensors.new"} <= set(first["written"])
    assert "Stopped; the checkpoint" in first["printed"]
    assert len(list((two.folder / "run").glob("events*"))) == 2  # TensorBoard's, of both commands


def test_a_training_of_two_is_resumed_by_one_with_as_many_batches(two: Two, tmp_path: Path) -> None:
    for name in ("training.json", "training.safetensors"):
        shutil.copy(two.folder / "run" / name, tmp_path)
    with pytest.raises(CheckpointError, match=r"differs in \['batches'\]. Give the same"):
        command(tmp_path, "--resume")
    assert command(tmp_path, "--resume", "--batches", "2") == 0
    assert same(tmp_path, two.folder / "run")


def test_batches_that_processes_cannot_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "count", lambda: 2)
    with pytest.raises(ValueError, match="equally; given --batches 3 for 2 processes"):
        command(tmp_path, "--batches", "3")


def test_each_process_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds, "check_device", lambda device: None)
    device = lambda given: parser().parse_args(["train", "labyrinth", "--device", given]).device  # noqa: E731
    assert device("cuda") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [device(given) for given in ("cuda", "cuda:1", "cpu")] == ["cuda:3", "cuda:1", "cpu"]


def test_a_step_by_hand(few_walks: Walks) -> None:
    """The mean gradient of three batches, each of its own draws, clipped, and a step of Adam."""
    stage = replace(stages("default")[0], tau=16, ahead=8)

    def trainer() -> Trainer:
        torch.manual_seed(0)
        return Trainer(GTMSM((8, 8, 3), 5, **SIZES["default"] | {"hidden": 16}), few_walks, [stage], 4, iteration=7, batches=3)

    stepped, hand = trainer(), trainer()
    for each in (stepped, hand):
        each.begin()
    loss = stepped.step(stepped.optimizer())
    optimizer, losses, gradients = hand.optimizer(), [], []
    for batch in range(3):
        rng = np.random.default_rng([4, 0, 7, batch])
        drawn = hand.recall_loss(stage, rng, torch.Generator().manual_seed(int(rng.integers(2**63))))
        losses.append(float(drawn.detach()))
        gradients.append(torch.autograd.grad(drawn / 100, hand.model.transition.W_a)[0])
    assert loss == pytest.approx(math.fsum(losses) / 3, rel=1e-5)
    assert len(set(losses)) == 3
    hand.model.transition.W_a.grad = sum(gradients) / 3  # type: ignore[assignment]
    nn.utils.clip_grad_norm_([hand.model.transition.W_a], 10)
    optimizer.step()
    torch.testing.assert_close(stepped.model.transition.W_a, hand.model.transition.W_a)
