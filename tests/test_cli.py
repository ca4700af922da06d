import argparse
import subprocess
import sys
from importlib.metadata import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

import gtmsm_env
from gtmsm_env.__main__ import EXTRAS, main


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


def test_train_gets_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    received = install(monkeypatch, "train", 3)
    assert main("train image-navigation".split()) == 3
    assert main("train image-navigation --seed 2 --output a/b --resume --size paper --images zip --device cuda --json f".split()) == 3
    defaults = {
        "command": "train",
        "world": "image-navigation",
        "output": Path("runs/image-navigation"),
        "resume": False,
        "size": "default",
        "images": "procedural",
        "seed": 0,
        "device": "cpu",
        "json": None,
    }
    given = {"seed": 2, "output": Path("a/b"), "resume": True, "size": "paper", "images": "zip", "device": "cuda", "json": Path("f")}
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
        ("train labyrinth", "invalid choice: 'labyrinth'"),
        ("train image-navigation --seed -1", "-1 is below 0"),
        ("train image-navigation --seed x", "invalid integer value: 'x'"),
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


@pytest.mark.parametrize(("module", "extra"), [("tqdm.auto", "train"), ("matplotlib", "plot"), ("PIL", "images")])
def test_a_missing_extra_is_named(module: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    install(monkeypatch, "train", ModuleNotFoundError(f"No module named {module!r}", name=module))
    assert main(["train", "image-navigation"]) == 1
    assert capsys.readouterr().err.endswith(f"pip install 'gtmsm-env[{extra}]'\n")


def test_other_missing_modules_are_not_explained_away(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "train", ModuleNotFoundError("No module named 'gtmsm_env.missing'", name="gtmsm_env.missing"))
    with pytest.raises(ModuleNotFoundError):
        main(["train", "image-navigation"])


def test_interruption(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    install(monkeypatch, "train", KeyboardInterrupt())
    assert main(["train", "image-navigation"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_every_extra_named_exists() -> None:
    assert set(EXTRAS.values()) <= set(metadata("gtmsm-env").get_all("Provides-Extra") or [])
