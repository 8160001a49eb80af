"""Memory that is kept between large maps: it is really kept, and given back at the end."""

from __future__ import annotations

import multiprocessing
import resource
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from qmamba.ops.native import memory
from qmamba.ops.native.memory import LARGE, Buffers, kept_memory

HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

pytestmark = [
    pytest.mark.skipif(memory._glibc() is None, reason="not glibc on Linux"),
    pytest.mark.skipif(
        HUGE_PAGES.exists() and "[always]" in HUGE_PAGES.read_text(),
        reason="huge pages hide the count",
    ),
]

PAGES = LARGE // 4096


def faults(size: int) -> int:
    """Pages that the system clears while a block of so many bytes is filled."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(size // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def is_kept() -> bool:
    """Whether a block takes the place of a larger one before it."""
    faults(3 * LARGE)
    return faults(2 * LARGE) < PAGES


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def a_block_takes_the_place_of_the_one_before() -> None:
    assert not is_kept()
    with kept_memory(LARGE + 1):
        assert is_kept()
    assert not is_kept()


def memory_is_given_back() -> None:
    before = resident_bytes()
    with kept_memory(LARGE + 1):
        faults(2 * LARGE)
        assert resident_bytes() > before + LARGE
    assert resident_bytes() < before + LARGE


def only_the_last_holder_ends_it() -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with kept_memory(LARGE + 1):
            entered.set()
            leave.wait(60)

    other = threading.Thread(target=hold)
    with pytest.raises(RuntimeError), kept_memory(LARGE + 1):
        other.start()
        assert entered.wait(60)
        raise RuntimeError
    assert is_kept()
    leave.set()
    other.join()
    assert not is_kept()


def small_maps_change_nothing() -> None:
    with kept_memory(LARGE):
        assert not is_kept()


@pytest.mark.parametrize(
    "check",
    [
        a_block_takes_the_place_of_the_one_before,
        memory_is_given_back,
        only_the_last_holder_ends_it,
        small_maps_change_nothing,
    ],
)
def test_in_a_fresh_process(check: Callable[[], None]) -> None:
    # Elsewhere the heap may hold large free blocks of earlier tests, which are taken first.
    process = multiprocessing.get_context("spawn").Process(target=check)
    process.start()
    process.join(120)
    assert process.exitcode == 0


def test_places_are_shared_by_shapes_and_given_back() -> None:
    buffers = Buffers()
    first = buffers("a", (2, 3))
    assert first.is_contiguous() and first.dtype == torch.float32
    assert buffers("a", (2, 3)) is first
    smaller = buffers("a", (5,), torch.uint8)
    assert smaller.data_ptr() == first.data_ptr() != buffers("b", (2, 3)).data_ptr()
    large = memory.KEPT_BYTES // 4 + 1
    assert buffers("c", (large,)) is not buffers("c", (large,))
    with buffers.held():
        with buffers.held():
            held = buffers("c", (large,))
        assert buffers("c", (large,)) is held
    assert buffers("c", (large,)) is not held
    assert buffers("a", (5,), torch.uint8) is smaller


def test_places_do_not_collect_shapes_forever() -> None:
    buffers = Buffers()
    largest = memory.MOST_SHAPES + 1
    first = buffers("a", (largest,))
    for size in range(1, memory.MOST_SHAPES):
        buffers("a", (size,))
    assert buffers("a", (largest,)) is first
    buffers("a", (memory.MOST_SHAPES,))
    assert buffers("a", (largest,)) is not first
