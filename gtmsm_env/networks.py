"""Encoder and decoder of the VAE: a linear path, set by principal components, and an MLP that corrects it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def frames_to_x(frames: Tensor) -> Tensor:
    """uint8 frames (*B, H, W, C) -> float x (*B, C, H, W) in [0, 1]."""
    return frames.movedim(-1, -3).float() / 255


def x_to_frames(x: Tensor) -> Tensor:
    """x (*B, C, H, W) -> uint8 frames (*B, H, W, C), rounded and clipped."""
    return (x * 255).round().clamp(0, 255).to(torch.uint8).movedim(-3, -1)


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two hidden layers; the output starts at zero, so that a path beside it starts alone."""
    output = nn.Linear(hidden, outputs)
    nn.init.zeros_(output.weight)
    nn.init.zeros_(output.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), output)


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


class Residual(nn.Module):
    """x + f(x), two convolutions; f starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        first, last = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        self.f = nn.Sequential(nn.GroupNorm(math.gcd(8, channels), channels), nn.SiLU(), first, nn.SiLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(x)


class ConvEncoder(nn.Module):
    """`Encoder` for larger frames: convolutions correct the linear path."""

    def __init__(self, x_shape: tuple[int, int, int], z_size: int, channels: int = 32, hidden: int = 256) -> None:
        super().__init__()
        self.linear = nn.Linear(math.prod(x_shape), z_size)
        c, size = channels, x_shape[1] // 8
        layers: list[nn.Module] = []
        for inputs, outputs in ((x_shape[0], c), (c, 2 * c), (2 * c, 4 * c)):
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), Residual(outputs), nn.SiLU()]
        self.convolutions = nn.Sequential(*layers)
        self.mlp = mlp(4 * c * size**2, hidden, 2 * z_size)
        self.log_variance = nn.Parameter(torch.zeros(z_size))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (*B, C, H, W) -> mean and variance of z, (*B, d) each."""
        lead = x.shape[:-3]
        x = x.reshape(-1, *x.shape[-3:])
        mean, log_variance = self.mlp(self.convolutions(x - 0.5).flatten(1)).chunk(2, dim=-1)
        mean, variance = self.linear(x.flatten(1)) + mean, (self.log_variance + log_variance).exp()
        return mean.reshape(*lead, mean.shape[-1]), variance.reshape(*lead, mean.shape[-1])


class ConvDecoder(nn.Module):
    """`Decoder` for larger frames."""

    def __init__(self, x_shape: tuple[int, int, int], z_size: int, channels: int = 32, hidden: int = 256) -> None:
        super().__init__()
        self.x_shape = x_shape
        self.linear = nn.Linear(z_size, math.prod(x_shape))
        c, self.size = channels, x_shape[1] // 8
        self.mlp = nn.Sequential(nn.Linear(z_size, hidden), nn.SiLU(), nn.Linear(hidden, 4 * c * self.size**2))
        last = nn.ConvTranspose2d(c, x_shape[0], 4, stride=2, padding=1)
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        layers: list[nn.Module] = [Residual(4 * c), nn.SiLU()]
        for inputs, outputs in ((4 * c, 2 * c), (2 * c, c)):
            layers += [nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1), Residual(outputs), nn.SiLU()]
        self.convolutions = nn.Sequential(*layers, last)

    def forward(self, z: Tensor) -> Tensor:
        """z (*B, d) -> (*B, C, H, W)"""
        corrected = self.convolutions(self.mlp(z.reshape(-1, z.shape[-1])).unflatten(-1, (-1, self.size, self.size)))
        x: Tensor = self.linear(z).unflatten(-1, self.x_shape) + corrected.reshape(*z.shape[:-1], *self.x_shape)
        return x


@torch.no_grad()
def set_principal_components(encoder: Encoder | ConvEncoder, decoder: Decoder | ConvDecoder, x: Tensor, sigma_x: float) -> None:
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
