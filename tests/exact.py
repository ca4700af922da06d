"""Models with a closed form, which need no training.

Image navigation: the dream equals the world, byte for byte, on every place the walk has been. States are places in steps from the centre,
walls are exact, encodings are the pixels themselves. First person: the laws are the worlds' own physics.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gtmsm_env.envs.first_person import COMMANDS
from gtmsm_env.landmarks import Landmarks
from gtmsm_env.model import GTMSM
from gtmsm_env.obstacles import Obstacles
from gtmsm_env.transitions import Rotation, Walking


class ExactWalls(nn.Module):
    """The logit of g: a move is free where it leads to one of the (2 reach + 1)^2 places around the start."""

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.reach = reach

    def forward(self, s: Tensor) -> Tensor:
        return torch.where((s.abs() <= self.reach + 0.5).all(dim=-1, keepdim=True), 1e3, -1e3)


def exact_model(side: int = 9, frame_shape: tuple[int, int, int] = (8, 8, 3), prior: str = "mixture") -> GTMSM:
    """A model of image navigation with `side` places a side that needs no training. step_length is 1."""
    size = math.prod(frame_shape)
    world = {"id": "GTMSM-ImageNavigation-v0", "kwargs": {}, "start": "center"}
    model = GTMSM(frame_shape, 5, z_size=size, hidden=8, K=1, prior=prior, world=world)
    with torch.no_grad():
        model.transition.W_a.copy_(torch.tensor([[-1.0, 1, 0, 0, 0], [0, 0, -1, 1, 0]]))
        model.transition.g = nn.Sequential(ExactWalls(side // 2))
        model.encoder.linear.weight.copy_(torch.eye(size))
        model.encoder.linear.bias.zero_()
        model.encoder.log_variance.fill_(-10)
        model.decoder.linear.weight.copy_(torch.eye(size))
        model.decoder.linear.bias.zero_()
    return model.eval().requires_grad_(False)


def exact_landmarks(side: int = 9, reach: int = 8) -> GTMSM:
    """The exact model with landmarks, which need no training for encodings that are pixels: only the same view is near."""
    model = exact_model(side)
    model.world = {"id": "GTMSM-ObstacleGrid-v0", "kwargs": {}, "start": "center"}
    model.landmarks = Landmarks(16).requires_grad_(False)
    model.landmarks.none.fill_(7.0)
    model.obstacles = Obstacles(reach).requires_grad_(False)
    model.transition.sigma_s = 0.1
    return model


def exact_walking(speed: float = 0.15, turn: float = 8.448) -> Walking:
    """The law of the labyrinth's "smooth" physics, of an agent that touches nothing."""
    law, turn = Walking(8), math.radians(turn)
    with torch.no_grad():
        law.c.copy_(torch.tensor([speed, speed, 2 * turn]))
        law.beta.copy_(torch.tensor([math.log(0.7 / 0.3), math.log(0.7 / 0.3), -40.0]))  # places coast, headings do not
        law.W_a.copy_(torch.tensor([0.6, 0.6, math.atanh(0.5)])[:, None] * torch.from_numpy(COMMANDS).t())
    return law.requires_grad_(False)


def exact_rotation(turn: float = 9.3) -> Rotation:
    """The law of the labyrinth whose agent only turns."""
    law = Rotation(8)
    with torch.no_grad():
        law.W_a.copy_(torch.tensor([0.0, 0.0, math.radians(turn)])[:, None] * torch.from_numpy(COMMANDS).t())
    return law.requires_grad_(False)
