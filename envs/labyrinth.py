"""The labyrinth (section 4.2): rooms seen in first person, walked with momentum, each with textures of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from gtmsm_env.envs.first_person import ACTIONS, KEYS
from gtmsm_env.envs.labyrinth_vector import LabyrinthVectorEnv
from gtmsm_env.vector import Frames, Info, Observation, row_0

__all__ = ["ACTIONS", "LabyrinthEnv", "LabyrinthVectorEnv"]


class LabyrinthEnv(gym.Env[Observation, int]):
    """An agent walks through rooms and sees them in first person: the paper's labyrinth, with a goal frame to find.

    Every wall, floor and ceiling has its own seeded texture and colours and never repeats; pictures hang on walls, pillars reach from floor
    to ceiling, and balls lie or float. `GTMSM-LabyrinthRooms-v0` has two to four such rooms, joined by corridors; in
    `GTMSM-LabyrinthRotate-v0` the agent only turns, 9.3 degrees a step, which is no part of a circle. `GTMSM-LabyrinthMaze-v0` has DeepMind
    Lab's random mazes, of up to four rooms, and its textures.

    ## Action space
    `Discrete(8)`, the actions of DeepMind Lab's agents but "fire"; see `ACTIONS` for what each does:

    | number | action | ahead | to the left | turn to the left |
    |---|---|---|---|---|
    | 0 | forward | 1 | | |
    | 1 | backward | -1 | | |
    | 2 | strafe left | | 1 | |
    | 3 | strafe right | | -1 | |
    | 4 | look left | | | 1 |
    | 5 | look right | | | -1 |
    | 6 | forward and look left | 1 | | 1 |
    | 7 | forward and look right | 1 | | -1 |

    Looking turns by `turn` degrees at once. Walking has momentum and friction: physics "smooth" is exactly in the class of the model's law
    (equation 6), "lab" has DeepMind Lab's constants and its hard top speed. Walls, pillars and balls stop the part of a move that leads
    into them; the agent, a disc of radius .2, slides along.

    ## Observation space
    `Dict(frame=Box(0, 255, (frame_size, frame_size, 3), uint8), goal=...)`: what is seen, two samples a pixel, and the frame to find (black
    during a walk, which has no goal). `task=None` drops the goal and its reward.

    ## Rewards and episode end
    1 and termination on arrival within `goal_radius` of the place and `goal_angle` of the heading from which the goal frame was taken, or
    wherever the same frame is seen byte for byte; 0 before. Truncation after `horizon` steps of the task (None: never). A walk gives no
    reward and neither terminates nor truncates.

    ## Starting state
    A place and heading drawn from all that touch nothing in a world drawn from `split`, at rest, and a goal drawn likewise that is not
    reached there. `options`: `{"phase": "walk"}` begins a walk in a new world; `{"phase": "task", "world": "same"}` then a task in the
    walked world: it starts at home, where the walk ended and as fast (the world's own start without one), whatever tasks came between, and
    its goal is a pose of the walk's last 1,024. "room" (the world's number), "pose" and "goal" (x, y, heading) replace what would be drawn
    or recorded.

    ## Information
    `pose` (x, y, heading) in units and radians, from east over north; `velocity` (ahead, left) in units a step, in the agent's frame;
    `displacement` (ahead, left, turn) of the last step in the agent's frame before it: a target for training, as in the paper, and never an
    input; `touched`, whether something was in the way; `goal_pose`; `room`, the world's number in the split; `world_steps`, the steps
    walked in this world so far; `phase`, "walk" or "task". All but the displacement are for evaluation only.

    ## Arguments
    `split`: "train", "validation" or "test", which share no room; `rooms`: fewest and most, of 3.5 to 5.5 units a side; `layout`: "rooms",
    or "maze", cells of 4/3 units with up to so many rooms of 3 to 5 cells a side as find a place; `textures`: "procedural", or "lab",
    DeepMind Lab's, drawn for each surface and repeated over it (both need the extra "labmaze"); `frame_size` in pixels; `field_of_view` in
    degrees; `camera_height` in units, of walls of 1.5, the camera being level; `physics`: "smooth" or "lab"; `speed`, the top speed in
    units a step (0: the agent only turns); `turn`, `goal_angle` in degrees; `goal_radius` in units; `task`: "goal" or None; `horizon`;
    `render_mode`: "rgb_array" or None.

    ValueError for arguments, options and actions out of range; ResetNeeded for a step before `reset` or after the end; ModuleNotFoundError
    without the extra "labyrinth", or "labmaze" where it is needed.
    """

    metadata: dict[str, Any] = {key: value for key, value in LabyrinthVectorEnv.metadata.items() if key != "autoreset_mode"}  # noqa: RUF012

    def __init__(
        self,
        *,
        split: str = "test",
        rooms: Sequence[int] = (1, 1),
        layout: Literal["rooms", "maze"] = "rooms",
        textures: Literal["procedural", "lab"] = "procedural",
        frame_size: int = 32,
        field_of_view: float = 90.0,
        camera_height: float = 0.6,
        physics: Literal["smooth", "lab"] = "smooth",
        speed: float = 0.15,
        turn: float = 8.448,
        goal_radius: float = 0.3,
        goal_angle: float = 12.7,
        task: Literal["goal"] | None = "goal",
        horizon: int | None = 256,
        render_mode: str | None = None,
    ) -> None:
        self.batch_of_one = LabyrinthVectorEnv(
            split=split,
            rooms=rooms,
            layout=layout,
            textures=textures,
            frame_size=frame_size,
            field_of_view=field_of_view,
            camera_height=camera_height,
            physics=physics,
            speed=speed,
            turn=turn,
            goal_radius=goal_radius,
            goal_angle=goal_angle,
            task=task,
            horizon=horizon,
            autoreset_mode=AutoresetMode.DISABLED,
            render_mode=render_mode,
        )
        self.render_mode, self.task = render_mode, task
        self.observation_space = self.batch_of_one.single_observation_space
        self.action_space = self.batch_of_one.single_action_space

    def steps_to_goal(self) -> int:
        """The fewest steps to the goal, a close bound from below; see `LabyrinthVectorEnv.steps_to_goal`."""
        return int(self.batch_of_one.steps_to_goal()[0])

    def explorer(self, generator: np.random.Generator | Sequence[np.random.Generator]) -> Any:
        """Who walks here when nobody is named; see `LabyrinthVectorEnv.explorer`."""
        explorer = self.batch_of_one.explorer(generator)
        return lambda: explorer()[0]

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> tuple[Observation, Info]:
        """Begin an episode or a walk; see the class for options and errors."""
        super().reset(seed=seed)
        self.batch_of_one.generators = [self.np_random]
        rows = {key: [value] if key in ("room", "pose", "goal") else value for key, value in (options or {}).items()}
        if "reset_mask" in rows:
            raise ValueError("options['reset_mask'] is for vector environments")
        return self._told(*self.batch_of_one.reset(options=rows))

    def step(self, action: int) -> tuple[Observation, float, bool, bool, Info]:
        """Take one action, an integer 0 to 7."""
        if np.ndim(action):
            raise ValueError(f"an action is one integer, got an array of shape {np.shape(action)}")
        observation, reward, terminated, truncated, info = self.batch_of_one.step(np.asarray(action)[None])
        observation, info = self._told(observation, info)
        return observation, float(reward[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> Frames | None:
        """The frame drawn large beside a map from above: the agent a white arrow, the goal a yellow one; None without a render_mode."""
        drawn = self.batch_of_one.render()
        return drawn[0] if drawn else None

    def get_keys_to_action(self) -> dict[tuple[str, ...], int]:
        """Keys for `gymnasium.utils.play`; see `KEYS`."""
        return dict(KEYS)

    @staticmethod
    def _told(observation: Observation, info: Info) -> tuple[Observation, Info]:
        """Row 0 of what a vector tells."""
        observation, info = row_0(observation, info)
        info["phase"] = "walk" if info.pop("walking") else "task"
        return observation, info
