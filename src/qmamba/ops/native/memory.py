"""Large maps of a network take the memory of earlier ones instead of fresh pages.

Fresh pages are cleared by the system one by one, which takes longer than many a layer that fills
them. The C library of most Linux systems gives a block above 32 MB back to the system as soon as it
is freed, and the system clears each of its pages again for the next one. A network whose maps are
that large then spends more than half of its time there.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

LARGE = 32 << 20
"""Bytes; larger blocks are given back."""
KEPT_BYTES = 64 * 2**20
"""Larger buffers are fresh each time."""

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
                # What the library comes to by itself after the first large blocks.
                library.mallopt(_MMAP_THRESHOLD, LARGE)
                library.mallopt(_TRIM_THRESHOLD, 2 * LARGE)
                library.malloc_trim(0)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    known = all(hasattr(library, name) for name in ("gnu_get_libc_version", "malloc_trim"))
    return library if known else None


class Buffers:
    """Tensors by name, one set for each thread. A name's tensor is overwritten at its next use."""

    def __init__(self) -> None:
        self._local = threading.local()

    def __call__(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """A contiguous tensor with any content."""
        kept: dict[str, Tensor] = self._local.__dict__
        tensor = kept.get(name)
        if tensor is None or tensor.shape != shape or tensor.dtype != dtype:
            kept.pop(name, None)
            # Born in inference mode, it could not be written to outside.
            with torch.inference_mode(False):
                tensor = torch.empty(shape, dtype=dtype, device="cpu")
            if tensor.nbytes <= KEPT_BYTES:
                kept[name] = tensor
        return tensor
