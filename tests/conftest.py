"""What every test shares. Warnings are errors (see pyproject.toml)."""

import os

# One thread each: the tests are small, and pykdtree's threads beside torch's stall each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch


@pytest.fixture(autouse=True)
def initial_weights() -> None:
    """Networks are drawn from torch's global generator, which begins anywhere."""
    torch.manual_seed(0)
