"""Frames and encodings against closed forms."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from gtmsm_env.networks import (
    ConvDecoder,
    ConvEncoder,
    Decoder,
    Encoder,
    Network,
    PastedPatches,
    frames_to_x,
    mlp,
    set_principal_components,
    x_to_frames,
)

SHAPE = (3, 2, 4)  # C, H, W
SIZE = 24


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_frames_and_back_for_every_value() -> None:
    frames = torch.arange(256, dtype=torch.int64).repeat(3, 1).t().reshape(16, 16, 3).to(torch.uint8)
    x = frames_to_x(frames)
    assert x.shape == (3, 16, 16)
    assert (float(x.min()), float(x.max())) == (0, 1)
    assert torch.equal(x_to_frames(x), frames)
    assert torch.equal(x_to_frames(x + 0.49 / 255), frames)  # rounded to the nearest
    assert torch.equal(x_to_frames(x - 0.49 / 255), frames)


def test_channels_come_first_in_x() -> None:
    frames = torch.randint(256, (5, 2, 4, 6, 3), generator=draws()).to(torch.uint8)
    x = frames_to_x(frames)
    assert x.shape == (5, 2, 3, 4, 6)
    assert x[1, 0, 2, 3, 5] == frames[1, 0, 3, 5, 2] / 255
    assert torch.equal(x_to_frames(x), frames)


def test_frames_are_clipped() -> None:
    assert x_to_frames(torch.tensor([-0.5, 1.7]).reshape(1, 1, 2)).flatten().tolist() == [0, 255]


def test_a_path_beside_another_starts_silent() -> None:
    assert not mlp(4, 8, 3)(torch.randn(5, 4, generator=draws())).any()


def test_a_network_is_its_layers_one_after_another() -> None:
    """With gradients and without; what it is given stays as it is."""
    net, x = Network(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 2, 1), nn.SiLU()), torch.randn(5, 3, 6, 6, generator=draws())
    kept, expected = x.clone(), nn.Sequential(*net)(x)
    assert torch.equal(net(x), expected)
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected)
    assert torch.equal(x, kept)
    (weight,) = torch.autograd.grad(net(x).square().sum(), [net[0].weight])
    torch.testing.assert_close(weight, torch.autograd.grad(expected.square().sum(), [net[0].weight])[0])


def test_a_network_computes_as_its_weights_do() -> None:
    net, x = Network(nn.Linear(8, 8), nn.SiLU(), nn.Linear(8, 3)), torch.randn(5, 8, generator=draws())
    expected = net(x)
    rounded = net.bfloat16()(x)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, expected, atol=0.02, rtol=0.02)
    assert torch.equal(rounded, rounded.bfloat16().float())
    assert net.double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(8, 4, 2), (4, 2, 1), (3, 2, 0)])
def test_pasted_patches_are_a_transposed_convolution(kernel: int, stride: int, padding: int) -> None:
    net = PastedPatches(5, 3, kernel, stride=stride, padding=padding)
    x = torch.randn(2, 5, 4, 6, generator=draws())
    torch.testing.assert_close(net(x), nn.ConvTranspose2d.forward(net, x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_shapes(batch: tuple[int, ...]) -> None:
    mean, variance = Encoder(SIZE, 5, 8)(torch.rand(*batch, *SHAPE))
    assert mean.shape == variance.shape == (*batch, 5)
    assert (variance > 0).all()
    assert Decoder(SHAPE, 5, 8)(mean).shape == (*batch, *SHAPE)


@pytest.mark.parametrize("z_size", [3, SIZE])
def test_principal_components_are_the_exact_posterior(z_size: int) -> None:
    """x = W z + mean + sigma_x noise with z ~ N(0, I): q(z | x) is what conditioning the joint Gaussian gives."""
    sigma_x, generator = 0.05, draws()
    x = (torch.randn(400, SIZE, generator=generator) * torch.rand(SIZE, generator=generator)) @ torch.randn(SIZE, SIZE, generator=generator)
    x = (x / 50 + 0.5).reshape(-1, *SHAPE)
    encoder, decoder = Encoder(SIZE, z_size, 8), Decoder(SHAPE, z_size, 8)
    set_principal_components(encoder, decoder, x, sigma_x)
    with torch.no_grad():
        W, mean = decoder.linear.weight.double(), x.flatten(1).double().mean(dim=0)
        seen = x[:7].flatten(1).double()
        covariance = W @ W.t() + sigma_x**2 * torch.eye(SIZE).double()  # of x
        gain = W.t() @ torch.linalg.inv(covariance)
        q_mean, q_variance = encoder(x[:7])
        torch.testing.assert_close(q_mean.double(), (seen - mean) @ gain.t(), atol=2e-3, rtol=1e-3)
        posterior = torch.eye(z_size).double() - gain @ W
        torch.testing.assert_close(torch.diag(q_variance[0].double()), posterior, atol=1e-4, rtol=1e-3)
        # z is white: over the data, the mean of q's moments is that of N(0, I), up to the noise that W W^T lacks
        all_mean, _ = encoder(x)
        assert all_mean.mean(dim=0).abs().max() < 1e-2
        assert torch.cov(all_mean.t()).diagonal().max() < 1.01
        if z_size == SIZE:  # nothing is left out, so the model of x is the data's covariance and the noise
            data = torch.cov(x.flatten(1).double().t(), correction=0) + sigma_x**2 * torch.eye(SIZE).double()
            torch.testing.assert_close(covariance, data, atol=1e-4, rtol=1e-3)


def test_principal_components_keep_the_most_that_a_line_can() -> None:
    """The first d components of the data, by singular values: no other linear path of d numbers is nearer to the frames."""
    generator = draws()
    x = torch.randn(300, SIZE, generator=generator) @ torch.diag(0.8 ** torch.arange(SIZE)) + 3
    encoder, decoder = Encoder(SIZE, 4, 8), Decoder(SHAPE, 4, 8)
    set_principal_components(encoder, decoder, x.reshape(-1, *SHAPE), 1e-3)
    with torch.no_grad():
        error = (decoder(encoder(x.reshape(-1, *SHAPE))[0]).flatten(1) - x).square().sum()
    left = torch.linalg.svdvals(x - x.mean(dim=0))[4:].square().sum()
    assert float(error) == pytest.approx(float(left), rel=1e-3)


# ---------------------------------------------------------------- convolutions

LARGER = (3, 16, 16)


def convolutional() -> tuple[ConvEncoder, ConvDecoder]:
    networks = ConvEncoder(LARGER, 5, channels=4, hidden=8), ConvDecoder(LARGER, 5, channels=4, hidden=8)
    for part in networks:
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return networks


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,), (2, 0)])
def test_convolutions_take_any_batch_and_see_each_frame_alone(batch: tuple[int, ...]) -> None:
    encoder, decoder = convolutional()
    x = torch.rand(*batch, *LARGER, generator=draws())
    mean, variance = encoder(x)
    decoded = decoder(mean)
    assert mean.shape == variance.shape == (*batch, 5)
    assert decoded.shape == (*batch, *LARGER)
    for at in itertools.product(*map(range, batch)):
        alone = encoder(x[at])
        torch.testing.assert_close((mean[at], variance[at]), alone, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(decoded[at], decoder(alone[0]), atol=1e-3, rtol=1e-3)


def test_every_weight_of_the_convolutions_learns() -> None:
    x = torch.rand(4, *LARGER, generator=draws())
    encoder, decoder = convolutional()
    mean, variance = encoder(x)
    ((decoder(mean) - x).square().sum() + variance.sum()).backward()
    for part in (encoder, decoder):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None
            assert parameter.grad.any(), name


def test_convolutions_start_from_grey_and_nearly_sure() -> None:
    encoder, decoder = ConvEncoder((3, 32, 32), 64), ConvDecoder((3, 32, 32), 64)
    with torch.no_grad():
        mean, variance = encoder(torch.rand(4, 3, 32, 32, generator=draws()))
        assert (decoder(mean) - 0.5).abs().max() < 0.2
    assert ((variance > 0.01) & (variance < 0.03)).all()


def test_convolutions_see_grey_as_nothing() -> None:
    """So that the zeros around a frame are no black rim: of grey every place is told the biases alone."""
    encoder, _ = convolutional()
    told = encoder.net[0](torch.full((1, *LARGER), 0.5) - 0.5)
    torch.testing.assert_close(told, encoder.net[0].bias[:, None, None].expand_as(told[0])[None])
    alone = encoder.net[1:](told)[:, :5]
    torch.testing.assert_close(encoder(torch.full((1, *LARGER), 0.5))[0], alone)
