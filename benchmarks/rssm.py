"""An RSSM beside GTM-SM: the same train worlds, the same CPU time, the same evaluation, and no spatial memory.

    python benchmarks/rssm.py [--minutes M] [--output FOLDER] [--json FILE]

A recurrent state-space model in the manner of DreamerV3 (GRU state h, Gaussian z, balanced KL with free bits) sees 256 real steps and
then imagines 1000 from actions alone, deterministically. It draws as many walks as it can use, in their own colours. By default it
trains for as long as the shipped model did. What was tuned for it: walks that grow as GTM-SM's stages do; gates that start with memories
of 1 to 256 steps (Tallec and Ollivier, 2018); a posterior that reads the frame alone, so that a whole walk is filtered in one call; and a
share of each walk imagined while training, whose frames are predicted without noise and scored like all others, as it is judged. The
learning curve is of validation worlds.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtmsm_env.checkpoint import load_checkpoint
from gtmsm_env.data import Policy, Walks, record_walks
from gtmsm_env.evaluate import FLOOR, HEAVIEST, LINES, OURS, imagined_frames, measure
from gtmsm_env.model import GTMSM, PRETRAINED, shipped
from gtmsm_env.networks import frames_to_x, x_to_frames
from gtmsm_env.report import Cell, check_writable, table, write_json
from gtmsm_env.trials import (
    COPY,
    HORIZON,
    MEAN,
    TAU,
    Trials,
    fidelity,
    fidelity_tables,
    kinds,
    mean_square,
    model_free_frames,
    psnr,
    record_trials,
    together,
)
from gtmsm_env.types import Walk
from gtmsm_env.vector import Frames

# From this share of the time on: steps seen, and the most that are imagined; how many is drawn for each batch, log-uniformly from 16.
Stages = tuple[tuple[float, int, int], ...]
STAGES: Stages = ((0.0, 16, 16), (0.2, 48, 64), (0.45, 128, 128), (0.7, 256, 256))
BATCH, LEARNING_RATE, ANNEAL = 32, 1e-3, 0.4  # the last 40 % of the time bring the learning rate to 0
SCORED = 32  # steps decoded of those seen, and as many of those imagined
SIGMA_X = 0.1
RSSM_ROW = "RSSM"
RED: dict[str, Any] = {"color": "#c51b3c", "linewidth": 2.6}
Imagine = Callable[[Any, int], Frames]  # trials, and how many steps after those seen -> frames (W, steps, H, W, C)
Judge = Callable[[Imagine], dict[str, float]]


class RSSM(nn.Module):
    """h_t = GRU(h_{t-1}, [z_{t-1}, a_t]); p(z_t | h_t); q(z_t | x_t); p(x_t | h_t, z_t).

    Args:
        frame_shape: (H, W, C); frames of 32 pixels and more are seen and drawn by convolutions
        num_actions: A
        tau: steps that will be seen
    """

    def __init__(
        self, frame_shape: tuple[int, ...], num_actions: int, tau: int = TAU, h_size: int = 256, z_size: int = 32, hidden: int = 256
    ) -> None:
        super().__init__()
        height, width, channels = frame_shape
        x_shape, self.num_actions, self.tau = (channels, height, width), num_actions, tau
        x_size = math.prod(frame_shape)

        def mlp(*sizes: int) -> nn.Sequential:
            layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.SiLU())]
            return nn.Sequential(*layers[:-1])

        self.gru = nn.GRU(z_size + num_actions, h_size, batch_first=True)
        sizes = (channels, 16, 32, 64)
        small, convolved = (sizes[-1], height // 8, width // 8), height >= 32
        if convolved:
            down = [layer for a, b in pairwise(sizes) for layer in (nn.Conv2d(a, b, 4, 2, 1), nn.SiLU())]
            self.q = nn.Sequential(*down, nn.Flatten(), mlp(math.prod(small), hidden, 2 * z_size))
        else:
            self.q = nn.Sequential(nn.Flatten(), mlp(x_size, hidden, hidden, 2 * z_size))
        self.p = mlp(h_size, hidden, 2 * z_size)
        if convolved:
            up = [layer for b, a in pairwise(sizes[::-1]) for layer in (nn.SiLU(), nn.ConvTranspose2d(b, a, 4, 2, 1))]
            self.decoder = nn.Sequential(mlp(h_size + z_size, hidden, math.prod(small)), nn.Unflatten(-1, small), *up)
        else:
            self.decoder = nn.Sequential(mlp(h_size + z_size, hidden, hidden, x_size), nn.Unflatten(-1, x_shape))
        # each unit forgets at its own rate, over 1 to tau steps
        bias = dict(self.gru.named_parameters())["bias_hh_l0"].detach()
        nn.init.uniform_(bias[h_size : 2 * h_size], 1, tau).log_()

    def posterior(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """q(z | x): uint8 frames (*B, H, W, C) -> mean and deviation (*B, d)."""
        statistics = self.q(frames_to_x(frames).flatten(0, -4) - 0.5)
        return self.gaussian(statistics.reshape(*frames.shape[:-3], -1))

    def prior(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """p(z | h): h (*B, D) -> mean and deviation (*B, d)."""
        return self.gaussian(self.p(h))

    def decode(self, h: Tensor, z: Tensor) -> Tensor:
        """The mean of p(x | h, z), (*B, C, H, W)."""
        x: Tensor = self.decoder(torch.cat([h, z], dim=-1).flatten(0, -2))
        return x.reshape(*h.shape[:-1], *x.shape[1:]) + 0.5

    @staticmethod
    def gaussian(statistics: Tensor) -> tuple[Tensor, Tensor]:
        mean, deviation = statistics.chunk(2, dim=-1)
        return mean, F.softplus(deviation) + 0.1

    def observe(self, z: Tensor, actions: Tensor) -> Tensor:
        """h_1..h_T of seen steps: z (B, T, d), actions (B, T-1) -> (B, T, D)."""
        a = F.pad(F.one_hot(actions, self.num_actions).float(), (0, 0, 1, 0))  # there is no a_1
        h: Tensor = self.gru(torch.cat([F.pad(z, (0, 0, 1, 0))[:, :-1], a], dim=-1))[0]
        return h

    def imagine(self, h: Tensor, z: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """From actions alone, each z the prior's mean: h (B, D), z (B, d), actions (B, T) -> h (B, T, D), z (B, T, d)."""
        hs, zs = [], []
        for a in F.one_hot(actions, self.num_actions).float().unbind(dim=1):
            h = torch.gru_cell(torch.cat([z, a], dim=-1), h, *self.gru.parameters())
            z = self.prior(h)[0]
            hs.append(h)
            zs.append(z)
        return torch.stack(hs, dim=1), torch.stack(zs, dim=1)

    def forward(self, frames: Tensor, index: Tensor, actions: Tensor, tau: int, generator: torch.Generator | None = None) -> Tensor:
        """The loss of walks whose first tau steps are seen: frames (B, F, H, W, C) the distinct ones, index (B, T), actions (B, T-1)."""
        mean, deviation = (torch.take_along_dim(q, index[:, :tau, None], dim=1) for q in self.posterior(frames))
        z = mean + deviation * torch.empty_like(mean).normal_(generator=generator)
        h = self.observe(z, actions[:, : tau - 1])
        h_ahead, z_ahead = self.imagine(h[:, -1], z[:, -1], actions[:, tau - 1 :])

        some = torch.randperm(tau, generator=generator)[:SCORED]
        ahead = torch.randperm(index.shape[1] - tau, generator=generator)[:SCORED]
        steps = torch.cat([some, tau + ahead])
        x = frames_to_x(torch.take_along_dim(frames, index[:, steps, None, None, None], dim=1))
        shown = self.decode(torch.cat([h[:, some], h_ahead[:, ahead]], dim=1), torch.cat([z[:, some], z_ahead[:, ahead]], dim=1))
        error = (shown - x).square().flatten(2).sum(dim=-1) / (2 * SIGMA_X**2)
        seen, imagined = error[:, : len(some)].mean(), error[:, len(some) :].mean()

        p_mean, p_deviation = self.prior(h)
        dynamics = gaussian_kl(mean.detach(), deviation.detach(), p_mean, p_deviation).clamp(min=1).mean()
        representation = gaussian_kl(mean, deviation, p_mean.detach(), p_deviation.detach()).clamp(min=1).mean()
        return seen + imagined + dynamics + 0.1 * representation


def gaussian_kl(mean: Tensor, deviation: Tensor, other_mean: Tensor, other_deviation: Tensor) -> Tensor:
    """KL of diagonal Gaussians, summed over the last axis."""
    square = (deviation.square() + (mean - other_mean).square()) / other_deviation.square()
    return ((other_deviation / deviation).log() + 0.5 * (square - 1)).sum(dim=-1)


@torch.no_grad()
def dream(model: RSSM, trials: Any, horizon: int) -> Frames:
    """What the RSSM imagines after the first tau steps of `trials.walk`, deterministically: (W, horizon, H, W, C)."""
    walk, tau = trials.walk, model.tau
    z = model.posterior(walk.frames[:, :tau])[0]
    h = model.observe(z, walk.actions[:, : tau - 1])
    h, z = model.imagine(h[:, -1], z[:, -1], walk.actions[:, tau - 1 : tau - 1 + horizon])
    return x_to_frames(model.decode(h, z)).numpy()


def batches(
    world: dict[str, Any],
    seed: int,
    longest: int,
    size: int = BATCH,
    times: int = 1,
    policy: Policy | None = None,
    chunk: int = 256,
    **rules: Any,
) -> Iterator[Walks]:
    """Training walks of `longest` steps without end, `size` of them in a batch, each `times` over."""
    kwargs = world["kwargs"] | rules | {"task": None, "split": "train"}
    while True:
        for walks in record_walks(world["id"], kwargs, 2**16, longest, seed, chunk, policy=policy):
            for rows in (rows for _ in range(times) for rows in torch.randperm(len(walks)).split(size)):
                yield Walks(walks.frames[rows], walks.index[rows], walks.actions[rows])
        seed += 1


def longest(stages: Stages) -> int:
    """Steps of the walks that these stages need."""
    return max(tau + ahead for _, tau, ahead in stages)


def train(model: RSSM, source: Iterator[Walks], stages: Stages, minutes: float, judge: Judge) -> list[dict[str, float]]:
    """Trains for `minutes` of CPU time and gives the learning curve. Walks and the judge are not counted, as for GTM-SM's card."""
    optimiser = torch.optim.Adam(model.parameters())
    iterations = 0
    curve: list[dict[str, float]] = []
    start, paused, total = time.process_time(), 0.0, 60 * minutes
    while True:
        spent = time.process_time() - start - paused
        share = min(1.0, spent / total)
        if share >= len(curve) / 12:  # twelve points and the start
            before = time.process_time()
            curve.append({"cpu seconds": spent, "iterations": iterations, **judge(partial(dream, model))})
            print("  ".join(f"{name} {value:.4g}" for name, value in curve[-1].items()), flush=True)
            paused += time.process_time() - before
        if share == 1:
            return curve
        _, tau, most = [stage for stage in stages if stage[0] <= share][-1]
        ahead = round(16 * (most / 16) ** float(torch.rand(())))
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (1 - share) / ANNEAL)
        before = time.process_time()
        walks = next(source)
        walks = walks.batch(torch.arange(len(walks)), tau + ahead)
        paused += time.process_time() - before
        loss = model(walks.frames, walks.index, walks.actions, tau)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 100)
        optimiser.step()
        iterations += 1


def judge_on(world: dict[str, Any], seed: int, images: str, episodes: int = 50) -> Judge:
    """A judge by validation worlds: PSNR of 256 imagined steps, and MSE of the last 64 on visited places."""
    tests = list(record_trials(world, episodes, seed, images, "validation"))
    visited = np.concatenate([trials.visited[:, TAU - 64 : TAU] for trials in tests])

    def judge(imagine: Imagine) -> dict[str, float]:
        error = np.concatenate([mean_square(imagine(trials, TAU), trials.walk.frames[:, TAU : 2 * TAU].numpy()) for trials in tests])
        return {"psnr 1-256": psnr(float(error.mean())), "mse 193-256, visited": float(error[:, -64:][visited].mean())}

    return judge


def memory_mean(trials: Trials, horizon: int) -> Frames:
    return dict(model_free_frames(trials))[MEAN][:, :horizon]


def gtmsm_dream(model: GTMSM, trials: Trials, horizon: int) -> Frames:
    walk = trials.walk
    belief = model.remember(Walk(walk.frames[:, :TAU], walk.actions[:, : TAU - 1]))
    s = model.imagine(belief, walk.actions[:, TAU - 1 : TAU - 1 + horizon]).mean
    return next(imagined_frames(model, s, belief.memory, torch.Generator()))[1]


def draw_curve(
    file: Path, curve: list[dict[str, float]], levels: dict[str, dict[str, float]], name: str, title: str, styles: dict[str, Any] = LINES
) -> None:
    """The RSSM's learning curve between what needs no training and what GTM-SM reached."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from gtmsm_env import plots

    with rc_context(plots.STYLE):
        figure = Figure(figsize=(6.2, 3.9), layout="constrained")
        axes = figure.subplots()
        axes.plot(
            [point["cpu seconds"] / 60 for point in curve], [point[name] for point in curve], "o-", markersize=4, label=RSSM_ROW, **RED
        )
        for level, figures in levels.items():
            axes.axhline(figures[name], label=level, **styles[level])
        axes.set(xlabel="CPU minutes of training", ylabel="MSE", yscale="log", title=title)
        axes.tick_params(length=0, which="both")
        axes.legend(fontsize=8)
        plots.save(figure, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="image-navigation", help="the GTM-SM beside it: a shipped model or a path")
    parser.add_argument("--minutes", type=float, help="CPU time of training (default: what that model's training took, else 20)")
    parser.add_argument("--episodes", type=int, default=200, help="test worlds")
    parser.add_argument("--images", default="procedural", help="or a folder or a zip, for training and test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="draw two figures into this folder")
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    check_writable(file=args.json, folder=args.output)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    gtmsm = GTMSM.load(args.model)
    if gtmsm.world is None:
        raise ValueError(f"An RSSM is trained on a model's own world; {args.model} names none: give a model made by `train`.")
    world, minutes = gtmsm.world, args.minutes or training_minutes(args.model)

    rssm = RSSM(gtmsm.frame_shape, gtmsm.num_actions)
    print(f"an RSSM of {sum(p.numel() for p in rssm.parameters()):,} parameters trains for {minutes:.1f} minutes of CPU time", flush=True)
    judge = judge_on(world, args.seed + 10**6, args.images)
    ours = OURS if gtmsm.views else HEAVIEST
    levels = {MEAN: judge(memory_mean), ours: judge(partial(gtmsm_dream, gtmsm))}
    curve = train(rssm, batches(world, args.seed, longest(STAGES), images=args.images), STAGES, minutes, judge)

    parts = []
    for trials in record_trials(world, args.episodes, args.seed, args.images):
        measured, _ = measure(gtmsm, trials, args.seed)
        error = mean_square(dream(rssm, trials, HORIZON), trials.walk.frames[:, TAU:].numpy())
        parts.append(replace(measured, error=measured.error | {RSSM_ROW: error}))
    measured = together(parts)
    errors = {name: measured.error[name] for name in (ours, RSSM_ROW, FLOOR, MEAN, COPY)}
    figures = fidelity(errors, measured.visited)
    revisited = measured.visited[:, TAU - 1]
    at_256 = {name: float(error[:, TAU - 1][revisited].mean()) for name, error in errors.items()}
    print("\n" + fidelity_tables(figures) + "\n")
    rows: list[list[Cell]] = [[name, f"{mse:.5f}", at_256[RSSM_ROW] / mse if mse else math.inf] for name, mse in at_256.items()]
    print(table([f"imagined step {TAU}, {revisited.sum()} visited places", "MSE", "times below the RSSM's"], rows, digits=1))
    if args.output:
        from gtmsm_env import plots

        plots.horizon_figure(args.output / "rssm-by-horizon.png", errors, kinds(measured.visited), LINES | {RSSM_ROW: RED})
        title = "Visited places, imagined steps 193-256, validation"
        draw_curve(args.output / "rssm-learning-curve.png", curve, levels, "mse 193-256, visited", title)
    if args.json:
        counted = {"minutes": minutes, "episodes": args.episodes, "parameters": sum(p.numel() for p in rssm.parameters())}
        learned = {"learning curve": curve, "validation levels": levels}
        write_json(args.json, {**counted, "fidelity": figures, "mse at step 256, visited": at_256, **learned}, args.seed)


def training_minutes(name: str) -> float:
    """CPU minutes that a model's card says its training took; 20 where it does not."""
    _, config = load_checkpoint(PRETRAINED / name if name in shipped() else name, kind="model")
    return float(config["card"].get("seconds", 1200)) / 60


if __name__ == "__main__":
    main()
