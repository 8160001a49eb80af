"""Scans with every operand quantized, as Q-MambaIR places its quantizers, and SS2D around one."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.nn import SS2D, SelectiveScan
from qmamba.ops import ss2d, ss2d_given_delta
from qmamba.quantization.config import QuantConfig
from qmamba.quantization.layers import (
    FrozenTensor,
    QuantizedConv2d,
    QuantizedLinear,
    freeze,
)
from qmamba.quantization.quantizers import Operand, Quantizer

_CONSTANT = Operand.weight()

PROJECTION_WEIGHTS = ("x_proj_weight", "dt_projs_weight")
"""Parameters that stand for a weight."""
SCAN_CONSTANTS = ("A_logs", "Ds", "dt_projs_bias")
"""Parameters that are operands of the scan."""


class QuantizedSelectiveScan(SelectiveScan):
    """:class:`~qmamba.nn.SelectiveScan` with quantized projections and operands.

    The parameters are those of the given layer, under the same names; quantizers stand beside them
    as ``<parameter>_quantizer`` and ``<operand>_quantizer``. The state of the scan, its
    exponentials and the softplus stay in full precision.

    Args:
        layer: the layer whose parameters are taken over, not copied.
        config: which quantizers.
        name: of the layer in its network, for the exceptions of the configuration.
        selected: whether a part of the layer, given by name, is quantized.

    Source: Q-MambaIR, placement in its official code.
    """

    def __init__(
        self,
        layer: SelectiveScan,
        config: QuantConfig,
        name: str,
        selected: Callable[[str], bool] = lambda _: True,
    ) -> None:
        # The constructor of the layer would draw weights that are not needed.
        nn.Module.__init__(self)
        self.state_size, self.routes = layer.state_size, layer.routes
        for key, child in layer.named_children():
            self.add_module(key, child)
        for key, parameter in layer.named_parameters(recurse=False):
            self.register_parameter(key, parameter)
        self._quantize_layers(config, name, selected)
        self._quantize_operands(config, name, selected)
        self.train(layer.training)

    def _quantize_layers(
        self, config: QuantConfig, name: str, selected: Callable[[str], bool]
    ) -> None:
        """Layers around the scan; here there are none."""

    def _quantize_operands(
        self, config: QuantConfig, name: str, selected: Callable[[str], bool]
    ) -> None:
        def weight(key: str) -> Quantizer | None:
            return config.weight_quantizer(key) if selected(key) else None

        def operand(
            key: str, kind: Operand | None = None, *, dynamic: bool = True
        ) -> Quantizer | None:
            if not selected(key):
                return None
            return config.activation_quantizer(key, kind, dynamic=dynamic)

        # The routes read permuted copies of one map, so it counts as often as there are routes.
        copied = Operand(copies=self.routes)
        x_proj, dt_proj, scan = (f"{name}.{part}" for part in ("x_proj", "dt_proj", "scan"))
        self.x_proj_input_quantizer = operand(x_proj, copied, dynamic=False)
        self.x_proj_weight_quantizer = weight(x_proj)
        self.dt_proj_input_quantizer = operand(dt_proj, dynamic=False)
        self.dt_projs_weight_quantizer = weight(dt_proj)
        self.x_quantizer = operand(scan, copied)
        self.steps_quantizer = operand(scan)
        self.B_quantizer = operand(scan)
        self.C_quantizer = operand(scan)
        for key in SCAN_CONSTANTS:
            setattr(self, f"{key}_quantizer", operand(scan, _CONSTANT))

    def scan_along(
        self, pixels: Tensor, routes: Tensor, *, prompts: Tensor | None = None, merge: bool = True
    ) -> Tensor:
        weight = self.constant("x_proj_weight")
        projected = F.linear(_apply(self.x_proj_input_quantizer, pixels), weight.flatten(0, 1))
        projected = projected.unflatten(-1, (self.routes, -1))
        dt_weight, bias = self.constant("dt_projs_weight"), self.constant("dt_projs_bias")
        A = self.constant("A_logs").unflatten(0, (self.routes, -1))
        D = self.constant("Ds").unflatten(0, (self.routes, -1))
        inputs = _apply(self.x_quantizer, pixels)
        rank = projected.shape[-1] - 2 * self.state_size
        low, B, C = projected.split([rank, self.state_size, self.state_size], dim=-1)
        C = C if prompts is None else C + prompts.to(C.dtype)
        low = _apply(self.dt_proj_input_quantizer, low)
        B, C = _apply(self.B_quantizer, B), _apply(self.C_quantizer, C)
        if self.steps_quantizer is None:
            projected = torch.cat([low, B, C], dim=-1)
            return ss2d(inputs, projected, routes, dt_weight, bias, A, D, merge=merge)
        delta = torch.matmul(low.transpose(1, 2), dt_weight.transpose(1, 2))
        delta = self.steps_quantizer(delta)
        B_and_C = torch.cat([B, C], dim=-1)
        return ss2d_given_delta(inputs, delta, B_and_C, routes, bias, A, D, merge=merge)

    def constant(self, name: str) -> Tensor:
        """What the layer computes with for one of its parameters: for ``A_logs``, the decay A."""
        frozen = getattr(self, f"frozen_{name}", None)
        if frozen is not None:
            return frozen()
        return _apply(getattr(self, f"{name}_quantizer"), self._exact(name))

    def initialize_constants(self) -> None:
        """Initialize the quantizers of the parameters with their values."""
        for name in (*PROJECTION_WEIGHTS, *SCAN_CONSTANTS):
            self.constant(name)

    def convert(self) -> None:
        """Replace the parameters that are quantized by their codes; layers convert themselves."""
        for name in (*PROJECTION_WEIGHTS, *SCAN_CONSTANTS):
            quantizer = getattr(self, f"{name}_quantizer")
            if quantizer is not None:
                frozen: FrozenTensor = freeze(quantizer, self._exact(name))
                setattr(self, f"frozen_{name}", frozen)
                setattr(self, f"{name}_quantizer", None)
                delattr(self, name)
                self.register_parameter(name, None)

    def _exact(self, name: str) -> Tensor:
        value: Tensor = getattr(self, name)
        if name in SCAN_CONSTANTS:
            value = value.to(torch.promote_types(value.dtype, torch.float32))
        return -torch.exp(value) if name == "A_logs" else value


class QuantizedSS2D(QuantizedSelectiveScan, SS2D):
    """:class:`~qmamba.nn.SS2D` with quantized layers, projections and scan.

    As :class:`QuantizedSelectiveScan`; the norm and the gates stay in full precision, too.

    Args:
        layer, config, name, selected: as for :class:`QuantizedSelectiveScan`.
    """

    def __init__(
        self,
        layer: SS2D,
        config: QuantConfig,
        name: str,
        selected: Callable[[str], bool] = lambda _: True,
    ) -> None:
        super().__init__(layer, config, name, selected)
        self.window, self.z_gate = layer.window, layer.z_gate
        if layer.multi_scan is None:
            self.multi_scan = None

    def _quantize_layers(
        self, config: QuantConfig, name: str, selected: Callable[[str], bool]
    ) -> None:
        for key, dynamic in (("in_proj", False), ("conv2d", False), ("out_proj", True)):
            full = f"{name}.{key}"
            if not selected(full):
                continue
            layer = getattr(self, key)
            kind = QuantizedConv2d if isinstance(layer, nn.Conv2d) else QuantizedLinear
            quantizers = (
                config.weight_quantizer(full),
                config.activation_quantizer(full, dynamic=dynamic),
            )
            setattr(self, key, kind(layer, *quantizers))


def _apply(quantizer: Quantizer | None, x: Tensor) -> Tensor:
    return x if quantizer is None else quantizer(x)
