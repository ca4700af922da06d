"""Imagining in first person against simulating it: 32 x 32 frames a second of one core.

    python benchmarks/first_person_speed.py [--rows 64] [--rounds 5] [--seconds 2] [--peers NAME ...] [--json FILE]

Ours: a step by random actions in each of 64 remembered walks of 150 frames, and its frame decoded; by our model of projected views, and
by the paper's, each as it is and `halved`; then 64 rows of the labyrinth itself. Peers step one environment: as many, one after another on
that core, would take as long for each frame. All take turns in short rounds, and each counts the processor time it takes, not the clock's:
medians, least and most.

A peer is installed from PyPI into a virtual environment of its own, in --cache, the first time; one that cannot run here says why.
Both need EGL; on Debian: apt-get install libegl1 libgl1-mesa-dri libglu1-mesa.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import gtmsm_env  # noqa: F401  registers the world
from gtmsm_env.data import record
from gtmsm_env.model import GTMSM, shipped
from gtmsm_env.recipe_labyrinth import CAMERA, WALKING
from gtmsm_env.report import Cell, check_writable, table, write_json
from gtmsm_env.types import Walk

WORLD = "GTMSM-Labyrinth-v0"
VIEWS, PAPER, OWN_WORLD = "dream, projected views", "dream, the paper's model", "the labyrinth itself"
HALVED = {VIEWS: f"{VIEWS}, halved", PAPER: f"{PAPER}, halved"}
MINIWORLD, MEMORY_MAZE = "miniworld", "memory-maze"
ARGUMENTS: dict[str, dict[str, Any]] = {
    VIEWS: {"prior": "views", "K": 8, "camera": CAMERA},
    PAPER: {"prior": "combined", "K": 4, "hidden": WALKING.width},
}
SHIPPED = {VIEWS: "labyrinth", PAPER: "labyrinth-paper"}
BARS = {(HALVED[VIEWS], MEMORY_MAZE): 20, (HALVED[VIEWS], MINIWORLD): 2, (HALVED[PAPER], MINIWORLD): 5}  # times as many frames a second
Measure = Callable[[float], float]  # seconds of processor time -> frames in one of them


@dataclass(frozen=True)
class Installed:
    """Another package: what pip installs of it, what its process is told, and the program that steps it."""

    requirements: tuple[str, ...]
    variables: dict[str, str]
    program: str
    alone: tuple[str, ...] = ()  # installed without what they ask for


PEERS = {
    MINIWORLD: Installed(("miniworld==2.1.0", "gymnasium==1.4.0", "pyglet==1.5.31"), {"PYGLET_HEADLESS": "1"}, "run_miniworld.py"),
    MEMORY_MAZE: Installed(
        ("memory-maze==1.0.3", "dm-control==1.0.14", "mujoco==2.3.7", "numpy==1.26.4", "gym==0.26.2"),
        {"MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl")},
        "run_memory_maze.py",
    ),
}


class UnavailableError(Exception):
    """A peer that cannot run here, and why."""


def python_of(peer: Installed, folder: Path) -> Path:
    """The interpreter of an environment that holds the peer, made in this folder where it is not there yet."""
    stamp, python = folder / "installed.txt", folder / "bin" / "python"
    wanted = "\n".join(peer.requirements + peer.alone)
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing {peer.requirements[0]} into {folder}, once", file=sys.stderr, flush=True)
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "install", "-qq", "--no-input", "--disable-pip-version-check", "--prefer-binary"]
        for wanted_too in (peer.requirements, ("--no-deps", *peer.alone)):
            done = subprocess.run([*pip, *wanted_too], capture_output=True, text=True) if wanted_too[-1] != "--no-deps" else None
            if done and done.returncode:
                raise UnavailableError(f"pip install failed: {last_line(done.stderr)}")
        stamp.write_text(wanted)
    return python


class Peer:
    """A running program of `peers/`, which waits until it is asked for a round; it inherits this process' one core."""

    def __init__(self, python: str | Path, program: Path, variables: dict[str, str], *arguments: str) -> None:
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by `close`
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors}
        self.process = subprocess.Popen([python, program, *arguments], text=True, env=os.environ | variables, **pipes)

    def __call__(self, seconds: float) -> float:
        """Frames a second over so many seconds. UnavailableError where the program has ended."""
        assert self.process.stdin
        assert self.process.stdout
        with suppress(BrokenPipeError):  # what it said before it ended is told below
            print(seconds, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            self.process.wait()
            self.errors.seek(0)
            raise UnavailableError(last_line(self.errors.read()))
        return float(json.loads(answer)["frames_a_second"])

    def close(self) -> None:
        try:
            self.process.communicate()
        finally:
            self.errors.close()


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]


def dream(model: GTMSM, walk: Walk, rng: np.random.Generator) -> tuple[Measure, float]:
    """Imagines on from remembered walks, and decodes each step; and how many seconds a walk took to recall."""
    with torch.no_grad():
        belief = model.remember(walk)
        start = time.process_time()
        belief = replace(belief, memory=model.recall(belief.memory))
        recalled = (time.process_time() - start) / len(walk.frames)

    @torch.no_grad()
    def step() -> None:
        nonlocal belief
        belief = model.predict(belief, torch.from_numpy(rng.integers(model.num_actions, size=len(walk.frames))))
        model.decode(belief.mean, belief.memory)

    return timed(step, len(walk.frames)), recalled


def simulated(envs: Any, rng: np.random.Generator) -> Measure:
    """Steps the rows of a vector env, which draws a frame of each."""
    envs.reset(options={"phase": "walk"})
    return timed(lambda: envs.step(rng.integers(envs.single_action_space.n, size=envs.num_envs)), envs.num_envs)


def timed(step: Callable[[], Any], frames: int) -> Measure:
    """Frames a second of a step that gives so many."""

    def measure(seconds: float) -> float:
        steps, start = 0, time.process_time()
        while (spent := time.process_time() - start) < seconds:
            step()
            steps += 1
        return steps * frames / spent

    return measure


def in_turns(measures: dict[str, Measure], rounds: int, seconds: float) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Frames a second of each round, after one to warm up; and of those that cannot run, why."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    unavailable: dict[str, str] = {}
    for turn in range(rounds + 1):
        for name in [name for name in measures if name not in unavailable]:
            try:
                speed = measures[name](seconds if turn else 0.1)
            except UnavailableError as error:
                unavailable[name] = str(error)
                del found[name]
                continue
            if turn:
                found[name].append(speed)
    return found, unavailable


def model_for(which: str, name: str | None) -> tuple[GTMSM, str]:
    """A model by its name, by default the one that ships; until one does, one that has learned nothing: as fast. And what it is called."""
    name = name or (SHIPPED[which] if SHIPPED[which] in shipped() else None)
    if name:
        return GTMSM.load(name), name
    model = GTMSM((32, 32, 3), 8, state_size=3, law="walking", sigma_x=0.05, **ARGUMENTS[which])
    return model.eval().requires_grad_(False), "untrained"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="of projected views: one that ships, or a path (default: labyrinth)")
    parser.add_argument("--paper-model", help="the paper's, likewise (default: labyrinth-paper)")
    parser.add_argument("--rows", type=int, default=64, help="walks, and environments of ours")
    parser.add_argument("--steps", type=int, default=150, help="frames that each remembers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="time for each round of each")
    parser.add_argument("--peers", nargs="*", choices=[*PEERS], default=[*PEERS], metavar="NAME", help=f"of {', '.join(PEERS)}")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "gtmsm-env"
    parser.add_argument("--cache", type=Path, default=cache, help="where peers are installed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    check_writable(file=args.json, folder=args.cache if args.peers else None)
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    mine = os.sched_getaffinity(0)
    peers: dict[str, Peer] = {}
    try:
        os.sched_setaffinity(0, {max(mine)})  # which processes that start here inherit
        envs = gym.make_vec(WORLD, num_envs=args.rows, task=None)
        walk = record(envs, args.steps, seed=args.seed)
        measures: dict[str, Measure] = {}
        called, recalled = {}, {}
        for which, name in ((VIEWS, args.model), (PAPER, args.paper_model)):
            model, called[which] = model_for(which, name)
            measures[which], recalled[which] = dream(model, walk, rng)
            measures[HALVED[which]], _ = dream(model.halved(), walk, rng)
            called[HALVED[which]] = called[which]
        measures[OWN_WORLD] = simulated(envs, rng)
        unavailable = {}
        for name in args.peers:
            package = PEERS[name]
            try:
                python = python_of(package, args.cache / name)
            except UnavailableError as error:
                unavailable[name] = str(error)
                continue
            peers[name] = Peer(python, Path(__file__).parent / "peers" / package.program, package.variables)
        speeds, more = in_turns(measures | peers, args.rounds, args.seconds)
        unavailable |= more
    finally:
        for running in peers.values():
            running.close()
        os.sched_setaffinity(0, mine)

    middle = {name: median(values) for name, values in speeds.items()}
    rows: list[list[Cell]] = [
        [f"{name}, {called[name]}" if name in called else name, f"{middle[name]:,.0f}", f"{min(values):,.0f} to {max(values):,.0f}"]
        + [middle[name] / middle[peer] if peer in middle else None for peer in (MINIWORLD, MEMORY_MAZE)]
        for name, values in speeds.items()
    ]
    print(table(["32 x 32, one core", "frames/s", "rounds", f"times {MINIWORLD}", f"times {MEMORY_MAZE}"], rows, digits=1))
    for name, reason in unavailable.items():
        print(f"{name} cannot run here: {reason}")
    times = {(what, peer): middle[what] / middle[peer] for what, peer in BARS if peer in middle}
    for (what, peer), ratio in times.items():
        bar = BARS[what, peer]
        print(f"{what}: {ratio:.1f} times {peer}'s; the bar is {bar}: {'held' if ratio >= bar else 'MISSED'}")
    print(f"a walk of {args.steps} frames is recalled in {recalled[VIEWS]:.2f} s, once")
    if args.json:
        bars = [{"what": what, "times": peer, "bar": BARS[what, peer], "is": ratio} for (what, peer), ratio in times.items()]
        figures = {"frames_a_second": speeds, "median": middle, "unavailable": unavailable, "bars": bars}
        write_json(args.json, figures | {"recall_seconds": recalled, "models": called, "rows": args.rows, "steps": args.steps}, args.seed)


if __name__ == "__main__":
    main()
