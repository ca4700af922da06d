"""What every benchmark's --json FILE holds beside its figures."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("gtmsm-env", "gymnasium", "numpy", "torch")


def write_json(file: Path | None, figures: dict[str, Any]) -> None:
    """Write the figures with the versions they were measured on; nothing when no file is asked for."""
    if file is None:
        return
    versions = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    unfinished = file.with_name(file.name + ".part")
    unfinished.write_text(json.dumps({**figures, "versions": versions}, indent=2) + "\n")
    unfinished.replace(file)
