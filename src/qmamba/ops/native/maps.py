"""Passes over channel-last maps by the C++ kernel: no gradients, on the CPU.

PyTorch's layer norm takes rows one by one, each a chain of operations that wait for each other, and
its sums go over memory once for each term; with few channels that is slow.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qmamba.errors import ShapeError
from qmamba.ops.native.handover import address, described, dtype_code
from qmamba.ops.native.library import load_kernel
from qmamba.ops.native.structs import LayerNormStruct, WeightedSumStruct


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


def weighted_sum(
    x: Tensor, x_weight: Tensor, z: Tensor, z_weight: Tensor, out: Tensor | None = None
) -> Tensor:
    """``x * x_weight + z * z_weight`` without gradients, on the CPU.

    Args:
        x, z: float32 ``(batch, height, width, channels)``, contiguous.
        x_weight: float32 ``(channels,)``, contiguous.
        z_weight: float32 ``(batch, 1, 1, channels)``.
        out: where the result goes, of their shape; may be one of them.

    Returns:
        ``out``, or a fresh map of the same shape.

    Raises:
        BackendError: the kernel was not built or does not load.
        ShapeError: a tensor is not that.
    """
    if x.dim() != 4 or 0 in x.shape:
        raise ShapeError(
            f"The argument x must be (batch, height, width, channels) and not empty, got "
            f"{described(x)}."
        )
    batch, height, width, channels = x.shape
    weights = z_weight.contiguous()
    y = torch.empty_like(x) if out is None else out
    call = WeightedSumStruct(
        x=address("x", x, x.shape),
        x_weight=address("x_weight", x_weight, (channels,)),
        z=address("z", z, x.shape),
        z_weight=address("z_weight", weights, (batch, 1, 1, channels)),
        y=address("out", y, x.shape),
        batch=batch,
        pixels=height * width,
        channels=channels,
    )
    load_kernel().run("run_weighted_sum", call)
    return y
