"""The three steps of quantizing a model, and calibration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from qmamba.errors import ConfigError, DataError
from qmamba.quantization.config import QuantConfig
from qmamba.quantization.layers import QuantizedConv2d, QuantizedLinear
from qmamba.quantization.placement import Filter, replace_layers
from qmamba.quantization.quantizers import Quantizer
from qmamba.quantization.ss2d import QuantizedSelectiveScan

AnyModel = TypeVar("AnyModel", bound=nn.Module)


def quantize_(
    model: AnyModel, config: QuantConfig | None = None, filter_fn: Filter | None = None
) -> AnyModel:
    """Quantize a MambaIR or QMamba network in place, one step at a time.

    - ``step="prepare"``: layers get fake quantizers and the model can be trained; the parameters of
      the full-precision network keep their names and values. Weight quantizers are initialized at
      once,
      activation quantizers in the first pass in training mode or in :func:`calibrate`.
    - ``step="ptq"``: the same, in evaluation mode and with all parameters fixed;
      :func:`calibrate` has to follow.
    - ``step="convert"``: weights of a prepared model become fixed codes. The model is then for
      evaluation only and computes what it computed before in evaluation mode.

    The configuration stays with the model as ``model.quantization``.

    Args:
        model: the network; changed in place.
        config: bits, quantizers and step; 4 bits and the quantizers of Q-MambaIR by default.
        filter_fn: called with each layer that would be quantized and its name, ``False`` keeps it
            in full precision. Of an SS2D it is asked for the layer, for its ``in_proj``,
            ``conv2d``, ``out_proj``, and for ``x_proj``, ``dt_proj`` and ``scan`` with the SS2D.

    Returns:
        The model.

    Raises:
        ConfigError: the model is quantized already, or for ``convert`` not prepared, or has none of
            the layers that are quantized.

    Source: conventions of torchao's ``quantize_``.

    Example:
        >>> import torch
        >>> from qmamba.models import create_model
        >>> model = create_model("mambair-nano-x2", dim=8, depths=(1,))
        >>> model = quantize_(model, QuantConfig(step="ptq", weight_bits=4, activation_bits=4))
        >>> model = calibrate(model, [torch.rand(1, 3, 8, 8)])
        >>> model = quantize_(model, QuantConfig(step="convert"))
        >>> model(torch.rand(1, 3, 8, 8)).shape
        torch.Size([1, 3, 16, 16])
    """
    config = config or QuantConfig()
    if config.step == "convert":
        _convert(model)
        return model
    replace_layers(model, config, filter_fn)
    model.quantization = config  # type: ignore[assignment]
    _initialize_constants(model)
    if config.step == "ptq":
        model.eval().requires_grad_(False)
    return model


def quantizers(model: nn.Module) -> Iterator[tuple[str, Quantizer]]:
    """All quantizers of a prepared model with their names."""
    for name, module in model.named_modules():
        if isinstance(module, Quantizer):
            yield name, module


@torch.no_grad()
def calibrate(model: AnyModel, batches: Iterable[Tensor]) -> AnyModel:
    """Start all activation quantizers of a prepared model from data, in place.

    The batches run through the model in evaluation mode with exact activations and quantized
    weights. Quantizers that were initialized before are initialized again. In a distributed run all
    processes have to take part.

    Args:
        model: after the step ``prepare`` or ``ptq``.
        batches: inputs of the model, one or more.

    Raises:
        ConfigError: the model is not prepared.
        DataError: there are no batches.
    """
    active = [q for _, q in quantizers(model) if q.operand.role == "activation"]
    if not any(True for _ in quantizers(model)):
        raise ConfigError("The model has no quantizers; prepare it with quantize_ first.")
    training = model.training
    model.eval()
    for quantizer in active:
        quantizer.sample = quantizer.empty_sample()
    try:
        count = 0
        for batch in batches:
            model(batch)
            count += 1
        if not count:
            raise DataError("Calibration needs at least one batch.")
        samples = [quantizer.sample for quantizer in active]
    finally:
        for quantizer in active:
            quantizer.sample = None
        model.train(training)
    for quantizer, sample in zip(active, samples, strict=True):
        assert sample is not None
        quantizer.initialize(sample)
    return model


@torch.no_grad()
def _initialize_constants(model: nn.Module) -> None:
    """Start the quantizers of weights and of the scan's constants."""
    for layer in _quantized_layers(model):
        if isinstance(layer, QuantizedSelectiveScan):
            layer.initialize_constants()
        elif layer.weight_quantizer is not None:
            layer.weight_quantizer(layer.weight)


def _convert(model: nn.Module) -> None:
    layers = list(_quantized_layers(model))
    if not layers:
        raise ConfigError("The model is not prepared; call quantize_ with step='prepare' first.")
    for layer in layers:
        layer.convert()
    model.eval().requires_grad_(False)


def _quantized_layers(
    model: nn.Module,
) -> Iterator[QuantizedSelectiveScan | QuantizedLinear | QuantizedConv2d]:
    for module in list(model.modules()):
        if isinstance(module, QuantizedSelectiveScan | QuantizedLinear | QuantizedConv2d):
            yield module
