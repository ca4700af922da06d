"""Environment steps a second of a world, beside Gymnasium's SyncVectorEnv of the same scalar world.

    python benchmarks/world_speed.py [--world ID] [--rows 1 64 1024] [--seconds 2] [--json FILE]

Random actions. "free": task=None and no horizon, so nothing ever ends. "walk": the walk phase of the goal task. "task": the goal task
as made by default, with next-step autoreset, each new world painted or taken from the source's cache. Each figure is the best of three.
GTMSM-VizDoom-v0 has no batch of its own but Gymnasium's, in either column; take few --rows, as each is a process.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorEnv

import gtmsm_env  # noqa: F401  registers the world
from gtmsm_env.envs.procedural import paint
from gtmsm_env.report import check_writable, table, write_json

MODES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # arguments of the world, options of its reset
    "free": ({"task": None, "horizon": None}, {}),
    "walk": ({}, {"phase": "walk"}),
    "task": ({}, {}),
}


def steps_a_second(envs: VectorEnv[Any, Any, Any], options: dict[str, Any], seconds: float, seed: int) -> float:
    """Environment steps a second over about `seconds`, the best of three."""
    actions = np.random.default_rng(seed).integers(envs.single_action_space.n, size=(97, envs.num_envs))  # type: ignore[attr-defined]
    best = 0.0
    for _ in range(3):
        envs.reset(seed=seed, options=dict(options))
        steps, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds / 3:
            for action in actions:
                envs.step(action)
            steps += len(actions)
        best = max(best, steps * envs.num_envs / spent)
    return best


def pictures_a_second(count: int) -> float:
    """Procedural 32 x 32 pictures painted in a second of one core's time, the best of three."""
    best = 0.0
    for _ in range(3):
        start = time.process_time()
        paint("train", range(count), 32)
        best = max(best, count / (time.process_time() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="GTMSM-ImageNavigation-v0", metavar="ID", help="GTMSM-Labyrinth-v0, for example")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 64, 1024], help="numbers of environments")
    parser.add_argument("--seconds", type=float, default=2, help="time for each figure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    check_writable(file=arguments.json)
    figures = []
    for rows in arguments.rows:
        for mode, (kwargs, options) in MODES.items():
            batched = steps_a_second(gym.make_vec(arguments.world, num_envs=rows, **kwargs), options, arguments.seconds, arguments.seed)
            scalar = SyncVectorEnv([lambda kwargs=kwargs: gym.make(arguments.world, **kwargs).unwrapped] * rows)  # type: ignore[misc]
            one_by_one = steps_a_second(scalar, options, arguments.seconds, arguments.seed)
            figures.append({"rows": rows, "mode": mode, "batched": batched, "SyncVectorEnv": one_by_one, "ratio": batched / one_by_one})
    print(
        table(
            ["mode", "rows", "batched", "SyncVectorEnv", "ratio"],
            [[f["mode"], f["rows"], f"{f['batched']:,.0f}", f"{f['SyncVectorEnv']:,.0f}", f["ratio"]] for f in figures],
            f"environment steps a second of {arguments.world}",
        )
    )
    painted = pictures_a_second(500)
    print(f"{painted:,.0f} procedural pictures of 32 x 32 pixels a second of one core")
    if arguments.json:
        write_json(arguments.json, {"world": arguments.world, "pictures_a_second": painted, "env_steps_a_second": figures}, arguments.seed)


if __name__ == "__main__":
    main()
