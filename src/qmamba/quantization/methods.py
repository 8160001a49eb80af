"""Quantization methods by name: which quantizers they have for activations and for weights."""

from __future__ import annotations

import re

from qmamba.errors import ConfigError
from qmamba.quantization.config import QuantConfig
from qmamba.quantization.quantizers import QUANTIZERS

METHODS: dict[str, tuple[str, str]] = {
    "dls+rfa": ("dls", "rfa"),
    "dls": ("dls", "static"),
    "rfa": ("static", "rfa"),
    **{name: (name, name) for name in QUANTIZERS if name not in ("dls", "rfa")},
}
"""Quantizers of activations and of weights by the name of a method. ``dls`` and ``rfa`` alone have
the static quantizer of Q-MambaIR in the place of the other; the others serve for both."""

_BITS = re.compile(r"w(\d+)a(\d+)")


def quantization_of(bits: str, method: str = "dls+rfa") -> QuantConfig:
    """The configuration of a method at some bits, such as ``"w4a4"``.

    Raises:
        ConfigError: the bits cannot be read or are not allowed, or the method is unknown.
    """
    match = _BITS.fullmatch(bits.lower())
    if match is None:
        raise ConfigError(f"The bits of weights and activations read like w4a4, got {bits!r}.")
    if method not in METHODS:
        raise ConfigError(f"The method must be one of {', '.join(METHODS)}, got {method!r}.")
    activation, weight = METHODS[method]
    return QuantConfig(
        weight_bits=int(match[1]),
        activation_bits=int(match[2]),
        weight=weight,
        activation=activation,
    )
