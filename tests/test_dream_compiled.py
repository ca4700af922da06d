"""The compiled loops of a dream's step against torch, which computes the same where they cannot."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from gtmsm_env import loops
from gtmsm_env.data import walk
from gtmsm_env.dream import DreamVectorEnv
from gtmsm_env.episodes import Nearby
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.model import GTMSM
from gtmsm_env.neighbours import search_all
from gtmsm_env.types import Belief, Tolerance

pytest.importorskip("numba")

import gymnasium as gym

from gtmsm_env import dream_compiled

MODEL = GTMSM.load("image-navigation")


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def belief() -> Belief:
    return walk(gym.make_vec("GTMSM-ImageNavigation-v0", num_envs=7), MODEL, 64, np.random.default_rng(0), 0)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("places", [1, 3, 40])
def test_the_nearest_place(n: int, shared: bool, places: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows with fewer places than others, and one memory for all."""
    s = torch.randn(6, places, n, generator=draws(4))
    if shared:
        s = s[:1].expand(6, -1, -1)
    count = torch.full((6,), places) if shared else torch.randint(1, places + 1, (6,), generator=draws(5))
    nearby = Nearby(SpatialMemory(s, torch.ones_like(s), {}, count))
    x = torch.randn(6, n, generator=draws(6))
    found = nearby.distance(x)
    monkeypatch.setattr(loops, "compiled_loops", lambda name: None)
    torch.testing.assert_close(found, nearby.distance(x))


@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize(("memories", "queries", "keys", "k"), [(3, 5, 20, 4), (6, 1, 7, 7), (1, 0, 5, 2), (0, 3, 5, 2), (4, 2, 100, 1)])
def test_the_nearest_keys(n: int, memories: int, queries: int, keys: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, so that equal ones are in the order of their index, those that are not used last; of one memory for all too."""
    x = torch.randint(4, (memories, queries, n), generator=draws(7)) / 3 + 0.1
    known = torch.randint(4, (memories, keys, n), generator=draws(8)) / 3
    count = torch.randint(k // 2, keys + 1, (memories,), generator=draws(9))
    asked = [(x, known, count)]
    if memories:
        shared = known[:1].expand(memories, -1, -1)
        asked += [(x, shared, count[:1].expand(memories)), (x, shared, count)]
    found = [search_all(*each, k) for each in asked]
    monkeypatch.setattr(loops, "compiled_loops", lambda name: None)
    for each, these in zip(asked, found, strict=True):
        assert torch.equal(these, search_all(*each, k))


@pytest.mark.parametrize("k", [1, 3])
def test_a_state_that_is_no_number_is_somewhere(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And changes nothing for the others; those that are infinite are far."""
    x, known = torch.randn(4, 2, 2, generator=draws(7)), torch.randn(4, 5, 2, generator=draws(8))
    x[1, 0, 0], x[2, 1], known[3, 2] = torch.nan, torch.inf, torch.inf
    count = torch.tensor([5, 4, 3, 5])
    found = search_all(x, known, count, k)
    assert found.min() >= 0
    assert found.max() < 5
    monkeypatch.setattr(loops, "compiled_loops", lambda name: None)
    same = found == search_all(x, known, count, k)
    assert same.sum() >= same.numel() - k
    assert same[[0, 2, 3]].all()


def test_more_than_there_is_cannot_be_near() -> None:
    with pytest.raises(RuntimeError):
        search_all(torch.zeros(1, 1, 2), torch.zeros(1, 5, 2), torch.tensor([5]), 6)


def test_a_rollout_broadcasts_and_has_gradients_where_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    law, a = copy.deepcopy(MODEL.transition), torch.randint(5, (4, 3), generator=draws(3))
    for s in (torch.zeros(2), torch.zeros(1, 2), torch.randn(4, 2, generator=draws(1))):
        found = law.rollout(s, torch.zeros_like(s), a)
        with monkeypatch.context() as patch:
            patch.setattr(loops, "compiled_loops", lambda name: None)
            torch.testing.assert_close(found, law.rollout(s, torch.zeros_like(s), a))
    with pytest.raises(RuntimeError):
        law.rollout(torch.zeros(4, 2), torch.zeros(4, 2), a[:3])
    law.rollout(s.requires_grad_(), torch.zeros_like(s), a)[0].sum().backward()
    assert s.grad is not None
    assert s.grad.any()
    s = s.detach()
    for parameter in law.g.parameters():
        parameter.requires_grad_(True)
    law.rollout(s, torch.zeros_like(s), a)[0].sum().backward()
    assert law.g[0].get_parameter("weight").grad is not None


@pytest.mark.parametrize("n", [2, 3])
def test_distinct_places_are_those_of_torch(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of memories that are full, and of those that are not."""
    s = torch.randn(3, 60, n, generator=draws(n))
    z = torch.arange(180.0).reshape(3, 60, 1)
    memory = SpatialMemory(s, s, {"z_mean": z, "z_variance": z}, torch.tensor([60, 41, 0]))
    for radius, at_least in ((0.3, 1), (5.0, 7)):
        found = memory.distinct(radius, at_least)
        with monkeypatch.context() as patch:
            patch.setattr(loops, "compiled_loops", lambda name: None)
            expected = memory.distinct(radius, at_least)
        assert torch.equal(found.count, expected.count)
        assert torch.equal(found.values["z_mean"], expected.values["z_mean"])
        assert (found.count < memory.count)[:2].all()


@pytest.mark.parametrize("n", [2, 3])
def test_who_has_arrived(n: int) -> None:
    """At any goal, within radius and heading; rows may have fewer goals than others, or none."""
    goals, s = (0.6 * torch.randn(*shape, generator=draws(seed)) for seed, shape in enumerate(((40, 3, n), (40, n))))
    goals[torch.rand(40, 3, generator=draws(2)) < 0.3] = torch.inf
    ended, there = torch.rand(40, generator=draws(3)) < 0.2, Tolerance(0.5, 0.7)
    for goal in (goals, goals[:, :0]):
        steps = torch.arange(40)
        reward, terminated, truncated = dream_compiled.judged(there, 30, goal, s, steps, ended)
        arrived = there(goal, s[:, None]).any(dim=1)
        assert torch.equal(steps, torch.arange(1, 41))
        assert torch.equal(terminated, arrived & ~ended)
        assert torch.equal(truncated, (steps >= 30) & ~arrived & ~ended)
        assert torch.equal(reward, terminated.float())
        assert arrived.any() == (goal is goals)


def test_a_dream_can_be_copied(belief: Belief) -> None:
    """And its copy goes its own way."""
    env = DreamVectorEnv(7, model=MODEL, belief=belief, observation="state")
    env.reset(seed=0)
    env.step(np.zeros(7, np.int64))
    other = copy.deepcopy(env)
    for _ in range(3):
        before = env.belief.mean.clone()
        other.step(np.ones(7, np.int64))
        assert torch.equal(env.belief.mean, before)
        env.step(np.ones(7, np.int64))
        assert torch.equal(env.belief.mean, other.belief.mean)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize("shown", ["state", "belief", "frame"])
@pytest.mark.parametrize("door", ["step", "step_tensors"])
def test_a_dream_is_the_same(mode: str, shown: Any, door: str, belief: Belief, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step for step, through its ends and beginnings, as torch computes it."""

    def dream() -> DreamVectorEnv:
        made = DreamVectorEnv(7, model=MODEL, belief=belief, start="remembered", horizon=9, observation=shown, autoreset_mode=mode)
        made.reset(seed=3)
        return made

    def step(env: DreamVectorEnv, actions: torch.Tensor) -> list[Any]:
        observation, *told = env.step_tensors(actions) if door == "step_tensors" else env.step(actions.numpy())[:4]
        return [*observation.values(), *told]

    fast, slow, ends = dream(), dream(), 0
    for count in range(100):
        actions = torch.randint(5, (7,), generator=draws(count))
        found = step(fast, actions)
        kept = [torch.as_tensor(x).clone() for x in found]
        held = fast.belief.mean.clone(), fast.belief.mean
        with monkeypatch.context() as patch:
            patch.setattr(loops, "compiled_loops", lambda name: None)
            expected = step(slow, actions)
        for mine, theirs in zip(found, expected, strict=True):
            mine, theirs = torch.as_tensor(mine), torch.as_tensor(theirs)
            assert mine.dtype == theirs.dtype
            if mine.dtype == torch.uint8:
                assert ((mine.int() - theirs.int()).abs() <= 1).all()
            else:
                torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-5)
        ends += int(found[-1].sum() + found[-2].sum())
        step(fast, actions)
        assert torch.equal(*held)  # what a belief holds stays as it was
        assert all(torch.equal(torch.as_tensor(x), as_it_was) for x, as_it_was in zip(found, kept, strict=True))
        with monkeypatch.context() as patch:
            patch.setattr(loops, "compiled_loops", lambda name: None)
            step(slow, actions)
    assert ends > 40
