"""A user's program, as a strict type checker sees it when nothing but the wheel is installed."""

from pathlib import Path

import gymnasium
import torch
from typing_extensions import assert_type

import gtmsm_env
from gtmsm_env.checkpoint import load_checkpoint, save_checkpoint
from gtmsm_env.envs.image_navigation import ImageNavigationEnv

assert_type(gtmsm_env.__version__, str)

env = ImageNavigationEnv(image_size=32, horizon=64)
observation, info = env.reset(seed=0, options={"phase": "walk"})
shape: tuple[int, ...] = observation["frame"].shape
observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
assert_type(terminated, bool)
made = gymnasium.make("GTMSM-ImageNavigation-v0")

save_checkpoint(Path("walk"), {"state": torch.zeros(3, 2)}, {"kind": "memory"})
tensors, config = load_checkpoint("walk", kind="memory")
assert_type(tensors, dict[str, torch.Tensor])
