"""The mixer of a converted SS2D, on codes."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

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
from qmamba.quantization.ss2d import QuantizedSelectiveScan, QuantizedSS2D


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
    project = projection_on_codes(layer, buffers)
    return Mixer(
        None,
        lambda x: convolution(x, buffers("pixels", tuple(x.shape))),
        partial(project, name="projected"),
        _CodeScan(layer, buffers, output),
        routes=ROUTES,
        window=layer.window,
    )


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
