"""What all quantizers share: a start from data, fake-quantized values, codes and their qparams."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed
from torch import Tensor, nn

from qmamba.errors import BackendError, ConfigError
from qmamba.nn.initialization import module_kwargs
from qmamba.ops.scan.operator import is_transformed
from qmamba.quantization.qparams import QuantParams, check_bits, signed_range
from qmamba.quantization.quantizers.initialization import Sample

Role = Literal["weight", "activation"]


@dataclass(frozen=True)
class Operand:
    """What a quantizer has to know about its tensor."""

    role: Role = "activation"
    """A ``weight`` is the same for every input, an ``activation`` is not."""
    batched: bool = True
    """The first axis counts images."""
    copies: int = 1
    """How often the tensor occurs in the definition of the network, where the four routes read
    their own permuted copies; it decides the count of values in statistics and gradient scales."""

    @classmethod
    def weight(cls) -> Operand:
        return cls("weight", batched=False)


class Quantizer(nn.Module):
    """Base of the quantizers: values in, values of ``2 ** bits`` levels out.

    A quantizer is initialized by the first tensor it sees: a weight at once, an activation in the
    first training pass or in :func:`~qmamba.quantization.calibrate`. In a distributed run every
    process takes over the parameters of an activation from the first one; weights are the same in
    all.

    Args:
        bits: width of a code: 2, 3, 4 or 8.
        operand: what the tensor is.

    Raises:
        ConfigError: the width is not allowed.
    """

    normalized_initialization = False
    """Whether initialization needs values less their mean and divided by their deviation."""
    initialized: Tensor

    def __init__(self, bits: int, operand: Operand | None = None) -> None:
        check_bits(bits)
        super().__init__()
        self.bits = bits
        self.operand = operand or Operand()
        self.low, self.high = signed_range(bits)
        self.sample: Sample | None = None
        self._ready = False
        self.register_buffer("initialized", torch.zeros((), **module_kwargs(torch.bool)))

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize: the value of the level of each element, in the shape and dtype of ``x``.

        Computed in float32 (float64 for float64) whatever the dtype. While a calibration runs, the
        values pass unchanged.

        Raises:
            ConfigError: an activation quantizer has not seen data yet and is not in training.
            BackendError: a transform of ``torch.func`` or forward-mode differentiation is at work.
        """
        if is_transformed():
            raise BackendError(
                "A quantizer gives first derivatives through torch.autograd and takes no part in "
                "torch.func (grad, vmap, jvp). Call torch.autograd.grad, or take the network "
                "without quantizers: qmamba.quantization.dequantized."
            )
        if self.sample is not None:
            self.sample.add(x.detach())
            return x
        values = _at_least_float32(x)
        self._require_initialized(values)
        return self.fake_quantize(values).to(x.dtype)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Fake-quantize float32 or float64 values; differentiable."""
        raise NotImplementedError

    def choose_qparams(self, x: Tensor) -> QuantParams:
        """The quantization parameters of these values."""
        raise NotImplementedError

    def choose_parameters(self, sample: Sample) -> None:
        """Choose the parameters from values, in one process."""
        raise NotImplementedError

    def quantize(self, x: Tensor) -> Tensor:
        """The code of each value: int8, or uint8 without negative codes.

        ``choose_qparams(x).dequantize(quantize(x))`` is what the quantizer returns for ``x`` in
        evaluation.
        """
        with torch.no_grad():
            values = _at_least_float32(x)
            self._require_initialized(values)
            return self._quantize(values)

    def _quantize(self, x: Tensor) -> Tensor:
        return self.choose_qparams(x).quantize(x)

    @property
    def ready(self) -> bool:
        """Whether the quantizer is initialized."""
        if not self._ready:
            self._ready = bool(self.initialized)
        return self._ready

    @torch.no_grad()
    def initialize(self, sample: Sample) -> None:
        """Set the parameters from values, alike in all processes of a distributed run."""
        self.choose_parameters(sample)
        self.initialized.fill_(True)
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if distributed and self.operand.role == "activation":
            for tensor in (*self.parameters(), *self.buffers()):
                torch.distributed.broadcast(tensor.detach(), src=0)
        self._ready = True

    def _require_initialized(self, x: Tensor) -> None:
        if self.ready:
            return
        if not self.training and self.operand.role == "activation":
            raise ConfigError(
                "A quantizer has seen no data yet; run one pass in training mode, calibrate the "
                "model, or load trained quantizers."
            )
        sample = self.empty_sample()
        sample.add(x.detach())
        self.initialize(sample)

    def empty_sample(self) -> Sample:
        """What collects values for :meth:`initialize`."""
        return Sample(self.operand.batched, normalize=self.normalized_initialization)

    def gradient_scale(self, x: Tensor) -> float:
        """``1 / sqrt(values * high)``, by which LSQ shrinks the gradient of a step size."""
        return 1 / math.sqrt(x.numel() * self.operand.copies * self.high)

    def rows(self, x: Tensor) -> Tensor:
        """The values as one row."""
        return x.reshape(1, -1)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *others: Any
    ) -> None:
        self._ready = False
        if f"{prefix}initialized" not in state_dict:
            # The weights came without quantizers, so what these were initialized with is gone.
            self.initialized.zero_()
        super()._load_from_state_dict(state_dict, prefix, *others)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, {self.operand.role}"


def range_by_sign(quantizer: Any) -> tuple[int, int]:
    """The codes of an official quantizer, signed if its first data were."""
    if bool(quantizer.signed):
        return -(2 ** (quantizer.bits - 1)), 2 ** (quantizer.bits - 1) - 1
    return 0, 2**quantizer.bits - 1


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
