"""Depthwise convolution of a fake-quantized input, by the C++ kernel.

What it trades: the CPU alone, no gradients. In return the input is quantized in the cache, on the
way through the window, and the activation is applied on the way out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qmamba.errors import ShapeError
from qmamba.ops.native.handover import address, described, new
from qmamba.ops.native.library import load_kernel
from qmamba.ops.native.operands import CodeGrid, Constant, QParamsRule
from qmamba.ops.native.scan_call import round_up
from qmamba.ops.native.structs import DepthwiseStruct

WIDEST_WINDOW = 15
"""The kernel keeps the weights of a larger window nowhere."""
ACTIVATIONS = {None: 0, "silu": 1, "gelu": 2}
"""What may follow; ``qmamba_activation`` in ``native/quantized/quantized.h``."""


class DepthwiseConvolution:
    """A depthwise convolution that keeps the size of the map; outside the map is zero.

    Args:
        weight: codes ``(channels, 1, side, side)``, the side odd, at most :data:`WIDEST_WINDOW`.
        bias: ``(channels,)`` or ``None``.
        rule: the fixed quantization parameters of the input.
        dilation: distance of the taps.
        activation: a key of :data:`ACTIVATIONS`.

    Raises:
        BackendError: the kernel was not built or does not load.
        ShapeError: the weights are not those of such a convolution.
    """

    def __init__(
        self,
        weight: Constant,
        bias: Tensor | None,
        rule: QParamsRule,
        *,
        dilation: int = 1,
        activation: str | None = None,
    ) -> None:
        self._kernel = load_kernel()
        shape = tuple(weight.codes.shape)
        if (
            len(shape) != 4
            or shape[1] != 1
            or shape[2] != shape[3]
            or shape[2] % 2 == 0
            or shape[2] > WIDEST_WINDOW
            or dilation < 1
            or rule.fixed is None
        ):
            raise ShapeError(
                "A depthwise convolution needs weights (channels, 1, side, side) with an odd side "
                f"of at most {WIDEST_WINDOW}, a dilation of at least 1 and fixed quantization "
                f"parameters, got {shape}, dilation {dilation}."
            )
        channels, _, side, _ = shape
        self._channels, self._side, self._dilation = channels, side, dilation
        self._padded = round_up(channels)
        self._activation = ACTIVATIONS[activation]
        missing = self._padded - channels
        taps = weight.codes.reshape(channels, side * side).t()
        self._weight = weight.arranged(F.pad(taps, (0, missing)))
        self._weight_struct = self._weight.struct("weight", (side * side, self._padded))
        bias = new(channels).zero_() if bias is None else bias.detach().float()
        self._bias = F.pad(bias, (0, missing)).contiguous()
        self._rule, self._qparams = rule, rule.fixed
        scale, offset, *_ = rule.fixed[0].tolist()
        self.reads = CodeGrid(scale, offset, rule.first, rule.last)
        """What codes it takes in place of numbers."""

    def __call__(
        self,
        x: Tensor,
        out: Tensor | None = None,
        *,
        codes: Tensor | None = None,
        code_grid: CodeGrid | None = None,
        only_codes: bool = False,
    ) -> Tensor:
        """``(batch, height, width, channels)`` to the same shape, float32.

        Args:
            x: float32, whose channels may be part of those of a larger map; or contiguous uint8,
                codes of the input's quantizer counted from the first one.
            out: where the result goes; contiguous.
            codes: where the result goes as codes besides, uint8, contiguous.
            code_grid: what the codes stand for; given with ``codes``.
            only_codes: the codes are the result, and there is no other.

        Raises:
            ShapeError: a tensor is not that.
        """
        coded = x.dtype == torch.uint8
        stride = self._channels if coded else self._pixel_stride(x)
        if coded and (x.dim() != 4 or 0 in x.shape):
            raise ShapeError(f"The codes x must be a map that is not empty, got {described(x)}.")
        if (codes is None) != (code_grid is None) or (only_codes and codes is None):
            raise ShapeError("Codes and their grid are given together or not at all.")
        batch, height, width, channels = x.shape
        y = None if only_codes else new(*x.shape) if out is None else out
        weights = new(self._side * self._side, self._padded)
        call = DepthwiseStruct(
            x=None if coded else x.data_ptr(),
            x_codes=address("x", x, (batch, height, width, self._channels), x.dtype)
            if coded
            else None,
            qparams=address("qparams", self._qparams, (1, 4)),
            bias=address("bias", self._bias, (self._padded,)),
            weights=weights.data_ptr(),
            weight=self._weight_struct,
            y=None if y is None else address("out", y, x.shape),
            batch=batch,
            height=height,
            width=width,
            channels=channels,
            padded=self._padded,
            stride=stride,
            side=self._side,
            dilation=self._dilation,
            first=self._rule.first,
            last=self._rule.last,
            activation=self._activation,
        )
        if codes is not None and code_grid is not None:
            call.output = code_grid.struct(codes, x.shape)
        self._kernel.run("run_depthwise", call)
        if y is not None:
            return y
        assert codes is not None
        return codes

    def _pixel_stride(self, x: Tensor) -> int:
        """The distance of neighboring pixels of a map."""
        if (
            x.dtype == torch.float32
            and x.is_cpu
            and x.dim() == 4
            and x.shape[3] == self._channels
            and 0 not in x.shape
        ):
            _, height, width, channels = x.shape
            stride = x.stride(2) if width > 1 else x.stride(1) if height > 1 else x.stride(0)
            stride = max(stride, channels)
            wanted = (height * width * stride, width * stride, stride, 1)
            sides = zip(x.shape, x.stride(), wanted, strict=True)
            if all(size == 1 or found == expected for size, found, expected in sides):
                return stride
        raise ShapeError(
            f"The argument x must be float32 (batch, height, width, {self._channels}) on the CPU, "
            "not empty, "
            f"its pixels at one distance, got {described(x)}."
        )
