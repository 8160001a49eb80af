"""The 2-D scan of a quantized network: operands on grids, time steps as codes.

There are two ways to get exponentials. A channel whose time steps are codes has as many different
ones as there are codes, so softplus and the exponentials of all states can be taken of those before
the scan, which reads a row of decays for each step of the route; or they are computed as the scan
goes, for steps of more bits and for few states. The definition of both is :func:`table_scan_naive`,
on operands that lie on their grids; :class:`QuantizedScan` is the C++ kernel, which puts them there
itself, packs constants once, works on the CPU and has no gradient.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.ops.native.library import Call, load_kernel, round_up
from qmamba.ops.quantized.operands import PARTS, Constant, ConstantStruct, GridRule, RuleStruct
from qmamba.ops.scan.routes import PADDING, scatter_routes

MAX_BITS = 4
"""Width of the widest code with tables."""
FEWEST_STATES = 8
"""With fewer, a row of decays is too short for a vector, and computing exponentials is cheaper."""
MAX_STATES = 32
"""The kernel keeps no more states of a channel in registers."""


def table_scan_naive(
    x: Tensor,
    codes: Tensor,
    levels: Tensor,
    projected: Tensor,
    routes: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
) -> Tensor:
    """The scan, one step after the other, with a table for each channel and route.

    Args:
        x: ``(batch, pixels, channels)``.
        codes: integers ``(batch, routes, pixels, channels)``: the level of each time step.
        levels: ``(batch, count)``: time steps before bias and softplus.
        projected: ``(batch, pixels, routes, 2 * states)``: B and C.
        routes: ``(routes, steps)``; at padding the input and the time step before its bias are 0.
        dt_bias: ``(routes, channels)``.
        A: ``(routes, channels, states)``.
        D: ``(routes, channels)``.

    Returns:
        ``(batch, pixels, channels)``, the sum over the routes.
    """
    batch, pixels, channels = x.shape
    # The level of padding stands behind the others.
    padding = levels.shape[1]
    levels = torch.cat([levels, levels.new_zeros(batch, 1)], dim=1)
    dt = F.softplus(levels[:, None, None, :] + dt_bias[None, :, :, None])
    decays = torch.exp(dt[..., None] * A[None, :, :, None, :])
    inside = routes != PADDING
    where = routes.clamp_min(0).long()
    outputs = []
    for k in range(len(routes)):
        code = codes[:, k, where[k]].long().masked_fill(~inside[k][None, :, None], padding)
        u = x[:, where[k]] * inside[k][None, :, None]
        B, C = (projected[:, where[k], k] * inside[k][None, :, None]).tensor_split(2, dim=-1)
        state = x.new_zeros(batch, channels, A.shape[2])
        steps = []
        for t in range(routes.shape[1]):
            at = code[:, t, :, None]
            step = dt[:, k].gather(2, at)[..., 0]
            rows = decays[:, k].gather(2, at[..., None].expand(-1, -1, -1, A.shape[2]))[:, :, 0]
            state = rows * state + (step * u[:, t])[..., None] * B[:, t, None, :]
            steps.append((state * C[:, t, None, :]).sum(-1))
        outputs.append(torch.stack(steps, dim=1))
    merged = scatter_routes(torch.stack(outputs, dim=1), routes, pixels).sum(1)
    return merged + D.sum(0) * x


class ScanStruct(ctypes.Structure):
    """Mirror of ``qmamba_quantized_scan`` in ``native/quantized.h``."""

    _fields_ = [
        ("scan", Call),
        *((name, ConstantStruct) for name in ("dt_weight", "bias", "decay", "skip")),
        ("steps", RuleStruct),
        ("output", RuleStruct),
        *((name, ctypes.c_void_p) for name in ("partial", "gate", "tables")),
        *((name, ctypes.c_int64) for name in ("lanes", "gate_stride")),
    ]


class _OperandsStruct(ctypes.Structure):
    """Mirror of ``qmamba_scan_operands``."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "projected", "partial", "weights")),
        ("dt_weight", ConstantStruct),
        ("low", RuleStruct),
        ("operands", RuleStruct * 4),
        *(
            (name, ctypes.c_int64)
            for name in ("batch", "pixels", "routes", "channels", "padded", "rank", "states")
        ),
    ]


class ScanRules(NamedTuple):
    """Where the grids of the operands of a scan come from."""

    low: GridRule
    """Of the low-rank time steps; a fixed grid."""
    x: GridRule
    steps: GridRule
    """Of the time steps before bias and softplus, at most :data:`MAX_BITS` bits for tables."""
    B: GridRule
    C: GridRule


class OperandGrids(NamedTuple):
    """The grids of a scan's operands, float32 ``(batch, 4)`` each: scale, offset, lowest and
    highest value."""

    x: Tensor
    steps: Tensor
    B: Tensor
    C: Tensor


class Scanned(NamedTuple):
    """The result of a :class:`QuantizedScan`."""

    y: Tensor
    """float32 ``(batch, pixels, channels)``, or ``(batch, routes, pixels, channels)`` unmerged."""
    grids: Tensor | None
    """float32 ``(batch, 4)``: the grids of ``y`` by the rule that was given for it, if it follows
    the images."""


class QuantizedScan:
    """The scan of the C++ kernel on quantized operands, then an optional norm and gate.

    The operands are put on their grids in place, but for the time steps, which are many times as
    large as what they are computed from: they are put there as the scan computes them and never
    stored. The statistics of the result are taken while it is written.

    Args:
        rules: where the grids of the operands come from.
        dt_weight: ``(routes, rank, padded)``, channels padded to a multiple of 16.
        dt_bias: ``(routes, channels)``.
        A: ``(routes, channels, states)``.
        D: ``(routes, channels)``.
        norm: layer norm over the channels of the merged map, or ``None``.
        output: rule of what reads the result, whose statistics are wanted, or ``None``.
        tables: whether exponentials are looked up, for steps of at most :data:`MAX_BITS` bits and
            at most :data:`MAX_STATES` states; by default where that is faster.
        merge: sum the routes; otherwise they are kept apart, without tables, norm and output.

    Raises:
        BackendError: the kernel was not built or does not load.
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
        output: GridRule | None = None,
        tables: bool | None = None,
        merge: bool = True,
    ) -> None:
        self._kernel = load_kernel()
        self.routes, self.channels, self.states = A.codes.shape
        self.rank = dt_weight.codes.shape[1]
        if tables is None:
            few_bits = rules.steps.bits <= MAX_BITS
            tables = merge and few_bits and FEWEST_STATES <= self.states <= MAX_STATES
        assert merge or not (tables or norm or output)
        assert not tables or (rules.steps.bits <= MAX_BITS and self.states <= MAX_STATES)
        assert rules.low.grid is not None and dt_weight.codes.is_contiguous()
        assert dt_weight.codes.shape[2] == round_up(self.channels)
        self._merge = merge
        self.rules, self._lanes = rules, -(-self.states // 16) * 16 if tables else 0
        self._output = None if output is None or output.grid is not None else output
        missing = -self.channels % 16
        self._dt_weight = dt_weight
        self._bias, self._skip = (c.arranged(F.pad(c.codes, (0, missing))) for c in (dt_bias, D))
        if tables:
            self._decay = A.arranged(F.pad(A.codes, (0, self._lanes - self.states, 0, missing)))
        else:
            self._decay = A.arranged(F.pad(A.codes.transpose(1, 2), (0, missing)))
        self._norm: tuple[Tensor, Tensor] | None = None
        self._epsilon = 0.0
        if norm is not None:
            weight, bias = (p.detach().to(torch.float32, copy=True) for p in norm.parameters())
            self._norm, self._epsilon = (weight, bias), norm.eps

    @torch.no_grad()
    def place(self, x: Tensor, projected: Tensor) -> OperandGrids:
        """Put x, the low-rank time steps, B and C on their grids, in place.

        Args:
            x, projected: as for a call.
        """
        batch, pixels, channels = x.shape
        assert x.is_contiguous() and projected.is_contiguous() and channels == self.channels
        assert projected.shape == (batch, pixels, self.routes, self.rank + 2 * self.states)
        low, *rules = self.rules
        low_grids, grids = low.grids(batch), tuple(rule.grids(batch) for rule in rules)
        padded = self._dt_weight.codes.shape[2]
        weights = torch.empty(self.routes * self.rank * padded)
        partial = torch.empty(len(rules) * batch * PARTS * 4, dtype=torch.float64)
        call = _OperandsStruct(
            x=x.data_ptr(),
            projected=projected.data_ptr(),
            partial=partial.data_ptr(),
            weights=weights.data_ptr(),
            dt_weight=self._dt_weight.struct(),
            low=low.struct(low_grids),
            operands=_rules(rules, grids),
            batch=batch,
            pixels=pixels,
            routes=self.routes,
            channels=channels,
            padded=padded,
            rank=self.rank,
            states=self.states,
        )
        self._kernel.run_quantized("scan_operands", call)
        return OperandGrids(*grids)

    @torch.no_grad()
    def __call__(
        self,
        x: Tensor,
        projected: Tensor,
        routes: Tensor,
        *,
        grids: OperandGrids | None = None,
        gate: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Scanned:
        """Scan a map.

        Args:
            x: float32 ``(batch, pixels, channels)``, contiguous; put on its grid in place.
            projected: float32 ``(batch, pixels, routes, rank + 2 * states)``, contiguous: low-rank
                time steps, B and C; put on their grids in place.
            routes: int32 ``(routes, steps)``, or with a batch axis before; contiguous.
            grids: what :meth:`place` gave, if these operands are on their grids already.
            gate: the result is multiplied by SiLU of this; float32 ``(batch, pixels, channels)``,
                which may be part of an array with longer rows.
            out: where the result goes; contiguous.
        """
        batch, pixels, channels = x.shape
        assert routes.is_contiguous()
        grids = grids or self.place(x, projected)
        shape = x.shape if self._merge else (batch, self.routes, pixels, channels)
        y = torch.empty(shape) if out is None else out
        assert y.shape == shape and y.is_contiguous()
        scan = Call(
            x=x.data_ptr(),
            projected=projected.data_ptr(),
            order=routes.data_ptr(),
            y=y.data_ptr(),
            batch=batch,
            pixels=pixels,
            steps=routes.shape[-1],
            channels=channels,
            padded=round_up(channels),
            routes=self.routes,
            rank=self.rank,
            states=self.states,
            norm_epsilon=self._epsilon,
            shared=1,
            merged=int(self._merge),
            softplus=1,
            own_orders=int(routes.dim() == 3),
        )
        if self._norm is not None:
            scan.norm_weight, scan.norm_bias = (t.data_ptr() for t in self._norm)
        call = ScanStruct(
            scan=scan,
            dt_weight=self._dt_weight.struct(),
            bias=self._bias.struct(),
            decay=self._decay.struct(),
            skip=self._skip.struct(),
            steps=self.rules.steps.struct(grids.steps, known=True),
            lanes=self._lanes,
        )
        partial = output = None
        if self._output is not None:
            output = self._output.grids(batch)
            partial = torch.empty(batch * PARTS * 4, dtype=torch.float64)
            call.output, call.partial = self._output.struct(output), partial.data_ptr()
        if gate is not None:
            assert self._merge and gate.shape == x.shape and gate.stride(2) == 1
            assert batch == 1 or gate.stride(0) == pixels * gate.stride(1)
            call.gate, call.gate_stride = gate.data_ptr(), gate.stride(1)
        self._kernel.run_quantized_scan(call)
        del partial
        return Scanned(y, output)


def _rules(rules: Iterable[GridRule], grids: Iterable[Tensor]) -> ctypes.Array[RuleStruct]:
    return (RuleStruct * 4)(*(rule.struct(of) for rule, of in zip(rules, grids, strict=True)))
