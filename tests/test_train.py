"""Training in small: that it learns, that it can be interrupted anywhere and ends at the same weights, that it refuses what it must."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tqdm
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from gtmsm_env import recipe, recipe_labyrinth, train
from gtmsm_env.__main__ import parser
from gtmsm_env.checkpoint import CheckpointError, load_checkpoint
from gtmsm_env.data import Walks, concatenate, distinct, record, record_walks
from gtmsm_env.envs.image_navigation import ImageNavigationVectorEnv
from gtmsm_env.evaluate import OURS, judge, summary
from gtmsm_env.model import GTMSM, PRETRAINED, shipped
from gtmsm_env.recipe import SIZES, Stage, Trainer, stages

FIRST = 10  # iterations of the first stage, 2 of each other
SMALL: dict[str, Any] = {"z_size": 8, "hidden": 16}


def tiny(size: str) -> list[Stage]:
    """The recipe with every stage in it, short."""
    first, *others = (replace(s, iterations=2, tau=min(s.tau, 16), ahead=min(s.ahead, 8), K=min(s.K, 8)) for s in stages(size))
    return [replace(first, iterations=FIRST), *others]


STAGES = len(tiny("default"))
ITERATIONS = FIRST + 2 * (STAGES - 1)


def some_walks() -> Walks:
    return distinct(record(ImageNavigationVectorEnv(24, task=None, split="train"), 80, np.random.default_rng(0), seed=0))


few_walks = pytest.fixture(some_walks, scope="module", name="few_walks")


def make_small(patch: pytest.MonkeyPatch, walks: Walks) -> None:
    """Seconds instead of an hour: a small model, few walks and a short recipe."""
    patch.setattr(recipe, "stages", tiny)
    patch.setattr(recipe, "SIZES", {size: kwargs | SMALL for size, kwargs in SIZES.items()})
    patch.setattr(train, "gather", lambda *_: walks)
    patch.setattr(recipe, "WALKS", len(walks))
    patch.setattr(train, "JUDGED", 1)
    patch.setattr(train, "open_images", lambda *_, **__: None)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, few_walks: Walks) -> None:
    make_small(monkeypatch, few_walks)


def command(output: Path, *more: str) -> int:
    """As the command line does, but that errors and interruptions are raised instead of told."""
    return train.run(parser().parse_args(["train", "image-navigation", "--output", str(output), *more]))


def tensors(folder: Path, name: str) -> dict[str, Tensor]:
    return load_checkpoint(folder / name)[0]


def same(a: Path, b: Path) -> bool:
    """Bit for bit, the model and the last checkpoint."""
    pairs = [(tensors(a, name), tensors(b, name)) for name in ("model", "training")]
    return all(x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x) for x, y in pairs)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, few_walks: Walks) -> Path:
    """An uninterrupted training."""
    output = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch, few_walks)
        assert command(output, "--json", str(output / "figures.json")) == 0
    return output


def interrupted(output: Path, *more: str) -> None:
    """Runs a command that a signal must end. Elsewhere one comes from outside, at a time limit say, and ends the tests."""
    with pytest.raises(KeyboardInterrupt):
        command(output, *more)


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, do: Callable[[Trainer], None]) -> None:
    """Do something before the step of this number, counted from now."""
    step, calls = Trainer.step, iter(range(1, 10**6))

    def stepped(trainer: Trainer, optimizer: torch.optim.Adam) -> float:
        if next(calls) == number:
            do(trainer)
        return step(trainer, optimizer)

    monkeypatch.setattr(Trainer, "step", stepped)


# ---------------------------------------------------------------- resuming


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(1, id="first step"),
        pytest.param(4, id="in a stage"),
        pytest.param(FIRST, id="between stages"),
        pytest.param(FIRST + 3, id="where walls begin"),
        pytest.param(ITERATIONS - 4, id="in the vae"),
        pytest.param(ITERATIONS - 1, id="in the views"),
        pytest.param(ITERATIONS, id="last step"),
    ],
)
def test_an_interrupted_training_ends_at_the_same_weights(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Ctrl-C leaves a checkpoint; --resume ends where an uninterrupted run does, bit for bit."""
    before = signal.getsignal(signal.SIGINT)  # a job in the background starts with Ctrl-C ignored
    with monkeypatch.context() as patch:
        at_step(patch, number, lambda _: signal.raise_signal(signal.SIGINT))
        interrupted(tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / "model.json").exists()
    config = load_checkpoint(tmp_path / "training", kind="training")[1]
    stages = [stage.iterations for stage in tiny("default")]
    assert sum(stages[: config["stage"]]) + config["iteration"] == number  # the step was finished
    assert command(tmp_path, "--resume") == 0
    assert same(tmp_path, whole)


def test_a_training_interrupted_again_and_again(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        with monkeypatch.context() as patch:
            at_step(patch, 6, lambda _: signal.raise_signal(signal.SIGTERM))
            interrupted(tmp_path, "--resume")
    assert command(tmp_path, "--resume") == 0
    assert same(tmp_path, whole)


def test_a_crash_loses_what_came_after_the_last_checkpoint(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(_: Trainer) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(train, "CHECKPOINT_SECONDS", -1)  # one after every step
        at_step(patch, FIRST + 4, crash)
        with pytest.raises(MemoryError):
            command(tmp_path)
    config = load_checkpoint(tmp_path / "training")[1]
    assert (config["stage"], config["iteration"]) == (2, 1)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert command(tmp_path, "--resume") == 0
    assert same(tmp_path, whole)


def test_a_finished_training_resumed_is_judged_alone(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It walks and learns no more; the model and its card are written as they were."""
    for name in ("training.json", "training.safetensors"):
        shutil.copy(whole / name, tmp_path)
    monkeypatch.setattr(train, "gather", lambda *_: pytest.fail("it walked"))
    monkeypatch.setattr(Trainer, "step", lambda *_: pytest.fail("it learned"))
    assert command(tmp_path, "--resume") == 0
    assert same(tmp_path, whole)
    assert load_checkpoint(tmp_path / "model")[1] == load_checkpoint(whole / "model")[1]


def test_a_seed_makes_the_weights(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those at the end, and those that training begins with."""
    began: list[Tensor] = []
    torch.manual_seed(5)  # of no account
    for seed in ("0", "1"):
        with monkeypatch.context() as patch:
            at_step(patch, 1, lambda trainer: began.append(trainer.model.transition.W_a.detach().clone()))
            assert command(tmp_path / seed, "--seed", seed) == 0
    assert same(tmp_path / "0", whole)
    assert not torch.equal(*began)
    one, other = tensors(tmp_path / "1", "model"), tensors(whole, "model")
    assert not any(torch.equal(x, other[name]) for name, x in one.items() if x.is_floating_point() and "wall_scale" not in name)


def test_seconds_of_earlier_runs_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**6, 100))  # every look at the clock finds 100 seconds more
    monkeypatch.setattr("gtmsm_env.train.time.process_time", lambda: float(next(clock)))
    with monkeypatch.context() as patch:
        at_step(patch, 5, lambda _: signal.raise_signal(signal.SIGINT))
        interrupted(tmp_path)
    first = load_checkpoint(tmp_path / "training")[1]["seconds"]
    assert first == 100
    assert command(tmp_path, "--resume") == 0
    assert load_checkpoint(tmp_path / "model")[1]["card"]["seconds"] == first + 200  # at the save, and at the end


# ---------------------------------------------------------------- what it leaves


def test_the_model_and_its_card(whole: Path) -> None:
    model = GTMSM.load(whole / "model")
    assert model.world == {
        "id": "GTMSM-ImageNavigation-v0",
        "kwargs": {"image_size": 32, "crop_size": 8, "step_size": 3},
        "start": "center",
    }
    assert model.transition.walls
    assert model.config["z_size"] == 8
    card = load_checkpoint(whole / "model")[1]["card"]
    assert card.pop("command").startswith("python ")
    assert card.pop("versions").keys() == {"gtmsm-env", "torch", "numpy", "python"}
    assert card.pop("seconds") >= 0
    figures = card.pop("figures")
    assert figures["worlds"] == {"images": "procedural", "split": "test", "episodes": 1}
    judged, *_ = judge(model, 1)
    assert figures == summary(judged)
    shown = figures["PSNR in dB, imagined steps 1-256"][OURS]
    assert shown["all places"] == pytest.approx(judged["fidelity"][OURS]["all places"]["1-256"]["psnr"], abs=0.01)
    assert figures["positions, imagined steps 1-1000"].keys() >= {
        "R^2 of inferred to true position",
        "drift of the error, steps per 1000 steps",
    }
    assert card == {
        "world": "image-navigation",
        "seed": 0,
        "size": "default",
        "images": "procedural",
        "batches": 1,
        "scale": 1,
        "walks": {"count": recipe.WALKS, "steps": recipe.STEPS, "split": "train"},
        "stages": [asdict(stage) for stage in tiny("default")],
    }
    report = json.loads((whole / "figures.json").read_text())
    assert report["seeds"] == [0]
    assert report["figures"]["model"] == str(whole / "model")
    assert report["figures"]["worlds"] == figures["worlds"]


def test_every_part_was_taught(whole: Path) -> None:
    torch.manual_seed(0)
    before = GTMSM((8, 8, 3), 5, **SIZES["default"] | SMALL).state_dict()
    after = tensors(whole, "model")
    assert [name for name, x in before.items() if torch.equal(x, after[name])] == []


def test_losses_are_written_for_tensorboard(whole: Path) -> None:
    events = EventAccumulator(str(whole)).Reload()
    first = tiny("default")[0].name
    assert events.Tags()["scalars"] == [f"loss/1_{first}"]  # of every tenth iteration; the other stages have 2
    assert [(event.step, np.isfinite(event.value)) for event in events.Scalars(f"loss/1_{first}")] == [(10, True)]


def test_progress_tells_the_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In shares of the recipe's cost; a resumed run goes on where it was, and does not take what was done before for its own speed."""
    shown: list[dict[str, Any]] = []

    class Recorded(tqdm.tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            updated = super().update(n)
            shown.append(dict(self.format_dict))
            return updated

    monkeypatch.setattr(tqdm, "tqdm", Recorded)
    with monkeypatch.context() as patch:
        at_step(patch, FIRST + 4, lambda _: signal.raise_signal(signal.SIGINT))
        interrupted(tmp_path)
    stages = tiny("default")
    cost = [stage.cost * stage.iterations for stage in stages]
    assert [bar["n"] for bar in shown] == [round(x) for x in (cost[0], cost[0], sum(cost[:2]))]  # after 10 steps, and at each stage's end
    first = shown.copy()
    shown.clear()
    assert command(tmp_path, "--resume") == 0
    assert {bar["initial"] for bar in shown} == {round(sum(cost[:3]))}  # step 4 after the first stage is the last of the third
    assert shown[-1]["n"] == shown[-1]["total"] == round(sum(cost))
    for bar in first + shown[1:]:
        assert tqdm.tqdm.format_meter(**bar | {"bar_format": "{remaining}"}) != "?"


# ---------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("more", "differs"), [(["--seed", "3"], "seed"), (["--images", "elsewhere"], "images"), (["--size", "paper"], "size")]
)
def test_other_arguments_do_not_resume(whole: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], differs: str) -> None:
    monkeypatch.setattr(train, "gather", lambda *_: pytest.fail("it walked first"))
    before = (whole / "training.json").read_bytes()
    with pytest.raises(CheckpointError, match=rf"arguments it began with; .*differs in \['{differs}'.*another --output"):
        command(whole, "--resume", *more)
    assert (whole / "training.json").read_bytes() == before


def test_a_training_is_not_overwritten(whole: Path) -> None:
    with pytest.raises(ValueError, match=r"holds a training already. Continue it with --resume, or choose another --output"):
        command(whole)


def test_something_else_does_not_resume(tmp_path: Path, whole: Path) -> None:
    for name in ("safetensors", "json"):
        (tmp_path / f"training.{name}").write_bytes((whole / f"model.{name}").read_bytes())
    with pytest.raises(CheckpointError, match="kind 'training' is needed"):
        command(tmp_path, "--resume")
    (tmp_path / "training.json").write_text("{")
    with pytest.raises(CheckpointError, match="must be whole"):
        command(tmp_path, "--resume")


def test_an_output_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is found before anything is computed."""

    def gather(*_: Any) -> Walks:
        raise AssertionError("it began to walk")

    monkeypatch.setattr(train, "gather", gather)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="must be writable"):
        command(tmp_path / "file" / "run")
    with pytest.raises(ValueError, match="must be writable"):
        command(tmp_path / "run", "--json", str(tmp_path / "file" / "figures.json"))


def test_a_loss_that_is_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stops at once, and the checkpoint before it stays good."""

    def poison(trainer: Trainer) -> None:
        with torch.no_grad():
            trainer.model.transition.W_a[0, 0] = torch.nan

    monkeypatch.setattr(train, "CHECKPOINT_SECONDS", -1)
    at_step(monkeypatch, FIRST + 2, poison)
    with pytest.raises(FloatingPointError, match=r"The loss of stage 2 \(moves\) became nan. Train with another --seed"):
        command(tmp_path)
    assert all(torch.isfinite(x).all() for x in tensors(tmp_path, "training").values())


# ---------------------------------------------------------------- learning


def test_the_papers_size_is_trained_too(tmp_path: Path) -> None:
    assert command(tmp_path, "--size", "paper") == 0
    assert GTMSM.load(tmp_path / "model").views is None
    assert [stage["name"] for stage in load_checkpoint(tmp_path / "model")[1]["card"]["stages"]] == [s.name for s in stages("paper")]


def few(walks: int) -> train.Experiment:
    """Image navigation, learned from few and short walks."""
    return replace(train.experiment("image-navigation", "default", "procedural", 0, displacements=False), walks=walks, steps=20)


def test_walks_are_gathered_in_the_train_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    walks = train.gather(few(3), "procedural", 0)
    assert walks.index.shape == (3, 20)
    again = train.gather(few(3), "procedural", 0)
    assert torch.equal(walks.frames, again.frames)
    assert not torch.equal(walks.actions, train.gather(few(3), "procedural", 1).actions)


def test_gathered_walks_are_recoloured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    walks = train.gather(few(20), "procedural", 0)
    own = concatenate(list(record_walks(recipe.WORLD, {**recipe.RULES, "split": "train", "task": None}, 20, 20, 0)))
    assert torch.equal(walks.index, own.index)
    same = [torch.equal(walks.frames[row, 0], own.frames[row, 0]) for row in range(20)]
    assert 3 < sum(same) < 17


@pytest.mark.parametrize("world", recipe_labyrinth.AGENTS)
def test_experiments_of_the_labyrinth(world: str) -> None:
    """Who walks, what is learned from, and by which targets: those of rotating are frames alone."""
    agent = recipe_labyrinth.AGENTS[world]
    for size in ("default", "paper"):
        learned = train.experiment(world, size, "procedural", 0, displacements=False)
        times = 4 if (world, size) == ("labyrinth-rotate", "paper") else 1  # whose VAE learns too
        assert (learned.world, learned.walks, learned.steps) == (agent.world, times * agent.walks, agent.steps)
        assert learned.stages == recipe_labyrinth.stages(size, agent)
        assert learned.displacements == (world == "labyrinth")
        assert (learned.trainer, learned.policy) == (recipe_labyrinth.LabyrinthTrainer, recipe_labyrinth.policy)
        assert learned.rules == recipe_labyrinth.RULES
    with pytest.raises(ValueError, match=f"among obstacles alone; given for {world}. Leave out --displacements"):
        train.experiment(world, "default", "procedural", 0, displacements=True)
    with pytest.raises(ValueError, match="the labyrinth has none: leave out --images photos"):
        train.experiment(world, "default", "photos", 0, displacements=False)
    with pytest.raises(ValueError, match="labyrinth, labyrinth-rotate, labyrinth-quake and labyrinth-vizdoom; given 'maze'"):
        train.experiment("maze", "default", "procedural", 0, displacements=False)


@pytest.mark.parametrize("world", recipe_labyrinth.AGENTS)
def test_walks_of_the_labyrinth_are_gathered_as_its_policy_walks(world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the train split, of the colours that are seen there, with displacements where they are targets; by whims too."""
    pytest.importorskip("numba")
    monkeypatch.undo()
    learned = train.experiment(world, "default", "procedural", 0, displacements=False)
    learned = replace(learned, walks=6, steps=40, rules={"frame_size": 8}, rows=4)
    walks = train.gather(learned, "procedural", 0)
    assert walks.index.shape == (6, 40)
    kwargs = {"frame_size": 8, "split": "train", "task": None}
    own = concatenate(list(record_walks(learned.world, kwargs, 6, 40, 0, 4, learned.displacements, recipe_labyrinth.policy)))
    assert torch.equal(walks.frames, own.frames)
    assert torch.equal(walks.actions, own.actions)
    assert not torch.equal(walks.actions, train.gather(learned, "procedural", 1).actions)
    if world == "labyrinth":
        assert walks.displacements is not None
        assert own.displacements is not None
        assert walks.displacements.shape == (6, 39, 3)
        assert torch.equal(walks.displacements, own.displacements)
        assert {1, 2, 3} & set(walks.actions.unique().tolist()), "backward or to the side, which are whims alone"
    else:
        assert walks.displacements is None


def test_images_without_a_test_split_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, split: str) -> None:
        raise ValueError(f"none of the images of {source} falls in split {split!r}")

    monkeypatch.setattr(train, "open_images", refuse)
    monkeypatch.setattr(train, "gather", lambda *_: pytest.fail("it walked first"))
    with pytest.raises(ValueError, match="none of the images of few falls in split 'test'"):
        command(tmp_path / "run", "--images", "few")


def test_nothing_to_resume_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert command(tmp_path, "--resume") == 0
    assert "to resume: starting anew" in capsys.readouterr().out


@pytest.mark.parametrize("name", shipped())
def test_cards_of_shipped_models_say_how_they_were_made(name: str) -> None:
    card = load_checkpoint(PRETRAINED / name)[1]["card"]
    assert card.keys() >= {"command", "versions", "seconds", "seed", "walks", "figures"}
    taught = train.experiment(card["world"], card["size"], card["images"], card["seed"], displacements=False).stages
    taught = stages(card["size"]) if card["world"] == "image-navigation" else taught  # whose own are made short here
    assert card["stages"] == [asdict(stage) for stage in taught]
    assert "tmp" not in json.dumps(card)


def test_places_are_learned_from_frames_and_actions() -> None:
    """The recipe's first stage, on principal components: inferred positions are the true ones, up to a linear map."""
    walk = record(ImageNavigationVectorEnv(256, task=None, split="train"), 64, np.random.default_rng(0), seed=0)
    assert walk.positions is not None
    walks = distinct(walk)
    torch.manual_seed(0)
    model = GTMSM((8, 8, 3), 5, **SIZES["paper"] | {"hidden": 16})
    trainer = Trainer(model, walks, [replace(stages("default")[0], iterations=250, tau=32, ahead=32)], seed=0)

    def fit() -> float:
        """R^2 of the true positions on the inferred ones, blocked moves taken as moves of no length."""
        with torch.no_grad():
            s = model.filter(walks.actions, (~walks.unmoved()).float())[0].flatten(0, 1).double()
        assert walk.positions is not None
        truth = walk.positions.flatten(0, 1).double()
        truth, s = truth - truth.mean(dim=0), s - s.mean(dim=0)
        left = truth - s @ torch.linalg.lstsq(s, truth).solution
        return float(1 - left.square().sum() / truth.square().sum())

    trainer.begin()
    assert fit() < 0.9
    optimizer = trainer.optimizer()
    for _ in range(250):
        trainer.step(optimizer)
    assert fit() > 0.99
