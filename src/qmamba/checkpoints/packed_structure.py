"""The modules of a quantized network without any values: what a packed file is read into."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from qmamba.models.fields import NetworkConfig
from qmamba.models.network import Network
from qmamba.models.registry import build_model
from qmamba.quantization.config import QuantConfig
from qmamba.quantization.layers import FrozenTensor, QuantizedConv2d, QuantizedLinear
from qmamba.quantization.placement import replace_layers
from qmamba.quantization.qparams import Grid
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
            :func:`excluded_parts` names them.

    Raises:
        ConfigError: a configuration is not possible, or no layer is quantized.
    """
    left_out = set(excluded)
    with torch.device("meta"):
        model = build_model(config)
        replace_layers(model, quantization, lambda _, name: name not in left_out)
        for module, name in constants(model):
            quantizer = getattr(module, f"{name}_quantizer")
            if quantizer is not None:
                _freeze(module, name, quantizer)
    model.quantization = quantization
    return model


def _freeze(module: nn.Module, name: str, quantizer: Quantizer) -> None:
    number = torch.empty(1)
    clamp = (number, number) if isinstance(quantizer, DLS) else None
    grid = Grid(number, number, quantizer.low, quantizer.high, clamp)
    codes = torch.empty(getattr(module, name).shape, dtype=torch.int8)
    setattr(module, f"frozen_{name}", FrozenTensor(codes, grid, quantizer.bits))
    setattr(module, f"{name}_quantizer", None)
    delattr(module, name)
    module.register_parameter(name, None)


def excluded_parts(model: nn.Module, config: NetworkConfig, quantization: QuantConfig) -> list[str]:
    """Parts that the configuration would quantize and that are not quantized in a model.

    Args:
        model: a prepared or converted network.
        config: of the network.
        quantization: how it was quantized.
    """
    asked: list[str] = []
    with torch.device("meta"):
        full = build_model(config)

        def select(_: nn.Module, name: str) -> bool:
            asked.append(name)
            return True

        replace_layers(full, quantization, select)
    return [name for name in asked if _differs(model, full, name)]


def _differs(model: nn.Module, full: nn.Module, name: str) -> bool:
    owner, _, part = name.rpartition(".")
    if part not in _PARTS:
        return isinstance(full.get_submodule(name), _KINDS) and not isinstance(
            model.get_submodule(name), _KINDS
        )
    here, there = model.get_submodule(owner), full.get_submodule(owner)
    if not isinstance(here, QuantizedSelectiveScan):
        return False
    return _is_quantized(there, part) and not _is_quantized(here, part)


def _is_quantized(module: nn.Module, part: str) -> bool:
    names = (f"{_PARTS[part]}_quantizer", f"frozen_{_PARTS[part]}", f"{_OPERANDS[part]}_quantizer")
    return any(getattr(module, name, None) is not None for name in names)
