"""Train a Stable-Baselines3 agent in the dream alone, and use it in the world.

    python agents/train_sb3.py [--algorithm ppo] [--walks 8] [--images FOLDER] [--plot FILE] [--json FILE]

A few worlds are explored, 255 steps each, 149 in the labyrinth; these are all the real steps that the agent ever costs. It is trained in
the dream of these worlds, then judged in worlds that neither it nor the model has seen: from where a walk there ended to a goal frame,
beside what the dream says of the same episodes. It observes where it believes to be, where it remembers to have seen the goal, and how far
it is from anything remembered; in first person it looks at the goal from there. Beside it the same agent with the same observations is
trained in the world itself: with as many real steps, and with 20 times as many, walks counted. Needs the extras sb3 and train, and plot
for the learning curves.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from math import gcd
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

import gtmsm_env  # noqa: F401  registers the worlds
from gtmsm_env.__main__ import integer, status_of
from gtmsm_env.belief import VectorBeliefWrapper
from gtmsm_env.data import walk
from gtmsm_env.dream import DreamVectorEnv
from gtmsm_env.metrics import bootstrap, success_by_path_length, wilson
from gtmsm_env.model import GTMSM
from gtmsm_env.report import check_writable, table, write_json
from gtmsm_env.sb3 import DreamVecEnv, GoalFromHere
from gtmsm_env.worlds import keep_places, shipped_for, walk_steps_for

ROWS = 256  # dreams dreamed at once
JUDGED = 200  # worlds a point is measured in
TIMES = 20  # as many real steps for the agent that learns in the world


Policy = Callable[[Any], NDArray[np.int64]]


def policy(agent: BaseAlgorithm) -> Policy:
    """What the agent learned: PPO to draw its actions (the likeliest alone hold an unfinished agent in a loop), DQN to take the best."""
    return lambda observation: agent.predict(observation, deterministic=isinstance(agent, DQN))[0]


@dataclass
class Trial:
    """How an agent fared in N episodes, in the world and in the dream of it: the same starts and goals."""

    success: NDArray[np.bool_]  # (N,)
    spl: NDArray[np.float64]  # (N,)
    believed_success: NDArray[np.bool_]
    believed_spl: NDArray[np.float64]

    def figures(self) -> dict[str, Any]:
        return {
            "success": self.success.mean(),
            "success_95": wilson(int(self.success.sum()), len(self.success)),
            "spl": self.spl.mean(),
            "spl_95": bootstrap(self.spl),
            "believed_success": self.believed_success.mean(),
            "believed_spl": self.believed_spl.mean(),
        }


class Judge:
    """Episodes in unseen worlds, walked and remembered, and in the dream of the same walks, towards the same goals."""

    def __init__(self, world: str, model: GTMSM, worlds: int, walk_steps: int, kwargs: dict[str, Any], seed: int) -> None:
        self.world = believed_world(world, model, worlds, walk_steps, kwargs, "NextStep")
        truth: Any = self.world.unwrapped
        self.dream = DreamVectorEnv(
            worlds,
            world=world,
            world_kwargs=kwargs,
            model=model,
            walk_steps=walk_steps,
            episodes_per_walk=None,
            horizon=truth.horizon,
            observation="state",
        )
        here, info = self.world.reset(seed=seed)
        there, _ = self.dream.reset(seed=seed)  # the same seed walks the same walks
        if not np.allclose(here["state"], there["state"], atol=1e-3):
            raise RuntimeError("the dream begins where the world does, or they cannot be compared")
        self.goals = info["goal_pose" if "goal_pose" in info else "goal_position"]
        self.shortest = truth.steps_to_goal()  # for the figures only

    def __call__(self, act: Policy) -> Trial:
        here, _ = self.world.reset(options={"goal": self.goals})
        there, _ = self.dream.reset(options={"goal": here["goal_state"]})
        success, taken = fare(self.world, act, here)
        believed, imagined = fare(self.dream, act, there)
        spl, believed_spl = (success_by_path_length(*of) for of in ((success, self.shortest, taken), (believed, self.shortest, imagined)))
        return Trial(success, spl, believed, believed_spl)


def fare(env: VectorEnv[Any, Any, Any], act: Policy, observation: Any) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """One episode a row: whether it arrived (N,), after how many steps (N,)."""
    success, over = np.zeros((2, env.num_envs), np.bool_)
    taken = np.zeros(env.num_envs, np.int64)
    while not over.all():
        observation, _, terminated, truncated, _ = env.step(act(observation))
        taken += ~over
        success |= terminated & ~over
        over |= terminated | truncated
    return success, taken


# ---------------------------------------------------------------- where it is trained


def believed_world(
    world: str, model: GTMSM, rows: int, walk_steps: int, kwargs: dict[str, Any], autoreset_mode: str
) -> VectorBeliefWrapper:
    """Worlds observed as their dreams are, each explored once."""
    worlds = gym.make_vec(world, num_envs=rows, autoreset_mode="Disabled", **kwargs)
    return VectorBeliefWrapper(
        worlds, model, walk_steps=walk_steps, episodes_per_walk=None, observation="state", autoreset_mode=autoreset_mode
    )


def dream_of_walks(world: str, model: GTMSM, walks: int, walk_steps: int, kwargs: dict[str, Any], seed: int) -> DreamVectorEnv:
    """Many rows that dream of a few walks, from wherever these have been."""
    worlds = gym.make_vec(world, num_envs=walks, **kwargs)
    belief = keep_places(model, walk(worlds, model, walk_steps, np.random.default_rng(seed), seed))  # recalled once, not once a row
    worlds.close()
    return DreamVectorEnv(
        ROWS,
        world=world,
        world_kwargs=kwargs,
        model=model,
        belief=belief[torch.arange(ROWS) % walks],
        start="remembered",
        horizon=64,
        observation="state",
        autoreset_mode="SameStep",
    )


class Curve(BaseCallback):
    """Judges the agent on its way, each time after twice as many steps as before, and moves a progress bar."""

    def __init__(self, judge: Judge, steps: int, points: int, bar: Any) -> None:
        super().__init__()
        self.judge, self.bar = judge, bar
        self.at = [steps >> halvings for halvings in reversed(range(points))]
        self.points: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        self.bar.update(self.num_timesteps - self.bar.n)
        if self.at and self.num_timesteps >= self.at[0]:
            self.at.pop(0)
            self.points.append({"steps": self.num_timesteps, **self.judge(policy(self.model)).figures()})
        return True


def learn(
    algorithm: str, env: DreamVecEnv, steps: int, judge: Judge, points: int, seed: int, name: str
) -> tuple[BaseAlgorithm, list[dict[str, Any]]]:
    """At most `steps` steps of training, and the learning curve."""
    assert isinstance(env.observation_space, gym.spaces.Dict)
    first_person = env.observation_space["state"].shape == (4,)
    settings: dict[str, Any] = {
        "gamma": 0.95,
        "learning_rate": 1e-3,
        "policy_kwargs": {"net_arch": [64, 64], **({"features_extractor_class": GoalFromHere} if first_person else {})},
        "seed": seed,
        "device": "cpu",
    }
    agent: BaseAlgorithm
    if algorithm == "ppo":
        rollouts = max(1, steps // max(256, 16 * env.num_envs))
        n_steps = max(2, steps // (rollouts * env.num_envs))
        rollout = n_steps * env.num_envs
        steps = rollouts * rollout  # PPO ends with a whole one
        agent = PPO("MultiInputPolicy", env, n_steps=n_steps, batch_size=rollout // gcd(rollout, 4), n_epochs=4, ent_coef=0.01, **settings)
    else:
        steps = max(1, steps // env.num_envs) * env.num_envs
        settings |= {"learning_starts": min(4 * env.num_envs, steps // 10), "exploration_fraction": 0.3, "target_update_interval": 2000}
        agent = DQN("MultiInputPolicy", env, batch_size=256, train_freq=1, gradient_steps=4, **settings)
    with tqdm(total=steps, desc=f"{name:32}", unit=" steps") as bar:
        curve = Curve(judge, steps, points, bar)
        agent.learn(steps, callback=curve)
    return agent, curve.points


# ---------------------------------------------------------------- the command


def parser() -> argparse.ArgumentParser:
    program = argparse.ArgumentParser(
        description="Train a Stable-Baselines3 agent in the dream alone, and use it in the world.",
        epilog="example: python agents/train_sb3.py --algorithm dqn --walks 16 --json runs/dqn.json",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    program.add_argument("--algorithm", choices=["ppo", "dqn"], default="ppo", help="of Stable-Baselines3")
    own: dict[str, Any] = {"default": argparse.SUPPRESS, "metavar": "N"}
    program.add_argument("--walks", type=integer(1), default=8, metavar="N", help="worlds explored to be dreamed of")
    program.add_argument("--walk-steps", type=integer(1), **own, help="frames of an exploring walk (default: 256, in the labyrinth 150)")
    program.add_argument("--dream-steps", type=integer(1), default=200_000, metavar="N", help="steps of training in the dream")
    program.add_argument("--world", default="GTMSM-ImageNavigation-v0", metavar="ID", help="must be the world the model was trained for")
    program.add_argument("--model", metavar="NAME", default=argparse.SUPPRESS, help="a shipped model, or a path (default: the world's)")
    program.add_argument("--images", metavar="SOURCE", help="a folder or zip of images, CelebA or any, in place of procedural ones")
    program.add_argument("--worlds", type=integer(1), default=500, metavar="N", help="unseen worlds in which agents are judged at the end")
    program.add_argument("--points", type=integer(1), default=8, metavar="N", help="points of the learning curves")
    program.add_argument("--seed", type=integer(0), default=0, metavar="N", help="of every random draw")
    program.add_argument("--plot", type=Path, default=Path("runs/train_sb3.png"), metavar="FILE", help="where the learning curves go")
    program.add_argument("--json", type=Path, metavar="FILE", help="write figures and curves here too, with seeds and versions")
    return program


def draw(file: Path, figures: dict[str, Any]) -> None:
    """The learning curves, by real steps and by steps of training; of SPL, as a random walk succeeds often, but late."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from gtmsm_env.plots import BLUE, GREEN, ORANGE, STYLE, save

    with rc_context(STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for (name, of), colour in zip(figures.items(), (GREEN, ORANGE, BLUE), strict=False):
            for axes, steps in zip(panels, ("real_steps", "steps"), strict=True):
                x, y = ([point[key] for point in of["curve"]] for key in (steps, "spl"))
                axes.plot(x, y, color=colour, label=f"trained {name}", marker="o", markersize=4)
        panels[0].set(xscale="log", xlabel="real steps paid, walks included", ylabel="SPL in unseen worlds", ylim=(-0.03, 1.03))
        panels[1].set(xscale="log", xlabel="steps of training, imagined or real")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        save(figure, file)


def printed(name: str, of: dict[str, Any]) -> list[str]:
    """A row of the table."""
    success, believed = f"{100 * of['success']:.1f}", f"{100 * of['believed_success']:.1f}"
    intervals = ["{:.1f} to {:.1f}".format(*(100 * end for end in of["success_95"])), "{:.3f} to {:.3f}".format(*of["spl_95"])]
    spl = f"{of['spl']:.3f}"
    return [name, f"{of['real_steps']}", f"{of['steps']}", success, intervals[0], spl, intervals[1], believed, f"{of['believed_spl']:.3f}"]


def main() -> None:
    args = parser().parse_args()
    check_writable(args.json)
    check_writable(args.plot)
    torch.set_num_threads(1)  # the networks are small
    args.model = getattr(args, "model", None) or shipped_for(args.world)
    args.walk_steps = getattr(args, "walk_steps", walk_steps_for(args.world))
    model = GTMSM.load(args.model)
    pictures = {"images": args.images} if args.images else {}
    train, test = ({"split": split, **pictures} for split in ("train", "test"))
    often = Judge(args.world, model, min(args.worlds, JUDGED), args.walk_steps, test, args.seed + 10_000)
    last = Judge(args.world, model, args.worlds, args.walk_steps, test, args.seed)
    a_walk = args.walk_steps - 1

    figures: dict[str, Any] = {}
    for times in (0, 1, TIMES):
        if times == 0:
            name, rows, steps = "in the dream", args.walks, args.dream_steps
            envs: VectorEnv[Any, Any, Any] = dream_of_walks(args.world, model, rows, args.walk_steps, train, args.seed)
        else:
            name, rows = f"in the world, {times} x", max(1, min(16, times * args.walks // 4))  # a quarter of the steps for walks, or less
            steps = (times * args.walks - rows) * a_walk
            envs = believed_world(args.world, model, rows, args.walk_steps, train, "SameStep")
        env = DreamVecEnv(envs)
        env.seed(args.seed)
        agent, curve = learn(args.algorithm, env, steps, often, args.points, args.seed, f"trained {name}")
        env.close()
        for point in curve:
            point["real_steps"] = rows * a_walk + (point["steps"] if times else 0)
        figures[name] = {
            "real_steps": curve[-1]["real_steps"],
            "steps": curve[-1]["steps"],
            **last(policy(agent)).figures(),
            "curve": curve,
        }

    generator = np.random.default_rng(args.seed)
    walker = last(lambda observation: generator.integers(model.num_actions, size=args.worlds))
    figures["not at all: a random walk"] = {"real_steps": 0, "steps": 0, **walker.figures(), "curve": []}
    columns = ["trained", "real steps", "trained on", "success %", "95 % interval", "SPL", "95 % interval", "believed %", "believed SPL"]
    print(table(columns, [printed(name, of) for name, of in figures.items()], f"\n{args.algorithm}, judged in {args.worlds} unseen worlds"))
    if find_spec("matplotlib") is None:
        print("no learning curves are drawn without matplotlib: pip install 'gtmsm-env[plot]'")
    else:
        draw(args.plot, figures)
        print(f"learning curves: {args.plot}")
    if args.json:
        keys = ("algorithm", "world", "model", "images", "walks", "walk_steps", "dream_steps", "worlds")
        write_json(args.json, {key: getattr(args, key) for key in keys} | {"trained": figures}, args.seed)


if __name__ == "__main__":
    sys.exit(status_of(main))
