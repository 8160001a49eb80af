"""The mixer of a converted SS2D, on codes."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.inference.quantized.layers import (
    Linear,
    constant,
    depthwise,
    linear,
    padded_channels,
    qparams_rule,
    static_rule,
)
from qmamba.nn.ss2d import ROUTES
from qmamba.ops import scan_routes
from qmamba.ops.native.memory import Buffers
from qmamba.ops.native.operands import Constant, QParamsRule
from qmamba.ops.native.quantized_scan import QuantizedScan, ScanRules
from qmamba.quantization.ss2d import QuantizedSelectiveScan, QuantizedSS2D


class Mixed(NamedTuple):
    """What a mixer gives to the last linear layer of its SS2D."""

    map: Tensor
    """``(batch, height, width, inner)``."""
    qparams: Tensor | None
    """Quantization parameters of each image's map where the scan has measured them, else None."""


class QuantizedMixer:
    """First linear layer, convolution, projection, scan, norm and gate of a converted layer.

    Between the linear layer, the convolution and the projection there are codes; the convolution
    writes its result in float32 as well, because the grid on which the scan reads it follows the
    image.

    Args:
        layer: the converted layer.
        norm: before the first linear layer.
        buffers: where intermediate results go.
        output: rule of the layer that reads the result.

    Raises:
        NotPreparable: the kernel does not compute the layer.
    """

    def __init__(
        self,
        layer: QuantizedSS2D,
        norm: nn.LayerNorm,
        buffers: Buffers,
        output: QParamsRule | None = None,
    ) -> None:
        self._buffers = buffers
        self._enter = linear(layer.in_proj, buffers, norm)
        self._convolution = depthwise(layer.conv2d, "silu")
        self._project = projection_on_codes(layer, buffers)
        self._scan = _CodeScan(layer, buffers, output)
        self._inner, self._window = layer.conv2d.out_channels, layer.window

    def __call__(self, x: Tensor) -> Mixed:
        """``(batch, height, width, channels)`` to what the last linear layer reads."""
        height, width = x.shape[1:3]
        entered, gate = self._entered(x)
        shape = (*x.shape[:-1], self._inner)
        pixels = self._buffers("pixels", shape)
        codes = self._buffers("pixel codes", shape, torch.uint8)
        self._convolution(entered, pixels, codes=codes, code_grid=self._project.reads)
        projected = self._project(codes.flatten(1, 2), name="projected")
        routes = scan_routes(height, width, self._window)
        y, qparams = self._scan(
            pixels.flatten(1, 2), projected.unflatten(-1, (ROUTES, -1)), routes, gate
        )
        return Mixed(y.unflatten(1, (height, width)), qparams)

    def _entered(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the convolution reads, and the gate ``(batch, pixels, inner)`` if there is one."""
        if self._enter.writes_codes:
            grid = self._convolution.reads
            entered, gate = self._enter.codes(x, grid, columns=self._inner, name="inner")
        else:
            entered, gate = self._enter(x, name="inner").tensor_split([self._inner], dim=-1)
        return entered, gate.flatten(1, 2) if gate.shape[-1] else None


def projection_on_codes(layer: QuantizedSelectiveScan, buffers: Buffers) -> Linear:
    """From pixels to the parameters of the scan.

    Raises:
        NotPreparable: the kernel does not compute the layer.
    """
    weight = _frozen(layer, "x_proj_weight")
    weight = weight.arranged(weight.codes.flatten(0, 1))
    return Linear(weight, None, static_rule(layer.x_proj_input_quantizer), None, buffers)


def scan_on_codes(
    layer: QuantizedSelectiveScan,
    *,
    norm: nn.LayerNorm | None = None,
    output: QParamsRule | None = None,
    merge: bool = True,
) -> QuantizedScan:
    """The scan of a converted layer; arguments as for :class:`QuantizedScan`.

    Raises:
        NotPreparable: the kernel does not compute the layer.
    """
    dt_weight = _frozen(layer, "dt_projs_weight")
    dt_weight = dt_weight.arranged(padded_channels(dt_weight.codes.transpose(1, 2)))
    A, D, bias = (_frozen(layer, name) for name in ("A_logs", "Ds", "dt_projs_bias"))
    A, D = (c.arranged(c.codes.unflatten(0, (layer.routes, -1))) for c in (A, D))
    constants = _rules(layer), dt_weight, bias, A, D
    return QuantizedScan(*constants, norm=norm, output=output, merge=merge)


class _CodeScan:
    """The scan on codes; norm and gate are fused in where the routes are merged by a sum."""

    def __init__(self, layer: QuantizedSS2D, buffers: Buffers, output: QParamsRule | None) -> None:
        self._buffers = buffers
        self._route_gate, self._norm = layer.multi_scan, layer.out_norm
        if self._route_gate is None:
            self._scan = scan_on_codes(layer, norm=layer.out_norm, output=output)
        else:
            self._scan = scan_on_codes(layer, merge=False)

    def __call__(
        self, pixels: Tensor, projected: Tensor, routes: Tensor, gate: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if self._route_gate is None:
            out = self._buffers("mixed", tuple(pixels.shape))
            return self._scan(pixels, projected, routes, gate=gate, out=out)
        batch, length, inner = pixels.shape
        out = self._buffers("routes", (batch, ROUTES, length, inner))
        y = self._norm(self._route_gate(self._scan(pixels, projected, routes, out=out).y))
        return (y if gate is None else y.mul_(F.silu(gate))), None


def _frozen(layer: QuantizedSelectiveScan, name: str) -> Constant:
    return constant(getattr(layer, f"frozen_{name}", None))


def _rules(layer: QuantizedSelectiveScan) -> ScanRules:
    operands = (layer.x_quantizer, layer.steps_quantizer, layer.B_quantizer, layer.C_quantizer)
    return ScanRules(static_rule(layer.dt_proj_input_quantizer), *map(qparams_rule, operands))
