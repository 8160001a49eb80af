"""The modules of a quantized network without any values: what a packed file is read into."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from qmamba.errors import ConfigError
from qmamba.models.fields import NetworkConfig
from qmamba.models.network import Network
from qmamba.models.registry import build_model
from qmamba.quantization.config import QuantConfig
from qmamba.quantization.layers import FrozenTensor, QuantizedConv2d, QuantizedLinear
from qmamba.quantization.placement import Filter, replace_layers
from qmamba.quantization.qparams import QuantParams
from qmamba.quantization.quantizers import DLS, Quantizer
from qmamba.quantization.ss2d import PROJECTION_WEIGHTS, SCAN_CONSTANTS, QuantizedSelectiveScan

_KINDS = (QuantizedSelectiveScan, QuantizedLinear, QuantizedConv2d)
# How the projections and the scan of an SS2D are called in a configuration, and one of the
# constants of each.
_PARTS = {"x_proj": "x_proj_weight", "dt_proj": "dt_projs_weight", "scan": "A_logs"}
_OPERANDS = {"x_proj": "x_proj_input", "dt_proj": "dt_proj_input", "scan": "steps"}


def constants(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """The quantized layers and the names of their parameters that are or may be codes."""
    for module in list(model.modules()):
        if isinstance(module, QuantizedSelectiveScan):
            yield from ((module, name) for name in (*PROJECTION_WEIGHTS, *SCAN_CONSTANTS))
        elif isinstance(module, QuantizedLinear | QuantizedConv2d):
            yield module, "weight"


def frozen_structure(
    config: NetworkConfig, quantization: QuantConfig, excluded: list[str]
) -> Network:
    """A converted model on the meta device, its codes without values.

    Args:
        config: of the network.
        quantization: how it was quantized.
        excluded: the parts that stayed in full precision by choice of the caller, as
            :func:`frozen_twin` names them.

    Raises:
        ConfigError: a configuration is not possible, or no layer is quantized.
    """
    left_out, asked = set(excluded), set()

    def is_selected(_: nn.Module, name: str) -> bool:
        asked.add(name)
        return name not in left_out

    model = _frozen(config, quantization, is_selected)
    if unknown := sorted(left_out - asked):
        raise ConfigError(f"the network has no part {unknown[0][:200]!r} that could be left out.")
    return model


def _frozen(config: NetworkConfig, quantization: QuantConfig, is_selected: Filter) -> Network:
    with torch.device("meta"):
        model = build_model(config)
        replace_layers(model, quantization, is_selected)
        for module, name in constants(model):
            quantizer = getattr(module, f"{name}_quantizer")
            if quantizer is not None:
                _freeze(module, name, quantizer)
    model.quantization = quantization
    return model


def _freeze(module: nn.Module, name: str, quantizer: Quantizer) -> None:
    number = torch.empty(1, dtype=torch.float32, device="meta")
    clamp = (number, number) if isinstance(quantizer, DLS) else None
    qparams = QuantParams(number, number, quantizer.low, quantizer.high, clamp)
    codes = torch.empty(getattr(module, name).shape, dtype=torch.int8, device="meta")
    setattr(module, f"frozen_{name}", FrozenTensor(codes, qparams, quantizer.bits))
    setattr(module, f"{name}_quantizer", None)
    delattr(module, name)
    module.register_parameter(name, None)


def frozen_twin(
    model: nn.Module, config: NetworkConfig, quantization: QuantConfig
) -> tuple[Network, list[str]]:
    """The structure of a converted model, and the parts that its caller kept in full precision.

    Args:
        model: a converted network.
        config: of the network.
        quantization: how it was quantized.

    Returns:
        As :func:`frozen_structure`, with its ``excluded``: the parts that the configuration would
        quantize and that are not quantized in the model.
    """
    excluded: list[str] = []

    def is_selected(layer: nn.Module, name: str) -> bool:
        owner, _, part = name.rpartition(".")
        if part not in _PARTS:
            selected = isinstance(model.get_submodule(name), _KINDS)
        else:
            wanted = quantization.activation_quantizer(name) is not None or (
                part != "scan" and quantization.weight_quantizer(name) is not None
            )
            selected = not wanted or _is_quantized(model.get_submodule(owner), part)
        if not selected:
            excluded.append(name)
        return selected

    return _frozen(config, quantization, is_selected), excluded


def _is_quantized(module: nn.Module, part: str) -> bool:
    names = (f"{_PARTS[part]}_quantizer", f"frozen_{_PARTS[part]}", f"{_OPERANDS[part]}_quantizer")
    return any(getattr(module, name, None) is not None for name in names)
