"""Linear layers on 8-bit integers: codes times codes, summed exactly, scaled at the end.

A tensor of codes stands for the values ``codes * scale - offset``. With both factors so written,
the product of a row of values and a row of weights is the product of their codes, an integer, and
corrections that need only the sums of the codes.

The products are those of the C++ kernel, which has its own for every instruction set. torch ships
oneDNN's as well, behind private operators; it has one scale for a whole tensor where here every row
has its own, saturates on processors without dot products of integers, and is not faster.
"""

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


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes from -127 to 127 of each row of a matrix on its own symmetric grid.

    Args:
        weight: ``(outputs, inputs)``.

    Returns:
        int8 codes of that shape, and float32 scales ``(outputs,)``.
    """
    weight = weight.detach().float()
    scale = (weight.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return torch.round(weight / scale.unsqueeze(1)).to(torch.int8), scale


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
