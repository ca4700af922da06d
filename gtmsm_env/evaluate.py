"""The paper's image navigation experiment: what a model imagines in unseen worlds, beside what a memory could show at best.

A walk of 256 steps is remembered and 1000 more are imagined from actions alone. The model sees frames and actions, never a position.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from gtmsm_env import evaluate_labyrinth, evaluate_obstacles, recipe, recipe_obstacles
from gtmsm_env.data import distinct
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.model import GTMSM
from gtmsm_env.networks import frames_to_x, x_to_frames
from gtmsm_env.priors import mixture_prior
from gtmsm_env.report import Cell, check_writable, named_table, plain, table, write_json
from gtmsm_env.trials import (
    COPY,
    HORIZON,
    MEAN,
    NEAREST,
    PASTED,
    SPANS,
    TAU,
    Trials,
    fidelity,
    fidelity_tables,
    growth,
    kinds,
    mean_square,
    model_free_frames,
    record_trials,
    share,
    span_name,
    together,
)
from gtmsm_env.types import WITHIN, GaussianMixture, Walk, gaussian_log_prob
from gtmsm_env.vector import Flags, Floats, Frames
from gtmsm_env.video import missing, write_video
from gtmsm_env.worlds import open_model, shipped_for

SLICE = 50  # steps decoded at once: five decoded neighbours of each take 4 kB

# -------------------------------------------------------------------- read-outs: imagined frames (W, H, h, w, c) by name

OURS, PAPER = "our prior", "the paper's mixture"
HEAVIEST, AVERAGE, SAMPLED = f"{PAPER}, heaviest", f"{PAPER}, mean of K decoded", f"{PAPER}, sampled"
FLOOR = "the VAE's floor (true frames)"
LINES: dict[str, dict[str, Any]] = {  # how the curves of a figure look
    OURS: {"color": "#2166ac", "linewidth": 2.6, "zorder": 3},
    HEAVIEST: {"color": "#e08214"},
    AVERAGE: {"color": "#b35806", "linestyle": (0, (5, 1.5))},
    SAMPLED: {"color": "#fdb863"},
    FLOOR: {"color": "black", "linestyle": (0, (1, 1.4)), "zorder": 4},
    PASTED: {"color": "#1b7837", "linestyle": (0, (5, 1.5))},
    NEAREST: {"color": "#7fbf7b", "linestyle": (0, (5, 1.5))},
    MEAN: {"color": "#762a83"},
    COPY: {"color": "#b3b3b3"},
}


def imagined_frames(model: GTMSM, s: Tensor, memory: SpatialMemory, generator: torch.Generator) -> Iterator[tuple[str, Frames]]:
    """What the model shows at s (W, H, n): by its own prior where it has one, and by the paper's mixture of the raw memory."""

    def shown(x: list[Tensor]) -> Frames:
        return x_to_frames(torch.cat(x, dim=1)).cpu().numpy()

    if model.views is not None:
        places = model.recall(memory)
        yield OURS, torch.cat([model.decode(part, places) for part in s.split(SLICE, dim=1)], dim=1).cpu().numpy()
    values = memory.values | {"decoded": model.decoder(memory.values["z_mean"])}
    memory = SpatialMemory(memory.s_mean, memory.s_variance, values, memory.count)
    heaviest, average, sampled = [], [], []
    for part in s.split(SLICE, dim=1):
        neighbours = memory.read(part, model.K)
        mixture = mixture_prior(neighbours, model.delta)
        heaviest.append(model.decoder(mixture.heaviest()))
        average.append((mixture.log_weight.exp()[..., None, None, None] * neighbours.values["decoded"]).sum(dim=2))
        sampled.append(model.decoder(mixture.sample(generator)))
    yield HEAVIEST, shown(heaviest)
    yield AVERAGE, shown(average)
    yield SAMPLED, shown(sampled)


def floor_frames(model: GTMSM, frames: Tensor, index: Tensor) -> Frames:
    """The true frames frames[index] (W, H), encoded and decoded without noise: each distinct one once."""
    shown = x_to_frames(model.decoder(model.encode(frames)[0])).cpu()
    return torch.take_along_dim(shown, index.cpu()[..., None, None, None], dim=1).numpy()


# -------------------------------------------------------------------- likelihood


@dataclass(frozen=True)
class Terms:
    """The terms of section 3.4 at each step tau+1..T, in nats, by one sample of s and z as when training."""

    log_likelihood: dict[str, Tensor]  # prior -> (W, T - tau)
    kl: dict[str, Tensor]
    standardised: Tensor | None  # (W, T - tau, d) (z - m)^2 / v of our prior's inferred component


def elbo_terms(model: GTMSM, frames: Tensor, index: Tensor, actions: Tensor, tau: int, seed: int) -> Terms:
    """`GTMSM.forward`, step by step and under both priors. frames (W, F, H, W, C), index (W, T), actions (W, T-1)."""
    found: list[tuple[GaussianMixture, Tensor | None]] = []

    def our_prior(s: Tensor, memory: SpatialMemory) -> GaussianMixture:
        found.append(model.expect(s, memory))
        return found[0][0]

    def paper_prior(s: Tensor, memory: SpatialMemory) -> GaussianMixture:
        return mixture_prior(memory.read(s, model.K), model.delta)

    q_mean, q_variance = (torch.take_along_dim(q, index[..., None], dim=1) for q in model.encode(frames))
    log_likelihood, kl = {}, {}
    x = frames_to_x(torch.take_along_dim(frames, index[:, tau:, None, None, None], dim=1))
    variance = torch.tensor(model.sigma_x**2, device=x.device)
    for name, prior in {OURS: our_prior, PAPER: paper_prior}.items():
        if name == PAPER or model.views is not None:
            generator = torch.Generator(frames.device).manual_seed(seed)  # the same sample under both
            kl[name], z = model.divergence(q_mean, q_variance, actions, tau, prior, generator)
            shown = model.generate(z, found[0][1] if name == OURS else None)
            log_likelihood[name] = gaussian_log_prob(x.flatten(2), shown.flatten(2), variance)
    if not found:
        return Terms(log_likelihood, kl, None)
    mixture = found[0][0]
    return Terms(log_likelihood, kl, (z - mixture.mean[..., 0, :]).square() / mixture.variance[..., 0, :])


# -------------------------------------------------------------------- measured


@dataclass(frozen=True)
class Positions:
    """Where a model believes to be in test worlds, and where it is; W worlds, H imagined steps, T = TAU + H."""

    visited: Flags  # (W, H)
    state: Floats  # (W, T, n) inferred
    position: NDArray[np.int64]  # (W, T, 2) true
    action: NDArray[np.int64]  # (W, T - 1)
    right_place: Flags  # (W, H) the nearest entry was written at the true place
    right_frame: Flags  # (W, H) the nearest entry's frame equals the true one byte for byte


@dataclass(frozen=True)
class Measured(Positions):
    """All that one pass over the test worlds gives: positions, and what is shown there."""

    error: dict[str, Floats]  # read-out -> (W, H) mean square of each frame
    log_likelihood: dict[str, Floats]  # prior -> (W, TAU) of steps TAU+1..2 TAU
    kl: dict[str, Floats]
    standardised: Floats | None  # (W, TAU, d)


def array(x: Tensor) -> Floats:
    """On the CPU, in double precision."""
    return x.cpu().double().numpy()


@torch.no_grad()
def dream(model: GTMSM, trials: Trials) -> tuple[SpatialMemory, Tensor]:
    """Remember and imagine one chunk of test worlds: the memory of TAU steps, and the states after them, (W, H, n)."""
    device = model.transition.W_a.device
    actions = trials.walk.actions.to(device)
    belief = model.remember(Walk(trials.walk.frames[:, :TAU].to(device), actions[:, : TAU - 1]))
    return belief.memory, model.imagine(belief, actions[:, TAU - 1 :]).mean


def measure_positions(trials: Trials, memory: SpatialMemory, s: Tensor) -> Positions:
    """What a `dream` of these worlds says of positions; no frame is decoded."""
    frames, position = trials.walk.frames.numpy(), trials.positions
    row, entry = np.arange(len(s))[:, None], memory.nearest(s, 1)[1].squeeze(-1).cpu().numpy()  # (W, 1), (W, H)
    return Positions(
        visited=trials.visited,
        state=array(torch.cat([memory.s_mean, s], dim=1)),
        position=position,
        action=trials.walk.actions.numpy(),
        right_place=(position[row, entry] == position[:, TAU:]).all(axis=-1),
        right_frame=(frames[row, entry] == frames[:, TAU:]).all(axis=(-3, -2, -1)),
    )


@torch.no_grad()
def measure(model: GTMSM, trials: Trials, seed: int) -> tuple[Measured, dict[str, Frames]]:
    """Remember, imagine and measure one chunk of test worlds; the imagined frames by name are given too."""
    memory, s = dream(model, trials)
    once = distinct(trials.walk)
    frames, index, actions = (x.to(s.device) for x in (once.frames, once.index, once.actions))

    shown = dict(imagined_frames(model, s, memory, torch.Generator(s.device).manual_seed(seed)))
    shown[FLOOR] = floor_frames(model, frames, index[:, TAU:])
    shown |= dict(model_free_frames(trials))
    terms = elbo_terms(model, frames, index[:, : 2 * TAU], actions[:, : 2 * TAU - 1], TAU, seed)

    measured = Measured(
        **vars(measure_positions(trials, memory, s)),
        error={name: mean_square(frames, trials.walk.frames[:, TAU:].numpy()) for name, frames in shown.items()},
        log_likelihood={name: array(x) for name, x in terms.log_likelihood.items()},
        kl={name: array(kl) for name, kl in terms.kl.items()},
        standardised=None if terms.standardised is None else array(terms.standardised),
    )
    return measured, shown


# -------------------------------------------------------------------- figures of merit


def fit_positions(state: Floats, position: NDArray[np.int64]) -> Floats:
    """The affine map from inferred states (W, T, n) to true positions (W, T, 2), fitted on the remembered steps of all walks; (W, T, 2)."""
    s = np.concatenate([state, np.ones_like(state[..., :1])], axis=-1)
    fit, *_ = np.linalg.lstsq(s[:, :TAU].reshape(-1, s.shape[-1]), position[:, :TAU].reshape(-1, 2), rcond=None)
    inferred: Floats = s @ fit
    return inferred


def position_figures(measured: Positions) -> dict[str, Any]:
    """Where the model believes to be: figure -> span -> value, and the drift of the error with the horizon."""
    inferred = fit_positions(measured.state, measured.position)
    error = np.linalg.norm(inferred - measured.position, axis=-1)[:, TAU:]  # (W, H) steps
    moved = np.diff(measured.position, axis=1)[:, TAU - 1 :]  # (W, H, 2)
    believed = np.diff(inferred, axis=1)[:, TAU - 1 :]
    right = np.less(np.linalg.norm(believed - moved, axis=-1), WITHIN)
    moves: Flags = np.asarray(moved.any(axis=-1))
    action = measured.action[:, TAU - 1 :]
    hits = ~moves & np.isin(action, np.unique(action[moves]))  # an action that moves elsewhere led nowhere
    figures: dict[str, Any] = {}
    for span in SPANS:
        inside = slice(span[0] - 1, span[1])
        truth = measured.position[:, TAU:][:, inside].reshape(-1, 2)
        spread = np.square(truth - truth.mean(axis=0)).sum()
        values = {
            "exact entry on visited places, by true place, %": share(measured.right_place[:, inside], measured.visited[:, inside]),
            "exact entry on visited places, by bytes of the frame, %": share(measured.right_frame[:, inside], measured.visited[:, inside]),
            "R^2 of inferred to true position": float(1 - np.square(error[:, inside]).sum() / spread),
            "position error, mean, steps": float(error[:, inside].mean()),
            "position error, largest, steps": float(error[:, inside].max()),
            "moves right within half a step, %": share(right[:, inside], moves[:, inside]),
            "wall hits right within half a step, %": share(right[:, inside], hits[:, inside]),
        }
        for name, value in values.items():
            figures.setdefault(name, {})[span_name(span)] = value
    figures["drift of the error, steps per 1000 steps"] = growth(error, 1000)
    figures["moves counted"], figures["wall hits counted"] = int(moves.sum()), int(hits.sum())
    return figures


def likelihood_figures(measured: Measured, size: int) -> dict[str, Any]:
    """ELBO of steps TAU+1..2 TAU in nats per dimension of x (of which there are `size`), and KL in nats."""
    visited = measured.visited[:, :TAU]
    return {
        name: {
            "elbo per dimension": float((measured.log_likelihood[name] - kl).mean() / size),
            "log likelihood per dimension": float(measured.log_likelihood[name].mean() / size),
            **{f"kl, {place}": float(kl[chosen].mean()) if chosen.any() else math.nan for place, chosen in kinds(visited).items()},
        }
        for name, kl in measured.kl.items()
    }


def variance_figures(standardised: Floats, visited: Flags) -> dict[str, Any]:
    """Is our prior's inferred Gaussian as sure as it may be? Shares of z within one and two deviations, and its standardised square.

    standardised: (W, H, d); visited: (W, H)
    """
    figures = {}
    for place, chosen in kinds(visited).items():
        values = standardised[chosen]
        figures[place] = {
            "within 1 deviation, %": float(100 * (values < 1).mean()) if values.size else math.nan,
            "within 2 deviations, %": float(100 * (values < 4).mean()) if values.size else math.nan,
            "standardised square": float(values.mean()) if values.size else math.nan,
        }
    return figures


# -------------------------------------------------------------------- tables


def position_table(figures: dict[str, Any]) -> str:
    """One row a figure, one column a span, and the drift below."""
    spans = [span_name(span) for span in SPANS]
    rows: list[list[Cell]] = []
    for name, values in figures.items():
        if isinstance(values, dict) and spans[0] in values:
            digits = 3 if "%" in name else 5
            rows.append([name, *(f"{values[span]:.{digits}f}" for span in spans)])
    drift = figures["drift of the error, steps per 1000 steps"]
    return (
        table(["inferred positions; imagined steps", *spans], rows)
        + f"\ndrift of the error: {drift['mean']:+.4f} +- {drift['95% half-width']:.4f} steps per 1000 steps (95 % interval over worlds); "
        + f"{figures['moves counted']} moves and {figures['wall hits counted']} wall hits"
    )


def text(figures: dict[str, Any]) -> str:
    """What the command prints."""
    blocks = [
        f"{TAU} steps remembered, {HORIZON} imagined; {figures['revisited, %']:.1f} % of the imagined steps at places visited before",
        fidelity_tables(figures["fidelity"]),
        position_table(figures["positions"]),
        named_table(f"nats, steps {TAU + 1}-{2 * TAU}", figures["likelihood"]),
    ]
    if figures["variance"]:
        blocks.append(named_table("our prior's variance (an honest one: 68.3, 95.4, 1)", figures["variance"]))
    return "\n\n".join(blocks)


def draw(folder: Path, model: GTMSM, measured: Measured, first: tuple[Trials, dict[str, Frames]]) -> None:
    """The figures of all worlds; figure 2 and the video of the first world."""
    from gtmsm_env import plots

    trials, shown = first
    true, imagined, visited = trials.walk.frames[0, TAU:].numpy(), shown.get(OURS, shown[HEAVIEST])[0], measured.visited[0]
    plots.figure_2(
        folder / "figure-2.png",
        trials.pictures[0],
        trials.positions[0, :TAU],
        measured.state[0, :TAU],
        true,
        imagined,
        visited,
        trials.step_size,
        horizons=(1, 2, 4, 8, 16, 32, 64, 128, 192, 256, 512, HORIZON),
    )
    plots.horizon_figure(folder / "psnr-by-horizon.png", measured.error, kinds(measured.visited), LINES)
    error = np.linalg.norm(fit_positions(measured.state, measured.position) - measured.position, axis=-1)[:, TAU:]
    standardised = {}
    if measured.standardised is not None:
        places = kinds(measured.visited[:, :TAU])
        standardised = {place: measured.standardised[places[place]] for place in ("visited", "not visited")}
    plots.position_figure(folder / "positions.png", error, standardised)
    if absent := missing():
        print(absent)
        return
    film = plots.film(
        trials.pictures[0], trials.positions[0, TAU:], measured.state[0], true, imagined, visited, trials.step_size, model.axes
    )
    write_video(folder / "dream.mp4", film, fps=8)


def judge(
    model: GTMSM, episodes: int, seed: int = 0, images: str = "procedural", split: str = "test"
) -> tuple[dict[str, Any], Measured, tuple[Trials, dict[str, Frames]]]:
    """All figures of a model in unseen worlds, what they were computed from, and the first worlds with what was imagined of them.

    Shows a progress bar.
    """
    assert model.world is not None
    parts: list[Measured] = []
    first: list[tuple[Trials, dict[str, Frames]]] = []
    with tqdm(total=episodes, desc="walking and dreaming", unit="world", leave=False) as progress:
        for test in record_trials(model.world, episodes, seed, images, split):
            measured, shown = measure(model, test, seed + len(parts))
            parts.append(measured)
            first = first or [(test, shown)]
            progress.update(len(measured.visited))
    measured = together(parts)
    figures = {
        "worlds": {"images": images, "split": split, "episodes": episodes},
        "revisited, %": float(100 * measured.visited.mean()),
        "fidelity": fidelity(measured.error, measured.visited),
        "positions": position_figures(measured),
        "likelihood": likelihood_figures(measured, math.prod(model.frame_shape)),
        "variance": None if measured.standardised is None else variance_figures(measured.standardised, measured.visited[:, :TAU]),
    }
    return figures, measured, first[0]


def summary(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures a model card holds, as JSON: PSNR of the first TAU imagined steps, positions over all of them."""
    near, far = span_name((1, TAU)), span_name((1, HORIZON))
    held = {
        "worlds": figures["worlds"],
        f"PSNR in dB, imagined steps {near}": {
            name: {place: round(spans[near]["psnr"], 2) for place, spans in places.items()} for name, places in figures["fidelity"].items()
        },
        f"positions, imagined steps {far}": {
            name: round(value[far], 5) if far in value else value for name, value in figures["positions"].items() if isinstance(value, dict)
        },
        f"nats, imagined steps {near}": figures["likelihood"],
    }
    return cast(dict[str, Any], plain(held))


# World -> its id, and what judges a model there, tells the figures and draws them.
EXPERIMENTS: dict[str, tuple[str, Any, Any, Any]] = {
    "image-navigation": (recipe.WORLD, judge, text, draw),
    "obstacle-grid": (recipe_obstacles.WORLD, evaluate_obstacles.judge, evaluate_obstacles.text, evaluate_obstacles.draw),
    **{
        name: (agent.world, partial(evaluate_labyrinth.judge, name), evaluate_labyrinth.text, evaluate_labyrinth.draw)
        for name, agent in evaluate_labyrinth.experiments().items()
    },
}


def run(args: argparse.Namespace) -> int:
    """`python -m gtmsm_env evaluate WORLD`. ValueError for a model of another world."""
    check_writable(file=args.json, folder=args.output)
    if args.output:
        import_module("matplotlib")  # absent, it is named now and not after the work
    start = time.process_time()
    world, judge, text, draw = EXPERIMENTS[args.world]
    name, model = args.model or shipped_for(world), open_model(args.model, world, args.device)
    trained = model.world["id"] if model.world else "none"
    if trained != world:
        raise ValueError(
            f"A model is judged in the kind of world it was trained on, here {world}; {name} names {trained}. "
            f"Give one made by `python -m gtmsm_env train {args.world}`, or evaluate it in its own."
        )
    figures, *judged = judge(model, args.episodes, args.seed, args.images, args.split)
    figures = {"model": {"name": name, "fingerprint": model.fingerprint(), **model.config}, **figures}
    figures["cpu seconds"] = time.process_time() - start
    print(f"{args.world}: {name} in {args.episodes} worlds of {args.images}, split {args.split}: {text(figures)}")
    if args.json:
        write_json(args.json, figures, args.seed)
    if args.output:
        draw(args.output, model, *judged)
        print(f"\nfigures drawn in {args.output}")
    return 0
