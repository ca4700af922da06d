"""The loops of VAEs, compiled for one core of a CPU where no gradient is wanted; torch elsewhere computes the same.

`reproduced` stands in for encoder and decoder of a few frames, of linear paths and MLPs: what it gives for one does not depend on how many
others there are, as of torch's products it does. `pasted` stands in for the end of `PastedPatches.forward`, `looked_up` for
`networks.looked_up`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gtmsm_env.dream_compiled import LANES, arrays, compiled, exact, f, four, silu
from gtmsm_env.networks import Decoder, Encoder

ROWS = 64  # that are computed at once


def reproduced(encoder: nn.Module, decoder: nn.Module, x: Tensor) -> Tensor | None:
    """The mean of p(x | z) at the mean of q(z | x): x (N, C, H, W) -> (N, C, H, W); None of networks that loops cannot compute."""
    if not isinstance(encoder, Encoder) or not isinstance(decoder, Decoder):
        return None
    z_size = encoder.linear.out_features
    weights = [[p.detach() for net in (part.linear, part.mlp) for p in net.parameters()] for part in (encoder, decoder)]
    weights[0][-2:] = [p[:z_size] for p in weights[0][-2:]]  # means alone
    if any(len(p) % 4 or p.shape[-1] % 4 or p.dtype != torch.float32 for part in weights for p in part):
        return None
    shown = torch.empty_like(x)
    z = x.new_empty(len(x), z_size)
    for part, given, found in zip(weights, (x.flatten(1), z), (z, shown.flatten(1)), strict=True):
        _both(*arrays(*part, given, found))
    return shown


@compiled
def _both(W: Any, b: Any, W_0: Any, b_0: Any, W_1: Any, b_1: Any, W_2: Any, b_2: Any, x: Any, y: Any) -> None:
    """A linear path and an MLP: x (N, n) -> y (N, m)."""
    given, first, second = np.zeros((x.shape[1], ROWS), f), np.empty((len(b_0), ROWS), f), np.empty((len(b_1), ROWS), f)
    line, bent = np.empty((4, ROWS), f), np.empty((4, ROWS), f)
    for begin in range(0, len(x), ROWS):
        rows = min(ROWS, len(x) - begin)
        width = (rows + LANES - 1) // LANES * LANES
        for r in range(rows):
            for i in range(x.shape[1]):
                given[i, r] = x[begin + r, i]
        for j in range(0, len(first), 4):
            four(W_0, b_0, j, given, bent, width)
            for i in range(4):
                for r in range(width):
                    first[j + i, r] = silu(bent[i, r])
        for j in range(0, len(second), 4):
            four(W_1, b_1, j, first, bent, width)
            for i in range(4):
                for r in range(width):
                    second[j + i, r] = silu(bent[i, r])
        for j in range(0, y.shape[1], 4):
            four(W, b, j, given, line, width)
            four(W_2, b_2, j, second, bent, width)
            for i in range(4):
                for r in range(rows):
                    y[begin + r, j + i] = line[i, r] + bent[i, r]


def pasted(patches: Tensor, bias: Tensor, size: tuple[int, ...], kernel: int, stride: int, padding: int) -> Tensor:
    """patches (N, places, channels * kernel^2), bias (channels,) -> (N, channels, *size)."""
    x = patches.new_empty(len(patches), len(bias), *size)
    _pasted(kernel, stride, padding, *arrays(patches, bias, x))
    return x


@compiled
def _pasted(kernel: Any, stride: Any, padding: Any, patches: Any, bias: Any, x: Any) -> None:
    height, width = x.shape[2:]
    across = (width + 2 * padding - kernel) // stride + 1
    canvas = np.empty((height + 2 * padding, width + 2 * padding), f)
    for n in range(len(x)):
        for c in range(len(bias)):
            canvas[:] = bias[c]
            for place in range(patches.shape[1]):
                top, left = place // across * stride, place % across * stride
                patch = patches[n, place, c * kernel**2 :]
                for i in range(kernel):
                    line = canvas[top + i, left:]
                    for j in range(kernel):
                        line[j] += patch[i * kernel + j]
            x[n, c] = canvas[padding : padding + height, padding : padding + width]


def looked_up(views: Tensor, row: Tensor, index: Tensor) -> Tensor:
    """views (M, P, C, H, W), row and index (N,) int64 -> uint8 (N, H, W, C)."""
    if len(views) > 1 and views.stride(0) == 0:  # one memory for all
        views, row = views[:1], torch.zeros_like(row)
    C, H, W = views.shape[2:]
    frames = torch.empty(len(row), H, W, C, dtype=torch.uint8)
    _looked_up(*arrays(views.contiguous(), row, index.contiguous(), frames))
    return frames


@exact
def _looked_up(views: Any, row: Any, index: Any, frames: Any) -> None:
    H, W, C = frames.shape[1:]
    for n in range(len(row)):
        view = views[row[n], index[n]]
        for c in range(C):
            for y in range(H):
                for x in range(W):
                    frames[n, y, x, c] = min(max(np.rint(view[c, y, x] * f(255)), f(0)), f(255))
