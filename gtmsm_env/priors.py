"""The VAE's prior p(z | s, M): what the memory lets us expect to see at a state. Each prior is one mixture of Gaussians."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtmsm_env.memory import SpatialMemory
from gtmsm_env.networks import Decoder, Encoder, mlp
from gtmsm_env.types import GaussianMixture, Neighbours


def mixture_prior(neighbours: Neighbours, delta: float) -> GaussianMixture:
    """The paper's prior (section 4.1): sum_k w_k q(z_k), w_k proportional to 1 / (rho_k^2 + delta)."""
    log_weight = F.log_softmax(-(neighbours.distance.square() + delta).log(), dim=-1)
    return GaussianMixture(log_weight, neighbours.z_mean, neighbours.z_variance)


class ViewsPrior(nn.Module):
    """What the nearest distinct places saw, moved by their offset and blended, beside the memory's own encodings.

    p(z | s, M) = (1 - gamma) N(z; m(s, M), v(s, M)) + gamma sum_k w_k q(z_k). Each of the K nearest places is decoded, moved by
    (s_k - s) A pixels and laid on a canvas somewhat larger than the frame; m is the encoding of what the canvas shows, corrected
    by a network that also gives v. gamma falls with the distance to the nearest place: places seen stay exact, places not seen
    are inferred from what overlaps them. It assumes that the view translates in proportion to the state.

    Args:
        x_shape: (C, H, W)
        state_size: n
        K: places that are blended
        margin: pixels of the canvas beyond each edge of the frame
    """

    def __init__(
        self, x_shape: tuple[int, int, int], z_size: int, state_size: int = 2, K: int = 8, margin: int = 4, hidden: int = 512
    ) -> None:
        super().__init__()
        channels, height, width = x_shape
        self.K, self.margin = K, margin
        self.A = nn.Parameter(torch.empty(state_size, 2).normal_(std=1e-2))  # pixels (down, right) per unit of state
        self.log_width = nn.Parameter(torch.tensor([0.0, 1.0]))  # deviations of the sharp and the wide kernel, pixels
        self.log_falloff = nn.Parameter(torch.tensor(0.0))  # how the weight of a view falls with its offset, 1/pixels
        self.gate = nn.Parameter(torch.tensor([2.0, 1.0]))  # gamma = sigmoid(gate_0 - exp(gate_1) rho_1 in pixels)
        canvas = (height + 2 * margin) * (width + 2 * margin)
        self.mlp = mlp((channels + 1) * canvas, hidden, 2 * z_size)
        self.log_variance = nn.Parameter(torch.zeros(z_size))

    def forward(self, neighbours: Neighbours, s: Tensor, encoder: Encoder, delta: float) -> GaussianMixture:
        """neighbours: K places with their `view` (*B, K, C, H, W); s (*B, n) -> mixture of K + 1 components."""
        offset = (neighbours.s_mean - s[..., None, :]) @ self.A  # (*B, K, 2) pixels
        canvas, cover = self.blend(neighbours.values["view"], offset)  # (*B, C, H', W'), (*B, H', W')
        m = self.margin
        correction, log_variance = self.mlp(torch.cat([canvas.flatten(-3), cover.flatten(-2)], dim=-1)).chunk(2, dim=-1)
        mean = encoder(canvas[..., m:-m, m:-m])[0] + correction
        variance = (self.log_variance + log_variance).exp()
        memory = mixture_prior(neighbours, delta)
        logit = self.gate[0] - self.gate[1].exp() * offset[..., 0, :].norm(dim=-1)  # (*B,)
        log_weight = torch.cat([F.logsigmoid(-logit)[..., None], F.logsigmoid(logit)[..., None] + memory.log_weight], dim=-1)
        return GaussianMixture(
            log_weight,
            torch.cat([mean[..., None, :], memory.mean], dim=-2),
            torch.cat([variance[..., None, :], memory.variance], dim=-2),
        )

    def blend(self, views: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        """Lay views (*B, K, C, H, W) on the canvas at their offsets (*B, K, 2) in pixels.

        Two separable Gaussian kernels: a sharp one where a view covers the pixel, a wide one that fills the rest.
        Returns the canvas (*B, C, H', W') and how much of each pixel is covered sharply (*B, H', W'), in [0, 1).
        """
        height, width = views.shape[-2:]
        weight = torch.exp(-self.log_falloff.exp() * offset.norm(dim=-1))[..., None, None]  # (*B, K, 1, 1)
        shown, cover = [], []
        for log_width in self.log_width:
            down = self.kernel(height, offset[..., 0], log_width)  # (*B, K, H', H)
            right = self.kernel(width, offset[..., 1], log_width)  # (*B, K, W', W)
            total = torch.einsum("...kyi,...kxj->...yx", weight * down.sum(-1, keepdim=True), right.sum(-1, keepdim=True))
            moved = (weight * down)[..., None, :, :] @ views @ right[..., None, :, :].transpose(-1, -2)  # (*B, K, C, H', W')
            shown.append(moved.sum(dim=-4))
            cover.append(total[..., None, :, :])
        sharp = cover[0] / (cover[0] + 1e-3)
        wide = shown[1] / (cover[1] + 1e-6)
        canvas = sharp * shown[0] / (cover[0] + 1e-6) + (1 - sharp) * wide
        return canvas, sharp.squeeze(-3)

    def kernel(self, size: int, offset: Tensor, log_width: Tensor) -> Tensor:
        """How much pixel j of a view moved by `offset` (*B, K) counts at pixel i of the canvas: (*B, K, size + 2 margin, size)."""
        target = torch.arange(-self.margin, size + self.margin, device=offset.device)[:, None]
        source = torch.arange(size, device=offset.device)
        distance = target - source - offset[..., None, None]
        return torch.exp(-0.5 * (distance / log_width.exp()).square())


def decode_places(memory: SpatialMemory, decoder: Decoder, radius: float, K: int) -> SpatialMemory:
    """The distinct places of a memory, each with its decoded `view` (*M, N, C, H, W), ready for the views prior."""
    places = memory.distinct(radius, at_least=K)
    return SpatialMemory(places.s_mean, places.s_variance, places.values | {"view": decoder(places.values["z_mean"])}, places.count)
