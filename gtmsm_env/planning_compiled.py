"""The loops of a planner's round but for imagining, compiled for one core of a CPU; torch elsewhere computes the same.

`drawn` stands in for the end of `planning.draw`, `returns` for what `planning.reach` returns: what they compute is told there. Each is in
torch a dozen small operations, which together take a planner longer than imagining a plan that many others share.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gtmsm_env.dream_compiled import arrays, bounds, exact, f
from gtmsm_env.types import Tolerance


def drawn(edges: Tensor, number: Tensor, new: Tensor, hold: Tensor) -> Tensor:
    """edges (B, T, A), sums of the probabilities up to each action; number, new (B, C, T) and hold (B, C, 1) uniform -> (B, C, T)."""
    action = torch.empty(number.shape, dtype=torch.int64)
    _drawn(*arrays(edges.contiguous(), number, new, hold, action))
    return action


@exact
def _drawn(edges: Any, number: Any, new: Any, hold: Any, action: Any) -> None:
    B, C, T = number.shape
    for b in range(B):
        for c in range(C):
            held = number[b, c, 0]
            for t in range(T):
                if new[b, c, t] >= hold[b, c, 0]:
                    held = number[b, c, t]
                below = 0
                for a in range(edges.shape[2] - 1):
                    below += held >= edges[b, t, a]
                action[b, c, t] = below


def returns(goals: Tensor, states: Tensor, step_length: float, there: Tolerance, turn: float) -> Tensor:
    """goals (B, G, n), states (B, C, T, n) -> (B, C)."""
    found = states.new_empty(states.shape[:2])
    _returns(*bounds(there), f(step_length), f(turn), *arrays(goals.contiguous(), states.contiguous(), found))
    return found


@exact
def _returns(square: Any, cos: Any, step_length: Any, turn: Any, goals: Any, states: Any, found: Any) -> None:
    (B, C, T), headings = states.shape[:3], states.shape[3] == 3
    half, whole = f(math.pi), f(2 * math.pi)
    for b in range(B):
        for c in range(C):
            s, arrival = states[b, c], T
            for t in range(T):
                near = False
                for g in range(goals.shape[1]):
                    x, y = s[t, 0] - goals[b, g, 0], s[t, 1] - goals[b, g, 1]
                    at = x * x + y * y <= square
                    if at and headings:
                        at = f(math.cos(s[t, 2] - goals[b, g, 2])) >= cos
                    near |= at
                if near:
                    arrival = t
                    break
            if arrival < T:
                found[b, c] = -f(arrival + 1)
                continue
            least = f(np.inf)
            for g in range(goals.shape[1]):
                x, y = s[T - 1, 0] - goals[b, g, 0], s[T - 1, 1] - goals[b, g, 1]
                left = f(math.sqrt(x * x + y * y)) / step_length
                if headings:
                    turned = s[T - 1, 2] - goals[b, g, 2] + half
                    turned = turned - whole * f(math.floor(turned / whole)) - half
                    left += abs(turned) / turn
                least = min(least, left)
            found[b, c] = -(f(T) + least)
