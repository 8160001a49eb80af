"""The one door to torch's private inference operators: linear and convolution layers, packed once.

oneDNN can keep a layer's weights in the layout of its own matrix kernels and apply the activation
or the residual addition to results that are still in registers. torch uses this in compiled graphs
and has no public function for it, so the operators are called by their private names here and
nowhere else. Each is tried once on a small input; where it is missing or gives another result than
the public function, the public function is used.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PackedLinear:
    """``F.linear`` with fixed weights, then an optional GELU, or the addition of a residual.

    Args:
        weight: ``(outputs, inputs)``; computed in its dtype, float32 or bfloat16.
        bias: ``(outputs,)`` or ``None``.
        rows: how many rows a call usually has, which may decide the packed layout.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int) -> None:
        self._is_packed = packed_linear_works(weight.dtype)
        self._bias = None if bias is None else bias.detach().to(weight.dtype, copy=True)
        if self._is_packed:
            contiguous = weight.detach().contiguous()
            self._weight = torch.ops.mkldnn._reorder_linear_weight(contiguous, rows)
        else:
            self._weight = weight.detach().clone()

    def __call__(
        self, x: Tensor, *, gelu: bool = False, residual: Tensor | None = None
    ) -> Tensor:
        """``(..., inputs)`` to ``(..., outputs)``; a residual has the shape of the result."""
        if not self._is_packed:
            y = F.linear(x, self._weight, self._bias)
            y = F.gelu(y) if gelu else y
            return y if residual is None else y + residual
        operator = torch.ops.mkldnn._linear_pointwise
        if residual is not None:
            return operator.binary(x, residual, self._weight, self._bias, "add")
        activation = "gelu" if gelu else "none"
        return operator(x, self._weight, self._bias, activation, [], "none" if gelu else "")


class PackedConv2d:
    """A convolution on channel-last maps with fixed weights, then an optional SiLU."""

    def __init__(self, layer: nn.Conv2d, dtype: torch.dtype) -> None:
        weight = layer.weight.detach().to(dtype, copy=True)
        self._weight = weight.contiguous(memory_format=torch.channels_last)
        self._bias = None if layer.bias is None else layer.bias.detach().to(dtype, copy=True)
        self._stride, self._padding = list(layer.stride), [int(p) for p in layer.padding]
        self._groups = layer.groups
        self._fused = fused_convolution_works(dtype)

    def __call__(self, x: Tensor, *, silu: bool = False) -> Tensor:
        """``(batch, height, width, channels)`` to the same layout."""
        images = x.permute(0, 3, 1, 2)
        if silu and self._fused:
            y = torch.ops.mkldnn._convolution_pointwise(
                images,
                self._weight,
                self._bias,
                self._padding,
                self._stride,
                [1, 1],
                self._groups,
                "swish",
                [],
                "",
            )
        else:
            y = F.conv2d(
                images, self._weight, self._bias, self._stride, self._padding, 1, self._groups
            )
            y = F.silu(y) if silu else y
        return y.permute(0, 2, 3, 1)


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
def fused_convolution_works(dtype: torch.dtype) -> bool:
    """Whether torch's convolution with a fused SiLU is here and agrees with the public one."""
    x = _sample(1, 16, 5, 6, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight, ones = _sample(16, 1, 3, 3, dtype=dtype), [1, 1]
    weight = weight.contiguous(memory_format=torch.channels_last)
    mode: Literal["swish"] = "swish"
    try:
        fused = torch.ops.mkldnn._convolution_pointwise(
            x, weight, None, ones, ones, ones, 16, mode, [], ""
        )
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return _agree(fused, F.silu(F.conv2d(x, weight, None, 1, 1, 1, 16)))


def _sample(*shape: int, dtype: torch.dtype) -> Tensor:
    count = 1
    for side in shape:
        count *= side
    return torch.sin(torch.arange(count, dtype=torch.float32)).view(shape).to(dtype)


def _agree(actual: Tensor, expected: Tensor) -> bool:
    tolerance = 1e-5 if expected.dtype == torch.float32 else 3e-2
    return torch.allclose(actual.float(), expected.float(), rtol=tolerance, atol=tolerance)
