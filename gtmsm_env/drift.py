"""How far a belief is from the truth while it walks. Positions are read for that alone."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from gtmsm_env.data import record
from gtmsm_env.envs.image_navigation_vector import MOVES
from gtmsm_env.model import GTMSM


@torch.no_grad()
def drift(
    model: GTMSM, walks: int, steps: int, seed: int, images: str = "procedural", split: str = "test", **rules: object
) -> dict[str, Tensor]:
    """The error of the inferred position in steps, all along walks in unseen worlds: with landmarks and without, (walks, steps) each.

    rules: arguments of the model's world, e.g. slip=.05
    """
    assert model.world is not None
    arguments = {**model.world["kwargs"], **rules, "images": images, "split": split, "task": None}
    world = gym.make_vec(model.world["id"], num_envs=walks, **arguments)
    walk = record(world, steps, np.random.default_rng([seed, 1]), seed)
    world.close()
    assert walk.positions is not None
    true = (walk.positions - walk.positions[:, :1]).double()
    beliefs = {"with landmarks": model.remember(walk).memory.s_mean, "without": model.filter(walk.actions)[0]}
    # States are where W_a leads; positions, where the actions do.
    to_steps = torch.linalg.lstsq(model.transition.W_a.t().double(), torch.from_numpy(MOVES).double()).solution  # (n, 2)
    return {name: (s.double() @ to_steps - true).norm(dim=-1) for name, s in beliefs.items()}


def drift_figures(model: GTMSM, walks: int, images: str = "procedural", seed: int = 0) -> dict[str, dict[str, float]]:
    """Mean position errors in steps after 256 steps of unseen worlds, and along the way: what a card holds."""
    return {
        name: {"position error after 256 steps": float(error[:, -1].mean()), "position error, mean of 256 steps": float(error.mean())}
        for name, error in drift(model, walks, 257, seed, images).items()
    }
