"""Image navigation with obstacles (appendix D): rectangles at random places that the window cannot enter."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from operator import index
from typing import Any, Literal

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from gtmsm_env.envs.image_navigation import ImageNavigationEnv
from gtmsm_env.envs.image_navigation_vector import ACTIONS, ImageNavigationVectorEnv
from gtmsm_env.envs.windows import Integers, pixels_of
from gtmsm_env.vector import Flags, Info

OBSTACLES = (1, 2)
"""As hard as the project's calibration. Of the exploring policy's first 255 steps from the centre of 9 x 9 places, 14.6 in the mean (12 in
the median) end at an obstacle; who counts moves and knows the edges alone is then 1.1 steps off. Always one: 10.0 and 1.0; always two: 19
and 1.3."""

GREY = 128  # of obstacles that can be seen
LAYOUTS = 300  # drawn for a world before it is given up; 10^-14 is the chance of that where one in ten would do
SLIPS = 128  # numbers that a row draws at a time to know which of its moves slip


class ObstacleGridVectorEnv(ImageNavigationVectorEnv):
    """Many windows on many pictures with obstacles, in one batched computation. Row i seeded s + i equals `ObstacleGridEnv` seeded s + i.

    See `ObstacleGridEnv` for obstacles and slips; the other arguments are those of `ImageNavigationVectorEnv`.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        **ImageNavigationVectorEnv.metadata,
        "content": (*ImageNavigationVectorEnv.metadata["content"], "obstacles", "obstacle_size", "visible", "slip"),
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        obstacles: Sequence[int] = OBSTACLES,
        obstacle_size: Sequence[int] = (2, 3),
        visible: bool = False,
        slip: float = 0.0,
        **arguments: Any,
    ) -> None:
        super().__init__(num_envs, **arguments)
        self.obstacles = _range("obstacles", obstacles, least=0)
        self.obstacle_size = _range("obstacle_size", obstacle_size, least=1)
        if self.obstacle_size[1] > self.side:
            raise ValueError(f"obstacle_size must fit the {self.side} x {self.side} places, got {self.obstacle_size}")
        if visible not in (True, False):
            raise ValueError(f"visible must be True or False, got {visible!r}")
        if not 0 <= slip <= 1:
            raise ValueError(f"slip is the probability that a move goes wrong and must lie between 0 and 1, got {slip}")
        self.visible, self.slip = visible, slip
        self._to_goal = np.zeros(self._free.shape, np.int64)  # fewest steps from each place to one that counts as the goal
        self._uniform = np.zeros((num_envs, SLIPS if slip else 0))

    def shortest_path(self, start: NDArray[np.integer[Any]], goal: NDArray[np.integer[Any]]) -> Integers:
        """Fewest steps around each row's obstacles from places (N, 2) to places (N, 2): (N,), -1 from or to an obstacle."""
        if not self._ready.all():
            raise ResetNeeded("shortest_path needs to know the obstacles: call reset first")
        (row, column), (goal_row, goal_column) = (np.broadcast_to(place, (self.num_envs, 2)).T for place in (start, goal))
        goals = np.zeros_like(self._free)
        goals[self._rows, goal_row, goal_column] = True
        return steps_to(goals, self._free)[self._rows, row, column]

    def steps_to_goal(self) -> Integers:
        """Fewest steps of every row around its obstacles to any place that counts as its goal, (N,); ResetNeeded where there is none."""
        if not self._arrival.any(axis=(1, 2)).all():
            raise ResetNeeded("steps_to_goal needs a goal in every row: reset with task='goal' and outside the walk phase")
        return self._to_goal[self._rows, self._position[:, 0], self._position[:, 1]]

    def _paint_worlds(self, rows: Integers, image: Integers | None) -> None:
        super()._paint_worlds(rows, image)
        self._place_obstacles(rows)
        if self.visible:
            pictures = self._pictures[rows]
            pictures[pixels_of(~self._free[rows], pictures.shape[1], self.crop_size, self.step_size)] = GREY
            self._pictures[rows] = pictures

    def _place_obstacles(self, rows: Integers) -> None:
        """Draw the obstacles of each row, and again while they cover the centre, where it starts, or cut the free places in two."""
        left = rows
        for _ in range(LAYOUTS):
            for row in left:
                self._free[row] = self._layout(self.generators[row])
            free, centre = self._free[left], np.zeros((len(left), self.side, self.side), np.bool_)
            centre[:, self.side // 2, self.side // 2] = True
            reached = steps_to(centre, free) >= 0
            left = left[(reached != free).any(axis=(1, 2)) | (free.sum(axis=(1, 2)) < 2)]
            if not len(left):
                return
        seed: Any = self.generators[left[0]].bit_generator.seed_seq
        raise ValueError(
            f"the start and one more place must be free, and all free places connected; of {LAYOUTS} layouts drawn for row {left[0]}, "
            f"seeded {seed.entropy}, none was so, with obstacles={self.obstacles} and obstacle_size={self.obstacle_size} on {self.side} x "
            f"{self.side} places; take fewer or smaller obstacles, or a larger world"
        )

    def _layout(self, generator: np.random.Generator) -> Flags:
        """The places that some random rectangles leave free, (P, P)."""
        free = np.ones((self.side, self.side), np.bool_)
        for _ in range(generator.integers(self.obstacles[0], self.obstacles[1] + 1)):
            height, width = generator.integers(self.obstacle_size[0], self.obstacle_size[1] + 1, size=2).tolist()
            top, left = generator.integers(self.side - height + 1), generator.integers(self.side - width + 1)
            free[top : top + height, left : left + width] = False
        return free

    def _check_places(self, rows: Integers, chosen: dict[str, Integers]) -> None:
        for name in ("position", "goal"):
            if name in chosen:
                inside = ~self._free[rows, chosen[name][:, 0], chosen[name][:, 1]]
                if inside.any():
                    raise ValueError(
                        f"options[{name!r}] of row {rows[inside][0]} lies inside an obstacle, {chosen[name][inside][0].tolist()}; choose "
                        "one of the places that info['free'] tells of this world"
                    )

    def _begin_task(self, rows: Integers, home: Integers, start: Integers, goal: Integers | None) -> None:
        super()._begin_task(rows, home, start, goal)
        self._to_goal[rows] = steps_to(self._arrival[rows], self._free[rows])

    def _moved(self, actions: Integers) -> Integers:
        places = super()._moved(self._slipped(actions) if self.slip else actions)
        free = self._free[self._rows, places[:, 0], places[:, 1]]
        return np.where(free[:, None], places, self._position)

    def _slipped(self, actions: Integers) -> Integers:
        """What becomes of the actions: with probability `slip`, a move is any other action instead, each as likely."""
        step = self._world_steps % SLIPS
        for row in np.flatnonzero((step == 0) & ~self._ended):  # a row that resets itself draws nothing before
            self._uniform[row] = self.generators[row].random(SLIPS)
        which = (4 * np.minimum(self._uniform[self._rows, step] / self.slip, 1)).astype(np.int64)  # of 4 others; 4 is the action itself
        return np.where(actions == ACTIONS.index("stay"), actions, (actions + 1 + which) % len(ACTIONS))

    def _info(self) -> Info:
        info = {**super()._info(), **self._told(free=self._free.copy())}
        if self.task:
            info["steps_to_goal"] = self._to_goal[self._rows, self._position[:, 0], self._position[:, 1]]
            info["_steps_to_goal"] = ~self._walking
        return info


class ObstacleGridEnv(ImageNavigationEnv):
    """Image navigation among obstacles: rectangles of places, drawn anew with every world, that the window cannot enter.

    Spaces, rewards, ends, phases and options are those of `ImageNavigationEnv`; what differs is told here.

    ## Action space
    A move into an obstacle leaves the window where it is, as at an edge. With `slip` > 0, moves (not "stay") go wrong with that
    probability: silently, any other action is taken instead, each as likely, so a quarter of them fail and the others go elsewhere.

    ## Observation space
    Obstacles are not to be seen, unless `visible`: then each of their places is a grey square of the picture, `step_size` pixels a side, in
    the middle of the window that would be there. `render` hatches them for the human, visible or not.

    ## Starting state
    The number of obstacles, their sides and their places are drawn uniformly, and drawn again while they cover the centre, where the window
    starts, or cut the free places in two. They may overlap. The goal is a free place.

    ## Information
    Also `free`, (P, P) bool, the places that can be entered, and outside a walk `steps_to_goal`, the shortest path from here around the
    obstacles to any place that counts as the goal. Both are for evaluation only.

    ## Arguments
    `obstacles`: fewest and most; `obstacle_size`: fewest and most places a side; `visible`; `slip`. The others are those of
    `ImageNavigationEnv`. A model of other obstacles, visible or not, and of other slips knows this world's rules.

    ValueError also for a position or goal inside an obstacle, and where no layout keeps the free places connected.
    """

    metadata: dict[str, Any] = {key: value for key, value in ObstacleGridVectorEnv.metadata.items() if key != "autoreset_mode"}  # noqa: RUF012

    def __init__(
        self,
        *,
        obstacles: Sequence[int] = OBSTACLES,
        obstacle_size: Sequence[int] = (2, 3),
        visible: bool = False,
        slip: float = 0.0,
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
            ObstacleGridVectorEnv(
                obstacles=obstacles,
                obstacle_size=obstacle_size,
                visible=visible,
                slip=slip,
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


def steps_to(goals: Flags, free: Flags) -> Integers:
    """Fewest steps over free places (N, P, P) from each of them to the nearest that is a goal (N, P, P); -1 where there is no way."""
    reached = goals & free
    steps: Integers = reached - np.int64(1)
    for step in count(1):
        beside = np.zeros_like(reached)
        beside[:, 1:] |= reached[:, :-1]
        beside[:, :-1] |= reached[:, 1:]
        beside[:, :, 1:] |= reached[:, :, :-1]
        beside[:, :, :-1] |= reached[:, :, 1:]
        new = beside & free & ~reached
        if not new.any():
            break
        steps[new] = step
        reached |= new
    return steps


def _range(name: str, given: Sequence[int], least: int) -> tuple[int, int]:
    """Fewest and most; ValueError for what is no such pair."""
    try:
        fewest, most = (index(bound) for bound in given)
    except (TypeError, ValueError):
        fewest, most = 0, -1
    if not least <= fewest <= most:
        raise ValueError(f"{name} must be two whole numbers, the fewest and the most, from {least} on, got {given!r}")
    return fewest, most
