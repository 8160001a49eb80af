"""Loading a restoration network, in full precision or quantized, and running it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from qmamba.checkpoints import load
from qmamba.errors import ConfigError
from qmamba.inference.prepare import Precision, inference_network
from qmamba.models import Network

_QUANTIZATION = "qmamba.quantization"


def load_network(
    source: str | Path, *, device: torch.device | str = "cpu", revision: str | None = None
) -> nn.Module:
    """Load a MambaIR of any kind of file: ours, packed to few bits, or an official checkpoint.

    Raises:
        CheckpointError: the weights cannot be found or do not fit.
        ConfigError: the device is not available.
    """
    return load(source, device=device, revision=revision).requires_grad_(False)


def runner(model: nn.Module, precision: Precision) -> Callable[[Tensor], Tensor]:
    """A function from images to restored images, both in [0, 1] and float32, without gradients.

    Networks in full precision are prepared for inference, so their weights are those of this
    moment.

    Args:
        model: the network, in evaluation mode.
        precision: ``"fp32"``; ``"bf16"`` for bfloat16 activations with the state of the scan in
            float32; ``"int8"`` for products of 8-bit integers, on the CPU with the C++ kernel.

    Raises:
        ConfigError: the precision is unknown, or the network is quantized and it is not ``fp32``.
    """
    if not _is_quantized(model):
        return inference_network(cast(Network, model), precision)
    if precision != "fp32":
        raise ConfigError(
            f"A quantized network brings its own precision; leave precision={precision!r} out."
        )

    @torch.no_grad()
    def run(images: Tensor) -> Tensor:
        restored: Tensor = model(images)
        return restored.float()

    return run


def _is_quantized(model: nn.Module) -> bool:
    return any(type(layer).__module__.startswith(_QUANTIZATION) for layer in model.modules())
