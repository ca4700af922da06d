"""Frames a second of `miniworld`, its simplest world: one room with a box."""

import random
from collections.abc import Callable

from timed import serve


def make() -> Callable[[], None]:
    import gymnasium as gym
    import miniworld  # noqa: F401  registers its worlds

    env = gym.make("MiniWorld-OneRoom-v0", obs_width=32, obs_height=32)
    env.reset(seed=0)

    def step() -> None:
        frame, _, terminated, truncated, _ = env.step(random.randrange(env.action_space.n))
        assert frame.shape == (32, 32, 3)
        if terminated or truncated:
            env.reset()

    return step


serve(make)
