"""The compiled loops of the VAE against torch, which computes the same where they cannot."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gtmsm_env.model import GTMSM
from gtmsm_env.networks import ConvDecoder, ConvEncoder, Decoder, Encoder, PastedPatches, looked_up

pytest.importorskip("numba")

from gtmsm_env import loops, networks_compiled


def drawn(z_size: int, hidden: int) -> tuple[Encoder, Decoder]:
    """Networks whose every weight counts; as they begin, their MLPs give nothing."""
    nets = Encoder(192, z_size, hidden).requires_grad_(False), Decoder((3, 8, 8), z_size, hidden).requires_grad_(False)
    for net in nets:
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
    return nets


@pytest.mark.parametrize("rows", [0, 1, 17, 150])
def test_frames_are_reproduced_as_by_torch(rows: int) -> None:
    """By the networks that ship, and by ones of other sizes."""
    x = torch.rand(rows, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = GTMSM.load("image-navigation")
    for encoder, decoder in ((model.encoder, model.decoder), drawn(8, 20)):
        found = networks_compiled.reproduced(encoder, decoder, x)
        assert found is not None
        with torch.no_grad():
            torch.testing.assert_close(found, decoder(encoder(x)[0]), atol=1e-5, rtol=1e-5)


def test_a_frame_does_not_depend_on_those_beside_it() -> None:
    x = torch.rand(70, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    together = networks_compiled.reproduced(*drawn(8, 20), x)
    assert together is not None
    for row in (0, 15, 16, 63, 64, 69):
        assert torch.equal(networks_compiled.reproduced(*drawn(8, 20), x[row, None]), together[row, None])  # type: ignore[arg-type]


def test_other_networks_are_left_to_torch() -> None:
    x = torch.rand(2, 3, 8, 8)
    encoder, decoder = drawn(8, 20)
    assert networks_compiled.reproduced(*drawn(8, 18), x) is None
    assert networks_compiled.reproduced(*drawn(6, 20), x) is None
    assert networks_compiled.reproduced(encoder, decoder.bfloat16(), x) is None
    shape = (3, 32, 32)
    assert networks_compiled.reproduced(ConvEncoder(shape, 8), ConvDecoder(shape, 8), torch.rand(2, *shape)) is None


@pytest.mark.parametrize("half", [False, True])
def test_patches_are_pasted_as_by_a_transposed_convolution(half: bool) -> None:
    """Of places that do not lie in a square; in half precision, which products alone then have."""
    torch.manual_seed(2)
    layer = PastedPatches(5, 3, 6, stride=2, padding=1)
    x = torch.randn(4, 5, 3, 7)
    with torch.no_grad():
        expected = nn.functional.conv_transpose2d(x, layer.weight, layer.bias, stride=2, padding=1)
        found = layer.bfloat16()(x.bfloat16()) if half else layer(x)
    assert found.dtype == (torch.bfloat16 if half else torch.float32)
    torch.testing.assert_close(found.float(), expected, atol=0.05 if half else 1e-5, rtol=0)


@pytest.mark.parametrize("shared", [False, True])
def test_views_are_looked_up_as_by_torch(shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, halves and what is no colour included; of one memory for all rows too."""
    views = torch.randint(-20, 531, (4, 6, 3, 5, 7), generator=torch.Generator().manual_seed(3)) / 510
    views = views[:1].expand(4, -1, -1, -1, -1) if shared else views
    row, index = torch.arange(4).repeat_interleave(3), torch.tensor([0, 5, 1] * 4)
    frames = looked_up(views, row, index)
    monkeypatch.setattr(loops, "compiled_loops", lambda name: None)
    assert torch.equal(frames, looked_up(views, row, index))
    assert looked_up(views, row[:0], index[:0]).shape == (0, 5, 7, 3)
