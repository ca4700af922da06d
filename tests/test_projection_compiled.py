"""The compiled loops of projected views against torch, which computes the same where they cannot."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gtmsm_env import loops
from gtmsm_env.floorplan import Sight, Stereo, along
from gtmsm_env.perspective import Camera, covering
from gtmsm_env.projection import ProjectedViews
from gtmsm_env.recipe_labyrinth import CAMERA

pytest.importorskip("numba")


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def alive(module: Any) -> Any:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3, generator=draws(9))
    return module.requires_grad_(False)


def poses(*shape: int, seed: int) -> Tensor:
    """Some behind the camera of others, and many out of their sight."""
    return (torch.rand(*shape, 3, generator=draws(seed)) - 0.5) * torch.tensor([4, 4, 4 * math.pi])


def asked(size: int, B: int, K: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = draws(1)
    views, view_depth = torch.rand(B, K, 3, size, size, generator=g), torch.rand(B, K, size, generator=g) * 4
    return views, poses(B, K, seed=2), view_depth, torch.rand(B, size, generator=g) * 4 + 0.3


def by_torch(monkeypatch: pytest.MonkeyPatch, function: Any, *inputs: Any) -> Any:
    with monkeypatch.context() as patch:
        patch.setattr(loops, "compiled_loops", lambda name: None)
        return function(*inputs)


@pytest.mark.parametrize(("size", "B", "K", "hidden"), [(32, 3, 8, 16), (8, 1, 1, 4), (40, 2, 3, 5), (8, 0, 2, 16)])
def test_a_canvas_is_as_torch_blends_it(monkeypatch: pytest.MonkeyPatch, size: int, B: int, K: int, hidden: int) -> None:
    """Rows of any length, networks of any size up to that of the model."""
    projected, inputs = alive(ProjectedViews((3, size, size), 6, CAMERA, K, hidden=hidden)), asked(size, B, K)
    expected = by_torch(monkeypatch, projected.blend, *inputs)
    torch.testing.assert_close(projected.blend(*inputs), expected, atol=3e-4, rtol=1e-4)
    with monkeypatch.context() as patch:  # it was not torch that answered
        patch.setattr(projected, "lay", None)
        projected.blend(*inputs)


def test_a_larger_network_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    projected, inputs = alive(ProjectedViews((3, 8, 8), 6, CAMERA, 2, hidden=17)), asked(8, 2, 2)
    torch.testing.assert_close(projected.blend(*inputs), by_torch(monkeypatch, projected.blend, *inputs))


@pytest.mark.parametrize(("size", "E", "J"), [(32, 2, 6), (8, 3, 1), (60, 1, 2), (8, 0, 2)])
def test_views_are_compared_as_by_torch(monkeypatch: pytest.MonkeyPatch, size: int, E: int, J: int) -> None:
    """More depths than columns, and fewer."""
    stereo, seen_from = Stereo(Camera(size, **CAMERA)), poses(E, J, seed=8)
    view, sources = torch.rand(E, 3, size, size, generator=draws(6)), torch.rand(E, J, 3, size, size, generator=draws(7))
    found, expected = stereo.sweep(view, seen_from, sources), by_torch(monkeypatch, stereo.sweep, view, seen_from, sources)
    assert not E or 0.05 < expected[1].float().mean() < 0.95
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        torch.testing.assert_close(one.float(), other.float(), atol=1e-4, rtol=0)


def test_depths_are_as_torch_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    sight, plan, s = alive(Sight(Camera(8, **CAMERA))), torch.rand(2, 2, 320, 320, generator=draws(0)) * 3, poses(2, 5, seed=3)
    depth = sight.depth(plan, s)
    assert depth.std() > 0.1
    torch.testing.assert_close(depth, by_torch(monkeypatch, sight.depth, plan, s), atol=1e-4, rtol=1e-4)


def test_a_plan_tells_along_columns_what_it_tells_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little evidence and much, also beyond the edge of the plan."""
    camera, plan = Camera(8, **CAMERA), torch.rand(2, 2, 320, 320, generator=draws(0)) ** 8 * 200
    s = poses(2, 5, seed=3) * torch.tensor([5, 5, 1])
    told = along(camera, plan, s, 48)
    assert (s[..., :2].abs() > 8).any()
    torch.testing.assert_close(told, by_torch(monkeypatch, along, camera, plan, s, 48), atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("size", [8, 12, 32])
def test_views_are_chosen_as_by_torch(monkeypatch: pytest.MonkeyPatch, size: int, known: bool) -> None:
    """Equal views in the order of their index; more than are usable, all the same."""
    memory = poses(3, 20, seed=4)
    memory[:, 1::2] = memory[:, ::2]
    usable = torch.rand(3, 1, 20, generator=draws(5)) < 0.6
    depth = (0.2 + 3 * torch.rand(3, 10, size, generator=draws(7))).repeat_interleave(2, dim=1) if known else None
    arguments = (Camera(size, **CAMERA), memory, usable, poses(3, 4, seed=6), 8, depth)
    assert torch.equal(covering(*arguments), by_torch(monkeypatch, covering, *arguments))


@pytest.mark.parametrize("learns", ["views", "weigh", "mend"])
def test_gradients_go_through_torch(learns: str) -> None:
    """To whatever wants them; and where none is wanted, parameters that learn do not matter."""
    projected, inputs = alive(ProjectedViews((3, 8, 8), 6, CAMERA, 2)), asked(8, 2, 2)
    wanted = [inputs[0]] if learns == "views" else list(getattr(projected, learns).parameters())
    for x in wanted:
        x.requires_grad_()
    canvas, _ = projected.blend(*inputs)
    canvas.square().sum().backward()
    for x in wanted:
        assert x.grad is not None
        assert x.grad.any()
    with torch.no_grad():
        torch.testing.assert_close(projected.blend(*inputs)[0], canvas.detach(), atol=3e-4, rtol=1e-4)


def test_other_precisions_and_devices_are_left_to_torch() -> None:
    x = torch.zeros(2, requires_grad=True)
    assert loops.loops_for("projection_compiled", x.detach())
    assert loops.loops_for("projection_compiled", x.double()) is None
    assert loops.loops_for("projection_compiled", x.detach(), x.detach().to("meta")) is None
    assert loops.loops_for("projection_compiled", x.detach(), x) is None
    with torch.no_grad():
        assert loops.loops_for("projection_compiled", x)


def test_numba_is_imported_when_a_frame_is_imagined_and_not_missed_where_it_is_absent(tmp_path: Path) -> None:
    code = """
import sys
from gtmsm_env import loops
from gtmsm_env.projection import ProjectedViews
print("numba" in sys.modules)
sys.modules["numba"] = None
print(loops.compiled_loops("projection_compiled"))
"""
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "None"]
