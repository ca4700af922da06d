"""The batched core of the dream: many beliefs, each stepped by the model in a memory of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from gtmsm_env import drawing
from gtmsm_env.belief import Shown, entries, shown_space
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.model import GTMSM
from gtmsm_env.networks import x_to_frames
from gtmsm_env.types import WITHIN, Belief
from gtmsm_env.vector import BatchedRows, Flags, Info, Observation, Rows
from gtmsm_env.worlds import (
    WorldsAhead,
    alike,
    check_world,
    end_of,
    has_goals,
    index,
    move,
    newest_rewards,
    open_model,
    places,
    spread,
    stand,
    tolerance,
)

Task = Literal["world", "goal", "reward"]
CLOSE = 13  # distinct places are over half a step apart: no more than 5 are within half a step of one in the plane, 13 with headings


class DreamVectorEnv(BatchedRows):
    """Many dreams in one batched computation. Row i seeded s + i dreams what `DreamEnv` seeded s + i dreams, but for rounding.

    See `DreamEnv` for spaces, rewards, the life of a dream, arguments and options. In a vector, "state" and "goal" among the options
    have one entry a row, and `options` may also hold Gymnasium's "reset_mask". `autoreset_mode` is an `AutoresetMode` or its value.
    `max_episode_steps` is what `make_vec` hands over; the smaller of it and `horizon` counts.
    """

    _home: Belief  # where each row's walk ended, and the places it remembers
    _now: Belief
    _searched: Belief | None = None  # what the novelty in `_found` is of
    _found: Tensor  # (N,)
    _goal: Tensor  # (N, n)
    _goal_like: Tensor  # (N, places) bool, those that look as the goal does
    _goal_frame: NDArray[np.uint8] | None  # (N, H, W, C), where frames are shown

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 8, "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        *,
        world: str = "GTMSM-ImageNavigation-v0",
        world_kwargs: Mapping[str, Any] | None = None,
        model: str | GTMSM | None = None,
        memory: str | Path | SpatialMemory | None = None,
        belief: Belief | None = None,
        walk_steps: int = 256,
        episodes_per_walk: int | None = 8,
        start: Literal["walk_end", "remembered"] = "walk_end",
        horizon: int | None = 128,
        observation: Shown = "frame",
        novelty: bool = False,
        task: Task | None = "world",
        device: str = "cpu",
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        view: Literal["dream", "all"] = "dream",
    ) -> None:
        limits = {"num_envs": num_envs, "horizon": horizon, "max_episode_steps": max_episode_steps, "episodes_per_walk": episodes_per_walk}
        for name, limit in limits.items():
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1, or None for no limit, got {limit}")
        for name, value, allowed in (
            ("start", start, ("walk_end", "remembered")),
            ("render_mode", render_mode, (None, "rgb_array")),
            ("view", view, ("dream", "all")),
            ("task", task, ("world", "goal", "reward", None)),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {value!r}")
        if memory is not None and belief is not None:
            raise ValueError("A dream starts from one memory: give memory, or belief, which holds one, not both.")
        self.num_envs, self.render_mode, self.view = num_envs, render_mode, view
        self.start, self.episodes_per_walk, self.walk_steps, self.novelty = start, episodes_per_walk, walk_steps, novelty
        self.horizon = min((limit for limit in (horizon, max_episode_steps) if limit is not None), default=np.iinfo(np.int64).max)
        self._prepare(num_envs, autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}

        self.model = open_model(model, world, device)
        self._device, self._step_length = self.model.transition.W_a.device, self.model.step_length
        self.world, self.world_kwargs = world, dict(world_kwargs or {})
        given = end_of(memory, self.model) if memory is not None else belief
        pictured = {"render_mode": "rgb_array"} if render_mode and view == "all" and given is None else {}
        self._walkers = gym.make_vec(world, num_envs if given is None else 1, **{**pictured, **self.world_kwargs})
        shown, actions = self._walkers.single_observation_space, self._walkers.single_action_space
        check_world(self.model, world, self.world_kwargs, shown, actions)
        assert isinstance(shown, spaces.Dict)
        self._world_space, self.single_action_space = shown, actions
        self._there = tolerance(self.model, self._walkers)
        self.action_space = batch_space(actions, num_envs)
        self.task = self._checked_task(task)
        self.show(observation)

        self._warned = False  # of a memory that knows of no obstacles
        self._left = np.zeros(num_envs, np.int64)  # resets until another world is walked
        self._paid = np.zeros(num_envs, np.int64)
        self._steps = np.zeros(num_envs, np.int64)
        self._places = np.zeros(num_envs, np.int64)  # the first entries of each memory, which are distinct; others fill up for the prior
        self._drawn: list[np.random.Generator] = [np.random.default_rng(0)] * num_envs  # what is left of each world's random numbers
        self._pictures: list[NDArray[np.uint8] | None] = [None] * num_envs  # each world as its walk ended
        self._paths: list[list[Tensor]] = [[] for _ in range(num_envs)]  # imagined states of the episode, to be drawn
        self._source: Belief | WorldsAhead
        if given is None:
            keep = self._walked_pictures if pictured else None
            self._source = WorldsAhead(self._walkers, self.model, walk_steps, self._snapshot, self.task == "goal", keep)
        else:
            self._source = self._rows_of(given)

    # ---------------------------------------------------------------- what is asked for

    def _checked_task(self, task: Task | None) -> Literal["goal", "reward"] | None:
        """Where reward and termination come from; nothing is guessed."""
        goal = "goal" in self._world_space.spaces
        if task == "world" and not goal:
            raise ValueError(
                f"This dream has no source of reward: {self.world} with {self.world_kwargs} shows no goal. Give task='reward' to read what "
                "was received at remembered places, or task=None for a dream without reward."
            )
        if task in ("reward", None) and goal:
            raise ValueError(
                f"{self.world} shows a goal, so its dream, which has the same spaces, has the task of reaching it; given task={task!r}. "
                "Make the world without its own task: world_kwargs={'task': None}."
            )
        if task == "goal" and not goal:
            raise ValueError(f"task 'goal' needs a world that shows one under 'goal'; {self.world} with {self.world_kwargs} does not.")
        return "goal" if goal else "reward" if task == "reward" else None

    def show(self, observation: Shown) -> None:
        """Choose the observation: "frame", "belief" or "state". The belief wrappers call it before the first reset."""
        if self._ready.any():
            raise ValueError("What a dream shows is chosen before its first reset.")
        space = shown_space(self._world_space, self.model, observation)
        self.single_observation_space, self.observation_space = space, batch_space(space, self.num_envs)
        self._frames, self._entries = "frame" in space.spaces, "state" in space.spaces

    def _rows_of(self, belief: Belief) -> Belief:
        """A belief the caller gave, as one a row."""
        if self.model.landmarks is not None and not {"effect", "tried"} & belief.memory.values.keys() and not self._warned:
            gym.logger.warn(
                "A dream stops at obstacles where its memory keeps what moves did (`origin`, `action`, `effect`); the one given keeps none "
                "of that, so obstacles are not honoured. Remember the walk with a model that has landmarks: model.remember(walk)."
            )
            self._warned = True
        belief = spread(self._snapshot(move(belief, self._device)), self.num_envs)
        if self.task == "goal" and not has_goals(belief.memory).all():
            raise ValueError("A goal is a place that looks unlike the start; in the memory given everything looks the same. Walk further.")
        return belief

    def _walked_pictures(self, rows: Rows) -> list[Any]:
        pictures = self._walkers.render() or ()
        return [pictures[row] for row in rows]

    def _snapshot(self, belief: Belief) -> Belief:
        """What a dream holds of a belief: its distinct places, with their views where frames are shown."""
        memory = places(self.model, belief.memory, views=self._frames)
        if self.task == "reward":
            memory = newest_rewards(memory, belief.memory, WITHIN * self._step_length)
        return Belief(belief.mean, belief.variance, belief.displacement, memory)

    # ---------------------------------------------------------------- the life of a dream

    def _seeded(self, rows: Rows) -> None:
        if isinstance(self._source, WorldsAhead):
            self._source.forget(rows)
        self._left[rows] = self._paid[rows] = 0

    @torch.no_grad()
    def _begin(self, rows: Rows, options: dict[str, Any]) -> None:
        belief, state, goal = (options.pop(name, None) for name in ("belief", "state", "goal"))
        if options:
            raise ValueError(f"reset options are belief, state, goal and (in a vector) reset_mask, got also {sorted(options)}")
        if goal is not None and self.task != "goal":
            raise ValueError(f"options['goal'] is for dreams with a goal; this one's task is {self.task!r}")
        self._enter_worlds(rows, belief)
        which = index(rows, self._home)
        at = self._home[which]
        if state is not None:
            at = replace(at, mean=self._state_option("state", state)[which], displacement=torch.zeros_like(at.displacement))
        elif self.start == "remembered":
            entry = [int(self._drawn[row].integers(self._places[row])) for row in rows]
            mean = at.memory.s_mean[torch.arange(len(rows)), torch.tensor(entry)]
            at = replace(at, mean=mean, displacement=torch.zeros_like(mean))
        self._now = stand(self._now, which, at)
        if self.task == "goal":
            self._set_goals(rows, at, goal)
        self._left[rows] -= 1
        self._steps[rows] = 0
        for row in rows:
            self._paths[row] = [self._now.mean[row]]

    def _enter_worlds(self, rows: Rows, belief: Belief | None) -> None:
        """The rows whose time in a world is over, or that were given a belief of another, enter the next."""
        new = rows if belief is not None else rows[self._left[rows] == 0]
        if not len(new):
            return
        source = self._source if belief is None else self._rows_of(belief)
        if isinstance(source, WorldsAhead):
            entered, drawn, pictures, paid = source.next(new, self.generators)
            self._paid[new] += paid
        else:
            entered = source[index(new, source)]
            drawn = [np.random.default_rng([int(self.generators[row].integers(2**31)), 1]) for row in new]
            pictures = [None] * len(new)
        for row, own, picture in zip(new, drawn, pictures, strict=True):
            self._drawn[row], self._pictures[row] = own, picture
        if not self._ready.any():
            self._home = self._now = entered
        else:
            self._home = self._home.put(index(new, entered), entered)
            self._now = replace(self._now, memory=self._home.memory)
        self._places[new] = entered.memory.distinct(WITHIN * self._step_length).count.cpu().numpy()
        resets = self.episodes_per_walk if isinstance(self._source, WorldsAhead) else None
        self._left[new] = resets or np.iinfo(np.int64).max

    def _set_goals(self, rows: Rows, at: Belief, goal: Any) -> None:
        """Draw a goal for each row among the places that look unlike those it starts at; or take the one that was asked for."""
        memory, s, radius, which = at.memory, at.mean, WITHIN * self._step_length, index(rows, at)
        z = memory.values["z_mean"]  # (R, P, d)
        near = self._there(memory.s_mean, s[:, None])  # (R, P)
        if goal is None:
            at_start = near
            close = memory.read(s, min(CLOSE, int(memory.count.min())))
            for z_k, distance in zip(close.z_mean.unbind(1), close.distance.unbind(1), strict=True):
                at_start = at_start | (alike(z, z_k[:, None]) & (distance <= radius)[:, None])
            allowed = ~at_start.cpu().numpy() & (np.arange(near.shape[1]) < self._places[rows, None])
            chosen = torch.tensor([self._draw(row, choices) for row, choices in zip(rows, allowed, strict=True)])
            each = torch.arange(len(rows))
            goal_state, like = memory.s_mean[each, chosen], alike(z, z[each, chosen][:, None])
            frames = x_to_frames(memory.values["view"][each, chosen]).cpu().numpy() if self._frames else None
        else:
            goal_state, like, frames = self._goal_option(goal, which, memory)
            if (self._there(goal_state, s) | (like & near).any(-1)).any():
                raise ValueError("options['goal'] is reached at the start already; choose another goal or another start")
        like = like & memory.used
        if not self._ready.any():
            self._goal, self._goal_like, self._goal_frame = goal_state, like, frames
            return
        self._goal = self._goal.index_copy(0, which, goal_state)
        wider = F.pad(self._goal_like, (0, like.shape[1] - self._goal_like.shape[1]))
        self._goal_like = wider.index_copy(0, which, like)
        if self._goal_frame is not None and frames is not None:
            self._goal_frame[rows] = frames

    def _draw(self, row: int, allowed: Flags) -> int:
        choices = np.flatnonzero(allowed)
        if not len(choices):
            raise ValueError(f"row {row} remembers no place that looks unlike its start, so there is no goal to draw; give another start")
        return int(choices[self._drawn[row].integers(len(choices))])

    def _state_option(self, name: str, value: Any) -> Tensor:
        """A state a row, in steps as the observation tells it, in the model's unit."""
        array, shape = np.asarray(value), (self.num_envs, self.model.in_steps(self._home.mean).shape[-1])
        if array.shape != shape or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise ValueError(
                f"options[{name!r}] must be finite states in steps of shape {shape}, got {array.dtype} of shape {array.shape}"
                + ("; or uint8 frames as the world shows them" if name == "goal" else "")
            )
        return self.model.from_steps(torch.from_numpy(array.astype(np.float32)).to(self._device))

    def _goal_option(self, goal: Any, which: Tensor, memory: SpatialMemory) -> tuple[Tensor, Tensor, NDArray[np.uint8] | None]:
        """A goal asked for, a frame found by the memory in reverse or a state: where it is, the places that look like it, its frame."""
        array, z = np.asarray(goal), memory.values["z_mean"]
        if array.dtype == np.uint8 and array.shape == (self.num_envs, *self.model.frame_shape):
            given = array[which.cpu().numpy()]
            found = self.model.locate(torch.from_numpy(given).to(self._device), memory)
            return found.s_mean[:, 0], alike(z, found.z_mean), given if self._frames else None
        state = self._state_option("goal", goal)[which]
        nearest = memory.read(state, 1)
        like = alike(z, nearest.z_mean) & (nearest.distance <= WITHIN * self._step_length)
        return state, like, self.model.decode(state, memory).cpu().numpy() if self._frames else None

    # ---------------------------------------------------------------- steps

    @torch.no_grad()
    def _advance(self, actions: Rows) -> tuple[NDArray[np.float64], Flags, Flags]:
        self._now = self.model.predict(self._now, torch.from_numpy(actions).to(self._device))
        self._steps += 1
        if self.render_mode and self.view == "all":
            for row, path in enumerate(self._paths):
                path.append(self._now.mean[row])
        reward, terminated = self._arrived()
        return reward, terminated, self._steps >= self.horizon

    def _arrived(self) -> tuple[NDArray[np.float64], Flags]:
        """The reward for being where the rows are, and whether it ends their episodes."""
        s, memory = self._now.mean, self._now.memory
        if self.task == "reward":
            nearest = memory.read(s, 1).values
            return nearest["reward"][:, 0].double().cpu().numpy(), nearest["termination"][:, 0].cpu().numpy()
        if self.task is None:
            return np.zeros(self.num_envs), np.zeros(self.num_envs, np.bool_)
        near = self._there(memory.s_mean[:, : self._goal_like.shape[1]], s[:, None])
        arrived = (near & self._goal_like).any(dim=-1) | self._there(s, self._goal)
        terminated: Flags = arrived.cpu().numpy()
        return terminated.astype(np.float64), terminated

    @property
    def belief(self) -> Belief:
        """What is believed now, one a row; planners imagine from it. Its memory holds the distinct places."""
        if not self._ready.any():
            raise ResetNeeded("a dream has a belief from its first reset on")
        return self._now

    @torch.no_grad()
    def _observation(self) -> Observation:
        shown: Observation = {}
        if self._frames:
            shown["frame"] = self.model.decode(self._now.mean, self._now.memory).cpu().numpy()
            if self.task == "goal" and self._goal_frame is not None:
                shown["goal"] = self._goal_frame.copy()
        if self._entries:
            shown |= entries(self.model, self._now, self._goal if self.task == "goal" else None, self._novelty())
        return shown

    def _info(self) -> Info:
        told: dict[str, NDArray[Any]] = {"world_steps": self._paid.copy()}
        if self.novelty:
            told["novelty"] = self._novelty().cpu().numpy().copy()
        return self._told(**told)

    def _novelty(self) -> Tensor:
        """How far each row is from anything it remembers, in steps (N,); asked of the memory once, whoever tells it."""
        if self._searched is not self._now:
            self._searched, self._found = self._now, self.model.novelty(self._now.mean, self._now.memory)
        return self._found

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """Every row's dream drawn large; view "all" adds its world as the walk ended, the goal and a map. None without a render_mode."""
        if self.render_mode is None:
            gym.logger.warn("render() was called without a render_mode; make the environment with render_mode='rgb_array'")
            return None
        belief, goal = self.belief, self._goal if self.task == "goal" else self._now.mean
        with torch.no_grad():
            seen = self.model.decode(torch.stack([belief.mean, goal], dim=1), belief.memory).cpu().numpy()  # (N, 2, H, W, C)
        if self.view == "dream":
            return tuple(drawing.enlarge(frame) for frame, _ in seen)
        return tuple(self._all_of(row, *map(drawing.enlarge, frames)) for row, frames in enumerate(seen))

    def _all_of(self, row: int, dream: NDArray[np.uint8], goal: NDArray[np.uint8]) -> NDArray[np.uint8]:
        memory = self.belief.memory[torch.tensor([row], device=self._device)]
        target = self._goal[row] if self.task == "goal" else None
        picture = self._pictures[row]
        panels = {} if picture is None else {"world, where the walk ended": picture}
        panels |= {"goal": goal} if self.task == "goal" else {}
        panels |= {"dream": dream}
        stones = self.model.obstacle_states(memory[torch.tensor(0)])
        mapped = drawing.map_of_places(memory, self._paths[row], target, len(dream), obstacles=stones, axes=self.model.axes)
        panels |= {"places remembered, path imagined": mapped}
        return drawing.side_by_side(list(panels.values()), list(panels))

    def close_extras(self, **kwargs: Any) -> None:
        self._walkers.close()
