"""The prior of first-person worlds: remembered frames, projected into the view that is imagined, blended and mended."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtmsm_env.floorplan import CELLS, RADIUS, Sight, Stereo, along, clearance, floor_plan, kept_out, something
from gtmsm_env.loops import loops_for
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.networks import Network, frames_to_x, mlp
from gtmsm_env.perspective import Camera, covering, in_parts, part_by_part, relative, sample
from gtmsm_env.types import GaussianMixture, result_of

EVERY = 2  # of a memory's entries, those whose depth is found: neighbours in time say much the same


class ProjectedViews(nn.Module):
    """What the K remembered views that cover most of a pose show of it, each pixel carried over by the depth of its column.

    p(x | z, s, M) has the mean canvas(s, M) + decoder(z) - decoder(encoder(canvas)), and p(z | s, M) = N(z; encoder(canvas), v(s, M)):
    the canvas holds what views tell, z what they leave open. Where z is expected, the frame is the canvas itself. Depths come from a floor
    plan, which a memory's views imply (`recall`). It assumes a level camera in rooms of upright walls, and a state in the camera's unit.

    Args:
        camera: "field_of_view" in degrees, "height" and "ceiling" in units
        K: views that are blended
        sources: views that one view of the memory is compared with, to find its depth
    """

    def __init__(
        self, x_shape: tuple[int, int, int], z_size: int, camera: dict[str, float], K: int = 8, sources: int = 6, hidden: int = 16
    ) -> None:
        super().__init__()
        channels, size, _ = x_shape
        self.K, self.sources, self.hidden = K, sources, hidden
        self.camera = Camera(size, **camera)
        self.stereo, self.sight = Stereo(self.camera), Sight(self.camera)
        self.weigh = nn.Sequential(nn.Linear(11, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, 1))
        last = nn.Conv2d(hidden, channels, 3, padding=1)
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        self.mend = Network(
            nn.Conv2d(channels + 5, hidden, 3, padding=1), nn.SiLU(), nn.Conv2d(hidden, hidden, 3, padding=1), nn.SiLU(), last
        )
        self.doubt = mlp((channels + 5) * (size // 4) ** 2, 128, z_size)
        self.log_variance = nn.Parameter(torch.zeros(z_size))

    # ---------------------------------------------------------------- what a memory implies

    def recall(self, memory: SpatialMemory) -> SpatialMemory:
        """The memory with what `forward` reads: of each entry its `view` (C, H, W) and the `depth` of its columns (W,), and the `plan`.

        ValueError for an empty one.
        """
        return result_of(self.recalling(memory))

    @torch.no_grad()
    def recalling(self, memory: SpatialMemory) -> Generator[bool, None, SpatialMemory]:
        """`recall`, which lets others work now and then."""
        if not memory.count.all():
            raise ValueError("The memory is empty. Walk (or observe) in the world before asking what it shows.")
        poses, used, frames = (flat(memory, x) for x in (memory.s_mean, memory.used, memory.values["frame"]))
        views = frames_to_x(frames).contiguous()  # (M, N, C, H, W)
        plans = [views.new_zeros(0, 2, CELLS, CELLS)]
        for row in range(len(views)):  # one after another: the features of one memory fill enough
            plans.append((yield from self.planning(*(x[row, None] for x in (views, poses, used)))))
        plan = torch.cat(plans)
        found = (views, self.sight.depth(plan, poses), plan, clearance(something(plan)))
        view, depth, plan, clear = (x.reshape(*memory.batch_shape, *x.shape[1:]) for x in found)
        return memory.but(memory.values | {"view": view, "depth": depth}, memory.facts | {"plan": plan, "clearance": clear})

    @torch.no_grad()
    def entry(self, s: Tensor, frame: Tensor, memory: SpatialMemory) -> dict[str, Tensor]:
        """What `recall` adds to one more entry of each memory, at s (*M, 3) with a frame (*M, H, W, C); the plan stays as it was."""
        depth = self.sight.depth(flat(memory, memory.facts["plan"]), flat(memory, s)[:, None])
        return {"view": frames_to_x(frame), "depth": depth.reshape(*s.shape[:-1], depth.shape[-1])}

    @torch.no_grad()
    def planning(self, views: Tensor, poses: Tensor, used: Tensor) -> Generator[bool, None, Tensor]:
        """The floor plan (1, 2, CELLS, CELLS) that the entries of one memory imply, (1, N, ...) each.

        By stereo of each `EVERY`th with those that cover most of it, which is done twice.
        """
        plan, features, index = yield from self.planning_first(views, poses, used)
        told = along(self.camera, plan, poses[:, index], self.stereo.D)[0]
        (p,) = yield from part_by_part(lambda *part: (self.stereo.again(*part).exp(),), features, told)
        return floor_plan(self.camera, poses[:, index], p[None], used[:, index])

    @torch.no_grad()
    def planning_first(self, views: Tensor, poses: Tensor, used: Tensor) -> Generator[bool, None, tuple[Tensor, Tensor, Tensor]]:
        """Of one memory, (1, N, ...) each: the plan by first answers, the features (E, 16, W, D) they are of, and of which entries (E,)."""
        index = torch.arange(0, poses.shape[1], EVERY, device=poses.device)
        sources = self.sources_of(poses, used, index[None])[0]  # (E, J)

        def answer(view: Tensor, pose: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
            features = self.stereo.compare(view, pose, views[0, which], poses[0, which])
            return self.stereo(features).exp(), features

        p, features = yield from part_by_part(answer, views[0, index], poses[0, index], sources)
        return floor_plan(self.camera, poses[:, index], p[None], used[:, index]), features, index

    def sources_of(self, poses: Tensor, used: Tensor, queries: Tensor, J: int | None = None) -> Tensor:
        """The J entries that cover most of some entries (M, Q), these left out: (M, Q, J)."""
        index = torch.arange(poses.shape[1], device=poses.device)
        usable = used[:, None] & (index != queries[..., None])
        return covering(self.camera, poses, usable, poses.take_along_dim(queries[..., None], dim=1), J or self.sources)

    # ---------------------------------------------------------------- what is expected at a state

    def forward(self, s: Tensor, memory: SpatialMemory) -> tuple[Tensor, Tensor]:
        """s (*M, *Q, 3) in a recalled memory -> canvas (*M, *Q, C, H, W), and what `variance` reads."""
        lead = s.shape[:-1]
        values = (memory.s_mean, memory.used, memory.values["view"], memory.values["depth"], memory.facts["plan"], s)
        poses, used, views, view_depth, plan, s = (flat(memory, x) for x in values)
        s = s.reshape(len(s), math.prod(s.shape[1:-1]), 3)  # (M, Q, 3)
        which = covering(self.camera, poses, used[:, None], s, self.K, view_depth).flatten(0, 1)  # (B, K)
        row = torch.arange(len(s), device=s.device).repeat_interleave(s.shape[1])[:, None]  # (B, 1)
        depth = self.sight.depth(plan, s)

        def blend(s: Tensor, depth: Tensor, row: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
            return self.blend(views[row, which], relative(s[:, None], poses[row, which]), view_depth[row, which], depth)

        canvas, laid = in_parts(blend, s.flatten(0, 1), depth.flatten(0, 1), row, which)
        return canvas.reshape(*lead, *canvas.shape[-3:]), laid.reshape(*lead, *laid.shape[-3:])

    def blend(self, views: Tensor, seen_from: Tensor, view_depth: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        """Views (B, K, C, H, W), imagined poses seen from theirs (B, K, 3), their depth (B, K, W) and that of the poses (B, W).

        Returns the canvas (B, C, H, W), and (B, C + 5, H, W) what was blended and how sure that is.
        """
        loops = loops_for("projection_compiled", views, seen_from, view_depth, depth, *self.weigh.parameters())
        if loops and self.hidden <= loops.HIDDEN:
            laid = loops.lay(self.weigh, self.camera, views, seen_from, view_depth, depth)
        else:
            laid = self.lay(views, seen_from, view_depth, depth).contiguous(memory_format=torch.channels_last)
        return laid[:, : views.shape[2]] + 0.5 + self.mend(laid), laid

    def lay(self, views: Tensor, seen_from: Tensor, view_depth: Tensor, depth: Tensor) -> Tensor:
        """What `blend` returns second, of the same arguments."""
        camera = self.camera
        depth = torch.minimum(depth[:, None], camera.ground[:, None])[:, None]  # (B, 1, H, W) of every pixel
        up = camera.height + camera.slope[:, None] * depth
        ahead, left = camera.seen_from(seen_from[..., None, None, :], camera.aside, depth)  # (B, K, H, W)
        column, row = camera.pixels(ahead, left, up)
        seen = sample(views, column, row)  # (B, K, C, H, W)
        front, outside = (ahead > 0.1).float(), camera.outside(column, row)
        inside = front * (outside < 0.5)
        nearest = (column + 0.5).long().clamp(0, camera.size - 1)
        behind = view_depth[:, :, None].expand_as(ahead).gather(-1, nearest)
        hidden = ((ahead - behind) / ahead.clamp(min=0.3)).clamp(-1, 1)
        size = (ahead.clamp(min=0.1) / depth).log().clamp(-2, 2)
        away = seen_from[..., :2].norm(dim=-1)[..., None, None].expand_as(ahead)
        count = inside.sum(dim=1)
        mean = (inside[:, :, None] * seen).sum(dim=1) / count[:, None].clamp(min=1)
        unlike = (seen - mean[:, None]).abs().mean(dim=2)
        between = [8 * (c - c.round()).square() for c in (column, row)]  # how far from the middle of a pixel
        told = [front, outside.clamp(max=3), inside, hidden, hidden.clamp(min=0), away, size, size.abs(), *between, 4 * unlike]
        logit = self.weigh(torch.stack(told).flatten(1).t()).reshape(ahead.shape) - 20 * (1 - front) - 2 * outside.clamp(max=8)
        log_weight = logit.log_softmax(dim=1)
        weight = log_weight.exp()[:, :, None]
        blended = (weight * seen).sum(dim=1)  # (B, C, H, W)
        spread = (weight * (seen - blended[:, None]).abs()).sum(dim=1).mean(dim=1)
        sure = (logit - log_weight)[:, 0] / 4  # the log of what the weights were divided by
        depth = depth[:, 0]
        slope = camera.slope[:, None].expand_as(depth)
        return torch.cat([blended - 0.5, torch.stack([4 * spread, sure, 0.25 / depth, slope, count / self.K], dim=1)], dim=1)

    def variance(self, laid: Tensor) -> Tensor:
        """v(s, M): how far z may lie from the encoding of the canvas, (*B, d)."""
        coarse = F.avg_pool2d(laid.reshape(-1, *laid.shape[-3:]), 4).flatten(1)
        variance = (self.log_variance + self.doubt(coarse)).exp()
        return variance.reshape(*laid.shape[:-3], variance.shape[-1])

    def prior(self, laid: Tensor, z: Tensor) -> GaussianMixture:
        """p(z | s, M), one Gaussian: z (*B, d) is the encoding of the canvas."""
        return GaussianMixture(z.new_zeros(*z.shape[:-1], 1), z[..., None, :], self.variance(laid)[..., None, :])


def stops(memory: SpatialMemory, top_speed: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Where agents come to stand that would go from s to `moved` (*M, *Q, 3), by what a recalled memory's views have seen in the way.

    They go in parts so short that none leads from one side of a thin wall to the other.
    """
    clear, parts = flat(memory, memory.facts["clearance"]), max(1, math.ceil(top_speed / (0.8 * RADIUS)))

    def stop(s: Tensor, moved: Tensor) -> Tensor:
        shape = len(clear), math.prod(moved.shape[len(memory.batch_shape) : -1]), 2
        start, end = (x[..., :2].reshape(shape) for x in (s.expand_as(moved), moved))
        pushed = torch.zeros_like(end)
        for part in range(1, parts + 1):
            there = (end if part == parts else torch.lerp(start, end, part / parts)) + pushed
            pushed = pushed + kept_out(clear, there) - there
        return torch.cat([(end + pushed).reshape(*moved.shape[:-1], 2), moved[..., 2:]], dim=-1)

    return stop


def flat(memory: SpatialMemory, x: Tensor) -> Tensor:
    """What a batch of memories holds, or is asked, (*M, ...) as (M, ...)."""
    return x.reshape(memory.count.numel(), *x.shape[len(memory.batch_shape) :])
