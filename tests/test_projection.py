"""Projected views pixel by pixel against a loop, and in a room whose geometry is known."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from rooms import KnownRoom, psnr
from torch import Tensor

from gtmsm_env import perspective
from gtmsm_env.floorplan import CELLS, along, clearance, floor_plan, kept_out, something
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.networks import frames_to_x
from gtmsm_env.perspective import covering, relative
from gtmsm_env.projection import ProjectedViews, stops
from gtmsm_env.recipe_labyrinth import CAMERA

SIZE, D, K = 8, 6, 3


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def views_prior(alive: bool = True, size: int = SIZE, K: int = K) -> ProjectedViews:
    """With weights drawn, or as training begins."""
    projected = ProjectedViews((3, size, size), D, CAMERA, K, sources=2, hidden=4).requires_grad_(False)
    if alive:
        for parameter in projected.parameters():
            torch.nn.init.normal_(parameter, std=0.2, generator=draws(9))
    return projected


def walked(batch: tuple[int, ...], steps: int = 7, seed: int = 0, room: int = 0) -> SpatialMemory:
    """Poses and frames; `room` more entries are padding, full of what no read may return."""
    g = draws(seed)
    s = (torch.rand(*batch, steps + room, 3, generator=g) - 0.5) * torch.tensor([3, 3, 4 * math.pi])
    z = torch.zeros(*batch, steps + room, D)
    frames = torch.randint(256, (*batch, steps + room, SIZE, SIZE, 3), generator=g).to(torch.uint8)
    values = {"z_mean": z, "z_variance": z + 1, "frame": frames}
    return SpatialMemory(s, torch.ones_like(s), values, torch.full(batch, steps))


def queries(*shape: int, seed: int = 5) -> Tensor:
    return (torch.rand(*shape, 3, generator=draws(seed)) - 0.5) * torch.tensor([3, 3, 4 * math.pi])


# ---------------------------------------------------------------- what a memory implies


def blend(projected: ProjectedViews, views: Tensor, seen_from: Tensor, view_depth: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
    """Of memories and queries (M, Q, ...)."""
    canvas, laid = projected.blend(*(x.flatten(0, 1) for x in (views, seen_from, view_depth, depth)))
    return canvas.unflatten(0, views.shape[:2]), laid.unflatten(0, views.shape[:2])


def test_a_memory_is_recalled_as_its_parts_say() -> None:
    """Every second entry by stereo with those that cover most of it, itself left out; all of it on one plan; once more by who knows that
    plan; then every entry by sight.
    """
    projected, memory = views_prior(), walked(())
    recalled = projected.recall(memory)
    poses, views, used = memory.s_mean[None], frames_to_x(memory.values["frame"])[None], memory.used[None]
    found = []
    for entry in (0, 2, 4, 6):
        others = torch.arange(7)[None, None] != entry
        which = covering(projected.camera, poses, others, poses[:, entry, None], 2)[0]
        assert entry not in which.tolist()
        found.append(projected.stereo.compare(views[:, entry], poses[:, entry], views[0, which], poses[0, which]))
    stereo = projected.stereo
    first = floor_plan(projected.camera, poses[:, ::2], torch.stack([stereo(x).exp() for x in found], dim=1), used[:, ::2])
    told = along(projected.camera, first, poses[:, ::2], stereo.D)
    again = torch.stack([stereo.again(x, told[:, e]).exp() for e, x in enumerate(found)], dim=1)
    plan = floor_plan(projected.camera, poses[:, ::2], again, used[:, ::2])
    torch.testing.assert_close(recalled.facts["plan"], plan[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(recalled.values["depth"], projected.sight.depth(plan, poses)[0], atol=1e-3, rtol=1e-3)
    assert torch.equal(recalled.values["view"], views[0])
    assert torch.equal(recalled.facts["clearance"], clearance(something(recalled.facts["plan"][None]))[0])
    assert recalled.values.keys() - memory.values.keys() == {"view", "depth"}
    assert recalled.s_mean is memory.s_mean


@pytest.mark.parametrize("batch", [(2,), (2, 2)])
def test_memories_are_recalled_as_each_alone(batch: tuple[int, ...]) -> None:
    """Whatever stands in their padding."""
    projected, memory = views_prior(), walked(batch, room=4)
    recalled, s = projected.recall(memory), queries(*batch, 5)
    canvas, laid = projected(s, recalled)
    for at in itertools.product(*map(range, batch)):
        values = {name: value[at][:7] for name, value in memory.values.items()}
        alone = projected.recall(SpatialMemory(memory.s_mean[at][:7], memory.s_variance[at][:7], values))
        torch.testing.assert_close(recalled.facts["plan"][at], alone.facts["plan"], atol=1e-4, rtol=1e-4)
        assert torch.equal(recalled.facts["clearance"][at], alone.facts["clearance"])
        torch.testing.assert_close(recalled.values["depth"][at][:7], alone.values["depth"], atol=1e-3, rtol=1e-3)
        for q in range(5):
            for mine, other in zip((canvas, laid), projected(s[(*at, q)], alone), strict=True):
                torch.testing.assert_close(mine[(*at, q)], other, atol=1e-3, rtol=1e-3)


def test_depths_are_found_in_chunks_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    projected, memory = views_prior(), walked((2,))
    whole = projected.recall(memory).facts["plan"]
    monkeypatch.setattr(perspective, "AT_ONCE", 3)
    torch.testing.assert_close(projected.recall(memory).facts["plan"], whole)


def test_one_more_entry_is_as_if_recalled_with_the_plan_as_it_was() -> None:
    for batch in ((), (3,), (2, 2)):
        projected, memory = views_prior(), walked(batch)
        recalled, s = projected.recall(memory), walked(batch, 1, seed=4)
        entry = projected.entry(s.s_mean.squeeze(-2), s.values["frame"].squeeze(len(batch)), recalled)
        plan = recalled.facts["plan"].reshape(-1, 2, CELLS, CELLS)
        expected = projected.sight.depth(plan, s.s_mean.reshape(-1, 1, 3)).reshape(*batch, SIZE)
        torch.testing.assert_close(entry["depth"], expected)
        assert torch.equal(entry["view"], frames_to_x(s.values["frame"].squeeze(len(batch))))
        written = recalled.write(
            s.s_mean.squeeze(-2), s.s_variance.squeeze(-2), **{n: x.squeeze(len(batch)) for n, x in s.values.items()}, **entry
        )
        assert projected(s.s_mean, written)[0].shape == (*batch, 1, 3, SIZE, SIZE)


@pytest.mark.parametrize("batch", [(), (2,), (2, 2)])
def test_an_agent_is_kept_out_by_its_own_memory(batch: tuple[int, ...]) -> None:
    """Whatever its heading, which stays."""
    clear = clearance(torch.rand(math.prod(batch), CELLS, CELLS, generator=draws()) < 0.02)
    memory = walked(batch).but(facts={"clearance": clear.reshape(*batch, CELLS, CELLS)})
    for shape in ((), (5,), (2, 30)):
        s = 10 * (torch.rand(*batch, *shape, 3, generator=draws(1)) - 0.5)
        found = stops(memory, 0.15)(torch.zeros_like(s), s)
        assert torch.equal(found[..., 2], s[..., 2])
        for row, at in enumerate(itertools.product(*map(range, batch))):
            expected = kept_out(clear[row, None], s[at][..., :2].reshape(1, -1, 2))
            torch.testing.assert_close(found[at][..., :2].reshape(1, -1, 2), expected)
    assert (found != s).any()


@pytest.mark.parametrize("thick", [1, 3, 20])
@pytest.mark.parametrize("step", [0.15, 0.25, 0.4])
def test_no_step_leads_through_a_wall(step: float, thick: int) -> None:
    """Of agents however fast; what they do not meet leaves them exactly where they go."""
    stands = torch.zeros(1, CELLS, CELLS, dtype=torch.bool)
    stands[:, :, 170 : 170 + thick] = True  # from .84 on
    stop = stops(SpatialMemory(torch.zeros(1, 3), torch.ones(1, 3), {}, facts={"clearance": clearance(stands)[0]}), step)
    s = torch.stack([torch.linspace(-0.3, 0.3, 40), torch.linspace(-1, 1, 40), torch.zeros(40)], dim=-1)
    for _ in range(20):
        moved = s + torch.tensor([step, 0.01, 0.0])
        after = stop(s, moved)
        free = (s[:, 0] + step < 0.5) & (s[:, 0] < 0.5)
        assert torch.equal(after[free], moved[free])
        s = after
        assert (s[:, 0] < 0.8).all()
    assert (s[:, 0] > 0.5).all()


# ---------------------------------------------------------------- the canvas


def slow_canvas(
    projected: ProjectedViews, views: Tensor, poses: Tensor, view_depth: Tensor, s: Tensor, depth: Tensor
) -> tuple[Tensor, Tensor]:
    """What is blended, and all that is laid, of one pose s (3,) with its own depths (W,).

    Of views (K, C, H, W) at poses (K, 3) with depths (K, W).
    """
    camera, K = projected.camera, len(views)
    middle, x, y, heading = SIZE / 2 - 0.5, *s.tolist()
    blended, laid = torch.zeros(3, SIZE, SIZE), torch.zeros(8, SIZE, SIZE)
    for v, u in itertools.product(range(SIZE), range(SIZE)):
        aside, slope = (u - middle) / camera.focal, (middle - v) / camera.focal
        far = min(float(depth[u]), CAMERA["height"] / -slope if slope < 0 else (CAMERA["ceiling"] - CAMERA["height"]) / slope)
        place = x + far * (math.cos(heading) + aside * math.sin(heading)), y + far * (math.sin(heading) - aside * math.cos(heading))
        found: list[dict[str, Any]] = []
        for view, (p, q, to), walls in zip(views, poses.tolist(), view_depth.tolist(), strict=True):
            ahead = (place[0] - p) * math.cos(to) + (place[1] - q) * math.sin(to)
            left = (place[1] - q) * math.cos(to) - (place[0] - p) * math.sin(to)
            near = max(ahead, 0.1)
            column, row = middle - camera.focal * left / near, middle - camera.focal * slope * far / near
            i, j = (min(max(c, 0), SIZE - 1) for c in (row, column))
            top, beside = min(int(i), SIZE - 2), min(int(j), SIZE - 2)
            above, below = ((1 - j + beside) * view[:, r, beside] + (j - beside) * view[:, r, beside + 1] for r in (top, top + 1))
            out = max(0.0, -column, column - SIZE + 1, -row, row - SIZE + 1)
            wall = walls[min(max(math.floor(column + 0.5), 0), SIZE - 1)]
            found.append(
                {
                    "colour": (1 - i + top) * above + (i - top) * below,
                    "front": float(ahead > 0.1),
                    "outside": out,
                    "inside": float(ahead > 0.1 and out < 0.5),
                    "hidden": min(max((ahead - wall) / max(ahead, 0.3), -1), 1),
                    "away": math.hypot(x - p, y - q),
                    "size": min(max(math.log(near / far), -2), 2),
                    "between": [8 * (c - round(c)) ** 2 for c in (column, row)],
                }
            )
        count = sum(f["inside"] for f in found)
        mean = sum((f["inside"] * f["colour"] for f in found), torch.zeros(3)) / max(count, 1)
        logits = []
        for f in found:
            told = [f["front"], min(f["outside"], 3), f["inside"], f["hidden"], max(f["hidden"], 0), f["away"], f["size"], abs(f["size"])]
            told += [*f["between"], 4 * float((f["colour"] - mean).abs().mean())]
            logits.append(float(projected.weigh(torch.tensor(told))) - 20 * (1 - f["front"]) - 2 * min(f["outside"], 8))
        weights = torch.tensor(logits).softmax(dim=0).tolist()
        colour = sum((w * f["colour"] for w, f in zip(weights, found, strict=True)), torch.zeros(3))
        spread = sum(w * float((f["colour"] - colour).abs().mean()) for w, f in zip(weights, found, strict=True))
        blended[:, v, u] = colour
        sure = math.log(sum(math.exp(logit) for logit in logits)) / 4
        laid[:, v, u] = torch.tensor([*(colour - 0.5).tolist(), 4 * spread, sure, 0.25 / far, slope, count / K])
    return blended, laid


def test_a_canvas_is_blended_as_by_loops() -> None:
    projected, g = views_prior(), draws(2)
    s, poses = queries(2, 2), queries(2, 2, K, seed=6)
    views, view_depth, depth = (
        torch.rand(2, 2, K, 3, SIZE, SIZE, generator=g),
        torch.rand(2, 2, K, SIZE, generator=g) * 4,
        torch.rand(2, 2, SIZE, generator=g) * 4 + 0.3,
    )
    canvas, laid = blend(projected, views, relative(s[:, :, None], poses), view_depth, depth)
    assert canvas.shape == (2, 2, 3, SIZE, SIZE)
    for at in itertools.product(range(2), range(2)):
        blended, expected = slow_canvas(projected, views[at], poses[at], view_depth[at], s[at], depth[at])
        torch.testing.assert_close(laid[at], expected, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(canvas[at], blended + projected.mend(expected[None])[0], atol=1e-3, rtol=1e-3)
    assert 0.05 < laid[:, :, -1].mean() < 0.95  # some views show some pixels


def test_a_state_is_shown_by_the_views_that_cover_most_of_it() -> None:
    """And those alone, with the depths that the plan shows there."""
    projected, memory = views_prior(), projected_memory()
    s = queries(4)
    canvas, laid = projected(s, memory)
    which = covering(projected.camera, memory.s_mean[None], memory.used[None, None], s[None], K, memory.values["depth"][None])[0]
    depth = projected.sight.depth(memory.facts["plan"][None], s[None])
    view, known = memory.values["view"][which][None], memory.values["depth"][which][None]
    expected = blend(projected, view, relative(s[:, None], memory.s_mean[which])[None], known, depth)
    torch.testing.assert_close((canvas[None], laid[None]), expected)


def projected_memory() -> SpatialMemory:
    return views_prior().recall(walked(()))


@pytest.mark.parametrize("turn", [0.0, 0.4])
def test_a_view_seen_from_its_own_place_needs_no_depth(turn: float) -> None:
    """From its own pose it is itself, whatever depth is believed; turned, it is the same at any depth, where it shows anything."""
    projected, g = views_prior(alive=False, K=1), draws(3)
    view, pose = torch.rand(1, 1, 1, 3, SIZE, SIZE, generator=g), queries(1, 1, 1)
    s = pose[:, :, 0] + torch.tensor([0, 0, turn])
    near, far = (
        blend(projected, view, relative(s[:, :, None], pose), torch.full((1, 1, 1, SIZE), 2.0), torch.full((1, 1, SIZE), depth))
        for depth in (0.7, 5.0)
    )
    shown = (near[1][:, :, -1:] > 0).expand(1, 1, 3, -1, -1)
    torch.testing.assert_close(near[0][shown], far[0][shown], atol=1e-4, rtol=1e-4)
    if not turn:
        assert shown.all()
        torch.testing.assert_close(near[0], view[:, :, 0], atol=1e-4, rtol=1e-4)
    else:
        assert 0.5 < shown.float().mean() < 1
        left = near[0][0, 0, :, :, 0] - view[0, 0, 0, :, :, 0]  # turned to the left, other things come into view there
        assert left.abs().max() > 0.1


def test_canvases_of_true_depths_are_what_is_seen_there() -> None:
    """Before anything is learned but depth: far better than the nearest frame copied, or than the same views at a wrong depth."""
    room, size = KnownRoom(), 32
    memory, s = room.poses(60), room.poses(24, seed=1)
    projected = views_prior(alive=False, size=size, K=4)
    for parameter in projected.weigh.parameters():
        parameter.zero_()
    projected.weigh[0].weight[:2, 4], projected.weigh[0].weight[2:, 5] = (
        5.0,
        1.0,
    )  # of views, those count less that hide a pixel, and far ones
    projected.weigh[2].weight[0, :2], projected.weigh[2].weight[1, 2:] = 1.0, 1.0
    projected.weigh[4].weight[0, :2] = torch.tensor([-1.0, -0.5])
    views, depth, truth = room.views(memory), room.depths(memory), room.views(s)
    which = covering(projected.camera, memory[None], torch.ones(1, 1, 60, dtype=torch.bool), s[None], 4)[0]
    seen_from = relative(s[:, None], memory[which])[None]

    def canvas(scale: float) -> Tensor:
        return blend(projected, views[which][None], seen_from, depth[which][None], scale * room.depths(s)[None])[0][0]

    copied = psnr(views[which[:, 0]], truth)
    true = psnr(canvas(1.0), truth)
    assert true > copied + 4
    assert true > psnr(canvas(1.3), truth) + 1
    assert true > psnr(canvas(0.7), truth) + 1
    mirrored = blend(projected, views[which][None], seen_from * torch.tensor([1, -1, 1]), depth[which][None], room.depths(s)[None])[0][0]
    assert true > psnr(mirrored, truth) + 3


def test_an_empty_memory_shows_nothing() -> None:
    """One of a batch is enough; a single entry shows its own view."""
    projected, memory = views_prior(alive=False), walked((2,))
    with pytest.raises(ValueError, match=r"The memory is empty\. Walk"):
        projected.recall(SpatialMemory(memory.s_mean, memory.s_variance, memory.values, torch.tensor([7, 0])))
    with pytest.raises(ValueError, match=r"The memory is empty\. Walk"):
        projected.recall(walked((), steps=0))
    one = walked((), steps=1)
    canvas, _ = projected(one.s_mean, projected.recall(one))
    torch.testing.assert_close(canvas, frames_to_x(one.values["frame"]), atol=1e-4, rtol=1e-4)


# ---------------------------------------------------------------- the prior


def test_the_variance_is_what_doubt_says_of_the_canvas() -> None:
    """Averaged over squares of four pixels; before it has learned anything, the same everywhere."""
    projected, laid = views_prior(), torch.randn(2, 3, 8, SIZE, SIZE, generator=draws())
    variance = projected.variance(laid)
    assert variance.shape == (2, 3, D)
    for at in itertools.product(range(2), range(3)):
        coarse = torch.stack(
            [laid[at][:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean(dim=(1, 2)) for i in range(2) for j in range(2)], dim=1
        )
        expected = (projected.log_variance + projected.doubt(coarse.flatten())).exp()
        torch.testing.assert_close(variance[at], expected)
        torch.testing.assert_close(projected.variance(laid[at]), expected)
    new = views_prior(alive=False)
    new.log_variance.copy_(torch.arange(float(D)))
    torch.testing.assert_close(new.variance(laid), torch.arange(float(D)).exp().expand(2, 3, D))


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_the_prior_is_one_gaussian_around_the_encoding(batch: tuple[int, ...]) -> None:
    projected, laid, z = views_prior(), torch.randn(*batch, 8, SIZE, SIZE), torch.randn(*batch, D)
    mixture = projected.prior(laid, z)
    assert mixture.mean.shape == mixture.variance.shape == (*batch, 1, D)
    assert mixture.log_weight.shape == (*batch, 1)
    assert not mixture.log_weight.any()
    assert torch.equal(mixture.mean[..., 0, :], z)
    assert torch.equal(mixture.heaviest(), z)
    assert torch.equal(mixture.variance[..., 0, :], projected.variance(laid))


def test_gradients_of_a_canvas() -> None:
    """To all that makes it, and through depth and pose to the state."""
    projected, memory = views_prior().requires_grad_(True), projected_memory()
    s = queries(4).requires_grad_()
    canvas, laid = projected(s, memory)
    (canvas.square().sum() + projected.variance(laid).sum()).backward()
    for name, parameter in projected.named_parameters():
        if name.startswith("stereo"):
            assert parameter.grad is None  # it learns by its own objective
        elif name not in ("sight.net.6.bias", "weigh.4.bias"):  # softmaxes do not see them
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all()
            assert parameter.grad.any(), name
    assert s.grad is not None
    assert torch.isfinite(s.grad).all()
    assert (s.grad != 0).any(dim=-1).all()


def test_the_mend_starts_at_nothing() -> None:
    projected = views_prior(alive=False)
    memory, s = projected.recall(walked(())), queries(4)
    canvas, laid = projected(s, memory)
    torch.testing.assert_close(canvas, laid[:, :3] + 0.5)
