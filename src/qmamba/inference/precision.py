"""How a prepared network computes."""

from __future__ import annotations

from typing import Literal

from torch import nn

from qmamba.errors import ConfigError

Precision = Literal["fp32", "bf16", "int8"]
"""``fp32``; ``bf16``: weights and activations in bfloat16, the state of the scan in float32;
``int8``: linear layers and convolutions of many channels on 8-bit integers, the rest in float32."""


def require_cpu(model: nn.Module) -> None:
    """Raise ConfigError where the model is elsewhere."""
    if next(model.parameters()).device.type != "cpu":
        raise ConfigError("Only a model on the CPU can be prepared; move it there first.")
