"""Passes over channel-last maps by the C++ kernel: no gradients, on the CPU.

PyTorch's layer norm takes rows one by one, each a chain of operations that wait for each other, and
its sums go over memory once for each term; with few channels that is slow.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qmamba.errors import ShapeError
from qmamba.ops.native.handover import address, described, dtype_code, new
from qmamba.ops.native.library import load_kernel
from qmamba.ops.native.structs import AttendedSumStruct, LayerNormStruct

_PARTS = 16
"""Into how many parts the kernel cuts an image for its sums, its ``kMapParts``."""


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """The layer norm over the last axis, computed in float32.

    Args:
        x: float32 or bfloat16 ``(..., channels)``.
        weight, bias: float32 ``(channels,)``, contiguous.
        epsilon: added to the variance.

    Returns:
        Fresh, of the shape and dtype of ``x``.

    Raises:
        BackendError: the kernel was not built or does not load.
        ShapeError: a tensor is not that.
    """
    x = x.contiguous()
    if x.dim() < 1 or x.shape[-1] < 1:
        raise ShapeError(
            f"The argument x must be (..., channels) with at least 1 channel, got {described(x)}."
        )
    channels = x.shape[-1]
    y = torch.empty_like(x)
    call = LayerNormStruct(
        x=address("x", x, x.shape, x.dtype),
        weight=address("weight", weight, (channels,)),
        bias=address("bias", bias, (channels,)),
        y=y.data_ptr(),
        rows=x.numel() // channels,
        channels=channels,
        epsilon=epsilon,
        dtype=dtype_code("x", x),
    )
    load_kernel().run("run_layer_norm", call)
    return y


class ChannelAttentionWeights(NamedTuple):
    """Of channel attention, ``sigmoid(excite relu(squeeze mean(z)))``; float32, contiguous."""

    squeeze: Tensor
    """``(hidden, channels)``."""
    squeeze_bias: Tensor
    """``(hidden,)``."""
    excite: Tensor
    """``(channels, hidden)``."""
    excite_bias: Tensor
    """``(channels,)``."""


def attended_sum(
    x: Tensor,
    x_weight: Tensor,
    z: Tensor,
    attention: ChannelAttentionWeights,
    out: Tensor | None = None,
) -> Tensor:
    """``x * x_weight + z * z_weight`` without gradients, on the CPU; channel attention weighs z.

    Args:
        x, z: float32 ``(batch, height, width, channels)``, contiguous.
        x_weight: float32 ``(channels,)``, contiguous.
        attention: what the mean of each channel of z goes through to become its weight.
        out: where the result goes, of their shape; may be one of them.

    Returns:
        ``out``, or a fresh map of the same shape; its bits do not depend on the number of threads.

    Raises:
        BackendError: the kernel was not built or does not load.
        ShapeError: a tensor is not that.
    """
    batch, height, width, channels = _map_shape(x)
    hidden = len(attention.squeeze)
    y = torch.empty_like(x) if out is None else out
    scratch = new(batch, _PARTS + 1, channels)
    call = AttendedSumStruct(
        x=address("x", x, x.shape),
        x_weight=address("x_weight", x_weight, (channels,)),
        z=address("z", z, x.shape),
        squeeze=address("squeeze", attention.squeeze, (hidden, channels)),
        squeeze_bias=address("squeeze_bias", attention.squeeze_bias, (hidden,)),
        excite=address("excite", attention.excite, (channels, hidden)),
        excite_bias=address("excite_bias", attention.excite_bias, (channels,)),
        partial=scratch.data_ptr(),
        z_weight=scratch.data_ptr() + 4 * batch * _PARTS * channels,
        y=address("out", y, x.shape),
        batch=batch,
        pixels=height * width,
        channels=channels,
        hidden=hidden,
    )
    load_kernel().run("run_attended_sum", call)
    return y


def _map_shape(x: Tensor) -> torch.Size:
    if x.dim() != 4 or 0 in x.shape:
        raise ShapeError(
            f"The argument x must be (batch, height, width, channels) and not empty, got "
            f"{described(x)}."
        )
    return x.shape
