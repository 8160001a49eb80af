"""Large maps of a network take the memory of earlier ones instead of fresh pages.

Fresh pages are cleared by the system one by one, which takes longer than many a layer that fills
them. The C library of most Linux systems gives a block above 32 MB back to the system as soon as it
is freed, and the system clears each of its pages again for the next one. A network whose maps are
that large then spends more than half of its time there.
"""

from __future__ import annotations

import ctypes
import functools
import math
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

LARGE = 32 << 20
"""Bytes; larger blocks are given back."""
KEPT_BYTES = 64 * 2**20
"""Larger buffers are given up after a call."""
MOST_SHAPES = 64
"""Tensors of one place; with images of ever new sizes they would become more and more."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER = -1
_USUAL_MAPPINGS = 65536

_lock = threading.Lock()
_holders = 0


@contextmanager
def kept_memory(largest: int) -> Iterator[None]:
    """Keep freed blocks for the next ones until the outermost block of this kind is left.

    In return the process takes up to twice the memory meanwhile, because blocks of different sizes
    do not always fit into each other's place. Other threads are affected, too. Does nothing where
    the C library is not glibc.

    Args:
        largest: bytes of the largest blocks that will be needed; up to :data:`LARGE` all are kept
            anyway, and nothing is done.
    """
    global _holders
    library = _glibc() if largest > LARGE else None
    if library is None:
        yield
        return
    with _lock:
        _holders += 1
        if _holders == 1:
            library.mallopt(_MMAP_MAX, 0)
            library.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        with _lock:
            _holders -= 1
            if not _holders:
                library.mallopt(_MMAP_MAX, _USUAL_MAPPINGS)
                _keep_small_blocks.cache_clear()
                _keep_small_blocks()
                library.malloc_trim(0)


@functools.cache
def _keep_small_blocks() -> None:
    """What the library comes to by itself after the first large blocks were freed."""
    library = _glibc()
    if library is not None:
        library.mallopt(_MMAP_THRESHOLD, LARGE)
        library.mallopt(_TRIM_THRESHOLD, 2 * LARGE)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    known = all(hasattr(library, name) for name in ("gnu_get_libc_version", "malloc_trim"))
    return library if known else None


@dataclass
class _Place:
    block: Tensor
    tensors: dict[tuple[tuple[int, ...], torch.dtype], Tensor] = field(default_factory=dict)
    """That lie there, each from the block's beginning."""


class Buffers:
    """Tensors in places with a name, one set for each thread.

    What lies in a place is overwritten at its next use, by a tensor of another shape or dtype as
    well, so maps that are never needed at the same time share one.
    """

    def __init__(self) -> None:
        self._local = threading.local()

    def __call__(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """A contiguous tensor with any content."""
        places = self._places()
        place = places.get(name)
        if place is not None and (tensor := place.tensors.get((shape, dtype))) is not None:
            return tensor
        size = math.prod(shape) * dtype.itemsize
        # Born in inference mode, they could not be written to outside.
        with torch.inference_mode(False):
            if place is None or place.block.numel() < size or len(place.tensors) >= MOST_SHAPES:
                places.pop(name, None)
                del place
                place = _Place(torch.empty(size, dtype=torch.uint8, device="cpu"))
            tensor = place.block[:size].view(dtype).view(shape)
        place.tensors[shape, dtype] = tensor
        if place.block.numel() <= KEPT_BYTES or self._local.holders:
            places[name] = place
        return tensor

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep large ones, too, until this thread leaves the outermost block of this kind."""
        places = self._places()
        self._local.holders += 1
        _keep_small_blocks()
        try:
            yield
        finally:
            self._local.holders -= 1
            if not self._local.holders:
                for name, place in list(places.items()):
                    if place.block.numel() > KEPT_BYTES:
                        del places[name]

    def _places(self) -> dict[str, _Place]:
        if not hasattr(self._local, "places"):
            self._local.places, self._local.holders = {}, 0
        places: dict[str, _Place] = self._local.places
        return places
