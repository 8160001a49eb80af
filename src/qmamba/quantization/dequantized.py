"""The full-precision network that a quantized one can be trained on as."""

from __future__ import annotations

import torch
from torch import Tensor

from qmamba.models import Network
from qmamba.models.registry import build_model
from qmamba.quantization.layers import QuantizedConv2d, QuantizedLinear, quantized_weight
from qmamba.quantization.ss2d import PROJECTION_WEIGHTS, SCAN_CONSTANTS, QuantizedSelectiveScan

_SLOWEST_DECAY = 1e-4


@torch.no_grad()
def dequantized(model: Network) -> Network:
    """A network of full precision whose weights are the values of a quantized network's codes.

    What it computes is near to what the quantized one does, since only the activations are no
    longer quantized. It is a start for training, where the weights of full precision are not at
    hand.

    Args:
        model: after :func:`~qmamba.quantization.quantize_`, or of a packed file.

    Returns:
        A network with trainable weights in float32 on the CPU, in evaluation mode, with the
        metadata of the model.

    Example:
        >>> plain = dequantized(qmamba.load("mambair-nano-x2-w4a4"))
        >>> plain.quantization is None
        True
    """
    plain = build_model(model.config)
    values = _values(model)
    state = model.state_dict()
    plain.load_state_dict(
        {
            key: values.get(key, state.get(key, tensor)).to("cpu", tensor.dtype)
            for key, tensor in plain.state_dict().items()
        }
    )
    plain.metadata, plain.load_report = model.metadata, model.load_report
    return plain.eval()


def _values(model: Network) -> dict[str, Tensor]:
    """What the quantized layers compute with, by the names of the full-precision parameters."""
    found: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, QuantizedSelectiveScan):
            for key in (*PROJECTION_WEIGHTS, *SCAN_CONSTANTS):
                value = module.constant(key)
                if key == "A_logs":
                    # The decay is -exp of the parameter, and a code may stand for none at all.
                    value = (-value).clamp(min=_SLOWEST_DECAY).log()
                found[f"{name}.{key}"] = value
        elif isinstance(module, QuantizedLinear | QuantizedConv2d):
            found[f"{name}.weight"] = quantized_weight(module)
    return found
