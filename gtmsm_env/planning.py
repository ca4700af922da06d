"""Planning in the dream: random shooting, CEM and MPPI for discrete actions, over imagined states.

A decision imagines many plans at once, states only, and asks nothing of the memory but, where a model knows of any, its obstacles. All
three planners keep a distribution of the action at every step of the plan, draw plans from it, and move it towards those that did well;
they differ in how much each plan counts. The next decision starts from where this one ended, one step on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from gtmsm_env.loops import loops_for
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.types import WITHIN, Belief, Tolerance
from gtmsm_env.worlds import alike

if TYPE_CHECKING:
    from gtmsm_env.model import GTMSM

Objective = Callable[[Tensor], Tensor]
"""The return of plans by the states they lead through: s_1..s_T (B, C, T, n) -> (B, C), larger is better."""

Weights = Callable[[Tensor], Tensor]
"""How much each plan counts by its return: (B, C) -> (B, C), summing to 1 over C."""

Method = Literal["cem", "mppi", "shooting"]


@dataclass(frozen=True)
class Plan:
    """The best plan found for each world, and the distribution it came from."""

    actions: Tensor  # (B, T) int64
    states: Tensor  # (B, T, n) what it is imagined to lead through
    returns: Tensor  # (B,)
    probability: Tensor  # (B, T, num_actions) of each action at each step

    def __getitem__(self, rows: Tensor) -> Plan:
        """Some worlds of the batch (a mask or indices)."""
        return Plan(self.actions[rows], self.states[rows], self.returns[rows], self.probability[rows])


# ---------------------------------------------------------------- what is planned for


def goal_states(model: GTMSM, frame: Tensor, memory: SpatialMemory) -> Tensor:
    """Where a frame was seen, by the memory in reverse: the place whose encoding is nearest, and all that look as it does.

    frame: (B, H, W, C) uint8. Returns (B, G, n); where a world has fewer than G such places the nearest is repeated.
    """
    nearest = model.locate(frame, memory)  # (B, 1)
    same = alike(memory.values["z_mean"], nearest.z_mean) & memory.used  # (B, N)
    order = same.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[:, : int(same.sum(dim=-1).max())]  # (B, G)
    found = torch.take_along_dim(memory.s_mean, order[..., None], dim=1)
    return torch.where(torch.take_along_dim(same, order, dim=1)[..., None], found, nearest.s_mean)


def reach(goals: Tensor, step_length: float, there: Tolerance | None = None, turn: float = math.inf) -> Objective:
    """Minus the steps until one of the goals is reached; what a plan does afterwards counts nothing.

    A plan that arrives at none needs, after its last step, as many more as lie between its end and the nearest goal: so of two that
    arrive the quicker is better, and of two that do not the one that ends nearer.

    Args:
        goals: (B, G, n) states, any of which will do
        step_length: the longest move of a step, in the unit of the state
        there: how near is near enough, half a step by default
        turn: radians that a step may turn by, in first person
    """
    there = there or Tolerance(WITHIN * step_length)

    def returns(states: Tensor) -> Tensor:
        if len(goals) == len(states) and (loops := loops_for("planning_compiled", goals, states)):
            found: Tensor = loops.returns(goals, states, step_length, there, turn)
            return found
        at, goal = states[..., None, :], goals[:, None, None]  # (B, C, T, 1, n), (B, 1, 1, G, n)
        step = torch.arange(1, states.shape[-2] + 1, device=states.device)
        arrival = torch.where(there(at, goal).any(dim=-1), step, torch.inf).amin(dim=-1)
        at = at[:, :, -1]  # (B, C, 1, n), where plans end
        left = (at - goal[:, 0])[..., :2].square().sum(dim=-1).sqrt() / step_length
        if states.shape[-1] == 3:
            turned = torch.remainder(at[..., 2] - goal[:, 0, ..., 2] + math.pi, 2 * math.pi) - math.pi
            left = left + turned.abs() / turn
        return -arrival.minimum(step[-1] + left.amin(dim=-1))

    return returns


# ---------------------------------------------------------------- planners


def elites(share: float = 0.1) -> Weights:
    """The cross-entropy method: the best share of the plans count alike, the others nothing."""

    def weights(returns: Tensor) -> Tensor:
        count = max(1, round(share * returns.shape[1]))
        return torch.zeros_like(returns).scatter_(1, returns.topk(count, dim=1).indices, 1 / count)

    return weights


def exponentiated(temperature: float = 0.5) -> Weights:
    """MPPI: exp(return / temperature), normalised. The temperature has the unit of the return; for `reach` that is steps."""
    return lambda returns: torch.softmax(returns / temperature, dim=1)


METHODS: dict[Method, Weights | None] = {"cem": elites(), "mppi": exponentiated(), "shooting": None}


class Planner:
    """Planning with a receding horizon, batched over worlds: an iteration is one rollout of C plans for each.

    Args:
        model: imagines
        weights: `elites()` for CEM, `exponentiated()` for MPPI; None for random shooting, which moves no distribution
        horizon: T, steps of a plan
        candidates: C, plans of an iteration
        iterations: rounds of drawing plans and moving the distribution
        smoothing: how much of the old distribution remains in each round
        renewal: how much of it is uniform again at the next decision
    """

    def __init__(
        self,
        model: GTMSM,
        weights: Weights | None,
        *,
        horizon: int = 16,
        candidates: int = 192,
        iterations: int = 3,
        smoothing: float = 0.5,
        renewal: float = 0.5,
    ) -> None:
        for name, value in {"horizon": horizon, "candidates": candidates, "iterations": iterations}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.model, self.weights = model, weights
        self.horizon, self.candidates, self.iterations = horizon, candidates, iterations
        self.smoothing, self.renewal = smoothing, renewal

    @torch.no_grad()
    def plan(self, belief: Belief, objective: Objective, generator: torch.Generator, previous: Plan | None = None) -> Plan:
        """The best of all plans imagined from a belief of batch shape (B,); take its first action and ask again.

        belief: among obstacles with a memory of `GTMSM.places`, which is otherwise made anew in every round
        previous: what was planned one step before for the same worlds; its remainder is the first plan considered.
        """
        num_actions = self.model.num_actions
        probability = uniform = torch.full((len(belief.mean), self.horizon, num_actions), 1 / num_actions, device=belief.mean.device)
        best = None
        if previous is not None:
            best = _shift(previous.actions)
            probability = (1 - self.renewal) * _shift(previous.probability) + self.renewal * uniform
        for _ in range(self.iterations):
            actions = draw(probability, self.candidates, generator)  # (B, C, T)
            if best is not None:
                actions[:, 0] = best
            states = self.model.imagine(belief, actions).mean  # (B, C, T, n)
            returns = objective(states)
            if self.weights is not None:
                taken = torch.zeros_like(probability).scatter_add_(
                    2, actions.transpose(1, 2), self.weights(returns)[:, None].expand(-1, self.horizon, -1)
                )
                probability = self.smoothing * probability + (1 - self.smoothing) * taken
            plan = _best(actions, states, returns, probability)
            best = plan.actions
        return plan


@torch.no_grad()
def greedy(model: GTMSM, belief: Belief, objective: Objective) -> Plan:
    """The baseline that does not plan: of the single actions, the one whose imagined next state is best."""
    actions = torch.arange(model.num_actions, device=belief.mean.device).expand(len(belief.mean), -1)[..., None]  # (B, num_actions, 1)
    states = model.imagine(belief, actions).mean
    return _best(actions, states, objective(states), torch.full((len(actions), 1, model.num_actions), 1 / model.num_actions))


def draw(probability: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Plans in which each action has its probability (B, T, num_actions) at its step, but tends to be held: (B, count, T) int64.

    The uniform number that picks the action is kept for a random time, each plan with a tendency of its own, so that plans go
    somewhere, as the exploring policy does. Coloured noise does the same for continuous actions.
    """
    shape = (len(probability), count, probability.shape[1])
    number, new = (torch.rand(shape, generator=generator, device=probability.device) for _ in range(2))
    hold = torch.rand(*shape[:2], 1, generator=generator, device=probability.device)
    edges = probability.cumsum(dim=-1)
    if loops := loops_for("planning_compiled", edges):
        actions: Tensor = loops.drawn(edges, number, new, hold)
        return actions
    step = torch.arange(shape[2], device=probability.device)
    since = torch.where(new >= hold, step, 0).cummax(dim=-1).values  # when the number in use was drawn
    number = number.gather(-1, since)
    action = torch.zeros_like(since)
    for edge in edges[..., :-1].unbind(dim=-1):  # few, and a sum over them would be slow
        action += number >= edge[:, None]
    return action


def _shift(x: Tensor) -> Tensor:
    """What was at step t + 1 is at t; the last stays: (B, T, ...)."""
    return torch.cat([x[:, 1:], x[:, -1:]], dim=1)


def _best(actions: Tensor, states: Tensor, returns: Tensor, probability: Tensor) -> Plan:
    """The plan with the largest return, of equal ones the first."""
    row, best = torch.arange(len(returns), device=returns.device), returns.argmax(dim=1)
    return Plan(actions[row, best], states[row, best], returns[row, best], probability)
