"""The paper's experiment with obstacles (appendix D): where a model believes to be among them, and what it dreams of them.

In unseen worlds a walk of 256 steps is remembered and as many more are imagined; then the agent is put elsewhere and must find itself. In
others, without obstacles, moves slip. The model sees frames and actions alone: true positions and obstacles judge it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from gtmsm_env.envs.image_navigation_vector import MOVES
from gtmsm_env.envs.windows import crops
from gtmsm_env.exploration import exploring_actions
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.model import GTMSM
from gtmsm_env.report import named_table, plain
from gtmsm_env.trials import growth, record_worlds, share, span_name, together
from gtmsm_env.types import WITHIN, Belief, Walk
from gtmsm_env.vector import Flags, Floats, Frames

STEPS = 256  # remembered after the first frame, and as many imagined
SPANS = ((1, 16), (17, 64), (65, 256), (1, 256))  # imagined steps, both ends included
SLIPPERY, SLIPPING = {"obstacles": (0, 0), "slip": 0.05}, 500  # the world of noisy actuators, and the steps in it
LOST = (0, 1, 2, 4, 8, 12)  # exploring steps after which an agent that was put elsewhere is asked where it is
UNLIKE = 0.005  # mean square, in [0, 1], from which on two frames look different

WITH, WITHOUT = "with landmarks", "without"  # what tells positions
HEEDED, ALONE = "remembered obstacles heeded", "the transition alone"  # what tells where a dream leads
KNOWN = f"{HEEDED}, until another is met"


@dataclass(frozen=True)
class Trials:
    """Walks in unseen worlds with what is known of them for sure; W worlds of P places a side."""

    walk: Walk  # (W, 1 + 2 STEPS): what is remembered, and how it went on
    views: Frames  # (W, P, P, h, w, c) what is seen from every place
    free: Flags  # (W, P, P) no obstacle
    lost: Walk  # (W, 1 + LOST[-1]) from a place where the walk had been
    slipping: Walk  # (W, 1 + SLIPPING) in worlds of their own


@dataclass(frozen=True)
class Measured:
    """What one pass over the test worlds gives. Positions are places, as (row, column); errors are distances from the truth in steps."""

    free: Flags  # (W, P, P)
    position: NDArray[np.int64]  # (W, 1 + 2 STEPS, 2) true
    action: NDArray[np.int64]  # (W, 2 STEPS)
    inferred: dict[str, Floats]  # WITH, WITHOUT -> (W, 1 + STEPS, 2)
    slipping: dict[str, Floats]  # WITH, WITHOUT -> (W, 1 + SLIPPING) errors
    lost: Floats  # (W, 1 + LOST[-1]) errors
    unlike: Flags  # (W,) no two free places look alike
    imagined: dict[str, Floats]  # HEEDED, ALONE -> (W, STEPS, 2)
    right: dict[str, Flags]  # HEEDED, ALONE -> (W, STEPS) the nearest entry was written at the true place
    novelty: dict[str, Floats]  # HEEDED, ALONE -> (W, STEPS) in steps
    visited: Flags  # (W, STEPS) the walk had been at the true place
    known: Flags  # (W, STEPS) no obstacle was met so far that the walk had not touched from there
    stops: Flags  # (W, P * P, A) from what is remembered of this place, this move is imagined to lead nowhere
    touched: Flags  # (W, P * P, A) the walk tried this move, and an obstacle stopped it
    open: Flags  # (W, P * P, A) the walk had been at this place, and this move leads to another

    @property
    def error(self) -> dict[str, Floats]:
        """Of the inferred positions: WITH, WITHOUT -> (W, 1 + STEPS)."""
        return {name: np.linalg.norm(x - self.position[:, : 1 + STEPS], axis=-1) for name, x in self.inferred.items()}

    @property
    def hits(self) -> Flags:
        """(W, STEPS) an obstacle stopped this step of the walk."""
        return in_obstacle(self.free, self.position[:, :STEPS] + MOVES[self.action[:, :STEPS]])


def record_trials(world: dict[str, Any], episodes: int, seed: int, images: str = "procedural", split: str = "test") -> Iterator[Trials]:
    """Unseen worlds and walks, some at a time. Whatever happens in world i depends on `seed + i` alone.

    world: {"id": ..., "kwargs": ...}, what a model was trained on
    """
    worlds = record_worlds(world, episodes, seed, images, split, 1 + 2 * STEPS)
    others = record_worlds(world, episodes, seed, images, split, 1 + SLIPPING, **SLIPPERY)
    for (envs, walk, generators), (_, slipping, _) in zip(worlds, others, strict=True):
        been = [np.unique(positions[: 1 + STEPS], axis=0) for positions in truth(walk)]
        elsewhere = np.stack([generator.choice(places) for generator, places in zip(generators, been, strict=True)])
        observation, info = envs.reset(options={"phase": "task", "world": "same", "position": elsewhere})
        actions = exploring_actions(generators, len(been), LOST[-1], len(MOVES))
        frames, positions = [observation["frame"]], [info["position"]]
        for action in actions.T:
            observation, _, _, _, info = envs.step(action)
            frames.append(observation["frame"])
            positions.append(info["position"])
        seen, at = (torch.from_numpy(np.stack(values, axis=1)) for values in (frames, positions))
        inner: Any = envs.unwrapped
        views = crops(inner.images.batch(info["image"]), inner.crop_size, inner.step_size)
        yield Trials(walk, views, info["free"], Walk(seen, torch.from_numpy(actions), positions=at), slipping)


def truth(walk: Walk) -> NDArray[np.int64]:
    """True positions of walks (W, T), (W, T, 2)."""
    assert walk.positions is not None
    positions: NDArray[np.int64] = walk.positions.numpy()
    return positions


def in_obstacle(free: Flags, places: NDArray[np.int64]) -> Flags:
    """Whether places (W, *B, 2) lie inside obstacles, (W, *B); beyond the edges there are none. free: (W, P, P)"""
    ringed = np.pad(free, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    row, column = np.moveaxis(np.clip(places + 1, 0, free.shape[-1] + 1), -1, 0)
    world = np.arange(len(free)).reshape(-1, *[1] * (row.ndim - 1))
    inside: Flags = ~ringed[world, row, column]
    return inside


def look_different(views: Frames) -> bool:
    """Whether each two of some frames (N, h, w, c) differ by `UNLIKE` at least."""
    x = views.reshape(len(views), -1) / np.float32(255)
    apart = np.square(x[:, None] - x).mean(axis=-1)
    return bool((apart + np.eye(len(x)) >= UNLIKE).all())


# -------------------------------------------------------------------- measured


def in_steps(model: GTMSM, s: Tensor) -> Floats:
    """States or displacements (*B, n) in steps down and right (*B, 2): W_a says where an action leads in the one, `MOVES` in the other."""
    turn = np.linalg.lstsq(model.transition.W_a.t().cpu().double().numpy(), MOVES, rcond=None)[0]
    steps: Floats = s.cpu().double().numpy() @ turn
    return steps


def infer(model: GTMSM, walk: Walk) -> tuple[Belief, dict[str, Floats]]:
    """What a model believes after walks (W, T), and the positions it infers on the way: WITH, WITHOUT -> (W, T, 2)."""
    there = walk.to(model.transition.W_a.device)
    belief = model.remember(there)
    states = {WITH: belief.memory.s_mean, WITHOUT: model.filter(there.actions)[0]}
    return belief, {name: in_steps(model, s) + truth(walk)[:, :1] for name, s in states.items()}


def find(model: GTMSM, places: SpatialMemory, lost: Walk) -> Tensor:
    """What an agent that knows the places, but not at which it is, infers on walks (W, T): states (W, T, n). Nothing is written."""
    there = lost.to(places.s_mean.device)
    belief = model.relocate(there.frames[:, 0], places)
    states = [belief.mean]
    for t in range(1, there.frames.shape[1]):
        belief = model.infer(belief, there.actions[:, t - 1], there.frames[:, t])
        states.append(belief.mean)
    return torch.stack(states, dim=1)


@torch.no_grad()
def measure(model: GTMSM, trials: Trials) -> Measured:
    """Remember, imagine, be lost and slip in one chunk of test worlds."""
    position, action, free = truth(trials.walk), trials.walk.actions.numpy(), trials.free
    past, start = position[:, : 1 + STEPS], position[:, :1]
    walk = Walk(trials.walk.frames[:, : 1 + STEPS], trials.walk.actions[:, :STEPS], positions=torch.from_numpy(past))
    belief, inferred = infer(model, walk)
    places = model.places(belief.memory)
    ahead = trials.walk.actions[:, STEPS:].to(belief.mean.device)
    dreams = {
        HEEDED: model.imagine(replace(belief, memory=places), ahead).mean,
        ALONE: model.transition.rollout(belief.mean, belief.displacement, ahead)[0],
    }  # (W, STEPS, n)
    entry = {name: belief.memory.nearest(s, 1)[1].cpu().numpy() for name, s in dreams.items()}  # (W, STEPS, 1)

    # Places are numbered row by row. What is remembered of one is the state that was first inferred there.
    world, side = np.arange(len(free))[:, None], free.shape[-1]
    number = np.arange(side**2)
    here = position @ [side, 1]  # (W, 1 + 2 STEPS)
    was_there = here[:, None, : 1 + STEPS] == number[:, None]  # (W, P * P, 1 + STEPS)
    been, first = was_there.any(axis=-1), torch.from_numpy(was_there.argmax(axis=-1)).to(belief.mean.device)
    there = torch.take_along_dim(belief.memory.s_mean, first[..., None], dim=1)  # (W, P * P, n)
    target = np.stack(np.divmod(number, side), axis=-1)[:, None] + MOVES  # (P * P, A, 2)
    leads = MOVES.any(axis=-1) & ((target >= 0) & (target < side)).all(axis=-1)
    blocked = in_obstacle(free, np.broadcast_to(target, (len(free), *target.shape)))
    tried = np.zeros_like(blocked)
    tried[world, here[:, :STEPS], action[:, :STEPS]] = True
    surprise = (blocked & ~tried)[world, here[:, STEPS:-1], action[:, STEPS:]]  # (W, STEPS)

    return Measured(
        free=free,
        position=position,
        action=action,
        inferred=inferred,
        slipping={name: np.linalg.norm(x - truth(trials.slipping), axis=-1) for name, x in infer(model, trials.slipping)[1].items()},
        lost=np.linalg.norm(in_steps(model, find(model, places, trials.lost)) + start - truth(trials.lost), axis=-1),
        unlike=np.array([look_different(views[there]) for views, there in zip(trials.views, free, strict=True)]),
        imagined={name: in_steps(model, s) + start for name, s in dreams.items()},
        right={name: (np.take_along_axis(past, found, axis=1) == position[:, 1 + STEPS :]).all(axis=-1) for name, found in entry.items()},
        novelty={name: model.novelty(s, places).cpu().double().numpy() for name, s in dreams.items()},
        visited=been[world, here[:, 1 + STEPS :]],
        known=~np.logical_or.accumulate(surprise, axis=1),
        stops=~model.free(Belief(there, torch.zeros_like(there), torch.zeros_like(there), places)).cpu().numpy(),
        touched=tried & blocked,
        open=been[..., None] & leads & ~blocked,
    )


# -------------------------------------------------------------------- figures of merit: table -> row -> column


def walk_figures(error: dict[str, Floats], steps: Sequence[int]) -> dict[str, dict[str, float]]:
    """Errors of inferred positions (W, T) in steps, by what infers them: after so many steps, over all, and how they grow."""
    figures = {}
    for name, wrong in error.items():
        slope = growth(wrong[:, 1:], 100)
        figures[name] = {
            **{str(t): float(wrong[:, t].mean()) for t in steps},
            "mean": float(wrong[:, 1:].mean()),
            "share over 0.5 at the end": float((wrong[:, -1] > WITHIN).mean()),
            "growth per 100 steps": slope["mean"],
            "95% half-width": slope["95% half-width"],
        }
    return figures


def figures_of(measured: Measured) -> dict[str, dict[str, dict[str, float]]]:
    """All tables."""
    spans = {span_name(span): slice(span[0] - 1, span[1]) for span in SPANS}
    entries = {name: (right, measured.visited) for name, right in measured.right.items()}
    entries[KNOWN] = (measured.right[HEEDED], measured.visited & measured.known)
    kinds = {"all free places look different": measured.unlike, "some look alike": ~measured.unlike}
    future = measured.position[:, 1 + STEPS :]
    known = {
        "moves that an obstacle stopped: imagined to stop": (measured.stops, measured.touched),
        "moves that lead to another place: imagined to stop": (measured.stops, measured.open),
    }
    for name, imagined in measured.imagined.items():
        inside = in_obstacle(measured.free, np.rint(imagined).astype(np.int64))
        known[f"states inside an obstacle, {name}: novel"] = (measured.novelty[name] > WITHIN, inside)
    return {
        "position error in steps, among obstacles; after": walk_figures(measured.error, (16, 64, 128, 256)),
        "position error in steps, moves that slip; after": walk_figures(measured.slipping, (100, 200, 300, 400, 500)),
        "put elsewhere: at the right place, %; after": {
            kind: {"worlds": int(chosen.sum())} | {str(t): share(measured.lost[:, t] < WITHIN, chosen) for t in LOST}
            for kind, chosen in kinds.items()
        },
        "imagined: right entry on visited places, %": {
            name: {span: share(right[:, steps], among[:, steps]) for span, steps in spans.items()}
            for name, (right, among) in entries.items()
        },
        "imagined: position error in steps": {
            name: {span: float(np.linalg.norm(imagined - future, axis=-1)[:, steps].mean()) for span, steps in spans.items()}
            for name, imagined in measured.imagined.items()
        },
        "imagined: what is known of obstacles, %": {
            name: {"share": share(right, among), "counted": int(among.sum())} for name, (right, among) in known.items()
        },
    }


def judge(model: GTMSM, episodes: int, seed: int = 0, images: str = "procedural", split: str = "test") -> tuple[dict[str, Any], Measured]:
    """All figures of a model in unseen worlds, and what they were computed from. Shows a progress bar."""
    assert model.world is not None
    parts: list[Measured] = []
    with tqdm(total=episodes, desc="walking and dreaming", unit="world", leave=False) as progress:
        for trials in record_trials(model.world, episodes, seed, images, split):
            parts.append(measure(model, trials))
            progress.update(len(trials.free))
    measured = together(parts)
    worlds = {"images": images, "split": split, "episodes": episodes}
    hits = float(measured.hits.sum(axis=1).mean())
    return {"worlds": worlds, "hits a walk": hits, "tables": figures_of(measured)}, measured


def summary(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures a model card holds, as JSON: some columns of each table."""
    held = {"256", "500", str(LOST[-1]), *(span_name(span) for span in (SPANS[0], SPANS[-1])), "share"}
    tables = {
        title: {row: {name: round(value, 5) for name, value in columns.items() if name in held} for row, columns in rows.items()}
        for title, rows in figures["tables"].items()
    }
    return cast(dict[str, Any], plain({**figures, "tables": tables}))


def text(figures: dict[str, Any]) -> str:
    """What the command prints."""
    tables = [named_table(title, rows, digits=1 if "%" in title else 4) for title, rows in figures["tables"].items()]
    return "\n\n".join([f"{STEPS} steps walked, of which {figures['hits a walk']:.1f} end at an obstacle, and {STEPS} imagined", *tables])


def draw(folder: Path, _: GTMSM, measured: Measured) -> None:
    """Figure 6, of the first world, and the drift of all."""
    from gtmsm_env import plots

    paths = {
        "True positions": measured.position[0, : 1 + STEPS].astype(float),
        "Inferred with landmarks": measured.inferred[WITH][0],
        "Inferred from actions alone": measured.inferred[WITHOUT][0],
    }
    plots.figure_6(folder / "figure-6.png", measured.free[0], paths, measured.hits[0], MOVES[measured.action[0, :STEPS]])
    plots.drift_figure(folder / "drift.png", {"among obstacles": measured.error, "moves that slip": measured.slipping})
