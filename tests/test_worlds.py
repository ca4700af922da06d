"""Worlds walked ahead of need, and which worlds a model knows."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from exact import exact_model
from tqdm import tqdm
from treasure import ID, Treasure, treasure_model, walk_by_hand

from gtmsm_env import worlds
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.model import GTMSM
from gtmsm_env.types import result_of
from gtmsm_env.worlds import WorldsAhead, check_world, finding_places, keeping_places, newest_rewards

MODEL = treasure_model()


def ahead(rows: int, goals: bool = False, world: Any = Treasure, served: int | None = None) -> tuple[WorldsAhead, list[list[int]]]:
    """Worlds ahead of a vector of treasure worlds, and a list of the places in each bulk that were walked."""
    bulks: list[list[int]] = []

    def keep(some: Any) -> list[Any]:
        bulks.append(some.tolist())
        return [f"row {row} of bulk {len(bulks)}" for row in some]

    worlds = gym.vector.SyncVectorEnv([world] * rows)
    return WorldsAhead(worlds, MODEL, 30, partial(keeping_places, MODEL), goals, keep, served), bulks


def generators(rows: int) -> list[np.random.Generator]:
    return [np.random.default_rng(row) for row in range(rows)]


def test_bulks() -> None:
    """All rows are walked when the first runs out; then only those that have nothing in stock."""
    stock, bulks = ahead(3)
    rngs = generators(3)
    stock.next(np.array([0, 1, 2]), rngs)
    assert bulks == [[0, 1, 2]]
    _, _, kept, _ = stock.next(np.array([1]), rngs)
    assert (bulks[1], kept) == ([0, 1, 2], ["row 1 of bulk 2"])
    assert stock.next(np.array([0]), rngs)[2] == ["row 0 of bulk 2"]
    stock.next(np.array([1]), rngs)
    assert bulks[2] == [0, 1]
    assert stock.next(np.array([2, 0]), rngs)[2] == ["row 2 of bulk 2", "row 0 of bulk 3"]
    stock.forget(np.array([1]))
    assert stock.next(np.array([1]), rngs)[2] == ["row 1 of bulk 4"]


def test_more_rows_than_a_bulk() -> None:
    """Row 3 is walked where row 0 is, and row 4 where row 1 is; those that ask come first."""
    stock, bulks = ahead(3, served=5)
    rngs = generators(5)
    stock.next(np.array([3, 4]), rngs)
    assert bulks == [[0, 1, 2]]  # rows 3, 4 and 2
    stock.next(np.array([2]), rngs)
    assert len(bulks) == 1
    stock.next(np.arange(5), rngs)
    assert bulks[1:] == [[0, 1, 2], [0, 1]]  # rows 0, 1 and 2, then 3 and 4


@pytest.mark.parametrize("served", [None, 5])
def test_the_kth_world_of_a_row_depends_on_its_seed_alone(served: int | None) -> None:
    def worlds(order: list[list[int]]) -> list[Any]:
        stock, _ = ahead(3, served=served)
        rngs, seen = generators(served or 3), []
        for rows in order:
            belief, drawn, _, paid = stock.next(np.array(rows), rngs)
            assert paid.tolist() == [29] * len(rows)  # whenever it was walked
            seen += [(belief[i : i + 1], drawn[i].random()) for i, row in enumerate(rows) if row == 2]
        return seen

    one, other = worlds([[0, 1, 2], [2], [2]]), worlds([[0, 1, 2], [0, 1], [1], [2], [0], [1], [2]])
    assert len(one) == len(other) == 3
    for (a, x), (b, y) in zip(one, other, strict=True):
        assert x == y
        assert torch.equal(a.mean, b.mean)
        size = int(a.memory.count)
        assert size == int(b.memory.count)
        assert torch.equal(a.memory.values["z_mean"][0, :size], b.memory.values["z_mean"][0, :size])
    assert not torch.equal(one[0][0].mean, one[1][0].mean) or one[0][1] != one[1][1]


def test_worlds_are_walked_little_by_little() -> None:
    """A few parts of a bulk at a time, those in need first, and what they see is what they would have seen at once."""
    (stock, bulks), (other, _) = ahead(3, served=5), ahead(3, served=5)
    rngs, taken = generators(5), []
    step = stock.worlds.step

    def counted(actions: Any) -> Any:
        taken.append(actions)
        return step(actions)

    stock.worlds.step = counted  # type: ignore[method-assign]
    stock.pay(rngs, lambda: np.arange(5))
    assert not taken  # nothing is owed
    stock.owe(3)  # of 30 frames each, and what it takes to remember them
    paid = [0]
    while len(bulks) == 0:
        stock.pay(rngs, lambda: np.array([4, 2, 3, 0, 1]))
        paid.append(len(taken))
    assert max(np.diff(paid)) == paid[1] == 2
    assert paid[9] > 13
    assert len(paid) > 20
    belief, drawn, _, walked = stock.next(np.array([2, 4]), rngs)
    expected, others, _, steps = other.next(np.array([2, 4]), generators(5))
    assert torch.equal(belief.mean, expected.mean)
    assert torch.equal(belief.memory.values["z_mean"], expected.memory.values["z_mean"])
    assert drawn[0].random() == others[0].random()
    assert walked.tolist() == steps.tolist() == [29, 29]
    assert len(taken) == 29
    for _ in range(100):
        stock.owe(100)  # more than all worlds that can be in stock
        stock.pay(rngs, lambda: np.arange(5))
    assert bulks == [[0, 1, 2], [0, 1, 2], [1]]  # rows 3, 4 and 2; then 0, 1 and 2; then 4: all have one in stock
    assert len(taken) == 29 * 3


def test_few_that_lack_a_world_are_walked_as_slowly_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bulk of one row takes as many steps as one of eight, and the next is paced as those before."""
    (stock, bulks), taken = ahead(8), [0]
    rngs, step = generators(8), stock.worlds.step

    def counted(actions: Any) -> Any:
        taken[0] += 1
        return step(actions)

    monkeypatch.setattr(stock.worlds, "step", counted)
    stock.next(np.arange(8), rngs)
    stock.next(np.arange(8), rngs)
    stock.next(np.array([3]), rngs)
    for _ in range(200):
        before = taken[0]
        stock.owe(1 / 8)
        stock.pay(rngs, lambda: np.arange(8))
        assert taken[0] - before <= 4
        if stock._stocked.all():
            stock.next(np.arange(8), rngs)
            stock.next(np.array([3]), rngs)
    assert [3] in bulks
    assert len(bulks) > 4


def test_who_waits_sees_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar that ends where it said it would, and none where nothing is waited for."""
    bars: list[Any] = []

    class Recorded(tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            bars.append(self)

    monkeypatch.setattr(worlds, "tqdm", Recorded)
    stock, _ = ahead(3, served=5)
    rngs = generators(5)
    stock.next(np.array([1]), rngs)
    stock.next(np.array([0]), rngs)  # which is in stock by now
    assert len(bars) == 1
    stock.next(np.arange(5), rngs)
    for bar in bars:
        assert 0.8 * bar.total < bar.n <= bar.total


def test_a_walk_under_way_is_waited_for_forgotten_and_copied() -> None:
    """By who needs its worlds; when a row has another generator; and for a copy, which goes its own way."""
    stock, bulks = ahead(3)
    rngs = generators(3)
    stock.owe(1)
    stock.pay(rngs, lambda: np.arange(3))
    assert not bulks
    other, theirs = copy.deepcopy((stock, rngs))
    assert len(bulks) == 1
    belief, *_ = stock.next(np.arange(3), rngs)
    assert len(bulks) == 1
    assert torch.equal(other.next(np.arange(3), theirs)[0].mean, belief.mean)
    stock.owe(1)
    stock.pay(rngs, lambda: np.arange(3))
    rngs[1] = np.random.default_rng(1)
    stock.forget(np.array([1]))
    assert torch.equal(stock.next(np.array([1]), rngs)[0].mean[0], belief.mean[1])
    expected = ahead(3)[0]
    kept = generators(3)
    expected.next(np.arange(3), kept)
    assert torch.equal(stock.next(np.array([0]), rngs)[0].mean, expected.next(np.arange(3), kept)[0].mean[:1])
    stock.owe(1)
    stock.pay(rngs, lambda: np.arange(3))
    stock.forget(np.arange(3))  # all at once: what is under way is left
    assert torch.equal(stock.next(np.arange(3), generators(3))[0].mean, belief.mean)


class Dull(Treasure):
    """Looks the same everywhere, but for every third world."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        _, info = super().reset(seed=seed, options=options)
        if self.np_random.integers(3):
            self.frames[:] = 7
        return {"frame": self.frames[tuple(self.position)].copy()}, info


def test_a_walk_that_is_repeated_asks_its_rows_generator_once() -> None:
    """So a row that gets another generator meanwhile draws from it what it would have drawn anyway, and so does a copy."""
    for seed in range(8):
        stock, _ = ahead(3, goals=True, world=Dull)
        rngs = [np.random.default_rng([seed, row]) for row in range(3)]
        stock.owe(1)
        stock.pay(rngs, lambda: np.arange(3))
        copied, other = copy.deepcopy((rngs, stock))
        rngs[1] = np.random.default_rng([seed, 9])
        stock.forget(np.array([1]))
        found = stock.next(np.array([1]), rngs)[0]
        expected = ahead(3, goals=True, world=Dull)[0].next(np.arange(3), [np.random.default_rng([seed, row]) for row in (0, 9, 2)])[0]
        assert torch.equal(found.mean[0], expected.mean[1])
        assert torch.equal(other.next(np.array([0, 2]), copied)[0].mean, stock.next(np.array([0, 2]), rngs)[0].mean)
        assert copied[0].random() == rngs[0].random()


class Blank(Dull):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        _, info = super().reset(seed=seed, options=options)
        self.frames[:] = 7
        return {"frame": self.frames[tuple(self.position)].copy()}, info


def test_dull_worlds_are_walked_again() -> None:
    stock, bulks = ahead(4, goals=True, world=Dull)
    belief, _, _, paid = stock.next(np.arange(4), generators(4))
    assert len(bulks) > 1
    first = [next(number for number, bulk in enumerate(bulks, 1) if row in bulk) for row in range(4)]
    assert paid.tolist() == [29 * number for number in first]  # every walk taken counts, those thrown away too
    for row in range(4):
        assert len(belief.memory.values["z_mean"][row].unique(dim=0)) > 2
    with pytest.raises(ValueError, match="looked the same"):
        ahead(2, goals=True, world=Blank)[0].next(np.arange(2), generators(2))


def test_rewards_of_the_last_visit() -> None:
    """x_1 came without a reward; the place has the one received on coming back."""
    walk = walk_by_hand(Treasure(), np.array([3, 2, 1, 0, 2, 2]), seed=0)
    memory = MODEL.remember(walk).memory
    assert walk.rewards is not None
    found = newest_rewards(result_of(finding_places(MODEL, memory)), memory, 0.5)
    assert int(found.count) == 5
    assert torch.equal(found.s_mean, torch.tensor([[0.0, 0], [0, 1], [1, 0], [0, -1], [0, -2]]))
    assert torch.equal(found.values["reward"], walk.rewards[[4, 1, 3, 5, 6]])


def test_rewards_of_the_last_visit_in_first_person() -> None:
    """A heading one turn later is the same; the opposite one at the same place is another."""
    s = torch.tensor([[0.0, 0, 0], [0, 0, math.pi], [0, 0, 2 * math.pi], [0, 0, -math.pi]])
    values = {"reward": torch.tensor([0.0, 1, 2, 3]), "termination": torch.zeros(4, dtype=torch.bool)}
    memory = SpatialMemory(s, torch.ones_like(s), values)
    found = newest_rewards(memory.distinct(0.1), memory, 0.1)
    assert found.values["reward"].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("world", "kwargs", "known"),
    [
        (ID, {}, True),
        (ID, {"size": 4}, True),  # the default, spelt out
        (ID, {"render_mode": None}, True),
        (ID, {"size": 5}, False),
        (ID, {"pay": False}, False),
        ("GTMSM-ImageNavigation-v0", {}, False),
    ],
)
def test_which_worlds_a_model_knows(world: str, kwargs: dict[str, Any], known: bool) -> None:
    env = Treasure()
    if known:
        check_world(MODEL, world, kwargs, env.observation_space, env.action_space)
    else:
        with pytest.raises(ValueError, match="trained for"):
            check_world(MODEL, world, kwargs, env.observation_space, env.action_space)


def test_spaces_and_starts_of_worlds() -> None:
    env, model = Treasure(), treasure_model()
    check = lambda space: check_world(model, ID, {}, space, env.action_space)  # noqa: E731
    more = {**env.observation_space.spaces, "pose": gym.spaces.Box(0, 1, (2,), np.float32)}  # type: ignore[attr-defined]
    for space in (gym.spaces.Box(0, 255, (4, 4, 3), np.uint8), gym.spaces.Dict(more), gym.spaces.Dict({})):
        with pytest.raises(ValueError, match="under 'frame'"):
            check(space)
    with pytest.raises(ValueError, match="discrete actions"):
        check_world(model, ID, {}, env.observation_space, gym.spaces.Box(0, 1, (5,)))
    image = exact_model()
    assert image.world is not None
    image.world = {**image.world, "start": "corner"}
    world = gym.make("GTMSM-ImageNavigation-v0")
    with pytest.raises(ValueError, match="from corner"):
        check_world(image, "GTMSM-ImageNavigation-v0", {}, world.observation_space, world.action_space)


def test_padding_is_not_used() -> None:
    memory = MODEL.remember(walk_by_hand(Treasure(), np.array([3, 3]), seed=0)).memory
    assert memory._copy(6).used.tolist() == [True] * 3 + [False] * 3
    assert isinstance(MODEL, GTMSM)


def test_a_mistyped_world_is_told_as_such() -> None:
    with pytest.raises(gym.error.NameNotFound, match="ImageNavigatoin"):
        worlds.shipped_for("GTMSM-ImageNavigatoin-v0")
    for name in ("CartPole-v1", "somewhere:Else-v0"):  # another's world, and one whose module is not imported yet
        with pytest.raises(ValueError, match=f"none ships for {name}"):
            worlds.shipped_for(name)
