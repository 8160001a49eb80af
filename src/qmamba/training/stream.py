"""Which example comes when, and with which randomness: a function of the seed and the step alone.

Nothing here has a state, so that a resumed run, a run with other workers and a run on several
ranks see the same examples with the same augmentation.
"""

from __future__ import annotations

import hashlib
import signal
import sys
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from qmamba.training.task import Task

_SEED_BITS = 63
# Forked workers share the memory of decoded images; elsewhere than on Linux forking is not safe.
_CONTEXT = "fork" if sys.platform == "linux" else None


def derived_seed(*parts: int | str) -> int:
    """A seed of 63 bits that depends on every part and on nothing else."""
    text = "/".join(str(part) for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> (64 - _SEED_BITS)


@lru_cache(maxsize=4)
def _order(examples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng(derived_seed(seed, "order", epoch)).permutation(examples)


def indices(step: int, batch_size: int, examples: int, seed: int) -> list[tuple[int, int]]:
    """(epoch, index) of every example of a step.

    The epochs follow each other without a gap: a batch may end one and begin the next, every
    example occurs once an epoch, and none is dropped.
    """
    found = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, place = divmod(position, examples)
        found.append((epoch, int(_order(examples, seed, epoch)[place])))
    return found


class _Examples(Dataset[dict[str, Tensor]]):
    def __init__(self, task: Task, seed: int) -> None:
        self._task = task
        self._seed = seed

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Tensor]:
        epoch, index = place
        generator = torch.Generator().manual_seed(derived_seed(self._seed, "example", epoch, index))
        return self._task.example(index, generator)


class _Steps(Sampler[list[tuple[int, int]]]):
    def __init__(self, batches: Iterator[list[tuple[int, int]]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self._batches


def batches(
    task: Task,
    *,
    first: int,
    last: int,
    batch_size: int,
    seed: int,
    workers: int,
    rank: int,
    world_size: int,
    pin_memory: bool,
) -> Iterator[dict[str, Tensor]]:
    """The rows of this rank of the batches of the steps ``first`` to ``last - 1``, in order."""
    own = (
        indices(step, batch_size, task.examples, seed)[rank::world_size]
        for step in range(first, last)
    )
    return iter(
        DataLoader(
            _Examples(task, seed),
            batch_sampler=_Steps(own),
            num_workers=workers,
            multiprocessing_context=_CONTEXT if workers else None,
            worker_init_fn=_leave_interrupts_to_the_loop,
            pin_memory=pin_memory,
        )
    )


def _leave_interrupts_to_the_loop(_: int) -> None:
    # A terminal sends Ctrl-C to every process, and a scheduler may send SIGTERM to all of them; the
    # loop still needs the examples of its last step.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
