"""The one door to torch's private inference operators: linear and convolution layers, packed once.

oneDNN can keep a layer's weights in the layout of its own matrix kernels and apply the activation
or the residual addition to results that are still in registers. torch uses this in compiled graphs
and has no public function for it, so the operators are called by their private names here and
nowhere else. Each is tried once on a small input; where it is missing or gives another result than
the public function, the public function is used.
"""

from __future__ import annotations

import math
import time
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["silu", "gelu"]
_FUSED: dict[Activation | None, tuple[str, list[Any], str]] = {
    None: ("none", [], ""),
    "silu": ("swish", [], ""),
    "gelu": ("gelu", [], "none"),
}
"""How oneDNN calls the activations."""

_TIMED_ROWS = 4096


class PackedLinear:
    """``F.linear`` with fixed weights, then an optional GELU, or the addition of a residual.

    Args:
        weight: ``(outputs, inputs)``; computed in its dtype, float32 or bfloat16.
        bias: ``(outputs,)`` or ``None``.
        rows: how many rows a call usually has, which may decide the packed layout.
        timed: time both operators once for these sizes and take ``F.linear`` where it is clearly
            faster; otherwise the packed one is taken wherever it works.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, rows: int, *, timed: bool = False
    ) -> None:
        self._is_packed = packed_linear_works(weight.dtype)
        if self._is_packed and timed:
            outputs, inputs = weight.shape
            self._is_packed = not plain_is_faster(inputs, outputs, rows, weight.dtype)
        self._bias = None if bias is None else bias.detach().to(weight.dtype, copy=True)
        if self._is_packed:
            contiguous = weight.detach().contiguous()
            self._weight = torch.ops.mkldnn._reorder_linear_weight(contiguous, rows)
        else:
            self._weight = weight.detach().clone()

    def __call__(self, x: Tensor, *, gelu: bool = False, residual: Tensor | None = None) -> Tensor:
        """``(..., inputs)`` to ``(..., outputs)``; a residual has the shape of the result."""
        if not self._is_packed:
            y = F.linear(x, self._weight, self._bias)
            y = F.gelu(y) if gelu else y
            return y if residual is None else y.add_(residual)
        operator = torch.ops.mkldnn._linear_pointwise
        if residual is not None:
            return operator.binary(x, residual, self._weight, self._bias, "add")
        activation = "gelu" if gelu else "none"
        return operator(x, self._weight, self._bias, activation, [], "none" if gelu else "")


class PackedConv2d:
    """A convolution on channel-last maps with fixed weights, then an optional SiLU or GELU.

    Args:
        layer: the convolution, zero-padded.
        dtype: float32 or bfloat16.
        size: height and width of the maps it usually has, which may decide the packed layout.
    """

    def __init__(
        self, layer: nn.Conv2d, dtype: torch.dtype, size: tuple[int, int] = (56, 56)
    ) -> None:
        weight = layer.weight.detach().to(dtype, copy=True)
        self._weight = weight.contiguous(memory_format=torch.channels_last)
        self._bias = None if layer.bias is None else layer.bias.detach().to(dtype, copy=True)
        self._stride, self._dilation = list(layer.stride), list(layer.dilation)
        self._padding = [int(p) for p in layer.padding]
        self._groups = layer.groups
        self._is_packed = packed_convolution_works(dtype)
        if self._is_packed:
            # Otherwise oneDNN puts the weights into its own order in every call, which costs more
            # than the convolution itself for many channels and few pixels.
            self._weight = torch.ops.aten.mkldnn_reorder_conv2d_weight(
                self._weight.to_mkldnn(),
                self._padding,
                self._stride,
                self._dilation,
                self._groups,
                [1, layer.in_channels, *size],
            )

    def __call__(self, x: Tensor, *, activation: Activation | None = None) -> Tensor:
        """``(batch, height, width, channels)`` to the same layout."""
        images = x.permute(0, 3, 1, 2)
        if self._is_packed:
            y = torch.ops.mkldnn._convolution_pointwise(
                images,
                self._weight,
                self._bias,
                self._padding,
                self._stride,
                self._dilation,
                self._groups,
                *_FUSED[activation],
            )
        else:
            y = F.conv2d(
                images,
                self._weight,
                self._bias,
                self._stride,
                self._padding,
                self._dilation,
                self._groups,
            )
            y = y if activation is None else getattr(F, activation)(y)
        return y.permute(0, 2, 3, 1)


@cache
def plain_is_faster(inputs: int, outputs: int, rows: int, dtype: torch.dtype) -> bool:
    """Whether ``F.linear`` clearly beats the packed operator here, from the best of a few runs.

    The two differ in the last bits. A choice by time must not change them from one run of a program
    to the next, so nothing but a plain victory, by a quarter, makes a difference.
    """
    rows = min(rows, _TIMED_ROWS)
    x = _sample(rows, inputs, dtype=dtype)
    weight = _sample(outputs, inputs, dtype=dtype)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
    runs = {
        "plain": lambda: F.linear(x, weight),
        "packed": lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], ""),
    }
    best = dict.fromkeys(runs, math.inf)
    for _ in range(6):
        for name, run in runs.items():
            before = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - before)
    return best["plain"] * 1.25 < best["packed"]


@cache
def packed_linear_works(dtype: torch.dtype) -> bool:
    """Whether torch's packed linear operators are here and agree with the public functions."""
    x, weight, bias = (_sample(*shape, dtype=dtype) for shape in ((5, 16), (24, 16), (24,)))
    plain = F.linear(x, weight, bias)
    residual = _sample(5, 24, dtype=dtype)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, 5)
        operator = torch.ops.mkldnn._linear_pointwise
        results = [
            (operator(x, packed, bias, "none", [], ""), plain),
            (operator(x, packed, bias, "gelu", [], "none"), F.gelu(plain)),
            (operator.binary(x, residual, packed, bias, "add"), plain + residual),
        ]
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return all(_agree(*pair) for pair in results)


@cache
def packed_convolution_works(dtype: torch.dtype) -> bool:
    """Whether torch's packed convolution is here and agrees with the public functions."""
    x = _sample(1, 16, 5, 6, dtype=dtype).contiguous(memory_format=torch.channels_last)
    ones = [1, 1]
    results = []
    try:
        for groups in (1, 16):
            weight = _sample(16, 16 // groups, 3, 3, dtype=dtype)
            weight = weight.contiguous(memory_format=torch.channels_last)
            packed = torch.ops.aten.mkldnn_reorder_conv2d_weight(
                weight.to_mkldnn(), ones, ones, ones, groups, [1, 16, 8, 8]
            )
            plain = F.conv2d(x, weight, None, 1, 1, 1, groups)
            for activation, fused in _FUSED.items():
                found = torch.ops.mkldnn._convolution_pointwise(
                    x, packed, None, ones, ones, ones, groups, *fused
                )
                expected = plain if activation is None else getattr(F, activation)(plain)
                results.append((found, expected))
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return all(_agree(*pair) for pair in results)


def _sample(*shape: int, dtype: torch.dtype) -> Tensor:
    count = 1
    for side in shape:
        count *= side
    return torch.sin(torch.arange(count, dtype=torch.float32, device="cpu")).view(shape).to(dtype)


def _agree(actual: Tensor, expected: Tensor) -> bool:
    tolerance = 1e-5 if expected.dtype == torch.float32 else 3e-2
    return torch.allclose(actual.float(), expected.float(), rtol=tolerance, atol=tolerance)
