import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from gtmsm_env.report import check_writable, table, write_json


def test_table_is_aligned_and_says_what_numbers_alone_cannot() -> None:
    lines = table(["row", "a", "longer"], [["x", 1.234, math.inf], ["long name", None, math.nan], ["y", 12, "text"]], "Title").split("\n")
    assert lines == [
        "Title",
        "row           a  longer",
        "-----------------------",
        "x          1.23   exact",
        "long name     -       -",
        "y            12    text",
    ]


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        table(["row", "a"], [["x", 1, 2]])


def test_json_holds_figures_seeds_versions_and_command(tmp_path: Path) -> None:
    figures = {
        "mse": np.array([1.5, np.nan]),
        "n": np.int64(3),
        "t": torch.ones(1),
        "inf": math.inf,
        "file": Path("a/b"),
        "pair": {5: (True, None)},
    }
    write_json(tmp_path / "new" / "f.json", figures, seeds=7)
    written = json.loads((tmp_path / "new" / "f.json").read_text())
    assert written["figures"] == {"mse": [1.5, None], "n": 3, "t": [1.0], "inf": None, "file": "a/b", "pair": {"5": [True, None]}}
    assert written["seeds"] == [7]
    assert set(written["versions"]) == {"gtmsm-env", "torch", "numpy", "gymnasium", "python"}
    assert written["command"].startswith("python ")


def test_a_failed_write_leaves_the_previous_file(tmp_path: Path) -> None:
    file = tmp_path / "f.json"
    write_json(file, {"good": 1}, seeds=[0, 1])
    with pytest.raises(TypeError):
        write_json(file, {"bad": object()}, seeds=0)
    assert json.loads(file.read_text())["figures"] == {"good": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["f.json"]


def test_outputs_are_checked_before_the_work(tmp_path: Path) -> None:
    check_writable()
    check_writable(file=tmp_path / "other" / "figures", folder=tmp_path / "new" / "figures.d")
    assert (tmp_path / "new" / "figures.d").is_dir()
    assert list((tmp_path / "other").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="must be writable"):
        check_writable(file=tmp_path / "file" / "f.json")
    with pytest.raises(ValueError, match="must be writable"):
        check_writable(folder=tmp_path / "file" / "figures")
    with pytest.raises(ValueError, match="is a folder: name a file in it"):
        check_writable(file=tmp_path / "new")
