"""What the memory lets expect: weights by hand, views laid over one another by loops, pixels that are known exactly."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from gtmsm_env import loops
from gtmsm_env.networks import Encoder, x_to_frames
from gtmsm_env.priors import CombinedPrior, ViewsPrior, mixture_prior
from gtmsm_env.transitions import turned
from gtmsm_env.types import Neighbours, phi

C, H, W, D, K = 3, 5, 6, 4, 3


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def views_prior(margin: int = 2, sharp: bool = False) -> ViewsPrior:
    """A is one pixel a unit of state. Sharp: a view lies on whole pixels."""
    prior = ViewsPrior((C, H, W), D, extent=6, margin=margin, hidden=8).requires_grad_(False)
    prior.A.copy_(torch.eye(2))
    if sharp:
        prior.log_width.fill_(math.log(0.1))
    return prior


def drawn_canvas(prior: ViewsPrior, *batch: int, seed: int = 5) -> Tensor:
    """Colours and cover, of any kind."""
    return torch.rand(*batch, C + 1, H + 2 * prior.extent, W + 2 * prior.extent, generator=draws(seed))


def neighbours(*batch: int, seed: int = 0) -> tuple[Neighbours, Tensor]:
    """K places, nearest first, and the state they are neighbours of."""
    g = draws(seed)
    s, s_mean = torch.randn(*batch, 2, generator=g), 3 * torch.randn(*batch, K, 2, generator=g)
    distance, order = (s_mean - s[..., None, :]).norm(dim=-1).sort(dim=-1)
    s_mean = torch.take_along_dim(s_mean, order[..., None], dim=-2)
    values = {"z_mean": torch.randn(*batch, K, D, generator=g), "z_variance": torch.rand(*batch, K, D, generator=g) + 0.1}
    return Neighbours(distance, order, s_mean, torch.ones(*batch, K, 2), values), s


# ---------------------------------------------------------------- the paper's


def test_weights_of_the_mixture_by_hand() -> None:
    distance, delta = [0.0, 0.3, 2.0], 0.01
    values = {"z_mean": torch.randn(3, D, generator=draws()), "z_variance": torch.rand(3, D, generator=draws(1))}
    mixture = mixture_prior(Neighbours(torch.tensor(distance), torch.arange(3), torch.zeros(3, 2), torch.ones(3, 2), values), delta)
    expected = [1 / (rho**2 + delta) for rho in distance]
    torch.testing.assert_close(mixture.log_weight.exp(), torch.tensor(expected) / sum(expected))
    assert mixture.mean is values["z_mean"]
    assert mixture.variance is values["z_variance"]


def test_delta_softens_the_mixture() -> None:
    near, _ = neighbours(20)
    heaviest = [mixture_prior(near, delta).log_weight.exp().amax(dim=-1) for delta in (1e-4, 1e-1, 1e3)]
    assert (heaviest[0] > heaviest[1]).all()
    assert (heaviest[1] > heaviest[2]).all()
    torch.testing.assert_close(heaviest[2], torch.full((20,), 1 / K), atol=0.02, rtol=0)


# ---------------------------------------------------------------- views


def slow_lay(prior: ViewsPrior, views: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel by pixel."""
    m, width = prior.extent, float(prior.log_width.exp())
    canvas, cover = torch.zeros(C, H + 2 * m, W + 2 * m), torch.zeros(H + 2 * m, W + 2 * m)
    colour = [sum(float(view[c].mean()) for view in views) / len(views) for c in range(C)]
    for y, x in itertools.product(range(-m, H + m), range(-m, W + m)):
        total, shown = 0.0, [0.0] * C
        for view, (down, right) in zip(views, at.tolist(), strict=True):
            for i, j in itertools.product(range(H), range(W)):
                counts = math.exp(-0.5 * ((y - i - down) ** 2 + (x - j - right) ** 2) / width**2)
                total += counts
                shown = [shown[c] + counts * float(view[c, i, j]) for c in range(C)]
        covered = total / (total + 1e-3)
        cover[y + m, x + m] = covered
        for c in range(C):
            canvas[c, y + m, x + m] = covered * shown[c] / (total + 1e-6) + (1 - covered) * colour[c]
    return canvas, cover


def slow_look(prior: ViewsPrior, canvas: Tensor, s: Tensor, margin: int) -> Tensor:
    """One query (n,), pixel by pixel: the four that lie around each count by how near they are."""
    room = prior.extent - margin
    down, right = (min(max(x, -room), room) + room for x in s.tolist())
    shown = torch.zeros(len(canvas), H + 2 * margin, W + 2 * margin)
    for y, x, i, j in itertools.product(*map(range, shown.shape[1:]), *map(range, canvas.shape[1:])):
        shown[:, y, x] += max(0, 1 - abs(y + down - i)) * max(0, 1 - abs(x + right - j)) * canvas[:, i, j]
    return shown


def slow_fill(prior: ViewsPrior, canvas: Tensor, cover: Tensor) -> Tensor:
    """One canvas (C, H', W') under cover (H', W'), pixel by pixel."""

    def average(of: Tensor, y: int, x: int, width: float) -> Tensor:
        """Along columns, then along rows, each axis with weights that sum to one."""
        down, right = (
            torch.tensor([math.exp(-0.5 * ((i - at) / width) ** 2) for i in range(n)]) for n, at in zip(cover.shape, (y, x), strict=True)
        )
        return torch.einsum("i,...ij,j->...", down / down.sum(), of, right / right.sum())

    seen, filled = cover * canvas, canvas.clone()
    for y, x in itertools.product(*map(range, cover.shape)):
        colour, left = torch.zeros(C), 1.0
        for width, floor in zip(prior.log_reach.exp().tolist(), prior.log_floor.exp().tolist(), strict=True):
            reached = float(average(cover, y, x, width))
            colour = colour + left * average(seen, y, x, width) / (reached + floor)
            left *= floor / (reached + floor)
        filled[:, y, x] = seen[:, y, x] + (1 - cover[y, x]) * (colour + left * canvas[:, y, x])
    for width in prior.log_smooth.exp().tolist():
        before = filled.clone()
        for y, x in itertools.product(*map(range, cover.shape)):
            filled[:, y, x] = seen[:, y, x] + (1 - cover[y, x]) * average(before, y, x, width)
    return filled


def test_views_are_laid_as_by_loops() -> None:
    prior = views_prior()
    prior.log_width.fill_(-0.3)
    for seed in range(2):
        views, at = torch.rand(K, C, H, W, generator=draws(seed)), 3 * torch.randn(K, 2, generator=draws(seed + 2))
        canvas, cover = prior.lay(views, at)
        expected, covered = slow_lay(prior, views, at)
        torch.testing.assert_close(canvas, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(cover[0], covered, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("margin", [0, 2])
def test_a_canvas_is_looked_at_as_by_loops(margin: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between pixels and on them, at the edge of what is laid and beyond it; as frames too, with loops and without."""
    prior = views_prior()
    canvas = drawn_canvas(prior, 2)
    s = torch.tensor([[0.0, 0], [0.3, -1.7], [4, 4], [-4, 3.999], [9, -50], [-1e9, 1e9]]).expand(2, 6, 2)
    shown, frames = prior.look(canvas, s, margin), prior.frames(canvas, s)
    for row, query in itertools.product(range(2), range(6)):
        expected = slow_look(prior, canvas[row], s[row, query], margin)
        torch.testing.assert_close(shown[row, query], expected, atol=1e-5, rtol=0)
        if not margin:
            assert (frames[row, query].int() - x_to_frames(expected[:-1]).int()).abs().max() <= 1
    monkeypatch.setattr(loops, "compiled_loops", lambda name: None)
    assert (prior.frames(canvas, s) == frames).float().mean() > 0.99
    assert prior.frames(canvas, s[:, :0]).shape == (2, 0, H, W, C)


def test_a_canvas_that_memories_share() -> None:
    prior = views_prior()
    canvas, s = drawn_canvas(prior), 2 * torch.randn(3, 4, 2, generator=draws())
    assert torch.equal(prior.frames(canvas.expand(3, -1, -1, -1), s), prior.frames(canvas, s))
    with pytest.raises(ValueError, match="A place is told by finite numbers"):
        prior.frames(canvas, torch.full((2,), math.nan))
    for wrong in (s[:2], s[0], s.flatten(0, 1), torch.zeros(7, 2), s.double(), s.long(), torch.zeros(3, 4, 3)):
        with pytest.raises(ValueError, match="A query has the memory's batch shape first"):
            prior.frames(canvas.expand(3, -1, -1, -1), wrong)


def test_what_has_no_canvas() -> None:
    prior, views = views_prior(), torch.rand(2, K, C, H, W, generator=draws())
    s = torch.zeros(2, K, 2)
    with pytest.raises(ValueError, match="The memory is empty"):
        prior.canvas(views, s, torch.tensor([K, 0]))
    s[1, 1] = 6.4
    assert prior.canvas(views, s, torch.tensor([K, K])).shape == (2, C + 1, H + 12, W + 12)
    s[1, 1, 0] = -8
    with pytest.raises(ValueError, match=r"laid within 6 pixels of where it began; one of these went 8 .* GTMSM\(extent=8\)"):
        prior.canvas(views, s, torch.tensor([K, K]))
    assert prior.canvas(views, s, torch.tensor([K, 1])).shape == (2, C + 1, H + 12, W + 12)  # of entries that it holds
    assert prior.canvas(views[:0], s[:0], torch.ones(0, dtype=torch.int64)).shape == (0, C + 1, H + 12, W + 12)
    with pytest.raises(ValueError, match="given extent=8"):
        ViewsPrior((C, H, W), D, extent=8)


def test_bare_pixels_are_filled_as_by_loops() -> None:
    prior = views_prior()
    canvas, cover = torch.rand(2, C, 7, 8, generator=draws()), (torch.rand(2, 1, 7, 8, generator=draws(1)) < 0.3).float()
    filled = prior.fill(canvas, cover)
    for row in range(2):
        torch.testing.assert_close(filled[row], slow_fill(prior, canvas[row], cover[row, 0]), atol=1e-5, rtol=1e-4)


def test_filling_keeps_what_is_covered_and_spreads_what_is_near() -> None:
    """A plain colour fills everything; of two colours the nearer one prevails; where nothing is covered nothing changes."""
    prior, canvas = views_prior(), torch.rand(C, 20, 20, generator=draws())
    nothing, half = torch.zeros(1, 20, 20), torch.zeros(1, 20, 20)
    half[:, :, :4] = 1
    torch.testing.assert_close(prior.fill(canvas, half)[:, :, :4], canvas[:, :, :4])
    plain = torch.full_like(canvas, 0.3)
    torch.testing.assert_close(prior.fill(plain, half), plain)
    torch.testing.assert_close(prior.fill(plain, nothing), plain)
    ends = half.clone()
    ends[:, :, 16:] = 1
    red_and_blue = torch.zeros(C, 20, 20)
    red_and_blue[0, :, :10], red_and_blue[2, :, 10:] = 1, 1
    filled = prior.fill(red_and_blue, ends)
    assert (filled[0, :, :8] > 2 * filled[2, :, :8]).all()
    assert (filled[2, :, 12:] > 2 * filled[0, :, 12:]).all()


@pytest.mark.parametrize("places", [[(0, 0), (0, 2), (-3, 1)], [(2, -2), (2, 3), (-3, 0)], [(0, 4), (40, 0), (0, -40)]])
def test_sharp_views_show_the_picture_they_were_cut_from(places: list[tuple[int, int]]) -> None:
    """Byte for byte wherever one of them reaches; elsewhere their mean colour, and a cover of 0."""
    prior = views_prior(sharp=True)
    m = prior.extent
    picture = torch.randint(256, (C, 100, 100), generator=draws()) / 255

    def cut(down: int, right: int, more: int = 0) -> Tensor:
        return picture[:, 50 + down - more : 50 + down + H + more, 50 + right - more : 50 + right + W + more]

    views = torch.stack([cut(*place) for place in places])
    canvas, cover = prior.lay(views, torch.tensor(places, dtype=torch.float32))
    reached = torch.zeros(H + 2 * m, W + 2 * m, dtype=torch.bool)
    for down, right in places:
        for i, j in itertools.product(range(H), range(W)):
            if 0 <= i + down + m < H + 2 * m and 0 <= j + right + m < W + 2 * m:
                reached[i + down + m, j + right + m] = True
    assert 0 < reached.sum() < reached.numel()
    assert torch.equal(x_to_frames(canvas)[reached], x_to_frames(cut(0, 0, more=m))[reached])
    assert (cover[0, reached] > 0.998).all()
    assert (cover[0, ~reached] < 1e-6).all()
    torch.testing.assert_close(canvas[:, ~reached], views.mean(dim=(0, 2, 3))[:, None].expand(-1, int((~reached).sum())))


def test_a_memory_does_not_see_those_beside_it() -> None:
    """Nor what it has room for and does not hold."""
    prior = views_prior()
    views, s = torch.rand(2, 3, 6, C, H, W, generator=draws()), torch.randn(2, 3, 6, 2, generator=draws(1))
    count = torch.tensor([[6, 1, 3], [2, 6, 5]])
    canvas = prior.canvas(views, s, count)
    for at in itertools.product(range(2), range(3)):
        n = int(count[at])
        alone = prior.canvas(views[at][:n], s[at][:n], count[at])
        assert torch.equal(canvas[at], alone)
        laid, cover = prior.lay(views[at][:n], s[at][:n])
        assert torch.equal(alone, torch.cat([prior.fill(laid, cover), cover]))


@pytest.mark.parametrize("margin", [0, 2])
def test_the_inferred_component_is_the_encoding_of_the_canvas(margin: int) -> None:
    """Before anything is learned; the memory's own components follow it, in the order of the neighbours."""
    prior, encoder = views_prior(margin), Encoder(C * H * W, D, 8).requires_grad_(False)
    prior.log_variance.copy_(torch.arange(float(D)))
    near, s = neighbours(4)
    canvas = drawn_canvas(prior, 4)
    mixture, shown = prior(near, canvas, s, encoder, 1e-4)
    for row in range(4):
        expected = slow_look(prior, canvas[row], s[row], 0)[:-1]
        torch.testing.assert_close(shown[row], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(mixture.mean[row, 0], encoder(expected)[0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(mixture.variance[:, 0], torch.arange(float(D)).exp().expand(4, D))
    assert torch.equal(mixture.mean[:, 1:], near.z_mean)
    assert torch.equal(mixture.variance[:, 1:], near.z_variance)


def test_the_network_sees_canvas_and_cover() -> None:
    """Averaged over squares of two pixels. Once it has learned something, it gives the variance."""
    prior, encoder = views_prior(), Encoder(C * H * W, D, 8).requires_grad_(False)
    near, s = neighbours(4)
    canvas = drawn_canvas(prior, 4)
    before, _ = prior(near, canvas, s, encoder, 1e-4)
    prior.mlp[-1].get_parameter("weight").normal_(generator=draws())
    after, _ = prior(near, canvas, s, encoder, 1e-4)
    seen = torch.stack([slow_look(prior, canvas[row], s[row], 2) for row in range(4)])
    seen = torch.nn.functional.pad(seen, (0, 0, 0, 1), value=math.nan)  # 10 x 10 pixels
    coarse = seen.unflatten(2, (5, 2)).unflatten(4, (5, 2)).nanmean(dim=(3, 5))
    log_variance = prior.mlp(coarse.flatten(1))
    torch.testing.assert_close(after.variance[:, 0], before.variance[:, 0] * log_variance.exp(), rtol=1e-4, atol=0)
    assert (log_variance.std(dim=0) > 1e-3).all()
    assert torch.equal(after.mean, before.mean)
    assert torch.equal(after.log_weight, before.log_weight)


def test_where_nothing_was_laid_the_mean_colour_is_shown() -> None:
    """By `lay`, which takes views that lie however far away; queries may: never a NaN."""
    prior, views = views_prior(), torch.rand(K, C, H, W, generator=draws())
    canvas, cover = prior.lay(views, 1e4 * torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]))
    assert not cover.any()
    shown = prior.look(prior.fill(canvas, cover), torch.tensor([[0.0, 0.0], [1e9, -1e9]]))
    torch.testing.assert_close(shown, views.mean(dim=(0, 2, 3))[:, None, None].expand(2, C, H, W))


def test_places_seen_are_remembered_and_others_inferred() -> None:
    """gamma by hand: 1 / (1 + exp(-(gate_0 - e^gate_1 rho))), rho in pixels; it falls with the distance to the nearest place."""
    prior, encoder = views_prior(), Encoder(C * H * W, D, 8).requires_grad_(False)
    prior.A.mul_(3)
    canvas, gammas = drawn_canvas(prior), []
    for rho in (0.0, 0.2, 0.5, 5.0):
        near, _ = neighbours()
        s_mean = torch.tensor([[rho, 0.0], [rho + 2, 0], [rho + 9, 0]])
        near = Neighbours(s_mean[:, 0], near.index, s_mean, near.s_variance, near.values)
        mixture, _ = prior(near, canvas, torch.zeros(2), encoder, 1e-4)
        gate_0, gate_1 = prior.gate.tolist()
        gamma = 1 / (1 + math.exp(-(gate_0 - math.exp(gate_1) * 3 * rho)))
        memory = mixture_prior(near, 1e-4).log_weight.exp()
        torch.testing.assert_close(mixture.log_weight.exp(), torch.cat([torch.tensor([1 - gamma]), gamma * memory]))
        assert float(mixture.log_weight.exp().sum()) == pytest.approx(1, abs=1e-6)
        expected = near.z_mean[0] if gamma > 0.5 else mixture.mean[0]
        assert torch.equal(mixture.heaviest(), expected)
        gammas.append(gamma)
    assert gammas[0] > 0.8
    assert gammas[-1] < 1e-6
    assert gammas == sorted(gammas, reverse=True)


@pytest.mark.parametrize("batch", [(2,), (2, 3)])
def test_queries_do_not_see_each_other(batch: tuple[int, ...]) -> None:
    prior, encoder = views_prior(), Encoder(C * H * W, D, 8).requires_grad_(False)
    prior.mlp[-1].get_parameter("weight").normal_(generator=draws())
    near, s = neighbours(*batch)
    canvas = drawn_canvas(prior, batch[0])
    whole, _ = prior(near, canvas, s, encoder, 1e-4)
    assert whole.mean.shape == (*batch, K + 1, D)
    for at in itertools.product(*map(range, batch)):
        values = {name: value[at] for name, value in near.values.items()}
        one = Neighbours(near.distance[at], near.index[at], near.s_mean[at], near.s_variance[at], values)
        alone, _ = prior(one, canvas[at[0]], s[at], encoder, 1e-4)
        for name in ("log_weight", "mean", "variance"):
            torch.testing.assert_close(getattr(whole, name)[at], getattr(alone, name), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("at_a_place", [True, False])
def test_every_parameter_learns(at_a_place: bool) -> None:
    """Also where a place is so far that little of it is seen."""
    prior, encoder = views_prior().requires_grad_(True), Encoder(C * H * W, D, 8)
    near, s = neighbours(4)
    s_mean = near.s_mean.clone()
    s_mean[:, 0] = s if at_a_place else s + 0.5
    s_mean[:, -1] = 6
    distance = (s_mean - s[:, None]).norm(dim=-1)
    canvas = prior.canvas(torch.rand(4, K, C, H, W, generator=draws(4)), s_mean, torch.full((4,), K))
    mixture, _ = prior(Neighbours(distance, near.index, s_mean, near.s_variance, near.values), canvas, s, encoder, 1e-4)
    (-mixture.log_prob(torch.randn(4, D, generator=draws())).mean() + mixture.mean[:, 0].square().mean()).backward()
    for name, parameter in prior.named_parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all(), name
    for name in ("A", "log_width", "log_reach", "log_floor", "log_smooth", "log_variance", "gate"):
        assert getattr(prior, name).grad.any(), name
    last = prior.mlp[-1].get_parameter("weight").grad
    assert last is not None
    assert last.any()


# ---------------------------------------------------------------- combined, in first person


def combined(alive: bool = True, learned_metric: bool = False) -> CombinedPrior:
    prior = CombinedPrior(D, K, learned_metric, hidden=8, embedding=6)
    if alive:
        for parameter in prior.parameters():
            torch.nn.init.normal_(parameter, std=0.4, generator=draws(3))
    return prior


def retrieved(*batch: int, seed: int = 0) -> tuple[Neighbours, Tensor]:
    """K poses, nearest first, and the pose they are neighbours of."""
    g = draws(seed)
    s, s_mean = 2 * torch.randn(*batch, 3, generator=g), 2 * torch.randn(*batch, K, 3, generator=g)
    distance, order = (phi(s_mean) - phi(s)[..., None, :]).norm(dim=-1).sort(dim=-1)
    s_mean = torch.take_along_dim(s_mean, order[..., None], dim=-2)
    values = {"z_mean": torch.randn(*batch, K, D, generator=g), "z_variance": torch.rand(*batch, K, D, generator=g)}
    return Neighbours(distance, order, s_mean, torch.ones(*batch, K, 3), values), s


def slow_combined(prior: CombinedPrior, near: Neighbours, s: Tensor) -> tuple[list[float], list[float]]:
    """Mean and variance of one query, from the retrieved triplets one after another."""

    def network(layers: torch.nn.Sequential, x: Tensor) -> Tensor:
        for layer in layers:
            x = layer.weight @ x + layer.bias if isinstance(layer, torch.nn.Linear) else x / (1 + (-x).exp())
        return x

    x, y, heading = s.tolist()
    told: list[float] = []
    for rho, (p, q, to), z in zip(near.distance.tolist(), near.s_mean.tolist(), near.z_mean.tolist(), strict=True):
        ahead = (p - x) * math.cos(heading) + (q - y) * math.sin(heading)
        left = (q - y) * math.cos(heading) - (p - x) * math.sin(heading)
        told += [*z, ahead, left, math.cos(to - heading), math.sin(to - heading), rho]
    embedded = network(prior.embed[0], torch.tensor(told))
    embedded = embedded / (1 + (-embedded).exp())
    out = network(prior.combine, torch.cat([embedded, torch.tensor([x, y, math.cos(heading), math.sin(heading)])])).tolist()
    weight = [math.exp(-math.exp(float(prior.log_falloff)) * rho) for rho in near.distance.tolist()]
    z = near.z_mean.tolist()
    mean = [sum(w * z[k][i] for k, w in enumerate(weight)) / sum(weight) + out[i] for i in range(D)]
    return mean, [math.exp(x) for x in out[D:]]


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_the_combined_prior_is_by_hand(batch: tuple[int, ...]) -> None:
    prior = combined().requires_grad_(False)
    near, s = retrieved(*batch)
    mixture = prior(near, s)
    assert mixture.mean.shape == mixture.variance.shape == (*batch, 1, D)
    torch.testing.assert_close(mixture.log_weight, torch.zeros(*batch, 1))
    for at in itertools.product(*map(range, batch)):
        values = {name: value[at] for name, value in near.values.items()}
        one = Neighbours(near.distance[at], near.index[at], near.s_mean[at], near.s_variance[at], values)
        mean, variance = slow_combined(prior, one, s[at])
        torch.testing.assert_close(mixture.mean[at][0], torch.tensor(mean), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(mixture.variance[at][0], torch.tensor(variance), atol=1e-4, rtol=1e-3)


def test_the_combined_prior_starts_between_what_is_near() -> None:
    """By how near; its variance is then 1. An entry at hand outweighs all others, and of equals each counts the same."""
    prior = combined(alive=False).requires_grad_(False)
    near, s = retrieved(5)
    for distance, weight in (([0.0, 50, 60], [1.0, 0, 0]), ([2.0, 2, 2], [1 / 3] * 3)):
        at = Neighbours(torch.tensor(distance).expand(5, K), near.index, near.s_mean, near.s_variance, near.values)
        mixture = prior(at, s)
        torch.testing.assert_close(mixture.mean[:, 0], (torch.tensor(weight)[:, None] * near.z_mean).sum(dim=1))
        assert torch.equal(mixture.variance, torch.ones(5, 1, D))


def test_before_it_knows_anything_the_prior_pushes_no_heading_away() -> None:
    """What it is told of entries is as seen from s: the same wherever world and agent are put together, but for s itself."""
    prior = combined().requires_grad_(False)
    prior.combine[0].weight[:, -4:] = 0  # it does not look at s itself
    near, s = retrieved(6)
    move, turn = torch.tensor([5.0, -7.0, 0.0]), torch.tensor([0.0, 0.0, 1.9])

    def put(pose: Tensor) -> Tensor:
        return turned(pose, turn[2].expand(pose.shape[:-1])) + move + turn

    elsewhere = Neighbours(near.distance, near.index, put(near.s_mean), near.s_variance, near.values)
    torch.testing.assert_close(prior(elsewhere, put(s)).mean, prior(near, s).mean, atol=1e-4, rtol=1e-4)
    assert (prior(elsewhere, s).mean - prior(near, s).mean).abs().max() > 0.01


def test_a_learned_metric_starts_with_headings_that_count_twice() -> None:
    """As far apart as without, with a fifth dimension that is still 0."""
    with_metric, without = combined(alive=False, learned_metric=True), combined(alive=False)
    s = torch.randn(7, 4, generator=draws())
    torch.testing.assert_close(with_metric.metric(s), torch.cat([s[:, :2], 2 * s[:, 2:], torch.zeros(7, 1)], dim=1))
    assert without.metric(s) is s
    assert {name for name, _ in with_metric.named_parameters()} - {name for name, _ in without.named_parameters()} == {"metric.weight"}


@pytest.mark.parametrize("alive", [False, True])
def test_the_combined_prior_learns_in_every_part(alive: bool) -> None:
    """Behind a silent layer from the second step on. Gradients reach query and entries too: the transition learns by them."""
    prior = combined(alive)
    near, s = retrieved(8)
    s, s_mean, distance = s.requires_grad_(), near.s_mean.requires_grad_(), near.distance.requires_grad_()
    mixture = prior(Neighbours(distance, near.index, s_mean, near.s_variance, near.values), s)
    (-mixture.log_prob(torch.randn(8, D, generator=draws(1))).mean()).backward()
    for name, parameter in prior.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.any() or (not alive and not name.startswith(("combine.4", "log_falloff"))), name
    for x in (distance, s, s_mean) if alive else (distance,):
        assert x.grad is not None
        assert torch.isfinite(x.grad).all()
        assert (x.grad != 0).any(dim=-1).all()
