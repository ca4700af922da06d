"""Explore unseen worlds, be shown goal frames, plan in the dream, walk in the world.

    python agents/plan_mpc.py [--planner cem] [--worlds 500] [--images FOLDER] [--video FILE] [--json FILE]

In each world the agent explores for 256 steps, 150 in the labyrinth, and remembers what it saw where. Then it is shown the frame of a
place it has been, asks the memory where that was, and goes there: at every step it imagines some hundreds of walks from where it believes
to be, takes the first step of the best, and moves its belief by that action and what it then sees. An obstacle met on the way is
remembered and planned around. True places are used for the figures only. Beside it, in the same worlds with the same goals: an agent that
looks one step ahead, a random walk, and the true shortest path. Needs the extras train and video.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import VectorEnv, VectorWrapper
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

import gtmsm_env  # noqa: F401  registers the worlds
from gtmsm_env.__main__ import integer, status_of
from gtmsm_env.belief import track
from gtmsm_env.data import walk
from gtmsm_env.drawing import GOAL, PANEL, TEXT, Picture, enlarge, map_of_places, side_by_side
from gtmsm_env.memory import SpatialMemory
from gtmsm_env.metrics import bootstrap, success_by_path_length, wilson
from gtmsm_env.model import GTMSM
from gtmsm_env.planning import METHODS, Objective, Plan, Planner, goal_states, greedy, reach
from gtmsm_env.report import check_writable, table, write_json
from gtmsm_env.types import WITHIN, Belief
from gtmsm_env.video import missing, write_video
from gtmsm_env.worlds import check_world, keep_places, shipped_for, tolerance, walk_steps_for

Agent = Callable[[Belief, Objective, torch.Generator, Plan | None], Plan]

ROWS = 50  # worlds walked at once
ALONE = 10  # worlds walked one at a time, for the planner's time


@dataclass
class Episodes:
    """How an agent fared in N worlds, and for one world alone what it believed on its way."""

    success: NDArray[np.bool_]  # (N,)
    taken: NDArray[np.int64]  # (N,) steps
    shortest: NDArray[np.int64]  # (N,) of the true shortest path
    seconds: list[float]  # of each decision
    walked: SpatialMemory  # (N, walk_steps) entries, one a step
    believed: list[tuple[Belief, Tensor, Plan | None]]  # belief, goals and the plan made there, at each step of a world that is alone


def play(world: VectorEnv[Any, Any, Any], model: GTMSM, agent: Agent, walk_steps: int, seed: int) -> Episodes:
    """Explore one new world a row, then walk to the goal shown there."""
    draws = torch.Generator().manual_seed(seed)
    belief = walk(world, model, walk_steps, np.random.default_rng(seed), seed)
    walked = belief.memory
    observation, _ = world.reset(options={"phase": "task", "world": "same"})
    truth: Any = world.unwrapped
    shortest = truth.steps_to_goal()  # for the figures only
    belief = keep_places(model, belief)
    goals = goal_states(model, torch.from_numpy(observation["goal"]), belief.memory)  # (N, G, n)

    there, step, turn = tolerance(model, world), model.step_length, model.turn_length

    going = np.arange(world.num_envs)  # rows that have not arrived
    result = Episodes(np.zeros(len(going), np.bool_), np.zeros(len(going), np.int64), shortest, [], walked, [])
    plan: Plan | None = None
    while len(going):
        began = perf_counter()
        plan = agent(belief, reach(goals, step, there, turn), draws, plan)
        result.seconds.append(perf_counter() - began)
        result.believed += [(belief, goals, plan)] if world.num_envs == 1 else []
        action = plan.actions[:, 0]
        actions = np.zeros(world.num_envs, np.int64)  # rows that have arrived begin worlds of their own, which nobody looks at
        actions[going] = action
        observation, reward, terminated, truncated, _ = world.step(actions)
        frame, received, over = (torch.from_numpy(x[going]) for x in (observation["frame"], reward.astype(np.float32), terminated))
        belief, _ = track(model, belief, action, frame, received, over, where=torch.ones_like(over))
        result.taken[going] += 1
        result.success[going] = terminated[going]
        on = torch.from_numpy(~(terminated | truncated)[going])
        if world.num_envs == 1 and not on:
            result.believed.append((belief, goals, None))
        belief, goals, plan, going = belief[on], goals[on], plan[on], going[on.numpy()]
    return result


# ---------------------------------------------------------------- the video


class Filmed(VectorWrapper[Any, Any, Any, Any, Any]):
    """Keeps a picture of the first row at every reset and step."""

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        self.pictures: list[Picture] = []

    def reset(self, **kwargs: Any) -> Any:
        return self.told(super().reset(**kwargs))

    def step(self, actions: Any) -> Any:
        return self.told(super().step(actions))

    def told(self, told: Any) -> Any:
        drawn: Any = self.env.render()
        self.pictures.append(drawn[0])
        return told


def film(make: Callable[..., VectorEnv[Any, Any, Any]], model: GTMSM, planner: Planner, walk_steps: int, seed: int) -> Iterator[Picture]:
    """World, dream and map side by side: first the exploring walk in time lapse, then every decision until the goal is reached."""
    with closing(Filmed(make(1, render_mode="rgb_array"))) as world:
        episode, pictures = play(world, model, planner.plan, walk_steps, seed), world.pictures
    states, count = episode.walked.s_mean[0], len(episode.walked)
    remembered, size = model.recall(episode.walked), len(pictures[0])
    for t in [*range(0, count, 6), count - 1]:
        seen = enlarge(model.decode(states[None, t : t + 1], remembered)[0, 0].numpy(), size // model.frame_shape[0])
        known = SpatialMemory(states[: t + 1], states[: t + 1], {}).distinct(WITHIN * model.step_length)
        world_map = map_of_places(known, states[: t + 1], None, size, axes=model.axes)
        panels = [pictures[t], seen, world_map]
        yield side_by_side(panels, [f"the world: exploring, step {t + 1} of {count}", "what it sees and remembers", "the map it infers"])
    path: list[Tensor] = []
    for picture, (belief, goals, plan) in zip(pictures[count:], episode.believed, strict=True):
        path.append(belief.mean[0])
        memory = model.recall(belief.memory)
        goal = goals[0, (goals[0] - belief.mean).norm(dim=-1).argmin()]
        ahead = None if plan is None else plan.states[0, : max(1, round(-float(plan.returns)))]  # (L, n), until it arrives
        asked = torch.stack([path[-1], goal, *([] if ahead is None else ahead)])
        dream = dream_panel(size, *model.decode(asked[None], memory)[0].numpy())
        stones = model.obstacle_states(memory[torch.tensor(0)])
        world_map = map_of_places(memory, path, goal, size, plan=ahead, obstacles=stones, axes=model.axes)
        labels = [f"the world: {'arrived' if plan is None else 'on its way'}", "the dream", "places remembered, path believed, plan, goal"]
        scene = side_by_side([picture, dream, world_map], labels)
        yield from [scene] * (14 if len(path) == 1 or plan is None else 4)


def dream_panel(size: int, now: Picture, goal: Picture, *ahead: Picture) -> Picture:
    """What the model imagines to see now, the goal as it remembers it, and the next frames along its plan."""
    from PIL import Image, ImageDraw, ImageFont

    unit = size // 64
    image = Image.new("RGB", (size, size), PANEL)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(2.2 * unit)

    def show(frame: Picture, left: float, top: float, side: int) -> None:
        image.paste(
            Image.fromarray(frame).resize((side * unit, side * unit), Image.Resampling.NEAREST), (int(left * unit), int(top * unit))
        )

    show(now, 0, 0, 48)
    draw.text((56.5 * unit, 2.5 * unit), "goal", fill=GOAL, font=font, anchor="mm")
    draw.rectangle([49.5 * unit - 3, 5 * unit - 3, 63.5 * unit + 2, 19 * unit + 2], outline=GOAL, width=3)
    show(goal, 49.5, 5, 14)
    steps = f"{len(ahead)} step{'s' if len(ahead) > 1 else ''}"
    draw.text((0.5 * unit, 50.5 * unit), f"along its plan: {steps} to go" if ahead else "it is there", fill=TEXT, font=font, anchor="lm")
    for k, frame in enumerate(ahead[:6]):
        show(frame, 10.8 * k, 53, 10)
    return np.asarray(image).copy()


# ---------------------------------------------------------------- the command


def parser() -> argparse.ArgumentParser:
    program = argparse.ArgumentParser(
        description="Explore unseen worlds, be shown goal frames, plan in the dream, and walk in the world.",
        epilog="""example: python agents/plan_mpc.py --planner mppi --images ~/photographs --world-kwargs '{"split": "all"}'""",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    program.add_argument("--planner", choices=list(METHODS), default="cem", help="cross-entropy method, MPPI, or random shooting")
    own: dict[str, Any] = {"default": argparse.SUPPRESS, "metavar": "N"}
    program.add_argument("--horizon", type=integer(1), **own, help="steps of a plan (default: 16, in first person 24)")
    program.add_argument("--candidates", type=integer(1), default=192, metavar="C", help="plans imagined in one round")
    program.add_argument("--iterations", type=integer(1), default=3, metavar="I", help="rounds of a decision")
    program.add_argument("--model", metavar="NAME", default=argparse.SUPPRESS, help="a shipped model, or a path (default: the world's)")
    program.add_argument("--world", default="GTMSM-ImageNavigation-v0", metavar="ID", help="must be the world the model was trained for")
    program.add_argument("--world-kwargs", type=json_object, default={}, metavar="JSON", help="arguments of the world")
    program.add_argument("--images", metavar="SOURCE", help="a folder or zip of images, CelebA or any, in place of procedural ones")
    program.add_argument("--worlds", type=integer(1), default=500, metavar="N", help="how many worlds are explored, by each agent")
    program.add_argument("--walk-steps", type=integer(1), **own, help="frames of the exploring walk (default: 256, in the labyrinth 150)")
    program.add_argument("--seed", type=integer(0), default=0, metavar="N", help="of every random draw")
    program.add_argument("--video", default="runs/plan_mpc.mp4", metavar="FILE", help="where the video goes; 'none' draws none")
    program.add_argument("--filmed", type=integer(1), default=4, metavar="N", help="worlds shown in the video")
    program.add_argument("--json", type=Path, metavar="FILE", help="write the printed figures here too, with seeds and versions")
    return program


def json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"""a JSON object holds arguments by name, as '{{"split": "all"}}' does; got {text}""")
    return value


def summary(episodes: list[Episodes], walk_steps: int) -> dict[str, Any]:
    """The figures of one agent over all worlds."""
    success, taken, shortest = (np.concatenate([getattr(part, name) for part in episodes]) for name in ("success", "taken", "shortest"))
    spl = success_by_path_length(success, shortest, taken)
    return {
        "success": success.mean(),
        "success_95": wilson(int(success.sum()), len(success)),
        "spl": spl.mean(),
        "spl_95": bootstrap(spl),
        "steps": taken.mean(),
        "shortest": shortest.mean(),
        "real_steps": walk_steps - 1 + taken.mean(),
        "ms_in_a_batch": 1e3 * sum(sum(part.seconds) for part in episodes) / taken.sum(),
    }


def printed(name: str, of: dict[str, Any]) -> list[str]:
    """A row of the table."""
    success = [f"{100 * rate:.1f}" for rate in (of["success"], *of["success_95"])]
    spl = [f"{value:.3f}" for value in (of["spl"], *of["spl_95"])]
    return [name, success[0], " to ".join(success[1:]), spl[0], " to ".join(spl[1:]), f"{of['steps']:.1f}", f"{of['real_steps']:.0f}"]


def main() -> None:
    args = parser().parse_args()
    video = None if args.video == "none" else Path(args.video)
    if video and (lacking := missing()):
        print(lacking)
        video = None
    check_writable(args.json)
    check_writable(video)
    torch.set_num_threads(1)  # the tensors are small
    args.model = getattr(args, "model", None) or shipped_for(args.world)
    model = GTMSM.load(args.model)
    args.walk_steps = getattr(args, "walk_steps", walk_steps_for(args.world))
    args.horizon = getattr(args, "horizon", 24 if model.transition.W_a.shape[0] == 3 else 16)
    kwargs = args.world_kwargs | ({"images": args.images} if args.images else {})

    def make(rows: int, **more: Any) -> VectorEnv[Any, Any, Any]:
        world = gym.make_vec(args.world, num_envs=rows, **kwargs, **more)
        check_world(model, args.world, kwargs, world.single_observation_space, world.single_action_space)
        return world

    planner = Planner(model, METHODS[args.planner], horizon=args.horizon, candidates=args.candidates, iterations=args.iterations)
    blind = Planner(model, None, horizon=1, candidates=1, iterations=1)  # takes the best of one
    agents: dict[str, Agent] = {
        f"{args.planner} in the dream": planner.plan,
        "one step ahead": lambda belief, objective, draws, previous: greedy(model, belief, objective),
        "random walk": lambda belief, objective, draws, previous: blind.plan(belief, objective, draws),
    }
    figures: dict[str, Any] = {}
    for name, agent in agents.items():
        episodes = []
        with tqdm(total=args.worlds, desc=f"{name:20}", unit=" worlds") as bar:
            for first in range(0, args.worlds, ROWS):
                with closing(make(min(ROWS, args.worlds - first))) as world:
                    episodes.append(play(world, model, agent, args.walk_steps, args.seed + first))
                bar.update(world.num_envs)
        figures[name] = summary(episodes, args.walk_steps)

    seconds: list[float] = []
    for number in range(ALONE):
        with closing(make(1)) as world:
            seconds += play(world, model, planner.plan, args.walk_steps, args.seed + number).seconds
    planned = figures[next(iter(agents))]
    planned["ms_alone"] = 1e3 * float(np.median(seconds))

    columns = ["agent", "success %", "95 % interval", "SPL", "95 % interval", "steps", "real steps paid"]
    rows = [printed(name, of) for name, of in figures.items()]
    rows.append(["true shortest path", "100.0", "", "1.000", "", f"{planned['shortest']:.1f}", ""])
    print(table(columns, rows, f"\n{args.worlds} unseen worlds, {args.walk_steps - 1} exploring steps in each"))
    alone, together = planned["ms_alone"], planned["ms_in_a_batch"]
    print(
        f"planning, on one thread: {alone:.1f} ms a decision for one world alone, {together:.1f} ms in a batch of {min(ROWS, args.worlds)}"
    )
    if video:
        bar = tqdm(range(args.filmed), desc=f"{'video':20}", unit=" worlds")
        write_video(video, (scene for number in bar for scene in film(make, model, planner, args.walk_steps, args.seed + number)), fps=12)
        print(f"video: {video}")
    if args.json:
        keys = ("model", "world", "worlds", "walk_steps", "planner", "horizon", "candidates", "iterations")
        write_json(args.json, {key: getattr(args, key) for key in keys} | {"world_kwargs": kwargs, "agents": figures}, args.seed)


if __name__ == "__main__":
    sys.exit(status_of(main))
