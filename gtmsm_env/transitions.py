"""How actions move the state: one class per law. A law carries means; every step adds sigma_s^2 to the variance."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gtmsm_env.loops import loops_for
from gtmsm_env.types import phi

STICKS = 0.2  # share of a move


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
        return self._moved(s, self.W_a.t()[a])

    def _moved(self, s: Tensor, move: Tensor) -> tuple[Tensor, Tensor]:
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
        loops = loops_for("networks_compiled", s, self.W_a, learning=self) if stops is None else None
        if loops and (moved := loops.moves(self)):
            start = s.expand(*a.shape[:-1], s.shape[-1]).reshape(-1, s.shape[-1])
            walked: tuple[Tensor, Tensor] = moved(start.contiguous(), a.reshape(-1, a.shape[-1]).contiguous())
            return walked[0].view(*a.shape, s.shape[-1]), walked[1].view(*a.shape, s.shape[-1])
        states, displacements = [], []
        for move in self.W_a.t()[a.movedim(-1, 0)]:
            before = s
            s, u = self._moved(s, move)
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


class FirstPerson(nn.Module):
    """What the laws of section 4.2 share: s_t = s_{t-1} + R(s_{t-1}^(3)) u_t + eps, eps ~ N(0, sigma_s^2 I).

    The state is a place and a heading; u_t, ahead, to the left and a turn to the left, is in the agent's own frame, and R turns its first
    two components by the heading. A law says how actions make u_t, and which momentum goes into the next one: u_t itself in the paper's.
    """

    def __init__(self, num_actions: int, sigma_s: float) -> None:
        super().__init__()
        self.sigma_s = sigma_s
        self.W_a = nn.Parameter(torch.empty(3, num_actions).normal_(std=0.1))

    @abstractmethod
    def step(self, u: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """u_t (*B, 3) and the momentum after it (*B, 3), of the momentum before it and a_t (*B,) int64, seen from before the step."""

    def forward(self, s: Tensor, u: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the mean: s (*B, 3), momentum u (*B, 3), a (*B,) int64 -> s_t (*B, 3) and the momentum after it (*B, 3)."""
        moved, u = self.step(u, a)
        return s + turned(moved, s[..., 2]), u

    def rollout(
        self,
        s: Tensor,
        u: Tensor,
        a: Tensor,
        lengths: Tensor | None = None,
        stops: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """All steps: s, u (*B, 3), a (*B, T) int64 -> s_1..s_T and the momentum after each (*B, T, 3).

        lengths: None, as these laws have no walls to learn. stops: where an agent comes to stand that would go from one state to
        another (*B, 3): it slides along what is in its way.
        """
        if a.shape[-1] == 0:
            return s.new_empty(*a.shape, 3), s.new_empty(*a.shape, 3)
        states, displacements, momenta = [], [], []
        if stops is not None:
            for t in range(a.shape[-1]):
                moved, u = self(s, u, a[..., t])
                s, u = slide(s, moved, u, stops)
                states.append(s)
                momenta.append(u)
            return torch.stack(states, dim=-2), torch.stack(momenta, dim=-2)
        for t in range(a.shape[-1]):
            moved, u = self.step(u, a[..., t])
            displacements.append(moved)
            momenta.append(u)
        us = torch.stack(displacements, dim=-2)  # (*B, T, 3)
        heading = s[..., None, 2] + us[..., 2].cumsum(dim=-1) - us[..., 2]  # before each step
        return s[..., None, :] + turned(us, heading).cumsum(dim=-2), torch.stack(momenta, dim=-2)

    @property
    def step_length(self) -> float:
        """The length of a step as phi measures it, places and headings alike: the median over the actions that do anything, when held."""
        u = self._held()
        length = (phi(u) - phi(torch.zeros_like(u))).norm(dim=-1)
        return float(length[length > 0.05 * length.max()].median())

    @property
    def top_speed(self) -> float:
        """How far a step leads at most along an axis, in the state's unit."""
        raise NotImplementedError

    @property
    def turn_length(self) -> float:
        """The largest turn of one step, of an action that is held, in radians."""
        return float(self._held()[:, 2].abs().max())

    @torch.no_grad()
    def _held(self) -> Tensor:
        """What each action does once momentum has built up, (A, 3)."""
        held = torch.arange(self.W_a.shape[1], device=self.W_a.device)
        moved = u = self.W_a.new_zeros(len(held), 3)
        for _ in range(32):
            moved, u = self.step(u, held)
        return moved


class Rotation(FirstPerson):
    """Equation 5: u_t = W_a a_t."""

    def __init__(self, num_actions: int, sigma_s: float = 1e-3) -> None:
        super().__init__(num_actions, sigma_s)

    def step(self, u: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        u = self.W_a.t()[a]
        return u, u

    @property
    def top_speed(self) -> float:
        return float(self.W_a[:2].norm(dim=0).max())


class Walking(FirstPerson):
    """Equation 6: u_t = c * tanh(W_a a_t + sigmoid(beta) * u_{t-1} / c), with momentum, friction beta and saturation c, each learned.

    The equation has u_{t-1} where this has u_{t-1} / c, which is the same where top speed is 1, and holds in every other unit too. And
    here u_{t-1} is turned back by rho of its own turn: momentum stays in the agent's frame for rho = 0, which is the paper's law and where
    learning starts, and in the world's for rho = 1, as in DeepMind Lab.
    """

    def __init__(self, num_actions: int, sigma_s: float = 1e-3) -> None:
        super().__init__(num_actions, sigma_s)
        self.c = nn.Parameter(torch.full((3,), 0.3))
        self.beta = nn.Parameter(torch.zeros(3))
        self.rho = nn.Parameter(torch.zeros(()))

    def step(self, u: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        push, kept = self.W_a.t()[a], torch.sigmoid(self.beta) / self.c
        # What a move lacks must not bend the turn before it: no gradient.
        u = self.c * torch.tanh(push + kept * turned(u, -self.rho * u[..., 2].detach()))
        return u, u

    @property
    def top_speed(self) -> float:
        return float(self.c[:2].max())


class HardWalking(FirstPerson):
    """Walking as game engines have it, DeepMind Lab's (Quake's) among them: hard limits, where equation 6 has a smooth one.

    A step is of `FRAMES` frames. In each the agent turns by its share of the turn, loses speed to friction, v <- v - friction max(v, stop),
    and is pushed along W_a a_t until its speed in that direction is c, the top speed; u_t is the mean of its velocity over the frames. All
    but the number of frames is learned. The momentum is the velocity after the last frame, and stays in the world's frame.
    """

    FRAMES = 4

    def __init__(self, num_actions: int, sigma_s: float = 1e-3) -> None:
        super().__init__(num_actions, sigma_s)  # W_a: pushes a frame, in top speeds; turns a step, in radians
        self.c = nn.Parameter(torch.tensor(0.3))
        self.friction = nn.Parameter(torch.tensor(-2.0))  # a frame, by its logit
        self.stop = nn.Parameter(torch.tensor(-1.0))  # in top speeds, by its logit

    def step(self, u: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        push, turn = self.W_a.t()[a].split([2, 1], dim=-1)
        strength = (push.square().sum(dim=-1, keepdim=True) + 1e-10).sqrt()
        v = turned(u, -u[..., 2])[..., :2] / self.c
        share, moved = turn / self.FRAMES, torch.zeros_like(v)
        for frame in range(1, self.FRAMES + 1):
            v = turned(v, -share[..., 0])
            speed = (v.square().sum(dim=-1, keepdim=True) + 1e-8).sqrt()
            v = v * (1 - torch.sigmoid(self.friction) * torch.maximum(speed, torch.sigmoid(self.stop)) / speed).clamp(min=0)
            along = (v * push).sum(dim=-1, keepdim=True) / strength
            v = v + torch.minimum((1 - along).clamp(min=0), strength) * push / strength
            moved = moved + turned(v, frame * share[..., 0]) / self.FRAMES
        return torch.cat([self.c * moved, turn], dim=-1), torch.cat([self.c * turned(v, turn[..., 0]), turn], dim=-1)

    @property
    def top_speed(self) -> float:
        return float(self.c)


def turned(u: Tensor, heading: Tensor) -> Tensor:
    """R(heading) u: u (*B, 3) or (*B, 2), its first two components turned by heading (*B,)."""
    cos, sin = heading.cos(), heading.sin()
    return torch.stack([cos * u[..., 0] - sin * u[..., 1], sin * u[..., 0] + cos * u[..., 1], *u[..., 2:].unbind(dim=-1)], dim=-1)


def slide(s: Tensor, moved: Tensor, u: Tensor, stops: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """A step from s to `moved` (*B, 3) of an agent that slides along what stops it: s_t and u_t (*B, 3), momentum into it being lost.

    Where it would slide by less than `STICKS` of its way it does not move: head on it would go to and fro, as what stops it is uneven.
    """
    after = stops(s, moved)
    free, s = (after == moved).all(dim=-1, keepdim=True), s.expand_as(moved)
    little = (after - s)[..., :2].norm(dim=-1) < STICKS * (moved - s)[..., :2].norm(dim=-1)
    after = torch.where(little[..., None] & ~free, torch.cat([s[..., :2], moved[..., 2:]], dim=-1), after)
    return after, torch.where(free, u, turned(after - s, -s[..., 2]))
