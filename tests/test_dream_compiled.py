"""The compiled loops of a dream's step against torch, which computes the same where they cannot."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch

from gtmsm_env import dream_vector, loops
from gtmsm_env.data import walk
from gtmsm_env.dream import DreamVectorEnv
from gtmsm_env.episodes import Looks, Nearby, choose_goals
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.model import GTMSM
from gtmsm_env.neighbours import search_all
from gtmsm_env.sb3 import DreamVecEnv
from gtmsm_env.types import Belief, Tolerance
from gtmsm_env.worlds import WorldsAhead

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
    assert env._stepping
    assert not other._stepping
    for _ in range(3):
        before = env.belief.mean.clone()
        other.step(np.ones(7, np.int64))
        assert torch.equal(env.belief.mean, before)
        env.step(np.ones(7, np.int64))
        assert torch.equal(env.belief.mean, other.belief.mean)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize("shown", ["state", "belief", "frame"])
@pytest.mark.parametrize("door", ["step", "step_tensors", "both"])
def test_a_dream_is_the_same(mode: str, shown: Any, door: str, belief: Belief, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step for step, through its ends and beginnings, as torch computes it; where rows begin all that was drawn for them, too."""
    monkeypatch.setattr(dream_vector, "AHEAD", 3)

    def dream() -> DreamVectorEnv:
        made = DreamVectorEnv(7, model=MODEL, belief=belief, start="remembered", horizon=9, observation=shown, autoreset_mode=mode)
        made.reset(seed=3)
        return made

    def step(env: DreamVectorEnv, actions: torch.Tensor) -> list[Any]:
        tensors = door == "step_tensors" or (door == "both" and count % 2)
        observation, *told = env.step_tensors(actions) if tensors else env.step(actions.numpy())[:4]
        return [*observation.values(), *told]

    fast, slow, ends = dream(), dream(), 0
    assert fast._by_loops()
    with monkeypatch.context() as patch:
        patch.setattr(loops, "compiled_loops", lambda name: None)
        assert not slow._by_loops()
    for count in range(100):
        actions = torch.randint(5, (7,), generator=draws(count))
        found = step(fast, actions)
        kept = [torch.as_tensor(x).clone() for x in found]
        held = (fast.belief.mean.clone(), fast.belief.mean) if count % 10 == 0 else (torch.zeros(1), torch.zeros(1))
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


def assert_same(mine: Any, theirs: Any) -> None:
    """But for rounding, however deep in infos."""
    assert type(mine) is type(theirs)
    if isinstance(mine, dict):
        assert mine.keys() == theirs.keys()
        for key in mine:
            assert_same(mine[key], theirs[key])
    elif isinstance(mine, list | tuple) or (isinstance(mine, np.ndarray) and mine.dtype == object):
        for a, b in zip(mine, theirs, strict=True):
            assert_same(a, b)
    elif isinstance(mine, np.ndarray):
        assert mine.dtype == theirs.dtype
        close = 1 if mine.dtype == np.uint8 else 1e-4
        np.testing.assert_allclose(mine.astype(np.float64), theirs.astype(np.float64), atol=close, rtol=1e-5)
    else:
        assert mine == (pytest.approx(theirs, abs=1e-4) if isinstance(theirs, float) else theirs)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize("shown", ["state", "frame"])
@pytest.mark.parametrize("walked", [False, True])
def test_infos_and_new_worlds_are_the_same(mode: str, shown: Any, walked: bool, belief: Belief, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through Gymnasium's door, where rows are drawn new episodes, and enter new worlds, as they go."""
    monkeypatch.setattr(dream_vector, "AHEAD", 3)
    source: dict[str, Any] = {"walk_steps": 32, "episodes_per_walk": 2} if walked else {"belief": belief}
    kwargs = {"model": MODEL, "start": "remembered", "horizon": 5, "observation": shown, "novelty": walked, "autoreset_mode": mode}
    fast, slow = (DreamVectorEnv(7, **kwargs, **source) for _ in range(2))
    assert_same(fast.reset(seed=3), slow.reset(seed=3))
    assert fast._by_loops()
    earlier: Any = None
    seen = set()
    for count in range(60):
        actions = np.random.default_rng(count).integers(5, size=7)
        if count in (20, 40):  # some rows begin anew, and all by another seed
            asked: dict[str, Any] = {"options": {"reset_mask": np.arange(7) < 3}} if count == 20 else {"seed": 5}
            assert_same(fast.reset(**asked), slow.reset(**asked))
        found = fast.step(actions)
        assert all(np.array_equal(value, found[0][name]) for name, value in fast._observation().items())  # as beginnings are told
        with monkeypatch.context() as patch:
            patch.setattr(loops, "compiled_loops", lambda name: None)
            assert not slow._by_loops()
            assert_same(found, slow.step(actions))
        if isinstance(fast._source, WorldsAhead):  # worlds are walked ahead as fast
            assert isinstance(slow._source, WorldsAhead)
            assert fast._source._due == pytest.approx(slow._source._due)
            seen.add(fast._source._due)
        if earlier:
            assert_same(*earlier)  # what was told stays as it was told
        earlier = found, copy.deepcopy(found)
    assert fast._paid.min() > 31 if walked else not fast._paid.any()
    assert len(seen) > 5 or not walked
    assert np.array_equal(fast._left, slow._left)


def test_no_row_moves_where_one_action_is_none(belief: Belief) -> None:
    """Whichever row's it is: of many, loops move some after others."""
    env = DreamVectorEnv(300, model=MODEL, belief=belief[torch.arange(300) % 7], observation="state")
    env.reset(seed=0)
    env.step(np.zeros(300, np.int64))
    before, none = env.belief.mean.clone(), np.zeros(300, np.int64)
    none[299] = 5
    with pytest.raises(ValueError, match="actions must lie between 0 and 4, got 5"):
        env.step(none)
    with pytest.raises(IndexError):
        env.step_tensors(torch.from_numpy(none))
    with pytest.raises(ValueError, match="one a row"):
        env.step(none[:299])
    assert torch.equal(env.belief.mean, before)
    assert not env._episodes.steps.sub(1).any()


def test_actions_may_lie_anywhere(belief: Belief) -> None:
    env, other = (DreamVectorEnv(7, model=MODEL, belief=belief, observation="state") for _ in range(2))
    env.reset(seed=0)
    other.reset(seed=0)
    actions = np.arange(7) % 5
    fixed = actions.copy()
    fixed.setflags(write=False)
    for given in (fixed, np.repeat(actions, 2)[::2], actions.astype(np.uint8), actions.tolist()):
        assert np.array_equal(env.step(given)[0]["state"], other.step(actions)[0]["state"])


def test_what_changes_between_steps_is_seen(belief: Belief) -> None:
    """The horizon, and weights that lie elsewhere."""
    model = copy.deepcopy(MODEL)
    env = DreamVectorEnv(7, model=model, belief=belief, observation="state")
    env.reset(seed=0)
    env.step(np.zeros(7, np.int64))
    assert env._by_loops()
    env.horizon = 2
    assert env.step(np.zeros(7, np.int64))[3].any()
    env.reset(seed=0)
    before = env.step(np.zeros(7, np.int64))[0]["state"]
    model.transition.W_a.data = torch.zeros_like(model.transition.W_a)
    assert np.array_equal(env.step(np.zeros(7, np.int64))[0]["state"], before)
    model.transition.walls = False
    assert not env._by_loops()


@pytest.mark.parametrize("whole", [False, True])
def test_layers_that_are_replaced_are_seen(whole: bool, belief: Belief) -> None:
    """By one that lets nothing move, or their bias by its."""
    model = copy.deepcopy(MODEL)
    env = DreamVectorEnv(7, model=model, belief=belief, observation="state")
    env.reset(seed=0)
    before, after = (env.step(np.zeros(7, np.int64))[0]["state"] for _ in range(2))
    assert not np.array_equal(before, after)
    law = cast(Any, model.transition)
    layer = copy.deepcopy(law.g[4])
    layer.bias.data -= 100
    if whole:
        law.g[4] = layer
    else:
        law.g[4].bias = layer.bias
    assert np.array_equal(env.step(np.zeros(7, np.int64))[0]["state"], after)


@pytest.mark.parametrize("door", [lambda env: env, DreamVecEnv])
def test_who_steps_otherwise_is_asked(door: Callable[[DreamVectorEnv], Any], belief: Belief) -> None:
    """A subclass, whose methods no loop knows."""

    class Costly(DreamVectorEnv):
        def _advance(self, actions: Any) -> Any:
            reward, *ends = super()._advance(actions)
            return reward - 1, *ends

    env = Costly(7, model=MODEL, belief=belief, observation="state", autoreset_mode="SameStep")
    env.reset(seed=0)
    stepped: Any = door(env)
    stepped.reset()
    assert (stepped.step(np.zeros(7, np.int64))[1] == -1).all()


@pytest.mark.parametrize("n", [2, 3])
def test_goals_are_those_of_torch(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of memories with fewer distinct places than others; of starts that episodes share, or not; and where there is no goal."""
    s, z = torch.randn(6, 12, n, generator=draws(1)), torch.randint(4, (6, 12, 1), generator=draws(2)).float()
    z[5] = 0  # all looks the same
    looks = Looks.of(SpatialMemory(s, torch.ones_like(s), {"z_mean": z, "z_variance": z}, torch.full((6,), 12)))
    number, count = torch.rand(6, 40, generator=draws(3), dtype=torch.float64), torch.tensor([12, 9, 1, 5, 12, 12])
    for start in (s[:, :1] + 0.1, s[:, torch.arange(40) % 12], torch.randn(6, 40, n, generator=draws(4))):
        asked = number, start, s, count, looks, Tolerance(0.5, 0.7), 0.6
        entry, choices = choose_goals(*asked)
        with monkeypatch.context() as patch:
            patch.setattr(loops, "compiled_loops", lambda name: None)
            expected, theirs = choose_goals(*asked)
        assert torch.equal(choices, theirs)
        assert torch.equal(entry[choices > 0], expected[choices > 0])
        assert (choices > 3).any()
        assert not choices[2].all()
