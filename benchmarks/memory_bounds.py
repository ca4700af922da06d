"""What a bounded memory costs in fidelity: image navigation imagined from a share of the 256 entries that a walk wrote.

    python benchmarks/memory_bounds.py [--worlds 25] [--model NAME] [--figure FILE] [--json FILE]

PSNR of the pooled MSE over the 256 imagined steps that follow the walk, in test worlds, of the model's own prior and of the paper's
mixture (K nearest entries). The position is imagined alike in all: only what the memory holds differs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gtmsm_env.__main__ import integer
from gtmsm_env.evaluate import HEAVIEST, OURS, dream, imagined_frames
from gtmsm_env.memory import POLICIES
from gtmsm_env.model import GTMSM
from gtmsm_env.report import Cell, check_writable, table, write_json
from gtmsm_env.trials import TAU, mean_square, psnr, record_trials

SHARES = (1.0, 0.5, 0.25, 0.125, 0.0625)


@torch.no_grad()
def measure(model: GTMSM, worlds: int, seed: int) -> dict[str, dict[str, list[float]]]:
    """PSNR in dB of each share: read-out -> policy -> one a share."""
    assert model.world is not None
    errors: dict[tuple[str, str, float], list[Any]] = {}
    for trials in record_trials(model.world, worlds, seed):
        memory, s = dream(model, trials)
        true = trials.walk.frames[:, TAU : 2 * TAU].numpy()
        for policy in POLICIES:
            for share in SHARES:
                kept = memory.bounded(round(share * TAU), policy)
                shown = imagined_frames(model, s[:, :TAU], kept, torch.Generator().manual_seed(seed))
                for name, frames in shown:
                    if name in (OURS, HEAVIEST):
                        errors.setdefault((name, policy, share), []).append(mean_square(frames, true))
    names = dict.fromkeys(name for name, _, _ in errors)
    return {
        name: {policy: [psnr(float(np.concatenate(errors[name, policy, share]).mean())) for share in SHARES] for policy in POLICIES}
        for name in names
    }


def draw(file: Path, figures: dict[str, dict[str, list[float]]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for (name, curves), colour in zip(figures.items(), ("#2166ac", "#e08214"), strict=False):
        for (policy, values), dashes in zip(curves.items(), ("--", "-"), strict=True):
            axes.plot([100 * share for share in SHARES], values, dashes, color=colour, marker="o", label=f"{name}: {policy} forgotten")
    axes.set_xscale("log", base=2)
    axes.set_xticks([100 * share for share in SHARES], [f"{100 * share:g} %" for share in SHARES])
    axes.invert_xaxis()
    axes.set(xlabel="entries kept, of 256", ylabel="PSNR of 256 imagined steps, dB")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="image-navigation", metavar="NAME", help="a shipped model or a path")
    parser.add_argument("--worlds", type=integer(1), default=25, metavar="N", help="unseen worlds")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the curves here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    args = parser.parse_args()
    for file in (args.figure, args.json):
        check_writable(file)
    figures = measure(GTMSM.load(args.model), args.worlds, args.seed)
    rows: list[list[Cell]] = [
        [f"{name}, {policy} forgotten", *values] for name, curves in figures.items() for policy, values in curves.items()
    ]
    columns = ["PSNR in dB; entries kept", *(f"{100 * share:g} %" for share in SHARES)]
    print(table(columns, rows, f"{args.model}, {args.worlds} test worlds, {TAU} steps remembered and {TAU} imagined"))
    if args.figure:
        draw(args.figure, figures)
    if args.json:
        write_json(args.json, {"shares": SHARES, "psnr": figures}, args.seed)


if __name__ == "__main__":
    main()
