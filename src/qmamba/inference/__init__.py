"""Prepared networks: the fastest way to run a trained network where it is."""

from qmamba.inference.precision import Precision
from qmamba.inference.preparation import PreparedNetwork, QuantizedNetwork, prepare
from qmamba.inference.quality import PreparedQMamba
from qmamba.inference.restoration import PreparedMambaIR

__all__ = [
    "Precision",
    "PreparedMambaIR",
    "PreparedNetwork",
    "PreparedQMamba",
    "QuantizedNetwork",
    "prepare",
]
