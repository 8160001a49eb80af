"""Prepared networks: the fastest way to run a trained network where it is."""

from qmamba.inference.precision import Precision, chosen_precision
from qmamba.inference.preparation import (
    MappingNetwork,
    ModuleNetwork,
    PreparedNetwork,
    QuantizedNetwork,
    prepare,
)
from qmamba.inference.quality import PreparedQMamba
from qmamba.inference.restoration import PreparedMambaIR

__all__ = [
    "MappingNetwork",
    "ModuleNetwork",
    "Precision",
    "PreparedMambaIR",
    "PreparedNetwork",
    "PreparedQMamba",
    "QuantizedNetwork",
    "chosen_precision",
    "prepare",
]
