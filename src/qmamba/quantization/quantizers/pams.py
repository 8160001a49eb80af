"""PAMS: a learned largest magnitude for activations, the magnitude at hand for weights."""

from __future__ import annotations

import torch
from torch import Tensor

from qmamba.quantization.quantizers.base import Operand
from qmamba.quantization.quantizers.initialization import Sample
from qmamba.quantization.quantizers.learned_step import LearnedStep


class PAMS(LearnedStep):
    """Symmetric codes up to ``2^(bits - 1) - 1``, so zero is a level and the smallest code unused.

    ``alpha`` is the largest magnitude that an activation keeps; it starts as the largest seen, and
    gets the gradient of the values beyond it. A weight is divided by its largest magnitude.

    Source: Li et al., PAMS: quantized super-resolution via parameterized max scale, 2020.
    """

    def __init__(self, bits: int, operand: Operand | None = None) -> None:
        super().__init__(bits, operand, has_offset=False)
        self.low = -self.high
        if self.operand.role == "weight":
            self.alpha.requires_grad_(False)

    def choose_parameters(self, sample: Sample) -> None:
        self.set_step(torch.maximum(sample.lowest.abs(), sample.highest.abs()))

    def fake_quantize(self, x: Tensor) -> Tensor:
        if self.operand.role == "weight":
            self._measure(x)
            return super().fake_quantize(x)
        limit = self.alpha.to(x.dtype).abs()
        # Within the limits the rounding passes gradients and the step gets none; beyond, the limit.
        clipped = torch.minimum(torch.maximum(x, -limit), limit)
        return clipped + (super().fake_quantize(clipped.detach()) - clipped).detach()

    def _quantize(self, x: Tensor) -> Tensor:
        if self.operand.role == "weight":
            self._measure(x)
        return super()._quantize(x)

    def _measure(self, weight: Tensor) -> None:
        with torch.no_grad():
            self.alpha.copy_(weight.detach().abs().amax())

    def step(self, dtype: torch.dtype) -> Tensor:
        return super().step(dtype) / self.high
