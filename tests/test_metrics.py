import numpy as np
import pytest

from gtmsm_env.metrics import bootstrap, success_by_path_length, wilson


def test_wilson_covers_as_often_as_it_says() -> None:
    for rate, trials in ((0.5, 40), (0.9, 100), (0.99, 500)):
        hits = np.random.default_rng(0).binomial(trials, rate, size=2000)
        intervals = [wilson(int(successes), trials) for successes in hits]
        assert 0.92 < np.mean([low <= rate <= high for low, high in intervals]) < 0.985


def test_wilson_at_the_ends() -> None:
    assert wilson(500, 500) == pytest.approx((0.99238, 1.0), abs=1e-5)
    assert wilson(0, 500) == pytest.approx((0.0, 0.00762), abs=1e-5)
    assert (wilson(500, 500)[1], wilson(0, 500)[0]) == (1.0, 0.0)
    assert wilson(50, 100) == pytest.approx((0.40383, 0.59617), abs=1e-5)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="success rate"):
        wilson(successes, trials)


def test_spl_by_hand() -> None:
    assert success_by_path_length([1, 1, 0, 1], [4, 4, 4, 1], [4, 8, 4, 100]).tolist() == [1.0, 0.5, 0.0, 0.01]
    assert success_by_path_length([True], [5], [3]).tolist() == [1.0]  # a path cannot be better than the shortest


def test_spl_refuses() -> None:
    with pytest.raises(ValueError, match="shortest path"):
        success_by_path_length([1], [0], [1])
    with pytest.raises(ValueError, match="shortest path"):
        success_by_path_length([1, 1], [1], [1])


def test_bootstrap_agrees_with_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    half = 1.96 * values.std() / 20
    assert bootstrap(values) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    assert bootstrap(values) == bootstrap(values)
    assert bootstrap(np.ones(10)) == (1.0, 1.0)
