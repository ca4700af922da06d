"""An RSSM beside our views in the walking labyrinth: the same train rooms and walker, the same test rooms, and no spatial memory.

    python benchmarks/rssm_labyrinth.py [--minutes M] [--output FOLDER] [--json FILE]

The RSSM of `rssm.py` with convolutions sees 150 real steps and imagines 150 from actions alone. It learns as it does there, from as many
train rooms as it can use, with the walker that our model learned from. The learning curve is of validation rooms.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rssm import RSSM, RSSM_ROW, Imagine, Stages, batches, draw_curve, dream, longest, train, training_minutes

from gtmsm_env.evaluate_labyrinth import COPY, LINES, MEAN, NEAREST, Trials, model_frames, model_free_frames, record_trials
from gtmsm_env.model import GTMSM
from gtmsm_env.recipe_labyrinth import WALKING, policy
from gtmsm_env.report import check_writable, named_table, write_json
from gtmsm_env.trials import mean_square, psnr, span_name
from gtmsm_env.types import Walk
from gtmsm_env.vector import Floats, Frames

TAU, HORIZON = WALKING.tau, WALKING.horizon
STAGES: Stages = ((0.0, 16, 16), (0.2, 48, 48), (0.5, 96, 96), (0.75, TAU, HORIZON))
BATCH, TIMES = 16, 8  # walks; how often each is learned from, as rooms take longer to walk than pictures
ROOMS, VALIDATED = 256, 20  # walked at once; validation rooms
LAST = 50  # imagined steps that the learning curve is of
WHOLE, END = f"psnr 1-{HORIZON}", f"mse {HORIZON - LAST + 1}-{HORIZON}"


def levels(error: Floats) -> dict[str, float]:
    """PSNR of all imagined steps, and MSE of the last: error (W, HORIZON)."""
    return {WHOLE: psnr(float(error.mean())), END: float(error[:, -LAST:].mean())}


@torch.no_grad()
def shown(model: GTMSM, trials: Trials) -> dict[str, Frames]:
    """What GTM-SM imagines, and what needs no model."""
    actions = trials.walk.actions
    belief = model.remember(Walk(trials.remembered, actions[:, : TAU - 1]))
    name, ours = next(model_frames(model, model.recall(belief.memory), model.filter(actions)[0][:, TAU:][:, :HORIZON], trials))
    without = model_free_frames(trials)[0]
    return {name: ours} | {name: without[name] for name in (NEAREST, MEAN, COPY)}


def errors(tests: Iterable[Trials], show: Callable[[Trials], dict[str, Frames]]) -> dict[str, Floats]:
    """Mean square of each imagined frame by what shows it, (W, HORIZON) each."""
    parts = [{name: mean_square(frames, trials.future.numpy()) for name, frames in show(trials).items()} for trials in tests]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="labyrinth", help="the GTM-SM beside it: a shipped model of this world or a path")
    parser.add_argument("--minutes", type=float, help="CPU time of training (default: what that model's training took, else 20)")
    parser.add_argument("--episodes", type=int, default=100, help="test rooms")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="draw the learning curve into this folder")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    check_writable(file=args.json, folder=args.output)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    gtmsm = GTMSM.load(args.model)
    if gtmsm.world is None or gtmsm.world["id"] != WALKING.world:
        raise ValueError(f"Both imagine {WALKING.world}, and {args.model} was trained for {gtmsm.world}: give a model of that world.")
    world, minutes = gtmsm.world, args.minutes or training_minutes(args.model)

    rssm = RSSM(gtmsm.frame_shape, gtmsm.num_actions, TAU)
    parameters = sum(p.numel() for p in rssm.parameters())
    print(f"an RSSM of {parameters:,} parameters trains for {minutes:.1f} minutes of CPU time", flush=True)
    validation = list(record_trials(WALKING, world, VALIDATED, args.seed + 10**6, "validation"))
    beside = {name: levels(error) for name, error in errors(validation, partial(shown, gtmsm)).items()}

    def judge(imagine: Imagine) -> dict[str, float]:
        return levels(errors(validation, lambda trials: {RSSM_ROW: imagine(trials, HORIZON)})[RSSM_ROW])

    curve = train(rssm, batches(world, args.seed, longest(STAGES), BATCH, TIMES, policy, ROOMS), STAGES, minutes, judge)

    tests = record_trials(WALKING, world, args.episodes, args.seed)
    error = errors(tests, lambda trials: {RSSM_ROW: dream(rssm, trials, HORIZON), **shown(gtmsm, trials)})
    figures = {
        name: {span_name(span): psnr(float(of[:, span[0] - 1 : span[1]].mean())) for span in WALKING.spans} for name, of in error.items()
    }
    print("\n" + named_table(f"PSNR in dB in {args.episodes} test rooms; imagined steps", figures))
    if args.output:
        draw_curve(args.output / "rssm-labyrinth.png", curve, beside, END, f"Imagined steps {END[4:]}, validation rooms", LINES)
    if args.json:
        counted = {"minutes": minutes, "episodes": args.episodes, "parameters": parameters}
        learned = {"learning curve": curve, "validation levels": beside}
        write_json(args.json, {**counted, "fidelity": figures, **learned}, args.seed)


if __name__ == "__main__":
    main()
