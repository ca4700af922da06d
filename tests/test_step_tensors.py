"""The dream's door for learners on the device: what `step` says, with nothing copied to NumPy and nothing waited for."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from exact import exact_model
from gymnasium.error import ResetNeeded
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gtmsm_env import dream_vector, graphs, loops
from gtmsm_env.data import record, walk
from gtmsm_env.dream import DreamVectorEnv
from gtmsm_env.episodes import Looks, Nearby, choose_goals, first_alike
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.types import Tolerance, result_of
from gtmsm_env.worlds import alike

WORLD = "GTMSM-ImageNavigation-v0"
MODEL = exact_model()
BELIEF = walk(gym.make_vec(WORLD, num_envs=6), MODEL, 64, np.random.default_rng(0), 0)


def dreams(mode: str = "NextStep", **kwargs: Any) -> DreamVectorEnv:
    return DreamVectorEnv(6, **{"model": MODEL, "belief": BELIEF, "start": "remembered", "horizon": 9, "autoreset_mode": mode, **kwargs})


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize("shown", ["frame", "belief", "state"])
def test_it_says_what_step_says(mode: str, shown: Any) -> None:
    """Rows begin again at the same steps, at the same places and with the same goals."""
    plain, tensors = dreams(mode, observation=shown), dreams(mode, observation=shown)
    plain.reset(seed=3)
    tensors.reset(seed=3)
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(60):
        if bool(tensors.spent.any()):
            break  # here `step` draws the next episodes, see below
        actions = rng.integers(0, 5, 6)
        expected, *flags, _ = plain.step(actions)
        observation, *found = tensors.step_tensors(torch.from_numpy(actions))
        assert observation.keys() == expected.keys()
        for name, value in observation.items():
            assert np.array_equal(value.numpy(), expected[name]), name
            assert value.numpy().dtype == expected[name].dtype
        for told, flag in zip(found, flags, strict=True):
            assert np.array_equal(told.numpy(), flag)
        ends += int((found[1] | found[2]).sum())
    assert ends > 20


def test_the_doors_can_be_mixed() -> None:
    plain, mixed = dreams(observation="state"), dreams(observation="state")
    plain.reset(seed=1)
    mixed.reset(seed=1)
    rng = np.random.default_rng(1)
    for step in range(40):
        actions = rng.integers(0, 5, 6)
        expected, reward, *_ = plain.step(actions)
        if step % 2:
            observation, told, *_ = mixed.step(actions)
        else:
            tensors, told_too, *_ = mixed.step_tensors(torch.from_numpy(actions))
            observation, told = {name: value.numpy() for name, value in tensors.items()}, told_too.numpy()
        assert all(np.array_equal(observation[name], expected[name]) for name in expected)
        assert np.array_equal(told, reward)


WAITS = {"_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "unique", "item"}


class NothingWaits(TorchDispatchMode):
    """Refuses whatever makes the host wait for a device, or whose shape depends on what the device computed."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.removesuffix("_default")
        assert name not in WAITS, f"aten::{name}"
        if name in ("index", "index_put", "index_put_"):
            assert not any(index is not None and index.dtype == torch.bool for index in args[1]), "indexed by a mask"
        if name == "_to_copy":
            assert "device" not in (kwargs or {}) or kwargs["device"] is None, "copied to another device"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_nothing_waits_for_the_device(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "compiled_loops", lambda name: None)  # which are for the CPU
    env = dreams(mode, observation="state", novelty=True)
    env.reset(seed=0)
    actions = torch.randint(5, (30, 6), generator=torch.Generator().manual_seed(0))

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("left the device")

    for name in ("numpy", "cpu", "tolist", "item", "__bool__", "__int__", "__float__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    with NothingWaits():
        told = [env.step_tensors(action) for action in actions]
    monkeypatch.undo()
    assert sum(int((terminated | truncated).sum()) for _, _, terminated, truncated in told) > 10
    with pytest.raises(AssertionError, match="nonzero"), NothingWaits():
        actions.nonzero()


def test_a_row_that_is_spent_begins_the_same_again_until_it_is_renewed() -> None:
    env = dreams("SameStep", observation="state", horizon=1)
    env.reset(seed=0)
    first = env.belief.mean.clone()
    stay = torch.full((6,), 4)
    size = env._episodes.size
    seen = [env.step_tensors(stay)[0]["state"] for _ in range(2 * size - 1)]
    assert all(torch.equal(a, b) for a, b in zip(seen[: size - 1], seen[size:], strict=True))  # the second to the last of each round
    assert torch.allclose(seen[size - 1], MODEL.in_steps(first))
    assert env.spent.all()
    renewed = env.renew()["state"]
    assert not env.spent.any()
    assert not any(torch.equal(renewed, old) for old in seen)


def test_spent_rows_enter_the_next_world() -> None:
    env = DreamVectorEnv(3, model=MODEL, walk_steps=32, observation="state", episodes_per_walk=2, horizon=2, autoreset_mode="SameStep")
    env.reset(seed=0)
    before, paid = env.belief.memory.s_mean.clone(), env._paid.copy()
    for _ in range(6):
        env.step_tensors(torch.full((3,), 4))
    assert (env._paid == paid).all()
    env.renew()
    assert (env._paid == paid + 31).all()
    after = env.belief.memory.s_mean
    assert before.shape != after.shape or not torch.equal(before, after)


def test_nothing_is_shared_out() -> None:
    env = dreams(observation="belief", novelty=True)
    env.reset(seed=0)
    stay = torch.full((6,), 4)
    told, reward, *flags = env.step_tensors(stay)
    copies = {name: value.clone() for name, value in told.items()}
    for value in (reward, *flags, *told.values()):
        value.zero_()
    again = env.step_tensors(stay)[0]
    assert all(torch.equal(again[name], copies[name]) for name in copies)


def test_what_is_refused() -> None:
    env = dreams()
    with pytest.raises(ResetNeeded):
        env.step_tensors(torch.zeros(6, dtype=torch.int64))
    with pytest.raises(ResetNeeded):
        env.renew()
    env.reset(seed=0)
    for actions in (torch.zeros(6), torch.zeros(5, dtype=torch.int64), torch.zeros(6, 1, dtype=torch.int64)):
        with pytest.raises(ValueError, match="one action a row"):
            env.step_tensors(actions)
    with pytest.raises(ValueError, match=r"tensor of actions, one a row; given <class 'numpy\.ndarray'>"):
        env.step_tensors(np.zeros(6, np.int64))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"one of \['NextStep', 'SameStep', 'Disabled'\], got 'samestep'"):
        dreams("samestep")
    with pytest.raises(ValueError, match="autoreset_mode"):
        dreams("Disabled").step_tensors(torch.zeros(6, dtype=torch.int64))


# ---------------------------------------------------------------- the parts, beside their slow twins


def of_random(rows: int = 5, places: int = 11, n: int = 2, kinds: int = 4) -> SpatialMemory:
    """Memories of different sizes, in which a few encodings come again and again."""
    generator = torch.Generator().manual_seed(n)
    s = torch.randn(rows, places, n, generator=generator)
    z = torch.randn(rows, kinds, 6, generator=generator)
    which = torch.randint(kinds, (rows, places), generator=generator)
    z = z.gather(1, which[..., None].expand(-1, -1, 6)) + 1e-5 * torch.randn(rows, places, 6, generator=generator)
    count = torch.randint(3, places + 1, (rows,), generator=generator)
    return SpatialMemory(s, torch.ones_like(s), {"z_mean": z, "z_variance": torch.ones_like(z)}, count)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("shared", [False, True])
def test_distances_are_those_of_the_memory(n: int, shared: bool) -> None:
    memory = of_random(n=n)
    if shared:
        own = memory[torch.tensor([1])]
        memory = SpatialMemory(*(x.expand(5, -1, -1) for x in (own.s_mean, own.s_variance)), {}, own.count.expand(5))
    s = torch.randn(5, n, generator=torch.Generator().manual_seed(1))
    nearby = Nearby(memory)
    distance, index = memory.nearest(s, 1)
    torch.testing.assert_close(nearby.distance(s), distance[:, 0])
    assert torch.equal(nearby.index(s), index[:, 0])
    if not shared:
        other, rows = of_random(2, 7, n), torch.tensor([3, 0])
        nearby.put(rows, other)
        torch.testing.assert_close(nearby.distance(s)[rows], other.nearest(s[rows], 1)[0][:, 0])
        torch.testing.assert_close(nearby.distance(s)[[1, 2, 4]], distance[[1, 2, 4], 0])


def test_places_that_look_alike() -> None:
    memory = of_random()
    z, used = memory.values["z_mean"], memory.used
    label = first_alike(z, used)
    looks = Looks.of(memory)
    assert torch.equal(looks.label, label)
    classes = 0
    for row, count in enumerate(memory.count.tolist()):
        for place in range(count):
            twins = [other for other in range(count) if alike(z[row, place], z[row, other])]
            assert label[row, place] == twins[0]
            listed = looks[torch.tensor([row])].places(torch.tensor([[place]]), memory.s_mean[row, None])[0, 0]
            assert torch.equal(listed[0], memory.s_mean[row, place])
            listed = listed[listed.isfinite().all(dim=-1)]
            assert {tuple(s) for s in listed.tolist()} == {tuple(s) for s in memory.s_mean[row, twins].tolist()}
            assert len(listed) == len(twins)
            classes += len(twins) > 1
    assert classes > 10


def test_goals_look_unlike_the_start_and_are_drawn_alike() -> None:
    memory, there = of_random(4), Tolerance(0.5)
    z, looks = memory.values["z_mean"], Looks.of(memory)
    number = torch.rand(4, 3000, generator=torch.Generator().manual_seed(0))
    start = memory.s_mean[:, :1] + 0.2
    entry, choices = choose_goals(number, start, memory.s_mean, memory.count, looks, there, 0.5)
    for row, count in enumerate(memory.count.tolist()):
        at_start = [p for p in range(count) if (memory.s_mean[row, p] - start[row, 0]).norm() <= 0.5]
        allowed = [p for p in range(count) if p not in at_start and not any(alike(z[row, p], z[row, q]) for q in at_start)]
        assert (choices[row] == len(allowed)).all()
        drawn = np.bincount(entry[row].numpy(), minlength=count)
        assert set(np.flatnonzero(drawn)) == set(allowed)
        assert (np.abs(drawn[allowed] - 3000 / len(allowed)) < 5 * (3000 / len(allowed)) ** 0.5).all()


@pytest.mark.parametrize("prior", ["views", "mixture"])
def test_frames_that_are_remembered_are_looked_up(prior: str) -> None:
    """What is decoded once and looked up is what decoding every row shows, and does not depend on other rows."""
    model = exact_model(prior=prior)
    belief = model.remember(record(gym.make_vec(WORLD, num_envs=6), 64, np.random.default_rng(2), 2))
    places = model.places(belief.memory)
    memory = result_of(model.drawing(places))
    rng = torch.Generator().manual_seed(0)
    away = model.step_length * torch.randn(6, 7, 2, generator=rng) * (torch.rand(6, 7, 1, generator=rng) < 0.5)
    s = memory.s_mean[:, :7] + away
    frames = model.decode(s, memory)
    assert torch.equal(frames, model.decode(s, places))
    alone = torch.stack([model.decode(s[row, None, :3], memory[torch.tensor([row])])[0] for row in range(6)])
    assert torch.equal(alone, frames[:, :3])


# ---------------------------------------------------------------- replayed as one CUDA graph


class Called:
    """What `graphs.Replayed` is, by calling the function anew: three times to begin with, as a graph is recorded. As a graph does, later
    calls read what there was when it was recorded, and leave nothing behind but what they return.
    """

    def __init__(self, function: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> None:
        self.function, envs = function, inspect.getclosurevars(function).nonlocals["self"]
        for _ in range(3):
            function(*(x.clone() for x in inputs))
        self.owners = envs, envs._episodes
        self.recorded = [dict(vars(owner)) for owner in self.owners]

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        before = [dict(vars(owner)) for owner in self.owners]
        self.put(self.recorded)
        found = [x.clone() for x in self.function(*(x.clone() for x in inputs))]
        self.put(before)
        return found

    def put(self, attributes: list[dict[str, Any]]) -> None:
        for owner, those in zip(self.owners, attributes, strict=True):
            vars(owner).clear()
            vars(owner).update(those)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
@pytest.mark.parametrize("shown", ["frame", "state"])
def test_a_replayed_step_is_the_same_step(mode: str, shown: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step as a function of all that it changes, recorded anew where what it reads has changed: when rows enter other worlds."""
    monkeypatch.setattr(loops, "compiled_loops", lambda name: None)
    monkeypatch.setattr(dream_vector, "Replayed", Called)
    more: dict[str, Any] = {"model": MODEL, "walk_steps": 32, "episodes_per_walk": 2, "horizon": 5, "start": "remembered"}
    plain, replayed = (DreamVectorEnv(6, **more, observation=shown, novelty=True, autoreset_mode=mode) for _ in range(2))
    replayed._replays = True
    for envs in (plain, replayed):
        envs.reset(seed=5)
    rng = np.random.default_rng(2)
    ends = 0
    for count in range(72):
        actions = rng.integers(0, 5, 6)
        if count % 23 == 22:
            told = [[*envs.step(actions)[:4]] for envs in (plain, replayed)]
        elif count % 29 == 28:
            mask = np.arange(6) % 2 == 0
            told = [[envs.reset(options={"reset_mask": mask})[0]] for envs in (plain, replayed)]
        elif count % 7 == 6:
            told = [[envs.renew()] for envs in (plain, replayed)]
        else:
            told = [[*envs.step_tensors(torch.from_numpy(actions))] for envs in (plain, replayed)]
            ends += int((told[0][2] | told[0][3]).sum())
        expected, found = ([*one[0].items(), *enumerate(one[1:])] for one in told)
        assert len(expected) == len(found)
        for (name, value), (other, same) in zip(expected, found, strict=True):
            assert name == other
            assert np.array_equal(value, same)
        assert torch.equal(plain.belief.mean, replayed.belief.mean)
        assert np.array_equal(plain._ended, replayed._ended)
    assert ends > 20
    assert plain._paid.max() > 4 * 32  # steps of walks
    assert replayed._replayed
    assert pickle.loads(pickle.dumps(replayed))._replayed is None


def test_what_cannot_be_compiled_is_computed_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_nothing(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*inputs: Tensor) -> Tensor:
            raise RuntimeError("Failed to find C compiler")

        return call

    def total(a: Tensor, b: Tensor) -> Tensor:
        return a + b

    monkeypatch.setattr(torch, "compile", compile_nothing)
    call, x = graphs.fused(total), torch.ones(2)
    with pytest.warns(UserWarning, match="cannot compile total, which is slower now: Failed to find C compiler"):
        assert torch.equal(call(x, x), 2 * x)
    assert torch.equal(call(x, 2 * x), 3 * x)  # of which no warning tells again
    with pytest.raises(RuntimeError, match="size of tensor"):
        call(x, torch.ones(3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("shown", ["frame", "state"])
def test_a_gpu_says_what_a_cpu_says(shown: Any) -> None:
    there = deepcopy(MODEL).to("cuda")  # a model that is given stays where it is
    belief = walk(gym.make_vec(WORLD, num_envs=6), there, 64, np.random.default_rng(0), 0)
    plain, replayed = dreams(observation=shown), dreams(observation=shown, model=there, belief=belief)
    assert replayed._replays
    for envs in (plain, replayed):
        envs.reset(seed=5)
    for count, actions in enumerate(torch.randint(5, (40, 6), generator=torch.Generator().manual_seed(0))):
        if count == 20:
            for envs in (plain, replayed):
                envs.reset(options={"reset_mask": np.arange(6) < 3})
        expected, *flags = plain.step_tensors(actions)
        observation, *found = replayed.step_tensors(actions.cuda())
        for name, value in expected.items():
            assert torch.allclose(value.float(), observation[name].cpu().float(), atol=1 if value.dtype == torch.uint8 else 1e-4), name
        assert all(torch.equal(told, other.cpu()) for told, other in zip(flags, found, strict=True))
