"""The agents and the benchmarks of speed run, small, on a model with a closed form, whose dream is right."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from exact import exact_landmarks, exact_model, exact_walker

from gtmsm_env.envs.first_person import ACTIONS
from gtmsm_env.metrics import wilson
from gtmsm_env.model import GTMSM
from gtmsm_env.worlds import WALKED, walk_steps_for

LABYRINTH = "GTMSM-Labyrinth-v0"
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever model an agent asks for is the exact one."""
    monkeypatch.setattr(GTMSM, "load", lambda *arguments: exact_model())


def run(program: str, *arguments: str, monkeypatch: pytest.MonkeyPatch, folder: str = "agents") -> int:
    """Runs a program and returns its exit status."""
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    monkeypatch.syspath_prepend(ROOT / folder)  # as Python does for a program
    threads = torch.get_num_threads()
    try:
        runpy.run_path(str(ROOT / folder / f"{program}.py"), run_name="__main__")
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        torch.set_num_threads(threads)
    return 0


@pytest.mark.parametrize("agent", ["plan_mpc", "train_sb3"])
def test_help(agent: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(agent, "--help", monkeypatch=monkeypatch) == 0
    told = capsys.readouterr().out
    assert "--json FILE" in told
    assert "example: python agents/" in told


@pytest.mark.parametrize("planner", ["cem", "mppi", "shooting"])
def test_plan_mpc(planner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    file, video = tmp_path / "figures.json", tmp_path / "walk.mp4"
    filmed = str(video) if planner == "cem" else "none"
    small = ["--worlds", "12", "--walk-steps", "64", "--filmed", "1", "--seed", "3"]
    assert run("plan_mpc", "--planner", planner, *small, "--video", filmed, "--json", str(file), monkeypatch=monkeypatch) == 0
    report = json.loads(file.read_text())
    assert report["seeds"] == [3]
    assert "torch" in report["versions"]
    agents = report["figures"]["agents"]
    planned, greedy, wandered = (agents[name] for name in (f"{planner} in the dream", "one step ahead", "random walk"))
    assert planned["success"] == greedy["success"] == 1
    assert planned["success_95"] == list(wilson(12, 12))
    assert planned["spl"] > 0.95
    assert greedy["spl"] == 1  # no walls stand between: the distance falls on every shortest path
    assert planned["shortest"] == greedy["shortest"] == wandered["shortest"] == greedy["steps"]
    assert wandered["spl"] < 0.5
    assert wandered["real_steps"] == 63 + wandered["steps"]
    assert planned["ms_alone"] > 0
    printed = capsys.readouterr().out
    assert f"{planner} in the dream        100.0"[:20] in printed
    assert "true shortest path" in printed
    assert video.exists() == (planner == "cem")
    if planner == "cem":
        assert video.read_bytes()[4:8] == b"ftyp"


def test_agents_among_obstacles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same programs, by the world's name; obstacles met on the way are planned around."""
    monkeypatch.setattr(GTMSM, "load", lambda *arguments: exact_landmarks())
    world = ["--world", "GTMSM-ObstacleGrid-v0", "--seed", "4", "--json", str(tmp_path / "figures.json")]
    small = ["--worlds", "12", "--walk-steps", "200", "--video", str(tmp_path / "walk.mp4"), "--filmed", "1"]
    assert run("plan_mpc", *world, *small, monkeypatch=monkeypatch) == 0
    planned = json.loads((tmp_path / "figures.json").read_text())["figures"]["agents"]["cem in the dream"]
    assert planned["success"] == 1
    assert planned["spl"] > 0.85
    assert (tmp_path / "walk.mp4").stat().st_size > 0
    learn = [
        "--worlds",
        "8",
        "--walks",
        "2",
        "--walk-steps",
        "64",
        "--dream-steps",
        "2000",
        "--points",
        "1",
        "--plot",
        str(tmp_path / "curve.png"),
    ]
    assert run("train_sb3", *world, *learn, monkeypatch=monkeypatch) == 0
    assert json.loads((tmp_path / "figures.json").read_text())["figures"]["world"] == "GTMSM-ObstacleGrid-v0"


def test_train_sb3_in_first_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an agent that goes straight to its goals reaches in the labyrinth, it believes to reach in the dream of the same walks."""
    pytest.importorskip("numba")
    walker, file = exact_walker(), tmp_path / "figures.json"
    monkeypatch.setattr(GTMSM, "load", lambda *arguments: walker)
    monkeypatch.setitem(gym.spec(LABYRINTH).kwargs, "horizon", 8)
    monkeypatch.setitem(WALKED, LABYRINTH, 24)
    small = ["--worlds", "2", "--walks", "2", "--dream-steps", "512", "--points", "1", "--plot", str(tmp_path / "curve.png")]
    assert run("train_sb3", "--world", LABYRINTH, *small, "--json", str(file), monkeypatch=monkeypatch) == 0
    learned = json.loads(file.read_text())["figures"]
    assert (learned["world"], learned["walk_steps"]) == (LABYRINTH, 24)
    assert learned["trained"]["in the dream"]["real_steps"] == 2 * 23

    monkeypatch.setitem(gym.spec(LABYRINTH).kwargs, "horizon", 128)
    judge = runpy.run_path(str(ROOT / "agents" / "train_sb3.py"))["Judge"]
    trial = judge(LABYRINTH, walker, 6, 24, {"split": "test"}, 0)(straight)
    assert trial.success.all()
    assert trial.believed_success.all()
    assert np.isclose(trial.spl, trial.believed_spl).sum() >= 5  # a goal is remembered to half a step, which may take a detour


@pytest.mark.parametrize(("world", "walked", "horizon"), [("GTMSM-ImageNavigation-v0", 256, 16), (LABYRINTH, 150, 24)])
def test_plans_and_walks_are_as_long_as_the_world_needs(world: str, walked: int, horizon: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GTMSM, "load", lambda *arguments: exact_walker() if world == LABYRINTH else exact_model())

    def stop(*of: Any, horizon: int, **more: Any) -> None:
        raise RuntimeError(f"plans of {horizon} steps")

    monkeypatch.setattr("gtmsm_env.planning.Planner", stop)
    with pytest.raises(RuntimeError, match=f"plans of {horizon} steps"):
        run("plan_mpc", "--world", world, "--video", "none", monkeypatch=monkeypatch)
    assert walk_steps_for(world) == walked


def straight(seen: dict[str, Any]) -> Any:
    """Turns to the goal's place, walks there, and turns to its heading."""
    (x, y, cos, sin), (goal_x, goal_y, goal_cos, goal_sin) = seen["state"].T, seen["goal_state"].T
    away = (goal_x - x + 1j * (goal_y - y)) * (cos - 1j * sin)
    turn = np.angle(np.where(np.abs(away) < 1.5, (goal_cos + 1j * goal_sin) * (cos - 1j * sin), away))
    actions = {name: number for number, name in enumerate(ACTIONS)}
    left, right, forward = (actions[name] for name in ("look left", "look right", "forward"))
    return np.where(np.abs(turn) < 0.1, forward, np.where(turn > 0, left, right))


def test_plan_mpc_without_the_video_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("gtmsm_env.video.find_spec", lambda name: None)
    video = tmp_path / "walk.mp4"
    small = ["--worlds", "2", "--walk-steps", "64", "--filmed", "1", "--candidates", "64"]
    run("plan_mpc", *small, "--video", str(video), monkeypatch=monkeypatch)
    assert "pip install 'gtmsm-env[video]'" in capsys.readouterr().out
    assert not video.exists()


@pytest.mark.parametrize(
    ("program", "option", "value", "message"),
    [
        *(
            ("plan_mpc", f"--{name}", "0", "0 is below 1")
            for name in ("horizon", "candidates", "iterations", "walk-steps", "worlds", "filmed")
        ),
        ("plan_mpc", "--candidates", "-5", "-5 is below 1"),
        ("plan_mpc", "--world-kwargs", "[1]", "a JSON object"),
        ("plan_mpc", "--world-kwargs", "{", "invalid json_object value"),
        *(("train_sb3", f"--{name}", "0", "0 is below 1") for name in ("walks", "walk-steps", "dream-steps", "worlds", "points")),
        ("train_sb3", "--seed", "-1", "-1 is below 0"),
    ],
)
def test_wrong_arguments(
    program: str, option: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(program, option, value, monkeypatch=monkeypatch) == 2
    assert f"argument {option}: " in (told := capsys.readouterr().err)
    assert message in told


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        ("plan_mpc", ["--world-kwargs", '{"step_size": 4}', "--video", "none"], "trained for"),
        ("plan_mpc", ["--images", "nowhere", "--video", "none"], "no folder of images"),
        ("train_sb3", ["--images", "nowhere"], "no folder of images"),
    ],
)
def test_refusals(
    program: str,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One message, no traceback."""
    monkeypatch.chdir(tmp_path)
    assert run(program, *arguments, monkeypatch=monkeypatch) == 1
    *_, told = capsys.readouterr().err.splitlines()
    assert told.startswith("error: ")
    assert message in told


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_train_sb3(algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    file, plot = tmp_path / "figures.json", tmp_path / "curves.png"
    steps = 50_000 if algorithm == "ppo" else 2_000
    small = ["--walks", "2", "--walk-steps", "128", "--dream-steps", str(steps), "--worlds", "30", "--points", "2"]
    run("train_sb3", "--algorithm", algorithm, *small, "--plot", str(plot), "--json", str(file), monkeypatch=monkeypatch)
    report = json.loads(file.read_text())
    dreamer, as_many, more = (report["figures"]["trained"][name] for name in ("in the dream", "in the world, 1 x", "in the world, 20 x"))
    assert dreamer["real_steps"] == 2 * 127
    assert 0.85 * steps < dreamer["steps"] <= steps
    assert as_many["real_steps"] == 127 + as_many["steps"]
    assert 0.95 < as_many["real_steps"] / dreamer["real_steps"] <= 1
    assert 19 < more["real_steps"] / dreamer["real_steps"] <= 20
    for of in (dreamer, as_many, more):
        assert len(of["curve"]) == 2
        assert of["curve"][1]["real_steps"] == of["real_steps"]
    assert abs(dreamer["believed_success"] - dreamer["success"]) <= 0.1  # the dream is exact, but for places that the walk has not been
    if algorithm == "ppo":
        assert dreamer["success"] > 0.9
        assert dreamer["spl"] > 0.8
        assert as_many["spl"] < 0.3
    assert plot.read_bytes()[1:4] == b"PNG"
    assert f"{algorithm}, judged in 30 unseen worlds" in capsys.readouterr().out


def test_planning_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "speed.json"
    small = ["--plans", "20", "2", "5", "--decisions", "2", "--peers", "--json", str(file)]
    run("planning_speed", *small, monkeypatch=monkeypatch, folder="benchmarks")
    figures = json.loads(file.read_text())["figures"]
    assert list(figures) == ["raw torch loop", "cem", "mppi", "shooting"]
    for of in figures.values():
        assert of["of_raw"] == pytest.approx(np.median(np.divide(of["ms"], figures["raw torch loop"]["ms"])))
    assert "of the raw loop" in capsys.readouterr().out


def test_world_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "speed.json"
    run("world_speed", "--rows", "1", "3", "--seconds", "0.001", "--json", str(file), monkeypatch=monkeypatch, folder="benchmarks")
    figures = json.loads(file.read_text())["figures"]
    assert figures["pictures_a_second"] > 0
    assert [(of["rows"], of["mode"]) for of in figures["env_steps_a_second"]] == [(n, m) for n in (1, 3) for m in ("free", "walk", "task")]
    for of in figures["env_steps_a_second"]:
        assert of["ratio"] == pytest.approx(of["batched"] / of["SyncVectorEnv"])
    assert "procedural pictures" in capsys.readouterr().out
