"""LSQ+: learned step and offset for activations, learned step for weights."""

from __future__ import annotations

import torch

from qmamba.quantization.quantizers.base import Operand
from qmamba.quantization.quantizers.initialization import Sample
from qmamba.quantization.quantizers.interval_search import search_interval
from qmamba.quantization.quantizers.learned_step import LearnedStep


class LSQPlus(LearnedStep):
    """Weights: symmetric, from three deviations around the mean. Activations: with an offset.

    The activations are initialized for the least squared error, found by search where the paper
    descends a gradient.

    Source: Bhalgat et al., LSQ+: improving low-bit quantization through learnable offsets and
    better initialization, 2020.
    """

    def __init__(self, bits: int, operand: Operand | None = None) -> None:
        is_weight = operand is not None and operand.role == "weight"
        super().__init__(bits, operand, has_offset=not is_weight)

    def choose_parameters(self, sample: Sample) -> None:
        if self.beta is not None:
            self.set_interval(*search_interval(sample.values(), 2**self.bits))
            return
        mean, deviation = sample.statistics.mean(0)[:2]
        reach = torch.maximum((mean - 3 * deviation).abs(), (mean + 3 * deviation).abs())
        self.set_step(reach / 2 ** (self.bits - 1))
