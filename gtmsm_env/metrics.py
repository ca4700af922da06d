"""What is reported of agents that are to reach a goal: success rate and SPL, each with a 95 % confidence interval."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """The interval of a success rate (Wilson's score), which is sound at 100 % too. ValueError without a trial."""
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"a success rate needs trials, and no more successes than these; got {successes} of {trials}")
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    rate, share = successes / trials, z**2 / trials
    middle = (rate + share / 2) / (1 + share)
    reach = (share * (rate * (1 - rate) + share / 4)) ** 0.5 / (1 + share)
    return middle - reach if successes else 0.0, middle + reach if successes < trials else 1.0


def success_by_path_length(success: ArrayLike, shortest: ArrayLike, taken: ArrayLike) -> NDArray[np.float64]:
    """SPL of each episode (Anderson et al., 2018): success times l / max(p, l). All (N,); their mean is what is reported.

    shortest: l, steps of the true shortest path, at least 1; taken: p, steps the agent took.
    """
    reached, least, most = (np.asarray(values, np.float64) for values in (success, shortest, taken))
    if not reached.shape == least.shape == most.shape or (least < 1).any():
        raise ValueError(
            f"an episode has a success, a shortest path of at least one step, and the steps taken; got {reached.shape}, {least.shape} "
            f"with a least of {least.min(initial=np.inf)}, {most.shape}"
        )
    spl: NDArray[np.float64] = reached * least / np.maximum(most, least)
    return spl


def bootstrap(values: ArrayLike, resamples: int = 2000) -> tuple[float, float]:
    """The percentile interval of a mean; the same values give the same interval."""
    data = np.asarray(values, np.float64)
    means = data[np.random.default_rng(0).integers(len(data), size=(resamples, len(data)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
