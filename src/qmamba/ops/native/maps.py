"""Passes over channel-last maps by the C++ kernel: no gradients, on the CPU.

PyTorch's layer norm takes rows one by one, each a chain of operations that wait for each other, and
its sums go over memory once for each term; with few channels that is slow.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from qmamba.ops.native.library import load_kernel


class _WeightedSumStruct(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "x_weight", "z", "z_weight", "y")),
        *((name, ctypes.c_int64) for name in ("batch", "pixels", "channels")),
    ]


class _LayerNormStruct(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "weight", "bias", "y")),
        *((name, ctypes.c_int64) for name in ("rows", "channels")),
        ("epsilon", ctypes.c_float),
        ("dtype", ctypes.c_int32),
    ]


_DTYPES = {torch.float32: 0, torch.bfloat16: 1}


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
    """
    x = x.contiguous()
    channels = x.shape[-1]
    assert all(t.shape == (channels,) and t.dtype == torch.float32 for t in (weight, bias))
    assert weight.is_contiguous() and bias.is_contiguous()
    y = torch.empty_like(x)
    call = _LayerNormStruct(
        x=x.data_ptr(),
        weight=weight.data_ptr(),
        bias=bias.data_ptr(),
        y=y.data_ptr(),
        rows=x.numel() // channels,
        channels=channels,
        epsilon=epsilon,
        dtype=_DTYPES[x.dtype],
    )
    load_kernel().run_quantized("layer_norm", call)
    return y


def weighted_sum(x: Tensor, x_weight: Tensor, z: Tensor, z_weight: Tensor) -> Tensor:
    """``x * x_weight + z * z_weight`` without gradients, on the CPU.

    Args:
        x, z: float32 ``(batch, height, width, channels)``, contiguous.
        x_weight: float32 ``(channels,)``, contiguous.
        z_weight: float32 ``(batch, 1, 1, channels)``.

    Returns:
        A fresh map of the same shape.

    Raises:
        BackendError: the kernel was not built or does not load.
    """
    batch, height, width, channels = x.shape
    weights = z_weight.contiguous()
    assert z.shape == x.shape and weights.shape == (batch, 1, 1, channels)
    assert x_weight.shape == (channels,)
    maps = (x, z, x_weight, weights)
    assert all(tensor.is_contiguous() and tensor.dtype == torch.float32 for tensor in maps)
    y = torch.empty_like(x)
    call = _WeightedSumStruct(
        x=x.data_ptr(),
        x_weight=x_weight.data_ptr(),
        z=z.data_ptr(),
        z_weight=weights.data_ptr(),
        y=y.data_ptr(),
        batch=batch,
        pixels=height * width,
        channels=channels,
    )
    load_kernel().run_quantized("weighted_sum", call)
    return y
