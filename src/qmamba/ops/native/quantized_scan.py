"""The 2-D scan of a quantized network by the C++ kernel: operands quantized, delta as codes.

What it trades: the CPU alone, no gradients. In return constants are packed once and operands are
quantized by the kernel itself. The definition is
:func:`qmamba.ops.quantized.table_scan.table_scan_naive`.

There are two ways to get exponentials. A channel whose delta is a code of few bits has as many
different ones as there are codes, so softplus and the exponentials of all states can be taken of
those before the scan, which looks them up; or they are computed as the scan goes, for delta of more
bits and for short routes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.errors import ShapeError
from qmamba.ops.native.handover import address, described, new
from qmamba.ops.native.library import load_kernel
from qmamba.ops.native.operands import PARTS, Constant, QParamsRule
from qmamba.ops.native.scan_call import round_up
from qmamba.ops.native.structs import (
    QParamsRuleStruct,
    QuantizedScanStruct,
    ScanOperandsStruct,
    ScanStruct,
)
from qmamba.ops.scan.routes import require_routes

MAX_BITS = 4
"""Width of the widest code with tables."""
SHORTEST_ROUTE = 64
"""Steps; tables take as many exponentials as a route of a fourth as many steps computes."""


class ScanRules(NamedTuple):
    """Where the quantization parameters of the operands of a scan come from."""

    low: QParamsRule
    """Of the low-rank form of delta; fixed."""
    x: QParamsRule
    delta: QParamsRule
    """Of delta before bias and softplus, at most :data:`MAX_BITS` bits for tables."""
    B: QParamsRule
    C: QParamsRule


class OperandQParams(NamedTuple):
    """The quantization parameters of a scan's operands, float32 ``(batch, 4)`` each: scale, offset,
    lowest and highest value."""

    x: Tensor
    delta: Tensor
    B: Tensor
    C: Tensor


class Scanned(NamedTuple):
    """The result of a :class:`QuantizedScan`."""

    y: Tensor
    """float32 ``(batch, pixels, channels)``, or ``(batch, routes, pixels, channels)`` unmerged."""
    qparams: Tensor | None
    """float32 ``(batch, 4)``: the parameters of ``y`` by the rule that was given for it, if it
    follows the images."""


class QuantizedScan:
    """The scan of the C++ kernel on quantized operands, then an optional norm and gate.

    The operands are fake-quantized in place, but for delta, which is many times as large as what it
    is computed from: it is quantized as the scan computes it and never stored. The statistics of
    the result are taken while it is written.

    Args:
        rules: where the quantization parameters of the operands come from.
        dt_weight: ``(routes, rank, padded)``, channels padded to a multiple of 16.
        dt_bias: ``(routes, channels)``.
        A: ``(routes, channels, states)``.
        D: ``(routes, channels)``.
        norm: layer norm over the channels of the merged map, or ``None``.
        output: rule of what reads the result, whose statistics are wanted, or ``None``.
        tables: whether exponentials are looked up, for delta of at most :data:`MAX_BITS` bits; by
            default on routes of at least :data:`SHORTEST_ROUTE` steps.
        merge: sum the routes; otherwise they are kept apart, without tables, norm and output.

    Raises:
        BackendError: the kernel was not built or does not load.
        ShapeError: the constants do not fit together, or the kernel does not compute this.
    """

    def __init__(
        self,
        rules: ScanRules,
        dt_weight: Constant,
        dt_bias: Constant,
        A: Constant,
        D: Constant,
        *,
        norm: nn.LayerNorm | None = None,
        output: QParamsRule | None = None,
        tables: bool | None = None,
        merge: bool = True,
    ) -> None:
        self._kernel = load_kernel()
        if A.codes.dim() != 3 or dt_weight.codes.dim() != 3 or 0 in A.codes.shape:
            raise ShapeError(
                "The argument dt_weight must be (routes, rank, padded channels) and A (routes, "
                "channels, "
                f"states), not empty, got {tuple(dt_weight.codes.shape)} and "
                f"{tuple(A.codes.shape)}."
            )
        self.routes, self.channels, self.states = A.codes.shape
        self.rank, self._padded = dt_weight.codes.shape[1], round_up(self.channels)
        if not merge and (tables or norm or output):
            raise ShapeError("A scan whose routes stay apart has no tables, no norm and no output.")
        if tables and rules.delta.bits > MAX_BITS:
            raise ShapeError(
                f"Tables need delta of at most {MAX_BITS} bits, got {rules.delta.bits} bits."
            )
        if rules.low.fixed is None:
            raise ShapeError("The quantization parameters of the low-rank delta must be fixed.")
        self._merge, self.rules = merge, rules
        self._tables = tables if merge and rules.delta.bits <= MAX_BITS else False
        self._output = None if output is None or output.fixed is not None else output
        missing = self._padded - self.channels
        self._dt_weight = dt_weight
        self._bias, self._skip = (c.arranged(F.pad(c.codes, (0, missing))) for c in (dt_bias, D))
        self._decay = A.arranged(F.pad(A.codes.transpose(1, 2), (0, missing)))
        decay_shape = (self.routes, self.states, self._padded)
        self._constants = {
            "dt_weight": dt_weight.struct("dt_weight", (self.routes, self.rank, self._padded)),
            "dt_bias": self._bias.struct("dt_bias", (self.routes, self._padded)),
            "decay": self._decay.struct("A", decay_shape),
            "skip": self._skip.struct("D", (self.routes, self._padded)),
        }
        self._norm: tuple[Tensor, Tensor] | None = None
        self._epsilon = 0.0
        if norm is not None:
            weight, bias = (p.detach().to(torch.float32, copy=True) for p in norm.parameters())
            self._norm, self._epsilon = (weight, bias), norm.eps

    def fake_quantize_(self, x: Tensor, projected: Tensor) -> OperandQParams:
        """Fake-quantize x, the low-rank delta, B and C, in place.

        Args:
            x, projected: as for a call.

        Raises:
            ShapeError: a tensor is not what a call needs.
        """
        batch, pixels = self._sizes(x)
        low, *rules = self.rules
        low_qparams = low.qparams(batch)
        qparams = tuple(rule.qparams(batch) for rule in rules)
        weights = new(self.routes * self.rank * self._padded)
        partial = new(len(rules) * batch * PARTS * 4, dtype=torch.float64)
        call = ScanOperandsStruct(
            x=address("x", x, (batch, pixels, self.channels)),
            projected=address("projected", projected, self._projected_shape(batch, pixels)),
            partial=partial.data_ptr(),
            weights=weights.data_ptr(),
            dt_weight=self._constants["dt_weight"],
            low=low.struct(low_qparams, batch),
            operands=_rule_structs(rules, qparams, batch),
            batch=batch,
            pixels=pixels,
            routes=self.routes,
            channels=self.channels,
            padded=self._padded,
            rank=self.rank,
            states=self.states,
        )
        self._kernel.run("run_scan_operands", call)
        return OperandQParams(*qparams)

    def __call__(
        self,
        x: Tensor,
        projected: Tensor,
        routes: Tensor,
        *,
        qparams: OperandQParams | None = None,
        gate: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Scanned:
        """Scan a map.

        Args:
            x: float32 ``(batch, pixels, channels)``, contiguous; fake-quantized in place.
            projected: float32 ``(batch, pixels, routes, rank + 2 * states)``, contiguous: low-rank
                delta, B and C; fake-quantized in place.
            routes: int32 ``(routes, steps)``, or with a batch axis before; contiguous.
            qparams: what :meth:`fake_quantize_` gave, if that has been done already.
            gate: the result is multiplied by SiLU of this; float32 ``(batch, pixels, channels)``,
                which may be part of an array with longer rows.
            out: where the result goes; contiguous.

        Raises:
            ShapeError: a tensor is not that.
        """
        batch, pixels = self._sizes(x)
        steps, own_orders = routes.shape[-1], routes.dim() == 3
        order_shape = (batch, self.routes, steps) if own_orders else (self.routes, steps)
        require_routes(routes, pixels)
        qparams = qparams or self.fake_quantize_(x, projected)
        shape = (batch, pixels, self.channels)
        y_shape = shape if self._merge else (batch, self.routes, *shape[1:])
        y = new(*y_shape) if out is None else out
        scan = ScanStruct(
            x=address("x", x, shape),
            projected=address("projected", projected, self._projected_shape(batch, pixels)),
            order=address("routes", routes, order_shape, torch.int32),
            y=address("out", y, y_shape),
            batch=batch,
            pixels=pixels,
            steps=steps,
            channels=self.channels,
            padded=self._padded,
            routes=self.routes,
            rank=self.rank,
            states=self.states,
            norm_epsilon=self._epsilon,
            shared=1,
            merged=int(self._merge),
            softplus=1,
            own_orders=int(own_orders),
        )
        if self._norm is not None:
            weight, bias = self._norm
            scan.norm_weight = address("norm weight", weight, (self.channels,))
            scan.norm_bias = address("norm bias", bias, (self.channels,))
        looked_up = steps >= SHORTEST_ROUTE if self._tables is None else self._tables
        call = QuantizedScanStruct(
            scan=scan,
            delta=self.rules.delta.struct(qparams.delta, batch, known=True),
            looked_up=int(looked_up),
            **self._constants,
        )
        partial = output = None
        if self._output is not None:
            output = self._output.qparams(batch)
            partial = new(batch * PARTS * 4, dtype=torch.float64)
            call.output, call.partial = self._output.struct(output, batch), partial.data_ptr()
        if gate is not None:
            call.gate, call.gate_stride = self._gate_address(gate, shape)
        self._kernel.run_quantized_scan(call)
        del partial
        return Scanned(y, output)

    def _sizes(self, x: Tensor) -> tuple[int, int]:
        """Images and pixels of a map."""
        if x.dim() != 3 or x.shape[2] != self.channels or 0 in x.shape:
            raise ShapeError(
                f"The argument x must be (batch, pixels, {self.channels}) and not empty, got "
                f"{tuple(x.shape)}."
            )
        return x.shape[0], x.shape[1]

    def _projected_shape(self, batch: int, pixels: int) -> tuple[int, ...]:
        return (batch, pixels, self.routes, self.rank + 2 * self.states)

    def _gate_address(self, gate: Tensor, shape: tuple[int, ...]) -> tuple[int, int]:
        """Where the gate begins, and the distance of its rows."""
        batch, pixels, channels = shape
        stride = gate.stride(1) if gate.dim() == 3 else 0
        if not (
            self._merge
            and gate.dtype == torch.float32
            and gate.is_cpu
            and gate.shape == shape
            and (channels == 1 or gate.stride(2) == 1)
            and (pixels == 1 or stride >= channels)
            and (batch == 1 or gate.stride(0) == pixels * stride)
        ):
            raise ShapeError(
                f"The argument gate must be float32 {shape} on the CPU, its rows at one distance, "
                "for merged "
                f"routes, got {described(gate)}."
            )
        return gate.data_ptr(), max(stride, channels)


def _rule_structs(
    rules: Iterable[QParamsRule], qparams: Iterable[Tensor], batch: int
) -> ctypes.Array[QParamsRuleStruct]:
    pairs = zip(rules, qparams, strict=True)
    return (QParamsRuleStruct * 4)(*(rule.struct(found, batch) for rule, found in pairs))
