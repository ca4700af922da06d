"""Several processes that train as one. Each takes its share of an iteration's batches, their gradients are added up, and the first alone
reads and writes files. A process that nobody started beside others is the first of one, and all of this does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters


@contextmanager
def joined(device: str) -> Iterator[None]:
    """As one of the processes that `torch.distributed.run` has started, by what it says in the environment; or alone.

    In a group that exists already it stays.
    """
    if "RANK" not in os.environ or dist.is_initialized():
        yield
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def here() -> int:
    """How many of them are on this machine, as `torch.distributed.run` says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", count()))


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def first(call: Callable[[], Any]) -> Any:
    """What the first process gets by a call that others do not make, in all of them."""
    if count() == 1:
        return call()
    told = [call() if rank() == 0 else None]
    dist.broadcast_object_list(told)
    return told[0]


def anyone(signalled: bool) -> bool:
    """Whether it is so in any process: the same answer in all of them."""
    flag = torch.tensor(float(signalled))
    add([flag])
    return bool(flag)


def add(tensors: list[Tensor]) -> None:
    """Make each tensor its sum over all processes, in place: the one exchange of an iteration."""
    if count() > 1:
        total = parameters_to_vector(tensors)
        dist.all_reduce(total)
        vector_to_parameters(total, tensors)


def agree(model: nn.Module) -> None:
    """Take the first process' weights: machines that differ round differently, and principal components may differ in sign."""
    if count() > 1:
        tensors = [*model.parameters(), *model.buffers()]
        weights = parameters_to_vector(tensors).detach()
        dist.broadcast(weights, 0)
        vector_to_parameters(weights, tensors)
