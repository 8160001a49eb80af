"""A uniform qparams: how codes of a few bits stand for real values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qmamba.errors import ConfigError

BITS = (2, 3, 4, 8)
"""Widths of a code."""


def check_bits(bits: int) -> None:
    """Raise a :class:`ConfigError` unless ``bits`` is one of :data:`BITS`."""
    if bits not in BITS or isinstance(bits, bool):
        raise ConfigError(f"A quantizer has 2, 3, 4 or 8 bits, got {bits!r}.")


def signed_range(bits: int) -> tuple[int, int]:
    """The smallest and largest signed code: ``-2^(bits - 1)`` and ``2^(bits - 1) - 1``."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


@dataclass(frozen=True)
class QuantParams:
    """The levels ``code * scale - offset``, code from ``low`` to ``high``.

    ``scale``, ``offset`` and the two bounds are tensors that broadcast against the values: one
    element, or one for each image of a batch.
    """

    scale: Tensor
    offset: Tensor
    low: int
    high: int
    clamp: tuple[Tensor, Tensor] | None = None
    """Bounds that cut levels off: the smallest and largest value that may come out."""

    def quantize(self, values: Tensor) -> Tensor:
        """The code of the nearest level: int8, or uint8 where ``low`` is 0."""
        codes = torch.round((values + self.offset) / self.scale).clamp_(self.low, self.high)
        return codes.to(torch.uint8 if self.low == 0 else torch.int8)

    def dequantize(self, codes: Tensor) -> Tensor:
        """The levels of codes, in the dtype of ``scale``."""
        values = codes.to(self.scale.dtype) * self.scale - self.offset
        return values if self.clamp is None else torch.clamp(values, *self.clamp)
