"""The quantizers, one module for each method, all behind :class:`Quantizer`."""

from __future__ import annotations

from collections.abc import Callable

from qmamba.errors import ConfigError
from qmamba.quantization.quantizers.base import Operand, Quantizer, Role
from qmamba.quantization.quantizers.dls import DLS, STATISTICS, OfficialDLS
from qmamba.quantization.quantizers.dorefa import DoReFa
from qmamba.quantization.quantizers.lsq import LSQ
from qmamba.quantization.quantizers.lsq_plus import LSQPlus
from qmamba.quantization.quantizers.minmax import MinMax
from qmamba.quantization.quantizers.pams import PAMS
from qmamba.quantization.quantizers.quantsr import QuantSR
from qmamba.quantization.quantizers.rfa import RFA, OfficialRFA
from qmamba.quantization.quantizers.static import OfficialStatic, Static

QUANTIZERS: dict[str, Callable[..., Quantizer]] = {
    "rfa": RFA,
    "dls": DLS,
    "static": Static,
    "lsq": LSQ,
    "lsq+": LSQPlus,
    "pams": PAMS,
    "dorefa": DoReFa,
    "quantsr": QuantSR,
    "minmax": MinMax,
}
"""Every quantizer by the name that a configuration has for it."""

OFFICIAL: dict[str, Callable[..., Quantizer]] = {
    "rfa": OfficialRFA,
    "dls": OfficialDLS,
    "static": OfficialStatic,
}
"""The three of Q-MambaIR as its code computes them."""


def create_quantizer(
    name: str,
    bits: int,
    operand: Operand,
    *,
    statistics: str = "sample",
    compat: bool = False,
) -> Quantizer:
    """Build a quantizer.

    Args:
        name: a key of :data:`QUANTIZERS`.
        bits: width of a code: 2, 3, 4 or 8.
        operand: what is quantized.
        statistics: of ``dls`` alone, one of :data:`STATISTICS`.
        compat: compute as the official code does, where there is one.

    Raises:
        ConfigError: the name or a value is unknown.
    """
    if name not in QUANTIZERS:
        raise ConfigError(f"The quantizer {name!r} is unknown; choose one of {_names()}.")
    if compat:
        if name not in OFFICIAL:
            raise ConfigError(f"The option compat knows {', '.join(OFFICIAL)}, and not {name!r}.")
        return OFFICIAL[name](bits, operand)
    if name == "dls":
        return DLS(bits, operand, statistics=statistics)
    return QUANTIZERS[name](bits, operand)


def _names() -> str:
    return ", ".join(QUANTIZERS)


__all__ = [
    "DLS",
    "LSQ",
    "OFFICIAL",
    "PAMS",
    "QUANTIZERS",
    "RFA",
    "STATISTICS",
    "DoReFa",
    "LSQPlus",
    "MinMax",
    "OfficialDLS",
    "OfficialRFA",
    "OfficialStatic",
    "Operand",
    "QuantSR",
    "Quantizer",
    "Role",
    "Static",
    "create_quantizer",
]
