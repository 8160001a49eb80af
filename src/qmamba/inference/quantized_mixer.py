"""The mixer of a converted SS2D, on codes."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor

from qmamba.inference.mixer import Mixer
from qmamba.inference.quantized_layers import (
    Linear,
    constant,
    depthwise,
    padded_channels,
    qparams_rule,
    static_rule,
)
from qmamba.nn.ss2d import ROUTES
from qmamba.ops.native.memory import Buffers
from qmamba.ops.native.operands import Constant, QParamsRule
from qmamba.ops.native.quantized_scan import QuantizedScan, ScanRules
from qmamba.quantization.ss2d import QuantizedSS2D


def quantized_mixer(
    layer: QuantizedSS2D, buffers: Buffers, output: QParamsRule | None = None
) -> Mixer:
    """Convolution, projection, scan, norm and gate of a converted layer; the caller enters it.

    Args:
        layer: the converted layer.
        buffers: where intermediate results go, the mixer's own included.
        output: rule of the layer that reads the result.

    Raises:
        NotPreparable: the kernel does not compute the layer.
    """
    convolution = depthwise(layer.conv2d, "silu")
    weight = _frozen(layer, "x_proj_weight")
    weight = weight.arranged(weight.codes.flatten(0, 1))
    project = Linear(weight, None, static_rule(layer.x_proj_input_quantizer), None, buffers)
    return Mixer(
        None,
        lambda x: convolution(x, buffers("pixels", tuple(x.shape))),
        partial(project, name="projected"),
        _CodeScan(layer, buffers, output),
        routes=ROUTES,
        window=layer.window,
    )


class _CodeScan:
    """The scan on codes; norm and gate are fused in where the routes are merged by a sum."""

    def __init__(self, layer: QuantizedSS2D, buffers: Buffers, output: QParamsRule | None) -> None:
        self._buffers = buffers
        dt_weight = _frozen(layer, "dt_projs_weight")
        dt_weight = dt_weight.arranged(padded_channels(dt_weight.codes.transpose(1, 2)))
        A, D, bias = (_frozen(layer, name) for name in ("A_logs", "Ds", "dt_projs_bias"))
        A, D = (c.arranged(c.codes.unflatten(0, (ROUTES, -1))) for c in (A, D))
        self._route_gate, self._norm = layer.multi_scan, layer.out_norm
        constants = _rules(layer), dt_weight, bias, A, D
        if self._route_gate is None:
            self._scan = QuantizedScan(*constants, norm=layer.out_norm, output=output)
        else:
            self._scan = QuantizedScan(*constants, merge=False)

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


def _frozen(layer: QuantizedSS2D, name: str) -> Constant:
    return constant(getattr(layer, f"frozen_{name}", None))


def _rules(layer: QuantizedSS2D) -> ScanRules:
    operands = (layer.x_quantizer, layer.steps_quantizer, layer.B_quantizer, layer.C_quantizer)
    return ScanRules(static_rule(layer.dt_proj_input_quantizer), *map(qparams_rule, operands))
