"""Rows of activations as codes, and products of them: what the kernel's calls are tested with."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from qmamba.ops.native.integer import IntegerCall, PackedCodes
from qmamba.ops.native.library import unavailable_reason


class QuantizedRows(NamedTuple):
    """Rows of activations as codes: value = ``codes * scale - offset``."""

    codes: Tensor
    """uint8 ``(..., inputs)``."""
    scale: Tensor
    """float32, one for each row ``(...)``, or a single one ``()``."""
    offset: Tensor
    """float32, shaped like ``scale``."""

    def dequantize(self) -> Tensor:
        """The values, float32 ``(..., inputs)``."""
        return self.codes.float() * self.scale.unsqueeze(-1) - self.offset.unsqueeze(-1)


def quantize_rows(x: Tensor) -> QuantizedRows:
    """Codes of 8 bits on the range of each row, widened to contain zero.

    Each row has its own grid, so the codes of an image do not depend on what shares its batch.

    Args:
        x: floating point ``(..., inputs)``, finite.
    """
    low = x.amin(-1).float().clamp(max=0)
    high = x.amax(-1).float().clamp(min=0)
    scale = ((high - low) / 255).clamp(min=torch.finfo(torch.float32).tiny)
    codes = torch.round((x.float() - low.unsqueeze(-1)) / scale.unsqueeze(-1))
    return QuantizedRows(codes.clamp(0, 255).to(torch.uint8), scale, -low)


class IntegerLinear:
    """``F.linear`` of quantized rows with a quantized weight, then GELU or a residual.

    Runs on the C++ kernel where it is available, else as float32 products of the codes.

    Args:
        codes: int8 ``(outputs, inputs)``; the weight is ``codes * scale - offset`` by rows.
        scale: float32 ``(outputs,)``, or ``()`` for one grid of the whole weight.
        bias: ``(outputs,)`` or ``None``.
        offset: float32 like ``scale``; ``None`` for grids symmetric about zero, which cost less.

    Raises:
        ShapeError: the codes are not an int8 matrix with fewer than 65536 inputs.
    """

    def __init__(
        self,
        codes: Tensor,
        scale: Tensor,
        bias: Tensor | None = None,
        *,
        offset: Tensor | None = None,
    ) -> None:
        packed = PackedCodes(codes, scale, offset, bias)
        self.outputs, self.inputs = packed.outputs, packed.inputs
        self._call: IntegerCall | None = None
        self._weight: tuple[Tensor, Tensor | None] | None = None
        if unavailable_reason() is None:
            self._call = IntegerCall(packed)
        else:
            weight = codes.float() * scale.float().view(-1, 1)
            weight = weight if offset is None else weight - offset.float().view(-1, 1)
            self._weight = weight, None if bias is None else bias.detach().float().clone()

    def __call__(
        self,
        x: QuantizedRows,
        *,
        gelu: bool = False,
        residual: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """``(..., inputs)`` to ``(..., outputs)``.

        Args:
            x: the rows.
            gelu: apply GELU to the result, within 5e-5.
            residual: added to the result; of its shape.
            dtype: of the result, float32 or bfloat16.
        """
        if self._call is not None:
            return self._call(
                x.codes, scale=x.scale, offset=x.offset, gelu=gelu, residual=residual, dtype=dtype
            )
        assert self._weight is not None
        y = F.linear(x.dequantize(), *self._weight)
        y = F.gelu(y) if gelu else y
        return (y if residual is None else y + residual).to(dtype)
