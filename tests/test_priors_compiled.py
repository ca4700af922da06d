"""The compiled loops of the views prior against torch, which computes the same where they cannot."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from gtmsm_env.data import walk
from gtmsm_env.model import GTMSM
from gtmsm_env.priors import ViewsPrior

pytest.importorskip("numba")

from gtmsm_env import loops, priors_compiled

MODEL = GTMSM.load("image-navigation")


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def all_of(views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (B,) and indices (B, K) that read views (B, K, ...) as they are."""
    return torch.arange(len(views)), torch.arange(views.shape[1]).expand(len(views), -1)


def drawn_prior(channels: int, side: int, margin: int, K: int) -> ViewsPrior:
    prior = ViewsPrior((channels, side, side), 4, K=K, margin=margin, hidden=8).requires_grad_(False)
    for parameter in (prior.log_width, prior.log_falloff, prior.log_reach, prior.log_floor, prior.log_smooth):
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=draws(0)))
    return prior


@pytest.mark.parametrize(("channels", "side", "margin", "K"), [(3, 8, 8, 8), (1, 8, 2, 1), (3, 6, 3, 5)])
@pytest.mark.parametrize("rows", [0, 1, 40])
def test_views_are_laid_and_filled_as_by_torch(channels: int, side: int, margin: int, K: int, rows: int) -> None:
    """Views that lie anywhere, also beyond the canvas; of some frames all are far away."""
    prior = drawn_prior(channels, side, margin, K)
    views = torch.rand(rows, K, channels, side, side, generator=draws(1))
    offset = side * torch.randn(rows, K, 2, generator=draws(2)) * torch.logspace(-2, 1, max(rows, 1))[:rows, None, None]
    expected = prior.within(prior.canvas(views, offset)[0])
    found = priors_compiled.frames(prior, views, *all_of(views), offset)
    assert found is not None
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)  # half a grey level: frames that views cover are not filled
    assert rows < 40 or (found - expected).abs().mean() < 2e-4


@pytest.mark.parametrize("smooth", [0, 1, 2])
def test_any_of_some_views_are_laid(smooth: int) -> None:
    """Of memories that hold more than is asked for, in any order; and what is filled is evened out as often as the prior says."""
    prior = drawn_prior(3, 8, 8, 5)
    prior.log_smooth = torch.nn.Parameter(prior.log_smooth[:smooth], requires_grad=False)
    views, offset = torch.rand(4, 9, 3, 8, 8, generator=draws(1)), 6 * torch.randn(20, 5, 2, generator=draws(2))
    row, index = torch.randint(4, (20,), generator=draws(3)), torch.randint(9, (20, 5), generator=draws(4))
    expected = prior.within(prior.canvas(views[row[:, None], index], offset)[0])
    torch.testing.assert_close(priors_compiled.frames(prior, views, row, index, offset), expected, atol=2e-3, rtol=0)
    with pytest.raises(IndexError):
        priors_compiled.frames(prior, views, row, index + 1, offset)


def test_a_frame_that_is_bare_in_one_corner_is_filled() -> None:
    """The one view lies three pixels off along both axes: what is right at its edges is wrong in the corner unless that is filled."""
    prior = drawn_prior(3, 8, 8, 1)
    views, offset = torch.rand(1, 1, 3, 8, 8, generator=draws(3)), torch.tensor([[[3.0, 3.0]]])
    blended = prior.within(prior.blend(views, offset)[0])
    expected = prior.within(prior.canvas(views, offset)[0])
    found = priors_compiled.frames(prior, views, *all_of(views), offset)
    assert found is not None
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert (blended - expected).abs().max() > 0.02


def test_other_frames_are_left_to_torch() -> None:
    for shape, margin in (((3, 8, 6), 8), ((3, 5, 5), 3)):
        prior = ViewsPrior(shape, 4, K=2, margin=margin)
        views, offset = torch.rand(2, 2, *shape, generator=draws(4)), torch.zeros(2, 2, 2)
        assert priors_compiled.frames(prior, views, *all_of(views), offset) is None
        assert prior.frame(views, *all_of(views), offset).shape == (2, *shape)


def test_a_dream_shows_the_same_frames_without_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    belief = walk(gym.make_vec("GTMSM-ImageNavigation-v0", num_envs=4), MODEL, 64, np.random.default_rng(0), 0)
    memory = MODEL.recall(belief.memory)
    s = belief.mean[:, None] + 12 * MODEL.step_length * (torch.rand(4, 50, 2, generator=draws(5)) - 0.5)
    shown = MODEL.decode(s, memory)
    monkeypatch.setattr(loops, "compiled_loops", lambda name: None)
    without = MODEL.decode(s, memory)
    assert (shown.int() - without.int()).abs().max() <= 1
    assert (shown == without).float().mean() > 0.97


def test_frames_do_not_depend_on_those_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for with_loops in (True, False):
        if not with_loops:
            monkeypatch.setattr(loops, "compiled_loops", lambda name: None)
        prior = drawn_prior(3, 8, 8, 8)
        views, offset = torch.rand(21, 8, 3, 8, 8, generator=draws(6)), 4 * torch.randn(21, 8, 2, generator=draws(7))
        row, index = all_of(views)
        together = prior.frame(views, row, index, offset)
        assert prior.frame(views, row[:0], index[:0], offset[:0]).shape == (0, 3, 8, 8)
        alone = torch.cat([prior.frame(views, row[i, None], index[i, None], offset[i, None]) for i in range(21)])
        assert torch.equal(together, alone)
        shared = prior.frame(views[:1].expand(21, -1, -1, -1, -1), row, index, offset)
        assert torch.equal(shared, prior.frame(views[:1].repeat(21, 1, 1, 1, 1), row, index, offset))
