"""The benchmark of laws in first person: what it measures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from programs import imported

from gtmsm_env.model import GTMSM
from gtmsm_env.recipe_labyrinth import ROTATING


@pytest.fixture(scope="module")
def law_learning() -> Iterator[ModuleType]:
    with imported("law_learning") as module:
        yield module


def test_errors_are_those_of_a_law_that_is_wrong_by_as_much(law_learning: ModuleType) -> None:
    """A turn that is .001 too large at every step adds up, whichever way; places stay."""
    agent = replace(ROTATING, horizon=5, far=5)
    model = GTMSM.load("labyrinth-rotate")
    exact_units, exact_degrees = law_learning.judge(model, agent, 2)
    assert exact_units.max() < 5e-3
    assert exact_degrees.max() < 0.1
    with torch.no_grad():
        model.transition.W_a[2] += 0.001
    units, degrees = law_learning.judge(model, agent, 2)
    steps = torch.arange(len(degrees))
    torch.testing.assert_close(degrees, (0.001 * steps).rad2deg().double(), atol=0.1, rtol=0)
    assert degrees[-1] > 2
    assert (units - exact_units).abs().max() < 5e-3


def test_agents_have_the_bars_of_their_experiments(law_learning: ModuleType) -> None:
    for world, agent, steps, units, degrees in law_learning.AGENTS.values():
        assert len(steps) == len(units) == len(degrees)
        assert max(steps) <= agent.far
        assert law_learning.experiment(world, "paper", "procedural", 0, displacements=False).stages
    names = {
        stage.name
        for world, *_ in law_learning.AGENTS.values()
        for stage in law_learning.experiment(world, "paper", "procedural", 0, displacements=False).stages
    }
    assert set(law_learning.LAWS) <= names
