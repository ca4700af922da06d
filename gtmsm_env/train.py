"""The training loop: progress, TensorBoard, checkpoints that resume, and the model with its card at the end."""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gtmsm_env import (
    evaluate,
    evaluate_labyrinth,
    evaluate_obstacles,
    parallel,
    recipe,
    recipe_labyrinth,
    recipe_obstacles,
    recipe_quake,
    recipe_vizdoom,
)
from gtmsm_env.checkpoint import CheckpointError, check_keys, load_checkpoint, save_checkpoint
from gtmsm_env.data import Policy, Walks, concatenate, recolour, record_walks
from gtmsm_env.envs.images import open_images
from gtmsm_env.model import GTMSM
from gtmsm_env.recipe import Stage, Trainer
from gtmsm_env.report import check_writable, write_json
from gtmsm_env.transitions import LinearWithWalls

CHECKPOINT_SECONDS = 60
JUDGED = 100  # test worlds whose figures the card holds, those of `evaluate` by default

ELSEWHERE = {"labyrinth-quake": recipe_quake, "labyrinth-vizdoom": recipe_vizdoom}  # where the law of walking alone is learned anew

Moments = dict[int, dict[str, Tensor]]
"""Adam's, by parameter."""


@dataclass(frozen=True)
class Experiment:
    """What is learned, from what, and how it is judged."""

    world: str
    walks: int
    steps: int  # of each
    stages: list[Stage]
    new_model: Callable[[], GTMSM]  # before its first stage
    figures: Callable[[GTMSM], dict[str, Any]]  # of test worlds: those of the model card
    displacements: bool = False  # whether true ones are recorded, as targets
    trainer: type[Trainer] = Trainer
    rules: dict[str, Any] | None = None  # of the world; None for those of image navigation, whose pictures are recoloured
    policy: Policy | None = None  # who walks; None for the exploring policy
    rows: int = 256  # worlds walked at once
    beside: Callable[[int], int] = lambda batches: 0  # walks more, which stages record themselves, with so many times one batch


def experiment(world: str, size: str, images: str, seed: int, displacements: bool) -> Experiment:
    """The one that the command names by its world. ValueError for another, and for images or displacements that it has no use for."""
    if displacements and world != "obstacle-grid":
        raise ValueError(f"Displacements are targets by choice among obstacles alone; given for {world}. Leave out --displacements.")
    if agent := recipe_labyrinth.AGENTS.get(world):
        recipe_labyrinth.check_images(images)
        return Experiment(
            world=agent.world,
            walks=recipe_labyrinth.walks(size, agent),
            steps=agent.steps,
            stages=recipe_labyrinth.stages(size, agent),
            new_model=lambda: recipe_labyrinth.new_model(size, seed, agent),
            figures=lambda model: evaluate_labyrinth.summary(evaluate_labyrinth.judge(world, model, JUDGED)[0]),
            displacements=agent is recipe_labyrinth.WALKING,
            trainer=recipe_labyrinth.LabyrinthTrainer,
            rules=recipe_labyrinth.RULES,
            policy=recipe_labyrinth.policy,
            beside=lambda batches: recipe_labyrinth.beside(recipe_labyrinth.stages(size, agent), batches),
        )
    if elsewhere := ELSEWHERE.get(world):
        recipe_labyrinth.check_images(images)
        return Experiment(
            world=elsewhere.WALKING.world,
            walks=elsewhere.WALKING.walks,
            steps=elsewhere.WALKING.steps,
            stages=elsewhere.stages(size),
            new_model=lambda: elsewhere.new_model(seed),
            figures=lambda model: evaluate_labyrinth.summary(evaluate_labyrinth.judge(world, model, JUDGED)[0]),
            displacements=True,
            trainer=elsewhere.TRAINER,
            rules=elsewhere.WALKING.rules,
            policy=elsewhere.policy,
            rows=elsewhere.ROWS,
        )
    if world == "obstacle-grid":
        return Experiment(
            world=recipe_obstacles.WORLD,
            walks=recipe_obstacles.WALKS,
            steps=recipe_obstacles.STEPS,
            stages=recipe_obstacles.stages(displacements),
            new_model=lambda: recipe_obstacles.new_model(size, seed),
            figures=lambda model: evaluate_obstacles.summary(evaluate_obstacles.judge(model, JUDGED, images=images)[0]),
            displacements=displacements,
        )
    if world != "image-navigation":
        raise ValueError(
            "What can be learned is image-navigation, obstacle-grid, labyrinth, labyrinth-rotate, labyrinth-quake and labyrinth-vizdoom; "
            f"given {world!r}."
        )
    return Experiment(
        world=recipe.WORLD,
        walks=recipe.WALKS,
        steps=recipe.STEPS,
        stages=recipe.stages(size),
        new_model=lambda: recipe.new_model(size, seed),
        figures=lambda model: evaluate.summary(evaluate.judge(model, JUDGED, images=images)[0]),
    )


def run(args: argparse.Namespace) -> int:
    """`python -m gtmsm_env train WORLD`: trains into args.output, runs/WORLD by default, and returns the exit status."""
    with parallel.joined(args.device):
        return train(args)


def train(args: argparse.Namespace) -> int:
    """`run`, as one of several processes or alone."""
    output = args.output or Path("runs") / args.world
    batches = args.batches or parallel.count()
    if batches % parallel.count():
        raise ValueError(
            f"Processes share the batches of an iteration equally; given --batches {batches} for {parallel.count()} processes. "
            "Give a multiple, or leave it out: one each."
        )
    learned = experiment(args.world, args.size, args.images, args.seed, args.displacements)
    import_module("torch.utils.tensorboard")  # refused now if losses cannot be written down later
    parallel.first(lambda: check_writable(args.json, output))
    path = output / "training"
    begun = parallel.first(path.with_suffix(".json").exists)
    if begun and not args.resume:
        raise ValueError(f"{output} holds a training already. Continue it with --resume, or choose another --output.")
    open_images(args.images, split="test")  # refused now if it cannot be judged in the end
    model, stages = learned.new_model().to(args.device), learned.stages
    what = {name: getattr(args, name) for name in ("world", "seed", "size", "images")}
    what |= {"batches": batches, "scale": args.scale, "stages": [asdict(stage) for stage in stages]}
    stage, iteration, seconds = 0, 0, 0.0
    moments: Moments = {}
    if begun:
        stage, iteration, seconds, moments = restore(model, path, what)
    elif args.resume and parallel.rank() == 0:
        print(f"There is no checkpoint {path} to resume: starting anew.")
    if stage < len(stages):  # else there is nothing left to learn, and walks would be for nothing
        if begun and parallel.rank() == 0:
            print(f"Going on in stage {stage + 1} of {len(stages)}, iteration {iteration}; what it learns from is recorded again first.")
        walks = gather(learned, args.images, args.seed).to(args.device)
        trainer = learned.trainer(model, walks, stages, args.seed, stage, iteration, batches, args.scale)
        seconds = fit(trainer, path, what, seconds, moments)
    if parallel.rank() > 0:
        return 0
    command = f"python -m gtmsm_env train {args.world} --seed {args.seed} --size {args.size} --images {shlex.quote(args.images)}"
    card = {
        "command": command
        + " --displacements" * args.displacements
        + f" --batches {batches}" * (batches > 1)
        + f" --scale {args.scale}" * (args.scale > 1),
        "versions": {name: version(name) for name in ("gtmsm-env", "torch", "numpy")} | {"python": platform.python_version()},
        "seconds": round(seconds),
        "walks": {"count": learned.walks + learned.beside(batches * args.scale), "steps": learned.steps, "split": "train"},
        **what,
    }
    model.save(output / "model", **card)
    print(f"{output / 'model'}.safetensors after {seconds / 60:.1f} CPU minutes; judging it in {JUDGED} test worlds.")
    figures = learned.figures(model)
    model.save(output / "model", **card, figures=figures)
    print(json.dumps(figures, indent=2))
    print(f"All figures: python -m gtmsm_env evaluate {args.world} --model {output / 'model'}")
    if args.json:
        write_json(args.json, {"seconds": seconds, "model": str(output / "model"), **figures}, args.seed)
    return 0


def gather(learned: Experiment, images: str, seed: int) -> Walks:
    """Walks in worlds of the train split, recoloured so that what is learned holds for pictures of any palette. Shows a progress bar.

    Every process walks them all, alike: it takes no longer than if one did, and a batch may draw any of them, as in a single process.
    """
    from tqdm import tqdm

    parts, generator = [], np.random.default_rng([seed, 1])
    pictures = learned.rules is None
    kwargs = {**(recipe.RULES | {"images": images} if learned.rules is None else learned.rules), "split": "train", "task": None}
    recorded = record_walks(learned.world, kwargs, learned.walks, learned.steps, seed, learned.rows, learned.displacements, learned.policy)
    with tqdm(total=learned.walks, desc="walking", unit="walk", disable=parallel.rank() > 0) as progress:
        for part in recorded:
            parts.append(recolour(part, generator) if pictures else part)
            progress.update(len(part))
    return concatenate(parts)


def run_stages(trainer: Trainer, title: str) -> None:
    """Run all stages from the first, without checkpoints; `fit` keeps them. Shows a progress bar for each."""
    from tqdm import tqdm

    for number, stage in enumerate(trainer.stages):
        trainer.stage, trainer.iteration = number, 0
        trainer.begin()
        optimizer = trainer.optimizer()
        for _ in tqdm(range(stage.iterations), f"{title}, stage {number + 1} of {len(trainer.stages)}", leave=False):
            trainer.step(optimizer)


def fit(trainer: Trainer, path: Path, what: dict[str, Any], seconds: float, moments: Moments) -> float:
    """Run the stages to their end, from where the trainer stands: CPU seconds of this process, those of earlier runs, `seconds`, counted.

    The first process writes a checkpoint every minute, at the end, and on Ctrl-C in any of them, which raises KeyboardInterrupt in all.
    """
    from torch.utils.tensorboard import SummaryWriter
    from tqdm import tqdm

    cost = [stage.cost for stage in trainer.stages] + [0]
    before = [0, *accumulate(stage.cost * stage.iterations for stage in trainer.stages)]  # cost of all stages before each

    def done() -> int:
        return round(before[trainer.stage] + trainer.iteration * cost[trainer.stage])

    spent, saved = time.process_time() - seconds, time.monotonic()
    bar = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"
    writes = parallel.rank() == 0
    progress = tqdm(total=round(before[-1]), initial=done(), bar_format=bar, smoothing=0.05, disable=not writes)
    with progress, SummaryWriter(str(path.parent)) if writes else nullcontext() as writer, interrupted() as signals:
        while trainer.stage < len(trainer.stages):
            stage = trainer.stages[trainer.stage]
            if trainer.iteration == 0:
                trainer.begin()
            parallel.agree(trainer.model)
            optimizer = trainer.optimizer()
            if moments:
                restore_optimizer(optimizer, moments)
                moments = {}
            progress.set_description(f"stage {trainer.stage + 1} of {len(trainer.stages)}, {stage.name}")
            while trainer.iteration < stage.iterations:
                loss = trainer.step(optimizer)
                step = sum(s.iterations for s in trainer.stages[: trainer.stage]) + trainer.iteration
                if writer and trainer.iteration % 10 == 0:
                    writer.add_scalar(f"loss/{trainer.stage + 1}_{stage.name}", loss, step)
                    progress.set_postfix_str(f"loss {loss:.0f}", refresh=False)
                    progress.update(done() - progress.n)
                stop = parallel.anyone(bool(signals))
                if writes and (stop or time.monotonic() - saved > CHECKPOINT_SECONDS):
                    save(trainer, optimizer, path, what, time.process_time() - spent)
                    saved = time.monotonic()
                if writes and stop:
                    progress.close()  # or it would be drawn below once more
                    print(f"Stopped; the checkpoint {path} is written. Continue with --resume.", flush=True)
                if stop:
                    raise KeyboardInterrupt
            trainer.stage, trainer.iteration = trainer.stage + 1, 0
            progress.update(done() - progress.n)
    trainer.end()
    if writes:
        save(trainer, None, path, what, time.process_time() - spent)
    return time.process_time() - spent


@contextmanager
def interrupted() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM fill the list instead of breaking an iteration in two."""
    signals: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: signals.append(number)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def save(trainer: Trainer, optimizer: torch.optim.Adam | None, path: Path, what: dict[str, Any], seconds: float) -> None:
    """Where a training stands: weights, Adam's moments and the place in the recipe."""
    tensors = {f"model.{name}": tensor for name, tensor in trainer.model.state_dict().items()}
    for number, moments in (optimizer.state_dict()["state"] if optimizer else {}).items():
        tensors |= {f"adam.{number}.{name}": torch.as_tensor(moment) for name, moment in moments.items()}
    where = {"stage": trainer.stage, "iteration": trainer.iteration, "seconds": seconds}
    save_checkpoint(path, tensors, {"kind": "training", "what": what, **where})


def restore(model: GTMSM, path: Path, what: dict[str, Any]) -> tuple[int, int, float, Moments]:
    """Take up a saved training: its stage and iteration, the CPU seconds it had spent, and Adam's moments."""
    tensors, config = parallel.first(lambda: load_checkpoint(path, kind="training"))
    check_keys(config, {"kind", "what", "stage", "iteration", "seconds"}, str(path))
    if config["what"] != what:
        differ = [name for name in what if config["what"].get(name) != what[name]]
        raise CheckpointError(
            f"A training is resumed with the arguments it began with; {path} differs in {differ}. Give the same, or another --output."
        )
    weights = {name.removeprefix("model."): x for name, x in tensors.items() if name.startswith("model.")}
    check_keys(weights, model.state_dict(), str(path))
    model.load_state_dict(weights)
    if config["stage"] < len(what["stages"]) and isinstance(model.transition, LinearWithWalls):
        model.transition.walls = what["stages"][config["stage"]]["walls"]
    moments: Moments = {}
    for name, x in tensors.items():
        if name.startswith("adam."):
            _, number, moment = name.split(".")
            moments.setdefault(int(number), {})[moment] = x
    return config["stage"], config["iteration"], float(config["seconds"]), moments


def restore_optimizer(optimizer: torch.optim.Adam, moments: Moments) -> None:
    """Give Adam back its moments."""
    state = optimizer.state_dict()
    optimizer.load_state_dict({"state": moments, "param_groups": state["param_groups"]})
