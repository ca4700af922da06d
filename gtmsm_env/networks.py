"""Encoder and decoder of the VAE: a linear path, set by principal components, and an MLP that corrects it; or convolutions alone."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gtmsm_env.loops import loops_for


def frames_to_x(frames: Tensor) -> Tensor:
    """uint8 frames (*B, H, W, C) -> float x (*B, C, H, W) in [0, 1]."""
    return frames.movedim(-1, -3).float() / 255


def x_to_frames(x: Tensor) -> Tensor:
    """x (*B, C, H, W) -> uint8 frames (*B, H, W, C), rounded and clipped."""
    return (x * 255).round().clamp(0, 255).to(torch.uint8).movedim(-3, -1)


def looked_up(views: Tensor, row: Tensor, index: Tensor) -> Tensor:
    """Of some views (M, P, C, H, W) those of row[n] at index[n], (N,) int64 each, as uint8 frames (N, H, W, C)."""
    if loops := loops_for("networks_compiled", views):
        frames: Tensor = loops.looked_up(views, row, index)
        return frames
    return x_to_frames(views[row, index])


class Network(nn.Sequential):
    """Layers that compute in the precision of their weights, whatever that of what they are given and then give.

    Where no gradient is wanted, activations overwrite what they are of; so none is the first layer.
    """

    def forward(self, x: Tensor) -> Tensor:
        given = x.dtype
        x = x.to(next(self.parameters()).dtype)
        for layer in self:
            x = F.silu(x, inplace=not torch.is_grad_enabled()) if isinstance(layer, nn.SiLU) else layer(x)
        return x.to(given)


class PastedPatches(nn.ConvTranspose2d):
    """A transposed convolution to few channels: a matrix product, whose patches are pasted, takes a CPU a third of the time."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, padding=padding)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        if not x.is_cpu:  # where the folding's gradient would be found example by example
            convolved: Tensor = super().forward(x)
            return convolved
        size = tuple((side - 1) * self.stride[0] - 2 * int(self.padding[0]) + self.kernel_size[0] for side in x.shape[-2:])
        patches = x.flatten(2).mT @ self.weight.flatten(1)  # (N, places, channels * kernel^2)
        assert self.bias is not None
        if x.dtype in (torch.float32, torch.bfloat16) and not torch.is_grad_enabled():
            patches, bias = patches.float(), self.bias.float()
            if loops := loops_for("networks_compiled", patches, bias):
                pasted: Tensor = loops.pasted(patches, bias, size, self.kernel_size[0], self.stride[0], int(self.padding[0]))
                return pasted.to(x.dtype)
        folded = F.fold(patches.mT, size, self.kernel_size[0], padding=int(self.padding[0]), stride=self.stride[0])
        return (folded + self.bias[:, None, None]).to(x.dtype)


def mlp(inputs: int, hidden: int, outputs: int) -> Network:
    """Two hidden layers; the output starts at zero, so that a path beside it starts alone."""
    output = nn.Linear(hidden, outputs)
    nn.init.zeros_(output.weight)
    nn.init.zeros_(output.bias)
    return Network(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), output)


class Encoder(nn.Module):
    """q(z | x): x (*B, C, H, W) -> mean and variance of z, (*B, d) each."""

    def __init__(self, x_size: int, z_size: int, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(x_size, z_size)
        self.mlp = mlp(x_size, hidden, 2 * z_size)
        self.log_variance = nn.Parameter(torch.zeros(z_size))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.flatten(-3)
        mean, log_variance = self.mlp(x).chunk(2, dim=-1)
        return self.linear(x) + mean, (self.log_variance + log_variance).exp()


class Decoder(nn.Module):
    """The mean of p(x | z): z (*B, d) -> (*B, C, H, W)."""

    def __init__(self, x_shape: tuple[int, int, int], z_size: int, hidden: int) -> None:
        super().__init__()
        self.x_shape = x_shape
        self.linear = nn.Linear(z_size, math.prod(x_shape))
        self.mlp = mlp(z_size, hidden, math.prod(x_shape))

    def forward(self, z: Tensor) -> Tensor:
        x: Tensor = self.linear(z) + self.mlp(z)
        return x.unflatten(-1, self.x_shape)


class ConvEncoder(nn.Module):
    """`Encoder` for larger frames, by convolutions alone."""

    def __init__(self, x_shape: tuple[int, int, int], z_size: int, channels: int = 64, hidden: int = 1024) -> None:
        super().__init__()
        c, size = channels, x_shape[1] // 8
        self.net = Network(
            nn.Conv2d(x_shape[0], c, 8, stride=4, padding=2),
            nn.SiLU(),
            nn.Conv2d(c, 2 * c, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(2 * c * size**2, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 2 * z_size),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (*B, C, H, W) -> mean and variance of z, (*B, d) each."""
        found = self.net(x.reshape(-1, *x.shape[-3:]) - 0.5)
        mean, log_variance = found.reshape(*x.shape[:-3], found.shape[-1]).chunk(2, dim=-1)
        return mean, (log_variance - 4).exp()  # it starts as what it will nearly be: the frame tells z well


class ConvDecoder(nn.Module):
    """`Decoder` for larger frames: most of it matrix products, which a CPU does faster than convolutions."""

    def __init__(self, x_shape: tuple[int, int, int], z_size: int, channels: int = 64, hidden: int = 1024) -> None:
        super().__init__()
        c, size = channels, x_shape[1] // 8
        self.net = Network(
            nn.Linear(z_size, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 2 * c * size**2),
            nn.SiLU(),
            nn.Unflatten(-1, (2 * c, size, size)),
            nn.ConvTranspose2d(2 * c, c, 4, stride=2, padding=1),
            nn.SiLU(),
            PastedPatches(c, x_shape[0], 8, stride=4, padding=2),
        )

    def forward(self, z: Tensor) -> Tensor:
        """z (*B, d) -> (*B, C, H, W)"""
        x: Tensor = self.net(z.reshape(-1, z.shape[-1]))
        return x.reshape(*z.shape[:-1], *x.shape[1:]) + 0.5


@torch.no_grad()
def set_principal_components(encoder: Encoder, decoder: Decoder, x: Tensor, sigma_x: float) -> None:
    """Start the linear paths as the exact posterior of probabilistic PCA: x = U diag(sqrt lambda) z + mean + sigma_x noise.

    x: (N, C, H, W), N at least d. z starts white: N(0, I).
    """
    x = x.flatten(1)
    mean = x.mean(dim=0)
    values, vectors = torch.linalg.eigh((x - mean).t() @ (x - mean) / len(x))
    d = encoder.linear.out_features
    values, vectors = values[-d:].flip(0).clamp(min=1e-8), vectors[:, -d:].flip(1)  # lambda (d,), U (x, d)
    decoder.linear.weight.copy_(vectors * values.sqrt())
    decoder.linear.bias.copy_(mean)
    encoder.linear.weight.copy_((vectors * values.sqrt() / (values + sigma_x**2)).t())
    encoder.linear.bias.copy_(-encoder.linear.weight @ mean)
    encoder.log_variance.copy_((sigma_x**2 / (values + sigma_x**2)).log())
