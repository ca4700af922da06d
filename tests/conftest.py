"""What every test shares. Warnings are errors (see pyproject.toml)."""

import os

# One thread each: the tests are small, and pykdtree's threads beside torch's stall each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
