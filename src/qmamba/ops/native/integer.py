"""Linear layers on 8-bit integers by the C++ kernel, with quantization of the rows fused in.

What it trades: no gradients, no tracing, and each row is rounded to 256 steps of its own range. In
return products are of 8-bit integers, the norm before a layer and the GELU, the quantization and
the second layer after it run while the rows are in cache, and the result of a row has the same bits
whatever the threads and whatever shares its batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from qmamba.errors import ShapeError
from qmamba.ops.native.handover import FLOAT_DTYPES, address, described, dtype_code, new
from qmamba.ops.native.library import load_kernel
from qmamba.ops.native.operands import CodeGrid
from qmamba.ops.native.structs import IntegerCallStruct, IntegerLayerStruct

PANEL = 32
"""Outputs that the kernel computes together; packed arrays are padded to it."""

_MAX_INPUTS = 65536
_HIGHEST = 255
_ROW_DTYPES = {**FLOAT_DTYPES, torch.uint8: 2}
"""Element types of input rows; uint8 are codes with given quantization parameters."""


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
        if (
            codes.dim() != 2
            or codes.dtype != torch.int8
            or 0 in codes.shape
            or codes.shape[1] >= _MAX_INPUTS
        ):
            raise ShapeError(
                f"A weight of integers must be int8 (outputs, inputs) with fewer than "
                f"{_MAX_INPUTS} inputs, got {codes.dtype} {tuple(codes.shape)}."
            )
        self.outputs, self.inputs = codes.shape
        codes = codes.detach().cpu()
        scale = self._by_output("scale", scale)
        offsets = new(self.outputs).zero_()
        if offset is not None:
            offsets = self._by_output("offset", offset)
        sums = (scale.double() * codes.sum(1) - self.inputs * offsets.double()).float()
        rows, quads = -self.outputs % PANEL, -self.inputs % 4
        padded = nn.functional.pad(codes, (0, quads, 0, rows))
        panels = padded.view(-1, PANEL, padded.shape[1] // 4, 4).transpose(1, 2).contiguous()
        biases = new(self.outputs).zero_() if bias is None else self._by_output("bias", bias)
        self._codes = panels
        self._arrays = {"scale": scale, "sums": sums, "bias": biases}
        if offset is not None:
            self._arrays["offset"] = offsets
        self._arrays = {name: _padded(array) for name, array in self._arrays.items()}
        padded_outputs = (self.outputs + rows,)
        pointers = {
            name: address(name, array, padded_outputs) for name, array in self._arrays.items()
        }
        pointers["codes"] = address("codes", panels, panels.shape, torch.int8)
        self.struct = IntegerLayerStruct(inputs=self.inputs, outputs=self.outputs, **pointers)

    def _by_output(self, name: str, numbers: Tensor) -> Tensor:
        if numbers.numel() not in (1, self.outputs):
            raise ShapeError(
                f"{name} must be one number or one for each of {self.outputs} outputs, got "
                f"{tuple(numbers.shape)}."
            )
        return numbers.detach().float().cpu().reshape(-1).expand(self.outputs)


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
        ShapeError: the layers, the norm and the patches do not fit together.
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
        self._channels = first.inputs // side**2 if side else first.inputs
        fits = second is None or second.inputs == first.outputs
        is_patch = side > 0 and side % 2 == 1 and first.inputs % side**2 == 0
        if not fits or stride < 1 or (side != 0 and not is_patch):
            raise ShapeError(
                f"Layers of {first.inputs} to {first.outputs} and "
                f"{'no second' if second is None else second.inputs} inputs do not fit together, "
                f"or not patches of side {side} and stride {stride}, which must be odd and at "
                "least 1."
            )
        self._call = {"first": first.struct, "side": side, "stride": stride}
        if second is not None:
            self._call["second"] = second.struct
        self._norm: list[Tensor] = []
        if norm is not None:
            parameters = {"norm_weight": norm.weight, "norm_bias": norm.bias}
            for name, parameter in parameters.items():
                copied = parameter.detach().to("cpu", torch.float32, copy=True)
                self._norm.append(copied)
                self._call[name] = address(name, copied, (first.inputs,))
            self._call["norm_epsilon"] = norm.eps
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
        codes: Tensor | None = None,
        code_grid: CodeGrid | None = None,
    ) -> Tensor:
        """``(..., inputs)`` to ``(..., outputs)``, a map of patches to a map.

        Args:
            x: float32 or bfloat16 ``(..., inputs)``, or ``(batch, height, width, channels)`` for
                patches; or uint8 codes of either shape, with given quantization parameters.
            scale, offset: quantization parameters of the rows, float32, one each ``(...)`` or one
                for all ``()``; without them every row that is not codes has its own, of 256 steps.
                The code of a value is ``round((value + offset) / scale)``, and 0 outside of the
                map.
            highest: greatest code with given parameters, up to 255; the least is 0.
            gelu: after the first layer, within 5e-5; before codes within 2e-7.
            residual: added to the result; of its shape, float32 or bfloat16.
            residual_scale: factors of the residual, float32 ``(outputs,)``.
            dtype: of the result, float32 or bfloat16.
            out: where the result goes; contiguous, of its shape and dtype.
            codes: where the first outputs go as codes, uint8 ``(..., columns)``, contiguous; the
                result are the other ones. For one layer without a residual.
            code_grid: what the codes stand for; given with ``codes``.

        Raises:
            ShapeError: a tensor is not that.
        """
        x = x.contiguous()
        call = IntegerCallStruct(**self._call)
        rows = self._rows(x, call)
        columns = 0 if codes is None else codes.shape[-1]
        kept = max(0, self._outputs - columns)
        y = new(*rows, kept, dtype=dtype) if out is None else out
        call.rows = rows.numel()
        call.x, call.x_dtype = (
            address("x", x, x.shape, x.dtype),
            dtype_code("x", x, _ROW_DTYPES),
        )
        call.y, call.y_dtype = (
            address("out", y, (*rows, kept), dtype),
            dtype_code("out", y),
        )
        call.gelu = gelu
        if codes is not None:
            alone = self._layers[1] is None and residual is None
            if code_grid is None or columns > self._outputs or not alone:
                raise ShapeError(
                    f"Codes need a grid, at most {self._outputs} columns, one layer and no "
                    f"residual, got {described(codes)}."
                )
            call.output = code_grid.struct(codes, (*rows, columns))
        if scale is not None and offset is not None:
            scale, offset = scale.contiguous(), offset.contiguous()
            call.per_tensor = scale.dim() == 0
            of_rows = () if call.per_tensor else self._parameter_shape(rows, scale)
            call.x_scale = address("scale", scale, of_rows)
            call.x_offset = address("offset", offset, of_rows)
            call.highest = highest
        if (scale is None) != (offset is None) or (scale is None and x.dtype == torch.uint8):
            raise ShapeError("Codes, scale and offset are given together or not at all.")
        if not 0 <= highest <= _HIGHEST:
            raise ShapeError(f"The argument highest must be from 0 to {_HIGHEST}, got {highest}.")
        if residual is not None:
            residual = residual.contiguous()
            call.residual = address("residual", residual, y.shape, residual.dtype)
            call.residual_dtype = dtype_code("residual", residual)
        if residual_scale is not None:
            if residual is None:
                raise ShapeError("The argument residual_scale needs a residual.")
            call.residual_scale = address("residual_scale", residual_scale, (self._outputs,))
        if call.rows:
            self._kernel.run_integer(call)
        return y

    def _rows(self, x: Tensor, call: IntegerCallStruct) -> torch.Size:
        """The shape of the rows that come out, and of the map in the call."""
        patches = bool(self._side)
        if x.dim() < 1 or x.shape[-1] != self._channels or (patches and x.dim() != 4):
            wanted = "(batch, height, width, " if patches else "(..., "
            raise ShapeError(
                f"The argument x must be {wanted}{self._channels}), got {described(x)}."
            )
        if not patches:
            return x.shape[:-1]
        batch, call.height, call.width = x.shape[:-1]
        sides = [(side - 1) // self._stride + 1 for side in (call.height, call.width)]
        return torch.Size((batch, *sides))

    @staticmethod
    def _parameter_shape(rows: torch.Size, scale: Tensor) -> Sequence[int]:
        """Of scales of single rows, which may come flat."""
        return scale.shape if scale.numel() == rows.numel() else rows


def _padded(values: Tensor) -> Tensor:
    return nn.functional.pad(values, (0, -len(values) % PANEL)).contiguous()
