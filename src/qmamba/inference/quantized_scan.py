"""A converted SS2D between its two linear layers, on codes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from qmamba.inference.quantized_layers import (
    Linear,
    constant,
    depthwise,
    padded_channels,
    qparams_rule,
    static_rule,
)
from qmamba.nn.ss2d import ROUTES
from qmamba.ops import scan_routes
from qmamba.ops.native.memory import Buffers
from qmamba.ops.native.operands import Constant, QParamsRule
from qmamba.ops.native.quantized_scan import QuantizedScan, Scanned, ScanRules
from qmamba.quantization.ss2d import QuantizedSS2D


class Mixer:
    """Convolution, projection, scan, norm and gate.

    Args:
        layer: the converted layer.
        buffers: where intermediate results go.
        output: rule of the layer that reads the result.
    """

    def __init__(
        self, layer: QuantizedSS2D, buffers: Buffers, output: QParamsRule | None = None
    ) -> None:
        self._buffers = buffers
        self._convolution = depthwise(layer.conv2d, "silu")
        weight = _frozen(layer, "x_proj_weight")
        project_rule = static_rule(layer.x_proj_input_quantizer)
        weight = weight.arranged(weight.codes.flatten(0, 1))
        self._project = Linear(weight, None, project_rule, None, buffers)
        dt_weight = _frozen(layer, "dt_projs_weight")
        dt_weight = dt_weight.arranged(padded_channels(dt_weight.codes.transpose(1, 2)))
        A, D, bias = (_frozen(layer, name) for name in ("A_logs", "Ds", "dt_projs_bias"))
        A, D = (c.arranged(c.codes.unflatten(0, (ROUTES, -1))) for c in (A, D))
        self._window = layer.window
        self._route_gate, self._norm = layer.multi_scan, layer.out_norm
        constants = _rules(layer), dt_weight, bias, A, D
        if self._route_gate is None:
            self._scan = QuantizedScan(*constants, norm=layer.out_norm, output=output)
        else:
            self._scan = QuantizedScan(*constants, merge=False)

    def __call__(self, x: Tensor, gate: Tensor | None = None) -> Scanned:
        """Scan a map.

        Args:
            x: ``(batch, height, width, inner)``, which may be part of the channels of a map.
            gate: the same, whose SiLU multiplies the result, or ``None``.

        Returns:
            ``(batch, height, width, inner)``, in a buffer, and its quantization parameters if they
            are known.
        """
        batch, height, width, _ = x.shape
        buffers = self._buffers
        pixels = self._convolution(x, buffers("pixels", tuple(x.shape))).flatten(1, 2)
        projected = self._project(pixels, name="projected").unflatten(-1, (ROUTES, -1))
        routes = scan_routes(height, width, self._window)
        flat_gate = None if gate is None else gate.flatten(1, 2)
        if self._route_gate is None:
            out = buffers("mixed", tuple(pixels.shape))
            y, qparams = self._scan(pixels, projected, routes, gate=flat_gate, out=out)
            return Scanned(y.view(x.shape), qparams)
        y = buffers("routes", (batch, ROUTES, *pixels.shape[1:]))
        y = self._norm(self._route_gate(self._scan(pixels, projected, routes, out=y).y))
        y = y if flat_gate is None else y.mul_(F.silu(flat_gate))
        return Scanned(y.view(x.shape), None)


def _frozen(layer: QuantizedSS2D, name: str) -> Constant:
    return constant(getattr(layer, f"frozen_{name}", None))


def _rules(layer: QuantizedSS2D) -> ScanRules:
    operands = (layer.x_quantizer, layer.steps_quantizer, layer.B_quantizer, layer.C_quantizer)
    return ScanRules(static_rule(layer.dt_proj_input_quantizer), *map(qparams_rule, operands))
