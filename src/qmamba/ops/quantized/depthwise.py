"""Depthwise convolution on the levels of its input, by the C++ kernel.

What it trades: the CPU alone, no gradients. In return the input is put on its grid in the cache, on
the way through the window, and the activation is applied on the way out.
"""

from __future__ import annotations

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor

from qmamba.ops.native.library import load_kernel
from qmamba.ops.quantized.operands import Constant, ConstantStruct, GridRule

WIDEST_WINDOW = 15
"""The kernel keeps the weights of a larger window nowhere."""
ACTIVATIONS = {None: 0, "silu": 1, "gelu": 2}
"""What may follow; ``qmamba_activation`` in ``native/quantized.h``."""


class _DepthwiseStruct(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "grid", "bias", "weights")),
        ("weight", ConstantStruct),
        ("y", ctypes.c_void_p),
        *(
            (name, ctypes.c_int64)
            for name in ("batch", "height", "width", "channels", "padded", "stride")
        ),
        *((name, ctypes.c_int64) for name in ("side", "dilation", "first", "last")),
        ("activation", ctypes.c_int32),
    ]


class DepthwiseConvolution:
    """A depthwise convolution that keeps the size of the map; outside the map is zero.

    Args:
        weight: codes ``(channels, 1, side, side)``, the side odd, at most :data:`WIDEST_WINDOW`.
        bias: ``(channels,)`` or ``None``.
        rule: the fixed grid of the input.
        dilation: distance of the taps.
        activation: a key of :data:`ACTIVATIONS`.

    Raises:
        BackendError: the kernel was not built or does not load.
    """

    def __init__(
        self,
        weight: Constant,
        bias: Tensor | None,
        rule: GridRule,
        *,
        dilation: int = 1,
        activation: str | None = None,
    ) -> None:
        self._kernel = load_kernel()
        channels, _, side, _ = weight.codes.shape
        self._channels, self._side, self._dilation = channels, side, dilation
        self._activation = ACTIVATIONS[activation]
        missing = -channels % 16
        taps = weight.codes.reshape(channels, side * side).t()
        self._weight = weight.arranged(F.pad(taps, (0, missing)))
        bias = torch.zeros(channels) if bias is None else bias.detach().float()
        self._bias = F.pad(bias, (0, missing)).contiguous()
        assert rule.grid is not None and side % 2 and side <= WIDEST_WINDOW
        self._rule, self._grid = rule, rule.grid

    @torch.no_grad()
    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """float32 ``(batch, height, width, channels)`` to the same shape.

        Args:
            x: the channels may be part of those of a larger map.
            out: where the result goes; contiguous.
        """
        batch, height, width, channels = x.shape
        stride = x.stride(2) if width > 1 else x.stride(1) if height > 1 else x.stride(0)
        stride = max(stride, channels)
        assert channels == self._channels and x.dtype == torch.float32
        places = ((height * width * stride, batch), (width * stride, height), (stride, width))
        assert all(
            size == 1 or found == wanted
            for (wanted, size), found in zip(places, x.stride(), strict=False)
        ), x.stride()
        assert channels == 1 or x.stride(3) == 1
        y = torch.empty(batch, height, width, channels) if out is None else out
        assert y.shape == x.shape and y.is_contiguous()
        weights = torch.empty(self._weight.codes.numel())
        call = _DepthwiseStruct(
            x=x.data_ptr(),
            grid=self._grid.data_ptr(),
            bias=self._bias.data_ptr(),
            weights=weights.data_ptr(),
            weight=self._weight.struct(),
            y=y.data_ptr(),
            batch=batch,
            height=height,
            width=width,
            channels=channels,
            padded=self._weight.codes.shape[1],
            stride=stride,
            side=self._side,
            dilation=self._dilation,
            first=self._rule.first,
            last=self._rule.last,
            activation=self._activation,
        )
        self._kernel.run_quantized("depthwise", call)
        return y
