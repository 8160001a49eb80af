"""LSQ: learned step size quantization."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qmamba.nn.initialization import module_kwargs
from qmamba.quantization.quantizers.base import Operand, range_by_sign
from qmamba.quantization.quantizers.initialization import Sample
from qmamba.quantization.quantizers.learned_step import LearnedStep


class LSQ(LearnedStep):
    """A learned step, no offset; unsigned codes for activations without negative values.

    Source: Esser et al., Learned step size quantization, 2020.
    """

    signed: Tensor

    def __init__(
        self, bits: int, operand: Operand | None = None, *, has_offset: bool = False
    ) -> None:
        super().__init__(bits, operand, has_offset=has_offset)
        self.register_buffer("signed", torch.ones((), **module_kwargs(torch.bool)))

    def choose_parameters(self, sample: Sample) -> None:
        self.signed.fill_(self.operand.role == "weight" or bool(sample.lowest < -1e-5))
        self.set_step(2 * sample.mean_magnitude() / math.sqrt(self.code_range()[1]))

    def code_range(self) -> tuple[int, int]:
        return range_by_sign(self)
