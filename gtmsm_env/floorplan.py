"""The floor plan that a memory of first-person views implies: where walls stand, and where the floor is free.

Three steps, of which the first and the last learn. `Stereo` compares what a view shows along each of its columns with other views of the
memory and says how deep its wall lies; `floor_plan` lays what all views say on one lattice over the floor, as evidence of something
standing there and of nothing; `Sight` looks along the columns of any pose over that lattice and says how deep its walls lie. The first two
are done twice: the second time each view knows the plan that all made together. True depths are never read: a depth is right if other
views look alike there.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtmsm_env.loops import loops_for
from gtmsm_env.networks import Network
from gtmsm_env.perspective import FARTHEST, NEAREST, Camera, in_parts, relative, sample

CELL, REACH = 0.08, 12.8  # units: of the lattice, and how far it extends from the start
CELLS = round(2 * REACH / CELL)
RADIUS = 0.2  # units, the agent's
STANDS = 1.5  # how many times as much evidence tells of something around a cell as of nothing in it, where something stands there
LITTLE = 0.3  # evidence: much less than this tells nothing
PUSHES = 3  # by which an agent comes free of what it would run into: two in a corner
BEYOND = 0.3  # pixels outside of a frame within which a point counts as seen where its edge is
HEIGHTS = 8  # on a wall, at which views are compared
TOLD = 5  # what a plan tells of each column and depth
ALIKE = 0.5  # share of the views compared that count, those that agree best: the others may have something in between


def depths(count: int, device: torch.device | None = None) -> Tensor:
    """Depths from near to far, each farther than the one before by the same share: (count,)"""
    return torch.linspace(math.log(NEAREST), math.log(FARTHEST), count, device=device).exp()


def columns_net(inputs: int, hidden: int, dilations: tuple[int, ...]) -> Network:
    """Convolutions over columns and depths, (B, inputs, W, D) -> (B, 1, W, D)."""
    layers: list[nn.Module] = []
    for dilation in dilations:
        layers += [nn.Conv2d(inputs, hidden, 3, padding=dilation, dilation=dilation), nn.SiLU()]
        inputs = hidden
    return Network(*layers, nn.Conv2d(hidden, 1, 3, padding=1))


class Stereo(nn.Module):
    """log p(depth of a column | its view, other views), over D depths: the view's frame is swept through its sources plane by plane.

    `forward` knows no more, `again` also what is `told` by the plan that all views made of their first answers.
    """

    def __init__(self, camera: Camera, D: int = 48, hidden: int = 24) -> None:
        super().__init__()
        self.camera, self.D = camera, D
        self.net = columns_net(16, hidden, (1, 1, 2, 1))
        self.second = columns_net(16 + TOLD, hidden, (1, 1, 2, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Of features (E, 16, W, D): (E, W, D)."""
        return log_softmax_of(self.net, features)

    def again(self, features: Tensor, told: Tensor) -> Tensor:
        """Of features (E, 16, W, D) and what `along` tells of the same columns (E, TOLD, W, D): (E, W, D)."""
        return log_softmax_of(self.second, torch.cat([features, told], dim=1))

    @torch.no_grad()
    def compare(self, view: Tensor, pose: Tensor, sources: Tensor, source_poses: Tensor) -> Tensor:
        """view (E, C, H, W) from pose (E, 3), sources (E, J, C, H, W) from (E, J, 3) -> features (E, 16, W, D). Nothing in them learns."""
        return self.features(view, *self.sweep(view, relative(pose[:, None], source_poses), sources))

    def sweep(self, view: Tensor, seen_from: Tensor, sources: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """How unlike the sources are to the view, in its pose `seen_from` theirs (E, J, 3).

        Returns differences on walls at each depth (E, J, W, D), which of them are seen, the same of floor and ceiling (E, J, W, H).
        """
        camera, depth = self.camera, depths(self.D, view.device)
        up = torch.linspace(0.05, 0.95, HEIGHTS, device=view.device) * camera.ceiling
        if loops := loops_for("projection_compiled", view, seen_from, sources):
            return loops.sweep(camera, view, seen_from, sources, depth, up)
        column = torch.arange(camera.size, device=view.device).float()[:, None, None].expand(-1, self.D, HEIGHTS)
        row = camera.pixels(depth[:, None], depth.new_zeros(()), up)[1].expand_as(column)  # of the view itself, (W, D, heights)
        own = sample(view, *(x.flatten(-2).expand(len(view), -1, -1) for x in (column, row)))
        ahead, left = (x[..., None] for x in camera.seen_from(seen_from[:, :, None, None], camera.aside[:, None], depth))  # (E, J, W, D, 1)
        at = [x.expand(*ahead.shape[:-1], HEIGHTS) for x in camera.pixels(ahead, left, up)]
        seen = (ahead > 0.12) & (camera.outside(*at) < BEYOND) & (camera.outside(column, row) < BEYOND)
        unlike = (sample(sources, at[0].flatten(-2), at[1].flatten(-2)) - own[:, None]).abs().mean(dim=2).unflatten(-1, (self.D, HEIGHTS))
        walls = (unlike * seen).sum(dim=-1) / seen.sum(dim=-1).clamp(min=1)

        ahead, left = camera.seen_from(seen_from[:, :, None, None], camera.aside[:, None], camera.ground)  # (E, J, W, H)
        at = list(camera.pixels(ahead, left, camera.height + camera.slope * camera.ground))
        ground_seen = (ahead > 0.12) & (camera.outside(*at) < BEYOND)
        ground = (sample(sources, *at) - view.transpose(-1, -2)[:, None]).abs().mean(dim=2)
        return walls, seen.sum(dim=-1) >= 2, ground, ground_seen

    def features(self, view: Tensor, walls: Tensor, seen: Tensor, ground: Tensor, ground_seen: Tensor) -> Tensor:
        """What the network sees of each column and depth: (E, 16, W, D)."""
        camera, depth = self.camera, depths(self.D, view.device)
        wall, count = best_half(walls, seen)
        free, _ = self.before(*best_half(ground, ground_seen))
        least = torch.where(seen, walls, torch.inf).amin(dim=1)
        column = torch.arange(camera.size, device=view.device).float()[:, None].expand(-1, self.D)
        colours: list[Tensor] = []  # around where a wall at that depth meets floor and ceiling
        for edge in (0.0, camera.ceiling):
            row = camera.pixels(depth, depth.new_zeros(()), depth.new_tensor(edge))[1]
            for beside in (-1, 1):
                at = (x.expand(len(view), camera.size, self.D) for x in (column, row + beside))
                colours += sample(view, *at).sub(0.5).unbind(dim=1)
        costs = [5 * wall, 5 * torch.where(count > 0, least, 0.5), count / seen.shape[1], 5 * free]
        return torch.stack([*costs, *colours], dim=1)

    def before(self, ground: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """The mean difference (E, W, D) of those rows that show floor or ceiling before a wall at each depth, and how many are compared."""
        depth = depths(self.D, ground.device)
        shown, compared = (self.camera.ground < depth[:, None]).float(), (count > 0).float()
        rows = compared @ shown.t()
        return ((ground * compared) @ shown.t()) / rows.clamp(min=1), rows

    def unlike(self, view: Tensor, pose: Tensor, sources: Tensor, source_poses: Tensor) -> Tensor:
        """How unlike these sources are to the whole column if its wall lies at each depth, (E, W, D): what a right depth keeps small."""
        walls, seen, ground, ground_seen = self.sweep(view, relative(pose[:, None], source_poses), sources)
        wall, count = best_half(walls, seen)
        before, rows = self.before(*best_half(ground, ground_seen))
        upright = (self.camera.ground >= depths(self.D, view.device)[:, None]).sum(dim=-1) * (count > 0)
        compared = rows + upright
        return torch.where(compared > 0, (before * rows + wall * upright) / compared.clamp(min=1), 0.3)


def log_softmax_of(net: Network, features: Tensor) -> Tensor:
    """log p over depths by a network of (B, C, W, D): (B, W, D)."""
    logits: Tensor = net(features.contiguous(memory_format=torch.channels_last))[:, 0]  # which convolutions are faster on
    return logits.log_softmax(dim=-1)


def best_half(unlike: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over the better half of the sources that see something (E, J, ...), .5 where none does, and how many do: (E, ...) each."""
    count = seen.sum(dim=1)
    kept = (ALIKE * count).ceil()
    ordered = torch.where(seen, unlike, torch.inf).sort(dim=1).values
    rank = torch.arange(seen.shape[1], device=seen.device).reshape(-1, *[1] * (seen.dim() - 2))
    best = torch.where(rank < kept[:, None], ordered, 0).sum(dim=1) / kept.clamp(min=1)
    return torch.where(count > 0, best, 0.5), count


def floor_plan(camera: Camera, poses: Tensor, p: Tensor, used: Tensor) -> Tensor:
    """What all views say of each cell of the floor, summed: evidence that something stands there, and that nothing does.

    poses (M, N, 3); p (M, N, W, D) of each column's depth; used (M, N) bool. Returns (M, 2, CELLS, CELLS), rows along y, around the origin.
    """
    depth = depths(p.shape[-1], p.device)
    p = p * used[..., None, None]
    along = torch.arange(0.1, FARTHEST, CELL, device=p.device)
    beyond = p.flip(-1).cumsum(dim=-1).flip(-1) - p  # P(the wall lies farther)
    place = (along / NEAREST).log() / math.log(FARTHEST / NEAREST) * (p.shape[-1] - 1)
    place = place.clamp(0, p.shape[-1] - 1.001)
    low = place.floor().long()
    beyond = beyond[..., low] + (place - low) * (beyond[..., low + 1] - beyond[..., low])
    plan = p.new_zeros(2, len(p) * CELLS * CELLS)
    for evidence, (weight, far) in enumerate(((p, depth), (beyond, along))):
        x, y = camera.seen_from(poses[:, :, None, None], camera.aside[:, None], far)  # (M, N, W, D)
        x, y = (on_lattice(c).clamp(0, CELLS - 1.001) for c in (x, y))
        left, below = x.floor(), y.floor()
        right_share, up_share = x - left, y - below
        memory = torch.arange(len(p), device=p.device)[:, None, None, None]
        cell = ((memory * CELLS + below.long()) * CELLS + left.long()).flatten()
        for beside, above in ((0, 0), (1, 0), (0, 1), (1, 1)):
            share = (right_share if beside else 1 - right_share) * (up_share if above else 1 - up_share)
            plan[evidence].index_add_(0, cell + beside + CELLS * above, (weight * share).flatten())
    return plan.unflatten(1, (len(p), CELLS, CELLS)).transpose(0, 1)


def read(plan: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """A plan (M, 2, CELLS, CELLS) at places x, y (M, a, b): (M, 2, a, b)."""
    return sample(plan, on_lattice(x), on_lattice(y))


def on_lattice(place: Tensor) -> Tensor:
    """Which column or row of the lattice a coordinate in units falls on, between the middles of cells."""
    return place / CELL + (CELLS - 1) / 2


def share_standing(stands: Tensor, free: Tensor) -> Tensor:
    """What share of the evidence says that something stands; small where there is little of either."""
    return stands / (stands + free + LITTLE)


def something(plan: Tensor) -> Tensor:
    """Which cells of plans (*M, 2, CELLS, CELLS) something stands in or next to, (*M, CELLS, CELLS) bool."""
    stands, free = plan.unbind(dim=-3)
    around = F.avg_pool2d(stands.reshape(-1, 1, CELLS, CELLS), 3, stride=1, padding=1).reshape(stands.shape)
    return around > STANDS * (free + LITTLE)


def standing(plan: Tensor) -> Tensor:
    """The places of these cells of one plan (2, CELLS, CELLS): (O, 2)."""
    row, column = something(plan).nonzero().unbind(dim=-1)
    return (torch.stack([column, row], dim=-1) - (CELLS - 1) / 2) * CELL


def clearance(stands: Tensor) -> Tensor:
    """How far the middle of each cell is from that of the nearest in which something stands, in units, at most just beyond `RADIUS`.

    stands: (M, CELLS, CELLS) bool -> (M, CELLS, CELLS) of half precision
    """
    most = math.ceil(RADIUS / CELL) + 1
    found = torch.full(stands.shape, (most + 1) * CELL, dtype=torch.float16, device=stands.device)
    stands = F.pad(stands, (most,) * 4)
    offsets = [offset for offset in itertools.product(range(-most, most + 1), repeat=2) if math.hypot(*offset) <= most]
    for down, right in sorted(offsets, key=lambda offset: -math.hypot(*offset)):  # the nearest last
        there = stands[:, most + down : most + down + CELLS, most + right : most + right + CELLS]
        found = found.masked_fill(there, math.hypot(down, right) * CELL)
    return found


def kept_out(clear: Tensor, places: Tensor) -> Tensor:
    """Where agents come to stand that would be at `places` (M, Q, 2), by the `clearance` (M, CELLS, CELLS) of their plans: (M, Q, 2).

    They are discs, pushed out of what they overlap the shortest way, and so slide along it.
    """
    for _ in range(PUSHES):
        column, row = on_lattice(places).clamp(0, CELLS - 1.001).unbind(dim=-1)
        left, below = column.floor(), row.floor()
        corner = (below * CELLS + left).long()
        here, east, north, both = (clear.flatten(1).gather(1, corner + beside).float() for beside in (0, 1, CELLS, CELLS + 1))
        across, up = column - left, row - below
        low, high = here + across * (east - here), north + across * (both - north)
        away = torch.stack([(1 - up) * (east - here) + up * (both - north), high - low], dim=-1) / CELL
        push = (RADIUS - low - up * (high - low)).clamp(min=0)
        places = places + push[..., None] * away / away.norm(dim=-1, keepdim=True).clamp(min=0.1)
    return places


def along(camera: Camera, plan: Tensor, s: Tensor, D: int) -> Tensor:
    """What a plan (M, 2, CELLS, CELLS) tells along the columns of poses s (M, Q, 3), at each of D depths: (M, Q, TOLD, W, D)."""
    depth = depths(D, s.device)
    if loops := loops_for("projection_compiled", plan, s):
        return loops.along(camera, plan, s, depth)
    x, y = camera.seen_from(s[:, :, None, None], camera.aside[:, None], depth)  # (M, Q, W, D)
    stands, free = read(plan, x.flatten(1, 2), y.flatten(1, 2)).unflatten(2, x.shape[1:3]).unbind(dim=1)
    share = share_standing(stands, free)
    passed = (1 - share.clamp(max=0.97)).log().cumsum(dim=-1)  # log P(nothing stands so far)
    return torch.stack([stands.log1p(), free.log1p(), 4 * share, passed / 3, (1 / depth - 2).expand_as(share)], dim=2)


class Sight(nn.Module):
    """log p(depth of a column | floor plan), over D depths, at any pose."""

    def __init__(self, camera: Camera, D: int = 48, hidden: int = 16) -> None:
        super().__init__()
        self.camera, self.D = camera, D
        self.net = columns_net(TOLD, hidden, (1, 1, 2))

    def forward(self, plan: Tensor, s: Tensor) -> Tensor:
        """plan (M, 2, CELLS, CELLS), s (M, Q, 3) -> (M, Q, W, D)."""
        told = along(self.camera, plan, s, self.D).flatten(0, 1)
        (log_p,) = in_parts(lambda part: (log_softmax_of(self.net, part),), told)
        return log_p.unflatten(0, s.shape[:2])

    def depth(self, plan: Tensor, s: Tensor) -> Tensor:
        """The depth of each column, (M, Q, W): the mean of its inverse around the most probable."""
        learns = torch.is_grad_enabled() and any(weight.requires_grad for weight in self.parameters())
        if not learns and (loops := loops_for("projection_compiled", plan, s)):
            before_last, last = self.net[:-1], self.net[-1]
            assert isinstance(last, nn.Conv2d)

            def columns(told: Tensor) -> tuple[Tensor]:
                return (loops.sight(last, before_last(told.to(last.weight.dtype)), depths(self.D)),)

            (depth,) = in_parts(columns, along(self.camera, plan, s, self.D).flatten(0, 1))
            return depth.unflatten(0, s.shape[:2])
        log_p = self(plan, s)
        near = (torch.arange(self.D, device=s.device) - log_p.argmax(dim=-1, keepdim=True)).abs() <= 3
        p = torch.where(near, log_p, -torch.inf).softmax(dim=-1)
        return 1 / (p / depths(self.D, s.device)).sum(dim=-1)
