"""A small world for tests: a grid of places with frames of noise, a reward and an end that are functions of place."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from exact import exact_model

from gtmsm_env.model import GTMSM
from gtmsm_env.types import Walk

MOVES = np.array([[-1, 0], [1, 0], [0, -1], [0, 1], [0, 0]])
SIDE = 5


class Treasure(gym.Env[dict[str, Any], int]):
    """Starts at the centre. Whoever goes on after the end can: a walk does."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, size: int = 4, pay: bool = True) -> None:
        self.observation_space = gym.spaces.Dict({"frame": gym.spaces.Box(0, 255, (size, size, 3), np.uint8)})
        self.action_space = gym.spaces.Discrete(5)  # type: ignore[assignment]
        self.size, self.pay = size, pay

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.frames = self.np_random.integers(0, 256, (SIDE, SIDE, self.size, self.size, 3), np.uint8)
        self.rewards = self.np_random.integers(1, 9, (SIDE, SIDE)) / 4.0 * self.pay
        self.ends = self.np_random.random((SIDE, SIDE)) < 0.3
        self.ends[SIDE // 2, SIDE // 2] = False
        self.walking = (options or {}).get("phase") == "walk"
        self.position = np.array([SIDE // 2, SIDE // 2])
        return {"frame": self.frames[tuple(self.position)].copy()}, {}

    def step(self, action: int) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.position = np.clip(self.position + MOVES[action], 0, SIDE - 1)
        here = tuple(self.position)
        return {"frame": self.frames[here].copy()}, float(self.rewards[here]), bool(self.ends[here] and not self.walking), False, {}


ID = "GTMSMTest-Treasure-v0"
if ID not in gym.registry:
    gym.register(ID, entry_point=f"{__name__}:Treasure", disable_env_checker=True)


def treasure_model() -> GTMSM:
    """Knows this world exactly."""
    model = exact_model(side=SIDE, frame_shape=(4, 4, 3))
    model.world = {"id": ID, "kwargs": {}}
    return model


def walk_by_hand(world: Treasure, actions: np.ndarray, seed: int) -> Walk:
    """Every step as it comes, ends included."""
    frames = [world.reset(seed=seed)[0]["frame"]]
    rewards, ends = [0.0], [False]
    for action in actions:
        observation, reward, terminated, _, _ = world.step(int(action))
        frames.append(observation["frame"])
        rewards.append(reward)
        ends.append(terminated)
    return Walk(torch.from_numpy(np.stack(frames)), torch.from_numpy(actions), torch.tensor(rewards), torch.tensor(ends))
