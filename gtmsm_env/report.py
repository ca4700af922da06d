"""How every command that measures something reports it: tables to read, and the same figures as JSON with seeds and versions."""

from __future__ import annotations

import json
import math
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

Cell = str | int | float | None


def table(columns: Sequence[str], rows: Iterable[Sequence[Cell]], title: str = "", digits: int = 2) -> str:
    """An aligned text table. The first column is text; floats show `digits` decimals, None a dash, infinity (of a PSNR) "exact"."""
    body = [[_text(cell, digits) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *body, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip()

    head = line(columns)
    return "\n".join([*([title] if title else []), head, "-" * len(head), *map(line, body)])


def named_table(title: str, figures: Mapping[str, Mapping[str, Cell]], digits: int = 2) -> str:
    """Figures by row and column."""
    columns = list(next(iter(figures.values())))
    return table([title, *columns], [[name, *values.values()] for name, values in figures.items()], digits=digits)


def _text(cell: Cell, digits: int) -> str:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "-"
    if isinstance(cell, float):
        return "exact" if cell == math.inf else f"{cell:.{digits}f}"
    return str(cell)


def check_writable(file: Path | None = None, folder: Path | None = None) -> None:
    """Makes the folders that a command will write to, before it works for minutes. ValueError where one cannot be written."""
    if file and file.is_dir():
        raise ValueError(f"An output is written to a file; {file} is a folder: name a file in it.")
    for target in ([file.parent] if file else []) + ([folder] if folder else []):
        probe = target / ".gtmsm-env.new"
        try:
            target.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ValueError(f"The folder of an output must be writable; {target} is not ({error}): choose another.") from error


def write_json(path: Path, figures: Mapping[str, Any], seeds: int | Sequence[int]) -> None:
    """Figures with seeds, versions and the command that printed them, renamed into place. Numbers that are not finite become null."""
    packages = {name: version(name) for name in ("gtmsm-env", "torch", "numpy", "gymnasium")}
    report = {
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "seeds": [seeds] if isinstance(seeds, int) else list(seeds),
        "versions": {**packages, "python": platform.python_version()},
        "figures": plain(figures),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")
    new.replace(path)


def plain(value: Any) -> Any:
    """What JSON can hold: numbers and arrays of NumPy or torch as numbers and lists."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
