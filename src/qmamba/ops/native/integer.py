"""Linear layers on 8-bit integers by the C++ kernel, with quantization of the rows fused in.

What it trades: no gradients, no tracing, and each row is rounded to 256 steps of its own range. In
return products are of 8-bit integers, the norm before a layer and the GELU, the quantization and
the second layer after it run while the rows are in cache, and the result of a row has the same bits
whatever the threads and whatever shares its batch.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn

from qmamba.errors import ShapeError
from qmamba.ops.native.library import load_kernel

PANEL = 32
"""Outputs that the kernel computes together; packed arrays are padded to it."""

_MAX_INPUTS = 65536
_CODES = 2
_DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.uint8: _CODES}


class LayerStruct(ctypes.Structure):
    """Mirror of ``qmamba_integer_layer`` in ``native/integer.h``."""

    _fields_ = [
        (name, ctypes.c_void_p) for name in ("codes", "scale", "offset", "sums", "bias")
    ] + [(name, ctypes.c_int64) for name in ("inputs", "outputs")]


class CallStruct(ctypes.Structure):
    """Mirror of ``qmamba_integer_call`` in ``native/integer.h``."""

    _fields_ = (
        [(name, ctypes.c_void_p) for name in ("x", "x_scale", "x_offset")]
        + [(name, ctypes.c_void_p) for name in ("norm_weight", "norm_bias")]
        + [(name, ctypes.c_void_p) for name in ("residual", "residual_scale", "y", "workspace")]
        + [("first", LayerStruct), ("second", LayerStruct)]
        + [(name, ctypes.c_int64) for name in ("rows", "side", "stride", "height", "width")]
        + [("norm_epsilon", ctypes.c_float)]
        + [
            (name, ctypes.c_int32)
            for name in ("x_dtype", "residual_dtype", "y_dtype", "one_grid", "highest", "gelu")
        ]
    )


class PackedCodes:
    """A weight of 8-bit codes as the kernel reads it: value = ``codes * scale - offset``.

    Args:
        codes: int8 ``(outputs, inputs)``, fewer than 65536 inputs, beyond which sums may overflow.
        scale: float32 ``(outputs,)`` or ``()``.
        offset: like ``scale``, or ``None`` for zero.
        bias: ``(outputs,)`` or ``None``.

    Raises:
        ShapeError: the codes are not such a matrix.
    """

    def __init__(
        self, codes: Tensor, scale: Tensor, offset: Tensor | None, bias: Tensor | None
    ) -> None:
        if codes.dim() != 2 or codes.dtype != torch.int8 or codes.shape[1] >= _MAX_INPUTS:
            raise ShapeError(
                f"A weight of integers must be int8 (outputs, inputs) with fewer than "
                f"{_MAX_INPUTS} inputs, got {codes.dtype} {tuple(codes.shape)}."
            )
        self.outputs, self.inputs = codes.shape
        scale = scale.detach().float().expand(self.outputs)
        offsets = torch.zeros(self.outputs)
        if offset is not None:
            offsets = offset.detach().float().expand(self.outputs)
        sums = (scale.double() * codes.sum(1) - self.inputs * offsets.double()).float()
        rows, quads = -self.outputs % PANEL, -self.inputs % 4
        padded = nn.functional.pad(codes, (0, quads, 0, rows))
        panels = padded.view(-1, PANEL, padded.shape[1] // 4, 4).transpose(1, 2).contiguous()
        self._arrays = {"codes": panels, "scale": _padded(scale), "sums": _padded(sums)}
        if offset is not None:
            self._arrays["offset"] = _padded(offsets)
        bias = torch.zeros(self.outputs) if bias is None else bias.detach()
        self._arrays["bias"] = _padded(bias.float())
        pointers = {name: array.data_ptr() for name, array in self._arrays.items()}
        self.struct = LayerStruct(inputs=self.inputs, outputs=self.outputs, **pointers)


class IntegerCall:
    """One layer, or two with GELU between, on rows that are normalized if asked.

    Args:
        first: the layer.
        second: the layer after it, or ``None``.
        norm: layer norm of the rows before they are quantized, or ``None``.
        side: take as rows the square patches of this odd side around the pixels of a map, in the
            order row, column, channel and zero outside; 0 for plain rows.
        stride: distance of the patches.

    Raises:
        BackendError: the kernel was not built or does not load.
    """

    def __init__(
        self,
        first: PackedCodes,
        second: PackedCodes | None = None,
        *,
        norm: nn.LayerNorm | None = None,
        side: int = 0,
        stride: int = 1,
    ) -> None:
        self._kernel = load_kernel()
        self._layers = (first, second)
        self._side, self._stride = side, stride
        self._call = {"first": first.struct, "side": side, "stride": stride}
        if second is not None:
            self._call["second"] = second.struct
        self._norm: list[Tensor] = []
        if norm is not None:
            parameters = (norm.weight, norm.bias)
            self._norm = [p.detach().to(torch.float32, copy=True) for p in parameters]
            weight, bias = (tensor.data_ptr() for tensor in self._norm)
            self._call.update(norm_weight=weight, norm_bias=bias, norm_epsilon=norm.eps)
        self._outputs = (second or first).outputs

    def __call__(
        self,
        x: Tensor,
        *,
        scale: Tensor | None = None,
        offset: Tensor | None = None,
        highest: int = 255,
        gelu: bool = False,
        residual: Tensor | None = None,
        residual_scale: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        out: Tensor | None = None,
    ) -> Tensor:
        """``(..., inputs)`` to ``(..., outputs)``, a map of patches to a map.

        Args:
            x: float32 or bfloat16 ``(..., inputs)``, or ``(batch, height, width, channels)`` for
                patches; or uint8 codes of either shape, on given grids.
            scale, offset: grids of the rows, float32, one each ``(...)`` or one for all ``()``;
                without them every row that is not codes has its own, of 256 steps. The code of a
                value is ``round((value + offset) / scale)``, and 0 outside of the map.
            highest: greatest code on given grids, up to 255; the least is 0.
            gelu: after the first layer, within 5e-5.
            residual: added to the result; of its shape, float32 or bfloat16.
            residual_scale: factors of the residual, float32 ``(outputs,)``.
            dtype: of the result, float32 or bfloat16.
            out: where the result goes; contiguous, of its shape and dtype.
        """
        x = x.contiguous()
        call = CallStruct(**self._call)
        shape = x.shape[:-1]
        if self._side:
            batch, call.height, call.width = shape
            sides = [(side - 1) // self._stride + 1 for side in (call.height, call.width)]
            shape = torch.Size((batch, *sides))
        y = torch.empty((*shape, self._outputs), dtype=dtype) if out is None else out
        assert y.shape == (*shape, self._outputs) and y.dtype == dtype and y.is_contiguous()
        call.rows = shape.numel()
        call.x, call.x_dtype = x.data_ptr(), _DTYPES[x.dtype]
        call.y, call.y_dtype = y.data_ptr(), _DTYPES[dtype]
        call.gelu = gelu
        if scale is not None and offset is not None:
            scale, offset = scale.contiguous(), offset.contiguous()
            call.one_grid = scale.dim() == 0
            call.x_scale, call.x_offset = scale.data_ptr(), offset.data_ptr()
            call.highest = highest
        if residual is not None:
            residual = residual.contiguous()
            assert residual.shape == y.shape, (residual.shape, y.shape)
            call.residual, call.residual_dtype = residual.data_ptr(), _DTYPES[residual.dtype]
        if residual_scale is not None:
            assert residual_scale.shape == (self._outputs,) and residual_scale.is_contiguous()
            assert residual is not None and residual_scale.dtype == torch.float32
            call.residual_scale = residual_scale.data_ptr()
        if call.rows:
            self._kernel.run_integer(call)
        return y


def _padded(values: Tensor) -> Tensor:
    return nn.functional.pad(values, (0, -len(values) % PANEL)).contiguous()
