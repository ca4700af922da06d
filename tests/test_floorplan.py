"""Floor plans against loops over cells; what stereo and sight read off a room whose geometry is known."""

from __future__ import annotations

import itertools
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rooms import KnownRoom, cell_of
from torch import Tensor

from gtmsm_env.floorplan import (
    CELL,
    CELLS,
    RADIUS,
    REACH,
    STANDS,
    TOLD,
    Sight,
    Stereo,
    best_half,
    clearance,
    depths,
    floor_plan,
    kept_out,
    read,
    something,
    standing,
)
from gtmsm_env.perspective import FARTHEST, NEAREST, Camera, covering, relative

HEIGHT, CEILING = 0.6, 1.5


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn_poses(*batch: int, seed: int = 0) -> Tensor:
    return (torch.rand(*batch, 3, generator=draws(seed)) - 0.5) * torch.tensor([4, 4, 4 * math.pi])


def middle(cell: int) -> float:
    """Where the middle of a cell lies along one axis: the lattice is centred on the origin."""
    return (cell + 0.5) * CELL - REACH


def test_each_depth_is_farther_by_the_same_share() -> None:
    found = depths(32).tolist()
    assert (found[0], found[-1]) == pytest.approx((NEAREST, FARTHEST))
    shares = [far / near for near, far in itertools.pairwise(found)]
    assert shares == pytest.approx([40 ** (1 / 31)] * 31, rel=1e-4)


# ---------------------------------------------------------------- floor plans


def slow_plan(camera: Camera, poses: Tensor, p: Tensor, used: Tensor) -> NDArray[np.float64]:
    """Of one memory, view by view and column by column: poses (N, 3), p (N, W, D)."""
    plan, known = np.zeros((2, CELLS, CELLS)), depths(p.shape[-1]).tolist()

    def lay(evidence: int, weight: float, x: float, y: float) -> None:
        """Among the four cells around a place."""
        column, row = (x + REACH) / CELL - 0.5, (y + REACH) / CELL - 0.5
        left, below = math.floor(column), math.floor(row)
        for i, j in itertools.product((left, left + 1), (below, below + 1)):
            plan[evidence, j, i] += weight * (1 - abs(column - i)) * (1 - abs(row - j))

    for (x, y, heading), columns, is_used in zip(poses.tolist(), p.tolist(), used.tolist(), strict=True):
        if not is_used:
            continue
        for aside, of_depths in zip(camera.aside.tolist(), columns, strict=True):
            along = (math.cos(heading) + aside * math.sin(heading), math.sin(heading) - aside * math.cos(heading))
            for depth, weight in zip(known, of_depths, strict=True):
                lay(0, weight, x + depth * along[0], y + depth * along[1])
            farther = [sum(of_depths[k + 1 :]) for k in range(len(of_depths))]
            for depth in np.arange(0.1, FARTHEST, CELL):
                weight = float(np.interp(math.log(depth), np.log(known), farther))  # even in the logarithm of depth
                lay(1, weight, x + depth * along[0], y + depth * along[1])
    return plan


def drawn(M: int, N: int, W: int = 8, D: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Poses, what is believed of depths, and which entries are used."""
    return drawn_poses(M, N), torch.rand(M, N, W, D, generator=draws(1)).softmax(dim=-1), torch.rand(M, N, generator=draws(2)) < 0.7


def test_a_floor_plan_is_laid_as_by_loops() -> None:
    camera, (poses, p, used) = Camera(8, 90.0, HEIGHT, CEILING), drawn(2, 3)
    used[:, 0], used[0, 1] = True, False
    plan = floor_plan(camera, poses, p, used)
    assert plan.shape == (2, 2, CELLS, CELLS)
    for row in range(2):
        np.testing.assert_allclose(plan[row].numpy(), slow_plan(camera, poses[row], p[row], used[row]), atol=2e-3)
        torch.testing.assert_close(plan[row], floor_plan(camera, *(x[row, None] for x in (poses, p, used)))[0])


def test_each_column_of_a_view_that_is_used_says_once_that_something_stands() -> None:
    camera, (poses, p, used) = Camera(8, 90.0, HEIGHT, CEILING), drawn(3, 5)
    plan = floor_plan(camera, poses, p, used)
    torch.testing.assert_close(plan[:, 0].sum(dim=(1, 2)), 8.0 * used.sum(dim=1))
    poses[~used], p[~used] = 1e3, 7.0
    assert torch.equal(floor_plan(camera, poses, p, used), plan)


def test_what_lies_beyond_the_plan_is_kept_at_its_edge() -> None:
    camera = Camera(8, 90.0, HEIGHT, CEILING)
    p = torch.zeros(1, 1, 8, 6)
    p[..., -1] = 1
    for x, heading in ((REACH, 0.0), (-REACH, math.pi)):
        plan = floor_plan(camera, torch.tensor([[[x, 0.0, heading]]]), p, torch.ones(1, 1, dtype=torch.bool))
        torch.testing.assert_close(plan[0, 0].sum(), torch.tensor(8.0))
        assert (plan[0, 0][:, -2:] if x > 0 else plan[0, 0][:, :2]).sum() > 7.9


def test_a_plan_is_read_where_it_was_written() -> None:
    """Rows along y, columns along x; between cells bilinearly."""
    plan = torch.rand(2, 2, CELLS, CELLS, generator=draws())
    cells = torch.randint(CELLS - 1, (2, 5, 7, 2), generator=draws(1))  # column, row
    places = (cells + 0.5) * CELL - REACH
    found = read(plan, places[..., 0], places[..., 1])
    halfway = read(plan, places[..., 0] + CELL / 2, places[..., 1])
    for m, i, j in itertools.product(range(2), range(5), range(7)):
        column, row = cells[m, i, j].tolist()
        torch.testing.assert_close(found[m, :, i, j], plan[m, :, row, column], atol=1e-3, rtol=0)
        torch.testing.assert_close(halfway[m, :, i, j], plan[m, :, row, column : column + 2].mean(dim=1), atol=1e-3, rtol=0)
    assert torch.equal(cell_of(places), cells)
    assert torch.equal(cell_of(places + 0.49 * CELL), cells)
    assert cell_of(torch.tensor([[99.0, -99.0]])).tolist() == [[CELLS - 1, 0]]


def test_where_something_stands() -> None:
    """Where the mean evidence of it in the nine cells around is `STANDS` times that of nothing in it and .3: by hand, and as drawn."""
    plan = torch.zeros(2, CELLS, CELLS)
    for column, row, stands, free in ((7, 9, 5.0, 1.0), (200, 3, 5.0, 0.1), (30, 31, 9.0, 9.0), (32, 31, 0.5, 0.0), (0, 0, 5.0, 0.0)):
        plan[:, row, column] = torch.tensor([stands, free])
    around = {(9, 7): 1.0, (3, 200): 0.1, (31, 30): 9.0, (0, 0): 0.0}
    expected = []
    for (row, column), free in around.items():
        total = float(plan[0, row, column]) + (0.5 if row == 31 else 0)
        for i, j in itertools.product((-1, 0, 1), repeat=2):
            here = STANDS * ((free if i == j == 0 else 0.0) + 0.3)
            if row + i >= 0 and column + j >= 0 and (total - (0.5 if row == 31 and j < 1 else 0)) / 9 > here:
                expected.append([row + i, column + j])
    assert something(plan).nonzero().tolist() == sorted(expected)
    assert {(9, 7), (31, 30)}.isdisjoint(map(tuple, expected))
    torch.testing.assert_close(standing(plan), torch.tensor([[middle(column), middle(row)] for row, column in sorted(expected)]))
    assert torch.equal(something(plan.expand(3, 4, 2, -1, -1)), something(plan).expand(3, 4, -1, -1))


def clearance_by_loops(stands: NDArray[np.bool_]) -> Any:
    """The clearance at (row, column) of cells that something stands in or not (CELLS, CELLS), in plain Python."""

    @cache
    def at(row: int, column: int) -> float:
        near = [5 * CELL]
        for i, j in itertools.product(range(-4, 5), repeat=2):
            if math.hypot(i, j) <= 4 and 0 <= row + i < CELLS and 0 <= column + j < CELLS and stands[row + i, column + j]:
                near.append(CELL * math.hypot(i, j))
        return min(near)

    return at


def kept_out_by_loops(at: Any, x: float, y: float) -> tuple[float, float]:
    """Where an agent comes to stand that would be at x, y: three times out of what it overlaps, between cells as on a plane of theirs."""
    for _ in range(3):
        column, row = (min(max((c + REACH) / CELL - 0.5, 0), CELLS - 1.001) for c in (x, y))
        j, i = int(column), int(row)
        u, v = column - j, row - i
        a, b, c, d = at(i, j), at(i, j + 1), at(i + 1, j), at(i + 1, j + 1)
        found = (1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * c + u * d)
        dx, dy = ((1 - v) * (b - a) + v * (d - c)) / CELL, ((1 - u) * (c - a) + u * (d - b)) / CELL
        push = max(RADIUS - found, 0) / max(math.hypot(dx, dy), 0.1)
        x, y = x + push * dx, y + push * dy
    return x, y


def test_cells_tell_how_far_something_is() -> None:
    """At the edge of the plan too, and of each plan for itself."""
    stands = torch.rand(2, CELLS, CELLS, generator=draws()) < 0.02
    found = clearance(stands)
    for m in range(2):
        at = clearance_by_loops(stands[m].numpy())
        for row, column in itertools.product([0, 1, 2, 5, 100, 200, 318, 319], range(0, CELLS, 3)):
            assert float(found[m, row, column]) == pytest.approx(at(row, column), abs=2e-4)
    assert torch.equal(clearance(stands[1:]), found[1:])


def test_agents_are_kept_out_of_what_stands() -> None:
    """At the edge of the plan and beyond it too; each by its own plan."""
    stands = torch.rand(2, CELLS, CELLS, generator=draws()) < 0.01
    places = 2 * REACH * 1.02 * (torch.rand(2, 1000, 2, generator=draws(1)) - 0.5)
    clear = clearance(stands)
    found = kept_out(clear, places)
    for m in range(2):
        at = clearance_by_loops(stands[m].numpy())
        for q in range(1000):
            assert found[m, q].tolist() == pytest.approx(kept_out_by_loops(at, *places[m, q].tolist()), abs=2e-3)
    moved = (found != places).any(dim=-1).float().mean()
    assert 0.1 < moved < 0.9
    assert torch.equal(kept_out(clear[1:], places[1:]), found[1:])
    assert torch.equal(kept_out(clearance(stands & False), places), places)


def test_an_agent_slides_along_a_wall_and_stops_in_a_corner() -> None:
    """Head on it stays where it is; aslant it keeps its way along the wall."""
    stands = torch.zeros(1, CELLS, CELLS, dtype=torch.bool)
    stands[0, 170], stands[0, :, 180] = True, True
    clear, north, east = clearance(stands), middle(170) - RADIUS, middle(180) - RADIUS
    at = torch.tensor([[[0.0, north - 0.01]]])
    for _ in range(30):
        at = kept_out(clear, at + torch.tensor([0.0, 0.05]))
    assert at[0, 0].tolist() == pytest.approx([0, north], abs=1e-4)
    for step in range(1, 10):
        at = kept_out(clear, at + torch.tensor([0.04, 0.03]))
        assert at[0, 0].tolist() == pytest.approx([0.04 * step, north], abs=1e-4)
    for _ in range(60):
        at = kept_out(clear, at + torch.tensor([0.04, 0.03]))
    assert at[0, 0].tolist() == pytest.approx([east, north], abs=0.02)


def true_plan(room: KnownRoom, poses: Tensor, D: int = 512) -> Tensor:
    """The plan of views whose depths are known exactly, (1, 2, CELLS, CELLS)."""
    index = (depths(D) - room.depths(poses)[..., None]).abs().argmin(dim=-1)
    p = torch.nn.functional.one_hot(index, D).float()
    return floor_plan(room.camera(), poses[None], p[None], torch.ones(1, len(poses), dtype=torch.bool))


def test_a_plan_of_true_depths_is_the_room() -> None:
    """Something stands along all walls and pillars that were seen and nowhere else, and the middle of the room is free."""
    room, poses = KnownRoom(), KnownRoom().poses(40)
    plan = true_plan(room, poses)
    for place in standing(plan[0]).tolist():
        inside = [max(min(c, high), low) for c, low, high in zip(place, *room.rooms.bounds[0, 0].reshape(2, 2).tolist(), strict=True)]
        assert math.dist(inside, place) < 2 * CELL
        assert room.clearance(*inside) < 2 * CELL
    stands, free = plan[0]
    x, y = room.camera().seen_from(poses[:, None], room.camera().aside, room.depths(poses))
    seen = cell_of(torch.stack([x, y], dim=-1)).flatten(0, 1)
    near = clearance(something(plan))[0] < 1.5 * CELL
    assert near[seen[:, 1], seen[:, 0]].float().mean() > 0.9
    west, south, east, north = room.rooms.bounds[0, 0]
    for x_, y_ in itertools.product(np.arange(west, east, 0.2), np.arange(south, north, 0.2)):
        if room.clearance(x_, y_) > 3 * CELL:
            column, row = cell_of(torch.tensor([x_, y_])).tolist()
            assert stands[row, column] == 0
            assert free[row, column] > 0.5


def test_walls_that_were_seen_keep_an_agent_out() -> None:
    """It is moved where its body does not fit, and seldom where it does."""
    room, poses = KnownRoom(), KnownRoom().poses(40)
    clear = clearance(something(true_plan(room, poses)))
    west, south, east, north = room.rooms.bounds[0, 0]
    kept, left = [], []
    for x, y in itertools.product(np.arange(west, east, 0.1), np.arange(south, north, 0.1)):
        away, place = room.clearance(x, y), torch.tensor([x, y], dtype=torch.float32)
        after = kept_out(clear, place[None, None])[0, 0]
        if away > RADIUS + CELL:
            left.append(torch.equal(after, place))
        elif 0 < away < RADIUS / 2:
            kept.append(room.clearance(*after.tolist()) > away)
    assert np.mean(left) > 0.98
    assert np.mean(kept) > 0.9


# ---------------------------------------------------------------- stereo


@pytest.mark.parametrize("sources", [1, 2, 5, 6])
def test_the_better_half_is_that_of_a_sorted_list(sources: int) -> None:
    unlike = torch.rand(3, sources, 4, 5, generator=draws())
    seen = torch.rand(3, sources, 4, 5, generator=draws(1)) < 0.6
    mean, count = best_half(unlike, seen)
    for at in itertools.product(range(3), range(4), range(5)):
        e, *rest = at
        some = sorted(float(unlike[(e, j, *rest)]) for j in range(sources) if seen[(e, j, *rest)])
        better = some[: math.ceil(len(some) / 2)]
        assert int(count[at]) == len(some)
        assert float(mean[at]) == pytest.approx(sum(better) / len(better) if some else 0.5, abs=1e-6)


def stereo(size: int = 8, D: int = 5) -> Stereo:
    return Stereo(Camera(size, 90.0, HEIGHT, CEILING), D, hidden=4)


def drawn_views(E: int, J: int, size: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A view and its sources from poses half a unit around."""
    pose = drawn_poses(E)
    source_poses = pose[:, None] + torch.randn(E, J, 3, generator=draws(1)) * torch.tensor([0.5, 0.5, 0.3])
    return torch.rand(E, 3, size, size, generator=draws(2)), pose, torch.rand(E, J, 3, size, size, generator=draws(3)), source_poses


def look(picture: Tensor, column: float, row: float) -> NDArray[np.float64]:
    """A picture (C, H, W) between its pixels."""
    x = picture.double().numpy()
    u, v = (min(max(c, 0), x.shape[-1] - 1) for c in (column, row))
    left, top = min(int(u), x.shape[-1] - 2), min(int(v), x.shape[-1] - 2)
    above, below = ((1 - u + left) * x[:, y, left] + (u - left) * x[:, y, left + 1] for y in (top, top + 1))
    mixed: NDArray[np.float64] = (1 - v + top) * above + (v - top) * below
    return mixed


def pinhole(camera: Camera, pose: list[float], at: tuple[float, float, float]) -> tuple[float, float, float]:
    """How far ahead of a pose a point is, and its column and row."""
    x, y = at[0] - pose[0], at[1] - pose[1]
    ahead = x * math.cos(pose[2]) + y * math.sin(pose[2])
    left = y * math.cos(pose[2]) - x * math.sin(pose[2])
    half, safe = camera.size / 2 - 0.5, max(ahead, 0.1)
    return ahead, half - camera.focal * left / safe, half - camera.focal * (at[2] - HEIGHT) / safe


def point(camera: Camera, pose: list[float], column: int, depth: float, up: float) -> tuple[float, float, float]:
    """What a column shows at a depth and height."""
    aside = float(camera.aside[column])
    x = pose[0] + depth * (math.cos(pose[2]) + aside * math.sin(pose[2]))
    return x, pose[1] + depth * (math.sin(pose[2]) - aside * math.cos(pose[2])), up


def test_a_sweep_compares_as_by_loops() -> None:
    """One column, depth and source after another: eight heights of a wall; and each pixel of floor and ceiling."""
    net, (view, pose, sources, source_poses) = stereo(), drawn_views(2, 3)
    camera = net.camera
    walls, seen, ground, ground_seen = net.sweep(view, relative(pose[:, None], source_poses), sources)
    assert walls.shape == seen.shape == (2, 3, 8, 5)
    assert ground.shape == ground_seen.shape == (2, 3, 8, 8)
    assert 0.1 < seen.float().mean() < 0.9
    assert 0.1 < ground_seen.float().mean() < 0.9

    def outside(*at: float) -> float:
        return max(0, *(-c for c in at), *(c - 7 for c in at))

    for e, j, column in itertools.product(range(2), range(3), range(8)):
        here, there = pose[e].tolist(), source_poses[e, j].tolist()
        for k, depth in enumerate(depths(5).tolist()):
            differences = []
            for up in np.linspace(0.05, 0.95, 8) * CEILING:
                place = point(camera, here, column, depth, up)
                own, (ahead, *at) = pinhole(camera, here, place)[1:], pinhole(camera, there, place)
                if ahead > 0.12 and outside(*at) < 0.3 and outside(*own) < 0.3:
                    differences.append(np.abs(look(sources[e, j], *at) - look(view[e], *own)).mean())
            assert bool(seen[e, j, column, k]) == (len(differences) >= 2)
            if differences:
                assert float(walls[e, j, column, k]) == pytest.approx(np.mean(differences), abs=1e-4)
        for row in range(8):
            depth = float(camera.ground[row])
            ahead, *at = pinhole(camera, there, point(camera, here, column, depth, 0.0 if row >= 4 else CEILING))
            assert bool(ground_seen[e, j, column, row]) == (ahead > 0.12 and outside(*at) < 0.3)
            difference = np.abs(look(sources[e, j], *at) - view[e, :, row, column].numpy()).mean()
            assert float(ground[e, j, column, row]) == pytest.approx(difference, abs=1e-4)


def test_what_lies_before_a_wall_is_the_mean_over_its_rows() -> None:
    net = stereo()
    ground, count = torch.rand(2, 8, 8, generator=draws()), torch.randint(3, (2, 8, 8), generator=draws(1))
    mean, rows = net.before(ground, count)
    for e, column, (k, depth) in itertools.product(range(2), range(8), enumerate(depths(5).tolist())):
        some = [float(ground[e, column, v]) for v in range(8) if net.camera.ground[v] < depth and count[e, column, v]]
        assert int(rows[e, column, k]) == len(some)
        assert float(mean[e, column, k]) == pytest.approx(np.mean(some) if some else 0, abs=1e-5)


def test_the_network_sees_costs_and_colours_of_each_column_and_depth() -> None:
    net, (view, pose, sources, source_poses) = stereo(), drawn_views(2, 3)
    swept = net.sweep(view, relative(pose[:, None], source_poses), sources)
    walls, seen, ground, ground_seen = swept
    features = net.features(view, *swept)
    assert features.shape == (2, 16, 8, 5)
    mean = best_half(walls, seen)[0]
    free = net.before(*best_half(ground, ground_seen))[0]
    for e, column, (k, depth) in itertools.product(range(2), range(8), enumerate(depths(5).tolist())):
        some = [float(walls[e, j, column, k]) for j in range(3) if seen[e, j, column, k]]
        costs = [5 * float(mean[e, column, k]), 5 * min(some, default=0.5), len(some) / 3, 5 * float(free[e, column, k])]
        colours = []
        for up, beside in itertools.product((0.0, CEILING), (-1, 1)):
            row = pinhole(net.camera, [0, 0, 0], (depth, 0, up))[2]
            colours += [float(c) - 0.5 for c in look(view[e], column, row + beside)]
        assert features[e, :, column, k].tolist() == pytest.approx([*costs, *colours], abs=1e-4)
    torch.testing.assert_close(net.compare(view, pose, sources, source_poses), features)
    told = torch.randn(2, TOLD, 8, 5, generator=draws())
    torch.testing.assert_close(net(features), net.net(features)[:, 0].log_softmax(dim=-1))
    torch.testing.assert_close(net.again(features, told), net.second(torch.cat([features, told], dim=1))[:, 0].log_softmax(dim=-1))


@pytest.mark.parametrize("again", [False, True])
def test_depths_are_probabilities_of_each_view_alone(again: bool) -> None:
    """Only the network learns of them."""
    net, parts, told = stereo(), drawn_views(3, 2), torch.randn(3, TOLD, 8, 5, generator=draws())
    view = parts[0].requires_grad_()

    def answer(parts: tuple[Tensor, ...], told: Tensor) -> Tensor:
        features = net.compare(*parts)
        return net.again(features, told) if again else net(features)

    log_p = answer(parts, told)
    assert log_p.shape == (3, 8, 5)
    torch.testing.assert_close(log_p.exp().sum(dim=-1), torch.ones(3, 8))
    for e in range(3):
        torch.testing.assert_close(answer(tuple(x[e, None] for x in parts), told[e, None])[0], log_p[e], atol=1e-4, rtol=1e-4)
    swapped = parts[0], parts[1], parts[2].flip(1), parts[3].flip(1)
    torch.testing.assert_close(answer(swapped, told), log_p, atol=1e-4, rtol=1e-4)  # the order of the sources says nothing
    log_p[..., 0].sum().backward()
    first = (net.second if again else net.net)[0]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in first.parameters())
    assert view.grad is None


def seen_in(room: KnownRoom, count: int, J: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Views in a room and their J best sources of 80: E = count."""
    poses = room.poses(80)
    usable = ~torch.eye(80, dtype=torch.bool)[None, :count]
    which = covering(room.camera(), poses[None], usable, poses[None, :count], J)[0]
    views = room.views(poses)
    return views[:count], poses[:count], views[which], poses[which]


def test_at_the_true_depth_views_look_alike_and_elsewhere_less() -> None:
    """What the network reads tells most depths already: the depth at which sources are least unlike is about the true one."""
    room, D = KnownRoom(), 32
    net = Stereo(room.camera(), D)
    view, pose, sources, source_poses = seen_in(room, 24, 8)
    index = (1 / depths(D) - 1 / room.depths(pose)[..., None]).abs().argmin(dim=-1)  # (E, W)
    unlike = net.unlike(view, pose, sources, source_poses)
    walls, seen = (x.float() for x in net.sweep(view, relative(pose[:, None], source_poses), sources)[:2])
    at = index[:, None, :, None].expand(-1, 8, -1, -1)
    usual = (walls * seen).sum() / seen.sum()
    true = (walls * seen).take_along_dim(at, -1).sum() / seen.take_along_dim(at, -1).sum()
    assert true < 0.6 * usual
    assert unlike.take_along_dim(index[..., None], -1).mean() < 0.6 * unlike.mean()
    off = (unlike.argmin(dim=-1) - index).abs()
    assert (off <= 1).float().mean() > 0.6  # 1 in 11 by chance
    mirrored = net.unlike(view.flip(-1), pose, sources, source_poses)
    assert (mirrored.argmin(dim=-1) - index).abs().float().mean() > 2 * off.float().mean()


def test_how_unlike_a_whole_column_is_at_each_depth() -> None:
    """The mean over its rows of those compared: before the wall by floor and ceiling, and as many upright rows by the wall."""
    net, parts = stereo(), drawn_views(2, 3)
    unlike = net.unlike(*parts)
    walls, seen, ground, ground_seen = net.sweep(parts[0], relative(parts[1][:, None], parts[3]), parts[2])
    (wall, count), (floor, compared) = best_half(walls, seen), best_half(ground, ground_seen)
    for e, column, (k, depth) in itertools.product(range(2), range(8), enumerate(depths(5).tolist())):
        costs = []
        for row in range(8):
            if net.camera.ground[row] < depth and compared[e, column, row]:
                costs.append(float(floor[e, column, row]))
            elif net.camera.ground[row] >= depth and count[e, column, k]:
                costs.append(float(wall[e, column, k]))
        assert float(unlike[e, column, k]) == pytest.approx(np.mean(costs) if costs else 0.3, abs=1e-5)


# ---------------------------------------------------------------- sight


def sight(size: int = 8, D: int = 7) -> Sight:
    return Sight(Camera(size, 90.0, HEIGHT, CEILING), D, hidden=4)


def test_sight_reads_the_plan_along_each_column() -> None:
    """What stands and what is free at each depth, and whether the way there is; the network sees nothing else."""
    net, plan, s = sight(), 3 * torch.rand(2, 2, CELLS, CELLS, generator=draws()), drawn_poses(2, 3)
    captured: list[Tensor] = []
    net.net.register_forward_pre_hook(lambda _, x: captured.append(x[0]))
    log_p = net(plan, s)
    assert log_p.shape == (2, 3, 8, 7)
    torch.testing.assert_close(log_p.exp().sum(dim=-1), torch.ones(2, 3, 8))
    features = captured[0].unflatten(0, (2, 3))
    assert features.shape == (2, 3, 5, 8, 7)
    for m, q, column in itertools.product(range(2), range(3), range(8)):
        passed = 0.0
        for k, depth in enumerate(depths(7).tolist()):
            x, y, _ = point(net.camera, s[m, q].tolist(), column, depth, 0)
            stands, free = look(plan[m], (x + REACH) / CELL - 0.5, (y + REACH) / CELL - 0.5)
            share = stands / (stands + free + 0.3)
            passed += math.log(1 - min(share, 0.97))
            expected = [math.log1p(stands), math.log1p(free), 4 * share, passed / 3, 1 / depth - 2]
            assert features[m, q, :, column, k].tolist() == pytest.approx(expected, abs=2e-3)


def test_depth_is_the_mean_of_its_inverse_around_the_most_probable() -> None:
    net, plan, s = sight(D=16), 3 * torch.rand(2, 2, CELLS, CELLS, generator=draws()), drawn_poses(2, 3)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=draws(4))
    net.requires_grad_(False)
    p, found, known = net(plan, s).exp(), net.depth(plan, s), depths(16).tolist()
    assert found.shape == (2, 3, 8)
    assert len(set(p.argmax(dim=-1).flatten().tolist())) > 3
    for at in itertools.product(range(2), range(3), range(8)):
        best = int(p[at].argmax())
        near = range(max(0, best - 3), min(16, best + 4))
        weight = [float(p[at][k]) for k in near]
        inverse = sum(w / known[k] for w, k in zip(weight, near, strict=True)) / sum(weight)
        assert float(found[at]) == pytest.approx(1 / inverse, rel=1e-4)


def test_sight_of_many_is_of_each_alone_and_learns() -> None:
    net, plan, s = sight(), 3 * torch.rand(3, 2, CELLS, CELLS, generator=draws()), drawn_poses(3, 4).requires_grad_()
    found = net.depth(plan, s)
    for m, q in itertools.product(range(3), range(4)):
        torch.testing.assert_close(net.depth(plan[m, None], s[m, None, q, None])[0, 0], found[m, q], atol=1e-4, rtol=1e-4)
    found.sum().backward()
    assert s.grad is not None
    assert torch.isfinite(s.grad).all()
    assert (s.grad != 0).any(dim=-1).all()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in net.net[0].parameters())


def test_what_the_network_of_sight_reads_tells_the_true_depths() -> None:
    """On a plan of true depths: the first depth at which the way is no longer free is about that of the wall, from poses unseen too.

    Of walls within a unit and a half; farther out depths lie wider apart than the two cells that a sharp wall takes, and some skip it.
    """
    room = KnownRoom()
    net, plan, s = Sight(room.camera()), true_plan(room, room.poses(40)), room.poses(20, seed=1)
    captured: list[Tensor] = []
    net.net.register_forward_pre_hook(lambda _, x: captured.append(x[0]))
    net(plan, s[None])
    closed = torch.cat(captured)[:, 3] * 3 < math.log(0.5)  # (Q, W, D) more likely than not something stands so far
    first, true = depths(48)[closed.int().argmax(dim=-1)], room.depths(s)
    assert ((first - true).abs() < 2.5 * CELL)[true < 1.5].float().mean() > 0.95
    assert (true < 1.5).sum() > 200
