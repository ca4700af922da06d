"""Test worlds with the truth about them, what can be shown of them without a model, and how well anything shown agrees with them.

Whatever imagines is judged here in the same way: GTM-SM by `evaluate`, others by the benchmarks. True positions are for this alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv
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

Part = TypeVar("Part", bound=Any)  # a dataclass


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
    """Unseen worlds and walks, see `record_worlds`."""
    for envs, walk, _ in record_worlds(world, episodes, seed, images, split, TAU + HORIZON):
        inner: Any = envs.unwrapped
        _, info = envs.reset(options={"phase": "task", "world": "same"})
        yield Trials(walk, inner.images.batch(info["image"]), inner.side, inner.step_size)


def record_worlds(
    world: dict[str, Any], episodes: int, seed: int, images: str, split: str, steps: int, **rules: Any
) -> Iterator[tuple[VectorEnv[Any, Any, Any], Walk, list[np.random.Generator]]]:
    """Unseen worlds, walks of `steps` frames through them, and what drew the actions; CHUNK at a time. World and walk i depend on
    `seed + i` alone.

    world: {"id": ..., "kwargs": ...}, what a model was trained on; rules: further arguments of it
    """
    arguments = {**world["kwargs"], **rules, "task": None, "images": images, "split": split}
    for start in range(0, episodes, CHUNK):
        rows = min(CHUNK, episodes - start)
        envs = gym.make_vec(world["id"], num_envs=rows, **arguments)
        generators = [np.random.default_rng((seed + start + row, 1)) for row in range(rows)]
        yield envs, record(envs, steps, generators, seed=seed + start), generators
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


def share(of: Flags, among: Flags) -> float:
    """Per cent; NaN of nothing."""
    return float(100 * of[among].mean()) if among.any() else math.nan


def growth(error: Floats, steps: int) -> dict[str, float]:
    """How much errors (W, H) grow in so many steps, by a straight line through those of each world: mean and 95 % interval over worlds."""
    slopes = steps * np.polyfit(np.arange(1, error.shape[1] + 1), error.T, 1)[0]
    return {
        "mean": float(slopes.mean()),
        "95% half-width": float(1.96 * slopes.std(ddof=1) / math.sqrt(len(slopes))) if len(slopes) > 1 else math.nan,
    }


def together(parts: Sequence[Part]) -> Part:
    """What was measured of several chunks, as of one: a dataclass of arrays (W, ...), dicts of them, or None."""

    def join(values: list[Any]) -> Any:
        if isinstance(values[0], dict):
            return {name: join([value[name] for value in values]) for name in values[0]}
        return None if values[0] is None else np.concatenate(values)

    return type(parts[0])(**{field.name: join([getattr(part, field.name) for part in parts]) for field in fields(parts[0])})


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
