"""The compiled loops of small networks and of VAEs against torch, which computes the same where they cannot."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gtmsm_env.model import GTMSM
from gtmsm_env.networks import PastedPatches, looked_up
from gtmsm_env.transitions import LinearWithWalls, Rotation

pytest.importorskip("numba")

from gtmsm_env import loops, networks_compiled

MODEL = GTMSM.load("image-navigation")


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("rows", [0, 1, 5, 100, 600])
def test_moves_are_those_of_equation_4(rows: int, steps: int) -> None:
    """Of the law that ships, and of one whose walls are anywhere."""
    drawn = LinearWithWalls(5).requires_grad_(False)
    for parameter in drawn.parameters():
        nn.init.normal_(parameter, std=0.5, generator=draws(1))
    drawn.wall_scale.copy_(torch.tensor([0.3, 2.0]))
    s, a = torch.randn(rows, 2, generator=draws(2)), torch.randint(5, (rows, steps), generator=draws(3))
    for law in (MODEL.transition, drawn):
        moved = networks_compiled.moves(law)
        assert moved is not None
        if law is drawn:  # by a training that goes on while it is dreamed of
            for parameter in law.parameters():
                parameter.mul_(1.1)
        now = s
        with torch.no_grad():
            for step, found in enumerate(zip(*(x.unbind(dim=1) for x in moved(s, a)), strict=True)):
                torch.testing.assert_close(found, law(now, torch.zeros_like(now), a[:, step]), atol=5e-6, rtol=1e-5)
                now = found[0]
    gates = drawn.gate(s + drawn.W_a.t()[a[:, 0]])
    assert rows < 100 or gates.max() - gates.min() > 0.5


def test_plans_that_begin_alike_are_walked_once() -> None:
    """To the last bit as each alone; from several starts, some of them the same, and until all differ."""
    moved = networks_compiled.moves(MODEL.transition)
    assert moved is not None
    starts = torch.randn(4, 2, generator=draws(0)).repeat_interleave(torch.tensor([150, 1, 200, 249]), dim=0)
    plans = torch.randint(5, (600, 5), generator=draws(1))
    plans[300:310] = plans[300]
    found = moved(starts, plans)
    alone = [moved(starts[row : row + 1], plans[row : row + 1]) for row in range(600)]
    for one, each in zip(found, zip(*alone, strict=True), strict=True):
        assert torch.equal(one, torch.cat(each))
    for wrong in (5, -1, 2**32 + 1):
        plans[420, 2] = wrong
        with pytest.raises(IndexError, match="smaller than the number of actions"):
            moved(starts, plans)


def test_a_move_does_not_depend_on_those_beside_it() -> None:
    moved = networks_compiled.moves(MODEL.transition)
    assert moved is not None
    s, a = torch.randn(600, 2, generator=draws(2)), torch.randint(5, (600, 3), generator=draws(3))
    together = moved(s, a)
    for row in (0, 15, 16, 255, 256, 599):
        alone = moved(s[row, None], a[row, None])
        assert all(torch.equal(one[0], all_[row]) for one, all_ in zip(alone, together, strict=True))
    first = moved(s, a[:, 0])
    assert all(torch.equal(one, all_[:, 0]) for one, all_ in zip(first, together, strict=True))


def test_other_laws_are_left_to_torch() -> None:
    free = LinearWithWalls(5)
    free.walls = False
    assert networks_compiled.moves(free) is None
    assert networks_compiled.moves(Rotation(4)) is None
    own = LinearWithWalls(5)
    own.g = nn.Sequential(nn.Linear(2, 1))
    odd = [LinearWithWalls(5) for _ in range(4)]
    for law, (wide, narrow) in zip(odd, [(64, 32), (32, 64)], strict=False):
        law.g = nn.Sequential(nn.Linear(2, wide), nn.SiLU(), nn.Linear(wide, narrow), nn.SiLU(), nn.Linear(narrow, 1))
    odd[2].g[1] = nn.Tanh()
    odd[3].g.bfloat16()
    for other in (own, LinearWithWalls(5, state_size=3), LinearWithWalls(5, hidden=30), *odd):
        assert networks_compiled.moves(other) is None


def test_actions_that_there_are_not() -> None:
    """As torch does, loops look nothing up beyond the law."""
    moved = networks_compiled.moves(MODEL.transition)
    assert moved is not None
    for action in (5, -1, 10**12):
        with pytest.raises(IndexError):
            moved(torch.zeros(3, 2), torch.full((3, 1), action))
        with pytest.raises(IndexError):
            MODEL.transition.rollout(torch.zeros(3, 2), torch.zeros(3, 2), torch.full((3, 2), action))


def test_a_law_may_be_replaced() -> None:
    """By weights that lie elsewhere; and each law has its own loops."""
    law, other = copy.deepcopy(MODEL.transition), copy.deepcopy(MODEL.transition)
    s, a = torch.randn(9, 2, generator=draws(2)), torch.randint(4, (9, 1), generator=draws(3))
    before = networks_compiled.moves(law)(s, a)[1]  # type: ignore[misc]
    for parameter in law.parameters():
        parameter.data = torch.zeros_like(parameter)
    assert not networks_compiled.moves(law)(s, a)[1].any()  # type: ignore[misc]
    assert torch.equal(networks_compiled.moves(other)(s, a)[1], before)  # type: ignore[misc]
    other.wall_scale = other.wall_scale / 100
    assert not torch.equal(networks_compiled.moves(other)(s, a)[1], before)  # type: ignore[misc]
    other.walls = False
    assert networks_compiled.moves(other) is None
    other.walls, other.g = True, nn.Sequential(nn.Linear(2, 1))
    assert networks_compiled.moves(other) is None
    assert before.any()


@pytest.mark.parametrize("half", [False, True])
def test_patches_are_pasted_as_by_a_transposed_convolution(half: bool) -> None:
    """Of places that do not lie in a square; in half precision, which products alone then have."""
    torch.manual_seed(2)
    layer = PastedPatches(5, 3, 6, stride=2, padding=1)
    x = torch.randn(4, 5, 3, 7)
    with torch.no_grad():
        expected = nn.functional.conv_transpose2d(x, layer.weight, layer.bias, stride=2, padding=1)
        found = layer.bfloat16()(x.bfloat16()) if half else layer(x)
    assert found.dtype == (torch.bfloat16 if half else torch.float32)
    torch.testing.assert_close(found.float(), expected, atol=0.05 if half else 1e-5, rtol=0)


@pytest.mark.parametrize("shared", [False, True])
def test_views_are_looked_up_as_by_torch(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, halves and what is no colour included; of one memory for all rows too."""
    views = torch.randint(-20, 531, (4, 6, 3, 5, 7), generator=draws(3)) / 510
    views = views[:1].expand(4, -1, -1, -1, -1) if shared else views
    row, index = torch.arange(4).repeat_interleave(3), torch.tensor([0, 5, 1] * 4)
    frames = looked_up(views, row, index)
    monkeypatch.setattr(loops, "compiled_loops", lambda name: None)
    assert torch.equal(frames, looked_up(views, row, index))
    assert looked_up(views, row[:0], index[:0]).shape == (0, 5, 7, 3)
    with pytest.raises(IndexError):
        networks_compiled.looked_up(views, row, index + 1)


def test_double_precision_stays_double() -> None:
    layer, x = PastedPatches(5, 3, 6, stride=2, padding=1).double(), torch.randn(2, 5, 4, 4, dtype=torch.float64, generator=draws(4))
    with torch.no_grad():
        expected = nn.functional.conv_transpose2d(x, layer.weight, layer.bias, stride=2, padding=1)
        torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)
