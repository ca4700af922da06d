"""What a GPU does in many short operations, which take longer to start one by one than to do, and in passes over much memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor


@cache
def fused(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same function in as few passes as can be, compiled when it is first called; as it is where PyTorch cannot compile here."""
    compiled = torch.compile(function)

    def call(*inputs: Tensor) -> Tensor:
        nonlocal compiled
        try:
            return compiled(*inputs)
        except Exception as error:  # of many kinds: without Triton, without a C compiler, on an old GPU
            if compiled is function:
                raise
            warnings.warn(f"PyTorch cannot compile {function.__name__}, which is slower now: {error}", stacklevel=2)
            compiled = function
            return function(*inputs)

    return call


class Replayed:
    """A function of tensors on one GPU, recorded as a CUDA graph and then replayed on others of the same shapes.

    What else the function reads must stay where it is, and what it does beside computing tensors is done only while it is recorded.
    """

    def __init__(self, function: Callable[..., Sequence[Tensor]], *inputs: Tensor) -> None:
        with torch.inference_mode(False):  # in which nobody could write to them later
            self._inputs = [x.clone() for x in inputs]
        with torch.cuda.device(inputs[0].device):
            aside, here = torch.cuda.Stream(), torch.cuda.current_stream()
            aside.wait_stream(here)
            with torch.cuda.stream(aside):  # libraries set themselves up in their first calls, which cannot be recorded
                for _ in range(2):
                    function(*self._inputs)
            here.wait_stream(aside)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=aside):
                self._outputs = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Fresh tensors."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return [x.clone() for x in self._outputs]
