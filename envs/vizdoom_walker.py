"""The agent that generates walks in ViZDoom's rooms: as the labyrinth's, it hunts for places all over the room and touches nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv

from gtmsm_env.envs.first_person import ACTIONS, COMMANDS, wrapped
from gtmsm_env.envs.vizdoom import KEPT, VizDoomEnv, turned
from gtmsm_env.envs.vizdoom_room import RADIUS

REACHED, PATIENCE = 0.35, 60  # units from a target, and steps after which it is given up
LOOKS_AROUND = 0.2  # probability of turning by up to a circle at a target
WHIM = 8  # most steps that one lasts
MARGIN = 0.02  # units to keep from the walls, beside the agent's radius

FORWARD, LEFT, RIGHT = (list(ACTIONS).index(name) for name in ("forward", "look left", "look right"))
FORWARD_LEFT, FORWARD_RIGHT = (list(ACTIONS).index(name) for name in ("forward and look left", "forward and look right"))


class Wanderer:
    """Chooses actions that lead straight to one place after another, drawn from all of the room. Called, it gives the next, or one a row.

    An action is taken only if the agent can come to rest after it without a touch, which Doom's law of motion tells beforehand.

    Args:
        world: a `VizDoomEnv` or a SyncVectorEnv of them, with or without wrappers
        generator: draws the places; one for all rows, or one a row, so that no row depends on others
        whims: probability of doing, from a step on, any one action for up to WHIM steps: what all eight do is seen only so
    """

    def __init__(self, world: Any, generator: np.random.Generator | Sequence[np.random.Generator], whims: float = 0.0) -> None:
        if isinstance(world, VectorEnv) and not isinstance(world.unwrapped, SyncVectorEnv):
            raise ValueError(f"a Wanderer sees the worlds it walks in, and those of {world} are elsewhere; take a SyncVectorEnv")
        self._scalar = not isinstance(world, VectorEnv)
        worlds: list[VizDoomEnv] = [world.unwrapped] if self._scalar else [env.unwrapped for env in world.unwrapped.envs]
        generators = [generator] * len(worlds) if isinstance(generator, np.random.Generator) else list(generator)
        if len(generators) != len(worlds):
            raise ValueError(f"one generator a row is needed, got {len(generators)} for {len(worlds)} rows; pass one for all rows")
        self._rows = [_Row(*row, whims) for row in zip(worlds, generators, strict=True)]

    def __call__(self) -> Any:
        actions = [row.action() for row in self._rows]
        return actions[0] if self._scalar else np.array(actions)


class _Row:
    """One agent: where it is going."""

    def __init__(self, world: VizDoomEnv, generator: np.random.Generator, whims: float) -> None:
        self.world, self.generator, self.whims = world, generator, whims
        self.whim = self.left = 0  # which action, and for how many steps more
        self.target = np.zeros(2)
        self.since = 0  # steps, since the target was drawn
        self.turns = 0  # left (positive) or right, still to do for looking around

    def action(self) -> int:
        wished = self._wished()
        if not self.whims:
            return wished
        self.left -= 1
        if self.left <= 0 and self.generator.random() < self.whims:
            self.whim, self.left = (int(n) for n in self.generator.integers([0, 1], [len(ACTIONS), WHIM + 1]))
        return self.whim if self.left > 0 and self._comes_to_rest(self.whim) else wished

    def _wished(self) -> int:
        world, pose = self.world, self.world._pose
        near = bool(np.hypot(*(self.target - pose[:2])) < REACHED)
        if near or self.since > PATIENCE or not world._world_steps:
            self.turns = 0
            if near and world.turn and world._world_steps and self.generator.random() < LOOKS_AROUND:
                self.turns = round(self.generator.uniform(-2 * np.pi, 2 * np.pi) / world.turn)
            self.target, self.since = world.room.anywhere(self.generator)[:2], 0
        self.since += 1
        error = float(wrapped(np.arctan2(*(self.target - pose[:2])[::-1]) - pose[2]))
        error = 4.0 * np.sign(self.turns) if self.turns else error
        self.turns -= int(np.sign(self.turns))
        turn = LEFT if error > 0 else RIGHT
        onward = FORWARD if abs(error) < world.turn / 2 else FORWARD_LEFT if error > 0 else FORWARD_RIGHT
        if abs(error) >= 1.2 or not world.speed:
            return turn
        if self._comes_to_rest(onward):
            return onward
        if onward == FORWARD:  # no way straight on: another target
            self.since = PATIENCE + 1
        return turn  # pushes nowhere: what was safe before it is so after it

    def _comes_to_rest(self, action: int) -> bool:
        """Whether the agent, coasting after this action, stops before any wall."""
        world, tics = self.world, self.world.frame_skip
        x_y, heading, velocity = world._pose[:2], world._pose[2], world._velocity / tics
        keep = min(RADIUS + MARGIN, world.room.clearance(*x_y))  # it may have been put down nearer to a wall
        for _ in range(tics):
            heading = heading + world.turn / tics * COMMANDS[action, 2]
            velocity = velocity + turned(COMMANDS[action, :2], heading) * world.speed / tics * (1 - KEPT)
            x_y, velocity = x_y + velocity, velocity * KEPT
        return all(world.room.clearance(*place) >= keep for place in (x_y, x_y + velocity / (1 - KEPT)))
