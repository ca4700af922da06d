"""Networks of the sizes of our model for image navigation, in plain torch, for the programs of this folder: they cannot import ours."""

from __future__ import annotations

import torch
from torch import Tensor, nn

ACTIONS, STATE, Z, HIDDEN, FRAME = 5, 2, 64, 256, (3, 8, 8)
PLACES, K = 256, 5  # entries of the memory, and how many are read
WITHIN = 0.5


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, outputs))


class Transition(nn.Module):
    """s_t = s_{t-1} + g(s_{t-1} + W a_t) W a_t, of states (N, 2) and one-hot actions (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.W, self.g = nn.Linear(ACTIONS, STATE, bias=False), mlp(STATE, 64, 1)

    def forward(self, s: Tensor, action: Tensor) -> Tensor:
        move = self.W(action)
        moved: Tensor = s + torch.sigmoid(self.g(s + move)) * move
        return moved


class Frames(nn.Module):
    """What is seen at states (N, 2): the encoding of the nearest of the K entries of a memory, decoded; (N, 3, 8, 8) uint8."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.mlp = nn.Linear(Z, 192), mlp(Z, HIDDEN, 192)
        self.keys, self.z = torch.randn(PLACES, STATE), torch.randn(PLACES, Z)

    def forward(self, s: Tensor) -> Tensor:
        index = (s[:, None] - self.keys).square().sum(dim=-1).topk(K, largest=False).indices
        z = self.z[index][:, 0]
        x: Tensor = self.linear(z) + self.mlp(z)
        return (x * 255).round().clamp(0, 255).to(torch.uint8).unflatten(-1, FRAME)


def reached(s: Tensor) -> Tensor:
    """Whether states (N, 2) are within half a step of a goal, (N, 1) bool."""
    return (s - 3).square().sum(dim=-1, keepdim=True) <= WITHIN**2
