"""A linear layer on the last axis, with gradients.

PyTorch's products of float32 matrices come from a library that leaves half of the vector width of
some processors unused. The kernel keeps tiles in registers and needs no transposed copies. In
bfloat16 PyTorch's own products are faster and are taken.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qmamba.ops.first_derivatives import first_derivatives_only
from qmamba.ops.layers.choice import autocast_dtype, trains_natively
from qmamba.ops.native.handover import address, new
from qmamba.ops.native.library import load_kernel
from qmamba.ops.native.structs import LinearBackwardStruct, LinearStruct


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``.

    Args:
        x: ``(..., inputs)``.
        weight: ``(outputs, inputs)``.
        bias: ``(outputs,)`` or None.

    Returns:
        ``(..., outputs)``, the same bits for any number of threads.
    """
    # What does not fit together is PyTorch's to refuse.
    fits = weight.dim() == 2 and x.shape[-1:] == weight.shape[1:]
    fits = fits and (bias is None or bias.shape == weight.shape[:1])
    if fits and trains_natively((x,), (weight, bias)) and autocast_dtype(x) is torch.float32:
        result: Tensor = _Linear.apply(x, weight, bias)
        return result
    return F.linear(x, weight, bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        outputs, inputs = weight.shape
        rows = x.numel() // inputs
        y = new(*x.shape[:-1], outputs)
        load_kernel().run(
            "run_linear",
            LinearStruct(
                x=address("x", x, (*x.shape[:-1], inputs)),
                weight=address("weight", weight, (outputs, inputs)),
                bias=None if bias is None else address("bias", bias.contiguous(), (outputs,)),
                y=y.data_ptr(),
                rows=rows,
                inputs=inputs,
                outputs=outputs,
            ),
        )
        ctx.save_for_backward(x, weight)
        return y

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        outputs, inputs = weight.shape
        rows = x.numel() // inputs
        shapes = (x.shape, weight.shape, (outputs,))
        found = [
            new(*shape) if wanted else None
            for shape, wanted in zip(shapes, ctx.needs_input_grad, strict=True)
        ]
        grad = grad.contiguous()
        addresses = [None if each is None else each.data_ptr() for each in found]
        load_kernel().run(
            "run_linear_backward",
            LinearBackwardStruct(
                x=x.data_ptr(),
                weight=weight.data_ptr(),
                grad=address("grad", grad, (*x.shape[:-1], outputs)),
                grad_x=addresses[0],
                grad_weight=addresses[1],
                grad_bias=addresses[2],
                rows=rows,
                inputs=inputs,
                outputs=outputs,
            ),
        )
        return tuple(found)
