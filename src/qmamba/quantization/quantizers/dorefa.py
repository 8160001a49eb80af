"""DoReFa: weights through a hyperbolic tangent, activations through a fixed clip."""

from __future__ import annotations

import torch
from torch import Tensor

from qmamba.quantization.qparams import QuantParams
from qmamba.quantization.quantizers.base import Operand
from qmamba.quantization.quantizers.initialization import Sample
from qmamba.quantization.quantizers.learned_step import LearnedStep


class DoReFa(LearnedStep):
    """Nothing is learned.

    Weights: ``tanh(w)`` on the levels ``(2 k / (2^bits - 1) - 1) max|tanh(w)|``; the largest
    magnitude is put back, since the networks here have no batch norm to do it. Activations: values
    cut at the largest magnitude of the first data, or at zero below where those had no negative
    ones, where the paper has activations in [0, 1].

    Source: Zhou et al., DoReFa-Net, 2016.
    """

    def __init__(self, bits: int, operand: Operand | None = None) -> None:
        super().__init__(bits, operand)
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    def choose_parameters(self, sample: Sample) -> None:
        reach = torch.maximum(sample.lowest.abs(), sample.highest.abs())
        if self.operand.role == "weight":
            reach = reach.tanh()
        self.set_interval(reach * 0 if bool(sample.lowest >= 0) else -reach, reach)

    def fake_quantize(self, x: Tensor) -> Tensor:
        if self.operand.role != "weight":
            return super().fake_quantize(x)
        squeezed = torch.tanh(x)
        self._measure(squeezed)
        return super().fake_quantize(squeezed)

    def choose_qparams(self, x: Tensor) -> QuantParams:
        if self.operand.role == "weight":
            self._measure(torch.tanh(x))
        return super().choose_qparams(x)

    def _quantize(self, x: Tensor) -> Tensor:
        qparams = self.choose_qparams(x)
        return qparams.quantize(torch.tanh(x) if self.operand.role == "weight" else x)

    def offset(self, dtype: torch.dtype) -> Tensor:
        # Measuring the next pass must not reach into what this one saved for its backward pass.
        return super().offset(dtype).clone()

    @torch.no_grad()
    def _measure(self, squeezed: Tensor) -> None:
        reach = squeezed.detach().abs().amax()
        self.set_interval(-reach, reach)
