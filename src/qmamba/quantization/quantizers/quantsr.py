"""QuantSR-style quantization: a learned step and shift, and a backward pass that favors edges."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from qmamba.ops.first_derivatives import first_derivatives_only
from qmamba.quantization.quantizers.base import Operand
from qmamba.quantization.quantizers.learned_step import StepRounding
from qmamba.quantization.quantizers.lsq import LSQ

_HALF_TANH = math.tanh(0.5)


class _SoftRounding(StepRounding):
    """The rounding of a learned step with the derivative of QuantSR."""

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), (x, step, offset) = grads, ctx.saved_tensors
        low, high, gradient = ctx.settings
        ratio = (x + offset) / step
        codes = ratio.clamp(low, high)
        inside = codes == ratio
        bend = torch.tanh(codes - codes.floor() - 0.5)
        slope = (1 - bend.square_()).div_(2 * _HALF_TANH).mul_(inside)
        on_step = (grad * (codes.round_() - slope * ratio)).sum(1) * gradient
        on_x = grad * slope
        return on_x, on_step, on_x.sum(1) - grad.sum(1), None, None, None


class QuantSR(LSQ):
    """Rounding whose derivative is larger than 1 where two levels meet and smaller on a level.

    It is that of ``floor(u) + (tanh(u - floor(u) - 1/2) / tanh(1/2) + 1) / 2``. The offset stands
    for the shift that the paper learns for each channel of an input: one number for the whole
    tensor, taken off again after the rounding.

    Source: Qin et al., QuantSR, 2023: the redistribution-driven learnable quantizer.
    """

    rounding = _SoftRounding

    def __init__(self, bits: int, operand: Operand | None = None) -> None:
        super().__init__(bits, operand, has_offset=True)
