"""Projected views equal what a slow program computes, pixel by pixel, and one pose does not depend on those decoded beside it."""

import math

import pytest
import torch
from torch import Tensor

from gtmsm_env.memory import SpatialMemory
from gtmsm_env.projection import ProjectedViews

SIZE, K = 8, 3


@pytest.fixture(scope="module")
def projected() -> ProjectedViews:
    torch.manual_seed(0)
    model = ProjectedViews((3, SIZE, SIZE), 4, {"field_of_view": 90.0, "height": 0.6, "ceiling": 1.5}, K)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.requires_grad_(False)


def one_view(model: ProjectedViews, pose: Tensor, depth: float, row: int, column: int) -> tuple[float, float, float]:
    """Where a pixel of depth `depth` lies in a view that sees the imagined pose at `pose`: how far ahead, its column, its row."""
    camera = model.camera
    x, y, turn = pose.tolist()
    aside, up = float(camera.aside[column]), float(camera.slope[row]) * depth
    ahead = x + depth * (math.cos(turn) + aside * math.sin(turn))
    left = y + depth * (math.sin(turn) - aside * math.cos(turn))
    middle, nearest = (SIZE - 1) / 2, max(ahead, 0.1)
    return ahead, middle - camera.focal * left / nearest, middle - camera.focal * up / nearest


def between_pixels(picture: Tensor, column: float, row: float) -> Tensor:
    column, row = (min(max(c, 0), SIZE - 1) for c in (column, row))
    left, top = min(int(column), SIZE - 2), min(int(row), SIZE - 2)
    a, b = column - left, row - top
    upper = (1 - a) * picture[:, top, left] + a * picture[:, top, left + 1]
    return (1 - b) * upper + b * ((1 - a) * picture[:, top + 1, left] + a * picture[:, top + 1, left + 1])


def laid_at(model: ProjectedViews, views: Tensor, poses: Tensor, view_depth: Tensor, depth: float, row: int, column: int) -> Tensor:
    """What is laid out of one pixel, (C + 5,): views (K, C, H, W), poses (K, 3), view_depth (K, W)."""
    depth = min(depth, float(model.camera.ground[row]))
    found = [one_view(model, pose, depth, row, column) for pose in poses]
    colours = [between_pixels(view, c, r) for view, (_, c, r) in zip(views, found, strict=True)]
    outside = [max(-c, c - (SIZE - 1), -r, r - (SIZE - 1), 0) for _, c, r in found]
    inside = [ahead > 0.1 and out < 0.5 for (ahead, _, _), out in zip(found, outside, strict=True)]
    shown = [colour for colour, i in zip(colours, inside, strict=True) if i]
    mean = sum(shown) / max(len(shown), 1) if shown else torch.zeros(3)
    logits = []
    for k, (ahead, c, r) in enumerate(found):
        wall = float(view_depth[k, min(max(int(c + 0.5), 0), SIZE - 1)])
        hidden = min(max((ahead - wall) / max(ahead, 0.3), -1), 1)
        size = min(max(math.log(max(ahead, 0.1) / depth), -2), 2)
        apart = [8 * (at - round(at)) ** 2 for at in (c, r)]
        front, away = float(ahead > 0.1), math.hypot(*poses[k, :2].tolist())
        unlike = 4 * float((colours[k] - mean).abs().mean())
        told = [front, min(outside[k], 3), float(inside[k]), hidden, max(hidden, 0), away, size, abs(size), *apart, unlike]
        logits.append(float(model.weigh(torch.tensor(told))) - 20 * (1 - front) - 2 * min(outside[k], 8))
    weight = torch.tensor(logits).softmax(dim=0)
    blended = sum(w * colour for w, colour in zip(weight, colours, strict=True))
    spread = sum(w * (colour - blended).abs().mean() for w, colour in zip(weight, colours, strict=True))
    sure = float(torch.tensor(logits).logsumexp(dim=0)) / 4
    told = [4 * float(spread), sure, 0.25 / depth, float(model.camera.slope[row]), sum(inside) / K]
    return torch.cat([blended - 0.5, torch.tensor(told)])


def test_blending_equals_a_program_that_takes_one_pixel_after_another(projected: ProjectedViews) -> None:
    torch.manual_seed(0)
    views, poses = torch.rand(2, K, 3, SIZE, SIZE), torch.randn(2, K, 3)
    view_depth, depth = torch.rand(2, K, SIZE) * 3 + 0.3, torch.rand(2, SIZE) * 3 + 0.3
    canvas, laid = projected.blend(views, poses, view_depth, depth)
    for b in range(2):
        for row in range(SIZE):
            for column in range(SIZE):
                expected = laid_at(projected, views[b], poses[b], view_depth[b], float(depth[b, column]), row, column)
                torch.testing.assert_close(laid[b, :, row, column], expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(canvas, laid[:, :3] + 0.5 + projected.mend(laid), atol=1e-5, rtol=1e-4)


def test_how_many_are_decoded_at_once_changes_nothing(projected: ProjectedViews, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    s = torch.randn(2, 12, 3)
    memory = SpatialMemory(s, s, {"frame": torch.randint(256, (2, 12, SIZE, SIZE, 3)).to(torch.uint8)})
    queries = torch.randn(2, 5, 3)
    recalled = projected.recall(memory)
    together = projected(queries, recalled)
    monkeypatch.setattr("gtmsm_env.perspective.AT_ONCE", 3)
    again = projected.recall(memory)
    for name in ("view", "depth"):
        torch.testing.assert_close(again.values[name], recalled.values[name])
    for name in ("plan", "blocked"):
        torch.testing.assert_close(again.facts[name], recalled.facts[name], atol=1e-4, rtol=1e-4)
    for mine, theirs in zip(projected(queries, recalled), together, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    alone = projected(queries[1, 4], recalled[torch.tensor(1)])
    for mine, theirs in zip(alone, together, strict=True):
        torch.testing.assert_close(mine, theirs[1, 4], atol=1e-5, rtol=1e-4)
