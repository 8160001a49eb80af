"""The layer norm over the last axis, with a gate or without, and its gradients.

PyTorch normalizes row by row, each a chain of operations that wait for each other; the kernel takes
16 rows at a time and does the gate in the same pass.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qmamba.ops.first_derivatives import first_derivatives_only
from qmamba.ops.layers.choice import trains_natively
from qmamba.ops.native.handover import address, dtype_code, new
from qmamba.ops.native.library import load_kernel
from qmamba.ops.native.structs import GatedNormBackwardStruct, GatedNormStruct


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """``F.layer_norm`` over the last axis, the same bits for any number of threads.

    Args:
        x: ``(..., channels)``.
        weight, bias: ``(channels,)``.
        epsilon: added to the variance.

    Returns:
        Of the shape of ``x``.
    """
    if trains_natively((x,), (weight, bias)):
        result: Tensor = _GatedNorm.apply(x, weight, bias, None, epsilon)
        return result
    return F.layer_norm(x, (x.shape[-1],), weight, bias, epsilon)


def gated_norm(x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor, epsilon: float) -> Tensor:
    """``layer_norm(x) * silu(gate)``.

    Args:
        x, gate: ``(..., channels)``; the gate may be a slice of a wider map.
        weight, bias: ``(channels,)``.
        epsilon: added to the variance.

    Returns:
        Of the shape of ``x``.
    """
    if trains_natively((x, gate), (weight, bias)) and x.shape == gate.shape:
        result: Tensor = _GatedNorm.apply(x, weight, bias, gate, epsilon)
        return result
    return F.layer_norm(x, (x.shape[-1],), weight, bias, epsilon) * F.silu(gate)


class _GatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, gate: Tensor | None, epsilon: float
    ) -> Tensor:
        x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
        if gate is not None:
            gate = with_row_stride(gate)
        channels = x.shape[-1]
        rows = x.numel() // channels
        y = torch.empty_like(x)
        mean, scale = new(rows), new(rows)
        ctx.sizes = {
            "rows": rows,
            "channels": channels,
            "gate_stride": 0 if gate is None else row_stride(gate),
            "dtype": dtype_code("x", x),
        }
        load_kernel().run(
            "run_gated_norm",
            GatedNormStruct(
                x=x.data_ptr(),
                weight=address("weight", weight, (channels,)),
                bias=address("bias", bias, (channels,)),
                gate=None if gate is None else gate.data_ptr(),
                y=y.data_ptr(),
                mean=mean.data_ptr(),
                scale=scale.data_ptr(),
                epsilon=epsilon,
                **ctx.sizes,
            ),
        )
        ctx.save_for_backward(x, weight, bias, gate, mean, scale)
        return y

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, gate, mean, scale = ctx.saved_tensors
        kernel = load_kernel()
        grad = grad.contiguous()
        grad_x = torch.empty_like(x)
        grad_gate = None if gate is None else torch.empty_like(x)
        grad_weight, grad_bias = new(*weight.shape), new(*bias.shape)
        call = GatedNormBackwardStruct(
            x=x.data_ptr(),
            weight=weight.data_ptr(),
            bias=bias.data_ptr(),
            gate=None if gate is None else gate.data_ptr(),
            mean=mean.data_ptr(),
            scale=scale.data_ptr(),
            grad=address("grad", grad, x.shape, x.dtype),
            grad_x=grad_x.data_ptr(),
            grad_gate=None if grad_gate is None else grad_gate.data_ptr(),
            grad_weight=grad_weight.data_ptr(),
            grad_bias=grad_bias.data_ptr(),
            **ctx.sizes,
        )
        partial = new(kernel.size("norm_partial", call))
        call.partial = partial.data_ptr()
        kernel.run("run_gated_norm_backward", call)
        return grad_x, grad_weight, grad_bias, grad_gate, None


def row_stride(x: Tensor) -> int:
    """Numbers from one row to the next of a map that :func:`with_row_stride` gave."""
    return x.stride(-2) if x.dim() > 1 else x.shape[-1]


def with_row_stride(x: Tensor) -> Tensor:
    """A map as it is if its rows are dense and equally far apart, otherwise a contiguous copy."""
    if x.dim() < 2 or x.stride(-1) != 1:
        return x.contiguous()
    step = x.stride(-2)
    if step < x.shape[-1]:
        return x.contiguous()
    for size, stride in zip(reversed(x.shape[:-1]), reversed(x.stride()[:-1]), strict=True):
        if size != 1 and stride != step:
            return x.contiguous()
        step *= size
    return x
