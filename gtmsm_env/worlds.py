"""The worlds that are dreamed of: whether a model knows one, and how they are walked, in bulk and ahead of need."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import VectorEnv
from torch import Tensor
from tqdm import tqdm

from gtmsm_env.data import recording
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.model import GTMSM
from gtmsm_env.perspective import AT_ONCE
from gtmsm_env.types import WITHIN, Belief, Tolerance, phi, result_of
from gtmsm_env.vector import Rows

ANYWHERE = {"num_envs", "vectorization_mode", "autoreset_mode", "max_episode_steps", "render_mode", "task", "horizon"}
"""Arguments that leave the rules by which frames follow actions, in every world; a world lists its own in metadata["content"]."""

SAME = 1e-3
"""Encodings closer than this are of one frame: what is left between two encodings of the same bytes is rounding."""

SPREAD = 16  # steps over which most of what is owed of a walk is paid
AS_LONG_AS = 20  # steps of a bulk: each part of remembering it, roughly, as who waits is told
PATIENCE = 2  # seconds for which who waits for worlds is told nothing
DONE = object()  # what a bulk says that is walked

REWALKS = 100  # worlds in a row that look the same everywhere and leave no goal to draw


SHIPPED = {
    "GTMSM-ImageNavigation-v0": "image-navigation",
    "GTMSM-ObstacleGrid-v0": "obstacle-grid",
    "GTMSM-Labyrinth-v0": "labyrinth",
    "GTMSM-LabyrinthRotate-v0": "labyrinth-rotate",
}
"""The model of each world that comes with the package and is taken where none is named."""


def shipped_for(world: str) -> str:
    """The name of that model. ValueError where none ships; gymnasium.error.NameNotFound for what is no world."""
    if world not in SHIPPED:
        if ":" not in world:  # else of a module that is yet to be imported
            gym.spec(world)  # which tells of a name mistyped, and what was meant perhaps
        raise ValueError(
            f"Where no model is named, the one that ships for the world is taken, and none ships for {world}, only for {list(SHIPPED)}. "
            "Name a model of your own by its path, or take one of these worlds."
        )
    return SHIPPED[world]


WALKED = {"GTMSM-Labyrinth-v0": 150, "GTMSM-LabyrinthRotate-v0": 33}


def walk_steps_for(world: str) -> int:
    """Frames of a walk by which an agent comes to know a world: as many as where models of it are judged."""
    return WALKED.get(world, 256)


def open_model(model: str | GTMSM | None, world: str, device: str = "cpu") -> GTMSM:
    """A model by its name or path, onto a device; or one that is there already, which stays where it is; None for the world's own.

    ValueError without that device, or where no model of that world ships.
    """
    if isinstance(model, GTMSM):
        return model
    check_device(device)
    return GTMSM.load(shipped_for(world) if model is None else model, device)


def check_device(device: str) -> None:
    """Refuses a device that PyTorch does not know or that this machine has not. Raises ValueError."""
    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"A device is one that this PyTorch can use; {device!r} is not ({error}). Take 'cpu'.") from error


def check_world(model: GTMSM, world: str, kwargs: Mapping[str, Any], observation: gym.Space[Any], action: gym.Space[Any]) -> None:
    """Refuses a world other than the one the model was trained for: its id, its rules, its start, its spaces. Raises ValueError."""
    if model.world is None:
        raise ValueError(
            f"A model says which world it was trained for, and this one says none, so it cannot be known to know {world}. "
            "If it does, say so: GTMSM(..., world={'id': ..., 'kwargs': {...}}), or set model.world."
        )
    trained, given = _rules(model.world["id"], model.world.get("kwargs") or {}), _rules(world, kwargs)
    start = getattr(_creator(world), "metadata", {}).get("start", model.world.get("start"))
    if (model.world["id"], trained, model.world.get("start", start)) != (world, given, start):
        raise ValueError(
            f"A model knows the world it was trained for: {model.world['id']} with {trained} from {model.world.get('start', 'its start')}; "
            f"given {world} with {given} from {start}. Take that world, or train a model for this one: python -m gtmsm_env train --help"
        )
    frame = observation["frame"] if isinstance(observation, gym.spaces.Dict) and "frame" in observation.spaces else None
    if frame is None or set(observation) - {"frame", "goal"} or frame.dtype != np.uint8 or frame.shape != model.frame_shape:  # type: ignore[call-overload]
        raise ValueError(
            f"A dream shows uint8 frames of the model's shape {model.frame_shape} under 'frame', and perhaps one under 'goal'; "
            f"{world} shows {observation}. Take a world of such frames, or train a model for this one."
        )
    if not isinstance(action, gym.spaces.Discrete) or action.n != model.num_actions or action.start:
        raise ValueError(
            f"This model knows {model.num_actions} discrete actions from 0; {world} has {action}. Train a model for this world."
        )


def check_env(model: GTMSM, env: gym.Env[Any, Any] | VectorEnv[Any, Any, Any]) -> None:
    """`check_world` of an environment, scalar or vector, that was made by its name. Raises ValueError."""
    if env.spec is None:
        raise ValueError(f"A model knows its world by name, and {env} has none. Make it with gymnasium.make or gymnasium.make_vec.")
    vector = isinstance(env, VectorEnv)
    observation, action = (getattr(env, f"single_{name}" if vector else name) for name in ("observation_space", "action_space"))
    check_world(model, env.spec.id, env.spec.kwargs, observation, action)


def _creator(world: str) -> Any:
    entry = gym.spec(world).entry_point
    return load_env_creator(entry) if isinstance(entry, str) else entry


def _rules(world: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that make a world's rules, those not given by their defaults, as JSON holds them."""
    creator = _creator(world)
    parameters = inspect.signature(creator).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    free = ANYWHERE.union(getattr(creator, "metadata", {}).get("content", ()))
    rules = {name: value for name, value in {**defaults, **gym.spec(world).kwargs, **kwargs}.items() if name not in free}
    plain: dict[str, Any] = json.loads(json.dumps(rules, sort_keys=True, default=str))
    return plain


def check_memory(model: GTMSM, memory: SpatialMemory) -> None:
    """Refuses a memory that the model cannot dream of: too small, or of states or encodings of other sizes. Raises ValueError."""
    fewest = int(memory.count.min()) if memory.count.numel() else 0
    if fewest < model.K:
        what = "is empty" if fewest == 0 else f"holds {fewest} entries, and the model reads the K = {model.K} nearest"
        raise ValueError(f"A dream needs the memory of a walk; this one {what}. Walk further; some hundreds of steps are usual.")
    model.check_sizes(memory)


def check_given(model: GTMSM, memory: SpatialMemory) -> None:
    """`check_memory` of one that a caller gives, which may be another model's. Raises ValueError."""
    check_memory(model, memory)
    if "model" in memory.facts and bool((memory.facts["model"] != model.signature()).any()):
        raise ValueError(
            "A memory is read by the model that wrote it, and this one was written by another. Load that model, or remember the walk again "
            "with this one: model.remember(walk)."
        )


@torch.no_grad()
def finding_places(model: GTMSM, memory: SpatialMemory, views: bool = False) -> Generator[bool, None, SpatialMemory]:
    """The distinct places of a memory, which is all that a dream asks of it; with what frames are made of, if `views` will be shown.

    Lets others work now and then.
    """
    check_memory(model, memory)
    found = yield from model.finding_places(memory)
    made = "view" in found.values or "canvas" in found.facts
    if not views or made or model.combined is not None:  # whose frames are made of encodings
        return found
    if model.projected is not None:  # a memory `without_views`
        return (yield from model.projected.recalling(found))
    return (yield from model.drawing(found))


def tolerance(model: GTMSM, world: gym.Env[Any, Any] | VectorEnv[Any, Any, Any]) -> Tolerance:
    """How near a goal one must be in this world, and so in its dream: half a step, or what a first-person world says."""
    if model.transition.W_a.shape[0] != 3:
        return Tolerance(WITHIN * model.step_length)
    inner: Any = getattr(world.unwrapped, "batch_of_one", world.unwrapped)
    return Tolerance(inner.goal_radius, inner.goal_angle)


def keep_places(model: GTMSM, belief: Belief) -> Belief:
    """A belief that remembers its distinct places alone. Raises ValueError for one of another model."""
    check_given(model, belief.memory)
    return replace(belief, memory=result_of(finding_places(model, belief.memory)))


def keeping_places(model: GTMSM, belief: Belief) -> Generator[bool, None, Belief]:
    """`keep_places` for who imagines no frames; lets others work now and then."""
    return replace(belief, memory=without_views((yield from finding_places(model, belief.memory))))


def without_views(memory: SpatialMemory) -> SpatialMemory:
    """A memory without what frames are made of, most of it in first person; who decodes from it has that found again."""
    values, facts = (
        {name: x for name, x in held.items() if name not in ("view", "depth", "plan", "canvas")} for held in (memory.values, memory.facts)
    )
    return memory.but(values, facts)


def alike(z: Tensor, other: Tensor) -> Tensor:
    """Whether encodings (*B, d) are of the same frame, (*B) bool."""
    return (z - other).square().sum(dim=-1) <= SAME**2


def has_goals(memory: SpatialMemory) -> Tensor:
    """Whether there are two places that look different, (*M,) bool: then from each of them there is a goal."""
    z = memory.values["z_mean"]
    return (memory.used & ~alike(z, z[..., :1, :])).any(dim=-1)


def end_of(memory: str | Path | SpatialMemory, model: GTMSM) -> Belief:
    """The belief at the newest entry of a memory, or of one saved by this model."""
    if not isinstance(memory, SpatialMemory):
        memory = SpatialMemory.load(memory, model.fingerprint())
    check_memory(model, memory)
    last = (memory.count - 1).clamp(min=0)[..., None, None]
    mean, variance = (torch.take_along_dim(x, last, dim=-2).squeeze(-2) for x in (memory.s_mean, memory.s_variance))
    return Belief(mean, variance, torch.zeros_like(mean), memory)


def move(belief: Belief, device: torch.device | str) -> Belief:
    """A belief on another device."""
    frame = None if belief.frame is None else belief.frame.to(device)
    return Belief(belief.mean.to(device), belief.variance.to(device), belief.displacement.to(device), belief.memory.to(device), frame)


def spread(belief: Belief, rows: int) -> Belief:
    """A belief of one memory for all rows, or of one a row, as one a row; nothing is copied."""
    memory = belief.memory
    if memory.batch_shape != belief.mean.shape[:-1] or memory.batch_shape not in ((), (1,), (rows,)):
        raise ValueError(
            f"A dream takes one memory for all rows or one for each of its {rows}, and as many states; got a mean of shape "
            f"{tuple(belief.mean.shape)} and a memory of batch shape {tuple(memory.batch_shape)}."
        )

    axes = len(memory.batch_shape)

    def expand(x: Tensor) -> Tensor:
        own = x.shape[axes:]
        return x.reshape(-1, *own).expand(rows, *own)

    values = {name: expand(value) for name, value in memory.values.items()}
    facts = {name: expand(fact) for name, fact in memory.facts.items()}
    memory = SpatialMemory(expand(memory.s_mean), expand(memory.s_variance), values, expand(memory.count), facts)
    return Belief(expand(belief.mean), expand(belief.variance), expand(belief.displacement), memory)


def newest_rewards(distinct: SpatialMemory, memory: SpatialMemory, radius: float) -> SpatialMemory:
    """Each place with the reward and termination of the last visit to it: when x_1 was written, nothing had been received there yet."""
    received = [memory.values[name] for name in ("reward", "termination") if name in memory.values]
    if len(received) < 2 or not any(value.any() for value in received):
        raise ValueError(
            "task 'reward' reads what was received at remembered places, and nothing was: the memory holds no reward and no termination. "
            "Walk a world that gives some, walk longer, or take task=None."
        )
    between = (phi(distinct.s_mean)[..., :, None, :] - phi(memory.s_mean)[..., None, :, :]).square().sum(dim=-1)  # (*M, P, N)
    here = (between <= radius**2) & memory.used[..., None, :]
    visit = (here * torch.arange(1, here.shape[-1] + 1, device=here.device)).argmax(dim=-1)  # (*M, P)
    last = {name: memory.values[name].take_along_dim(visit, dim=-1) for name in ("reward", "termination")}
    return distinct.but(values=distinct.values | last)


class WorldsAhead:
    """Worlds, each walked by the exploring policy and remembered: for every row of a batch one after another.

    All that happens in a world is drawn from one seed, which the row's own generator draws; so a row's k-th world depends on nothing but
    the row's seed, and worlds can be walked before they are asked for. When a row has none left, as many rows that have none as `worlds`
    has get their next one in the same bulk, whose shapes are always the same: the rounding of a row does not depend on what others do
    either. `owe` and `pay` walk it before that, a little at a time, so that who needs it seldom waits for a whole bulk.

    Args:
        worlds: walks a bulk of worlds
        model: remembers
        steps: frames of a walk
        snapshot: finds what is kept of a belief, and lets others work now and then
        goals: whether a walk on which everything looks alike is thrown away
        keep: what else is kept of some of these worlds, called when their walks end
        rows: how many are served, by default as many as `worlds` has
    """

    def __init__(
        self,
        worlds: VectorEnv[Any, Any, Any],
        model: GTMSM,
        steps: int,
        snapshot: Callable[[Belief], Generator[bool, None, Belief]],
        goals: bool,
        keep: Callable[[Rows], list[Any]] | None = None,
        rows: int | None = None,
    ) -> None:
        if steps < model.K:
            raise ValueError(f"walk_steps must be at least {model.K}, the entries this model's prior reads, got {steps}.")
        self.worlds, self.model, self.steps = worlds, model, steps
        self.snapshot, self.goals, self.keep = snapshot, goals, keep
        rows = rows or worlds.num_envs
        self._at_once = 1 if model.projected is not None else 16  # walks that are remembered at once: a floor plan is of one
        self._under_way: Iterator[bool] | None = None  # the bulk that is being walked
        # How many parts a bulk takes to be remembered, in first person with two rounds of stereo; and a world to be walked and remembered.
        remembering = 2 + (0 if model.projected is None else steps / AT_ONCE)
        self._remembering = math.ceil(worlds.num_envs / self._at_once) * remembering
        self._parts = (steps + self._remembering) / worlds.num_envs
        self._due = 0.0  # worlds that are owed
        self._stocked = np.zeros(rows, np.bool_)
        self._belief: Belief | None = None
        self._drawn: list[np.random.Generator] = [np.random.default_rng(0)] * rows
        self._kept: list[Any] = [None] * rows
        self._paid = np.zeros(rows, np.int64)

    def forget(self, rows: Rows) -> None:
        """Drop what is in stock for rows whose generator has changed."""
        if len(rows) < len(self._stocked):
            self._finish()  # others have drawn from their generators for it
        self._under_way = None
        self._stocked[rows] = False
        self._paid[rows] = 0

    def __getstate__(self) -> dict[str, Any]:
        self._finish()  # as nothing half done can be copied
        return self.__dict__

    def _finish(self, progress: tqdm[Any] | None = None) -> None:
        """Walk the bulk that is under way to its end."""
        for remembered in self._under_way or ():
            if progress is not None:
                progress.update(AS_LONG_AS if remembered else 1)
        self._under_way = None

    def owe(self, worlds: float) -> None:
        """So many worlds, and parts of one, will be needed before long."""
        self._due = min(self._due + worlds, len(self._stocked))

    def pay(self, generators: list[np.random.Generator], soonest: Callable[[], Rows]) -> None:
        """Walk a little of what is owed: most of it is paid within some `SPREAD` calls, each of which remembers little.

        soonest: all rows, first those in need
        """
        for _ in range(math.ceil(self._due * self._parts / SPREAD)):
            if self._under_way is None:
                if self._stocked.all():
                    self._due = 0
                    return
                rows = soonest()
                self._begin(rows[~self._stocked[rows]], generators)
            assert self._under_way is not None
            self._due -= 1 / self._parts
            remembered = next(self._under_way, DONE)
            if remembered is DONE:
                self._under_way = None
            elif remembered:
                return

    def next(self, rows: Rows, generators: list[np.random.Generator]) -> tuple[Belief, list[np.random.Generator], list[Any], Rows]:
        """The next world of some rows: the belief at the walk's end, what is left of the world's random numbers, what was kept, and the
        steps that were walked for it, (R,), those of walks that were thrown away among them.

        generators: of all rows; they draw the seeds.
        """
        if len(lacking := rows[~self._stocked[rows]]):
            total = np.bincount(lacking % self.worlds.num_envs).max() * (self.steps + AS_LONG_AS * self._remembering)
            bar = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
            with tqdm(total=total, desc="walking worlds", bar_format=bar, delay=PATIENCE, leave=False) as progress:
                while len(lacking := rows[~self._stocked[rows]]):
                    if self._under_way is None:
                        self._begin(np.concatenate([lacking, np.flatnonzero(~self._stocked)]), generators)
                    self._finish(progress)
        self._stocked[rows] = False
        paid = self._paid[rows]
        self._paid[rows] = 0
        assert self._belief is not None
        return self._belief[index(rows, self._belief)], [self._drawn[row] for row in rows], [self._kept[row] for row in rows], paid

    def _begin(self, rows: Rows, generators: list[np.random.Generator]) -> None:
        """A bulk for the first of these rows; a row has one place in it, its number modulo the bulk's size, so that none are two's."""
        self._under_way = self._walking(rows[np.unique(rows % self.worlds.num_envs, return_index=True)[1]], generators)

    def _walking(self, rows: Rows, generators: list[np.random.Generator]) -> Iterator[bool]:
        """Walk a world for each of these rows, step by step, and remember them, some at once, in parts: a `yield` for each step and part.

        It is true where something has just been remembered.
        """
        bulk = self.worlds.num_envs
        first_seeds = {row: int(generators[row].integers(2**31)) for row in rows.tolist()}
        for walk in range(REWALKS):
            some = rows[~self._stocked[rows]]
            slots = some % bulk
            seeds: list[int | None] = [None] * bulk
            drawn = [np.random.default_rng(0)] * bulk  # of slots that idle here
            for slot, row in zip(slots.tolist(), some.tolist(), strict=True):
                own = first_seeds[row]  # the row's generator is asked once a world, however often it is walked
                seeds[slot] = own if walk == 0 else int(np.random.default_rng([own, 2, walk]).integers(2**31))
                drawn[slot] = np.random.default_rng([seeds[slot], 1])  # not the stream that the world draws from
            walked = (yield from recording(self.worlds, self.steps, drawn, seeds)).to(self.model.transition.W_a.device)
            self._paid[some] += self.steps - 1
            good = np.ones(bulk, np.bool_)
            for first in range(0, bulk, self._at_once):
                here = (first <= slots) & (slots < first + self._at_once)
                if not here.any():
                    continue
                belief = self.model.remember(walked[first : first + self._at_once])
                yield True
                belief = yield from self.snapshot(belief)
                if self.goals:
                    good[first : first + self._at_once] = has_goals(belief.memory).cpu().numpy()
                if self._belief is None:
                    self._belief = belief[torch.zeros(len(self._stocked), dtype=torch.int64, device=belief.mean.device)]
                self._belief = put_over(self._belief, index(some[here], belief), belief[index(slots[here] - first, belief)])
                yield True
            some, slots = some[good[slots]], slots[good[slots]]
            for slot, row, kept in zip(slots, some, self.keep(slots) if self.keep else [None] * len(slots), strict=True):
                self._drawn[row], self._kept[row] = drawn[slot], kept
            self._stocked[some] = True
            if self._stocked[rows].all():
                return
        raise ValueError(
            f"A goal is a place that looks unlike the start; on {REWALKS} walks of {self.steps} frames, each in a new world, everything "
            "looked the same. Walk longer, or give other worlds."
        )


def index(rows: Rows, belief: Belief) -> Tensor:
    """Row numbers as the belief's own device takes them."""
    return torch.from_numpy(rows).to(belief.mean.device)


def put_over(mine: Belief, rows: Tensor, other: Belief) -> Belief:
    """`Belief.put` for who owns the memory alone: it is changed where there is room, and only copied to make some."""
    fits = other.memory.s_mean.shape[-2] <= mine.memory.s_mean.shape[-2]
    return replace(stand(mine, rows, other), memory=mine.memory.put(rows, other.memory, in_place=fits))


def stand(mine: Belief, rows: Tensor, at: Belief) -> Belief:
    """`mine` with some rows put, in order, where `at` is, in the memories they have."""
    mean, variance, displacement = (
        getattr(mine, name).index_copy(0, rows, getattr(at, name)) for name in ("mean", "variance", "displacement")
    )
    frame = None if mine.frame is None or at.frame is None else mine.frame.index_copy(0, rows, at.frame)
    return Belief(mean, variance, displacement, mine.memory, frame)
