"""Test worlds with the truth about them, what can be shown of them without a model, and how well anything shown agrees with them.

Whatever imagines is judged here in the same way: GTM-SM by `evaluate`, others by the benchmarks. True positions are for this alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

import gtmsm_env  # noqa: F401  registers the worlds
from gtmsm_env import oracles
from gtmsm_env.data import record
from gtmsm_env.report import table
from gtmsm_env.types import Walk
from gtmsm_env.vector import Flags, Floats, Frames

TAU, HORIZON = 256, 1000  # steps remembered and imagined
SPANS = ((1, 16), (17, 64), (65, 256), (257, 1000), (1, 256), (1, 1000))  # imagined steps, both ends included
CHUNK = 25  # worlds in memory at once


@dataclass(frozen=True)
class Trials:
    """Walks in unseen worlds with what is known of them for sure."""

    walk: Walk  # (W, TAU + HORIZON) frames and TAU + HORIZON - 1 actions, on the CPU
    pictures: Frames  # (W, S, S, 3) the worlds
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
    """Unseen worlds and walks, CHUNK at a time. World and walk i depend on `seed + i` alone.

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


# -------------------------------------------------------------------- shown without a model: frames (W, H, h, w, c) by name

PASTED, NEAREST = "oracle: true pose, pixels pasted", "oracle: true pose, nearest crop"
COPY, MEAN = "the last frame copied", "the memory's mean frame"


def model_free_frames(trials: Trials) -> Iterator[tuple[str, Frames]]:
    """What needs no model: the two oracles, the last frame and the memory's mean."""
    remembered, future = trials.walk.frames[:, :TAU].numpy(), trials.positions[:, TAU:]
    views, seen = oracles.places_seen(remembered, trials.positions[:, :TAU], trials.side)
    mean = remembered.mean(axis=1).round().astype(np.uint8)
    yield PASTED, oracles.at(oracles.pasted_pixels(views, seen, trials.step_size, mean), future)
    yield NEAREST, oracles.at(oracles.nearest_crop(views, seen), future)
    yield MEAN, np.broadcast_to(mean[:, None], (*future.shape[:2], *mean.shape[1:]))
    yield COPY, np.broadcast_to(remembered[:, -1:], (*future.shape[:2], *mean.shape[1:]))


# -------------------------------------------------------------------- fidelity


def mean_square(shown: Frames, true: Frames) -> Floats:
    """Squared error of frames (W, H, h, w, c) in [0, 1], averaged over each frame: (W, H)."""
    return np.square((shown.astype(np.float32) - true) / 255).mean(axis=(-3, -2, -1), dtype=np.float64)


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
