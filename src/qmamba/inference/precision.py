"""How a prepared network computes."""

from __future__ import annotations

from typing import Literal, NoReturn

import torch
from torch import nn

from qmamba.errors import ConfigError

Precision = Literal["fp32", "bf16", "int8"]
"""``fp32``; ``bf16``: weights and activations in bfloat16, the state of the scan in float32;
``int8``: linear layers and convolutions of many channels on 8-bit integers, the rest in float32."""


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
