"""Several processes that train one model, as `torchrun` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from qmamba.errors import ConfigError

_TIMEOUT = timedelta(minutes=30)


def rank() -> int:
    """Number of this process, 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes the files and shows the progress."""
    return rank() == 0


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of every rank in the order of the global batch, differentiable.

    Args:
        rows: (n, ...), the same shape on every rank; row i of rank r is row ``i * ranks + r`` of
            the global batch.

    Returns:
        (n * ranks, ...). Its gradient reaches the rank that a row came from, summed over the
        ranks, so that the average over ranks that follows is the gradient of the global loss.
    """
    if world_size() == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows)
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        rows = rows.contiguous()
        parts = [torch.empty_like(rows) for _ in range(world_size())]
        dist.all_gather(parts, rows)
        return torch.stack(parts, dim=1).flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total.unflatten(0, (-1, world_size()))[:, rank()].contiguous()


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set on at least one rank."""
    if world_size() == 1:
        return flag
    value = torch.tensor([float(flag)], dtype=torch.float32, device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())


def mean_over_ranks(value: Tensor) -> Tensor:
    """Mean of a detached scalar over the ranks."""
    if world_size() == 1:
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / world_size()


def barrier() -> None:
    """Wait until every rank is here."""
    if world_size() > 1:
        dist.barrier()


def local_device(device: torch.device | str) -> torch.device:
    """The device of this rank: ``cuda`` becomes the card with the rank's local number."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


@contextmanager
def process_group(device: torch.device | str) -> Iterator[None]:
    """Join the group that `torchrun` described in the environment; nothing where it did not.

    CPU processes speak gloo, GPU processes NCCL.

    Raises:
        ConfigError: the environment describes a group that cannot be joined.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    device = local_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(backend, timeout=_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"The {os.environ['WORLD_SIZE']} processes that the environment describes could not "
            f"join each other ({error}); start them with torchrun."
        ) from error
    try:
        yield
    finally:
        dist.destroy_process_group()
