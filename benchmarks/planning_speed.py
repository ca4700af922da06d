"""Milliseconds a decision, for one world on one thread, beside the raw torch loop over the same network, which no planner can undercut.

    python benchmarks/planning_speed.py [--model NAME] [--plans 500 5 15] [--decisions 30] [--peers mbrl-lib] [--json FILE]

Every planner imagines as many steps: by default 5 rounds of 500 plans of 15. Its decisions, the bare loop of the transition over as many
steps, and those of mbrl-lib's CEM with one particle over a network of the same size, which plans continuous actions and is installed into
an environment of its own (see dream_speed.py), are taken in turns, so that all meet the same machine; each counts the processor time it
takes: medians, and the middle half. The last column is a whole batch of worlds planned at once, per decision.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from dream_speed import MBRL, OTHERS
from first_person_speed import Peer, UnavailableError, python_of

from gtmsm_env.memory import SpatialMemory
from gtmsm_env.model import GTMSM
from gtmsm_env.planning import METHODS, Plan, Planner, reach
from gtmsm_env.report import Cell, check_writable, table, write_json
from gtmsm_env.types import Belief

BATCH = 50


def milliseconds(call: Callable[[], object]) -> float:
    began = process_time()
    call()
    return 1e3 * (process_time() - began)


def belief_of(rows: int, state_size: int) -> Belief:
    """At the start, with an empty memory: states alone are imagined."""
    zero = torch.zeros(rows, state_size)
    return Belief(zero, zero, zero, SpatialMemory(zero[:, None, :][:, :0], zero[:, None, :][:, :0], {}))


def decisions(model: GTMSM, weights: Any, plans: tuple[int, int, int], seed: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """What plans for one world, and for a batch of them at once."""
    candidates, rounds, horizon = plans
    planner = Planner(model, weights, horizon=horizon, candidates=candidates, iterations=rounds)
    draws, n = torch.Generator().manual_seed(seed), model.transition.W_a.shape[0]
    far, step_length = 10 * model.step_length * torch.ones(1, 1, n), model.step_length
    one, many = belief_of(1, n), belief_of(BATCH, n)
    plan: list[Plan | None] = [None]

    def decide() -> None:
        plan[0] = planner.plan(one, reach(far, step_length), draws, plan[0])

    return decide, lambda: planner.plan(many, reach(far.expand(BATCH, 1, n), step_length), draws)


def raw_loop(model: GTMSM, plans: tuple[int, int, int], seed: int) -> Callable[[], object]:
    """The transition alone, over as many steps as a decision imagines."""
    candidates, rounds, horizon = plans
    actions = torch.randint(model.num_actions, (horizon, candidates), generator=torch.Generator().manual_seed(seed))
    start = torch.zeros(candidates, model.transition.W_a.shape[0])

    @torch.no_grad()
    def roll() -> None:
        for _ in range(rounds):
            s = u = start
            for action in actions:
                s, u = model.transition(s, u, action)

    return roll


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="image-navigation", metavar="NAME", help="a shipped model or a path")
    parser.add_argument("--plans", type=int, nargs=3, default=[500, 5, 15], metavar="N", help="candidates, rounds, horizon")
    parser.add_argument("--decisions", type=int, default=30, metavar="N", help="how many are timed")
    parser.add_argument("--peers", nargs="*", choices=[MBRL], default=[MBRL], metavar="NAME", help=MBRL)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "gtmsm-env"
    parser.add_argument("--cache", type=Path, default=cache, help="where a peer is installed")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    args = parser.parse_args()
    check_writable(args.json, folder=args.cache if args.peers else None)
    torch.set_num_threads(1)
    model, plans = GTMSM.load(args.model), tuple(args.plans)
    both: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        name: decisions(model, weights, plans, args.seed) for name, weights in METHODS.items()
    }
    calls: dict[str, Callable[[], object]] = {
        "raw torch loop": raw_loop(model, plans, args.seed),
        **{name: one for name, (one, _) in both.items()},
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    peer, why = None, ""
    installed = OTHERS[MBRL].installed
    if args.peers and installed:
        program = Path(__file__).parent / "peers" / installed.program
        try:
            peer = Peer(python_of(installed, args.cache / MBRL), program, {"OMP_NUM_THREADS": "1"}, "cem", *map(str, plans))
            peer(0.1)
            times[MBRL] = []
        except UnavailableError as error:
            peer, why = None, str(error)
    try:
        for turn in range(args.decisions + 1):
            for name, call in calls.items():
                spent = milliseconds(call)
                if turn:
                    times[name].append(spent)
            if peer and turn:
                times[MBRL].append(1e3 / peer(0.05))
    finally:
        if peer:
            peer.close()
    together = {
        name: float(np.median([milliseconds(many) for _ in range(min(3, args.decisions))])) / BATCH for name, (_, many) in both.items()
    }
    figures: dict[str, Any] = {}
    rows: list[list[Cell]] = []
    for name, values in times.items():
        low, high = np.quantile(values, [0.25, 0.75])
        of_raw, of_peer = (
            float(np.median(np.divide(values, times[other]))) if other in times else None for other in ("raw torch loop", MBRL)
        )
        figures[name] = {"ms": values, "of_raw": of_raw, "of_mbrl": of_peer, "batched_ms": together.get(name)}
        faster = 1 / of_peer if of_peer else None
        rows.append([name, float(np.median(values)), f"{low:.2f} to {high:.2f}", of_raw, faster, together.get(name)])
    title = f"{args.model}, one thread; {plans[1]} rounds of {plans[0]} plans of {plans[2]} steps a decision"
    columns = ["planner", "ms a decision", "middle half", "of the raw loop", f"times faster than {MBRL}", f"ms, {BATCH} worlds at once"]
    print(table(columns, rows, title))
    if why:
        print(f"{MBRL} cannot run here: {why}")
    if args.json:
        write_json(args.json, figures, args.seed)


if __name__ == "__main__":
    main()
