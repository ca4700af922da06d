"""Whether a training from nothing finds how actions move an agent in first person: the recipe's stages of the law, seed after seed.

    python benchmarks/law_learning.py [--seeds 0 1 2] [--episodes 50] [--json FILE]

The turning agent learns by frames alone, the walking ones by displacements as targets: in the default physics, which is in the class of
equation 6, and in physics="lab", which is not. Each seed records its own walks in train rooms and is judged in test rooms, by the mean
error of poses that are imagined from actions alone; the agents touch nothing.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gtmsm_env.evaluate_labyrinth import record_trials
from gtmsm_env.model import GTMSM
from gtmsm_env.recipe_labyrinth import ROTATING, WALKING, Agent, LabyrinthTrainer
from gtmsm_env.report import Cell, check_writable, table, write_json
from gtmsm_env.train import experiment, gather, run_stages

LAWS = ("law", "turns")  # the stages that learn one
# Who moves; in which worlds; after how many imagined steps; and the bars there: units and degrees.
AGENTS: dict[str, tuple[str, Agent, tuple[int, ...], tuple[float, ...], tuple[float, ...]]] = {
    "turning": ("labyrinth-rotate", ROTATING, (45,), (math.inf,), (0.5,)),
    "walking": ("labyrinth", WALKING, (150, 300), (0.01, 0.02), (0.1, 0.2)),
    'walking, physics="lab"': ("labyrinth", replace(WALKING, rules={"physics": "lab"}), (150, 300), (0.1, 0.2), (1.5, 3.0)),
}


def learn(world: str, agent: Agent, seed: int) -> tuple[GTMSM, float]:
    """A model that has learned the law of an agent, with the CPU seconds this took from nothing, walks included."""
    cpu = time.process_time()
    learned = experiment(world, "paper", "procedural", seed, displacements=False)
    learned = replace(learned, rules={**(learned.rules or {}), **agent.rules})
    stages = [stage for stage in learned.stages if stage.name in LAWS]
    model = learned.new_model()
    trainer = LabyrinthTrainer(model, gather(learned, "procedural", seed), stages, seed)
    run_stages(trainer, f"seed {seed}")
    return model.requires_grad_(False), time.process_time() - cpu


def judge(model: GTMSM, agent: Agent, episodes: int) -> tuple[Tensor, Tensor]:
    """How far imagined places are from true ones, in units, and headings, in degrees: means over test rooms, (tau + far,) each."""
    wrong = []
    for trials in record_trials(agent, {"id": agent.world, "kwargs": {}}, episodes, seed=0):
        wrong.append(model.filter(trials.walk.actions)[0] - trials.pose)
    error = torch.cat(wrong).double()
    turned = torch.remainder(error[..., 2] + math.pi, 2 * math.pi) - math.pi
    return error[..., :2].norm(dim=-1).mean(dim=0), turned.abs().rad2deg().mean(dim=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(3)), help="one training each (default 0 1 2)")
    parser.add_argument("--episodes", type=int, default=50, help="test rooms (default 50)")
    parser.add_argument("--agents", nargs="+", choices=AGENTS, default=list(AGENTS), help="which (all by default)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    check_writable(file=args.json)
    torch.set_num_threads(1)

    figures: list[dict[str, Any]] = []
    rows: list[list[Cell]] = []
    columns = ["", "CPU s", "imagined steps", "units", "degrees", "bars"]
    for name in args.agents:
        world, agent, steps, units, degrees = AGENTS[name]
        for seed in args.seeds:
            model, cpu = learn(world, agent, seed)
            distance, turned = judge(model, agent, args.episodes)
            found = [(float(distance[agent.tau + step - 1]), float(turned[agent.tau + step - 1])) for step in steps]
            held = all(far <= u and turn <= d for (far, turn), u, d in zip(found, units, degrees, strict=True))
            figures.append({"agent": name, "seed": seed, "cpu seconds": cpu, "steps": steps, "errors": found, "bars held": held})
            texts = [" / ".join(f"{error[i]:.4f}" for error in found) for i in (0, 1)]
            bars = "held" if held else "MISSED"
            rows.append([f"{name}, seed {seed}", f"{cpu:.0f}", " / ".join(map(str, steps)), *texts, bars])
            print(table(columns, rows[-1:]), flush=True)
    print(f"\n{sum(figure['bars held'] for figure in figures)} of {len(figures)} trainings hold their bars:")
    print(table(columns, rows))
    if args.json:
        write_json(args.json, {"trainings": figures}, args.seeds)


if __name__ == "__main__":
    main()
