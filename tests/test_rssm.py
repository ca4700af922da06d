"""The recurrent baseline: what it may look at, and that it learns."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from exact import exact_model
from programs import imported

from gtmsm_env.data import Walks
from gtmsm_env.model import GTMSM
from gtmsm_env.trials import HORIZON, TAU, Trials, record_trials

WORLD = {"id": "GTMSM-ImageNavigation-v0", "kwargs": {}}


@pytest.fixture(scope="module")
def rssm() -> Iterator[ModuleType]:
    with imported("rssm") as module:
        yield module


@pytest.fixture(scope="module")
def trials() -> Trials:
    return next(record_trials(WORLD, 2, seed=0))


def walks(rows: int, steps: int) -> Walks:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(256, (rows, 6, 8, 8, 3), generator=generator).to(torch.uint8)
    index, actions = (torch.randint(n, (rows, length), generator=generator) for n, length in ((6, steps), (5, steps - 1)))
    return Walks(frames, index, actions)


def test_it_dreams_of_every_step(rssm: ModuleType, trials: Trials) -> None:
    model = rssm.RSSM((8, 8, 3), 5)
    shown = rssm.dream(model, trials, HORIZON)
    assert shown.shape == (2, HORIZON, 8, 8, 3)
    assert shown.dtype == np.uint8
    np.testing.assert_array_equal(shown, rssm.dream(model, trials, HORIZON))


def test_it_sees_what_was_remembered_and_nothing_after(rssm: ModuleType, trials: Trials) -> None:
    model = rssm.RSSM((8, 8, 3), 5)
    shown = rssm.dream(model, trials, 50)
    for step, seen in ((TAU - 1, True), (TAU, False)):
        frames = trials.walk.frames.clone()
        frames[:, step] = 255 - frames[:, step]
        changed = Trials(
            type(trials.walk)(frames, trials.walk.actions, positions=trials.walk.positions), trials.pictures, trials.side, trials.step_size
        )
        assert (rssm.dream(model, changed, 50) != shown).any() == seen


def test_actions_reach_the_step_they_lead_to(rssm: ModuleType) -> None:
    """a_t leads from x_{t-1} to x_t: changing it changes h_t and what follows, nothing before; filtering and imagining agree on that."""
    model = rssm.RSSM((8, 8, 3), 5)
    z, actions = torch.randn(1, 12, 32), torch.zeros(1, 11, dtype=torch.int64)
    other = actions.clone()
    other[0, 4] = 3  # led from x_5 to x_6
    with torch.no_grad():
        differs = (model.observe(z, actions) != model.observe(z, other)).any(-1)[0]
        ahead = (model.imagine(torch.zeros(1, 256), z[:, 0], actions)[0] != model.imagine(torch.zeros(1, 256), z[:, 0], other)[0]).any(-1)[
            0
        ]
    assert differs.tolist() == [False] * 5 + [True] * 7
    assert ahead.tolist() == [False] * 4 + [True] * 7


def test_observing_equals_the_recurrence_step_by_step(rssm: ModuleType) -> None:
    model = rssm.RSSM((8, 8, 3), 5)
    z, actions = torch.randn(2, 9, 32), torch.randint(5, (2, 8))
    with torch.no_grad():
        states = model.observe(z, actions)
        h, last, a = torch.zeros(2, 256), torch.zeros(2, 32), torch.zeros(2, 5)
        for t in range(9):
            if t:
                last, a = z[:, t - 1], torch.nn.functional.one_hot(actions[:, t - 1], 5).float()
            _, state = model.gru(torch.cat([last, a], dim=-1)[:, None], h[None])
            h = state[0]
            torch.testing.assert_close(states[:, t], h)


def test_kl_equals_that_of_torch(rssm: ModuleType) -> None:
    mean, other = torch.randn(3, 4), torch.randn(3, 4)
    deviation, other_deviation = torch.rand(3, 4) + 0.1, torch.rand(3, 4) + 0.1
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, deviation), normal(other, other_deviation)).sum(-1)
    torch.testing.assert_close(rssm.gaussian_kl(mean, deviation, other, other_deviation), expected)


def test_it_learns(rssm: ModuleType) -> None:
    torch.manual_seed(0)
    model, data = rssm.RSSM((8, 8, 3), 5), walks(8, 12)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        loss = model(data.frames, data.index, data.actions, 8)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.75 * losses[0]


def test_the_benchmark_runs(rssm: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(GTMSM, "load", lambda *_: exact_model())
    monkeypatch.setattr(rssm, "STAGES", ((0.0, 4, 16),))
    monkeypatch.setattr(rssm, "judge_on", lambda *_: lambda imagine: {"psnr 1-256": 1.0, "mse 193-256, visited": 0.1})
    file = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["rssm.py", "--minutes", "0.01", "--episodes", "2", "--json", str(file), "--output", str(tmp_path)])
    rssm.main()
    figures = json.loads(file.read_text())["figures"]
    assert len(figures["learning curve"]) >= 2
    assert figures["learning curve"][-1]["cpu seconds"] >= 0.6
    assert f"{figures['mse at step 256, visited']['RSSM']:.5f}" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"figures.json", "rssm-by-horizon.png", "rssm-learning-curve.png"}
