"""What a restoration network costs: parameters, bits, bytes, multiply-adds and bit operations."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from qmamba.models import MambaIR, RestorationConfig, build_model, count_flops
from qmamba.nn import SS2D, SelectiveScan
from qmamba.quantization import QuantConfig, quantized_names

FULL_BITS = 32

OUTPUT_HEIGHT, OUTPUT_WIDTH = 720, 1280
"""Size of the output for which papers count the operations of super-resolution."""


@dataclass(frozen=True)
class NetworkCost:
    """The size and the work of a network."""

    parameters: int
    """Number of weights of the network itself, without those of its quantizers."""
    weight_bits: int
    """Bits of the quantized weights, 32 in full precision."""
    activation_bits: int
    """Bits of the quantized activations."""
    bytes: int | None
    """Of the file, None where there is none."""
    macs: int
    """Multiply-adds for an output of 720 x 1280, whatever their precision."""
    bops: int
    """Multiply-adds times the bits of both factors. Those of layers that stay in full precision and
    of the recurrence of the scan, whose state is never quantized, count with 32 x 32."""


def network_cost(
    config: RestorationConfig,
    quantization: QuantConfig | None = None,
    *,
    file_bytes: int | None = None,
) -> NetworkCost:
    """Count without running anything.

    Args:
        config: of the network.
        quantization: how it is quantized; None in full precision.
        file_bytes: size of its weights file.
    """
    with torch.device("meta"):
        model = build_model(config)
    assert isinstance(model, MambaIR)
    height, width = OUTPUT_HEIGHT // config.scale, OUTPUT_WIDTH // config.scale
    macs = count_flops(config, height, width).total
    bops = macs * FULL_BITS**2
    if quantization is not None:
        for layer, count in _quantized_weights(model).items():
            settings = quantization.layer(layer)
            pair = (settings.weight_bits or FULL_BITS) * (settings.activation_bits or FULL_BITS)
            bops -= count * height * width * (FULL_BITS**2 - pair)
    return NetworkCost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        weight_bits=FULL_BITS if quantization is None else quantization.weight_bits or FULL_BITS,
        activation_bits=(
            FULL_BITS if quantization is None else quantization.activation_bits or FULL_BITS
        ),
        bytes=file_bytes,
        macs=macs,
        bops=bops,
    )


def _quantized_weights(model: MambaIR) -> dict[str, int]:
    """Number of weights of every layer that is quantized; each meets every pixel once."""
    found = {}
    layers = dict(model.named_modules())
    for name in quantized_names(model):
        layer = layers[name]
        if isinstance(layer, SelectiveScan):
            for part in ("in_proj", "conv2d", "out_proj") if isinstance(layer, SS2D) else ():
                found[f"{name}.{part}"] = layers[f"{name}.{part}"].weight.numel()
            found[f"{name}.x_proj"] = layer.x_proj_weight.numel()
            found[f"{name}.dt_proj"] = layer.dt_projs_weight.numel()
        else:
            found[name] = layer.weight.numel()
    return found
