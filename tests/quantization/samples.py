"""Data that the tests of quantizers share."""

from __future__ import annotations

import torch
from torch import Tensor

from qmamba.quantization import Operand, Quantizer, create_quantizer

KINDS = ("gauss", "positive", "negative", "heavy", "constant", "zeros", "two values")
OPERANDS = {"weight": Operand.weight(), "activation": Operand()}


def data(kind: str, *shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(*shape, generator=generator)
    return {
        "gauss": normal,
        "positive": normal.abs() + 0.01,
        "negative": -normal.abs() - 0.01,
        "heavy": normal**3,
        "constant": torch.full(shape, 1.0),
        "zeros": torch.zeros(shape),
        "two values": (normal > 0).float(),
    }[kind]


def started(name: str, bits: int, role: str, x: Tensor, statistics: str = "sample") -> Quantizer:
    quantizer = create_quantizer(name, bits, OPERANDS[role], statistics=statistics)
    quantizer(x)
    return quantizer
