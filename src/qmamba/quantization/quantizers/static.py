"""The static activation quantizer of Q-MambaIR: a learned step and a learned real offset."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qmamba.nn.initialization import module_kwargs
from qmamba.quantization.quantizers.base import Operand, range_by_sign
from qmamba.quantization.quantizers.initialization import Sample
from qmamba.quantization.quantizers.interval_search import search_interval
from qmamba.quantization.quantizers.learned_step import LearnedStep


class Static(LearnedStep):
    """Learned step and offset, initialized for the least squared error.

    Source: ``Act_Quant`` of Q-MambaIR, after LSQ+; the initialization is our own.
    """

    def choose_parameters(self, sample: Sample) -> None:
        self.set_interval(*search_interval(sample.values(), 2**self.bits))


class OfficialStatic(LearnedStep):
    """The static quantizer as in the official code: no guard against a step of zero or below."""

    signed: Tensor

    def __init__(self, bits: int, operand: Operand | None = None) -> None:
        super().__init__(bits, operand)
        self.register_buffer("signed", torch.zeros((), **module_kwargs(torch.bool)))

    def choose_parameters(self, sample: Sample) -> None:
        self.signed.copy_(sample.lowest < -1e-5)
        self.alpha.copy_(2 * sample.mean_magnitude() / math.sqrt(self.code_range()[1]))

    def step(self, dtype: torch.dtype) -> Tensor:
        return self.alpha.to(dtype)

    def code_range(self) -> tuple[int, int]:
        return range_by_sign(self)

    def gradient_scale(self, x: Tensor) -> float:
        return 1 / math.sqrt(x.numel() * self.operand.copies * self.code_range()[1])
