"""GTM-SMs with a closed form, which need no training.

The dream of `exact_model` equals image navigation, byte for byte, on every place the walk has been: states are places in steps from the
centre, walls are exact, encodings are the pixels themselves. `exact_walker` knows where it is in the labyrinth, and little of what is
seen there.
"""

from __future__ import annotations

import math

import gymnasium as gym
import torch
from torch import Tensor, nn

from gtmsm_env.envs.first_person import COMMANDS
from gtmsm_env.landmarks import Landmarks
from gtmsm_env.model import GTMSM
from gtmsm_env.obstacles import Obstacles
from gtmsm_env.recipe_labyrinth import CAMERA
from gtmsm_env.transitions import HardWalking, Rotation, Walking


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
        if model.views is not None:  # 3 pixels a step, laid on whole pixels
            model.views.A.copy_(3 * torch.eye(2))
            model.views.log_width.fill_(math.log(0.1))
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


def exact_hard_walking(speed: float = 0.15, turn: float = 8.448) -> HardWalking:
    """The law of the labyrinth's "lab" physics, of an agent that touches nothing."""
    from gtmsm_env.envs.labyrinth_physics import ACCELERATION, FRICTION, STOP

    law = HardWalking(8)
    with torch.no_grad():
        law.c.fill_(speed)
        law.friction.fill_(math.log(FRICTION / (1 - FRICTION)))
        law.stop.fill_(math.log(STOP / (1 - STOP)))
        law.W_a.copy_(torch.tensor([ACCELERATION, ACCELERATION, math.radians(turn)])[:, None] * torch.from_numpy(COMMANDS).t())
    return law.requires_grad_(False)


def exact_rotation(turn: float = 9.3) -> Rotation:
    """The law of the labyrinth whose agent only turns."""
    law = Rotation(8)
    with torch.no_grad():
        law.W_a.copy_(torch.tensor([0.0, 0.0, math.radians(turn)])[:, None] * torch.from_numpy(COMMANDS).t())
    return law.requires_grad_(False)


class WallsAt(nn.Module):
    """Stereo that tells one of its D depths of every column; by default the largest, where no room of the labyrinth reaches."""

    D = 32

    def __init__(self, depth: int = -1) -> None:
        super().__init__()
        self.depth = depth

    def compare(self, view: Tensor, pose: Tensor, sources: Tensor, source_poses: Tensor) -> Tensor:
        return view.new_zeros(len(view), 16, view.shape[-1], self.D)

    def forward(self, features: Tensor, told: Tensor | None = None) -> Tensor:
        log_p = torch.full_like(features[:, 0], -torch.inf)
        log_p[..., self.depth] = 0
        return log_p

    again = forward


def exact_walker(world: str = "GTMSM-Labyrinth-v0", size: int = 32) -> GTMSM:
    """A model of the labyrinth, or of rotating in it, whose law is the world's own and which nothing stops. Its frames are untrained."""
    from gtmsm_env.envs.first_person import COMMANDS
    from gtmsm_env.envs.labyrinth_physics import KEPT, PUSH

    inner = gym.make_vec(world, num_envs=1, task=None).unwrapped
    speed, turn = inner.speed, inner.turn  # type: ignore[attr-defined]
    law, told = "walking" if speed else "rotation", {"id": world, "kwargs": {"frame_size": size}, "start": "anywhere"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GTMSM((size, size, 3), 8, state_size=3, z_size=16, law=law, prior="views", camera=CAMERA, world=told)
    assert model.projected is not None
    model.projected.stereo = WallsAt()  # type: ignore[assignment]
    commands = torch.from_numpy(COMMANDS).float().t()  # of (ahead, left, turn) by each action
    with torch.no_grad():
        model.transition.W_a.copy_(commands * torch.tensor([[0.0], [0.0], [turn]]))
        if isinstance(model.transition, Walking):
            model.transition.W_a.copy_(commands * torch.tensor([[PUSH], [PUSH], [math.atanh(turn)]]))
            model.transition.c.copy_(torch.tensor([speed, speed, 1.0]))
            model.transition.beta.copy_(torch.tensor([KEPT, KEPT, 0.0]).logit())  # to look has no momentum
    return model.eval().requires_grad_(False)
