"""Frames a second of `memory-maze`, its smallest maze."""

import random
from collections.abc import Callable

from timed import serve


def make() -> Callable[[], None]:
    from memory_maze import tasks

    env = tasks.memory_maze_9x9(image_only_obs=True, camera_resolution=32, seed=0)
    env.reset()

    def step() -> None:
        told = env.step(random.randrange(env.action_spec().num_values))
        assert told.observation.shape == (32, 32, 3)
        if told.last():
            env.reset()

    return step


serve(make)
