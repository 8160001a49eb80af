"""A learned quantization step and offset: what LSQ and its relatives have in common."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qmamba.nn.initialization import module_kwargs
from qmamba.ops.first_derivatives import first_derivatives_only
from qmamba.ops.quantized.rounding import round_rows, round_rows_backward
from qmamba.quantization.qparams import QuantParams
from qmamba.quantization.quantizers.base import Operand, Quantizer

_TINY = 1e-12


class StepRounding(torch.autograd.Function):
    """Fake quantization of one row with a learned step and offset, straight through."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, step: Tensor, offset: Tensor, low: int, high: int, gradient: float
    ) -> Tensor:
        ctx.save_for_backward(x, step, offset)
        ctx.settings = low, high, gradient
        return round_rows(x, step, offset, low, high)

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        low, high, gradient = ctx.settings
        x, step, offset = ctx.saved_tensors
        rounding = round_rows_backward(grads[0], x, step, offset, low, high)
        return rounding.x, rounding.scale * gradient, rounding.offset, None, None, None


class LearnedStep(Quantizer):
    """Base of the quantizers with a learned step ``alpha`` and, unless absent, offset ``beta``.

    The step used is ``|alpha|``, and its gradient is multiplied by
    ``1 / sqrt(values * largest code)``.
    """

    rounding: ClassVar[type[StepRounding]] = StepRounding
    """How a row is rounded, and which gradients pass."""

    def __init__(
        self, bits: int, operand: Operand | None = None, *, has_offset: bool = True
    ) -> None:
        super().__init__(bits, operand)
        self.alpha = nn.Parameter(torch.ones(1, **module_kwargs()))
        self.beta = nn.Parameter(torch.zeros(1, **module_kwargs())) if has_offset else None

    def fake_quantize(self, x: Tensor) -> Tensor:
        y = self.rounding.apply(
            self.rows(x),
            self.step(x.dtype),
            self.offset(x.dtype),
            *self.code_range(),
            self.gradient_scale(x),
        )
        return y.view(x.shape)

    def choose_qparams(self, x: Tensor) -> QuantParams:
        return QuantParams(
            self.step(x.dtype).detach(), self.offset(x.dtype).detach(), *self.code_range()
        )

    def code_range(self) -> tuple[int, int]:
        """The smallest and the largest code."""
        return self.low, self.high

    def step(self, dtype: torch.dtype) -> Tensor:
        """The positive step of the qparams, ``(1,)``."""
        return self.alpha.to(dtype).abs().clamp_min(_TINY)

    def offset(self, dtype: torch.dtype) -> Tensor:
        """The offset of the qparams, ``(1,)``."""
        return self.alpha.new_zeros(1, dtype=dtype) if self.beta is None else self.beta.to(dtype)

    def set_interval(self, low: Tensor, high: Tensor) -> None:
        """Let the smallest code stand for ``low`` and the largest for ``high``."""
        first, last = self.code_range()
        if high > low:
            self.set_step((high - low) / (last - first))
            offset = first * self.alpha - low
        else:
            # A constant is the level of code 0, and the others stand at a distance like its own.
            self.set_step(low.abs() / last)
            offset = -low
        if self.beta is not None:
            self.beta.copy_(offset)

    def set_step(self, step: Tensor) -> None:
        """Set the step, or some step where all data were zero."""
        least = torch.full_like(self.alpha, 1 / self.code_range()[1])
        self.alpha.copy_(step if step > 0 else least)
