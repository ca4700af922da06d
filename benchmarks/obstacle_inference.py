"""How well obstacles can be inferred at all: a model's dream beside observers that are told where they are.

    python benchmarks/obstacle_inference.py [--model NAME] [--episodes 100] [--seed 0] [--json FILE]

All have walked the same 256 steps in the same unseen worlds, and imagine the next 256 from the same actions. One observer knows which moves
the walk saw stopped; one knows moreover how the world draws its obstacles, and takes a place for an obstacle that is one more likely than
not (Bayes' rule over every layout); one knows them all. The model has frames and actions alone. Figures: right entries on visited places.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gtmsm_env.__main__ import integer, status_of
from gtmsm_env.envs.image_navigation_vector import MOVES
from gtmsm_env.envs.obstacle_grid import OBSTACLES, steps_to
from gtmsm_env.evaluate_obstacles import HEEDED, SPANS, STEPS, Measured, judge
from gtmsm_env.report import check_writable, named_table, write_json
from gtmsm_env.trials import share, span_name
from gtmsm_env.vector import Flags, Floats
from gtmsm_env.worlds import SHIPPED, open_model

WORLD, SIZES = "GTMSM-ObstacleGrid-v0", (2, 3)  # its obstacles' sides, one or two of them
TOUCHED, BAYES, ALL = "observer: moves seen stopped", "observer: and how obstacles are drawn", "observer: all obstacles"


def layouts(side: int) -> tuple[Flags, Floats]:
    """Every layout that `ObstacleGridEnv` may draw (L, P, P), True inside obstacles, and its probability (L,)."""
    assert OBSTACLES == (1, 2)
    rectangles, probability = [], []
    for height in SIZES:
        for width in SIZES:
            for top, left in np.ndindex(side - height + 1, side - width + 1):
                inside = np.zeros((side, side), np.bool_)
                inside[top : top + height, left : left + width] = True
                rectangles.append(inside)
                probability.append(1 / len(SIZES) ** 2 / ((side - height + 1) * (side - width + 1)))
    one, p = np.stack(rectangles), np.array(probability)
    pairs = (one[:, None] | one).reshape(-1, side, side)
    drawn, weight = np.concatenate([one, pairs]), np.concatenate([p, (p[:, None] * p).ravel()])
    centre = np.zeros_like(drawn)
    centre[:, side // 2, side // 2] = True
    kept = ((steps_to(centre, ~drawn) >= 0) == ~drawn).all(axis=(1, 2))  # others are drawn again
    return drawn[kept], weight[kept] / weight[kept].sum()


def dream(start: NDArray[np.int64], actions: NDArray[np.int64], stopped: Flags) -> NDArray[np.int64]:
    """Places (T, 2) that actions (T,) lead through where moves from each place are stopped (P, P, A)."""
    (row, column), path = start.tolist(), []
    for action in actions:
        if not stopped[row, column, action]:
            row, column = np.clip([row, column] + MOVES[action], 0, len(stopped) - 1).tolist()
        path.append((row, column))
    return np.array(path)


def observers(measured: Measured) -> dict[str, Flags]:
    """Whether each observer imagines to be where it is: name -> (W, STEPS)."""
    side = measured.free.shape[-1]
    drawn, probability = layouts(side)
    targets = np.stack(np.divmod(np.arange(side**2), side), axis=-1).reshape(side, side, 1, 2) + MOVES  # (P, P, A, 2)
    within = ((targets >= 0) & (targets < side)).all(axis=-1)
    down, right = np.moveaxis(np.clip(targets, 0, side - 1), -1, 0)
    told: dict[str, list[Flags]] = {TOUCHED: [], BAYES: [], ALL: []}
    for free, position, action in zip(measured.free, measured.position, measured.action, strict=True):
        past = position[:STEPS]
        seen, touched, known = np.zeros((side, side), np.bool_), np.zeros((side, side), np.bool_), np.zeros_like(within)
        seen[tuple(position[: 1 + STEPS].T)] = True
        row, column = past.T
        moves = within[row, column, action[:STEPS]] & (MOVES[action[:STEPS]] != 0).any(axis=-1)
        hit = np.asarray((position[1 : 1 + STEPS] == past).all(axis=-1) & moves)
        known[row[hit], column[hit], action[:STEPS][hit]] = True
        touched[tuple((past + MOVES[action[:STEPS]])[hit].T)] = True
        possible = ~(drawn & seen).any(axis=(1, 2)) & (drawn | ~touched).all(axis=(1, 2))
        believed = np.tensordot(probability[possible], drawn[possible], 1) > 0.5 * probability[possible].sum()
        for name, stopped in {TOUCHED: known, BAYES: believed[down, right] & within, ALL: ~free[down, right] & within}.items():
            there = dream(position[STEPS], action[STEPS:], stopped)
            told[name].append((there == position[1 + STEPS :]).all(axis=-1))
    return {name: np.stack(right) for name, right in told.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=SHIPPED[WORLD], metavar="NAME", help="a shipped model, or a path (default: %(default)s)")
    parser.add_argument("--episodes", type=integer(1), default=100, metavar="INT", help="test worlds (default 100)")
    parser.add_argument("--seed", type=integer(0), default=0, metavar="INT", help="of every random draw (default 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    args = parser.parse_args()
    check_writable(args.json)
    model = open_model(args.model, WORLD)
    if model.world is None or model.world["id"] != WORLD:
        raise ValueError(f"A model is judged in the world it was trained for; {args.model} was not for {WORLD}: name one that was.")
    _, measured = judge(model, args.episodes, args.seed)
    rows = {args.model: measured.right[HEEDED], **observers(measured)}
    figures = {
        name: {span_name(span): share(right[:, span[0] - 1 : span[1]], measured.visited[:, span[0] - 1 : span[1]]) for span in SPANS}
        for name, right in rows.items()
    }
    print(named_table(f"right entries on visited places, %, {args.episodes} worlds; imagined steps", figures, digits=1))
    if args.json:
        write_json(args.json, figures, args.seed)


if __name__ == "__main__":
    sys.exit(status_of(main))
