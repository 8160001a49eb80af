"""A converted SS2D between its two linear layers, on codes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.nn.ss2d import ROUTES
from qmamba.ops import scan_routes, ss2d_given_steps
from qmamba.ops.buffers import Buffers
from qmamba.ops.kernel import PackedParameters, ScanCall, load_kernel
from qmamba.ops.operands import Constant, GridRule, place_operand, step_levels
from qmamba.ops.table import MAX_BITS, MAX_STATES, Scanned, ScanRules, TableScan
from qmamba.quantization.deployed_layers import (
    Linear,
    constant,
    depthwise,
    grid_rule,
    padded_channels,
    static_rule,
)
from qmamba.quantization.ss2d import QuantizedSS2D

# With fewer states a row of decays is too short for a vector, and exponentials are cheaper.
_FEWEST_TABLE_STATES = 4


class Mixer:
    """Convolution, projection, scan, norm and gate.

    With time steps of at most 4 bits the scan looks its exponentials up; else it computes them from
    the levels of the steps.

    Args:
        layer: the converted layer.
        buffers: where intermediate results go.
        output: rule of the layer that reads the result.
    """

    def __init__(
        self, layer: QuantizedSS2D, buffers: Buffers, output: GridRule | None = None
    ) -> None:
        self._buffers = buffers
        self._convolution = depthwise(layer.conv2d, "silu")
        weight = _frozen(layer, "x_proj_weight")
        project_rule = static_rule(layer.x_proj_input_quantizer)
        weight = weight.arranged(weight.codes.flatten(0, 1))
        self._project = Linear(weight, None, project_rule, None, buffers)
        self._rules = rules = _rules(layer)
        dt_weight = _frozen(layer, "dt_projs_weight")
        self._rank = dt_weight.codes.shape[2]
        self._dt_weight = dt_weight.arranged(padded_channels(dt_weight.codes.transpose(1, 2)))
        A, D, bias = (_frozen(layer, name) for name in ("A_logs", "Ds", "dt_projs_bias"))
        A, D = (c.arranged(c.codes.unflatten(0, (ROUTES, -1))) for c in (A, D))
        self._window, self._states = layer.window, layer.state_size
        self._route_gate, self._norm = layer.multi_scan, layer.out_norm
        self._table: TableScan | None = None
        self._scan: _LevelScan | None = None
        if (
            layer.multi_scan is None
            and rules.steps.bits <= MAX_BITS
            and _FEWEST_TABLE_STATES <= self._states <= MAX_STATES
        ):
            self._table = TableScan(
                rules, self._dt_weight, bias, A, D, norm=layer.out_norm, output=output
            )
        else:
            self._scan = _LevelScan(bias, A, D, layer.out_norm, layer.multi_scan)

    def __call__(self, x: Tensor, gate: Tensor | None = None) -> Scanned:
        """Scan a map.

        Args:
            x: ``(batch, height, width, inner)``, which may be part of the channels of a map.
            gate: the same, whose SiLU multiplies the result, or ``None``.

        Returns:
            ``(batch, height, width, inner)``, in a buffer, and its grids if they are known.
        """
        batch, height, width, inner = x.shape
        buffers = self._buffers
        pixels = self._convolution(x, buffers("pixels", tuple(x.shape))).flatten(1, 2)
        projected = self._project(pixels, name="projected").unflatten(-1, (ROUTES, -1))
        routes = scan_routes(height, width, self._window)
        flat_gate = None if gate is None else gate.flatten(1, 2)
        out = buffers("mixed", tuple(pixels.shape))
        if self._table is not None:
            y, grids = self._table(pixels, projected, routes, gate=flat_gate, out=out)
            return Scanned(y.view(x.shape), grids)
        assert self._scan is not None
        rules, rows = self._rules, projected.flatten(1, 2)
        middle = self._rank + self._states
        place_operand(rows[..., : self._rank], rules.low)
        place_operand(rows[..., self._rank : middle], rules.B)
        place_operand(rows[..., middle:], rules.C)
        place_operand(pixels, rules.x)
        levels = buffers("steps", (batch, ROUTES, height * width, inner))
        step_levels(projected, self._dt_weight, inner, rules.steps, levels)
        y = self._scan(pixels, levels, projected, routes, out)
        y = y if flat_gate is None else y.mul_(F.silu(flat_gate))
        return Scanned(y.view(x.shape), None)


def _frozen(layer: QuantizedSS2D, name: str) -> Constant:
    return constant(getattr(layer, f"frozen_{name}", None))


def _rules(layer: QuantizedSS2D) -> ScanRules:
    operands = (layer.x_quantizer, layer.steps_quantizer, layer.B_quantizer, layer.C_quantizer)
    return ScanRules(static_rule(layer.dt_proj_input_quantizer), *map(grid_rule, operands))


class _LevelScan:
    """The scan of the levels of its operands, then the norm."""

    def __init__(
        self,
        bias: Constant,
        A: Constant,
        D: Constant,
        norm: nn.LayerNorm,
        route_gate: nn.Module | None,
    ) -> None:
        self._kernel = load_kernel()
        self._bias, self._A, self._D = bias, A, D
        self._norm, self._route_gate = norm, route_gate

    def __call__(
        self, x: Tensor, levels: Tensor, projected: Tensor, routes: Tensor, out: Tensor
    ) -> Tensor:
        bias, A, D = self._bias.values(), self._A.values(), self._D.values()
        states = A.shape[2]
        if self._route_gate is not None:
            B_and_C = projected[..., -2 * states :].contiguous()
            y = ss2d_given_steps(x, levels, B_and_C, routes, bias, A, D, merge=False)
            return self._norm(self._route_gate(y))
        rank = projected.shape[3] - 2 * states
        # The steps are given, so the weights that would make them are not read.
        unread = torch.empty(0).expand(*bias.shape, 0)
        packed = PackedParameters.pack(unread, bias, A, D, merge=True)
        call = ScanCall(x, projected, routes, packed, merge=True, softplus=True)
        call.call.rank = rank
        weight, offset = self._norm.weight, self._norm.bias
        call.point(y=out, delta=levels, norm_weight=weight, norm_bias=offset)
        call.call.norm_epsilon = self._norm.eps
        self._kernel.run("qmamba_forward", call.call)
        return out
