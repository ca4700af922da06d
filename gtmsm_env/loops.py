"""When compiled loops stand in for torch: on the CPU, where many small operations cost more than what they compute."""

from __future__ import annotations

import warnings
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch
from torch import Tensor, nn

LANES = 16  # numbers that one instruction of a CPU computes with, at most


@cache
def compiled_loops(name: str) -> ModuleType | None:
    """One of our modules of loops, `dream_compiled` for example, which the extra "labyrinth" brings Numba for; None without it."""
    if not find_spec("numba"):
        return None
    try:
        return import_module(f"gtmsm_env.{name}")
    except ImportError as error:  # Numba refuses a NumPy that is too new for it, for example
        warnings.warn(f"Numba cannot be imported, so that torch computes what its loops would, more slowly: {error}", stacklevel=2)
        return None


def loops_for(name: str, *inputs: Tensor, learning: nn.Module | None = None) -> ModuleType | None:
    """These loops where they stand in for torch: on the CPU, in single precision, and where no gradient is wanted, nor of `learning`."""
    for x in inputs:
        if not x.is_cpu or x.dtype != torch.float32 or (x.requires_grad and torch.is_grad_enabled()):
            return None
    if learning is not None and torch.is_grad_enabled() and any(parameter.requires_grad for parameter in learning.parameters()):
        return None  # asked last: to walk through the parameters takes as long as what some loops compute
    return compiled_loops(name)
