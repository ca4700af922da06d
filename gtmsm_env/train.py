"""The training loop: progress, TensorBoard, checkpoints that resume, and the model with its card at the end."""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gtmsm_env.checkpoint import CheckpointError, check_keys, load_checkpoint, save_checkpoint
from gtmsm_env.data import Walks, concatenate, recolour, record_walks
from gtmsm_env.envs.images import open_images
from gtmsm_env.evaluate import judge, summary
from gtmsm_env.model import GTMSM
from gtmsm_env.recipe import SIZES, Trainer, recipe
from gtmsm_env.report import check_writable, write_json

WORLD, RULES = "GTMSM-ImageNavigation-v0", {"image_size": 32, "crop_size": 8, "step_size": 3}
WALKS, STEPS = 16384, 512  # what is learned from
CHECKPOINT_SECONDS = 60
JUDGED = 100  # test worlds whose figures the card holds, those of `evaluate` by default

Moments = dict[int, dict[str, Tensor]]
"""Adam's, by parameter."""


def run(args: argparse.Namespace) -> int:
    """`python -m gtmsm_env train image-navigation`: trains into args.output and returns the exit status."""
    check_writable(args.json, args.output)
    path = args.output / "training"
    if path.with_suffix(".json").exists() and not args.resume:
        raise ValueError(f"{args.output} holds a training already. Continue it with --resume, or choose another --output.")
    open_images(args.images, split="test")  # refused now if it cannot be judged in the end
    model, stages = new_model(args.size, args.seed).to(args.device), recipe(args.size)
    what = {"seed": args.seed, "size": args.size, "images": args.images, "stages": [asdict(stage) for stage in stages]}
    stage, iteration, seconds = 0, 0, 0.0
    moments: Moments = {}
    if args.resume and path.with_suffix(".json").exists():
        stage, iteration, seconds, moments = restore(model, path, what)
    elif args.resume:
        print(f"There is no checkpoint {path} to resume: starting anew.")
    if stage < len(stages):  # else there is nothing left to learn, and walks would be for nothing
        walks = gather(args.images, args.seed, WALKS, STEPS, args.device)
        seconds = fit(Trainer(model, walks, stages, args.seed, stage, iteration), path, what, seconds, moments)
    card = {
        "command": f"python -m gtmsm_env train image-navigation --seed {args.seed} --size {args.size} --images {shlex.quote(args.images)}",
        "versions": {name: version(name) for name in ("gtmsm-env", "torch", "numpy")} | {"python": platform.python_version()},
        "seconds": round(seconds),
        "walks": {"count": WALKS, "steps": STEPS, "split": "train"},
        **what,
    }
    model.save(args.output / "model", **card)
    print(f"{args.output / 'model'}.safetensors after {seconds / 60:.1f} CPU minutes; judging it in {JUDGED} test worlds.")
    figures = summary(judge(model, JUDGED, images=args.images)[0])
    model.save(args.output / "model", **card, figures=figures)
    print(json.dumps(figures, indent=2))
    print(f"All figures: python -m gtmsm_env evaluate image-navigation --model {args.output / 'model'}")
    if args.json:
        write_json(args.json, {"seconds": seconds, "model": str(args.output / "model"), **figures}, args.seed)
    return 0


def new_model(size: str, seed: int) -> GTMSM:
    """A model that has learned nothing; its initial weights are a function of the seed."""
    torch.manual_seed(seed)
    return GTMSM((8, 8, 3), 5, world={"id": WORLD, "kwargs": RULES, "start": "center"}, **SIZES[size])


def gather(images: str, seed: int, count: int, steps: int, device: str) -> Walks:
    """Walks in worlds of the train split, recoloured so that what is learned holds for pictures of any palette. Shows a progress bar."""
    from tqdm import tqdm

    parts, generator = [], np.random.default_rng([seed, 1])
    with tqdm(total=count, desc="walking", unit="walk") as progress:
        for part in record_walks(WORLD, {**RULES, "images": images, "split": "train", "task": None}, count, steps, seed):
            parts.append(recolour(part, generator))
            progress.update(len(part))
    walks = concatenate(parts)
    return Walks(walks.frames.to(device), walks.index.to(device), walks.actions.to(device))


def fit(trainer: Trainer, path: Path, what: dict[str, Any], seconds: float, moments: Moments) -> float:
    """Run the stages to their end, from where the trainer stands: CPU seconds spent, those of earlier runs, `seconds`, counted.

    Writes a checkpoint every minute, at the end, and on Ctrl-C, which then raises KeyboardInterrupt.
    """
    from torch.utils.tensorboard import SummaryWriter
    from tqdm import tqdm

    cost = [stage.cost for stage in trainer.stages] + [0]
    before = [0, *accumulate(stage.cost * stage.iterations for stage in trainer.stages)]  # cost of all stages before each

    def done() -> int:
        return round(before[trainer.stage] + trainer.iteration * cost[trainer.stage])

    spent, saved = time.process_time() - seconds, time.monotonic()
    bar = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"
    progress = tqdm(total=round(before[-1]), initial=done(), bar_format=bar, smoothing=0.05)
    with progress, SummaryWriter(str(path.parent)) as writer, interrupted() as stop:
        while trainer.stage < len(trainer.stages):
            stage = trainer.stages[trainer.stage]
            if trainer.iteration == 0:
                trainer.begin()
            optimizer = trainer.optimizer()
            if moments:
                restore_optimizer(optimizer, moments)
                moments = {}
            progress.set_description(f"stage {trainer.stage + 1} of {len(trainer.stages)}, {stage.name}")
            while trainer.iteration < stage.iterations:
                loss = trainer.step(optimizer)
                step = sum(s.iterations for s in trainer.stages[: trainer.stage]) + trainer.iteration
                if trainer.iteration % 10 == 0:
                    writer.add_scalar(f"loss/{trainer.stage + 1}_{stage.name}", loss, step)
                    progress.set_postfix_str(f"loss {loss:.0f}", refresh=False)
                    progress.update(done() - progress.n)
                if stop or time.monotonic() - saved > CHECKPOINT_SECONDS:
                    save(trainer, optimizer, path, what, time.process_time() - spent)
                    saved = time.monotonic()
                if stop:
                    progress.write(f"Stopped; the checkpoint {path} is written. Continue with --resume.")
                    raise KeyboardInterrupt
            trainer.stage, trainer.iteration = trainer.stage + 1, 0
            progress.update(done() - progress.n)
    trainer.model.transition.walls = True
    trainer.model.requires_grad_(False)
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
    tensors, config = load_checkpoint(path, kind="training")
    check_keys(config, {"kind", "what", "stage", "iteration", "seconds"}, str(path))
    if config["what"] != what:
        differ = [name for name in what if config["what"].get(name) != what[name]]
        raise CheckpointError(
            f"A training is resumed with the arguments it began with; {path} differs in {differ}. Give the same, or another --output."
        )
    weights = {name.removeprefix("model."): x for name, x in tensors.items() if name.startswith("model.")}
    check_keys(weights, model.state_dict(), str(path))
    model.load_state_dict(weights)
    if config["stage"] < len(what["stages"]):
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
