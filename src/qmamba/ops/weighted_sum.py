"""Two channel-last maps into one, in one pass over memory, by the C++ kernel."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from qmamba.ops.kernel import load_kernel


class _WeightedSumStruct(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "x_weight", "z", "z_weight", "y")),
        *((name, ctypes.c_int64) for name in ("batch", "pixels", "channels")),
    ]


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
