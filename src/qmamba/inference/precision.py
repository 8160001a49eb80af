"""How a prepared network computes."""

from __future__ import annotations

from typing import Literal, NoReturn, get_args

import torch
from torch import nn

from qmamba.errors import ConfigError
from qmamba.models import Network
from qmamba.quantization.quantizers import Quantizer

Precision = Literal["auto", "fp32", "bf16", "int8", "codes"]
"""``fp32``; ``bf16``: weights and activations in bfloat16, the state of the scan in float32;
``int8``: linear layers and convolutions of many channels on 8-bit integers, the rest in float32;
``codes``: a quantized network as it was trained, weights and activations on its own codes;
``auto``: what :func:`chosen_precision` says."""


def chosen_precision(model: Network, precision: Precision) -> Precision:
    """The precision that ``"auto"`` stands for, by the network; others stay.

    It is the one in which the network computes what was trained: ``"fp32"`` of a network in full
    precision and of one whose weights alone are quantized, which is the same function both ways;
    ``"codes"`` of one with quantized activations. Their ranges cut values off, and the network
    was trained with that: without them ``mambair-nano-x2-w4a4`` loses 0.20 dB on Set5
    (``docs/quantization.md``).

    Raises:
        ConfigError: the precision is unknown, or it is ``"codes"`` of a network that has none.
    """
    if precision not in get_args(Precision):
        raise ConfigError(
            f"The option precision={precision!r} is unknown; choose auto, fp32, bf16, int8 or "
            "codes."
        )
    quantization = model.quantization
    if precision == "codes" and quantization is None:
        raise ConfigError(
            "The option precision='codes' is for quantized networks, and this one is in full "
            "precision; choose auto, fp32, bf16 or int8."
        )
    if precision != "auto":
        return precision
    if quantization is None:
        return "fp32"
    is_quantized = any(
        isinstance(module, Quantizer) and module.operand.role == "activation"
        for module in model.modules()
    )
    return "codes" if quantization.compat or is_quantized else "fp32"


def own_precision() -> torch.autocast:
    """Where autocast of the caller is off: a prepared network has a precision of its own."""
    return torch.autocast("cpu", enabled=False)


class ProcessBound:
    """A prepared network: packed weights have no form outside of the process."""

    def __reduce__(self) -> NoReturn:
        raise ConfigError(
            f"A {type(self).__name__} cannot be pickled or copied; do that with its model, a "
            "Scorer or a Restorer, and prepare the copy."
        )


def require_cpu(model: nn.Module) -> None:
    """Raise ConfigError where the model is elsewhere."""
    if next(model.parameters()).device.type != "cpu":
        raise ConfigError("Only a model on the CPU can be prepared; move it there first.")
