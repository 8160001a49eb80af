"""A depthwise convolution of a channel-last map, with its activation, and the gradients of both.

The kernel has weights, and the sums of their gradients, in float32. PyTorch's gradient of the
weights of a *dilated* depthwise convolution in bfloat16 holds values that nobody computed (seen
with torch 2.13 on channels-last maps), so that layer runs in float32 where the kernel does not
take it.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from qmamba.ops.first_derivatives import first_derivatives_only
from qmamba.ops.layers.choice import autocast_dtype, trains_natively
from qmamba.ops.layers.norm import row_stride, with_row_stride
from qmamba.ops.native.handover import FLOAT_DTYPES, address, dtype_code, new
from qmamba.ops.native.library import load_kernel
from qmamba.ops.native.scan_call import padded, round_up
from qmamba.ops.native.structs import ChannelWindowBackwardStruct, ChannelWindowStruct

Activation = Literal["none", "silu", "gelu"]
_ACTIVATIONS: dict[Activation, int] = {"none": 0, "silu": 1, "gelu": 2}
_SIDE = 3


def depthwise_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    dilation: int = 1,
    activation: Activation = "none",
) -> Tensor:
    """Convolve each channel with a window of its own, with zeros around the map.

    Args:
        x: ``(batch, height, width, channels)``; may be a slice of a wider map.
        weight: ``(channels, 1, side, side)``, side odd.
        bias: ``(channels,)`` or None.
        dilation: pixels between two of the window.
        activation: of the result.

    Returns:
        Of the shape of ``x``, contiguous where the kernel computed it.
    """
    dtype = autocast_dtype(x)
    # What does not fit together is PyTorch's to refuse.
    fits = x.dim() == 4 and weight.shape == (x.shape[-1], 1, _SIDE, _SIDE) and dtype in FLOAT_DTYPES
    fits = fits and (bias is None or bias.shape == weight.shape[:1])
    if fits and trains_natively((x,), (weight, bias)):
        result: Tensor = _Depthwise.apply(x.to(dtype), weight, bias, dilation, activation)
        return result
    y = _plain(x, weight, bias, dilation)
    if activation == "silu":
        return F.silu(y)
    return F.gelu(y) if activation == "gelu" else y


def _plain(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    channels = weight.shape[0]
    padding = weight.shape[-1] // 2 * dilation
    dtype = autocast_dtype(x)
    wider = x.is_cpu and dilation > 1 and dtype is torch.bfloat16 and torch.is_grad_enabled()
    if not wider:
        y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, 1, padding, dilation, channels)
        return y.permute(0, 2, 3, 1)
    with torch.autocast("cpu", enabled=False):
        y = F.conv2d(
            x.float().permute(0, 3, 1, 2),
            weight.float(),
            None if bias is None else bias.float(),
            1,
            padding,
            dilation,
            channels,
        )
    return y.permute(0, 2, 3, 1).to(dtype)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        dilation: int,
        activation: Activation,
    ) -> Tensor:
        x = with_row_stride(x)
        batch, height, width, channels = x.shape
        windows = padded(weight.reshape(channels, _SIDE**2).t())
        biases = padded(x.new_zeros(channels) if bias is None else bias)
        y = new(*x.shape, dtype=x.dtype)
        ctx.sizes = {
            "batch": batch,
            "height": height,
            "width": width,
            "channels": channels,
            "padded": round_up(channels),
            "stride": row_stride(x),
            "dilation": dilation,
            "activation": _ACTIVATIONS[activation],
            "dtype": dtype_code("x", x),
        }
        load_kernel().run(
            "run_channel_window",
            ChannelWindowStruct(
                x=x.data_ptr(),
                weight=address("weight", windows, (_SIDE**2, round_up(channels))),
                bias=address("bias", biases, (round_up(channels),)),
                y=y.data_ptr(),
                **ctx.sizes,
            ),
        )
        ctx.has_bias = bias is not None
        ctx.save_for_backward(x, windows, biases)
        return y

    @staticmethod
    @first_derivatives_only
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, windows, biases = ctx.saved_tensors
        kernel = load_kernel()
        grad = grad.contiguous()
        channels, width = x.shape[-1], windows.shape[-1]
        grad_x = new(*x.shape, dtype=x.dtype)
        inner = new(*x.shape[:-1], width)
        grad_windows, grad_biases = new(*windows.shape), new(*biases.shape)
        call = ChannelWindowBackwardStruct(
            x=x.data_ptr(),
            weight=windows.data_ptr(),
            bias=biases.data_ptr(),
            grad=address("grad", grad, x.shape, x.dtype),
            inner=inner.data_ptr(),
            grad_x=grad_x.data_ptr(),
            grad_weight=grad_windows.data_ptr(),
            grad_bias=grad_biases.data_ptr(),
            **ctx.sizes,
        )
        partial = new(kernel.size("window_partial", call))
        call.partial = partial.data_ptr()
        kernel.run("run_channel_window_backward", call)
        grad_weight = grad_windows[:, :channels].t().reshape(channels, 1, _SIDE, _SIDE)
        grad_bias = grad_biases[:channels] if ctx.has_bias else None
        return grad_x, grad_weight, grad_bias, None, None
