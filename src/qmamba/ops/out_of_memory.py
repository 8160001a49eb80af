"""Telling that memory did not suffice from every other error, on whatever device."""

from __future__ import annotations

import torch

_PHRASES = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "cannot allocate memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(phrase in text for phrase in _PHRASES)
