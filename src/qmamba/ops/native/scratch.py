"""Memory that one call of a network after the other writes its intermediate results to.

The C library gives large fresh tensors pages that the system has to clear one by one, which takes
longer than many a layer that fills them.
"""

from __future__ import annotations

import threading

import torch
from torch import Tensor

KEPT_BYTES = 64 * 2**20
"""Larger tensors are fresh each time."""


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
                tensor = torch.empty(shape, dtype=dtype)
            if tensor.nbytes <= KEPT_BYTES:
                kept[name] = tensor
        return tensor
