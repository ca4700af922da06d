"""The VAE's prior p(z | s, M): what the memory lets us expect to see at a state. Each prior is one mixture of Gaussians."""

from __future__ import annotations

import math
from collections.abc import Generator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtmsm_env.loops import loops_for
from gtmsm_env.networks import ConvEncoder, Encoder, mlp, x_to_frames
from gtmsm_env.perspective import relative
from gtmsm_env.types import GaussianMixture, Neighbours, phi, result_of


def mixture_prior(neighbours: Neighbours, delta: float) -> GaussianMixture:
    """The paper's prior (section 4.1): sum_k w_k q(z_k), w_k proportional to 1 / (rho_k^2 + delta)."""
    log_weight = F.log_softmax(-(neighbours.distance.square() + delta).log(), dim=-1)
    return GaussianMixture(log_weight, neighbours.z_mean, neighbours.z_variance)


class ViewsPrior(nn.Module):
    """What all remembered places saw, laid side by side, beside the memory's own encodings.

    p(z | s, M) = (1 - gamma) N(z; m(s, M), v(s, M)) + gamma sum_k w_k q(z_k). Each distinct place is decoded and laid, s_k A pixels from
    where the walk began, on the one canvas of its memory; what they leave bare is filled with the colours around it. m is the encoding
    of what the canvas shows at s A; v is a network's, which sees how much of it is bare. gamma falls with the distance to the nearest
    place: places seen stay exact, places not seen are inferred from what overlaps them and what is near. It assumes that the view
    translates in proportion to the state.

    Args:
        x_shape: (C, H, W)
        state_size: n
        extent: pixels from where the walk began within which places are laid; beyond, a canvas shows what it does at its edge
        margin: pixels beyond each edge of a frame that the network sees, fewer than `extent`
    """

    def __init__(
        self, x_shape: tuple[int, int, int], z_size: int, state_size: int = 2, extent: int = 24, margin: int = 8, hidden: int = 128
    ) -> None:
        super().__init__()
        if extent <= margin:
            raise ValueError(f"A canvas reaches farther than the {margin} pixels around a frame that are looked at; given extent={extent}.")
        self.x_shape, self.extent, self.margin = x_shape, extent, margin
        channels, height, width = x_shape
        self.A = nn.Parameter(torch.empty(state_size, 2).normal_(std=1e-2))  # pixels (down, right) per unit of state
        self.log_width = nn.Parameter(torch.tensor(0.0))  # deviation of the kernel that lays a view between pixels, pixels
        self.log_reach = nn.Parameter(torch.tensor([1.0, 2.0, 3.5, 8.0]).log())  # deviations of the kernels that fill, pixels
        self.log_floor = nn.Parameter(torch.full((4,), 0.02).log())  # how much cover such a kernel needs to be believed
        self.log_smooth = nn.Parameter(torch.tensor([1.2, 1.0, 0.9, 0.8, 0.7]).log())  # deviations of those that even out what is filled
        self.gate = nn.Parameter(torch.tensor([2.0, 1.0]))  # gamma = sigmoid(gate_0 - exp(gate_1) rho_1 in pixels)
        halves = math.ceil(height / 2 + margin) * math.ceil(width / 2 + margin)
        self.mlp = mlp((channels + 1) * halves, hidden, z_size)
        self.log_variance = nn.Parameter(torch.zeros(z_size))

    def forward(
        self, neighbours: Neighbours, canvas: Tensor, s: Tensor, encoder: Encoder | ConvEncoder, delta: float
    ) -> tuple[GaussianMixture, Tensor]:
        """K places (*M, *Q, K), canvas (*M, C + 1, H', W'), s (*M, *Q, n) -> a mixture of K + 1 components, and what the canvas shows."""
        shown, around = self.look(canvas[..., :-1, :, :], s), self.look(canvas, s, self.margin)
        mean = encoder(shown)[0]
        coarse = F.avg_pool2d(around.reshape(-1, *around.shape[-3:]), 2, ceil_mode=True)
        variance = (self.log_variance + self.mlp(coarse.flatten(1)).reshape(mean.shape)).exp()
        memory = mixture_prior(neighbours, delta)
        logit = self.logit(neighbours.s_mean[..., 0, :] - s)
        log_weight = torch.cat([F.logsigmoid(-logit)[..., None], F.logsigmoid(logit)[..., None] + memory.log_weight], dim=-1)
        means, variances = (torch.cat([x[..., None, :], of], dim=-2) for x, of in ((mean, memory.mean), (variance, memory.variance)))
        return GaussianMixture(log_weight, means, variances), shown

    def logit(self, nearest: Tensor) -> Tensor:
        """Of gamma, by the offset of the nearest place (*B, n): (*B,)."""
        return self.gate[0] - self.gate[1].exp() * (nearest @ self.A).norm(dim=-1)

    def frames(self, canvas: Tensor, s: Tensor) -> Tensor:
        """`look` without the cover and as frames: canvas (*M, C + 1, H', W'), s (*M, *Q, n) -> uint8 (*M, *Q, H, W, C).

        ValueError for states of another batch shape, size or type.
        """
        batch, n = canvas.shape[:-3], len(self.A)
        if s.shape[: len(batch)] != batch or s.shape[-1] != n or s.dtype != self.A.dtype:
            raise ValueError(
                f"A query has the memory's batch shape first and its state size last: memory {(*batch, n)} of {self.A.dtype}, query "
                f"{tuple(s.shape)} of {s.dtype}."
            )
        if loops := loops_for("networks_compiled", canvas, s, self.A):
            at = (s @ self.A).clamp(-self.extent, self.extent) + self.extent
            shown: Tensor = loops.looked_at(canvas.reshape(-1, *canvas.shape[-3:]), at.reshape(-1, 2), self.x_shape[1:])
            return shown.reshape(*s.shape[:-1], *shown.shape[1:])
        return x_to_frames(self.look(canvas[..., :-1, :, :], s))

    def look(self, canvas: Tensor, s: Tensor, margin: int = 0) -> Tensor:
        """What canvases (*M, D, H', W') show at s (*M, *Q, n), and around: (*M, *Q, D, H + 2 margin, W + 2 margin). Bilinear."""
        _, height, width = self.x_shape
        flat = canvas.reshape(-1, *canvas.shape[-3:])
        room = self.extent - margin  # pixels of the canvas before what it shows where the walk began
        at = (s @ self.A).clamp(-room, room).reshape(len(flat), math.prod(s.shape[canvas.dim() - 3 : -1]), 2) + room
        first = at.detach().nan_to_num().floor().clamp(max=2 * room - 1)  # as a pixel more than what is shown is read
        row = torch.arange(len(flat), device=s.device)[:, None, None, None]
        down, right = (
            first[..., axis, None].long() + torch.arange(size + 2 * margin + 1, device=s.device) for axis, size in ((0, height), (1, width))
        )
        shown = flat[row, :, down[..., :, None], right[..., None, :]]  # (M, Q, h + 1, w + 1, D)
        part = (at - first)[..., None, None, None, :]
        shown = torch.lerp(shown[..., :-1, :, :], shown[..., 1:, :, :], part[..., 0])
        shown = torch.lerp(shown[..., :-1, :], shown[..., 1:, :], part[..., 1])
        return shown.movedim(-1, -3).reshape(*s.shape[:-1], canvas.shape[-3], height + 2 * margin, width + 2 * margin)

    def canvas(self, views: Tensor, s: Tensor, count: Tensor) -> Tensor:
        """`drawing`, all at once."""
        return result_of(self.drawing(views, s, count))

    def drawing(self, views: Tensor, s: Tensor, count: Tensor) -> Generator[bool, None, Tensor]:
        """The first `count` (*M,) views (*M, P, C, H, W) of places s (*M, P, n), laid and filled, and cover: (*M, C + 1, H', W').

        One memory after another, so that the rounding of one does not depend on what others there are, and others may work in between.
        ValueError for an empty memory, or for a place that lies beyond `extent`.
        """
        if not count.all():
            raise ValueError("The memory is empty. Walk (or observe) in the world before asking what it shows.")
        channels, height, width = self.x_shape
        laid = [views.new_zeros(0, channels + 1, height + 2 * self.extent, width + 2 * self.extent)]
        flat = views.reshape(-1, *views.shape[-4:]), (s @ self.A).reshape(-1, s.shape[-2], 2), count.flatten().tolist()
        for x, at, n in zip(*flat, strict=True):
            if (far := float(at.detach()[:n].abs().max())) > self.extent + 0.5:
                raise ValueError(
                    f"What a walk saw is laid within {self.extent} pixels of where it began; one of these went {far:.0f} pixels away. Give "
                    f"the model room: GTMSM(extent={math.ceil(far)}), or in a saved model's JSON."
                )
            canvas, cover = self.lay(x[:n], at[:n])
            laid.append(torch.cat([self.fill(canvas, cover), cover])[None])
            yield True
        return torch.cat(laid).reshape(*count.shape, *laid[0].shape[1:])

    def lay(self, views: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Lay views (P, C, H, W) on a canvas, `at` (P, 2) pixels from where the walk began.

        A separable Gaussian kernel lays them between pixels; what none covers takes their mean colour.
        Returns the canvas (C, H', W') and how much of each pixel is covered (1, H', W'), in [0, 1).
        """
        C, H, W = self.x_shape
        down, right = self.kernel(H, at[:, 0]), self.kernel(W, at[:, 1])  # (P, H', H), (P, W', W)
        moved = (down @ views.transpose(1, 2).flatten(2)).unflatten(-1, (C, W))  # (P, H', C, W)
        shown = moved.permute(2, 1, 0, 3).flatten(2) @ right.mT.flatten(0, 1)  # (C, H', W'), summed over the views
        total = down.sum(dim=2).t() @ right.sum(dim=2)  # (H', W')
        cover = total / (total + 1e-3)
        return cover * shown / (total + 1e-6) + (1 - cover) * views.mean(dim=(0, 2, 3))[:, None, None], cover[None]

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

    def kernel(self, size: int, at: Tensor) -> Tensor:
        """How much pixel j of a view laid `at` (*B,) counts at pixel i of the canvas: (*B, size + 2 extent, size)."""
        target = torch.arange(-self.extent, size + self.extent, device=at.device)[:, None]
        source = torch.arange(size, device=at.device)
        distance = target - source - at[..., None, None]
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
