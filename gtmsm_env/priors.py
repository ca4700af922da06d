"""The VAE's prior p(z | s, M): what the memory lets us expect to see at a state. Each prior is one mixture of Gaussians."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtmsm_env.loops import loops_for
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.networks import ConvDecoder, ConvEncoder, Decoder, Encoder, evenly, mlp
from gtmsm_env.perspective import relative
from gtmsm_env.types import GaussianMixture, Neighbours, phi


def mixture_prior(neighbours: Neighbours, delta: float) -> GaussianMixture:
    """The paper's prior (section 4.1): sum_k w_k q(z_k), w_k proportional to 1 / (rho_k^2 + delta)."""
    return GaussianMixture(mixture_weights(neighbours.distance, delta), neighbours.z_mean, neighbours.z_variance)


def mixture_weights(rho: Tensor, delta: float) -> Tensor:
    """log w_k of distances (*B, K)."""
    return F.log_softmax(-(rho.square() + delta).log(), dim=-1)


class ViewsPrior(nn.Module):
    """What the nearest distinct places saw, moved by their offset and blended, beside the memory's own encodings.

    p(z | s, M) = (1 - gamma) N(z; m(s, M), v(s, M)) + gamma sum_k w_k q(z_k). Each of the K nearest places is decoded, moved by
    (s_k - s) A pixels and laid on a canvas larger than the frame; what they leave bare is filled with the colours around it. m is the
    encoding of what the canvas shows; v is a network's, which sees how much of it is bare. gamma falls with the distance to the
    nearest place: places seen stay exact, places not seen are inferred from what overlaps them and what is near. It assumes that the
    view translates in proportion to the state.

    Args:
        x_shape: (C, H, W)
        state_size: n
        K: places that are blended
        margin: pixels of the canvas beyond each edge of the frame
    """

    def __init__(
        self, x_shape: tuple[int, int, int], z_size: int, state_size: int = 2, K: int = 8, margin: int = 8, hidden: int = 128
    ) -> None:
        super().__init__()
        channels, height, width = x_shape
        self.K, self.margin = K, margin
        self.A = nn.Parameter(torch.empty(state_size, 2).normal_(std=1e-2))  # pixels (down, right) per unit of state
        self.log_width = nn.Parameter(torch.tensor(0.0))  # deviation of the kernel that moves a view, pixels
        self.log_falloff = nn.Parameter(torch.tensor(0.0))  # how the weight of a view falls with its offset, 1/pixels
        self.log_reach = nn.Parameter(torch.tensor([1.0, 2.0, 3.5, 8.0]).log())  # deviations of the kernels that fill, pixels
        self.log_floor = nn.Parameter(torch.full((4,), 0.02).log())  # how much cover such a kernel needs to be believed
        self.log_smooth = nn.Parameter(torch.tensor([1.2, 1.0, 0.9, 0.8, 0.7]).log())  # deviations of those that even out what is filled
        self.gate = nn.Parameter(torch.tensor([2.0, 1.0]))  # gamma = sigmoid(gate_0 - exp(gate_1) rho_1 in pixels)
        halves = math.ceil(height / 2 + margin) * math.ceil(width / 2 + margin)
        self.mlp = mlp((channels + 1) * halves, hidden, z_size)
        self.log_variance = nn.Parameter(torch.zeros(z_size))

    def forward(self, neighbours: Neighbours, s: Tensor, encoder: Encoder | ConvEncoder, delta: float) -> GaussianMixture:
        """neighbours: K places with their `view` (*B, K, C, H, W); s (*B, n) -> mixture of K + 1 components."""
        offset = (neighbours.s_mean - s[..., None, :]) @ self.A  # (*B, K, 2) pixels
        canvas, cover = self.canvas(neighbours.values["view"], offset)
        laid = torch.cat([canvas, cover], dim=-3)
        coarse = F.avg_pool2d(laid.reshape(-1, *laid.shape[-3:]), 2, ceil_mode=True)
        mean = encoder(self.within(canvas))[0]
        variance = (self.log_variance + self.mlp(coarse.flatten(1)).reshape(mean.shape)).exp()
        memory = mixture_prior(neighbours, delta)
        logit = self.logit(offset[..., 0, :])
        log_weight = torch.cat([F.logsigmoid(-logit)[..., None], F.logsigmoid(logit)[..., None] + memory.log_weight], dim=-1)
        return GaussianMixture(
            log_weight,
            torch.cat([mean[..., None, :], memory.mean], dim=-2),
            torch.cat([variance[..., None, :], memory.variance], dim=-2),
        )

    def canvas(self, views: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Views (*B, K, C, H, W) at their offsets (*B, K, 2), filled: (*B, C, H', W'), and how much is covered, (*B, 1, H', W')."""
        canvas, cover = self.blend(views, offset)
        return self.fill(canvas, cover), cover

    def within(self, canvas: Tensor) -> Tensor:
        """What a canvas (*B, C, H', W') shows within the frame (*B, C, H, W), of which m(s, M) is the encoding."""
        m = self.margin
        return canvas[..., m:-m, m:-m] if m else canvas

    def frame(self, views: Tensor, row: Tensor, index: Tensor, offset: Tensor) -> Tensor:
        """The frames (B, C, H, W) that some views (M, P, C, H, W) show: of row[b], those at index (B, K), at offsets (B, K, 2)."""
        loops = loops_for("priors_compiled", views, offset, self.log_width, learning=self)
        if loops and (shown := loops.frames(self, views, row, index, offset)) is not None:
            return shown
        return evenly(lambda *part: self.within(self.canvas(*part)[0]), views[row[:, None], index], offset)

    def logit(self, offset: Tensor) -> Tensor:
        """Of gamma, by the offset of the nearest place (*B, 2) in pixels: (*B,)."""
        return self.gate[0] - self.gate[1].exp() * offset.norm(dim=-1)

    def remembers(self, nearest: Tensor, rho: Tensor, delta: float) -> Tensor:
        """Whether the heaviest component is what the nearest place saw: its offset (*B, n), distances of all K (*B, K) -> (*B,) bool."""
        return self.logit(nearest @ self.A) + mixture_weights(rho, delta)[..., 0] > 0

    def blend(self, views: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Lay views (*B, K, C, H, W) on the canvas at their offsets (*B, K, 2) in pixels.

        A separable Gaussian kernel moves them; what none covers takes their mean colour.
        Returns the canvas (*B, C, H', W') and how much of each pixel is covered (*B, 1, H', W'), in [0, 1).
        """
        C, H, W = views.shape[-3:]
        log_weight = -self.log_falloff.exp() * offset.norm(dim=-1)[..., None, None]  # (*B, K, 1, 1)
        weight = log_weight.exp()
        rows = views.transpose(-3, -2).flatten(-2)  # (*B, K, H, C W)
        down = weight * self.kernel(H, offset[..., 0])  # (*B, K, H', H)
        right = self.kernel(W, offset[..., 1])  # (*B, K, W', W)
        moved = (down @ rows).unflatten(-1, (C, W)).movedim(-4, -2).flatten(-4, -3).flatten(-2)  # (*B, H' C, K W)
        moved = moved @ right.movedim(-3, -2).flatten(-2).transpose(-1, -2)  # (*B, H' C, W'), summed over the views
        shown = moved.unflatten(-2, (-1, C)).transpose(-2, -3)  # (*B, C, H', W')
        total = (down.sum(dim=-1).transpose(-1, -2) @ right.sum(dim=-1))[..., None, :, :]  # (*B, 1, H', W')
        colour = (log_weight.softmax(dim=-3) * views.mean(dim=(-1, -2), keepdim=True).squeeze(-1)).sum(dim=-3)  # (*B, C, 1)
        cover = total / (total + 1e-3)
        return cover * shown / (total + 1e-6) + (1 - cover) * colour[..., None], cover

    def fill(self, canvas: Tensor, cover: Tensor) -> Tensor:
        """Give what no view covers the colours around it, the nearest first, and even them out; what is covered stays as it is.

        These averages of growing reach stand in for the mean of a Gaussian process, which takes a linear system a query.
        """
        seen = cover * canvas
        filled, left = torch.zeros_like(canvas), torch.ones_like(cover)
        height, width = canvas.shape[-2:]
        reaches = zip(self.averages(self.log_reach, height), self.averages(self.log_reach, width), self.log_floor.exp(), strict=True)
        for down, right, floor in reaches:
            around, reached = (down @ torch.cat([seen, cover], dim=-3) @ right.mT).split([canvas.shape[-3], 1], dim=-3)
            believed = left / (reached + floor)
            filled, left = filled + believed * around, believed * floor
        canvas = seen + (1 - cover) * (filled + left * canvas)
        for down, right in zip(self.averages(self.log_smooth, height), self.averages(self.log_smooth, width), strict=True):
            canvas = seen + (1 - cover) * (down @ canvas @ right.mT)
        return canvas

    @staticmethod
    def averages(log_width: Tensor, size: int) -> Tensor:
        """How much pixel j of a row counts in the average around pixel i, a Gaussian of some deviations (R,): (R, size, size)."""
        axis = torch.arange(size, device=log_width.device)
        return (-0.5 * ((axis[:, None] - axis) / log_width.exp()[:, None, None]).square()).softmax(dim=-1)

    def kernel(self, size: int, offset: Tensor) -> Tensor:
        """How much pixel j of a view moved by `offset` (*B, K) counts at pixel i of the canvas: (*B, K, size + 2 margin, size)."""
        target = torch.arange(-self.margin, size + self.margin, device=offset.device)[:, None]
        source = torch.arange(size, device=offset.device)
        distance = target - source - offset[..., None, None]
        return torch.exp(-0.5 * (distance / self.log_width.exp()).square())


class CombinedPrior(nn.Module):
    """The paper's prior for first-person worlds (appendix A.2): networks combine what the K nearest entries saw into one Gaussian.

    One maps the retrieved (rho_k, s_k, q(z_k)) to an embedding e_t; another e_t and s_t to the mean and variance of z_t. They are told
    where the entries lie as seen from s_t: of absolute places, while they know nothing yet, they would push the transition away (ours).

    Args:
        learned_metric: whether rho is measured after a learned linear map of phi(s) to 5 dimensions
    """

    def __init__(self, z_size: int, K: int = 4, learned_metric: bool = False, hidden: int = 512, embedding: int = 256) -> None:
        super().__init__()
        self.K = K
        self.metric = nn.Linear(4, 5, bias=False) if learned_metric else nn.Identity()
        if learned_metric:
            nn.init.eye_(self.metric.get_parameter("weight"))
            with torch.no_grad():
                self.metric.get_parameter("weight")[2:].mul_(2)  # headings count twice: the nearest entries then look more the same way
        embed = mlp(K * (z_size + 5), hidden, embedding)
        nn.init.normal_(embed[-1].get_parameter("weight"), std=0.05)
        self.embed = nn.Sequential(embed, nn.SiLU())
        self.combine = mlp(embedding + 4, hidden, 2 * z_size)
        self.log_falloff = nn.Parameter(torch.tensor(2.0))  # the mean that the networks correct: entries weighted by exp(-falloff rho)

    def combination(self) -> list[nn.Parameter]:
        """All parameters but the metric's, which say what is retrieved."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("metric")]

    def forward(self, neighbours: Neighbours, s: Tensor) -> GaussianMixture:
        """neighbours: the K nearest (*B, K), s (*B, 3) -> a mixture of one component."""
        rho = neighbours.distance
        seen_from = relative(neighbours.s_mean, s[..., None, :])
        told = torch.cat([neighbours.z_mean, phi(seen_from), rho[..., None]], dim=-1).flatten(-2)
        correction, log_variance = self.combine(torch.cat([self.embed(told), phi(s)], dim=-1)).chunk(2, dim=-1)
        weight = (-self.log_falloff.exp() * rho).softmax(dim=-1)
        mean = (weight[..., None] * neighbours.z_mean).sum(dim=-2) + correction
        return GaussianMixture(rho.new_zeros(*rho.shape[:-1], 1), mean[..., None, :], log_variance.exp()[..., None, :])


def with_views(places: SpatialMemory, decoder: Decoder | ConvDecoder) -> SpatialMemory:
    """The distinct places of a memory, each with its decoded `view` (*M, N, C, H, W), ready for the views prior."""
    return places.but(values=places.values | {"view": decoder(places.values["z_mean"])})
