import argparse
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

import gtmsm_env
import gtmsm_env.envs
from gtmsm_env.__main__ import EXTRAS, main, status_of


def install(monkeypatch: pytest.MonkeyPatch, command: str, outcome: int | BaseException) -> list[argparse.Namespace]:
    """Puts in the place of a command's module one that returns or raises `outcome`; the arguments it gets are listed."""
    received: list[argparse.Namespace] = []

    def run(args: argparse.Namespace) -> int:
        received.append(args)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setitem(sys.modules, f"gtmsm_env.{command}", SimpleNamespace(run=run))
    return received


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"], ["evaluate", "--help"]])
def test_help_and_version_load_no_torch(arguments: list[str]) -> None:
    code = f"""
import sys
from gtmsm_env.__main__ import main
try:
    main({arguments})
except SystemExit as exit:
    assert exit.code == 0
assert "torch" not in sys.modules
"""
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert (gtmsm_env.__version__ if "--version" in arguments else "usage: python -m gtmsm_env") in printed


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_help_gives_defaults_and_an_example_that_runs(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert "(default: 0)" in text
    assert "None" not in text
    assert "SUPPRESS" not in text
    example = text.partition("example:")[2].split()
    assert example[:3] == ["python", "-m", "gtmsm_env"]
    install(monkeypatch, command, 0)
    assert main(example[3:]) == 0


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_every_experiment_is_listed_and_taken(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    listed = "image-navigation, obstacle-grid, labyrinth, labyrinth-rotate"
    assert listed in " ".join(capsys.readouterr().out.split())
    received = install(monkeypatch, command, 0)
    assert [main([command, world]) for world in listed.split(", ")] == [0] * 4
    assert [args.world for args in received] == listed.split(", ")


def test_train_gets_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    received = install(monkeypatch, "train", 3)
    assert main("train image-navigation".split()) == 3
    more = "--seed 2 --output a/b --resume --size paper --images zip --device cpu:0 --scale 4 --json f"
    assert main(["train", "image-navigation", *more.split()]) == 3
    defaults = {
        "command": "train",
        "world": "image-navigation",
        "output": None,
        "resume": False,
        "size": "default",
        "displacements": False,
        "batches": None,
        "scale": 1,
        "images": "procedural",
        "seed": 0,
        "device": "cpu",
        "json": None,
    }
    given = {
        "seed": 2,
        "output": Path("a/b"),
        "resume": True,
        "size": "paper",
        "images": "zip",
        "device": "cpu:0",
        "scale": 4,
        "json": Path("f"),
    }
    assert [vars(args) for args in received] == [defaults, defaults | given]


def test_evaluate_gets_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    received = install(monkeypatch, "evaluate", 0)
    assert main("evaluate image-navigation --model a/b --split all --episodes 7 --output figures".split()) == 0
    assert vars(received[0]) == {
        "command": "evaluate",
        "world": "image-navigation",
        "model": "a/b",
        "split": "all",
        "episodes": 7,
        "output": Path("figures"),
        "images": "procedural",
        "seed": 0,
        "device": "cpu",
        "json": None,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "required"),
        ("dance", "invalid choice"),
        ("train", "required: WORLD"),
        ("train maze", "invalid choice: 'maze'"),
        ("train image-navigation --seed -1", "-1 is below 0"),
        ("train image-navigation --seed x", "invalid integer value: 'x'"),
        ("train image-navigation --device nonsense", "--device: A device is one that this PyTorch can use; 'nonsense' is not"),
        ("evaluate image-navigation --device cuda:99", "--device: A device is one that this PyTorch can use; 'cuda:99' is not"),
        ("evaluate image-navigation --episodes 0", "0 is below 1"),
        ("evaluate image-navigation --split tests", "invalid choice: 'tests'"),
        ("evaluate image-navigation --resume", "unrecognized arguments: --resume"),
    ],
)
def test_wrong_arguments(arguments: str, message: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as status:
        main(arguments.split())
    assert status.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("module", "extra"), [("tensorboard.compat", "train"), ("matplotlib", "plot"), ("PIL", "images")])
def test_a_missing_extra_is_named(module: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    install(monkeypatch, "train", ModuleNotFoundError(f"No module named {module!r}", name=module))
    assert main(["train", "image-navigation"]) == 1
    assert capsys.readouterr().err.endswith(f"pip install 'gtmsm-env[{extra}]'\n")


def of_the_package(error: BaseException) -> Callable[[], int]:
    """A function that raises as if it were the package's own."""
    return written_in_the_package("raise error", error=error)


def written_in_the_package(statement: str, **names: object) -> Callable[[], int]:
    scope = {"__name__": "gtmsm_env.somewhere", **names}
    exec(f"def command(): {statement}", scope)
    command: Callable[[], int] = scope["command"]  # type: ignore[assignment]
    return command


@pytest.mark.parametrize("error", [ValueError("no"), FloatingPointError("no"), ModuleNotFoundError("no: pip install 'gtmsm-env[images]'")])
def test_what_the_package_refuses_is_one_message(error: Exception, capsys: pytest.CaptureFixture) -> None:
    assert status_of(of_the_package(error)) == 1
    assert capsys.readouterr().err == f"error: {error}\n"


@pytest.mark.parametrize("error", [KeyError("no"), RuntimeError("no"), TypeError("no"), ResetNeeded("no")])
def test_other_errors_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        status_of(of_the_package(error))


def test_errors_of_libraries_keep_their_traceback() -> None:
    with pytest.raises(ValueError, match="same shape"):
        status_of(written_in_the_package("np.stack([np.zeros(1), np.zeros(2)])", np=np))


@pytest.mark.parametrize("statement", ["np.zeros(2) + np.zeros(3)", "list(zip([1], [], strict=True))", "int('x')"])
def test_errors_of_c_code_keep_their_traceback(statement: str) -> None:
    """It has no frame of its own, so the innermost one is the package's."""
    with pytest.raises(ValueError, match=r"broadcast|shorter|invalid literal"):
        status_of(written_in_the_package(statement, np=np))


@pytest.mark.parametrize("make", [gym.make, lambda world, **kwargs: gym.make_vec(world, num_envs=1, **kwargs)])
@pytest.mark.parametrize(
    ("world", "kwargs", "message"),
    [
        ("GTMSM-Nowhere-v0", {}, "`GTMSM-Nowhere` doesn't exist"),
        ("GTMSM-ImageNavigation-v9", {}, "`v9` for environment `GTMSM-ImageNavigation` doesn't exist"),
        ("no id", {}, "Malformed environment ID"),
        ("nomodule:GTMSM-ImageNavigation-v0", {}, "No module named 'nomodule'"),
        ("GTMSM-ImageNavigation-v0", {"colour": 1}, "unexpected keyword argument 'colour'"),
    ],
)
def test_worlds_that_cannot_be_made_are_one_message(
    make: Any, world: str, kwargs: dict[str, Any], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert status_of(lambda: make(world, **kwargs)) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert message in told


def test_refusals_of_real_commands(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["evaluate", "image-navigation", "--model", str(tmp_path / "none")]) == 1
    assert "none.json cannot be read" in capsys.readouterr().err
    assert main(["evaluate", "image-navigation", "--images", str(tmp_path / "none"), "--episodes", "1"]) == 1
    assert "no folder of images" in capsys.readouterr().err
    (tmp_path / "training.json").touch()
    command = [sys.executable, "-m", "gtmsm_env", "train", "image-navigation", "--output", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: {tmp_path} holds a training already")
    assert ended.stderr.count("\n") == 1


def test_other_missing_modules_are_not_explained_away(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "train", ModuleNotFoundError("No module named 'gtmsm_env.missing'", name="gtmsm_env.missing"))
    with pytest.raises(ModuleNotFoundError):
        main(["train", "image-navigation"])


def test_interruption(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    install(monkeypatch, "train", KeyboardInterrupt())
    assert main(["train", "image-navigation"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_every_extra_named_exists_and_is_imported() -> None:
    assert set(EXTRAS.values()) <= set(metadata("gtmsm-env").get_all("Provides-Extra") or [])
    packages = (Path(package.__path__[0]) for package in (gtmsm_env, gtmsm_env.envs))
    source = "\n".join(file.read_text() for package in packages for file in package.glob("*.py"))
    for module in EXTRAS:
        assert re.search(rf"^ *(import|from) (torch\.utils\.)?{module}\b", source, re.MULTILINE), module
