"""Whether a layer runs in the C++ kernel or in PyTorch."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from qmamba.ops.native import library
from qmamba.ops.scan.dispatch import BACKEND_VARIABLE
from qmamba.ops.scan.operator import is_transformed, needs_gradient

_PLAIN_TENSORS = (Tensor, nn.Parameter)


def trains_natively(maps: tuple[Tensor, ...], parameters: tuple[Tensor | None, ...]) -> bool:
    """Whether the kernel computes a layer whose gradient is recorded.

    It takes plain CPU tensors: maps in float32 or bfloat16, all in the same, and float32
    parameters. Graphs that are recorded, transforms of ``torch.func`` and code under a dispatch
    mode see the operators of PyTorch.

    Args:
        maps: what the layer reads.
        parameters: what it has learned; None where it has none.
    """
    if torch.compiler.is_compiling():
        return False
    given = [each for each in parameters if each is not None]
    dtype = maps[0].dtype
    return (
        needs_gradient(*maps, *given)
        and dtype in (torch.float32, torch.bfloat16)
        and all(each.dtype is dtype for each in maps)
        and all(each.dtype is torch.float32 for each in given)
        and all(type(each) in _PLAIN_TENSORS and each.is_cpu for each in (*maps, *given))
        and all(each.numel() for each in maps)
        and not torch.jit.is_tracing()
        and not is_transformed()
        and not torch._C._len_torch_dispatch_stack()
        and os.environ.get(BACKEND_VARIABLE, "") in ("", "native")
        and library.unavailable_reason() is None
    )


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a layer with products computes: autocast's where that is on."""
    if torch.is_autocast_enabled("cpu") and x.is_cpu and x.dtype is not torch.float64:
        return torch.get_autocast_dtype("cpu")
    return x.dtype
