"""Milliseconds a decision, for one world on one thread, beside the time of the rollouts alone, which no planner can undercut.

    python benchmarks/planning_speed.py [--model NAME] [--decisions 100] [--json FILE]

Every planner imagines as many steps: 3 rounds of 192 plans of 16. Its decisions and bare calls of `imagine` of the same sizes are
taken in turns, so that both meet the same machine; medians. The last column is a whole batch of worlds planned at once, per decision.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from gtmsm_env.memory import SpatialMemory
from gtmsm_env.model import GTMSM
from gtmsm_env.planning import METHODS, Plan, Planner, reach
from gtmsm_env.report import check_writable, table, write_json
from gtmsm_env.types import Belief

HORIZON, CANDIDATES, ITERATIONS, BATCH = 16, 192, 3, 50


def milliseconds(call: Callable[[], object]) -> float:
    began = perf_counter()
    call()
    return 1e3 * (perf_counter() - began)


def belief_of(rows: int, state_size: int) -> Belief:
    """At the start, with an empty memory: states alone are imagined."""
    zero = torch.zeros(rows, state_size)
    return Belief(zero, zero, zero, SpatialMemory(zero[:, None, :][:, :0], zero[:, None, :][:, :0], {}))


def measure(model: GTMSM, weights: Any, decisions: int, seed: int) -> tuple[float, float, float]:
    """Median milliseconds of a decision, of its rollouts alone, and of a decision in a batch."""
    draws, planner = (
        torch.Generator().manual_seed(seed),
        Planner(model, weights, horizon=HORIZON, candidates=CANDIDATES, iterations=ITERATIONS),
    )
    n = model.transition.W_a.shape[0]
    one, many = belief_of(1, n), belief_of(BATCH, n)
    far = 10 * model.step_length * torch.ones(1, 1, n)
    actions = torch.randint(model.num_actions, (1, CANDIDATES, HORIZON), generator=draws)
    plan: list[Plan] = [planner.plan(one, reach(far, model.step_length), draws)]

    def decide() -> None:
        plan[0] = planner.plan(one, reach(far, model.step_length), draws, plan[0])

    @torch.no_grad()
    def roll() -> None:
        for _ in range(ITERATIONS):
            model.imagine(one, actions)

    times = np.array([[milliseconds(decide), milliseconds(roll)] for _ in range(decisions)])
    together = [
        milliseconds(lambda: planner.plan(many, reach(far.expand(BATCH, 1, n), model.step_length), draws)) for _ in range(min(5, decisions))
    ]
    return float(np.median(times[:, 0])), float(np.median(times[:, 1])), float(np.median(together)) / BATCH


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="image-navigation", metavar="NAME", help="a shipped model or a path")
    parser.add_argument("--decisions", type=int, default=100, metavar="N", help="how many are timed")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    args = parser.parse_args()
    check_writable(args.json)
    torch.set_num_threads(1)
    model = GTMSM.load(args.model)
    figures: dict[str, Any] = {}
    for name, weights in METHODS.items():
        decision, rollouts, together = measure(model, weights, args.decisions, args.seed)
        figures[name] = {"decision_ms": decision, "rollouts_ms": rollouts, "ratio": decision / rollouts, "batched_ms": together}
    title = f"one thread; {ITERATIONS} rounds of {CANDIDATES} plans of {HORIZON} steps a decision"
    columns = ["planner", "ms a decision", "rollouts alone", "ratio", f"ms a decision, {BATCH} worlds at once"]
    print(table(columns, [[name, *of.values()] for name, of in figures.items()], title))
    if args.json:
        write_json(args.json, figures, args.seed)


if __name__ == "__main__":
    main()
