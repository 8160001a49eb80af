"""How near a network on codes is to the converted network that defines it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from qmamba.inference.quantized.networks import QuantizedSkipBlock, QuantizedVSSBlock
from qmamba.nn import ScaledSkipBlock
from qmamba.nn.blocks import VSSBlock
from qmamba.ops.native.memory import Buffers

DECIBELS = 60
"""Least peak signal-to-noise ratio between what computes on codes and its definition."""


def decibels(actual: Tensor, expected: Tensor) -> float:
    """Peak signal-to-noise ratio with the range of the expected values as the peak."""
    error = float((actual.double() - expected.double()).square().mean())
    peak = float(expected.double().aminmax().max - expected.double().aminmax().min)
    return math.inf if error == 0 else 10 * math.log10(peak * peak / error)


def definition(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return type(model).forward(model, x)


def calls(model: nn.Module, kinds: tuple[type[nn.Module], ...], x: Tensor) -> Iterator[tuple]:
    """Each module of some kinds with its input and output while the definition runs."""
    found: list[tuple] = []
    hooks = [
        module.register_forward_hook(
            lambda module, inputs, output: found.append((module, inputs[0].clone(), output))
        )
        for module in model.modules()
        if isinstance(module, kinds)
    ]
    definition(model, x)
    for hook in hooks:
        hook.remove()
    yield from found


def check_blocks(model: nn.Module, x: Tensor) -> int:
    """Compare all blocks, each from the input that it has in the definition; how many there are."""
    count = 0
    for block, inputs, expected in calls(model, (ScaledSkipBlock, VSSBlock), x):
        skip = isinstance(block, ScaledSkipBlock)
        prepared: type = QuantizedSkipBlock if skip else QuantizedVSSBlock
        with torch.no_grad():
            actual = prepared(block, Buffers())(inputs)
        assert decibels(actual, expected) >= DECIBELS
        count += 1
    return count
