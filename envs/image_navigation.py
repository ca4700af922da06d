"""Image navigation (section 4.1): a small window moves over a picture and sees only what lies in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from gtmsm_env.envs.image_navigation_vector import ACTIONS, MOVES, ImageNavigationVectorEnv
from gtmsm_env.envs.windows import Integers, crops
from gtmsm_env.vector import Frames, Info, Observation, row_0

__all__ = ["ACTIONS", "MOVES", "ImageNavigationEnv", "ImageNavigationVectorEnv", "crops"]


class ImageNavigationEnv(gym.Env[Observation, int]):
    """A window walks over a picture and sees what lies in it: the paper's image navigation, with a goal frame to find.

    ## Action space
    `Discrete(5)`: up, down, left, right, stay. A move is `step_size` pixels; at an edge of the picture the window stays where it is.

    ## Observation space
    `Dict(frame=Box(0, 255, (crop_size, crop_size, 3), uint8), goal=...)`: what lies in the window, and the frame to find (black during a
    walk, which has no goal). `task=None` drops the goal and its reward.

    ## Rewards and episode end
    1 and termination on arrival at any place whose frame equals the goal byte for byte, 0 before. Truncation after `horizon` steps of the
    task (None: never). A walk gives no reward and neither terminates nor truncates.

    ## Starting state
    The centre of a picture drawn from `images` and `split`, and a goal drawn from the places that look unlike the start. `options`:
    `{"phase": "walk"}` begins a walk in a new world; `{"phase": "task", "world": "same"}` then a task in the walked world: it starts at
    home, where the walk ended (the world's own start without one), whatever tasks came between, and its goal is a place the walk has
    been. "image" (its number), "position" and "goal" (row, column) replace what would be drawn or recorded.

    ## Information
    `position` and `goal_position` (row, column), for evaluation only; `image`, its number in the split; `world_steps`, the steps walked in
    this world so far; `phase`, "walk" or "task".

    ## Arguments
    `images`: "procedural", or a folder or zip of CelebA or of any images; `split`: "train", "validation", "test" or, for a folder, "all";
    `image_size`, `crop_size`, `step_size` in pixels; `task`: "goal" or None; `horizon`; `render_mode`: "rgb_array" or None.

    ValueError for arguments, options and actions out of range; ResetNeeded for a step before `reset` or after the end.
    """

    metadata: dict[str, Any] = {key: value for key, value in ImageNavigationVectorEnv.metadata.items() if key != "autoreset_mode"}  # noqa: RUF012

    def __init__(
        self,
        *,
        images: str = "procedural",
        split: str = "test",
        image_size: int = 32,
        crop_size: int = 8,
        step_size: int = 3,
        task: Literal["goal"] | None = "goal",
        horizon: int | None = 128,
        render_mode: str | None = None,
    ) -> None:
        self._hold(
            ImageNavigationVectorEnv(
                images=images,
                split=split,
                image_size=image_size,
                crop_size=crop_size,
                step_size=step_size,
                task=task,
                horizon=horizon,
                autoreset_mode=AutoresetMode.DISABLED,
                render_mode=render_mode,
            )
        )

    def _hold(self, batch_of_one: ImageNavigationVectorEnv) -> None:
        """Be what this vector of one row is."""
        self.batch_of_one = batch_of_one
        self.render_mode, self.task = batch_of_one.render_mode, batch_of_one.task
        self.observation_space = self.batch_of_one.single_observation_space
        self.action_space = self.batch_of_one.single_action_space

    @property
    def positions(self) -> Integers:
        """Every place as (row, column), (P * P, 2), row by row."""
        return self.batch_of_one.positions

    def shortest_path(self, start: Integers, goal: Integers) -> int:
        """Fewest steps from place to place, each (row, column)."""
        return int(self.batch_of_one.shortest_path(start, goal).item())

    def steps_to_goal(self) -> int:
        """Fewest steps from here to any place that counts as the goal."""
        return int(self.batch_of_one.steps_to_goal()[0])

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[Observation, Info]:
        """Begin an episode or a walk; see the class for options and errors."""
        super().reset(seed=seed)
        self.batch_of_one.generators = [self.np_random]
        rows = {key: [value] if key in ("image", "position", "goal") else value for key, value in (options or {}).items()}
        if "reset_mask" in rows:
            raise ValueError("options['reset_mask'] is for vector environments")
        return self._told(*self.batch_of_one.reset(options=rows))

    def step(self, action: int) -> tuple[Observation, float, bool, bool, Info]:
        """Take one action, an integer 0 to 4."""
        if np.ndim(action):
            raise ValueError(f"an action is one integer, got an array of shape {np.shape(action)}")
        observation, reward, terminated, truncated, info = self.batch_of_one.step(np.asarray(action)[None])
        observation, info = self._told(observation, info)
        return observation, float(reward[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> Frames | None:
        """The picture drawn large, the window outlined in white and the goal in yellow; None without a render_mode."""
        drawn = self.batch_of_one.render()
        return drawn[0] if drawn else None

    def get_keys_to_action(self) -> dict[tuple[str, ...], int]:
        """Keys for `gymnasium.utils.play`: w, s, a, d move, no key stays."""
        return {("w",): 0, ("s",): 1, ("a",): 2, ("d",): 3, (): 4}

    @staticmethod
    def _told(observation: Observation, info: Info) -> tuple[Observation, Info]:
        """Row 0 of what a vector tells."""
        observation, info = row_0(observation, info)
        info["phase"] = "walk" if info.pop("walking") else "task"
        return observation, info
