"""A tiny training, stopped by a signal to one process and resumed: run by `torch.distributed.run` for test_parallel.py.

    python -m torch.distributed.run --standalone --nproc-per-node 2 tests/two_processes.py FOLDER

Each process leaves in FOLDER/RANK.json which files it opened to write, what it printed, and how its commands ended.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train import FIRST, at_step, command, make_small, some_walks

from gtmsm_env import parallel

FOLDER, RANK = Path(sys.argv[1]), int(os.environ["RANK"])


def main() -> None:
    written: set[str] = set()

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and str(args[0]).startswith(str(FOLDER)) and args[2] & (os.O_WRONLY | os.O_RDWR):
            written.add(str(Path(str(args[0])).relative_to(FOLDER)))

    printed, ended = io.StringIO(), []
    sys.addaudithook(audit)
    redirected = contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed)
    with pytest.MonkeyPatch.context() as patch, parallel.joined("cpu"), redirected[0], redirected[1]:
        torch.set_num_threads(1)
        make_small(patch, some_walks())
        with pytest.MonkeyPatch.context() as inner:
            at_step(inner, FIRST + 3, lambda _: signal.raise_signal(signal.SIGTERM) if RANK == 1 else None)
            try:
                command(FOLDER / "run")
            except KeyboardInterrupt:
                ended.append("interrupted")
        ended.append(command(FOLDER / "run", "--resume"))
    (FOLDER / f"{RANK}.json").write_text(json.dumps({"written": sorted(written), "printed": printed.getvalue(), "ended": ended}))


if __name__ == "__main__":
    main()
