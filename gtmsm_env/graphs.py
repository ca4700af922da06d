"""What a GPU does in many short operations, which take longer to start one by one than to do, and in passes over much memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor


@cache
def fused(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same function in as few passes as can be, compiled when it is first called; as it is where PyTorch came without Triton."""
    return torch.compile(function) if find_spec("triton") else function


class Replayed:
    """A function of tensors, recorded once as a CUDA graph and then replayed on others of the same shapes.

    What else the function reads must stay where it is, and what it does but compute tensors is done while it is recorded alone.
    """

    def __init__(self, function: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> None:
        self._inputs = [x.clone() for x in inputs]
        aside, here = torch.cuda.Stream(), torch.cuda.current_stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):  # libraries set themselves up in their first calls, which cannot be recorded
            for _ in range(2):
                function(*self._inputs)
        here.wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Fresh tensors."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return [x.clone() for x in self._outputs]
