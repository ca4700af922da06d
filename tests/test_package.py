"""The package as it installs. Runs in the repository and, in `.ci/run`, against the wheel from another directory."""

import subprocess
import sys
from importlib.metadata import metadata, version
from importlib.resources import files
from pathlib import Path

import gymnasium
import pytest

import gtmsm_env
import gtmsm_env.envs

IDS = sorted(spec.id for spec in gymnasium.registry.values() if spec.id.startswith("GTMSM-"))
HEAVY = {"torch", "PIL", "imageio", "matplotlib", "moviepy", "pykdtree", "scipy", "stable_baselines3", "tensorboard", "tqdm"}


def run(code: str, folder: Path) -> str:
    """What a fresh Python prints, started where no source lies, with warnings as errors."""
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def test_import_is_light(tmp_path: Path) -> None:
    loaded = run("import sys, gtmsm_env; print(*{name.partition('.')[0] for name in sys.modules})", tmp_path)
    assert HEAVY & set(loaded.split()) == set()


def test_worlds_import_no_torch(tmp_path: Path) -> None:
    code = """
import importlib, pkgutil, sys, gtmsm_env.envs
names = [module.name for module in pkgutil.walk_packages(gtmsm_env.envs.__path__, "gtmsm_env.envs.")]
for name in names:
    importlib.import_module(name)
print(*names, *{name.partition(".")[0] for name in sys.modules})
"""
    loaded = set(run(code, tmp_path).split())
    assert "gtmsm_env.envs.image_navigation" in loaded
    assert HEAVY & loaded <= {"scipy"}  # which Numba imports where it is installed


def test_every_environment_is_registered() -> None:
    labyrinths = ("Labyrinth", "LabyrinthMaze", "LabyrinthRooms", "LabyrinthRotate")
    names = ("DeepMindLab", "Dream", "ImageNavigation", *labyrinths, "ObstacleGrid", "VizDoom")
    assert sorted(f"GTMSM-{name}-v0" for name in names) == IDS


@pytest.mark.parametrize("name", IDS)
def test_registration(name: str) -> None:
    spec = gymnasium.spec(name)
    assert isinstance(spec.entry_point, str)
    assert isinstance(spec.vector_entry_point, str) or name == "GTMSM-VizDoom-v0"  # an engine a row: Gymnasium makes its batches
    assert spec.max_episode_steps is None  # `horizon` is the one limit of length
    assert gymnasium.envs.registration.EnvSpec.from_json(spec.to_json()) == spec


def test_make_imports_the_package(tmp_path: Path) -> None:
    code = "import gymnasium; print(gymnasium.make('gtmsm_env:GTMSM-ImageNavigation-v0').spec.id)"
    assert run(code, tmp_path) == "GTMSM-ImageNavigation-v0"


def test_worlds_install_inside_the_package(tmp_path: Path) -> None:
    assert run("import importlib.util; print(importlib.util.find_spec('envs'))", tmp_path) == "None"


def test_installed_metadata() -> None:
    assert version("gtmsm-env") == gtmsm_env.__version__
    extras = metadata("gtmsm-env").get_all("Provides-Extra") or []
    assert {"all", "dev", "images", "labmaze", "labyrinth", "plot", "sb3", "train", "video", "vizdoom"} <= set(extras)


def test_the_package_is_typed() -> None:
    assert files("gtmsm_env").joinpath("py.typed").is_file()


def test_no_code_is_loaded_from_files() -> None:
    sources = [path for package in (gtmsm_env, gtmsm_env.envs) for path in Path(package.__path__[0]).rglob("*.py")]
    assert len(sources) > 5
    for path in sources:
        assert not {"pickle", "torch.load", "allow_pickle=True"} & set(path.read_text().replace("(", " ").split()), path
