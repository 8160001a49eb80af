"""Quantization: fake-quantized training, calibration, and fixed codes."""

from qmamba.quantization.config import LayerSettings, QuantConfig
from qmamba.quantization.dequantization import dequantized
from qmamba.quantization.layers import FrozenTensor, QuantizedConv2d, QuantizedLinear
from qmamba.quantization.methods import METHODS, quantization_of
from qmamba.quantization.placement import quantized_names
from qmamba.quantization.prepare import calibrate, quantize_, quantizers
from qmamba.quantization.qparams import BITS, QuantParams
from qmamba.quantization.quantizers import (
    DLS,
    LSQ,
    PAMS,
    QUANTIZERS,
    RFA,
    STATISTICS,
    DoReFa,
    LSQPlus,
    MinMax,
    Operand,
    Quantizer,
    QuantSR,
    Static,
    create_quantizer,
)
from qmamba.quantization.ss2d import QuantizedSS2D

__all__ = [
    "BITS",
    "DLS",
    "LSQ",
    "METHODS",
    "PAMS",
    "QUANTIZERS",
    "RFA",
    "STATISTICS",
    "DoReFa",
    "FrozenTensor",
    "LSQPlus",
    "LayerSettings",
    "MinMax",
    "Operand",
    "QuantConfig",
    "QuantParams",
    "QuantSR",
    "QuantizedConv2d",
    "QuantizedLinear",
    "QuantizedSS2D",
    "Quantizer",
    "Static",
    "calibrate",
    "create_quantizer",
    "dequantized",
    "quantization_of",
    "quantize_",
    "quantized_names",
    "quantizers",
]
