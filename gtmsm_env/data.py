"""Walks: recorded in a world, remembered by a model, kept compactly and drawn in batches."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv, VectorEnv
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gtmsm_env.exploration import exploring_actions
from gtmsm_env.types import Belief, Walk, check_rewards, distinct_frames, result_of

if TYPE_CHECKING:
    from gtmsm_env.model import GTMSM

World = gym.Env[Any, Any] | VectorEnv[Any, Any, Any]


def record(
    world: World,
    steps: int,
    generator: np.random.Generator | Sequence[np.random.Generator] | None = None,
    seed: int | Sequence[int | None] | None = None,
    policy: Callable[[], Any] | None = None,
) -> Walk:
    """A walk of `steps` frames (x_1 and steps - 1 actions) in a new world, by the exploring policy or a given one.

    Args:
        world: an environment with frames under "frame" and discrete actions; a vector env gives a batch of walks, one a row
        generator: draws the actions; one for all rows, one a row, or the world's own, as its reset leaves it
        seed: handed to the world's reset; to a vector env's also one a row
        policy: called before each step, gives the action, or one a row; by default the world's own `explorer`, where it has one

    ValueError for other actions, frames that are not uint8, rewards that are NaN, and a world that ends the walk.
    """
    return result_of(recording(world, steps, generator, seed, policy))


def recording(
    world: World,
    steps: int,
    generator: np.random.Generator | Sequence[np.random.Generator] | None = None,
    seed: int | Sequence[int | None] | None = None,
    policy: Callable[[], Any] | None = None,
) -> Generator[bool, None, Walk]:
    """`record`, which lets others work after each step."""
    if steps < 1:
        raise ValueError(f"A walk has at least one frame, given steps={steps}. Ask for some hundreds.")
    rows = world.num_envs if isinstance(world, VectorEnv) else None
    space = world.single_action_space if isinstance(world, VectorEnv) else world.action_space
    if not isinstance(space, gym.spaces.Discrete) or space.start != 0:
        raise ValueError(
            f"The exploring policy repeats discrete actions from 0; the world's are {space}. Record the walk yourself as a Walk."
        )
    observation, info = world.reset(seed=seed, options={"phase": "walk"})  # type: ignore[arg-type]
    if not isinstance(observation, dict) or "frame" not in observation:
        raise ValueError(f"A walk is of frames under 'frame', and {world} shows none there. Wrap the world so that it does.")
    if policy is None:
        policy = own_explorer(world, world.np_random if generator is None else generator)
    explored = exploring_actions(world.np_random if generator is None else generator, rows or 1, steps - 1, int(space.n))
    frames = [observation["frame"]]
    told: dict[str, list[Any]] = {name: [info.get(name)] for name in ("position", "pose", "displacement")}
    actions: list[Any] = []
    rewards: list[Any] = []
    terminations: list[Any] = []
    for step in range(1, steps):
        action = policy() if policy else explored[:, step - 1] if rows else explored[0, step - 1]
        observation, reward, terminated, truncated, info = world.step(action)
        if np.any(terminated) or np.any(truncated):
            raise ValueError(
                f"A walk is not interrupted; the world ended it after {step} steps. Walk fewer steps, or give the world a walk phase."
            )
        for recorded, value in ((frames, observation["frame"]), (actions, action), (rewards, reward), (terminations, terminated)):
            recorded.append(value)
        for name, values in told.items():
            values.append(info.get(name))
        yield False
    if kinds := {str(np.asarray(frame).dtype) for frame in frames} - {"uint8"}:
        raise ValueError(f"A frame is uint8, 0 to 255; the world's are {', '.join(sorted(kinds))}. Wrap the world so that it gives bytes.")
    axis = 1 if rows else 0
    lead = (rows,) if rows else ()

    def stack(values: list[Any], first: Any = None, dtype: Any = None) -> Tensor:
        values = values if first is None else [np.full(lead, first), *values]
        return torch.from_numpy(np.stack(values, axis=axis).astype(dtype)) if values else torch.zeros((*lead, 0), dtype=torch.int64)

    received = stack(rewards, 0.0, np.float32)
    check_rewards(received)
    return Walk(
        frames=stack(frames, dtype=np.uint8),
        actions=stack(actions, dtype=np.int64),
        rewards=received,
        terminations=stack(terminations, False, np.bool_),
        positions=None if told["position"][0] is None else stack(told["position"], dtype=np.int64),
        poses=None if told["pose"][0] is None else stack(told["pose"], dtype=np.float32),
        displacements=None if told["displacement"][0] is None else stack(told["displacement"], dtype=np.float32),
    )


def own_explorer(world: World, generator: np.random.Generator | Sequence[np.random.Generator], *whims: float) -> Callable[[], Any] | None:
    """The world's own `explorer`, and of worlds that Gymnasium stacks one a row; None where they have none. Some have whims."""
    inner: Any = world.unwrapped
    if hasattr(inner, "explorer"):
        explorer: Callable[[], Any] = inner.explorer(generator, *whims)
        return explorer
    if not isinstance(inner, SyncVectorEnv) or not all(hasattr(env.unwrapped, "explorer") for env in inner.envs):
        return None
    generators = [generator] * inner.num_envs if isinstance(generator, np.random.Generator) else generator
    each = [cast(Any, env.unwrapped).explorer(own, *whims) for env, own in zip(inner.envs, generators, strict=True)]
    return lambda: np.array([explorer() for explorer in each])


def walk(world: World, model: GTMSM, steps: int, generator: np.random.Generator | None = None, seed: int | None = None) -> Belief:
    """Walk a new world for `steps` frames and remember it: the belief at the walk's end. A vector env gives a batch of beliefs.

    ValueError for a world that the model was not trained for.
    """
    from gtmsm_env.worlds import check_env  # which records walks itself

    check_env(model, world)
    return model.remember(record(world, steps, generator, seed).to(model.transition.W_a.device))


@dataclass(frozen=True)
class Walks:
    """W walks of T steps, each distinct frame of a walk once: what `GTMSM.forward` takes. Bytes decide what is distinct, never places."""

    frames: Tensor  # (W, F, H, W, C) uint8, in the order in which they were first seen; then padding
    index: Tensor  # (W, T) int64, x_t = frames[index_t]
    actions: Tensor  # (W, T-1) int64
    displacements: Tensor | None = None  # (W, T-1, 2) true ones in places, int8, or in first person (W, T-1, 3): targets, never inputs

    def __len__(self) -> int:
        return len(self.frames)

    def batch(self, rows: Tensor, steps: int) -> Walks:
        """The first `steps` steps of some walks."""
        index = self.index[rows, :steps]
        displacements = None if self.displacements is None else self.displacements[rows, : steps - 1]
        return Walks(self.frames[rows, : int(index.max()) + 1], index, self.actions[rows, : steps - 1], displacements)

    def to(self, device: torch.device | str) -> Walks:
        displacements = None if self.displacements is None else self.displacements.to(device)
        return Walks(self.frames.to(device), self.index.to(device), self.actions.to(device), displacements)

    def unmoved(self) -> Tensor:
        """Steps whose frame equals the one before byte for byte though their action usually changes it, (W, T-1) bool: blocked moves."""
        same = self.index[:, 1:] == self.index[:, :-1]
        usual = torch.stack([same[self.actions == a].float().mean() for a in range(int(self.actions.max()) + 1)])
        return same & (usual < 0.9)[self.actions]


def distinct(walk: Walk) -> Walks:
    """The distinct frames of a batch of walks (W, T)."""
    firsts, index = zip(*map(distinct_frames, walk.frames), strict=True)
    frames = walk.frames.new_zeros(len(firsts), max(map(len, firsts)), *walk.frames.shape[2:])
    for row, first in enumerate(firsts):
        frames[row, : len(first)] = walk.frames[row, first]
    return Walks(frames, torch.stack(index), walk.actions)


def recolour(walks: Walks, generator: np.random.Generator) -> Walks:
    """The same walks, about half of them with their channels in another order and perhaps a negative: pictures of any palette."""
    order = generator.permuted(np.tile(np.arange(walks.frames.shape[-1]), (len(walks), 1)), axis=1)
    frames = torch.take_along_dim(walks.frames, torch.from_numpy(order)[:, None, None, None], dim=-1)
    chosen, negative = torch.from_numpy(generator.random((2, len(walks), 1, 1, 1, 1)) < 0.5)
    return replace(walks, frames=torch.where(chosen, torch.where(negative, 255 - frames, frames), walks.frames))


Policy = Callable[[VectorEnv[Any, Any, Any], np.random.Generator], Callable[[], Any]]
"""Makes, for a vector of worlds and what draws, the policy of `record`."""


def record_walks(
    world_id: str,
    world_kwargs: dict[str, Any],
    walks: int,
    steps: int,
    seed: int,
    chunk: int = 256,
    displacements: bool = False,
    policy: Policy | None = None,
) -> Iterator[Walks]:
    """Walks for training, `chunk` worlds at a time, with true displacements where these are asked for; by a policy, or exploring."""
    generator = np.random.default_rng(seed)
    world = gym.make_vec(world_id, num_envs=chunk, **world_kwargs)
    for start in range(0, walks, chunk):
        rows = min(chunk, walks - start)
        first = int(generator.integers(2**31)) if start == 0 else None
        recorded = record(world, steps, generator, first, policy(world, generator) if policy else None)
        part = distinct(Walk(recorded.frames[:rows], recorded.actions[:rows]))
        if displacements and recorded.displacements is not None:
            part = replace(part, displacements=recorded.displacements[:rows, 1:])
        elif displacements:
            assert recorded.positions is not None
            part = replace(part, displacements=recorded.positions[:rows].diff(dim=1).to(torch.int8))
        yield part
    world.close()


RECORDERS = 16  # processes that record ahead, at most; so many keep up with a GPU that learns from what they record


@dataclass(frozen=True)
class Recordings(Dataset[Walks]):
    """Any number of parts of `rows` walks, as `record_walks` records them, each with draws of its own."""

    world_id: str
    world_kwargs: dict[str, Any]
    rows: int
    steps: int
    seed: int
    policy: Policy | None = None

    def __getitem__(self, part: int) -> Walks:
        seed = int(np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(part,))).integers(2**31))
        (walks,) = record_walks(self.world_id, self.world_kwargs, self.rows, self.steps, seed, self.rows, policy=self.policy)
        return walks

    def parts(self, first: int, end: int, sharing: int = 1) -> Iterator[Walks]:
        """Parts in their order, recorded ahead by all cores but the one that asks, where `sharing` processes ask alike."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = max(0, min(cores // sharing - 1, RECORDERS, end - first))
        ahead: dict[str, Any] = {"multiprocessing_context": "spawn", "prefetch_factor": 1, "worker_init_fn": _ignore} if workers else {}
        loader = DataLoader(self, batch_size=None, sampler=range(first, end), num_workers=workers, **ahead)
        before = {number: signal.getsignal(number) for number in TOLD_TO_ALL}
        _ignore()  # which recorders inherit, as they are told nothing else before they can work
        try:
            return iter(loader)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


TOLD_TO_ALL = signal.SIGINT, signal.SIGTERM  # by terminals and launchers; but who asks says when recorders end


def _ignore(worker: int = 0) -> None:
    for number in TOLD_TO_ALL:
        signal.signal(number, signal.SIG_IGN)


def concatenate(parts: Sequence[Walks]) -> Walks:
    """Several sets of walks as one."""
    most = max(part.frames.shape[1] for part in parts)
    frames = [torch.nn.functional.pad(part.frames, (0, 0) * 3 + (0, most - part.frames.shape[1])) for part in parts]
    displacements = [part.displacements for part in parts if part.displacements is not None]
    return Walks(
        torch.cat(frames),
        torch.cat([part.index for part in parts]),
        torch.cat([part.actions for part in parts]),
        torch.cat(displacements) if displacements else None,
    )
