"""The command line: `python -m gtmsm_env train image-navigation` and `python -m gtmsm_env evaluate image-navigation`.

Only arguments are read here; torch is imported when a command runs, so that `--help` answers at once.
"""

import argparse
import dis
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from gymnasium.error import Error

from gtmsm_env import __version__

WORLDS = ("image-navigation", "obstacle-grid", "labyrinth", "labyrinth-rotate", "labyrinth-quake", "labyrinth-vizdoom")
JUDGED = (*WORLDS, "labyrinth-rooms", "labyrinth-lab", "labyrinth-contacts")  # where a model of another is judged too
DEFAULT = "(default: %(default)s)"
# What the commands import beyond the core dependencies, and the extra that installs it.
EXTRAS = {
    "PIL": "images",
    "imageio_ffmpeg": "video",
    "matplotlib": "plot",
    "numba": "labyrinth",
    "stable_baselines3": "sb3",
    "tensorboard": "train",
    "vizdoom": "vizdoom",
}


def parser() -> argparse.ArgumentParser:
    """Every command with its arguments; each command runs `run(args)` of the module it is named after."""
    program = argparse.ArgumentParser(prog="python -m gtmsm_env", description="Dreams of places an agent has walked through.")
    program.add_argument("--version", action="version", version=f"gtmsm-env {__version__}")
    commands = program.add_subparsers(dest="command", required=True, metavar="{train,evaluate}")

    train = _command(
        commands,
        "train",
        "train a model of a world from frames and actions; walks in first person have displacements as targets too",
        "--output runs/mine --seed 1",
    )
    train.add_argument("--output", type=Path, metavar="FOLDER", help="all that is written (default: runs/WORLD)")
    train.add_argument("--resume", action="store_true", help="continue from the newest checkpoint in --output")
    train.add_argument("--size", choices=("default", "paper"), default="default", help=f"encodings of our size or the paper's {DEFAULT}")
    train.add_argument("--displacements", action="store_true", help="obstacle-grid: true displacements as targets, not the ELBO")
    train.add_argument("--batches", type=integer(1), metavar="INT", help="an iteration, shared among processes (default: one each)")
    larger = f"batches so many times as large, as many of them, but of laws of motion: for a GPU {DEFAULT}"
    train.add_argument("--scale", type=integer(1), default=1, metavar="INT", help=larger)
    _common(train)

    evaluate = _command(
        commands, "evaluate", "measure a model on worlds it never saw, and draw what it imagines", "--output figures", JUDGED
    )
    evaluate.add_argument("--model", metavar="NAME", help="a shipped model or a path (default: the model that ships for the world)")
    evaluate.add_argument("--split", choices=("train", "validation", "test", "all"), default="test", help=f"which images {DEFAULT}")
    evaluate.add_argument("--episodes", type=integer(1), default=100, metavar="INT", help=f"how many worlds to dream of {DEFAULT}")
    evaluate.add_argument("--output", type=Path, metavar="FOLDER", help="draw figures into it, and videos")
    _common(evaluate)
    return program


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit status."""
    args = parser().parse_args(arguments)
    return status_of(lambda: import_module(f"gtmsm_env.{args.command}").run(args))


def status_of(command: Callable[[], int | None]) -> int:
    """Runs a command, one of `agents/` too, and returns its exit status.

    What the project refuses, a world that Gymnasium cannot make, and an extra that is not installed, is one message on stderr and status
    1; other errors keep their traceback.
    """
    try:
        return command() or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, FloatingPointError, ModuleNotFoundError, TypeError, Error) as error:
        message = _explained(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 1


def _explained(error: Exception) -> str | None:
    """What to tell of an error; None of one raised inside a library or by a library's C code, a fault of ours and not the caller's."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        module = error.name.partition(".")[0]
        extra = EXTRAS.get(module)
        return f"{module} is missing, which the extra {extra!r} installs: pip install 'gtmsm-env[{extra}]'" if extra else None
    innermost = error.__traceback__
    while innermost and innermost.tb_next:
        innermost = innermost.tb_next
    assert innermost is not None
    module = innermost.tb_frame.f_globals.get("__name__", "")
    if module == "gymnasium.envs.registration":  # there is no such world, or it takes no such arguments
        return str(error)
    raised = innermost.tb_frame.f_code.co_code[innermost.tb_lasti] == dis.opmap["RAISE_VARARGS"]  # by a statement, not by C code called
    ours = raised and module.partition(".")[0] in ("gtmsm_env", "__main__")
    return str(error) if ours and not isinstance(error, TypeError | Error) else None


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, summary: str, example: str, worlds: Sequence[str] = WORLDS
) -> argparse.ArgumentParser:
    """A command that takes the name of a world first."""
    command = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:\n  python -m gtmsm_env {name} {WORLDS[0]} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("world", choices=worlds, metavar="WORLD", help=f"one of: {', '.join(worlds)}")
    return command


def _common(command: argparse.ArgumentParser) -> None:
    """The arguments that every command has."""
    command.add_argument("--images", default="procedural", metavar="SOURCE", help=f"or a folder or a zip: CelebA or any images {DEFAULT}")
    command.add_argument("--seed", type=integer(0), default=0, metavar="INT", help=f"of every random draw {DEFAULT}")
    command.add_argument("--device", type=_device, default="cpu", metavar="NAME", help=f"where torch computes, e.g. cuda {DEFAULT}")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the printed figures here too, with seeds and versions")


def integer(least: int) -> Callable[[str], int]:
    """A reader of integers from `least` upwards."""

    def integer(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        return int(text)

    return integer


def _device(text: str) -> str:
    from gtmsm_env.worlds import check_device

    if text == "cuda" and "LOCAL_RANK" in os.environ:  # of torch.distributed.run's processes each has a GPU of its own
        text = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        check_device(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


if __name__ == "__main__":
    sys.exit(main())
