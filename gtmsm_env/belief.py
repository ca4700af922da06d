"""What the model believes, as flat observation entries: the same for a dream and for the world it is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import RecordConstructorArgs, seeding
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from gtmsm_env.model import GTMSM
from gtmsm_env.types import WITHIN, Belief, in_steps, phi
from gtmsm_env.vector import BatchedRows, Flags, Info, Observation, Rows
from gtmsm_env.worlds import WorldsAhead, check_env, index, keeping_places, open_model, stand

Shown = Literal["frame", "belief", "state"]
"""What is observed: the world's own entries; these and the belief's; the belief's alone, for which a dream decodes nothing."""

FAR = 1e6  # steps; no walk is that long


def shown_space(world: spaces.Dict, model: GTMSM, observation: Shown) -> spaces.Dict:
    """The observation space with the belief's entries: `state` (n,) and, if the world shows a goal, `goal_state` (n,), both in steps from
    where the walk began along the model's own axes, in first person with the cosine and sine of the heading, (4,); `novelty` (1,), steps
    from `state` to the nearest remembered place; and of a model that knows obstacles `free` (A,), 1 for actions that are expected to lead
    elsewhere and 0 for those that something would stop.
    """
    if observation not in get_args(Shown):
        raise ValueError(f"observation must be one of {get_args(Shown)}, got {observation!r}")
    if observation == "frame":
        return world
    state = spaces.Box(-FAR, FAR, (phi(model.transition.W_a[:, 0]).shape[0],), np.float32)
    own: dict[str, spaces.Space[Any]] = {"state": state, "novelty": spaces.Box(0, FAR, (1,), np.float32)}
    if "goal" in world.spaces:
        own["goal_state"] = state
    if model.landmarks is not None:
        own["free"] = spaces.Box(0, 1, (model.num_actions,), np.float32)
    return spaces.Dict({**world.spaces, **own} if observation == "belief" else own)


@torch.no_grad()
def entries(model: GTMSM, belief: Belief, goal: Tensor | None, novelty: Tensor) -> Observation:
    """The entries of a belief (*B,), fresh arrays (see `shown_space`): goal (*B, n) in the model's unit, novelty (*B,) in steps."""
    free = None if model.landmarks is None else model.free(belief)
    return {name: value.cpu().numpy() for name, value in told(belief.mean, goal, novelty, free, model.step_length).items()}


def told(s: Tensor, goal: Tensor | None, novelty: Tensor, free: Tensor | None, step_length: float) -> dict[str, Tensor]:
    """The same as fresh float32 tensors, by the states s (*B, n); free: (*B, A) bool, of models that know obstacles."""
    found = {"state": in_steps(s, step_length), "novelty": novelty[..., None].clone()}
    if goal is not None:
        found["goal_state"] = in_steps(goal, step_length)
    if free is not None:
        found["free"] = free
    return {name: value.float() for name, value in found.items()}


def _refuse(options: Mapping[str, Any]) -> None:
    if taken := sorted({"phase", "world", "position", "image"} & options.keys()):
        raise ValueError(
            f"A belief is of the world that was walked and of where the walk ended; the wrapper decides {taken} itself. Leave them out."
        )


def _check_same_world(walking: bool, told: bool, world_steps: Any, walked: int) -> None:
    """A world that knows no walk phase would silently start elsewhere, and the belief would be wrong from then on."""
    if walking or not told or np.any(np.asarray(world_steps) < walked):
        raise ValueError(
            "A belief goes on where the walk ended, so the world must have a walk phase: reset(options={'phase': 'walk'}) and then "
            "reset(options={'phase': 'task', 'world': 'same'}) in the same world, told by info['phase'] ('walking' in a vector) and "
            f"info['world_steps']; this one told {world_steps} world steps after a walk of {walked}. GTMSM-ImageNavigation-v0 shows how."
        )


class BeliefWrapper(gym.Wrapper[Observation, Any, Observation, Any], RecordConstructorArgs):
    """Gives a world the belief that a dream of it has, and shows it; around a dream, shows the dream's own.

    At the first reset and after every `episodes_per_walk` others, a new world is explored for `walk_steps` frames and remembered; the
    episode then begins where the walk ended. Every step is tracked from its action, and a place not seen on the walk is remembered
    when it is first come to. A reset in the same world takes the belief back to the walk's end and keeps the memory; where the world's
    metadata["returns_home"] is False, the agent goes on from where it stands, and so does the belief. `goal_state` is where the goal
    frame's encoding was seen. `novelty` is told as it was on arrival, before the place was remembered.

    ## Arguments
    `model`: a shipped model's name, a path, or a `GTMSM`, by default the one that ships for the world; `observation`: "belief" adds the
    entries, "state" shows nothing else. `reset` takes the world's options but for those that choose world and start.
    `info["world_steps"]` counts all real steps since the last seed, walks included.

    ValueError for a world that the model was not trained for, or that has no walk phase.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        model: str | GTMSM | None = None,
        *,
        walk_steps: int = 256,
        episodes_per_walk: int | None = 8,
        observation: Shown = "belief",
        device: str = "cpu",
    ) -> None:
        RecordConstructorArgs.__init__(
            self,
            model=model,
            walk_steps=walk_steps,
            episodes_per_walk=episodes_per_walk,
            observation=observation,
            device=device,
            _disable_deepcopy=True,
        )
        gym.Wrapper.__init__(self, env)
        self._dream = hasattr(env.unwrapped, "show")
        if self._dream:
            env.unwrapped.show(observation)  # type: ignore[attr-defined]
            return
        self.model = open_model(model, env.spec.id if env.spec else str(env), device)
        check_env(self.model, env)
        assert isinstance(env.observation_space, spaces.Dict)
        self.observation_space = shown_space(env.observation_space, self.model, observation)  # type: ignore[assignment]
        self.walk_steps, self.episodes_per_walk = walk_steps, episodes_per_walk
        self._goals = "goal" in env.observation_space.spaces
        alone = SyncVectorEnv([partial(_itself, env)], autoreset_mode=AutoresetMode.DISABLED)
        self._ahead = WorldsAhead(alone, self.model, walk_steps, partial(keeping_places, self.model), self._goals)
        self._generator: np.random.Generator | None = None
        self._left = self._paid = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Begin an episode where the last walk ended, after a new walk when it is time for one."""
        if self._dream:
            return self.env.reset(seed=seed, options=options)
        _refuse(options or {})
        if seed is not None or self._generator is None:
            self._generator = seeding.np_random(seed)[0]
            self._left = self._paid = 0
        if self._left == 0:
            walked, _, _, paid = self._ahead.next(np.zeros(1, np.int64), [self._generator])
            self._home = self._now = walked[torch.tensor(0)]
            self._left = self.episodes_per_walk or np.iinfo(np.int64).max
            self._paid += int(paid[0])
        self._left -= 1
        observation, info = self.env.reset(options={**(options or {}), "phase": "task", "world": "same"})
        _check_same_world(info.get("phase") != "task", "phase" in info, info.get("world_steps", -1), self.walk_steps - 1)
        if self.env.metadata.get("returns_home", True):
            self._now = replace(self._home, memory=self._now.memory)
        self._goal = None
        if self._goals:
            self._goal = self.model.locate(self._tensor(observation["goal"]), self._now.memory).s_mean[0]
        self._novelty = self.model.novelty(self._now.mean, self._now.memory)
        return self._shown(observation), {**info, "world_steps": self._paid}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Info]:
        """One step in the world, tracked by the belief."""
        if self._dream:
            return self.env.step(action)  # type: ignore[return-value]
        if self._generator is None:
            raise ResetNeeded("step needs a belief: call reset first")
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._paid += 1
        tensors = (self._tensor(value) for value in (action, observation["frame"], np.float32(reward), terminated, True))
        self._now, self._novelty = track(self.model, self._now, *tensors)
        return self._shown(observation), float(reward), terminated, truncated, {**info, "world_steps": self._paid}

    def _tensor(self, value: Any) -> Tensor:
        return torch.as_tensor(np.asarray(value), device=self.model.transition.W_a.device)

    def _shown(self, observation: Observation) -> Observation:
        own = entries(self.model, self._now, self._goal, self._novelty)
        return {name: (own | observation)[name] for name in self.observation_space}  # type: ignore[attr-defined]


def _itself(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:  # as wrappers can be pickled that hold it, which a lambda cannot
    return env


def track(
    model: GTMSM, belief: Belief, action: Tensor, frame: Tensor, reward: Tensor, termination: Tensor, where: Tensor
) -> tuple[Belief, Tensor]:
    """A real step (*B,) in a memory of `GTMSM.places`: the belief after it, and its novelty on arrival (*B,).

    Rows `where` remember what they see if it is new to them, and with landmarks, unless they are lost, what their move did. What is
    remembered is not written again: a memory is bounded by its world.
    """
    moved = model.infer(belief, action, frame)
    novelty = model.novelty(moved.mean, moved.memory)
    if model.landmarks is not None:  # a lost agent does not know what it sees where
        sure = (WITHIN * model.step_length) ** 2
        where = where & (belief.variance < sure).all(dim=-1) & (moved.variance < sure).all(dim=-1)
    new = where & (novelty > WITHIN)
    if model.landmarks is None and not new.any():
        return moved, novelty
    return model.observe(belief, action, frame, reward, termination, where=new, counted=where, moved=moved), novelty


class VectorBeliefWrapper(BatchedRows, VectorWrapper[Observation, Rows, Observation, Rows, Any]):
    """`BeliefWrapper` for a world with a native vector env, in one computation. Row i seeded s + i equals the scalar one seeded s + i.

    The world is made by `gymnasium.make_vec(..., autoreset_mode="Disabled")`: the wrapper begins its episodes, in the `autoreset_mode`
    that it is given. It walks in a second vector of the same world, all rows in bulk and ahead of need, and moves walked rows over by
    the world's `save_rows` and `load_rows`. For a world without them, wrap the scalar one:
    `SyncVectorEnv([lambda: BeliefWrapper(gymnasium.make(...))] * N)`.
    """

    _home: Belief  # where each row's walk ended
    _now: Belief
    _goal: Tensor  # (N, n)
    _novelty: Tensor  # (N,) on arrival

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        model: str | GTMSM | None = None,
        *,
        walk_steps: int = 256,
        episodes_per_walk: int | None = 8,
        observation: Shown = "belief",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        device: str = "cpu",
    ) -> None:
        VectorWrapper.__init__(self, env)
        world: Any = env.unwrapped
        self._dream = hasattr(world, "show")
        if self._dream:
            world.show(observation)
            self.autoreset_mode = world.autoreset_mode
            return
        if not hasattr(world, "save_rows") or env.metadata.get("autoreset_mode") != AutoresetMode.DISABLED:
            raise ValueError(
                "VectorBeliefWrapper begins the episodes of its rows itself, so it needs a world with save_rows and load_rows made with "
                f"autoreset_mode='Disabled'; got {env} with {env.metadata.get('autoreset_mode')}. "
                "For other worlds: SyncVectorEnv([lambda: BeliefWrapper(gymnasium.make(...))] * N)."
            )
        self.model = open_model(model, env.spec.id if env.spec else str(env), device)
        check_env(self.model, env)
        self._prepare(env.num_envs, autoreset_mode)
        self.metadata = {**env.metadata, "autoreset_mode": self.autoreset_mode}
        assert isinstance(env.single_observation_space, spaces.Dict)
        assert env.spec is not None
        self.single_observation_space = shown_space(env.single_observation_space, self.model, observation)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self.walk_steps, self.episodes_per_walk = walk_steps, episodes_per_walk
        self._goals = "goal" in env.single_observation_space.spaces
        self._walkers = gym.make_vec(env.spec)
        snapshot = partial(keeping_places, self.model)
        self._ahead = WorldsAhead(self._walkers, self.model, walk_steps, snapshot, self._goals, keep=self._walked_rows)
        self._left = np.zeros(env.num_envs, np.int64)
        self._paid = np.zeros(env.num_envs, np.int64)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Observation, Info]:
        """Begin episodes where the last walks ended, after new walks where it is time for one."""
        return self.env.reset(seed=seed, options=options) if self._dream else super().reset(seed=seed, options=options)

    def step(self, actions: Rows) -> tuple[Observation, NDArray[np.float64], Flags, Flags, Info]:
        """One step of every row in its world, tracked by its belief."""
        return self.env.step(actions) if self._dream else super().step(actions)

    def close(self, **kwargs: Any) -> None:
        if not self._dream:
            self._walkers.close()
        self.env.close(**kwargs)

    def _walked_rows(self, rows: Rows) -> list[Any]:
        walkers: Any = self._walkers.unwrapped
        return [walkers.save_rows(np.array([row])) for row in rows]

    def _seeded(self, rows: Rows) -> None:
        self._ahead.forget(rows)
        self._left[rows] = self._paid[rows] = 0

    def _begin(self, rows: Rows, options: dict[str, Any]) -> None:
        _refuse(options)
        new = rows[self._left[rows] == 0]
        if len(new):
            walked, _, saved, paid = self._ahead.next(new, self.generators)
            for row, one in zip(new, saved, strict=True):
                self.env.unwrapped.load_rows(np.array([row]), one)  # type: ignore[attr-defined]
            if not self._ready.any():
                self._now = self._home = walked
            else:
                self._now = self._now.put(index(new, walked), walked)
                self._home = stand(self._home, index(new, walked), walked)
            self._left[new] = self.episodes_per_walk or np.iinfo(np.int64).max
            self._paid[new] += paid
        self._left[rows] -= 1
        observation, info = self._reset_world(rows, options)
        walking, steps = info.get("walking"), info.get("world_steps", np.full(self.num_envs, -1))
        _check_same_world(bool(np.any(walking)), walking is not None, steps[rows], self.walk_steps - 1)
        which = index(rows, self._now)
        self._now = stand(self._now, which, self._home[which])
        begun = self._now[which]
        novelty = self.model.novelty(begun.mean, begun.memory)
        goal = self.model.locate(self._tensor(observation["goal"][rows]), begun.memory).s_mean[:, 0] if self._goals else begun.mean
        if not self._ready.any():
            self._goal, self._novelty = goal, novelty
        self._goal, self._novelty = self._goal.index_copy(0, which, goal), self._novelty.index_copy(0, which, novelty)
        self._world = observation, info

    def _advance(self, actions: Rows) -> tuple[NDArray[np.float64], Flags, Flags]:
        world: Any = self.env.unwrapped
        ended = np.flatnonzero(self._ended)
        if len(ended):  # next-step autoreset: the world cannot step these rows, so they begin something that is then undone
            saved = world.save_rows(ended)
            self._reset_world(ended, {})
        observation, reward, terminated, truncated, info = self.env.step(actions)
        if len(ended):
            world.load_rows(ended, saved)
        self._paid += ~self._ended
        values = (actions, observation["frame"], reward.astype(np.float32), terminated, ~self._ended)
        self._now, self._novelty = track(self.model, self._now, *map(self._tensor, values))
        self._world = observation, info
        return reward, terminated, truncated

    def _reset_world(self, rows: Rows, options: dict[str, Any]) -> tuple[Observation, Info]:
        mask = np.isin(np.arange(self.num_envs), rows)
        return self.env.reset(options={**options, "reset_mask": mask, "phase": "task", "world": "same"})

    def _tensor(self, value: NDArray[Any]) -> Tensor:
        return torch.from_numpy(value).to(self.model.transition.W_a.device)

    def _observation(self) -> Observation:
        own = entries(self.model, self._now, self._goal if self._goals else None, self._novelty)
        return {name: (own | self._world[0])[name] for name in self.observation_space}  # type: ignore[attr-defined]

    def _info(self) -> Info:
        return {**self._world[1], **self._told(world_steps=self._paid.copy())}
