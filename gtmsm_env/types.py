"""The values that pass between the parts: frozen, batched, each field with its shape and unit.

`*B` is any leading batch shape. States are in the model's own unit, which `GTMSM.step_length` converts to steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from gtmsm_env.memory import SpatialMemory

T = TypeVar("T")

WITHIN = 0.5
"""Steps; the one tolerance of being at a place. Times `GTMSM.step_length` it is in the model's own unit."""


def result_of(work: Generator[bool, None, T]) -> T:
    """What work gives in the end that lets others work now and then: it yields whether much was done since it did so last."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


def phi(s: Tensor) -> Tensor:
    """What distances between states are measured on (appendix A.2): (s^1, s^2, cos s^3, sin s^3) of a place and heading (*B, 3).

    A mere place (*B, 2) is left as it is.
    """
    if s.shape[-1] != 3:
        return s
    return torch.cat([s[..., :2], s[..., 2:].cos(), s[..., 2:].sin()], dim=-1)


def in_steps(s: Tensor, step_length: float) -> Tensor:
    """States (*B, n) as agents are told them: places in steps, and of a heading its cosine and sine, (*B, 2) or (*B, 4)."""
    told = phi(s)
    return told / step_length if told is s else torch.cat([told[..., :2] / step_length, told[..., 2:]], dim=-1)


@dataclass(frozen=True)
class Tolerance:
    """How near one state must be to another to be there: within a radius and, in first person, a heading."""

    radius: float  # in the model's unit
    angle: float = math.pi  # radians; read of headings alone

    def __call__(self, s: Tensor, other: Tensor) -> Tensor:
        """Whether s is at other, (*B) bool: both (*B, n), or what broadcasts."""
        there = (s[..., 0] - other[..., 0]).square() + (s[..., 1] - other[..., 1]).square() <= self.radius**2
        if s.shape[-1] != 3:
            return there
        return there & ((s[..., 2] - other[..., 2]).cos() >= math.cos(self.angle) - 1e-6)


@dataclass(frozen=True)
class Walk:
    """What agents saw and did in a world: frames x_1..x_T and actions a_2..a_T, where a_t led from x_{t-1} to x_t."""

    frames: Tensor  # (*B, T, H, W, C) uint8
    actions: Tensor  # (*B, T-1) int64; actions[..., t] led from frames[..., t, :] to frames[..., t+1, :]
    rewards: Tensor | None = None  # (*B, T) float32, received on arriving at x_t; the first is 0
    terminations: Tensor | None = None  # (*B, T) bool, the episode ended at x_t
    positions: Tensor | None = None  # (*B, T, 2) int64, true places: for evaluation only, no model reads them
    poses: Tensor | None = None  # (*B, T, 3) float32, true x, y, heading, in first person: for evaluation only
    displacements: Tensor | None = None  # (*B, T, 3) float32, true u_t in the agent's frame, u_1 = 0: targets, never inputs

    def __post_init__(self) -> None:
        if self.frames.shape[:-3] != (*self.actions.shape[:-1], self.actions.shape[-1] + 1):
            raise ValueError(
                f"A walk has one action fewer than frames (a_1 does not exist): frames have leading shape "
                f"{tuple(self.frames.shape[:-3])}, actions {tuple(self.actions.shape)}. Record x_1 before the first action."
            )
        steps = self.frames.shape[:-3]
        for name, of_each in (("rewards", ()), ("terminations", ()), ("positions", (2,)), ("poses", (3,)), ("displacements", (3,))):
            part = getattr(self, name)
            if part is not None and part.shape != (*steps, *of_each):
                raise ValueError(f"A walk has {name} of shape {(*steps, *of_each)}, one a frame; given {tuple(part.shape)}.")

    def to(self, device: torch.device | str) -> Walk:
        return self._each(lambda part: part.to(device))

    def __getitem__(self, rows: slice | Tensor) -> Walk:
        """Some of a batch of walks."""
        return self._each(lambda part: part[rows])

    def _each(self, function: Callable[[Tensor], Tensor]) -> Walk:
        parts = ((field.name, getattr(self, field.name)) for field in fields(self))
        found: dict[str, Any] = {name: None if part is None else function(part) for name, part in parts}
        return Walk(**found)


def check_rewards(rewards: Tensor) -> None:
    """Refuses rewards that are NaN. Raises ValueError."""
    if bool(rewards.isnan().any()):
        raise ValueError("A reward is a number, and one given is NaN, which would be remembered. Give what the world gave or nothing.")


def distinct_frames(frames: Tensor) -> tuple[Tensor, Tensor]:
    """What differs among frames (T, H, W, C) uint8, byte for byte, in the order in which it was first seen.

    Returns the steps at which the F distinct frames were first seen (F,), and which of these each step shows (T,), int64 on the CPU.
    """
    rows = frames.reshape(len(frames), -1).cpu().numpy()
    _, first, found = np.unique(rows.view(f"V{rows.shape[1]}").squeeze(1), return_index=True, return_inverse=True)  # one value a frame
    order = np.argsort(first)
    return torch.from_numpy(first[order]), torch.from_numpy(np.argsort(order)[found])


@dataclass(frozen=True)
class Neighbours:
    """The K entries of a memory nearest to each query, nearest first, equal ones in the order they were written."""

    distance: Tensor  # (*B, K) rho_k, Euclidean, in the unit of the query
    index: Tensor  # (*B, K) int64, which entry
    s_mean: Tensor  # (*B, K, n)
    s_variance: Tensor  # (*B, K, n)
    values: dict[str, Tensor]  # name -> (*B, K, ...), what was written beside the state

    @property
    def z_mean(self) -> Tensor:
        return self.values["z_mean"]

    @property
    def z_variance(self) -> Tensor:
        return self.values["z_variance"]


@dataclass(frozen=True)
class Belief:
    """What the model holds of where it is, and its memory of the world it is in.

    The memory's batch shape is a prefix of the state's: several hypotheses or plans in one world are one more axis.
    """

    mean: Tensor  # (*B, n) mean of q(s_t)
    variance: Tensor  # (*B, n) variance of q(s_t)
    displacement: Tensor  # (*B, n) u_t, the last displacement in the agent's frame, or another momentum that its law keeps; 0 at the start
    memory: SpatialMemory
    frame: Tensor | None = None  # (*B, H, W, C) uint8, x_t, where the model feels contacts: it compares x_{t+1} with it

    def __getitem__(self, rows: Tensor | slice) -> Belief:
        """Some rows of the first batch axis (a mask, indices or a slice)."""
        frame = None if self.frame is None else self.frame[rows]
        return Belief(self.mean[rows], self.variance[rows], self.displacement[rows], self.memory[rows], frame)

    def put(self, rows: Tensor, other: Belief) -> Belief:
        """This belief with some rows of the first batch axis taken, in order, from `other`.

        rows: (B,) bool or (R,) int64; other: a belief of R rows.
        """

        def merge(mine: Tensor, theirs: Tensor) -> Tensor:
            mine = mine.clone()
            mine[rows] = theirs
            return mine

        return Belief(
            merge(self.mean, other.mean),
            merge(self.variance, other.variance),
            merge(self.displacement, other.displacement),
            self.memory.put(rows, other.memory),
            None if self.frame is None or other.frame is None else merge(self.frame, other.frame),
        )


@dataclass(frozen=True)
class GaussianMixture:
    """A mixture of K Gaussians with diagonal covariance, batched."""

    log_weight: Tensor  # (*B, K), normalised
    mean: Tensor  # (*B, K, d)
    variance: Tensor  # (*B, K, d)

    def log_prob(self, z: Tensor) -> Tensor:
        """log sum_k w_k N(z; m_k, v_k). z (*B, d) -> (*B,)"""
        return torch.logsumexp(self.log_weight + gaussian_log_prob(z[..., None, :], self.mean, self.variance), dim=-1)

    def heaviest(self) -> Tensor:
        """The mean of the heaviest component, (*B, d): the deterministic read-out."""
        k = self.log_weight.argmax(dim=-1)[..., None, None]
        return torch.take_along_dim(self.mean, k, dim=-2).squeeze(-2)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One draw, (*B, d): the paper's sampled read-out."""
        gumbel = -torch.empty_like(self.log_weight).exponential_(generator=generator).log()
        k = (self.log_weight + gumbel).argmax(dim=-1)[..., None, None]
        mean, variance = torch.take_along_dim(self.mean, k, dim=-2), torch.take_along_dim(self.variance, k, dim=-2)
        noise = torch.empty_like(mean).normal_(generator=generator)
        return (mean + variance.sqrt() * noise).squeeze(-2)


LOG_2PI = 1.8378770664093453


def gaussian_log_prob(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """log N(x; mean, diag variance), summed over the last axis."""
    return -0.5 * ((x - mean).square() / variance + variance.log() + LOG_2PI).sum(dim=-1)
