"""The values that pass between the parts, against torch.distributions and loops."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, fields

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from gtmsm_env.memory import SpatialMemory
from gtmsm_env.types import Belief, GaussianMixture, Tolerance, Walk, gaussian_log_prob, phi


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mixture(*batch: int, K: int = 3, d: int = 2) -> GaussianMixture:
    generator = draws()
    weight = torch.rand(*batch, K, generator=generator) + 0.1
    mean = torch.randn(*batch, K, d, generator=generator)
    return GaussianMixture((weight / weight.sum(-1, keepdim=True)).log(), mean, torch.rand(*batch, K, d, generator=generator) + 0.1)


# ---------------------------------------------------------------- walks


@pytest.mark.parametrize(
    ("frames", "actions"),
    [
        ((5, 2, 2, 3), (5,)),  # an action for x_1
        ((5, 2, 2, 3), (3,)),  # one lacks
        ((4, 5, 2, 2, 3), (4,)),  # no axis of steps
        ((4, 5, 2, 2, 3), (3, 4)),  # another number of walks
    ],
)
def test_a_walk_has_one_action_fewer_than_frames(frames: tuple[int, ...], actions: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"one action fewer than frames .*Record x_1 before"):
        Walk(torch.zeros(frames, dtype=torch.uint8), torch.zeros(actions, dtype=torch.int64))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("rewards", (3,)),
        ("terminations", (4, 1)),
        ("positions", (4,)),
        ("positions", (4, 3)),
        ("poses", (4, 2)),
        ("poses", (3, 3)),
        ("displacements", (3, 3)),  # one a frame, as the first has one too
        ("displacements", (4, 2)),
    ],
)
def test_a_walk_has_one_of_each_a_frame(name: str, shape: tuple[int, ...]) -> None:
    frames, actions = torch.zeros(4, 2, 2, 3, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=f"A walk has {name} of shape"):
        Walk(frames, actions, **{name: torch.zeros(shape)})


def test_a_walk_moves_with_all_that_it_holds() -> None:
    frames, actions = torch.zeros(4, 2, 2, 3, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)
    parts = torch.rand(4), torch.rand(4) > 0.5, torch.arange(8).reshape(4, 2), torch.rand(4, 3), torch.rand(4, 3)
    moved = Walk(frames, actions, *parts).to("meta")
    assert {field.name for field in fields(Walk) if getattr(moved, field.name).device.type == "meta"} == {f.name for f in fields(Walk)}
    assert Walk(frames, actions).to("cpu").rewards is None


def test_values_are_frozen() -> None:
    walk = Walk(torch.zeros(1, 2, 2, 3, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(FrozenInstanceError):
        walk.frames = walk.frames  # type: ignore[misc]


# ---------------------------------------------------------------- places and headings


def test_distances_of_headings_are_those_of_the_circle() -> None:
    """phi turns a heading into a point of the unit circle, so that its chord counts; a place is left as it is."""
    torch.testing.assert_close(phi(torch.tensor([3.0, -2.0, math.pi / 6])), torch.tensor([3.0, -2.0, 3**0.5 / 2, 0.5]))
    s, other = 3 * torch.randn(5, 4, 3, generator=draws()), 3 * torch.randn(5, 4, 3, generator=draws(1))
    square = (s[..., :2] - other[..., :2]).square().sum(dim=-1) + (2 * ((s[..., 2] - other[..., 2]) / 2).sin()).square()
    torch.testing.assert_close((phi(s) - phi(other)).norm(dim=-1), square.sqrt())
    torch.testing.assert_close(phi(s + torch.tensor([0, 0, 2 * math.pi])), phi(s), atol=1e-5, rtol=1e-5)
    assert torch.equal(phi(s[..., :2]), s[..., :2])


def test_a_tolerance_is_a_radius_and_an_angle() -> None:
    """Both ends included; headings are compared the short way round, and of a mere place the radius alone counts."""
    there = Tolerance(0.5, math.radians(10))
    here = torch.tensor([1.0, 1.0, math.radians(179)])
    cases = [
        ((1, 1, 179), True),
        ((1.3, 1.4, 179), True),
        ((1.3, 1.41, 179), False),
        ((1.5, 1, 169), True),
        ((1, 1, 168.9), False),
        ((1, 1, -171), True),  # 10 degrees on, past half a turn
        ((1, 1, -170.9), False),
        ((1, 1, 179 + 720), True),
        ((1, 1, -1), False),
    ]
    s = torch.tensor([[x, y, math.radians(degrees)] for (x, y, degrees), _ in cases])
    assert there(s, here).tolist() == [expected for _, expected in cases]
    assert there(here, s).tolist() == [expected for _, expected in cases]
    assert Tolerance(0.5)(s, here).tolist() == [True, True, False, *[True] * 6]
    assert there(s[:3, :2], here[:2]).tolist() == [True, True, False]
    assert there(s[:, None], s).shape == (9, 9)


# ---------------------------------------------------------------- Gaussians


def test_gaussian_log_prob() -> None:
    x, mean, variance = torch.randn(4, 3, generator=draws()), torch.randn(4, 3, generator=draws(1)), torch.rand(3, generator=draws(2)) + 0.1
    expected = Independent(Normal(mean, variance.sqrt().expand_as(mean)), 1).log_prob(x)
    torch.testing.assert_close(gaussian_log_prob(x, mean, variance), expected)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_log_prob_of_a_mixture(batch: tuple[int, ...]) -> None:
    m = mixture(*batch)
    z = torch.randn(*batch, 2, generator=draws(3))
    expected = MixtureSameFamily(Categorical(logits=m.log_weight), Independent(Normal(m.mean, m.variance.sqrt()), 1)).log_prob(z)
    torch.testing.assert_close(m.log_prob(z), expected)


def test_log_prob_far_from_every_component_is_finite() -> None:
    assert torch.isfinite(mixture().log_prob(torch.full((2,), 1e4)))


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_the_heaviest_component(batch: tuple[int, ...]) -> None:
    m = mixture(*batch)
    best = m.log_weight.reshape(-1, 3).argmax(-1)
    expected = torch.stack([m.mean.reshape(-1, 3, 2)[row, k] for row, k in enumerate(best)]).reshape(*batch, 2)
    assert torch.equal(m.heaviest(), expected)


def test_draws_of_a_mixture() -> None:
    """Each component is drawn as often as it weighs, and has its own mean and deviation."""
    count, weight = 20_000, torch.tensor([0.6, 0.3, 0.1])
    mean, deviation = torch.tensor([[0.0, 100.0], [1000.0, 0.0], [-1000.0, 5.0]]), torch.tensor([[1.0, 2.0], [3.0, 0.5], [0.1, 4.0]])
    m = GaussianMixture(weight.log().expand(count, 3), mean.expand(count, 3, 2), deviation.square().expand(count, 3, 2))
    z = m.sample(draws())
    assert z.shape == (count, 2)
    k = (z[:, None, 0] - mean[:, 0]).abs().argmin(dim=1)
    for j in range(3):
        drawn = z[k == j]
        assert abs(len(drawn) / count - weight[j]) < 0.015
        error = 5 * deviation[j] / len(drawn) ** 0.5
        assert ((drawn.mean(0) - mean[j]).abs() < error).all()
        assert ((drawn.std(0) - deviation[j]).abs() < error).all()
        assert abs(torch.corrcoef(drawn.T)[0, 1]) < 0.1
    assert torch.equal(z, m.sample(draws()))
    assert not torch.equal(z, m.sample(draws(1)))


# ---------------------------------------------------------------- beliefs


def belief(rows: int, seed: int, entries: int = 3) -> Belief:
    g = draws(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=g)

    memory = SpatialMemory(normal(entries, 2), normal(entries, 2), {"z_mean": normal(entries, 4), "z_variance": normal(entries, 4)})
    return Belief(normal(2), normal(2), normal(2), memory)


def tensors(of: Belief) -> dict[str, Tensor]:
    memory = of.memory
    parts = {"mean": of.mean, "variance": of.variance, "displacement": of.displacement, "s_mean": memory.s_mean, "count": memory.count}
    return parts | {"s_variance": memory.s_variance} | memory.values


@pytest.mark.parametrize("rows", [slice(1, 3), torch.tensor([2, 0, 2]), torch.tensor([True, False, True, True])])
def test_some_rows_of_a_belief(rows: Tensor | slice) -> None:
    whole = belief(4, 0)
    numbers = torch.arange(4)[rows].tolist()
    for name, part in tensors(whole[rows]).items():
        assert torch.equal(part, torch.stack([tensors(whole)[name][row] for row in numbers])), name


@pytest.mark.parametrize("rows", [torch.tensor([3, 1]), torch.tensor([False, True, False, True])])
def test_rows_put_into_a_belief(rows: Tensor) -> None:
    mine, other = belief(4, 0), belief(2, 1)
    before = {name: part.clone() for name, part in tensors(mine).items()}
    numbers = torch.arange(4)[rows].tolist()
    put = tensors(mine.put(rows, other))
    for name, part in put.items():
        for row in range(4):
            expected = tensors(other)[name][numbers.index(row)] if row in numbers else before[name][row]
            assert torch.equal(part[row], expected), name
        assert torch.equal(tensors(mine)[name], before[name])
