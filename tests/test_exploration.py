import numpy as np
import pytest

from gtmsm_env.envs.image_navigation import MOVES
from gtmsm_env.exploration import RATE, exploring_actions


def generators(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(count)]


def slow_actions(generator: np.random.Generator, steps: int, num_actions: int, rate: float) -> list[int]:
    """One row by the definition: draw an action, repeat it 1 + Poisson(rate) times."""
    actions: list[int] = []
    action, left = 0, 0
    for _ in range(steps):
        u, v = generator.random(2)
        if left == 0:
            action, left = int(u * num_actions), 1
            probability = cumulative = np.exp(-rate)
            while v >= cumulative:
                probability *= rate / left
                cumulative += probability
                left += 1
        actions.append(action)
        left -= 1
    return actions


@pytest.mark.parametrize("rate", [0, 0.5, RATE, 20])
def test_each_row_is_the_definition(rate: float) -> None:
    actions = exploring_actions(generators(4), 4, 200, 5, rate=rate)
    assert actions.shape == (4, 200)
    assert actions.dtype == np.int64
    for row, generator in enumerate(generators(4)):
        assert actions[row].tolist() == slow_actions(generator, 200, 5, rate)


def test_repeats_are_poisson_and_actions_uniform() -> None:
    actions = exploring_actions(np.random.default_rng(0), 400, 500, 5, rate=1.5)
    same = (actions[:, 1:] == actions[:, :-1]).mean()
    # A step begins a new burst once in 1 + rate steps, and then draws the same action again once in 5.
    assert same == pytest.approx(1 - (1 / 2.5) * (4 / 5), abs=0.01)
    assert np.bincount(actions.ravel()) / actions.size == pytest.approx(np.full(5, 0.2), abs=0.01)


def test_the_default_rate_gives_the_calibrations_coverage() -> None:
    actions = exploring_actions(np.random.default_rng(0), 2000, 511, 5)
    place = np.full((2000, 2), 4)
    places = [place]
    for step in range(511):
        place = np.clip(place + MOVES[actions[:, step]], 0, 8)
        places.append(place)
    number = np.stack(places, axis=1) @ np.array([9, 1])
    been = np.zeros((2000, 81), bool)
    np.put_along_axis(been, number[:, :256], True, axis=1)
    assert 0.735 < np.take_along_axis(been, number[:, 256:], axis=1).mean() < 0.755


@pytest.mark.parametrize(
    ("arguments", "rate", "message"),
    [
        ((np.random.default_rng(0), 0, 9, 5), 1.0, "at least one row"),
        ((np.random.default_rng(0), 2, 9, 0), 1.0, "one action"),
        ((np.random.default_rng(0), 2, 9, 5), -1.0, "rate"),
        ((np.random.default_rng(0), 2, 9, 5), float("nan"), "rate"),
        ((generators(2), 3, 9, 5), 1.0, "one generator per row"),
    ],
)
def test_bad_arguments(arguments: tuple, rate: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        exploring_actions(*arguments, rate=rate)
