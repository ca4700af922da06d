"""Planning over the dream of a model with a closed form, where the shortest path is known."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from exact import exact_model
from torch import Tensor, nn

from gtmsm_env.memory import SpatialMemory
from gtmsm_env.model import GTMSM
from gtmsm_env.planning import METHODS, Method, Plan, Planner, draw, elites, exponentiated, goal_states, greedy, reach
from gtmsm_env.types import Belief, Tolerance


@pytest.fixture(scope="module")
def model() -> GTMSM:
    return exact_model()


def belief_at(places: Tensor) -> Belief:
    zero = torch.zeros_like(places)
    return Belief(places, zero, zero, SpatialMemory(places[:, None], zero[:, None], {}))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def steps_taken(model: GTMSM, planner: Planner, start: Tensor, goals: Tensor, limit: int = 40) -> Tensor:
    """Steps (B,) until a goal (B, G, 2) is reached, planning anew at each; `limit` where it is not."""
    belief, objective, draws, plan = belief_at(start), reach(goals, 1.0), generator(), None
    taken = torch.full((len(start),), limit)
    for step in range(1, limit):
        plan = planner.plan(belief, objective, draws, plan)
        belief = model.predict(belief, plan.actions[:, 0])
        arrived = (belief.mean[:, None] - goals).norm(dim=-1).amin(dim=1) <= 0.5
        taken = torch.where(arrived & (taken == limit), step, taken)
        if (taken < limit).all():
            break
    return taken


# ---------------------------------------------------------------- the objective


def slow_return(states: Tensor, goals: Tensor, step_length: float) -> float:
    """One plan's return, read off its path: states (T, n), goals (G, n)."""
    for t, state in enumerate(states, start=1):
        if any(float((state - goal).norm()) <= 0.5 * step_length for goal in goals):
            return -t
    return -len(states) - min(float((states[-1] - goal).norm()) for goal in goals) / step_length


def test_reach_equals_its_slow_twin() -> None:
    draws = generator()
    states, goals = torch.randn(3, 50, 7, 2, generator=draws), torch.randn(3, 4, 2, generator=draws)
    slow = torch.tensor([[slow_return(states[b, c], goals[b], 0.7) for c in range(50)] for b in range(3)])
    assert (slow > -7).any()
    assert (slow < -7).any()
    torch.testing.assert_close(reach(goals, 0.7)(states), slow)


def slow_first_person_return(states: Tensor, goals: Tensor, step: float, turn: float, radius: float, angle: float) -> float:
    """One plan's return among headings: states (T, 3), goals (G, 3). Steps that are left are those of walking and of turning."""

    def apart(state: Tensor, goal: Tensor) -> tuple[float, float]:
        around = float(state[2] - goal[2]) % (2 * math.pi)
        return math.hypot(*(state - goal)[:2].tolist()), min(around, 2 * math.pi - around)

    for t, state in enumerate(states, start=1):
        if any(far <= radius and off <= angle for far, off in (apart(state, goal) for goal in goals)):
            return -t
    return -len(states) - min(far / step + off / turn for far, off in (apart(states[-1], goal) for goal in goals))


def test_reach_with_headings_equals_its_slow_twin() -> None:
    draws = generator()
    states = torch.randn(3, 50, 7, 3, generator=draws) * torch.tensor([1, 1, 9.0])
    goals = torch.randn(3, 4, 3, generator=draws) * torch.tensor([1, 1, 9.0])
    slow = torch.tensor([[slow_first_person_return(states[b, c], goals[b], 0.7, 0.15, 0.9, 0.5) for c in range(50)] for b in range(3)])
    assert (slow > -7).any()
    assert (slow < -7).any()
    returns = reach(goals, 0.7, Tolerance(0.9, 0.5), turn=0.15)(states)
    torch.testing.assert_close(returns, slow, atol=1e-3, rtol=1e-4)
    near = torch.tensor([[[[0.3, 0.0, 0.0]], [[0.3, 0.0, 1.0]], [[0.3, 0.0, 6.2]]]])  # of one step: it faces there, elsewhere, nearly there
    assert reach(torch.zeros(1, 1, 3), 0.1, Tolerance(0.3, 0.2), turn=0.5)(near)[0].tolist() == [-1, pytest.approx(-6), -1]


def test_earlier_arrival_is_better_and_what_follows_it_counts_nothing() -> None:
    goal = torch.tensor([[[2.0, 0.0]]])
    quick, slow = [[1.0, 0.0], [2.0, 0.0], [9.0, 9.0]], [[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]
    near, far = [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
    returns = reach(goal, 1.0)(torch.tensor([[quick, slow, near, far]]))
    assert returns.tolist() == [[-2.0, -3.0, -4.0, -5.0]]


# ---------------------------------------------------------------- drawing plans


def test_drawn_actions_have_their_probability_at_every_step() -> None:
    probability = torch.rand(2, 6, 5, generator=generator()).softmax(dim=-1)
    actions = draw(probability, 40_000, generator(1))
    assert actions.shape == (2, 40_000, 6)
    assert actions.dtype == torch.int64
    frequency = nn.functional.one_hot(actions, 5).double().mean(dim=1)
    torch.testing.assert_close(frequency, probability.double(), atol=0.01, rtol=0)


def test_drawn_actions_are_held() -> None:
    actions = draw(torch.full((1, 16, 5), 0.2), 4000, generator())[0]
    same = (actions[:, 1:] == actions[:, :-1]).float().mean()
    assert 0.5 < same < 0.7  # 1/5 if each step were drawn for itself; 1/2 + 1/2 * 1/5 when half of them are
    held_throughout = (actions == actions[:, :1]).all(dim=1).float().mean()
    assert held_throughout > 0.05  # 5^-15 otherwise


def test_impossible_actions_are_never_drawn() -> None:
    probability = torch.tensor([0.0, 0.5, 0.0, 0.5, 0.0]).expand(1, 8, 5)
    assert set(draw(probability, 1000, generator()).unique().tolist()) == {1, 3}


def test_draws_come_from_the_generator_alone() -> None:
    probability = torch.full((2, 4, 5), 0.2)
    before = torch.random.get_rng_state()
    assert torch.equal(draw(probability, 9, generator(3)), draw(probability, 9, generator(3)))
    assert not torch.equal(draw(probability, 9, generator(3)), draw(probability, 9, generator(4)))
    assert torch.equal(before, torch.random.get_rng_state())


# ---------------------------------------------------------------- planners


def test_weights_sum_to_one_and_prefer_large_returns() -> None:
    returns = torch.tensor([[-1.0, -2.0, -5.0, -9.0], [-9.0, -5.0, -2.0, -1.0]])
    assert elites(0.5)(returns).tolist() == [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]
    assert elites(0.01)(returns).tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]
    softmax = exponentiated(2.0)(returns)
    torch.testing.assert_close(softmax.sum(dim=1), torch.ones(2))
    torch.testing.assert_close((softmax[0, 0] / softmax[0, 1]).log(), torch.tensor(0.5))


@pytest.mark.parametrize("method", METHODS)
def test_planners_walk_the_shortest_path(model: GTMSM, method: Method) -> None:
    """Every planner, from corner to corner and anywhere else, with one goal or the nearest of two."""
    draws = generator()
    start, goals = (torch.randint(-4, 5, (count, 60, 2), generator=draws).float() for count in (1, 2))
    start, goals = start[0], goals.transpose(0, 1)
    start[:20], goals[:20, 0], goals[:20, 1] = -4.0, 4.0, torch.tensor([4.0, 3.0])
    shortest = (goals - start[:, None]).abs().sum(dim=-1).amin(dim=1)
    start, goals, shortest = start[shortest > 0], goals[shortest > 0], shortest[shortest > 0]
    taken = steps_taken(model, Planner(model, METHODS[method]), start, goals)
    assert (taken < 40).all()
    assert (taken >= shortest).all()
    assert (shortest / taken).mean() >= 0.985


def test_a_short_plan_is_the_best_of_all_plans(model: GTMSM) -> None:
    """With far more candidates than plans there are, shooting finds what an exhaustive search does."""
    start, goals = torch.tensor([[4.0, 3.0], [0.0, 0.0]]), torch.tensor([[[4.0, 1.0]], [[2.0, -1.0]]])
    every = torch.tensor(list(product(range(5), repeat=3))).expand(2, -1, -1)
    best = reach(goals, 1.0)(model.imagine(belief_at(start), every).mean).amax(dim=1)
    plan = Planner(model, None, horizon=3, candidates=4000).plan(belief_at(start), reach(goals, 1.0), generator())
    assert torch.equal(plan.returns, best)
    assert best.tolist() == [-2.0, -3.0]


@pytest.mark.parametrize("method", METHODS)
def test_a_plan_tells_where_it_leads(model: GTMSM, method: Method) -> None:
    start, goals = torch.tensor([[0.0, 0.0], [4.0, -4.0]]), torch.tensor([[[3.0, 1.0]], [[-4.0, 4.0]]])
    plan = Planner(model, METHODS[method]).plan(belief_at(start), reach(goals, 1.0), generator())
    belief = belief_at(start)
    for t in range(plan.actions.shape[1]):
        belief = model.predict(belief, plan.actions[:, t])
        assert torch.equal(belief.mean, plan.states[:, t])
    assert torch.equal(plan.returns, reach(goals, 1.0)(plan.states[:, None])[:, 0])
    torch.testing.assert_close(plan.probability.sum(dim=-1), torch.ones(2, 16))
    row = plan[torch.tensor([False, True])]
    assert torch.equal(row.actions[0], plan.actions[1])
    assert torch.equal(row.returns[0], plan.returns[1])


def test_warm_start_considers_the_rest_of_the_plan_first(model: GTMSM) -> None:
    """One candidate and no luck: the plan that is handed on is walked to its end."""
    start, goals = torch.tensor([[0.0, 0.0]]), torch.tensor([[[2.0, 2.0]]])
    known = torch.tensor([[4, 1, 3, 1, 3, 4]])  # stay, down, right, down, right, stay
    plan = Plan(known, torch.zeros(1, 6, 2), torch.zeros(1), torch.full((1, 6, 5), 0.2))
    planner, belief, draws = Planner(model, None, horizon=6, candidates=1, iterations=1), belief_at(start), generator()
    for action in (1, 3, 1, 3):
        plan = planner.plan(belief, reach(goals, 1.0), draws, plan)
        assert plan.actions[0, 0] == action
        belief = model.predict(belief, plan.actions[:, 0])
    assert belief.mean.tolist() == [[2.0, 2.0]]


def test_warm_start_shifts_the_distribution(model: GTMSM) -> None:
    one = nn.functional.one_hot(torch.tensor([[0, 1, 2, 3]]), 5).float()
    before = Plan(torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4, 2), torch.zeros(1), one)
    planner = Planner(model, None, horizon=4, candidates=1, iterations=1, renewal=0.5)
    after = planner.plan(belief_at(torch.zeros(1, 2)), reach(torch.ones(1, 1, 2), 1.0), generator(), before).probability
    torch.testing.assert_close(after, 0.5 * one[:, [1, 2, 3, 3]] + 0.1)


def test_refitting_moves_the_distribution_towards_good_plans(model: GTMSM) -> None:
    goals = torch.tensor([[[4.0, 0.0]]])
    for weights in (elites(), exponentiated()):
        plan = Planner(model, weights, iterations=3).plan(belief_at(torch.zeros(1, 2)), reach(goals, 1.0), generator())
        assert plan.probability[0, :4, 1].mean() > 0.5  # down


def test_planning_is_reproducible_and_changes_nothing(model: GTMSM) -> None:
    belief, goals = belief_at(torch.tensor([[0.0, 0.0]])), torch.tensor([[[3.0, 3.0]]])
    first, second = (Planner(model, elites()).plan(belief, reach(goals, 1.0), generator()) for _ in range(2))
    assert torch.equal(first.actions, second.actions)
    assert torch.equal(first.probability, second.probability)
    assert torch.equal(belief.mean, torch.zeros(1, 2))
    Planner(model, elites()).plan(belief, reach(goals, 1.0), generator(), first)
    assert torch.equal(first.actions, second.actions)
    assert torch.equal(first.probability, second.probability)


def test_planning_asks_nothing_of_the_memory(model: GTMSM) -> None:
    nothing = SpatialMemory(torch.zeros(1, 0, 2), torch.zeros(1, 0, 2), {})
    belief = replace(belief_at(torch.zeros(1, 2)), memory=nothing)
    Planner(model, elites()).plan(belief, reach(torch.ones(1, 1, 2), 1.0), generator())


class Fence(nn.Module):
    """A wall through the middle column with a gap in the last row."""

    def __init__(self, around: nn.Module) -> None:
        super().__init__()
        self.around = around

    def forward(self, s: Tensor) -> Tensor:
        blocked = (s[..., 1].round() == 0) & (s[..., 0].round() < 4)
        return torch.where(blocked[..., None], -1e3, self.around(s))


def test_planners_go_round_a_wall_where_greed_is_stuck() -> None:
    model = exact_model()
    model.transition.g = nn.Sequential(Fence(model.transition.g))
    start, goals = torch.tensor([[2.0, -1.0]]), torch.tensor([[[2.0, 1.0]]])
    belief = belief_at(start)
    for _ in range(20):
        belief = model.predict(belief, greedy(model, belief, reach(goals, 1.0)).actions[:, 0])
    assert belief.mean[0, 1] == -1
    for weights in METHODS.values():
        assert 6 <= steps_taken(model, Planner(model, weights, horizon=24), start, goals) <= 14


def test_greedy_takes_the_step_that_comes_nearest(model: GTMSM) -> None:
    start, goals = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 4.0]]), torch.tensor([[[3.0, 1.0]], [[-1.0, 0.0]], [[0.0, 4.0]]])
    plan = greedy(model, belief_at(start), reach(goals, 1.0))
    assert plan.actions.tolist() == [[1], [0], [3]]  # at the goal, stepping against the wall is as good as staying
    assert plan.states[:, 0].tolist() == [[1, 0], [-1, 0], [0, 4]]


@pytest.mark.parametrize("name", ["horizon", "candidates", "iterations"])
def test_planner_refuses_sizes_below_one(model: GTMSM, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Planner(model, None, **{name: 0})


# ---------------------------------------------------------------- goals


def test_goal_states_are_all_places_that_look_alike(model: GTMSM) -> None:
    draws = generator()
    frames = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8, generator=draws)
    seen = torch.stack([frames[[0, 1, 2, 1]], frames[[3, 2, 1, 0]]])  # (2, 4, ...)
    places = torch.arange(16.0).view(2, 4, 2)
    z = model.encode(seen)[0]
    memory = SpatialMemory(places, torch.zeros_like(places), {"z_mean": z, "z_variance": z})
    found = goal_states(model, frames[[1, 3]], memory)
    assert found.tolist() == [[[2, 3], [6, 7]], [[8, 9], [8, 9]]]


def test_goal_states_are_never_padding(model: GTMSM) -> None:
    frame = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)  # encoded as zeros, as padding is
    places = torch.arange(12.0).view(2, 3, 2)
    z = model.encode(frame[:, None].expand(-1, 3, -1, -1, -1))[0]
    memory = SpatialMemory(places, torch.zeros_like(places), {"z_mean": z, "z_variance": z}, count=torch.tensor([1, 2]))
    assert goal_states(model, frame, memory).tolist() == [[[0, 1], [0, 1]], [[6, 7], [8, 9]]]
