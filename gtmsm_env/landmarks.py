"""Landmarks (appendix D): where a frame was seen before tells where it is seen now. The posterior q(s_t | s_{t-1}, a_t, x_t, M_{<t})."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gtmsm_env.networks import mlp
from gtmsm_env.types import WITHIN

UNSEEN = 10.0  # how far from any other view a frame counts that nothing retrieved resembles; random encodings are sqrt(2 d) apart


class Inferred(NamedTuple):
    """A step of the posterior."""

    mean: Tensor  # (*B, n) of q(s_t)
    variance: Tensor  # (*B, n)
    kl: Tensor  # (*B,) E_q(s_{t-1}) KL(q(s_t | s_{t-1}, ...) || p(s_t | s_{t-1}, a_t)), nats


class Landmarks(nn.Module):
    """Pulls the state that the transition expects to where the K remembered views most like x_t were seen.

    Either x_t is seen from the place of landmark k, with probability alpha_k, or from none of them, and the transition is right. The
    Gaussian with the mean and the variance of this mixture is q(s_t): its mean mu_p + sum_k alpha_k (s_k - mu_p), its variance larger
    than the transition's where landmarks disagree and smaller where one is sure.

    alpha is a softmax over K + 1 options. The score of a landmark begins as log(c_k / (rho_k^2 + delta)), with rho_k the distance between
    encodings (a VAE's are spread like N(0, I), so their unit is always the same) and c_k, between 0 and 1, how much nearer in z the
    landmark is than the most alike view from any other place: views that repeat do not pull. A network corrects it. It sees these two,
    how far the landmark is from where the transition expects the state, in steps and in deviations, and from where the state was, in
    steps: a blocked move looks like the view before it.

    Args:
        K: landmarks that are retrieved
        delta: the square of the distance below which two encodings are the same
    """

    def __init__(self, K: int, delta: float = 1e-4, hidden: int = 16) -> None:
        super().__init__()
        self.K, self.delta = K, delta
        self.score = mlp(5, hidden, 1)
        self.none = nn.Parameter(torch.tensor(4.0))  # score of no landmark: as much as a view exp(-2) away
        # The part of the transition's variance that is left once x_t was seen and is no landmark; a whole one would blur what is retrieved.
        self.log_kept = nn.Parameter(torch.tensor(-6.0))

    def forward(
        self, s: Tensor, variance: Tensor, predicted: Tensor, sigma_s: float, step: float, rho: Tensor, s_k: Tensor, v_k: Tensor
    ) -> Inferred:
        """One step of the filter.

        Args:
            s, variance: (*B, n) of q(s_{t-1})
            predicted: (*B, n) mean of p(s_t | s_{t-1}, a_t) at s
            sigma_s: its deviation, in the state's unit
            step: the length of a step, in the state's unit
            rho: (*B, K) distances of the landmarks in z, infinite where there is none
            s_k, v_k: (*B, K, n) means and variances of their states
        """
        alpha = self.weights(s, variance + sigma_s**2, predicted, step, rho, s_k, v_k)[..., None]
        none, alpha = alpha[..., 0, :], alpha[..., 1:, :]
        mean = predicted + (alpha * (s_k - predicted[..., None, :])).sum(dim=-2)
        # Given s_{t-1}, the mean moves by `none` times its change, and this is the variance around it.
        own = none * self.log_kept.exp() * sigma_s**2 + none * (1 - none) * variance + none * (predicted - mean).square()
        own = own + (alpha * (v_k + (s_k - mean[..., None, :]).square())).sum(dim=-2)
        ratio = own / sigma_s**2
        pulled = ((mean - predicted).square() + (1 - none).square() * variance) / sigma_s**2
        return Inferred(mean, own + none.square() * variance, 0.5 * (ratio - 1 - ratio.log() + pulled).sum(dim=-1))

    def weights(self, s: Tensor, variance: Tensor, predicted: Tensor, step: float, rho: Tensor, s_k: Tensor, v_k: Tensor) -> Tensor:
        """The probabilities of no landmark and of each, (*B, 1 + K); variance is the transition's, the other arguments are as above."""
        there = rho.isfinite()
        rho = torch.where(there, rho, UNSEEN)
        elsewhere = (s_k[..., :, None, :] - s_k[..., None, :, :]).square().sum(dim=-1) > (WITHIN * step) ** 2  # (*B, K, K)
        other = torch.where(elsewhere, rho[..., None, :], UNSEEN).amin(dim=-1).clamp(max=UNSEEN)
        distinct = ((other.square() - rho.square()) / (other.square() + self.delta)).clamp(min=1e-6)
        offset = s_k - predicted[..., None, :]
        apart, nearer = (rho.square() + self.delta).log(), (other.square() + self.delta).log()
        evidence = [
            apart / 2,
            (nearer - apart) / 2,
            (offset.norm(dim=-1) / step + 0.1).log(),
            ((s_k - s[..., None, :]).norm(dim=-1) / step + 0.1).log(),
            (offset.square() / (variance[..., None, :] + v_k)).sum(dim=-1).log1p(),
        ]
        correction = self.score(torch.stack(evidence, dim=-1) / 3).squeeze(-1)
        scores = (distinct.log() - apart + correction).masked_fill(~there, -torch.inf)
        return torch.cat([self.none.expand(*scores.shape[:-1], 1), scores], dim=-1).softmax(dim=-1)
