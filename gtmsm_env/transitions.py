"""How actions move the state: one class per law. A law carries means; every step adds sigma_s^2 to the variance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class LinearWithWalls(nn.Module):
    """Equation 4: s_t = s_{t-1} + g(s_{t-1} + W_a a_t) W_a a_t + eps, eps ~ N(0, sigma_s^2 I).

    g, a network with output in (0, 1), sees where the move would lead and may cancel it. Without walls g = 1.

    Args:
        num_actions: A, discrete actions
        state_size: n
        sigma_s: deviation of one step, in the state's unit
    """

    def __init__(self, num_actions: int, state_size: int = 2, sigma_s: float = 1e-3, hidden: int = 64) -> None:
        super().__init__()
        self.sigma_s = sigma_s
        self.W_a = nn.Parameter(torch.empty(state_size, num_actions).normal_(std=0.1))
        free = nn.Linear(hidden, 1)
        nn.init.constant_(free.bias, 1.5)  # moves are free until the network has learned otherwise
        self.g = nn.Sequential(nn.Linear(state_size, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), free)
        # Divides the input of g, once set to the spread of wall-free walks: walls lie where the network can tell places apart.
        self.wall_scale: Tensor
        self.register_buffer("wall_scale", torch.ones(state_size))
        self.walls = True  # training starts without: g = 1

    def forward(self, s: Tensor, u: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the mean: s (*B, n), u (*B, n), a (*B,) int64 -> s_t (*B, n), u_t (*B, n), what was moved."""
        move = self.W_a.t()[a]
        if self.walls:
            move = self.gate(s + move) * move
        return s + move, move

    def gate(self, s: Tensor) -> Tensor:
        """g, how much of a move that would lead to s (*B, n) is made, between 0 and 1: (*B, 1)."""
        return torch.sigmoid(self.g(s / self.wall_scale))

    def rollout(
        self,
        s: Tensor,
        u: Tensor,
        a: Tensor,
        lengths: Tensor | None = None,
        stops: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """All steps: s, u (*B, n), a (*B, T) int64 -> s_1..s_T and u_1..u_T (*B, T, n).

        lengths: (*B, T) scales each move, without walls only. stops: whether a move that would lead to s (*B, n) leads nowhere, (*B,) bool
        """
        if not self.walls and stops is None:
            moves = self.W_a.t()[a] * (1 if lengths is None else lengths[..., None])
            return s[..., None, :] + moves.cumsum(dim=-2), moves
        if a.shape[-1] == 0:
            return s.new_empty(*a.shape, s.shape[-1]), s.new_empty(*a.shape, s.shape[-1])
        states, displacements = [], []
        for t in range(a.shape[-1]):
            before = s
            s, u = self(s, u, a[..., t])
            if stops is not None:
                stays = stops(s)[..., None]
                s, u = torch.where(stays, before, s), torch.where(stays, 0, u)
            states.append(s)
            displacements.append(u)
        return torch.stack(states, dim=-2), torch.stack(displacements, dim=-2)

    @property
    def step_length(self) -> float:
        """The length of a step: the shortest difference between what two actions do, over the actions that differ at all.

        Half of it separates neighbouring places, however the learned axes are stretched or sheared.
        """
        with torch.no_grad():
            difference = torch.pdist(self.W_a.t())
            return float(difference[difference > 0.05 * difference.max()].min())
