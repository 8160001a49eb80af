"""Min-max quantization: the levels divide the range of the values evenly."""

from __future__ import annotations

import torch
from torch import Tensor

from qmamba.quantization.qparams import QuantParams
from qmamba.quantization.quantizers.base import Operand
from qmamba.quantization.quantizers.initialization import Sample
from qmamba.quantization.quantizers.learned_step import LearnedStep


class MinMax(LearnedStep):
    """Nothing is learned: a weight has its own range, an activation that of the first data."""

    def __init__(self, bits: int, operand: Operand | None = None) -> None:
        super().__init__(bits, operand)
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    def choose_parameters(self, sample: Sample) -> None:
        self.set_interval(sample.lowest, sample.highest)

    def fake_quantize(self, x: Tensor) -> Tensor:
        self._measure(x)
        return super().fake_quantize(x)

    def choose_qparams(self, x: Tensor) -> QuantParams:
        self._measure(x)
        return super().choose_qparams(x)

    def offset(self, dtype: torch.dtype) -> Tensor:
        # Measuring the next pass must not reach into what this one saved for its backward pass.
        return super().offset(dtype).clone()

    @torch.no_grad()
    def _measure(self, x: Tensor) -> None:
        if self.operand.role == "weight":
            self.set_interval(*x.detach().aminmax())
