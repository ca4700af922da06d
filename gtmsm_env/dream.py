"""The dream: a Gymnasium environment with a world's spaces, stepped by the model from a memory of that world."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from gtmsm_env.belief import Shown
from gtmsm_env.dream_vector import DreamVectorEnv
from gtmsm_env.types import Belief
from gtmsm_env.vector import Info, Observation, row_0

__all__ = ["DreamEnv", "DreamVectorEnv"]


class DreamEnv(gym.Env[Observation, int]):
    """A dream of a world: what the agent would see there, imagined from a memory of having walked through it.

    ## Action space
    The world's.

    ## Observation space
    The world's; with `observation="belief"` also `state`, `goal_state`, `novelty` and, among obstacles, `free` (see
    `belief.shown_space`), with "state" these alone: then no frame is ever decoded, and steps are cheap.

    ## Rewards and episode end
    Where the world shows a goal: 1 and termination within half a step of it or of a place remembered to look the same, 0 before.
    `task="reward"`: what was received on the last visit to the nearest remembered place. `task=None`: no reward.
    Truncation after `horizon` steps (None: never).

    ## Starting state
    At the first reset and after every `episodes_per_walk` others, a new world is explored for `walk_steps` frames and remembered. The
    dream starts where the walk ended, or with `start="remembered"` at any place; its goal is drawn from the places that look unlike the
    start, and shown as it is remembered. `options` may hold "state" and "goal" (states in steps, as `state` tells them, or for the goal
    a frame) and "belief" (a `Belief`, which takes the place of a walk).

    ## Information
    `world_steps`, the real steps paid for walks since the last seed; `novelty`, if asked for.

    ## Arguments
    `world` and `world_kwargs` say what is walked, `model` (a shipped name, a path, or a `GTMSM`; by default the one that ships
    for the world) who dreams. `memory`, the path of a saved one (or a `SpatialMemory`), or `belief`, a `Belief`, is dreamed of instead of
    walked worlds. `walk_steps`,
    `episodes_per_walk` (None: one walk for ever), `start`, `horizon`; `observation`: "frame", "belief" or "state"; `novelty`: tell it in
    `info`; `task`: "world", the world's own, or "goal", "reward", None; `device`, for a model given by name; `render_mode`:
    "rgb_array" or None; `view`: "dream", or "all".

    A memory that keeps nothing of what moves did is warned of once where the model could honour obstacles.
    ValueError for arguments and options that do not fit, a world other than the model's, a memory of another model, empty, or
    of fewer entries than the model reads, a dream without a source of reward; ResetNeeded for a step before `reset` or after the end.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012

    def __init__(self, **arguments: Any) -> None:
        self.batch_of_one = DreamVectorEnv(1, autoreset_mode=AutoresetMode.DISABLED, **arguments)
        self.render_mode = self.batch_of_one.render_mode
        self.action_space = self.batch_of_one.single_action_space

    @property
    def observation_space(self) -> gym.Space[Any]:  # type: ignore[override]
        return self.batch_of_one.single_observation_space

    @property
    def belief(self) -> Belief:
        """What is believed now, of batch shape (1,)."""
        return self.batch_of_one.belief

    def show(self, observation: Shown) -> None:
        """See `DreamVectorEnv.show`."""
        self.batch_of_one.show(observation)

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[Observation, Info]:
        """Begin a dream; see the class for options and errors."""
        super().reset(seed=seed)
        if seed is not None or not self.batch_of_one.generators:
            self.batch_of_one.use_generators(np.zeros(1, np.int64), [self.np_random])
        options = dict(options or {})
        if "reset_mask" in options:
            raise ValueError("options['reset_mask'] is for vector environments")
        rows = {name: np.asarray(value)[None] if name in ("state", "goal") else value for name, value in options.items()}
        return row_0(*self.batch_of_one.reset(options=rows))

    def step(self, action: int) -> tuple[Observation, float, bool, bool, Info]:
        """Imagine one action."""
        if np.ndim(action):
            raise ValueError(f"an action is one integer, got an array of shape {np.shape(action)}")
        observation, reward, terminated, truncated, info = self.batch_of_one.step(np.asarray(action)[None])
        return (*row_0(observation, {})[:1], float(reward[0]), bool(terminated[0]), bool(truncated[0]), row_0({}, info)[1])

    def render(self) -> NDArray[np.uint8] | None:
        """The dream drawn large; None without a render_mode."""
        drawn = self.batch_of_one.render()
        return drawn[0] if drawn else None

    def get_keys_to_action(self) -> dict[Any, int]:
        """Keys for `gymnasium.utils.play`: the world's."""
        with gym.make(self.batch_of_one.world, **self.batch_of_one.world_kwargs) as world:
            keys: dict[Any, int] = world.get_wrapper_attr("get_keys_to_action")()
        return keys

    def close(self) -> None:
        self.batch_of_one.close()
