"""How fast each stage of each recipe trains, beside the figures of the calibration that the recipes began from, and where the time goes.

    python benchmarks/training_speed.py [--recipes NAME ...] [--device cpu] [--rounds 5] [--walks 24] [--json FILE]

An iteration of every stage is taken in turns, on one thread, of the model that ships and of a few walks; its processor time, as the
machine may be busy, or on a GPU the clock's: medians, least and most. The last columns are the whole stage's minutes, and for how many
sequences a second the calibration ran, where it tells; its sequences were of other lengths, so steps a second are compared. Then the
share of processor time that each part of an iteration takes, parts within it left out; on a GPU, of what starts its work.

    python -m torch.distributed.run --nproc-per-node 2 benchmarks/training_speed.py

counts the sequences of all processes together, by the clock.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

from gtmsm_env import model as models
from gtmsm_env import parallel, projection, recipe, recipe_labyrinth, train
from gtmsm_env.data import Walks
from gtmsm_env.floorplan import Sight, Stereo
from gtmsm_env.landmarks import Landmarks
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.model import GTMSM
from gtmsm_env.networks import ConvDecoder, ConvEncoder, Decoder, Encoder
from gtmsm_env.obstacles import Obstacles
from gtmsm_env.priors import CombinedPrior, ViewsPrior
from gtmsm_env.projection import ProjectedViews
from gtmsm_env.recipe import BATCH, Stage, Trainer
from gtmsm_env.report import Cell, check_writable, table, write_json
from gtmsm_env.transitions import FirstPerson, LinearWithWalls
from gtmsm_env.types import GaussianMixture
from gtmsm_env.worlds import shipped_for

RECIPES = ["image-navigation", "image-navigation-paper", "obstacle-grid", "labyrinth", "labyrinth-paper"]
RECIPES += ["labyrinth-rotate", "labyrinth-rotate-paper"]
PARTS: dict[str, list[tuple[Any, str]]] = {  # what is timed as one part of an iteration
    "walks": [(Walks, "batch"), (Trainer, "_crops"), (recipe_labyrinth.LabyrinthTrainer, "_views")],
    "encoder": [(Encoder, "forward"), (ConvEncoder, "forward")],
    "decoder": [(Decoder, "forward"), (ConvDecoder, "forward")],
    "transition": [(LinearWithWalls, "rollout"), (FirstPerson, "rollout"), (Landmarks, "forward")],
    "memory": [(SpatialMemory, "read"), (SpatialMemory, "distinct"), (models, "nearest_before")]
    + [(module, "covering") for module in (projection, recipe_labyrinth)],
    "prior": [(part, "forward") for part in (ViewsPrior, CombinedPrior, ProjectedViews, Stereo, Sight, Obstacles)]
    + [(ViewsPrior, "canvas"), (Stereo, "unlike")],
    "backward": [(torch.Tensor, "backward")],
    "Adam": [(torch.optim.Adam, "step")],
    "likelihood": [(GaussianMixture, "log_prob"), (recipe, "gaussian_log_prob"), (models, "gaussian_log_prob")],
    "rest": [(Trainer, "step")],
}
DRAWN = {"obstacles": 4 * BATCH, "law": 64, "turns": 16}  # sequences of a batch, where not BATCH
# What the calibration tells of stages like these: sequences a second, and steps of each.
CALIBRATION = {
    ("image-navigation", 0): (540, 32),
    ("image-navigation", 4): (185, 288),
    ("labyrinth-paper", 0): (3840, 100),
}


@dataclass
class Timed:
    """A stage of a recipe, and the seconds that its iterations took."""

    recipe: str
    number: int
    trainer: Trainer
    seconds: list[float]
    shares: dict[str, float]

    @property
    def stage(self) -> Stage:
        return self.trainer.stages[self.number]

    @property
    def drawn(self) -> tuple[int, int]:
        """Sequences of a batch, and steps of each; single frames are sequences of one step."""
        sequences, steps = self._drawn
        return (sequences if self.stage.name == "law" else self.trainer.scale * sequences), steps  # which is as large at any scale

    @property
    def _drawn(self) -> tuple[int, int]:
        stage, first_person = self.stage, isinstance(self.trainer, recipe_labyrinth.LabyrinthTrainer)
        if stage.name == "vae":
            return self.trainer.frames, 1
        if stage.name == "stereo":
            return 4 * 8, 1  # entries
        if stage.name in ("views", "doubt"):
            return (2 * 12 if first_person else BATCH * BATCH // 2), 1  # frames imagined
        if stage.name in ("prior", "elbo") and first_person:
            return recipe_labyrinth.WALKED * recipe_labyrinth.QUESTIONS, 1  # frames expected
        steps = self.trainer.walks.index.shape[1] if stage.name in ("turns", "obstacles") else stage.tau + stage.ahead
        return DRAWN.get(stage.name, BATCH), steps

    def figures(self) -> dict[str, Any]:
        """Of all processes together."""
        (sequences, steps), second = self.drawn, median(self.seconds)
        speed = parallel.count() * sequences / second
        known = CALIBRATION.get((self.recipe, self.number))
        return {
            "stage": f"{self.recipe} {self.number + 1} {self.stage.name}",
            "steps": steps,
            "ms": [1e3 * x for x in self.seconds],
            "sequences/s": speed,
            "steps/s": speed * steps,
            "minutes": self.stage.iterations * second / 60,
            "calibration, sequences/s": known and known[0],
            "times its steps/s": known and speed * steps / (known[0] * known[1]),
            "shares, %": self.shares,
        }


def begun(name: str, count: int, seed: int, device: str, scale: int) -> Iterator[Timed]:
    """Each different stage of a recipe, with the model that ships and a few walks."""
    world, paper = name.removesuffix("-paper"), name.endswith("-paper")
    learned = train.experiment(world, "paper" if paper else "default", "procedural", seed, displacements=False)
    model = GTMSM.load(shipped_for(learned.world) + "-paper" * paper)
    walks = train.gather(replace(learned, walks=count, rows=count), "procedural", seed).to(device)
    for number, stage in enumerate(learned.stages):
        if stage not in learned.stages[:number]:
            trainer = learned.trainer(model.to(device), walks, learned.stages, seed, number, batches=parallel.count(), scale=scale)
            vars(trainer)["_fresh"] = iter(())  # no other process records beside what is timed
            yield Timed(name, number, trainer, [], {})


def iterate(timed: Timed) -> float:
    """One iteration: how many seconds it took."""
    trainer = timed.trainer
    if isinstance(trainer.model.transition, LinearWithWalls):
        trainer.model.transition.walls = timed.stage.walls
    optimizer = trainer.optimizer()
    for group in optimizer.param_groups:
        group["lr"] = group["rate"] = 0.0  # the model stays as it ships
    clock = time.process_time if trainer.walks.frames.device.type == "cpu" and parallel.count() == 1 else time.perf_counter
    began = clock()
    trainer.step(optimizer)
    return clock() - began


@contextmanager
def parts_timed() -> Iterator[dict[str, float]]:
    """Counts the seconds of processor time that each part takes, those of parts within it left out.

    A profiler's clock would count the time that other programs take from a busy machine for the part that they happen to interrupt.
    """
    spent = dict.fromkeys(PARTS, 0.0)
    within: list[str] = []
    last = time.process_time()

    def turn() -> None:
        nonlocal last
        now = time.process_time()
        if within:
            spent[within[-1]] += now - last
        last = now

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            turn()
            within.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                turn()
                within.pop()

        return call

    with ExitStack() as stack:
        for part, places in PARTS.items():
            for owner, name in places:
                stack.enter_context(patch.object(owner, name, timed(part, getattr(owner, name))))
        yield spent


def measure(names: list[str], rounds: int, walks: int, seed: int, device: str, scale: int) -> list[dict[str, Any]]:
    """Figures of every stage."""
    everything = [timed for name in names for timed in begun(name, walks, seed, device, scale)]
    for turn in range(rounds + 1):
        for timed in everything:
            second = iterate(timed)
            if turn:  # the first reads what later ones find ready: encodings, floor plans
                timed.seconds.append(second)
    for timed in everything:
        with parts_timed() as spent:
            for _ in range(rounds):
                iterate(timed)
        timed.shares = {part: 100 * spent[part] / sum(spent.values()) for part in PARTS}
    return [timed.figures() for timed in everything]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=RECIPES, metavar="NAME", help=f"of {', '.join(RECIPES)}")
    parser.add_argument("--device", default="cpu", metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5, help="iterations of each stage")
    parser.add_argument("--scale", type=int, default=1, help="as of train")
    parser.add_argument("--walks", type=int, default=24, help="that batches are drawn from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    args = parser.parse_args()
    check_writable(args.json)
    torch.set_num_threads(1)
    with parallel.joined(args.device):
        figures = measure(args.recipes, args.rounds, args.walks, args.seed, args.device, args.scale)
        if parallel.rank():
            return
        processes = parallel.count()
    columns = ["stage", "steps", "ms an iteration", "least to most", "sequences/s", "steps/s", "minutes", "calibration", "times its"]
    rows: list[list[Cell]] = []
    for f in figures:
        spread = f"{min(f['ms']):.0f} to {max(f['ms']):.0f}"
        speed = [f"{f[name]:,.0f}" for name in ("sequences/s", "steps/s")]
        known = [f["calibration, sequences/s"], f["times its steps/s"]]
        rows.append([f["stage"], f["steps"], median(f["ms"]), spread, *speed, f["minutes"], *known])
    print(table(columns, rows, f"{args.device}, one thread, {processes} process{'es' * (processes > 1)}", digits=1))
    print(table(["processor time, %", *PARTS], [[f["stage"], *f["shares, %"].values()] for f in figures], digits=0))
    if args.json:
        write_json(args.json, {"device": args.device, "scale": args.scale, "processes": processes, "stages": figures}, args.seed)


if __name__ == "__main__":
    main()
