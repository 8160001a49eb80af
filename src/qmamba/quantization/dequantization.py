"""A quantized network as one in full precision, whose weights are the values of the codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qmamba.errors import ConfigError
from qmamba.models import Network, build_model
from qmamba.quantization.layers import QuantizedConv2d, QuantizedLinear, quantized_weight
from qmamba.quantization.ss2d import QuantizedSelectiveScan

_LEAST_DECAY = 1e-6


@torch.no_grad()
def dequantized(model: Network) -> Network:
    """The plain network with the weights that a quantized one computes with.

    Its activations are not quantized, and that alone is the difference: a network whose weights
    only are quantized computes the same function.

    Args:
        model: a prepared or converted network; it stays as it is.

    Returns:
        A new network on the same device, in evaluation mode, with frozen parameters of its own.

    Raises:
        ConfigError: a decay of the scan is positive, which no network in full precision can have.

    Example:
        >>> import torch, qmamba
        >>> from qmamba.quantization import dequantized
        >>> model = qmamba.load("mambair-nano-x2-w4a4")
        >>> plain = dequantized(model)
        >>> plain.quantization is None, plain(torch.rand(1, 3, 8, 8)).shape
        (True, torch.Size([1, 3, 16, 16]))
    """
    given = model.state_dict()
    modules = dict(model.named_modules())
    plain = build_model(model.config)
    state = {}
    for name in plain.state_dict():
        parent, _, leaf = name.rpartition(".")
        value = _weight(modules[parent], leaf)
        state[name] = (given[name] if value is None else value).detach().clone()
    plain.load_state_dict(state, assign=True)
    plain.metadata, plain.load_report = model.metadata, model.load_report
    return plain.eval().requires_grad_(False)


def _weight(module: nn.Module, name: str) -> Tensor | None:
    """What a quantized layer computes with for one of its parameters; None for any other."""
    if isinstance(module, QuantizedLinear | QuantizedConv2d):
        return quantized_weight(module) if name == "weight" else None
    if not isinstance(module, QuantizedSelectiveScan) or not hasattr(module, f"{name}_quantizer"):
        return None
    value = module.constant(name)
    if name != "A_logs":
        return value
    if bool((value > 0).any()):
        raise ConfigError(
            "A scan of this quantized network has a positive decay, which a network in full "
            "precision cannot have; run it with precision='codes'."
        )
    # A code may stand for no decay at all, whose logarithm no file could hold.
    return torch.log((-value).clamp(min=_LEAST_DECAY))
