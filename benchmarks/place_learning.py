"""How soon a training from nothing knows where it is: the stages of the recipe that learn moves and walls, seed after seed.

    python benchmarks/place_learning.py [--seeds 0 1 2 3 4] [--episodes 50] [--json FILE]

Each seed records its own walks in train worlds, runs those stages, and is judged in test worlds: 256 steps remembered, 1000 imagined.
The time counts all of it but the judging, from before the first walk, on one thread; the bar is ten minutes by the clock. Drift is the
growth of the position error in steps per 1000 imagined steps, with its 95 % interval over worlds.
"""

from __future__ import annotations

import argparse
import time
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

from gtmsm_env.evaluate import dream, measure_positions, position_figures
from gtmsm_env.model import GTMSM
from gtmsm_env.recipe import Trainer
from gtmsm_env.report import Cell, check_writable, table, write_json
from gtmsm_env.train import experiment, gather, run_stages
from gtmsm_env.trials import SPANS, record_trials, span_name, together

ENTRY, FIT = "exact entry on visited places, by true place, %", "R^2 of inferred to true position"
MOVES, HITS = "moves right within half a step, %", "wall hits right within half a step, %"
BARS = {ENTRY: 99.9, FIT: 0.9995, MOVES: 100.0, HITS: 100.0}  # held at both spans
SECONDS = 600
HELD = SPANS[-2:]  # imagined steps 1 to 256 and 1 to 1000


def learn(seed: int, images: str) -> tuple[GTMSM, float, float]:
    """A model that has learned moves and walls, with the CPU and wall-clock seconds this took from nothing."""
    cpu, wall = time.process_time(), time.monotonic()
    learned = experiment("image-navigation", "default", images, seed, displacements=False)
    stages = list(takewhile(lambda stage: stage.name in ("moves", "walls"), learned.stages))
    model = learned.new_model()
    trainer = Trainer(model, gather(learned, images, seed), stages, seed)
    run_stages(trainer, f"seed {seed}")
    return model.requires_grad_(False), time.process_time() - cpu, time.monotonic() - wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)), help="one training each (default 0 1 2 3 4)")
    parser.add_argument("--episodes", type=int, default=50, help="test worlds (default 50)")
    parser.add_argument("--images", default="procedural", help="or a folder or a zip")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    check_writable(file=args.json)
    torch.set_num_threads(1)

    figures: list[dict[str, Any]] = []
    rows: list[list[Cell]] = []
    for seed in args.seeds:
        model, cpu, wall = learn(seed, args.images)
        assert model.world is not None
        parts = [measure_positions(test, *dream(model, test)) for test in record_trials(model.world, args.episodes, 0, args.images)]
        found = position_figures(together(parts))
        held = wall < SECONDS and all(found[name][span_name(span)] >= bar for name, bar in BARS.items() for span in HELD)
        figures.append({"seed": seed, "cpu seconds": cpu, "wall seconds": wall, "bars held": held, "positions": found})
        worst = {name: min(found[name][span_name(span)] for span in HELD) for name in BARS}
        cells = [f"{worst[ENTRY]:.3f}", f"{worst[FIT]:.5f}", f"{worst[MOVES]:.3f}", f"{worst[HITS]:.3f}"]
        drift = found["drift of the error, steps per 1000 steps"]
        cells.append(f"{drift['mean']:+.4f} +- {drift['95% half-width']:.4f}")
        rows.append([f"seed {seed}", f"{cpu:.0f}", f"{wall:.0f}", *cells, "yes" if held else "NO"])
        columns = ["", "CPU s", "wall s", "right entry, %", "R^2", "moves right, %", "hits right, %", "drift", "all bars"]
        print(table(columns, rows[-1:]), flush=True)
    print(f"\n{sum(figure['bars held'] for figure in figures)} of {len(figures)} seeds hold every bar, the worse of 256 and 1000 steps:")
    print(table(columns, rows))
    if args.json:
        write_json(args.json, {"bars": BARS, "seeds": figures}, args.seeds)


if __name__ == "__main__":
    main()
