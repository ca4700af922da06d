"""Steps a second of simulusion's `WorldModelEnv` under Stable-Baselines3's DummyVecEnv: python run_simulusion.py ROWS [frames]"""

import sys
from collections.abc import Callable

from network import ACTIONS, FRAME, STATE, Frames, Transition, reached
from timed import serve

ROWS, SHOWN = int(sys.argv[1]), sys.argv[2:] == ["frames"]


def make() -> Callable[[], object]:
    import gymnasium as gym
    import numpy as np
    import torch
    from simulusion.envs import WorldModelEnv
    from stable_baselines3.common.vec_env import DummyVecEnv

    torch.set_num_threads(1)
    transition, frames = Transition().requires_grad_(False), Frames().requires_grad_(False)
    one_hot = torch.eye(ACTIONS)
    space = gym.spaces.Box(0, 255, FRAME, np.uint8) if SHOWN else gym.spaces.Box(-np.inf, np.inf, (STATE,), np.float32)

    @torch.no_grad()
    def step(_: object, state: torch.Tensor, action: torch.Tensor) -> tuple[object, ...]:
        state = transition(state, one_hot[action.long()][None])
        there = reached(state)
        return state, frames(state)[0] if SHOWN else state[0], there.float(), there, False, {}

    def one() -> WorldModelEnv:
        zero = torch.zeros(1, STATE)

        def reset(*_: object) -> tuple[object, object]:
            with torch.no_grad():
                return zero, frames(zero)[0] if SHOWN else zero[0]

        return WorldModelEnv(transition, space, gym.spaces.Discrete(ACTIONS), reset_fn=reset, transition_fn=step, max_episode_steps=128)

    envs = DummyVecEnv([one] * ROWS)
    envs.reset()
    rng = np.random.default_rng(0)
    return lambda: envs.step(rng.integers(ACTIONS, size=ROWS))


serve(make, ROWS)
