"""The README's code runs as it stands, but for the length of the training."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

BLOCKS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL)


def test_the_readme_shows_code() -> None:
    assert len(BLOCKS) == 2
    assert max(len([line for line in block.splitlines() if line]) for block in BLOCKS) <= 12


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_code_runs(block: str) -> None:
    shorter = block.replace("100_000", "2048").replace("1000", "10")
    assert shorter != block, "the README's numbers changed: say here how to shorten them"
    exec(compile(shorter, "README.md", "exec"), {})
