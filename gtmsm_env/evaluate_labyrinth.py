"""The paper's labyrinth experiments (sections 4.2.1 and 4.2.2, appendix C): what a model imagines in rooms that it never saw.

A walk of 150 steps is remembered, and what follows is imagined from actions alone: frames for 150 steps, poses for 300. The model sees
frames and actions; true poses and depths judge it, and make the oracles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

import gtmsm_env  # noqa: F401  registers the worlds
from gtmsm_env.data import record
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.model import GTMSM
from gtmsm_env.networks import frames_to_x, x_to_frames
from gtmsm_env.oracles import composed, nearest_view
from gtmsm_env.report import plain, table
from gtmsm_env.trials import mean_square, psnr, span_name, together
from gtmsm_env.types import Belief, Walk, gaussian_log_prob, phi
from gtmsm_env.vector import Floats, Frames

TAU, HORIZON, FAR = 150, 150, 300  # steps remembered; imagined as frames; imagined as poses
SPANS = ((1, 16), (17, 100), (101, 150), (1, 150))  # imagined steps, both ends included
AFTER = (1, 16, 50, 150, 300)  # imagined steps after which poses are compared
CHUNK = 10  # rooms in memory at once

OURS, PAPER = "our prior, projected views", "the paper's prior, combined"
TRUE_POSE = "our prior at the true pose"
FLOOR = "the VAE's floor (true frames)"
COMPOSED, NEAREST = "oracle: true pose and depth, 8 views composed", "oracle: true pose, nearest frame"
MEAN, COPY = "the memory's mean frame", "the last frame copied"


@dataclass(frozen=True)
class Trials:
    """Walks in unseen rooms, and what is known of them for sure."""

    walk: Walk  # (W, TAU + FAR), on the CPU
    pose: Tensor  # (W, TAU + FAR, 3) true, seen from the start, as states are
    depth: Tensor  # (W, TAU + HORIZON, w) true, of every column
    maps: list[Any]  # a picture of each room, given a true pose: see `Labyrinth.map`


@dataclass(frozen=True)
class Measured:
    """What one pass over the test rooms gives: W rooms."""

    error: dict[str, Floats]  # read-out -> (W, HORIZON) mean square of each frame
    distance: Floats  # (W, FAR) units between imagined and true places
    turned: Floats  # (W, FAR) degrees between imagined and true headings
    log_likelihood: Floats  # (W, HORIZON) nats
    kl: Floats  # (W, HORIZON)


def record_trials(world: dict[str, Any], episodes: int, seed: int, split: str = "test") -> Iterator[Trials]:
    """Walks of the paper's scavenger in unseen rooms, CHUNK at a time. Room and walk i depend on `seed + i` alone."""
    from gtmsm_env.envs.labyrinth_map import map_from_above
    from gtmsm_env.envs.labyrinth_raycaster import column_depths
    from gtmsm_env.envs.labyrinth_walker import Scavenger

    for start in range(0, episodes, CHUNK):
        rows = min(CHUNK, episodes - start)
        envs = gym.make_vec(world["id"], num_envs=rows, **{**world["kwargs"], "task": None, "split": split})
        generators = [np.random.default_rng((seed + start + row, 1)) for row in range(rows)]
        walk = record(envs, TAU + FAR, generators, seed=seed + start, policy=Scavenger(envs, generators))
        assert walk.poses is not None
        inner: Any = envs.unwrapped
        near = walk.poses[:, : TAU + HORIZON].double().numpy()
        each = np.repeat(np.arange(rows), TAU + HORIZON)
        depth = column_depths(inner.worlds, each, near.reshape(-1, 3), inner.frame_size, inner.field_of_view)
        maps = [lambda pose, row=row, worlds=inner.worlds: map_from_above(worlds, row, pose, None) for row in range(rows)]
        yield Trials(walk, from_start(walk.poses), torch.from_numpy(depth).float().reshape(rows, TAU + HORIZON, -1), maps)
        envs.close()


def from_start(pose: Tensor) -> Tensor:
    """True poses (W, T, 3) as states are: seen from the first."""
    from gtmsm_env.perspective import relative

    return relative(pose.double(), pose[:, :1].double()).float()


# -------------------------------------------------------------------- shown: frames (W, HORIZON, h, w, c) by name


def model_frames(model: GTMSM, belief: Belief, s: Tensor, trials: Trials) -> Iterator[tuple[str, Frames]]:
    """What the model shows at s (W, HORIZON, 3)."""
    memory = model.recall(belief.memory)
    if model.projected is None:
        yield PAPER, decoded(model, s, memory)
    else:
        yield OURS, decoded(model, s, memory)
        true = SpatialMemory(trials.pose[:, :TAU], memory.s_variance, belief.memory.values)
        yield TRUE_POSE, decoded(model, trials.pose[:, TAU : TAU + HORIZON], model.recall(true))
    x = frames_to_x(trials.walk.frames[:, TAU : TAU + HORIZON])
    yield FLOOR, np.stack([x_to_frames(model.decoder(model.encoder(walk)[0])).numpy() for walk in x])


def decoded(model: GTMSM, s: Tensor, memory: SpatialMemory) -> Frames:
    """`GTMSM.decode` in parts that fit into the cache."""
    return torch.cat([model.decode(part, memory) for part in s.split(10, dim=1)], dim=1).cpu().numpy()


def model_free_frames(trials: Trials, camera: dict[str, float]) -> Iterator[tuple[str, Frames]]:
    """What needs no model: the oracles, the memory's mean and the last frame."""
    frames = trials.walk.frames[:, :TAU].numpy()
    here, there = trials.pose[:, :TAU], trials.pose[:, TAU : TAU + HORIZON]
    yield COMPOSED, composed(frames, here, trials.depth[:, :TAU], there, trials.depth[:, TAU:], camera)
    yield NEAREST, nearest_view(frames, phi(here).numpy(), phi(there).numpy())
    shape = (len(frames), HORIZON, *frames.shape[2:])
    yield MEAN, np.broadcast_to(frames.mean(axis=1).round().astype(np.uint8)[:, None], shape)
    yield COPY, np.broadcast_to(frames[:, -1:], shape)


# -------------------------------------------------------------------- measured


@torch.no_grad()
def measure(model: GTMSM, trials: Trials, camera: dict[str, float], seed: int) -> tuple[Measured, dict[str, Frames], Tensor]:
    """Remember, imagine and measure some rooms; the imagined frames by name and the states (W, TAU + FAR, 3) are given too."""
    walk = trials.walk
    belief = model.remember(Walk(walk.frames[:, :TAU], walk.actions[:, : TAU - 1]))
    s = model.imagine(belief, walk.actions[:, TAU - 1 :]).mean
    shown = dict(model_frames(model, belief, s[:, :HORIZON], trials)) | dict(model_free_frames(trials, camera))
    true = walk.frames[:, TAU : TAU + HORIZON].numpy()
    wrong = s - trials.pose[:, TAU:]
    likelihood, kl = elbo_terms(model, belief.memory, s[:, :HORIZON], walk.frames[:, TAU : TAU + HORIZON], seed)
    measured = Measured(
        error={name: mean_square(frames, true) for name, frames in shown.items()},
        distance=wrong[..., :2].norm(dim=-1).double().numpy(),
        turned=np.degrees(np.abs(np.remainder(wrong[..., 2].double().numpy() + np.pi, 2 * np.pi) - np.pi)),
        log_likelihood=likelihood,
        kl=kl,
    )
    return measured, shown, torch.cat([belief.memory.s_mean, s], dim=1)


def elbo_terms(model: GTMSM, memory: SpatialMemory, s: Tensor, frames: Tensor, seed: int) -> tuple[Floats, Floats]:
    """The two terms of section 3.4 at each imagined step, in nats, by one sample of z: (W, HORIZON) each."""
    generator, memory = torch.Generator().manual_seed(seed), model.recall(memory)
    terms = []
    for at, seen in zip(s.split(10, dim=1), frames.split(10, dim=1), strict=True):
        x = frames_to_x(seen)
        mean, variance = model.encoder(x)
        z = mean + variance.sqrt() * torch.empty_like(mean).normal_(generator=generator)
        expected, canvas = model.expect(at, memory)
        deviation = torch.tensor(model.sigma_x**2)
        likelihood = gaussian_log_prob(x.flatten(2), model.generate(z, canvas).flatten(2), deviation)
        terms.append((likelihood, gaussian_log_prob(z, mean, variance) - expected.log_prob(z)))
    likelihoods, kls = (torch.cat(parts, dim=1).double().numpy() for parts in zip(*terms, strict=True))
    return likelihoods, kls


# -------------------------------------------------------------------- figures of merit


def fidelity(error: dict[str, Floats]) -> dict[str, dict[str, float]]:
    """PSNR of the pooled mean square: read-out -> span -> decibels."""
    return {
        name: {span_name(span): psnr(float(values[:, span[0] - 1 : span[1]].mean())) for span in SPANS} for name, values in error.items()
    }


def text(figures: dict[str, Any]) -> str:
    """What the command prints."""
    spans = [span_name(span) for span in SPANS]
    blocks = [
        f"{TAU} steps remembered, {HORIZON} imagined as frames and {FAR} as poses",
        table(["PSNR in dB; imagined steps", *spans], [[name, *values.values()] for name, values in figures["fidelity"].items()]),
        table(
            ["error of imagined poses, mean; after steps", *map(str, AFTER)],
            [[name, *(f"{value:.4f}" for value in values.values())] for name, values in figures["poses"].items()],
        ),
        table(["nats a dimension of x", "value"], [[name, f"{value:.3f}"] for name, value in figures["likelihood"].items()]),
    ]
    return "\n\n".join(blocks)


def judge(
    model: GTMSM, episodes: int, seed: int = 0, images: str = "procedural", split: str = "test"
) -> tuple[dict[str, Any], Measured, tuple[Trials, dict[str, Frames], Tensor]]:
    """All figures of a model in unseen rooms, what they were computed from, and the first rooms with what was imagined of them."""
    from gtmsm_env.recipe_labyrinth import CAMERA

    assert model.world is not None
    parts: list[Measured] = []
    first: list[tuple[Trials, dict[str, Frames], Tensor]] = []
    for trials in record_trials(model.world, episodes, seed, split):
        measured, shown, s = measure(model, trials, CAMERA, seed + len(parts))
        parts.append(measured)
        first = first or [(trials, shown, s)]
    measured = together(parts)
    size = math.prod(model.frame_shape)
    figures = {
        "worlds": {"split": split, "episodes": episodes},
        "fidelity": fidelity(measured.error),
        "poses": {
            name: {str(after): float(values[:, after - 1].mean()) for after in AFTER}
            for name, values in (("units", measured.distance), ("degrees", measured.turned))
        },
        "likelihood": {
            "elbo": float((measured.log_likelihood - measured.kl).mean() / size),
            "log likelihood": float(measured.log_likelihood.mean() / size),
            "kl, in all": float(measured.kl.mean()),
        },
    }
    return figures, measured, first[0]


def summary(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures a model card holds, as JSON."""
    return cast(dict[str, Any], plain(figures))
