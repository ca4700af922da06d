"""The paper's labyrinth experiments (sections 4.2.1 and 4.2.2): what a model imagines in rooms that it never saw.

What a walk shows is remembered, and what follows is imagined from actions alone; `recipe_labyrinth.Agent` says for how many steps. The
model sees frames and actions; true poses and depths judge it, and make the oracles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium.vector import SyncVectorEnv
from torch import Tensor
from tqdm import tqdm

import gtmsm_env  # noqa: F401  registers the worlds
from gtmsm_env import recipe_quake, recipe_vizdoom
from gtmsm_env.data import record
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.model import GTMSM
from gtmsm_env.networks import frames_to_x, x_to_frames
from gtmsm_env.oracles import composed, nearest_view
from gtmsm_env.perspective import relative
from gtmsm_env.recipe_labyrinth import AGENTS, CAMERA, JUDGED_ONLY, Agent, check_images, heedless
from gtmsm_env.report import named_table, plain
from gtmsm_env.transitions import turned
from gtmsm_env.trials import mean_square, psnr, share, span_name, together
from gtmsm_env.types import Belief, Walk, gaussian_log_prob, phi
from gtmsm_env.vector import Flags, Floats, Frames, Rows
from gtmsm_env.video import missing, write_video

CHUNK = 10  # rooms in memory at once
SLICE = 10  # steps decoded at once
PASSAGE = 30  # steps before and after a passage that figure 4 shows
SHOWN = 0.9  # share of a frame from which on its place counts as seen

# Otherwise inferred: as a dream imagines it; and of an agent that runs into things.
DREAMED, ALONE, OBSERVED = "units, in a dream: what was seen stops the agent", "units, actions alone", "units, contacts felt to the end"

OURS, PAPER = "our prior, projected views", "the paper's prior, combined"
TRUE_POSE = "our prior at the true pose"
FLOOR = "the VAE's floor (true frames)"
COMPOSED, NEAREST = "oracle: true pose and depth, 8 views composed", "oracle: true pose, nearest frame"
MEAN, COPY = "the memory's mean frame", "the last frame copied"


@dataclass(frozen=True)
class Trials:
    """Walks in unseen rooms, and what is known of them for sure; tau steps are remembered."""

    agent: Agent
    envs: Any  # the vector env that was walked: its rooms
    walk: Walk  # (W, tau + far), on the CPU
    pose: Tensor  # (W, tau + far, 3) true, seen from the start, as states are
    depth: Tensor  # (W, tau + horizon, w) true, of every column
    camera: dict[str, float] = field(default_factory=lambda: CAMERA)

    @property
    def remembered(self) -> Tensor:
        """Frames (W, tau, h, w, 3)."""
        return self.walk.frames[:, : self.agent.tau]

    @property
    def future(self) -> Tensor:
        """Frames (W, horizon, h, w, 3) that are to be imagined."""
        return self.walk.frames[:, self.agent.tau :][:, : self.agent.horizon]

    @property
    def poses(self) -> tuple[Tensor, Tensor]:
        """True ones of both, from the start."""
        return self.pose[:, : self.agent.tau], self.pose[:, self.agent.tau :][:, : self.agent.horizon]


@dataclass(frozen=True)
class Measured:
    """What one pass over the test rooms gives: W rooms."""

    error: dict[str, Floats]  # read-out -> (W, horizon) mean square of each frame
    distance: Floats  # (W, far) units between imagined and true places
    turned: Floats  # (W, far) degrees between imagined and true headings
    log_likelihood: Floats  # (W, horizon) nats
    kl: Floats  # (W, horizon)
    shown: Floats  # (W, horizon) share of the pixels that the oracle's views show
    right_room: dict[str, Floats]  # read-out -> (W, horizon) 1 where it is likest to the room that the agent is in; NaN in corridors
    entered: Flags | None  # (W, horizon) whether the agent has been in that room while it remembered
    otherwise: dict[str, Floats]  # (W, far) units between true places and those that are otherwise inferred


def experiments() -> dict[str, Agent]:
    """All that are judged here, by the name that the command gives them."""
    return {**AGENTS, **JUDGED_ONLY, **recipe_quake.AGENTS, **recipe_vizdoom.AGENTS}


def record_trials(agent: Agent, world: dict[str, Any], episodes: int, seed: int, split: str = "test") -> Iterator[Trials]:
    """Walks of the paper's agents in unseen rooms, CHUNK at a time. Room and walk i depend on `seed + i` alone."""
    until = agent.tau + agent.horizon
    for start in range(0, episodes, CHUNK):
        rows = min(CHUNK, episodes - start)
        envs = gym.make_vec(world["id"], num_envs=rows, **{**world["kwargs"], **agent.rules, "task": None, "split": split})
        generators = [np.random.default_rng((seed + start + row, 1)) for row in range(rows)]
        policy = None if agent.careful else heedless(envs, generators, whims=0.0)
        walk = record(envs, agent.tau + agent.far, generators, seed=seed + start, policy=policy)
        assert walk.poses is not None
        depth, camera = true_depths(envs.unwrapped, walk.poses[:, :until].double().numpy())
        yield Trials(agent, envs.unwrapped, walk, from_start(walk.poses), torch.from_numpy(depth).float(), camera)
        envs.close()


def true_depths(envs: Any, poses: Floats) -> tuple[Floats, dict[str, float]]:
    """Of every column seen from poses (W, T, 3) in the labyrinth or in ViZDoom: (W, T, w); and the camera."""
    if isinstance(envs, SyncVectorEnv):
        engines: list[Any] = [env.unwrapped for env in envs.envs]
        one = engines[0]
        depth = [engine.room.depths(seen, one.frame_size, one.field_of_view) for engine, seen in zip(engines, poses, strict=True)]
        return np.stack(depth), {"field_of_view": one.field_of_view, "height": one.camera_height, "ceiling": one.room_height}
    from gtmsm_env.envs.labyrinth_raycaster import column_depths

    rows, steps = poses.shape[:2]
    row = np.repeat(np.arange(rows), steps)
    return column_depths(envs.worlds, row, poses.reshape(-1, 3), envs.frame_size, envs.field_of_view).reshape(rows, steps, -1), CAMERA


def from_start(pose: Tensor) -> Tensor:
    """True poses (W, T, 3) as states are: seen from the first."""
    return relative(pose.double(), pose[:, :1].double()).float()


def in_the_right_room(trials: Trials, shown: dict[str, Frames]) -> tuple[dict[str, Floats], Flags]:
    """Whether frames (W, horizon, h, w, 3) by name are likest, of the true view with each room's textures in turn, to that with the right
    room's: (W, horizon) of 1, 0, and NaN in corridors; and whether the agent has been in that room while it remembered.
    """
    worlds, tau = trials.envs.worlds, trials.agent.tau
    assert trials.walk.poses is not None
    poses = trials.walk.poses.double().numpy()
    shape = trials.future.shape[:2]
    right, entered = {name: np.full(shape, np.nan) for name in shown}, np.zeros(shape, np.bool_)
    for row, walk in enumerate(poses[:, tau : tau + shape[1]]):
        rooms, sector = walked_through(trials, row)
        past, sector = np.split(sector[: tau + shape[1]], [tau])
        entered[row] = np.isin(sector, past)
        for room in set(rooms) & set(sector):
            steps = np.flatnonzero(sector == room)
            dressed = []
            for other in rooms:
                first, sizes = worlds.first.copy(), worlds.shape.copy()
                first[row, room], sizes[row, room] = worlds.first[row, other], worlds.shape[row, other]
                dressed.append(trials.envs.look(np.full(len(steps), row), walk[steps], worlds._replace(first=first, shape=sizes)))
            for name, frames in shown.items():
                error = [mean_square(view, frames[row, steps]) for view in dressed]
                right[name][row, steps] = rooms[np.argmin(error, axis=0)] == room
    return right, entered


def walked_through(trials: Trials, row: int) -> tuple[Rows, Rows]:
    """The rooms of a world, and in which of its rooms and corridors the agent was at each step, (T,)."""
    from gtmsm_env.envs.labyrinth_rooms import SIDES

    worlds = trials.envs.worlds
    assert trials.walk.poses is not None
    bounds = worlds.bounds[row, : worlds.sectors[row]]
    rooms = np.flatnonzero((bounds[:, 2:] - bounds[:, :2]).min(axis=1) >= SIDES[0])  # others are corridors
    return rooms, np.array([worlds.sector_at(row, x, y) for x, y, _ in trials.walk.poses[row].double().numpy()])


def last_passage(trials: Trials) -> tuple[int, int]:
    """The walk and the imagined step, from 0, at which an agent comes latest from one room into another that it has been in before."""
    tau, latest = trials.agent.tau, (0, 0)
    for row in range(len(trials.pose)):
        rooms, sector = walked_through(trials, row)
        inside = [(step, room) for step, room in enumerate(sector[tau:][: trials.agent.horizon].tolist()) if room in rooms]
        come = [step for (_, last), (step, room) in pairwise(inside) if room != last and room in sector[:tau]]
        latest = max([latest, *((step, row) for step in come)])
    return latest[1], latest[0]


# -------------------------------------------------------------------- shown: frames (W, horizon, h, w, c) by name


def model_frames(model: GTMSM, memory: SpatialMemory, s: Tensor, trials: Trials) -> Iterator[tuple[str, Frames]]:
    """What the model shows at s (W, horizon, 3), of a recalled memory."""
    yield (PAPER if model.projected is None else OURS), decoded(model, s, memory)
    if model.projected is not None:
        here, there = trials.poses
        true = SpatialMemory(here, memory.s_variance, {"frame": memory.values["frame"]})
        yield TRUE_POSE, decoded(model, there, model.recall(true))
    yield FLOOR, np.stack([x_to_frames(model.decoder(model.encoder(frames_to_x(walk))[0])).numpy() for walk in trials.future])


def decoded(model: GTMSM, s: Tensor, memory: SpatialMemory) -> Frames:
    """`GTMSM.decode` in parts that fit into the cache."""
    return torch.cat([model.decode(part, memory) for part in s.split(SLICE, dim=1)], dim=1).cpu().numpy()


def model_free_frames(trials: Trials) -> tuple[dict[str, Frames], Floats]:
    """What needs no model: the oracles, the memory's mean and the last frame; and the share of each frame that remembered views show."""
    frames, (here, there) = trials.remembered.numpy(), trials.poses
    depth = trials.depth.split([here.shape[1], there.shape[1]], dim=1)
    laid, shown = composed(frames, here, depth[0], there, depth[1], trials.camera)
    shape = (*there.shape[:2], *frames.shape[2:])
    return {
        COMPOSED: laid,
        NEAREST: nearest_view(frames, phi(here).numpy(), phi(there).numpy()),
        MEAN: np.broadcast_to(frames.mean(axis=1).round().astype(np.uint8)[:, None], shape),
        COPY: np.broadcast_to(frames[:, -1:], shape),
    }, shown


LINES: dict[str, dict[str, Any]] = {  # how the curves of a figure look
    OURS: {"color": "#2166ac", "linewidth": 2.6, "zorder": 3},
    TRUE_POSE: {"color": "#92c5de", "linestyle": (0, (5, 1.5))},
    PAPER: {"color": "#e08214", "linewidth": 2.6, "zorder": 3},
    FLOOR: {"color": "black", "linestyle": (0, (1, 1.4)), "zorder": 4},
    COMPOSED: {"color": "#1b7837", "linestyle": (0, (5, 1.5))},
    NEAREST: {"color": "#7fbf7b", "linestyle": (0, (5, 1.5))},
    MEAN: {"color": "#762a83"},
    COPY: {"color": "#b3b3b3"},
}


# -------------------------------------------------------------------- measured


@torch.no_grad()
def measure(model: GTMSM, trials: Trials, seed: int) -> tuple[Measured, dict[str, Frames], Tensor]:
    """Remember, imagine and measure some rooms; the imagined frames by name and the states (W, tau + far, 3) are given too."""
    tau, horizon, actions = trials.agent.tau, trials.agent.horizon, trials.walk.actions
    belief = model.remember(Walk(trials.remembered, actions[:, : tau - 1]))
    memory = model.recall(belief.memory)
    others: dict[str, Tensor] = {}

    def imagined(belief: Belief) -> Tensor:
        return torch.cat([belief.memory.s_mean, model.imagine(belief, actions[:, tau - 1 :]).mean], dim=1)

    states = dreamed = imagined(replace(belief, memory=memory))  # stopped by what it has seen
    if trials.agent.careful:  # who meets nothing that would stop it, and what its memory takes for walls need not
        states = imagined(belief)
        others = {} if model.projected is None else {DREAMED: dreamed}
    elif model.contacts is not None:
        observed = model.infer_walk(belief.memory.values["z_mean"], actions, frames=trials.walk.frames)[0]
        others = {ALONE: model.filter(actions)[0], OBSERVED: observed}
    s = states[:, tau:]
    without, seen = model_free_frames(trials)
    shown = dict(model_frames(model, memory, s[:, :horizon], trials)) | without
    true = trials.future.numpy()
    wrong = (s - trials.pose[:, tau:]).double().numpy()
    likelihood, kl = elbo_terms(model, memory, s[:, :horizon], trials.future, seed)
    right: dict[str, Floats] = {}
    entered: Flags | None = None
    if "rooms" in trials.agent.rules:
        right, entered = in_the_right_room(trials, {name: shown[name] for name in (next(iter(shown)), COMPOSED)})
    measured = Measured(
        error={name: mean_square(frames, true) for name, frames in shown.items()},
        distance=np.linalg.norm(wrong[..., :2], axis=-1),
        turned=np.degrees(np.abs(np.remainder(wrong[..., 2] + np.pi, 2 * np.pi) - np.pi)),
        log_likelihood=likelihood,
        kl=kl,
        shown=seen,
        right_room=right,
        entered=entered,
        otherwise={name: np.linalg.norm((other - trials.pose)[:, tau:, :2].double().numpy(), axis=-1) for name, other in others.items()},
    )
    return measured, shown, states


def elbo_terms(model: GTMSM, memory: SpatialMemory, s: Tensor, frames: Tensor, seed: int) -> tuple[Floats, Floats]:
    """The two terms of section 3.4 at each imagined step, in nats, by one sample of z: (W, horizon) each."""
    generator, terms = torch.Generator().manual_seed(seed), []
    for at, seen in zip(s.split(SLICE, dim=1), frames.split(SLICE, dim=1), strict=True):
        x = frames_to_x(seen)
        mean, variance = model.encoder(x)
        z = mean + variance.sqrt() * torch.empty_like(mean).normal_(generator=generator)
        expected, canvas = model.expect(at, memory)
        likelihood = gaussian_log_prob(x.flatten(2), model.generate(z, canvas).flatten(2), torch.tensor(model.sigma_x**2))
        terms.append((likelihood, gaussian_log_prob(z, mean, variance) - expected.log_prob(z)))
    likelihoods, kls = (torch.cat(parts, dim=1).double().numpy() for parts in zip(*terms, strict=True))
    return likelihoods, kls


# -------------------------------------------------------------------- figures of merit


def text(figures: dict[str, Any]) -> str:
    """What the command prints."""
    steps, rooms = figures["steps"], figures["right room"]
    return "\n\n".join(
        [
            f"{steps['remembered']} steps remembered, {steps['imagined']} imagined as frames and {steps['as poses']} as poses",
            named_table("PSNR in dB; imagined steps", figures["fidelity"]),
            named_table(f"frames of which the memory shows {SHOWN:.0%}", figures["fidelity where seen"]),
            *([] if rooms is None else [named_table("frames with the right room's textures", rooms)]),
            named_table("error of imagined poses, mean; after steps", figures["poses"], digits=4),
            named_table("nats", {name: {"": value} for name, value in figures["likelihood"].items()}, digits=3),
        ]
    )


def right_room_figures(right: dict[str, Floats], entered: Flags | None) -> dict[str, dict[str, float]] | None:
    """How often the right room's textures are shown, by what the memory can know of that room; None of single rooms."""
    if entered is None:
        return None
    inside = ~np.isnan(right[COMPOSED])
    kinds = {"all rooms": inside, "rooms that it was in": inside & entered, "others": inside & ~entered}
    return {
        kind: {"frames": int(chosen.sum()), **{f"{name}, %": share(values == 1, chosen) for name, values in right.items()}}
        for kind, chosen in kinds.items()
    }


def judge(
    experiment: str, model: GTMSM, episodes: int, seed: int = 0, images: str = "procedural", split: str = "test"
) -> tuple[dict[str, Any], Measured, tuple[Trials, dict[str, Frames], Tensor]]:
    """All figures of a model in unseen rooms, what they were computed from, and the first rooms with what was imagined of them.

    Shows a progress bar.
    """
    check_images(images)
    agent = experiments()[experiment]
    assert model.world is not None
    learned, judged = (rules.get("physics", "smooth") for rules in (model.world["kwargs"], agent.rules))
    if learned != judged:
        raise ValueError(
            f"A law is judged in the physics that it was learned in, here {judged!r}; this model's is {learned!r}. "
            f"Name with --model one made by `python -m gtmsm_env train {experiment}`, or evaluate it in its own."
        )
    parts: list[Measured] = []
    first: list[tuple[Trials, dict[str, Frames], Tensor]] = []
    with tqdm(total=episodes, desc="walking and dreaming", unit="world", leave=False) as progress:
        for trials in record_trials(agent, model.world, episodes, seed, split):
            measured, shown, states = measure(model, trials, seed + len(parts))
            parts.append(measured)
            first = first or [(trials, shown, states)]
            progress.update(len(trials.pose))
    measured = together(parts)
    size, known = math.prod(model.frame_shape), measured.shown >= SHOWN
    figures = {
        "worlds": {"split": split, "episodes": episodes},
        "steps": {"remembered": agent.tau, "imagined": agent.horizon, "as poses": agent.far},
        "fidelity": {
            name: {span_name(span): psnr(float(values[:, span[0] - 1 : span[1]].mean())) for span in agent.spans}
            for name, values in measured.error.items()
        },
        "fidelity where seen": {
            name: {"share of frames, %": float(100 * known.mean()), "PSNR": psnr(float(values[known].mean())) if known.any() else math.nan}
            for name, values in measured.error.items()
        },
        "right room": right_room_figures(measured.right_room, measured.entered),
        "poses": {
            name: {str(after): float(values[:, after - 1].mean()) for after in sorted({1, 16, agent.horizon, agent.far})}
            for name, values in {"units": measured.distance, "degrees": measured.turned, **measured.otherwise}.items()
        },
        "likelihood": {
            "elbo per dimension": float((measured.log_likelihood - measured.kl).mean() / size),
            "log likelihood per dimension": float(measured.log_likelihood.mean() / size),
            "kl": float(measured.kl.mean()),
        },
    }
    return figures, measured, first[0]


def summary(figures: dict[str, Any]) -> dict[str, Any]:
    """The figures a model card holds, as JSON."""
    return cast(dict[str, Any], plain(figures))


def draw(folder: Path, model: GTMSM, measured: Measured, first: tuple[Trials, dict[str, Frames], Tensor]) -> None:
    """Fidelity by horizon in all rooms; figure 3 and the film of the first world, figure 4 of the world with the latest passage."""
    from gtmsm_env import plots

    trials, shown, states = first
    agent, frames, guesses = trials.agent, trials.future.numpy(), shown[PAPER if model.projected is None else OURS]
    tau, horizon, true, imagined, above = agent.tau, agent.horizon, frames[0], guesses[0], seen_from_above(trials, 0)
    at = sorted({1, *np.linspace(1, horizon, 12).round().astype(int).tolist()})
    own, believed = trials.pose[0].numpy(), states[0].numpy()
    plots.figure_3(folder / "figure-3.png", above(horizon - 1), own, believed, tau, true, imagined, at)
    everywhere = {"all imagined frames": np.ones((len(measured.distance), horizon), np.bool_)}
    plots.horizon_figure(folder / "psnr-by-horizon.png", measured.error, everywhere, LINES, width=max(1, horizon // 15))
    if "rooms" in agent.rules:
        row, step = last_passage(trials)
        begin = max(min(step - PASSAGE, horizon - 2 * PASSAGE), 0)
        around = np.arange(begin, min(begin + 2 * PASSAGE, horizon), PASSAGE // 10)
        picture = seen_from_above(trials, row)(int(around[0]), int(around[-1]))
        plots.figure_4(folder / "figure-4.png", picture, frames[row], guesses[row], (around + 1).tolist())
    if absent := missing():
        print(absent)
        return
    film = plots.first_person_film((above(step) for step in range(horizon)), true, imagined, as_from_above(trials, 0, states[0]), tau)
    write_video(folder / "dream.mp4", film, fps=8)


def as_from_above(trials: Trials, row: int, states: Tensor) -> Floats:
    """States (T, 3) of a world, turned as it is drawn: by the true heading at the start, where states have none."""
    if isinstance(trials.envs, SyncVectorEnv):
        return states.numpy()
    assert trials.walk.poses is not None
    heading = trials.walk.poses[row, 0, 2]
    return (turned(states, heading) + F.pad(heading[None], (2, 0))).numpy()


def seen_from_above(trials: Trials, row: int) -> Callable[..., Frames]:
    """Draws a world from above with the agent at an imagined step, from 0, and perhaps, as its goal, at another; (S, S, 3).

    Of ViZDoom, which draws no map, the places where the agent was.
    """
    tau = trials.agent.tau
    if isinstance(trials.envs, SyncVectorEnv):
        from gtmsm_env.drawing import map_of_places
        from gtmsm_env.plots import EAST_NORTH

        own = trials.pose[row, :, :2].numpy()
        return lambda step: map_of_places(own[:tau], own[tau : tau + step + 1], size=512, axes=EAST_NORTH)
    from gtmsm_env.envs.labyrinth_map import map_from_above

    assert trials.walk.poses is not None
    poses = trials.walk.poses[row, tau:].double().numpy()
    return lambda step, goal=None: map_from_above(trials.envs.worlds, row, poses[step], None if goal is None else poses[goal])
