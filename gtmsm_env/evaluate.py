"""The paper's image navigation experiment as tables: what is imagined in unseen worlds, beside what a memory could show at best.

A walk of 256 steps is remembered and 1000 more are imagined from actions alone. True positions are read here and nowhere else.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import gtmsm_env  # noqa: F401  registers the worlds
from gtmsm_env import oracles
from gtmsm_env.data import distinct, record
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.model import GTMSM
from gtmsm_env.networks import frames_to_x, x_to_frames
from gtmsm_env.priors import mixture_prior
from gtmsm_env.report import Cell, check_writable, table, write_json
from gtmsm_env.types import GaussianMixture, Walk, gaussian_log_prob

TAU, HORIZON = 256, 1000
SPANS = ((1, 16), (17, 64), (65, 256), (257, 1000), (1, 256), (1, 1000))  # imagined steps, both ends included
CHUNK = 25  # worlds dreamed of at once
SLICE = 50  # steps decoded at once: a blended view takes about 25 kB
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


# -------------------------------------------------------------------- worlds


@dataclass(frozen=True)
class Trials:
    """Walks in unseen worlds with what is known of them for sure."""

    walk: Walk  # (W, TAU + HORIZON) frames and TAU + HORIZON - 1 actions, on the CPU
    pictures: NDArray[np.uint8]  # (W, S, S, 3) the worlds
    side: int  # P, places a side
    step_size: int  # pixels from place to place

    @property
    def positions(self) -> NDArray[np.int64]:
        """(W, TAU + HORIZON, 2) true places."""
        assert self.walk.positions is not None
        positions: NDArray[np.int64] = self.walk.positions.numpy()
        return positions

    @property
    def visited(self) -> Flags:
        """(W, HORIZON): the place of this imagined step was visited while remembering."""
        place = self.positions @ [self.side, 1]
        return (place[:, TAU:, None] == place[:, None, :TAU]).any(axis=-1)


def record_trials(world: dict[str, Any], episodes: int, seed: int, images: str = "procedural", split: str = "test") -> Iterator[Trials]:
    """Trials worlds, CHUNK at a time. World and walk i depend on `seed + i` alone.

    world: {"id": ..., "kwargs": ...}, what a model was trained on
    """
    for start in range(0, episodes, CHUNK):
        rows = min(CHUNK, episodes - start)
        envs = gym.make_vec(world["id"], num_envs=rows, **world["kwargs"] | {"task": None, "images": images, "split": split})
        generators = [np.random.default_rng((seed + start + row, 1)) for row in range(rows)]
        walk = record(envs, TAU + HORIZON, generators, seed=seed + start)
        inner: Any = envs.unwrapped
        _, info = envs.reset(seed=seed + start, options={"phase": "walk"})  # the same seeds draw the same pictures
        yield Trials(walk, inner.images.batch(info["image"]), inner.side, inner.step_size)
        envs.close()


def mean_square(shown: NDArray[np.uint8], true: NDArray[np.uint8]) -> Floats:
    """Squared error of frames (W, H, h, w, c) in [0, 1], averaged over each frame: (W, H)."""
    return np.square((shown.astype(np.float32) - true) / 255).mean(axis=(-3, -2, -1), dtype=np.float64)


# -------------------------------------------------------------------- read-outs: imagined frames (W, H, h, w, c) by name

OURS, PAPER = "our prior", "the paper's mixture"
HEAVIEST, AVERAGE, SAMPLED = f"{PAPER}, heaviest", f"{PAPER}, mean of K decoded", f"{PAPER}, sampled"
PASTED, NEAREST = "oracle: true pose, pixels pasted", "oracle: true pose, nearest crop"
FLOOR, COPY, MEAN = "the VAE's floor (true frames)", "the last frame copied", "the memory's mean frame"


def model_free_frames(test: Trials) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """What needs no model: the two oracles, the last frame and the memory's mean."""
    remembered, future = test.walk.frames[:, :TAU].numpy(), test.positions[:, TAU:]
    views, seen = oracles.places_seen(remembered, test.positions[:, :TAU], test.side)
    mean = remembered.mean(axis=1).round().astype(np.uint8)
    yield PASTED, oracles.at(oracles.pasted_pixels(views, seen, test.step_size, mean), future)
    yield NEAREST, oracles.at(oracles.nearest_crop(views, seen), future)
    yield MEAN, np.broadcast_to(mean[:, None], (*future.shape[:2], *mean.shape[1:]))
    yield COPY, np.broadcast_to(remembered[:, -1:], (*future.shape[:2], *mean.shape[1:]))


def imagined_frames(model: GTMSM, s: Tensor, memory: SpatialMemory, generator: torch.Generator) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """What the model shows at s (W, H, n): by its own prior where it has one, and by the paper's mixture of the raw memory."""

    def decoded(x: list[Tensor]) -> NDArray[np.uint8]:
        return x_to_frames(torch.cat(x, dim=1)).cpu().numpy()

    if model.views is not None:
        places = model.recall(memory)
        yield OURS, torch.cat([model.decode(part, places) for part in s.split(SLICE, dim=1)], dim=1).cpu().numpy()
    with_views = SpatialMemory(
        memory.s_mean, memory.s_variance, memory.values | {"decoded": model.decoder(memory.values["z_mean"])}, memory.count
    )
    heaviest, average, sampled = [], [], []
    for part in s.split(SLICE, dim=1):
        neighbours = with_views.read(part, model.K)
        mixture = mixture_prior(neighbours, model.delta)
        heaviest.append(model.decoder(mixture.heaviest()))
        average.append((mixture.log_weight.exp()[..., None, None, None] * neighbours.values["decoded"]).sum(dim=2))
        sampled.append(model.decoder(mixture.sample(generator)))
    yield HEAVIEST, decoded(heaviest)
    yield AVERAGE, decoded(average)
    yield SAMPLED, decoded(sampled)


def floor_frames(model: GTMSM, frames: Tensor, index: Tensor) -> NDArray[np.uint8]:
    """The true frames frames[index] (W, H), encoded and decoded without noise: each distinct one once."""
    shown = x_to_frames(model.decoder(model.encode(frames)[0])).cpu()
    return torch.take_along_dim(shown, index.cpu()[..., None, None, None], dim=1).numpy()


# -------------------------------------------------------------------- likelihood


@dataclass(frozen=True)
class Terms:
    """The terms of section 3.4 at each step tau+1..T, in nats, by one sample of s and z as when training."""

    log_likelihood: Tensor  # (W, T - tau)
    kl: dict[str, Tensor]  # prior -> (W, T - tau)
    standardised: Tensor | None  # (W, T - tau, d) (z - m)^2 / v of our prior's inferred component


def elbo_terms(model: GTMSM, frames: Tensor, index: Tensor, actions: Tensor, tau: int, generator: torch.Generator) -> Terms:
    """`GTMSM.forward`, step by step and under both priors. frames (W, F, H, W, C), index (W, T), actions (W, T-1)."""
    q_mean, q_variance = (torch.take_along_dim(q, index[..., None], dim=1) for q in model.encode(frames))
    s_mean, s_variance, _ = model.filter(actions)
    memory = SpatialMemory(s_mean[:, :tau], s_variance[:, :tau], {"z_mean": q_mean[:, :tau], "z_variance": q_variance[:, :tau]})
    mean, variance = q_mean[:, tau:], q_variance[:, tau:]
    s = s_mean[:, tau:] + s_variance[:, tau:].sqrt() * torch.empty_like(s_mean[:, tau:]).normal_(generator=generator)
    z = mean + variance.sqrt() * torch.empty_like(mean).normal_(generator=generator)
    x = frames_to_x(torch.take_along_dim(frames, index[:, tau:, None, None, None], dim=1))
    sigma_x = torch.tensor(model.sigma_x**2, device=x.device)
    places = model.recall(memory)
    log_q = gaussian_log_prob(z, mean, variance)
    likelihood: list[Tensor] = []
    kl: dict[str, list[Tensor]] = {PAPER: []} if model.views is None else {OURS: [], PAPER: []}
    standardised: list[Tensor] = []
    for t in torch.arange(s.shape[1]).split(SLICE):
        likelihood.append(gaussian_log_prob(x[:, t].flatten(2), model.decoder(z[:, t]).flatten(2), sigma_x))
        kl[PAPER].append(log_q[:, t] - mixture_prior(memory.read(s[:, t], model.K), model.delta).log_prob(z[:, t]))
        if model.views is not None:
            prior: GaussianMixture = model.prior(s[:, t], places)
            kl[OURS].append(log_q[:, t] - prior.log_prob(z[:, t]))
            standardised.append((z[:, t] - prior.mean[..., 0, :]).square() / prior.variance[..., 0, :])
    return Terms(
        torch.cat(likelihood, dim=1),
        {name: torch.cat(parts, dim=1) for name, parts in kl.items()},
        torch.cat(standardised, dim=1) if standardised else None,
    )


# -------------------------------------------------------------------- measured


@dataclass(frozen=True)
class Measured:
    """What one pass over the test worlds gives; W worlds, H imagined steps, T = TAU + H."""

    error: dict[str, Floats]  # read-out -> (W, H) mean square of each frame
    visited: Flags  # (W, H)
    state: Floats  # (W, T, n) inferred
    position: NDArray[np.int64]  # (W, T, 2) true
    action: NDArray[np.int64]  # (W, T - 1)
    right_place: Flags  # (W, H) the nearest entry was written at the true place
    right_frame: Flags  # (W, H) the nearest entry's frame equals the true one byte for byte
    log_likelihood: Floats  # (W, TAU) of steps TAU+1..2 TAU
    kl: dict[str, Floats]  # prior -> (W, TAU)
    standardised: Floats | None  # (W, TAU, d)


@torch.no_grad()
def measure(model: GTMSM, test: Trials, seed: int) -> tuple[Measured, dict[str, NDArray[np.uint8]]]:
    """Remember, imagine and measure one chunk of test worlds; the imagined frames by name are given too."""
    device = model.transition.W_a.device
    generator = torch.Generator(device).manual_seed(seed)
    walk = Walk(test.walk.frames, test.walk.actions)
    actions = walk.actions.to(device)
    belief = model.remember(Walk(walk.frames[:, :TAU].to(device), actions[:, : TAU - 1]))
    s = model.imagine(belief, actions[:, TAU - 1 :]).mean  # (W, H, n)
    once = distinct(walk)
    frames, index = once.frames.to(device), once.index.to(device)

    shown = dict(imagined_frames(model, s, belief.memory, generator))
    shown[FLOOR] = floor_frames(model, frames, index[:, TAU:])
    shown |= dict(model_free_frames(test))
    true = walk.frames[:, TAU:].numpy()
    entry = belief.memory.read(s, 1).index.squeeze(-1)  # (W, H)
    entry_place = np.take_along_axis(test.positions, entry.cpu().numpy()[..., None], axis=1)
    terms = elbo_terms(model, frames, index[:, : 2 * TAU], actions[:, : 2 * TAU - 1], TAU, generator)

    def array(x: Tensor) -> Floats:
        return x.cpu().double().numpy()

    measured = Measured(
        error={name: mean_square(frames, true) for name, frames in shown.items()},
        visited=test.visited,
        state=array(torch.cat([belief.memory.s_mean, s], dim=1)),
        position=test.positions,
        action=walk.actions.numpy(),
        right_place=(entry_place == test.positions[:, TAU:]).all(axis=-1),
        right_frame=(torch.take_along_dim(index, entry, dim=1) == index[:, TAU:]).cpu().numpy(),
        log_likelihood=array(terms.log_likelihood),
        kl={name: array(kl) for name, kl in terms.kl.items()},
        standardised=None if terms.standardised is None else array(terms.standardised),
    )
    return measured, shown


def together(parts: list[Measured]) -> Measured:
    """Several chunks as one."""

    def join(values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {name: join([value[name] for value in values]) for name in values[0]}
        return None if values[0] is None else np.concatenate(values)

    return Measured(**{name: join([getattr(part, name) for part in parts]) for name in Measured.__dataclass_fields__})


# -------------------------------------------------------------------- figures of merit


def psnr(mse: float) -> float:
    """Decibels of a pooled mean square, of frames in [0, 1]; infinite without error."""
    return -10 * math.log10(mse) if mse > 0 else math.inf if mse == 0 else math.nan


def kinds(visited: Flags) -> dict[str, Flags]:
    """Which steps count, for each kind of places."""
    return {"all places": np.ones_like(visited), "visited": visited, "not visited": ~visited}


def fidelity(error: dict[str, Floats], visited: Flags) -> dict[str, Any]:
    """Pooled MSE and PSNR: read-out -> places -> span -> {"mse", "psnr"}."""

    def pooled(values: Floats, chosen: Flags, span: tuple[int, int]) -> dict[str, float]:
        inside = slice(span[0] - 1, span[1])
        kept = values[:, inside][chosen[:, inside]]
        mse = float(kept.mean()) if kept.size else math.nan
        return {"mse": mse, "psnr": psnr(mse)}

    return {
        name: {place: {span_name(span): pooled(values, chosen, span) for span in SPANS} for place, chosen in kinds(visited).items()}
        for name, values in error.items()
    }


def span_name(span: tuple[int, int]) -> str:
    """A span as the tables and the JSON call it."""
    return f"{span[0]}-{span[1]}"


def fit_positions(state: Floats, position: NDArray[np.int64]) -> Floats:
    """The affine map from inferred states (W, T, n) to true positions (W, T, 2), fitted on the remembered steps of all walks; (W, T, 2)."""
    s = np.concatenate([state, np.ones_like(state[..., :1])], axis=-1)
    fit, *_ = np.linalg.lstsq(s[:, :TAU].reshape(-1, s.shape[-1]), position[:, :TAU].reshape(-1, 2), rcond=None)
    inferred: Floats = s @ fit
    return inferred


def position_figures(measured: Measured) -> dict[str, Any]:
    """Where the model believes to be: figure -> span -> value, and the drift of the error with the horizon."""
    inferred = fit_positions(measured.state, measured.position)
    error = np.linalg.norm(inferred - measured.position, axis=-1)[:, TAU:]  # (W, H) steps
    moved = np.diff(measured.position, axis=1)[:, TAU - 1 :]  # (W, H, 2)
    believed = np.diff(inferred, axis=1)[:, TAU - 1 :]
    right = np.linalg.norm(believed - moved, axis=-1) < 0.5
    moves = moved.any(axis=-1)
    hits = ~moves & np.isin(
        measured.action[:, TAU - 1 :], np.unique(measured.action[:, TAU - 1 :][moves])
    )  # a moving action that led nowhere
    figures: dict[str, Any] = {}
    for span in SPANS:
        inside = slice(span[0] - 1, span[1])

        def share(of: Flags, among: Flags, inside: slice = inside) -> float:
            return float(100 * of[:, inside][among[:, inside]].mean()) if among[:, inside].any() else math.nan

        truth = measured.position[:, TAU:][:, inside].reshape(-1, 2)
        spread = np.square(truth - truth.mean(axis=0)).sum()
        values = {
            "exact entry on visited places, by true place, %": share(measured.right_place, measured.visited),
            "exact entry on visited places, by bytes of the frame, %": share(measured.right_frame, measured.visited),
            "R^2 of inferred to true position": float(1 - np.square(error[:, inside]).sum() / spread),
            "position error, mean, steps": float(error[:, inside].mean()),
            "position error, largest, steps": float(error[:, inside].max()),
            "moves right within half a step, %": share(right, moves),
            "wall hits right within half a step, %": share(right, hits),
        }
        for name, value in values.items():
            figures.setdefault(name, {})[span_name(span)] = value
    steps = np.arange(1, error.shape[1] + 1)
    slopes = 1000 * np.polyfit(steps, error.T, 1)[0]  # one a world
    figures["drift of the error, steps per 1000 steps"] = {
        "mean": float(slopes.mean()),
        "95% interval": float(1.96 * slopes.std(ddof=1) / math.sqrt(len(slopes))) if len(slopes) > 1 else math.nan,
    }
    figures["moves counted"], figures["wall hits counted"] = int(moves.sum()), int(hits.sum())
    return figures


def likelihood_figures(measured: Measured, size: int) -> dict[str, Any]:
    """ELBO of steps TAU+1..2 TAU in nats per dimension of x (of which there are `size`), and KL in nats."""
    visited = measured.visited[:, :TAU]
    return {
        name: {
            "elbo per dimension": float((measured.log_likelihood - kl).mean() / size),
            "log likelihood per dimension": float(measured.log_likelihood.mean() / size),
            **{f"kl, {place}": float(kl[chosen].mean()) if chosen.any() else math.nan for place, chosen in kinds(visited).items()},
        }
        for name, kl in measured.kl.items()
    }


def variance_figures(measured: Measured) -> dict[str, Any]:
    """Is our prior's inferred Gaussian as sure as it may be? Shares of z within one and two deviations, and its standardised square."""
    assert measured.standardised is not None
    figures = {}
    for place, chosen in kinds(measured.visited[:, :TAU]).items():
        values = measured.standardised[chosen]
        figures[place] = {
            "within 1 deviation, %": float(100 * (values < 1).mean()) if values.size else math.nan,
            "within 2 deviations, %": float(100 * (values < 4).mean()) if values.size else math.nan,
            "standardised square": float(values.mean()) if values.size else math.nan,
        }
    return figures


# -------------------------------------------------------------------- tables


def fidelity_tables(figures: dict[str, Any]) -> str:
    """One table for each kind of places."""
    spans = [span_name(span) for span in SPANS]
    titles = {"all places": "all places", "visited": "places the walk has visited", "not visited": "places it has not visited"}
    blocks = []
    for place, title in titles.items():
        rows = [
            [name, *(places[place][span]["psnr"] for span in spans), *(f"{places[place][span]['mse']:.5f}" for span in spans[-2:])]
            for name, places in figures.items()
        ]
        columns = [f"PSNR in dB, {title}; imagined steps", *spans, *(f"MSE {span}" for span in spans[-2:])]
        blocks.append(table(columns, rows))
    return "\n\n".join(blocks)


def position_table(figures: dict[str, Any]) -> str:
    """One row a figure, one column a span, and the drift below."""
    spans = [span_name(span) for span in SPANS]
    rows: list[list[Cell]] = [
        [name, *(values[span] for span in spans)] for name, values in figures.items() if isinstance(values, dict) and spans[0] in values
    ]
    drift = figures["drift of the error, steps per 1000 steps"]
    return (
        table(["inferred positions; imagined steps", *spans], rows, digits=4)
        + f"\ndrift of the error: {drift['mean']:+.4f} +- {drift['95% interval']:.4f} steps per 1000 steps (95 % interval over worlds); "
        + f"{figures['moves counted']} moves and {figures['wall hits counted']} wall hits"
    )


def named_table(title: str, figures: dict[str, dict[str, float]], digits: int = 2) -> str:
    """Figures by row and column."""
    columns = list(next(iter(figures.values())))
    return table([title, *columns], [[name, *values.values()] for name, values in figures.items()], digits=digits)


def run(args: argparse.Namespace) -> int:
    """`python -m gtmsm_env evaluate image-navigation`."""
    check_writable(file=args.json, folder=args.output)
    start = time.process_time()
    model = GTMSM.load(args.model, args.device)
    if model.world is None:
        raise ValueError(
            f"A model is judged in the kind of world it was trained on; {args.model} names none: give a model made by `train`."
        )
    parts: list[Measured] = []
    first: tuple[Trials, dict[str, NDArray[np.uint8]]] | None = None
    for test in record_trials(model.world, args.episodes, args.seed, args.images, args.split):
        measured, shown = measure(model, test, args.seed + len(parts))
        parts.append(measured)
        first = first or (test, shown)
    measured = together(parts)
    figures = {
        "model": {"name": args.model, "fingerprint": model.fingerprint(), **model.config},
        "worlds": {"images": args.images, "split": args.split, "episodes": args.episodes},
        "fidelity": fidelity(measured.error, measured.visited),
        "positions": position_figures(measured),
        "likelihood": likelihood_figures(measured, math.prod(model.frame_shape)),
        "variance": None if measured.standardised is None else variance_figures(measured),
        "cpu seconds": time.process_time() - start,
    }
    print(
        f"{args.model} in {args.episodes} worlds of {args.images}, split {args.split}: {TAU} steps remembered, {HORIZON} imagined; "
        f"{100 * measured.visited.mean():.1f} % of the imagined steps at places visited before\n"
    )
    print(fidelity_tables(figures["fidelity"]), end="\n\n")
    print(position_table(figures["positions"]), end="\n\n")
    print(named_table(f"nats, steps {TAU + 1}-{2 * TAU}", figures["likelihood"]))
    if figures["variance"]:
        print("\n" + named_table("our prior's variance (an honest one: 68.3, 95.4, 1)", figures["variance"]))
    if args.json:
        write_json(args.json, figures, args.seed)
    return 0
