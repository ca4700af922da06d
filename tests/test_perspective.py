"""The camera against a pinhole by hand and against what the ray caster draws; samples and the choice of views against loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from rooms import KnownRoom, psnr
from torch import Tensor

from gtmsm_env.perspective import Camera, covering, relative, sample

HEIGHT, CEILING = 0.6, 1.5


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn_poses(*batch: int, seed: int = 0) -> Tensor:
    """Within two units of the middle, in any direction."""
    return (torch.rand(*batch, 3, generator=draws(seed)) - 0.5) * torch.tensor([4, 4, 4 * math.pi])


def pinhole(pose: Tensor, point: tuple[float, float, float], size: int, field_of_view: float) -> tuple[float, float, float]:
    """How far ahead a point (x, y, z) lies, and at which column and row it is seen, counted from the middle of the first pixel."""
    x, y, heading = pose.tolist()
    away = (point[0] - x, point[1] - y)
    ahead = away[0] * math.cos(heading) + away[1] * math.sin(heading)
    right = away[0] * math.sin(heading) - away[1] * math.cos(heading)
    half = size / 2
    pixels = half / math.tan(math.radians(field_of_view / 2))
    return ahead, half + pixels * right / ahead - 0.5, half - pixels * (point[2] - HEIGHT) / ahead - 0.5


# ---------------------------------------------------------------- the camera


@pytest.mark.parametrize("field_of_view", [60.0, 90.0, 120.0])
@pytest.mark.parametrize("size", [8, 31])
def test_what_a_pixel_shows_is_seen_in_that_pixel(size: int, field_of_view: float) -> None:
    """At any depth, from the camera's own pose: by the pinhole, and by the camera."""
    camera = Camera(size, field_of_view, HEIGHT, CEILING)
    pose = drawn_poses(1)[0]
    for column, row, depth in itertools.product(range(0, size, 3), range(0, size, 3), (0.3, 2.0, 7.0)):
        x, y = camera.seen_from(pose, camera.aside[column], torch.tensor(depth))
        z = HEIGHT + float(camera.slope[row]) * depth
        assert pinhole(pose, (float(x), float(y), z), size, field_of_view) == pytest.approx((depth, column, row), abs=1e-3)
        ahead, left, _ = relative(torch.stack([x, y, x]), pose)
        at = camera.pixels(ahead, left, torch.tensor(z))
        assert [float(c) for c in at] == pytest.approx([column, row], abs=1e-3)


def test_a_point_is_seen_from_elsewhere_where_a_pinhole_sees_it() -> None:
    """Points along the columns of one pose, in the frame of another."""
    camera, poses, from_ = Camera(16, 90.0, HEIGHT, CEILING), drawn_poses(20), drawn_poses(20, seed=1)
    depth = torch.rand(20, 16, generator=draws(2)) * 4 + 0.3
    ahead, left = camera.seen_from(relative(poses, from_)[:, None], camera.aside, depth)
    x, y = camera.seen_from(poses[:, None], camera.aside, depth)
    up = torch.rand(20, 16, generator=draws(3)) * CEILING
    column, row = camera.pixels(ahead, left, up)
    seen = 0
    for at in itertools.product(range(20), range(16)):
        expected = pinhole(from_[at[0]], (float(x[at]), float(y[at]), float(up[at])), 16, 90)
        assert float(ahead[at]) == pytest.approx(expected[0], abs=1e-4)
        if ahead[at] > 0.2:
            seen += 1
            assert (float(column[at]), float(row[at])) == pytest.approx(expected[1:], rel=1e-3, abs=1e-3)
    assert seen > 100


def test_rows_meet_floor_and_ceiling() -> None:
    """At the depth where their slope has led as far down or up; a row that looks level, of an odd size, meets neither for a long way."""
    for size in (8, 31):
        camera = Camera(size, 70.0, HEIGHT, CEILING)
        up = HEIGHT + camera.slope * camera.ground
        expected = torch.where(torch.arange(size) < size / 2, CEILING, 0.0)
        level = torch.arange(size) == (size - 1) / 2
        torch.testing.assert_close(up[~level], expected[~level], atol=1e-4, rtol=0)
        assert (camera.ground[level] > 1e5).all()
        assert (camera.ground > 0).all()
    edges = Camera(100, 90.0, HEIGHT, CEILING)
    assert edges.aside[-1] == -edges.aside[0] == pytest.approx(0.99)  # 45 degrees to both sides, less half a pixel
    assert torch.equal(edges.slope, edges.aside.flip(0))


def test_how_far_outside_the_frame() -> None:
    camera = Camera(8, 90.0, HEIGHT, CEILING)
    for column, row, expected in ((0, 0, 0), (7, 7, 0), (3.3, 6.9, 0), (-0.5, 3, 0.5), (3, 9, 2), (8, 9, 2), (-4, 8, 4), (3, -1.5, 1.5)):
        assert float(camera.outside(torch.tensor(float(column)), torch.tensor(float(row)))) == expected


def test_behind_the_camera_nothing_is_infinite() -> None:
    camera = Camera(8, 90.0, HEIGHT, CEILING)
    ahead = torch.tensor([-3.0, 0.0, 1e-9], requires_grad=True)
    column, row = camera.pixels(ahead, torch.ones(3), torch.ones(3))
    (column.sum() + row.sum()).backward()
    assert ahead.grad is not None
    assert torch.isfinite(torch.stack([column, row, ahead.grad])).all()


def test_poses_as_seen_from_others() -> None:
    """By hand; from itself a pose is 0; wherever world and agent are put together nothing changes."""
    seen = relative(torch.tensor([1.0, 3.0, 2.0]), torch.tensor([1.0, 1.0, math.pi / 2]))
    torch.testing.assert_close(seen, torch.tensor([2.0, 0.0, 2.0 - math.pi / 2]))  # two units north of one who looks north: ahead
    seen = relative(torch.tensor([-1.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, math.pi / 2]))
    torch.testing.assert_close(seen, torch.tensor([0.0, 2.0, -math.pi / 2]))  # two units west: to the left
    poses, others = drawn_poses(30), drawn_poses(30, seed=1)
    torch.testing.assert_close(relative(poses, poses), torch.zeros(30, 3))
    from_origin = relative(relative(poses, others), relative(drawn_poses(1, seed=2), others))
    torch.testing.assert_close(from_origin, relative(poses, drawn_poses(1, seed=2)), atol=1e-5, rtol=1e-4)


def test_the_camera_sees_a_ball_where_the_ray_caster_draws_it() -> None:
    """The middle of a small white ball in a black room, to a third of a pixel, at any height and from anywhere."""
    room, size = KnownRoom(), 64
    camera, rooms = room.camera(size), room.rooms
    first = int(rooms.disc_first[0, 0])  # the skins of pillars come last
    rooms.texels[:], rooms.texels[0, first:], rooms.discs[0] = 0, 255, 1
    tried = 0
    for seed in range(160):
        x, y, z = (torch.rand(3, generator=draws(seed)) * torch.tensor([3.0, 3, 0.8]) + torch.tensor([-0.6, -2.0, 0.3])).tolist()
        rooms.disc[0, 0] = (x, y, 0.12, z)
        pose = drawn_poses(1, seed=seed)
        ahead, left, _ = relative(torch.tensor([x, y, 0.0]), pose[0])
        column, row = camera.pixels(ahead, left, torch.tensor(z))
        if room.clearance(*pose[0, :2]) < 0.3 or ahead < 0.9 or camera.outside(column + 8, row) or camera.outside(column - 8, row):
            continue
        white = room.views(pose, size)[0, 0]
        centre = [float((white * torch.arange(size)).sum() / white.sum()), float((white.t() * torch.arange(size)).sum() / white.sum())]
        assert centre == pytest.approx([float(column), float(row)], abs=0.35)
        tried += 1
    assert tried >= 6


def test_columns_look_where_the_ray_caster_casts_them() -> None:
    """At the depths that it measures, points of the columns lie on walls and pillars; before them, in free space."""
    room, poses = KnownRoom(), KnownRoom().poses(12)
    camera, depth = room.camera(), room.depths(poses)
    for share, low, high in ((1.0, -1e-3, 1e-3), (0.9, 1e-3, math.inf)):
        x, y = camera.seen_from(poses[:, None], camera.aside, share * depth)
        for place in zip(x.flatten().tolist(), y.flatten().tolist(), strict=True):
            inside = [max(min(c, high), low) for c, low, high in zip(place, *room.rooms.bounds[0, 0].reshape(2, 2).tolist(), strict=True)]
            assert math.dist(inside, place) < 1e-3
            assert low < room.clearance(*inside) < high


def test_floors_and_ceilings_carried_to_another_view_are_those_seen_there() -> None:
    """Their depth is known: what is before the wall in one view, drawn from another by the camera alone."""
    room = KnownRoom()
    poses = torch.tensor([[0.0, -1.0, 0.2], [0.25, -0.9, 0.5]])
    camera, views, depth = room.camera(), room.views(poses), room.depths(poses)
    ahead, left = camera.seen_from(relative(poses[:1], poses[1:])[..., None, :], camera.aside, camera.ground[:, None])
    at = camera.pixels(ahead, left, camera.height + (camera.slope * camera.ground)[:, None])
    carried = sample(views[1:], at[0][None], at[1][None])[0]
    before = camera.ground[:, None] < 0.95 * depth[0]
    shown = before & (camera.outside(*at) == 0) & (ahead > 0.1)
    assert shown.sum() > 150
    assert psnr(carried, views[0], shown) > psnr(views[1], views[0], shown) + 6
    wrong = sample(views[1:], at[0][None] + 1.5, at[1][None])[0]
    assert psnr(carried, views[0], shown) > psnr(wrong, views[0], shown) + 2


# ---------------------------------------------------------------- between pixels


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_samples_are_bilinear(batch: tuple[int, ...]) -> None:
    """By hand; at a pixel the pixel, beyond an edge as at it."""
    pictures = torch.rand(*batch, 2, 4, 6, generator=draws())
    column, row = torch.rand(*batch, 5, 7, generator=draws(1)) * 9 - 2, torch.rand(*batch, 5, 7, generator=draws(2)) * 7 - 2
    column[..., 0, 0], row[..., 0, 0] = 5, 3
    found = sample(pictures, column, row)
    assert found.shape == (*batch, 2, 5, 7)
    torch.testing.assert_close(found[..., 0, 0], pictures[..., 3, 5])
    for at in itertools.product(*map(range, (*batch, 5, 7))):
        u, v = min(max(float(column[at]), 0), 5), min(max(float(row[at]), 0), 3)
        left, top = min(int(u), 4), min(int(v), 2)
        picture = pictures[at[: len(batch)]]
        above, below = ((1 - u + left) * picture[:, y, left] + (u - left) * picture[:, y, left + 1] for y in (top, top + 1))
        torch.testing.assert_close(found[at[: len(batch)]][:, at[-2], at[-1]], (1 - v + top) * above + (v - top) * below)


def test_gradients_of_a_sample() -> None:
    """To what is sampled and to where: half a pixel to the right lies as much brighter as the picture rises."""
    picture = torch.arange(5.0, requires_grad=True)
    column = torch.tensor([[1.5]], requires_grad=True)
    sample(picture.expand(1, 1, 3, 5), column[None], torch.ones(1, 1, 1)).sum().backward()
    torch.testing.assert_close(column.grad, torch.ones(1, 1))
    torch.testing.assert_close(picture.grad, torch.tensor([0, 0.5, 0.5, 0, 0]))


# ---------------------------------------------------------------- views that cover a pose


def greedy(camera: Camera, poses: Tensor, usable: Tensor, s: Tensor, K: int, view_depth: Tensor | None = None) -> list[int]:
    """One pose s (3,), views from poses (N, 3), of which some are usable (N,); view_depth (N, W)."""
    points = [(aside, depth) for depth in (0.6, 1.2, 2.4, 4.0) for aside in camera.aside[camera.size // 16 :: camera.size // 8].tolist()]

    def worth(pose: Tensor, walls: Tensor | None) -> list[float]:
        """How well each point of s's view is shown from a pose: not at all outside its frame, less at another scale, from afar and behind
        walls at depths (W,).
        """
        found = []
        for aside, depth in points:
            x = float(s[0]) + depth * (math.cos(s[2]) + aside * math.sin(s[2]))
            y = float(s[1]) + depth * (math.sin(s[2]) - aside * math.cos(s[2]))
            ahead, column, _ = pinhole(pose, (x, y, HEIGHT), camera.size, 90)
            shown = ahead > 0.15 and -1e-4 < column < camera.size - 1 + 1e-4
            scale = max(ahead, 0.05) / depth
            behind = 1.0 if walls is None or not shown else min(1.0, float(walls[min(max(round(column), 0), camera.size - 1)]) / ahead) ** 4
            found.append(shown * min(scale, 1 / scale) * math.exp(-0.35 * math.dist(pose[:2].tolist(), s[:2].tolist())) * behind)
        return found

    worths = [worth(pose, None if view_depth is None else view_depth[i]) for i, pose in enumerate(poses)]
    gained, chosen = [0.0] * len(points), []
    for _ in range(K):
        gains = [
            sum(max(w - g, 0) for w, g in zip(all_, gained, strict=True)) + 1e-4 * sum(all_) if usable[i] and i not in chosen else -1.0
            for i, all_ in enumerate(worths)
        ]
        chosen.append(max(range(len(gains)), key=gains.__getitem__))
        gained = [max(g, 0.9 * w) for g, w in zip(gained, worths[chosen[-1]], strict=True)]
    return chosen


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("size", [8, 32])
def test_views_are_chosen_as_by_a_greedy_loop(size: int, known: bool) -> None:
    camera = Camera(size, 90.0, HEIGHT, CEILING)
    poses, s = drawn_poses(2, 14), drawn_poses(2, 3, seed=1)
    usable = torch.rand(2, 3, 14, generator=draws(2)) < 0.7
    depth = 0.3 + 4 * torch.rand(2, 14, size, generator=draws(3)) if known else None
    chosen = covering(camera, poses, usable, s, 5, depth)
    assert chosen.shape == (2, 3, 5)
    for m, q in itertools.product(range(2), range(3)):
        assert chosen[m, q].tolist() == greedy(camera, poses[m], usable[m, q], s[m, q], 5, None if depth is None else depth[m])
        assert usable[m, q, chosen[m, q]].all()
    torch.testing.assert_close(covering(camera, poses, usable[:, :1], s, 5), covering(camera, poses, usable[:, :1].expand(2, 3, 14), s, 5))


def test_a_pose_is_best_covered_by_its_own_view_and_then_by_what_that_lacks() -> None:
    """Of views from one place the own one, then others that show nothing more only after those that do."""
    camera = Camera(32, 90.0, HEIGHT, CEILING)
    headings = torch.tensor([0.0, 3.0, 0.3, -0.3, 0.02])
    poses = torch.stack([torch.zeros(5), torch.zeros(5), headings], dim=-1)[None]
    everything = torch.ones(1, 1, 5, dtype=torch.bool)
    chosen = covering(camera, poses, everything, torch.zeros(1, 1, 3), 5)[0, 0].tolist()
    assert chosen[0] == 0
    assert chosen[-1] == 1  # it looks the other way
    without = everything.clone()
    without[..., 0] = False
    first, second = covering(camera, poses, without, torch.zeros(1, 1, 3), 2)[0, 0].tolist()
    assert first == 4
    assert second == 3  # it shows the edge that the first, turned a little to the left, lacks


def test_a_view_from_behind_a_wall_is_chosen_last() -> None:
    """Where depths are known: without them it is taken for the best, as it stands nearest."""
    camera = Camera(32, 90.0, HEIGHT, CEILING)
    poses = torch.tensor([[[-0.4, 0.0, 0.0], [0.0, 1.5, -0.6], [0.0, -1.5, 0.6]]])  # close behind, and from both sides
    depth = torch.full((1, 3, 32), 5.0)
    depth[0, 0] = 0.2
    all_of_them, s = torch.ones(1, 1, 3, dtype=torch.bool), torch.zeros(1, 1, 3)
    assert covering(camera, poses, all_of_them, s, 3)[0, 0, 0] == 0
    assert covering(camera, poses, all_of_them, s, 3, depth)[0, 0, -1] == 0


def test_no_gradient_flows_through_a_choice() -> None:
    camera, poses = Camera(8, 90.0, HEIGHT, CEILING), drawn_poses(1, 6).requires_grad_()
    chosen = covering(camera, poses, torch.ones(1, 1, 6, dtype=torch.bool), poses[:, :2], 3)
    assert not chosen.requires_grad
