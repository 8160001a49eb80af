"""The one gate between tensors and C++: what is handed over is checked, then its address is taken.

The kernel reads and writes as many bytes as the sizes of a call say, whatever the tensor holds. So
dtype, device, shape and contiguity of every tensor are compared with what the call will assume,
each time; a comparison of this kind costs less than a microsecond.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from qmamba.errors import ShapeError

FLOAT32 = torch.float32
FLOAT_DTYPES = {torch.float32: 0, torch.bfloat16: 1}
"""Element types of maps; ``qmamba_dtype`` in ``native/common/interface.h``."""


def address(
    name: str, tensor: Tensor, shape: Sequence[int], dtype: torch.dtype = torch.float32
) -> int:
    """Where a tensor begins that is just what the kernel will take it for.

    Raises:
        ShapeError: it has another dtype, device or shape, or is not contiguous.
    """
    if tensor.dtype is dtype and tensor.shape == shape and tensor.is_cpu and tensor.is_contiguous():
        return tensor.data_ptr()
    raise ShapeError(
        f"{name} must be a contiguous {dtype} tensor of shape {tuple(shape)} on the CPU, got "
        f"{described(tensor)}."
    )


def described(tensor: Tensor) -> str:
    """What a message says of a tensor that does not fit."""
    layout = "" if tensor.is_contiguous() else f" with strides {tuple(tensor.stride())}"
    return f"{tensor.dtype} {tuple(tensor.shape)}{layout} on {tensor.device}"


def dtype_code(name: str, tensor: Tensor, codes: Mapping[torch.dtype, int] = FLOAT_DTYPES) -> int:
    """The number that stands for the dtype of a tensor.

    Raises:
        ShapeError: the kernel has no such dtype.
    """
    if tensor.dtype not in codes:
        known = " or ".join(str(dtype) for dtype in codes)
        raise ShapeError(f"{name} must be {known}, got {tensor.dtype}.")
    return codes[tensor.dtype]


def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor of any content for the kernel, whatever the defaults of this process."""
    return torch.empty(shape, dtype=dtype, device="cpu")


def point(call: ctypes.Structure, **tensors: tuple[Tensor, Sequence[int]]) -> None:
    """Write the addresses of float32 tensors, each given with its shape, into fields of a call."""
    for name, (tensor, shape) in tensors.items():
        setattr(call, name, address(name, tensor, shape))
