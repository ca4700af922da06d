"""Steps a second of the dream through each of its doors, beside a raw torch loop over the same networks and other packages' dreams.

    python benchmarks/dream_speed.py [doors] [--models NAME ...] [--rows 1 64 1024 16384] [--peers NAME ...] [--device cpu] [--json FILE]
    python benchmarks/dream_speed.py resets      # what rows that begin again, and worlds that are walked, cost a step
    python benchmarks/dream_speed.py sb3         # PPO's whole `learn`, 256 rows, beside the same over 8 dreams under DummyVecEnv
    python benchmarks/dream_speed.py flat --steps 10000000      # resident memory over so many steps

"doors": random actions in remembered walks of 256 frames, episodes of 128 steps and less beginning again in them. The limit of states is
a loop of the transition alone; that of frames adds the nearest entries of all 256 (brute force) and the decoder. Everything takes turns in
short rounds on one thread and counts the processor time it takes (with --device cuda, the clock's): medians, and the middle half.

Of other packages torchrl comes with the extra `bench`; mbrl-lib and simulusion are installed from PyPI into environments of their own, in
--cache, the first time. Their networks are of the sizes of ours for image navigation, and they step states and a goal, no novelty.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from first_person_speed import Installed, Measure, Peer, UnavailableError, in_turns, python_of
from torch import Tensor

from gtmsm_env.data import walk
from gtmsm_env.dream import DreamEnv, DreamVectorEnv
from gtmsm_env.model import GTMSM
from gtmsm_env.networks import x_to_frames
from gtmsm_env.report import Cell, check_writable, table, write_json
from gtmsm_env.types import Belief, phi

WALKS, STEPS = 64, 256  # remembered walks, which rows share, and their frames
SCALAR, VECTOR, SB3, TENSORS, RAW = "scalar Env", "Gymnasium vector", "SB3 VecEnv", "tensors", "raw torch loop"
TORCHRL, MBRL, SIMULUSION = "torchrl", "mbrl-lib", "simulusion"
ROOM = 16e9  # bytes of remembered views that frames are measured with at most
SHARE = {TENSORS: 0.7, VECTOR: 0.5}  # of the raw loop, at least, by states at 1024 rows


class Other(NamedTuple):
    """Another package: how it is installed (None: beside us, by the extra `bench`), its program, and what of it can be asked."""

    installed: Installed | None
    program: str
    rows: tuple[int, ...]
    frames: bool


TORCH = "torch==2.13.0"
MBRL_NEEDS = ("matplotlib==3.11.2", "tensorboard==2.21.0", "imageio==2.38.1", "sk-video==1.1.10", "termcolor==3.3.0", "tqdm==4.70.1")
OTHERS = {
    TORCHRL: Other(None, "run_torchrl.py", (1, 64, 1024, 16384), False),
    MBRL: Other(
        # Its own pins of hydra and omegaconf break on Python 3.11, where newer ones serve.
        Installed(
            (TORCH, "hydra-core==1.3.2", "omegaconf==2.3.1", "gymnasium==0.26.3", "numpy==1.26.4", *MBRL_NEEDS),
            {},
            "run_mbrl.py",
            alone=("mbrl==0.2.0",),
        ),
        "run_mbrl.py",
        (1, 64, 1024, 16384),
        False,
    ),
    SIMULUSION: Other(
        Installed(("simulusion==1.1.0", "gymnasium==1.4.0", "stable-baselines3==2.9.2", TORCH), {}, "run_simulusion.py"),
        "run_simulusion.py",
        (1, 64),
        True,
    ),
}
ON_GPU = {  # steps a second through tensors, at least: by model, and whether frames are shown, at how many rows or more
    ("image-navigation", False): (65536, 200e6),
    ("labyrinth-paper", True): (1, 500e3),
    ("labyrinth", True): (1, 50e3),
}
BARS = [  # ours, by states or frames, at so many rows: at least so many times theirs
    (TORCHRL, False, 1, 5),
    (TORCHRL, False, 1024, 3),
    (SIMULUSION, False, 64, 200),
    (SIMULUSION, True, 64, 30),
]


# ---------------------------------------------------------------- what is measured


def steps_a_second(step: Callable[[int], object], rows: int, device: str) -> Measure:
    """Of a step that is told how many came before it."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    count = 0

    def wait() -> None:
        if device != "cpu":
            torch.cuda.synchronize()

    def measure(seconds: float) -> float:
        nonlocal count
        wait()
        begun, start = count, clock()
        while (spent := clock() - start) < seconds:
            for _ in range(4):
                step(count)
                count += 1
            wait()
        return (count - begun) * rows / spent

    return measure


def remembered(model: GTMSM, seed: int) -> Belief:
    """Walks in worlds of the model's; in first person what they imply, once for all rows that share one."""
    assert model.world is not None
    worlds = gym.make_vec(model.world["id"], num_envs=WALKS, **model.world["kwargs"])
    try:
        belief = walk(worlds, model, STEPS, np.random.default_rng(seed), seed)
        return belief if model.projected is None else replace(belief, memory=model.places(belief.memory))
    finally:
        worlds.close()


def of_rows(belief: Belief, rows: int) -> Belief:
    """The walks one after another, for so many rows."""
    return belief[torch.arange(rows, device=belief.mean.device) % len(belief.mean)]


def raw_loop(model: GTMSM, belief: Belief, actions: Tensor, frames: bool) -> Callable[[int], object]:
    """The transition, and for frames all entries compared, and the nearest's decoded: less takes who decodes what is remembered once."""
    s, u = belief.mean, belief.displacement
    keys, z = phi(belief.memory.s_mean), belief.memory.values["z_mean"]
    row = torch.arange(len(s), device=s.device)

    @torch.no_grad()
    def step(count: int) -> object:
        nonlocal s, u
        s, u = model.transition(s, u, actions[count % len(actions)])
        if not frames:
            return s
        index = (phi(s)[:, None] - keys).square().sum(dim=-1).topk(model.K, largest=False).indices
        return x_to_frames(model.decoder(z[row, index[:, 0]]))

    return step


def dream(rows: int, model: GTMSM, belief: Belief, shown: str, mode: str = "SameStep") -> DreamVectorEnv:
    return DreamVectorEnv(rows, **arguments(model), belief=belief, observation=shown, autoreset_mode=mode)  # type: ignore[arg-type]


def arguments(model: GTMSM) -> dict[str, Any]:
    assert model.world is not None
    return {"model": model, "world": model.world["id"], "world_kwargs": model.world["kwargs"], "start": "remembered"}


def doors(model: GTMSM, belief: Belief, rows: int, frames: bool, device: str, seed: int) -> dict[str, Measure]:
    """Our doors and the raw loop, begun."""
    from gtmsm_env.sb3 import DreamVecEnv

    shown = "frame" if frames else "state"
    belief = of_rows(belief, rows)
    actions = torch.randint(model.num_actions, (64, rows), generator=torch.Generator().manual_seed(seed))
    there, here = actions.to(device), actions.numpy()
    tensors, vector, sb3 = (dream(rows, model, belief, shown, mode) for mode in ("NextStep", "NextStep", "SameStep"))
    for envs in (tensors, vector):
        envs.reset(seed=seed)
    vec = DreamVecEnv(sb3)
    vec.seed(seed)
    vec.reset()
    steps: dict[str, Callable[[int], object]] = {
        RAW: raw_loop(model, belief, there, frames),
        TENSORS: lambda count: tensors.step_tensors(there[count % 64]),
        VECTOR: lambda count: vector.step(here[count % 64]),
        SB3: lambda count: vec.step(here[count % 64]),
    }
    if rows == 1:
        one = DreamEnv(**arguments(model), belief=belief, observation=shown)
        one.reset(seed=seed)

        def step(count: int) -> None:
            if any(one.step(int(here[count % 64, 0]))[2:4]):
                one.reset()

        steps[SCALAR] = step
    return {name: steps_a_second(step, rows, device) for name, step in steps.items()}


def others(names: Iterable[str], cache: Path, rows: int, frames: bool, stack: ExitStack) -> tuple[dict[str, Measure], dict[str, str]]:
    """The other packages that can be asked this, running; and of those that cannot run here, why."""
    found: dict[str, Measure] = {}
    unavailable: dict[str, str] = {}
    for name in names:
        other = OTHERS[name]
        if rows not in other.rows or (frames and not other.frames):
            continue
        try:
            python = python_of(other.installed, cache / name) if other.installed else Path(sys.executable)
        except UnavailableError as error:
            unavailable[name] = str(error)
            continue
        told = [str(rows), *(["frames"] if frames else [])]
        found[name] = running = Peer(python, Path(__file__).parent / "peers" / other.program, {"OMP_NUM_THREADS": "1"}, *told)
        stack.callback(running.close)
    return found, unavailable


# ---------------------------------------------------------------- the modes


def compare_doors(args: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = {"steps_a_second": [], "unavailable": {}}
    for name in args.models:
        model = GTMSM.load(name, args.device)
        belief = remembered(model, args.seed)
        for frames in (False, True):
            body: list[list[Cell]] = []
            for rows in args.rows:
                if frames and model.combined is None and model.views is None and 4 * rows * STEPS * np.prod(model.frame_shape) > ROOM:
                    print(f"{name}: frames at {rows} rows would remember more views than this benchmark has room for")
                    continue
                with ExitStack() as stack:
                    measures = doors(model, belief, rows, frames, args.device, args.seed)
                    beside, unavailable = others(args.peers if name == args.models[0] else [], args.cache, rows, frames, stack)
                    speeds, more = in_turns(measures | beside, args.rounds, args.seconds)
                figures["unavailable"] |= unavailable | more
                middle = {door: float(np.median(values)) for door, values in speeds.items()}
                for door, values in speeds.items():
                    low, high = np.quantile(values, [0.25, 0.75])
                    ratio = float(np.median(np.array(values) / speeds[RAW]))  # of pairs, round by round
                    body.append([door, rows, f"{middle[door]:,.0f}", f"{low:,.0f} to {high:,.0f}", ratio])
                    kept = {"model": name, "frames": frames, "rows": rows, "door": door, "rounds": values, "of_raw": ratio}
                    figures["steps_a_second"].append(kept)
                bars = held if args.device == "cpu" else held_on_gpu
                figures.setdefault("bars", []).extend(bars(name, frames, rows, speeds))
            title = f"{name}, {'frames' if frames else 'states only'}, {args.device}: steps a second"
            print(table(["door", "rows", "median", "middle half", "of the raw loop"], body, title), end="\n\n", flush=True)
    for package, reason in figures["unavailable"].items():
        print(f"{package} cannot run here: {reason}")
    return figures


def held(name: str, frames: bool, rows: int, speeds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """The bars of image navigation that this table tells of: of frames by the paper's model too, whose prior is what the raw loop does."""
    if not name.startswith("image-navigation"):
        return []
    bars = [(f"{door} of the raw loop", door, RAW, share) for door, share in SHARE.items() if rows == 1024 and not frames]
    bars += [(f"{TENSORS} of the raw loop", TENSORS, RAW, bar) for bar in (0.7, 2.0) if rows == 1024 and frames]
    bars += [(f"times {peer}", TENSORS if peer == TORCHRL else SB3, peer, bar) for peer, of, at, bar in BARS if (of, at) == (frames, rows)]
    told = []
    for what, ours, theirs, bar in bars:
        if theirs in speeds:
            ratio = float(np.median(np.array(speeds[ours]) / speeds[theirs]))
            of, verdict = "frames" if frames else "states", "held" if ratio >= bar else "MISSED"
            print(f"{of}, {rows} rows, {ours}, {what}: {ratio:.2f}, bar {bar}: {verdict}")
            told.append({"frames": frames, "rows": rows, "ours": ours, "beside": theirs, "bar": bar, "is": ratio})
    return told


def held_on_gpu(name: str, frames: bool, rows: int, speeds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """The bars of a GPU that this table tells of."""
    least, bar = ON_GPU.get((name, frames), (np.inf, 0.0))
    if rows < least:
        return []
    speed = float(np.median(speeds[TENSORS]))
    of, verdict = "frames" if frames else "states", "held" if speed >= bar else "MISSED"
    print(f"{of}, {rows} rows, {TENSORS}: {speed:,.0f} a second, bar {bar:,.0f}: {verdict}")
    return [{"frames": frames, "rows": rows, "ours": TENSORS, "bar": bar, "is": speed}]


def time_resets(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each step of a batch whose worlds are walked, by what happened in it."""
    clock = time.process_time if args.device == "cpu" else time.perf_counter
    figures: dict[str, Any] = {}
    body: list[list[Cell]] = []
    model = GTMSM.load(args.models[0], args.device)
    for rows in args.rows:
        envs = DreamVectorEnv(rows, **arguments(model), observation="frame" if args.frames else "state")
        start = clock()
        envs.reset(seed=args.seed)
        first = clock() - start
        actions = np.random.default_rng(args.seed).integers(model.num_actions, size=(args.reset_steps, rows))
        kinds: dict[str, list[float]] = {"no row begins": [], "rows begin": [], "rows enter worlds": []}
        for action in actions:
            ended, paid = envs._ended.any(), envs._paid.sum()
            start = clock()
            envs.step(action)
            spent = clock() - start
            kinds["rows enter worlds" if envs._paid.sum() > paid else "rows begin" if ended else "no row begins"].append(1e3 * spent)
        figures[str(rows)] = {"first_reset_seconds": first, **kinds}
        for kind, values in kinds.items():
            if values:
                body.append([kind, rows, len(values), float(np.median(values)), max(values), sum(values) / args.reset_steps])
        envs.close()
    columns = ["steps in which", "rows", "of them", "median ms", "longest ms", f"ms a step over all {args.reset_steps}"]
    shown = "frames" if args.frames else "states only"
    print(table(columns, body, f"{args.models[0]}, {shown}, a world every 8 episodes, each walked for 256 frames", digits=3))
    return figures


def time_ppo(args: argparse.Namespace) -> dict[str, Any]:
    """Frames a second of PPO's whole `learn` in 256 rows of a batch, beside 8 scalar dreams under DummyVecEnv; and the env's share.

    Both have rollouts of as many steps and learn from four minibatches of each, four times.
    """
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

    from gtmsm_env.sb3 import DreamVecEnv

    model = GTMSM.load(args.models[0], args.device)
    belief = remembered(model, args.seed)

    def alone(row: int) -> Callable[[], gym.Env[Any, Any]]:
        one = belief[torch.tensor([row])]
        return lambda: DreamEnv(**arguments(model), belief=one, observation="state", horizon=64)

    def batch() -> VecEnv:
        shown: dict[str, Any] = {"observation": "state", "horizon": 64, "autoreset_mode": "SameStep"}
        return DreamVecEnv(DreamVectorEnv(256, **arguments(model), belief=of_rows(belief, 256), **shown))

    def eight() -> VecEnv:
        return DummyVecEnv([alone(row) for row in range(8)])

    def learn(env: VecEnv, steps: int) -> tuple[float, float]:
        """Frames a second, and the share of the time that the env took."""
        inside, wait = 0.0, env.step_wait

        def step_wait() -> Any:
            nonlocal inside
            start = time.process_time()
            told = wait()
            inside += time.process_time() - start
            return told

        env.step_wait = step_wait  # type: ignore[method-assign]
        agent = PPO("MultiInputPolicy", env, n_steps=steps, batch_size=env.num_envs * steps // 4, n_epochs=4, seed=args.seed, device="cpu")
        start = time.process_time()
        agent.learn(env.num_envs * (128 if env.num_envs > 8 else 256))
        spent = time.process_time() - start
        env.close()
        return agent.num_timesteps / spent, inside / spent

    names = "256 rows", "8 under DummyVecEnv"
    figures: dict[str, Any] = {}
    body: list[list[Cell]] = []
    for steps in args.n_steps:
        told = np.array([[learn(make(), steps) for make in (batch, eight)] for _ in range(args.rounds)])  # (rounds, 2, 2)
        for i, name in enumerate(names):
            speeds, share = told[:, i, 0], 100 * float(np.median(told[:, i, 1]))
            body.append([name, steps, f"{np.median(speeds):,.0f}", f"{speeds.min():,.0f} to {speeds.max():,.0f}", share])
        ratios = told[:, 0, 0] / told[:, 1, 0]
        figures[str(steps)] = {"frames_a_second": told[..., 0], "share_in_env": told[..., 1], "ratio": float(np.median(ratios))}
    print(table(["PPO, learn()", "steps a rollout", "frames/s", "rounds", "% in the env"], body, args.models[0]))
    for steps, found in figures.items():
        ratio, share = found["ratio"], 100 * float(np.median(found["share_in_env"][:, 0]))
        verdict = "held" if ratio >= 10 and share <= 20 else "MISSED"
        print(f"rollouts of {steps} steps: {ratio:.1f} times the frames a second, bar 10; {share:.1f} % in the env, bar 20: {verdict}")
    return {"sb3": figures}


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def watch_memory(args: argparse.Namespace) -> dict[str, Any]:
    """Resident memory over many steps, tenth by tenth, half of them by tensors and half through Gymnasium."""
    model = GTMSM.load(args.models[0], args.device)
    rows = 1024
    envs = dream(rows, model, of_rows(remembered(model, args.seed), rows), "state", "NextStep")
    envs.reset(seed=args.seed)
    actions = torch.randint(model.num_actions, (64, rows), generator=torch.Generator().manual_seed(args.seed))
    there, here = actions.to(args.device), actions.numpy()
    sizes = []
    for tenth in range(10):
        for count in range(args.steps // 10 // rows + 1):
            if count % 2 or tenth == 0:
                envs.step(here[count % 64])
            else:
                envs.step_tensors(there[count % 64])
        sizes.append(resident())
    growth = sizes[-1] / sizes[0] - 1
    print(f"{args.steps:,} steps, {rows} rows: {sizes[0] / 1e6:.1f} MB after a tenth, {sizes[-1] / 1e6:.1f} MB at the end: ", end="")
    print(f"{100 * growth:+.2f} %, bar 1 %{'' if growth < 0.01 else ': MISSED'}")
    return {"steps": args.steps, "bytes": sizes, "growth": growth}


MODES = {"doors": compare_doors, "resets": time_resets, "sb3": time_ppo, "flat": watch_memory}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", nargs="?", choices=MODES, default="doors")
    parser.add_argument(
        "--models", nargs="+", default=["image-navigation", "image-navigation-paper"], metavar="NAME", help="that ship, or paths"
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 64, 1024, 16384], metavar="N")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each round of each door")
    parser.add_argument("--steps", type=int, default=10_000_000, help='of "flat"')
    parser.add_argument("--frames", action="store_true", help='of "resets": show frames, not states')
    parser.add_argument("--n-steps", type=int, nargs="+", default=[16, 32, 64], metavar="N", help='of each rollout of "sb3"')
    parser.add_argument("--reset-steps", type=int, default=1000, help='of "resets"')
    parser.add_argument("--peers", nargs="*", choices=[*OTHERS], default=[*OTHERS], metavar="NAME", help=f"of {', '.join(OTHERS)}")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "gtmsm-env"
    parser.add_argument("--cache", type=Path, default=cache, help="where peers are installed")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    check_writable(file=args.json, folder=args.cache if args.peers and args.mode == "doors" else None)
    torch.set_num_threads(1)
    figures = MODES[args.mode](args)
    if args.json:
        write_json(args.json, {"mode": args.mode, "device": args.device, **figures}, args.seed)


if __name__ == "__main__":
    main()
