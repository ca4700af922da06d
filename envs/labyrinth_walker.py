"""The agent that generates walks in the labyrinth, as the paper's: trained to hunt for things all over the rooms, it touches nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from gtmsm_env.envs.first_person import ACTIONS, wrapped
from gtmsm_env.envs.labyrinth_physics import move
from gtmsm_env.envs.labyrinth_rooms import RADIUS, Integers
from gtmsm_env.envs.labyrinth_vector import LabyrinthVectorEnv
from gtmsm_env.vector import Flags, Floats

REACHED, PATIENCE = 0.35, 60  # units from a target, and steps after which it is given up
LOOKS_AROUND = 0.2  # probability of turning by up to a circle at a target
WHIM = 8  # most steps that one lasts
MARGIN, AROUND = 0.02, 0.12  # units to keep from everything; and more from discs on the way
COASTING = 8  # steps after which a coasting agent is as good as still

FORWARD, LEFT, RIGHT = (list(ACTIONS).index(name) for name in ("forward", "look left", "look right"))
FORWARD_LEFT, FORWARD_RIGHT = (list(ACTIONS).index(name) for name in ("forward and look left", "forward and look right"))


class Scavenger:
    """Chooses actions that lead to one place after another, drawn from all free ones, around what stands in the way.

    Knows the world, as an agent trained in it would. While it is careful, an action is taken only if the agent can come to rest after it
    without a touch, so that displacements are the model's law alone, as in the paper. Called, it gives the action for the world as it
    stands, or one a row.

    Args:
        world: a labyrinth, alone or as a vector, with or without wrappers
        generator: draws the places; one for all rows, or one a row, so that no row depends on others
        whims: probability of doing, from a step on, any one action for up to WHIM steps: what all eight do is seen only so
        careful: whether it keeps clear of everything; one that does not runs into things on its way
    """

    def __init__(
        self, world: Any, generator: np.random.Generator | Sequence[np.random.Generator], whims: float = 0.0, careful: bool = True
    ) -> None:
        self._scalar, self.world, self._generators = rows_of(world, generator)
        rows = self.world.num_envs
        self.whims, self.careful = whims, careful
        self._whim = np.zeros((2, rows), np.int64)  # which action, and for how many steps more
        self._way: list[list[Floats]] = [[]] * rows  # places to pass, the target last
        self._since = np.zeros(rows, np.int64)  # steps, since the target was drawn
        self._turns = np.zeros(rows, np.int64)  # left (positive) or right, still to do for looking around
        self._rest = np.full(rows, LEFT)  # the action that lets the agent come to rest

    def __call__(self) -> Any:
        steps = self.world._world_steps
        self._rest[steps == 0] = LEFT
        aim = np.stack([self._aim(row, steps[row] == 0) for row in range(self.world.num_envs)])
        wished = self._wished(self._around(aim))
        if self.whims:
            wished = np.column_stack([self._whimsical(wished[:, 0]), wished])
        actions = self._safe(wished) if self.careful else wished[:, 0].copy()
        self._turns -= np.sign(self._turns)
        self._since += 1
        self._since[(wished[:, -3] == FORWARD) & (actions != FORWARD)] = PATIENCE + 1  # no way straight on: another target
        return actions[0] if self._scalar else actions

    def _aim(self, row: int, new: bool) -> Floats:
        """The next place to pass."""
        pose, way, generator = self.world._pose[row], self._way[row], self._generators[row]
        near = bool(way) and float(np.hypot(*(way[0] - pose[:2]))) < REACHED
        if near and len(way) > 1:
            way.pop(0)
        elif new or near or not way or self._since[row] > PATIENCE:
            self._turns[row] = 0
            if near and self.world.turn and generator.random() < LOOKS_AROUND:
                self._turns[row] = round(generator.uniform(-2 * np.pi, 2 * np.pi) / self.world.turn)
            self._since[row] = 0
            self._way[row] = self.world.worlds.way(row, pose, self.world.worlds.anywhere(row, generator))
        return self._way[row][0]

    def _around(self, aim: Floats) -> Floats:
        """The aims (N, 2), or points beside the first disc that is in the way there."""
        worlds, place = self.world.worlds, self.world._pose[:, :2]
        disc = worlds.disc[:, :, :3]
        far = np.hypot(*(aim - place).T)
        ahead = (aim - place) / np.maximum(far, 1e-9)[:, None]
        left = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1)
        to_disc = disc[..., :2] - place[:, None]
        along, aside = (to_disc * ahead[:, None]).sum(axis=-1), (to_disc * left[:, None]).sum(axis=-1)
        keep = disc[..., 2] + RADIUS + AROUND
        blocks = (np.arange(disc.shape[1]) < worlds.discs[:, None]) & (along > 0) & (along < far[:, None]) & (np.abs(aside) < keep)
        first = np.where(blocks, along, np.inf).argmin(axis=1)
        rows = np.arange(len(place))
        beside = -np.where(aside[rows, first] < 0, -1, 1) * keep[rows, first]  # the shorter way around
        return np.where(blocks.any(axis=1)[:, None], disc[rows, first, :2] + beside[:, None] * left, aim)

    def _wished(self, aim: Floats) -> Integers:
        """Actions to try, the best first, (N, 3); the last is always safe."""
        pose = self.world._pose
        error = wrapped(np.arctan2(aim[:, 1] - pose[:, 1], aim[:, 0] - pose[:, 0]) - pose[:, 2])
        error = np.where(self._turns != 0, 4.0 * np.sign(self._turns), error)
        turn = np.where(error > 0, LEFT, RIGHT)
        onward = np.where(np.abs(error) < self.world.turn / 2, FORWARD, np.where(error > 0, FORWARD_LEFT, FORWARD_RIGHT))
        best = np.where((np.abs(error) < 1.2) & (self.world.speed > 0), onward, turn)
        return np.stack([best, turn, self._rest], axis=1)

    def _whimsical(self, wished: Integers) -> Integers:
        """The wished actions (N,), but those of rows that follow a whim."""
        self._whim[1] -= 1
        for row, generator in enumerate(self._generators):
            if self._whim[1, row] <= 0 and generator.random() < self.whims:
                self._whim[:, row] = generator.integers(len(ACTIONS)), generator.integers(1, WHIM + 1)
        return np.where(self._whim[1] > 0, self._whim[0], wished)

    def _safe(self, wished: Integers) -> Integers:
        """Of each row's actions the first after which it comes to rest without a touch."""
        chosen = wished[:, -1].copy()
        left = np.arange(len(wished))
        for actions in wished.T[:-1]:
            rest = np.where(np.isin(actions[left], (RIGHT, FORWARD_RIGHT)), RIGHT, LEFT)
            fine = ~self._touches(left, actions[left], rest)
            chosen[left[fine]], self._rest[left[fine]] = actions[left[fine]], rest[fine]
            left = left[~fine]
            if not len(left):
                break
        return chosen

    def _touches(self, rows: Integers, actions: Integers, rest: Integers) -> Flags:
        world, pose, velocity = self.world, self.world._pose[rows], self.world._velocity[rows]
        touched = np.zeros(len(rows), np.bool_)
        for step in range(1 + COASTING):
            now = rest if step else actions
            pose, velocity, _, hit = move(
                world.worlds, rows, pose, velocity, now, world.speed, world.turn, world.physics == "lab", margin=MARGIN
            )
            touched |= hit
        return touched


class Turner:
    """Turns on the spot, in every world one way: the paper's rotating agent. Called, it gives the action, or one a row.

    Args:
        world, generator: as for `Scavenger`
        whims: probability of doing any one action instead, for a step
    """

    def __init__(self, world: Any, generator: np.random.Generator | Sequence[np.random.Generator], whims: float = 0.0) -> None:
        self._scalar, self.world, self._generators = rows_of(world, generator)
        self.whims = whims
        self._turn = np.full(self.world.num_envs, LEFT)

    def __call__(self) -> Any:
        actions = self._turn
        for row, generator in enumerate(self._generators):
            if self.world._world_steps[row] == 0:
                actions[row] = generator.choice([LEFT, RIGHT])
        if self.whims:
            whims = [
                int(g.integers(len(ACTIONS))) if g.random() < self.whims else turn
                for g, turn in zip(self._generators, actions, strict=True)
            ]
            return whims[0] if self._scalar else np.array(whims)
        return actions[0] if self._scalar else actions.copy()


def rows_of(
    world: Any, generator: np.random.Generator | Sequence[np.random.Generator]
) -> tuple[bool, LabyrinthVectorEnv, list[np.random.Generator]]:
    """Whether a labyrinth is alone, its rows, and the generator that each of them draws from. Raises ValueError."""
    scalar = not isinstance(world, VectorEnv)
    inner: LabyrinthVectorEnv = world.unwrapped.batch_of_one if scalar else world.unwrapped
    rows = inner.num_envs
    generators = [generator] * rows if isinstance(generator, np.random.Generator) else list(generator)
    if len(generators) != rows:
        raise ValueError(f"one generator a row is needed, got {len(generators)} for {rows} rows; pass one for all rows or {rows}")
    return scalar, inner, generators
