"""What the programs of this folder share: each steps one environment of another package for as long as it is told to."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable


def serve(make: Callable[[], Callable[[], object]], rows: int = 1) -> None:
    """For each line of seconds on standard input, one of JSON on standard output: the frames that steps gave in a second of processor time.

    make: gives a function that steps the environment once and draws its frame, or those of so many rows
    """
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever the package prints
    step = make()
    for line in sys.stdin:
        frames, start = 0, time.process_time()
        while (spent := time.process_time() - start) < float(line):
            step()
            frames += rows
        print(json.dumps({"frames_a_second": frames / spent}), file=answers, flush=True)
