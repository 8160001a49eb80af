"""How a prepared network computes."""

from __future__ import annotations

from typing import Literal, NoReturn, get_args

import torch
from torch import nn

from qmamba.errors import ConfigError
from qmamba.models import Network
from qmamba.ops.native.library import multiplies_codes
from qmamba.quantization.layers import FrozenTensor, QuantizedLinear
from qmamba.quantization.quantizers import Quantizer

Precision = Literal["auto", "fp32", "bf16", "int8", "codes"]
"""``fp32``; ``bf16``: weights and activations in bfloat16, the state of the scan in float32;
``int8``: linear layers and convolutions of many channels on 8-bit integers, the rest in float32;
``codes``: a quantized network as it was trained, weights and activations on its own codes;
``auto``: what :func:`chosen_precision` says."""


FEWEST_CHANNELS = 96
"""Narrower blocks take longer on codes than in float32, because making codes costs as much as
products of few channels."""


def chosen_precision(model: Network, precision: Precision) -> Precision:
    """The precision that ``"auto"`` stands for, by the network and the processor; others stay.

    A network in full precision runs in ``"fp32"``. A quantized one runs on its ``"codes"`` where
    that is faster: where the C++ kernel has instructions for products of 8-bit integers (VNNI) and
    its blocks have at least :data:`FEWEST_CHANNELS` channels. Elsewhere it runs in ``"fp32"``: then
    its weights are those of the codes, and its activations are not quantized. One whose weights
    alone are quantized is the same function in ``"fp32"``. Some keep to their codes everywhere:
    those that are not converted yet, and those of the official code (``compat``), whose flaws are
    wanted.

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
    converted = any(isinstance(module, FrozenTensor) for module in model.modules())
    if quantization.compat or not converted:
        return "codes"
    if not any(isinstance(module, Quantizer) for module in model.modules()):
        return "fp32"
    on_cpu = next(iter(model.state_dict().values())).device.type == "cpu"
    linear = next((m for m in model.modules() if isinstance(m, QuantizedLinear)), None)
    is_wide = linear is not None and linear.in_features >= FEWEST_CHANNELS
    return "codes" if on_cpu and is_wide and multiplies_codes() else "fp32"


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
