"""The 2-D scan with time steps of at most 4 bits: exponentials are looked up, not computed.

A channel whose time steps are codes has as many different ones as there are codes. Softplus and the
exponentials of all states are taken of those, before the scan, and the scan reads a row of decays
for each step of the route. The definition is :func:`table_scan_naive`; :class:`TableScan` is the
C++ kernel, which packs constants once, works on the CPU and has no gradient.
"""

from __future__ import annotations

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.ops.kernel import Call, load_kernel, round_up
from qmamba.ops.operands import Constant, ConstantStruct, GridRule, StepCodes
from qmamba.ops.routes import PADDING, scatter_routes

MAX_BITS = 4
"""Width of the widest code with tables."""
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


class TableStruct(ctypes.Structure):
    """Mirror of ``qmamba_table_scan`` in ``native/table.h``."""

    _fields_ = [
        ("scan", Call),
        ("codes", ctypes.c_void_p),
        ("grids", ctypes.c_void_p),
        *((name, ConstantStruct) for name in ("bias", "decay", "skip")),
        ("gate", ctypes.c_void_p),
        ("tables", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("bits", "lanes", "first", "last", "gate_stride")),
    ]


class TableScan:
    """The scan of the C++ kernel, its constants as codes, then an optional norm and gate.

    Args:
        rule: where the grids of the time steps come from, at most :data:`MAX_BITS` bits.
        dt_bias: ``(routes, channels)``.
        A: ``(routes, channels, states)``, at most :data:`MAX_STATES` states.
        D: ``(routes, channels)``.
        norm: layer norm over the channels of the merged map, or ``None``.

    Raises:
        BackendError: the kernel was not built or does not load.
    """

    def __init__(
        self,
        rule: GridRule,
        dt_bias: Constant,
        A: Constant,
        D: Constant,
        *,
        norm: nn.LayerNorm | None = None,
    ) -> None:
        self._kernel = load_kernel()
        self.routes, self.channels, self.states = A.codes.shape
        assert rule.bits <= MAX_BITS and self.states <= MAX_STATES, (rule.bits, self.states)
        self.rule, self._lanes = rule, -(-self.states // 16) * 16
        missing = -self.channels % 16
        self._bias, self._skip = (c.arranged(F.pad(c.codes, (0, missing))) for c in (dt_bias, D))
        padding = (0, self._lanes - self.states, 0, missing)
        self._decay = A.arranged(F.pad(A.codes, padding))
        self._norm: tuple[Tensor, Tensor] | None = None
        self._epsilon = 0.0
        if norm is not None:
            weight, bias = (p.detach().to(torch.float32, copy=True) for p in norm.parameters())
            self._norm, self._epsilon = (weight, bias), norm.eps

    @torch.no_grad()
    def __call__(
        self,
        x: Tensor,
        steps: StepCodes,
        projected: Tensor,
        routes: Tensor,
        *,
        gate: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Scan a map.

        Args:
            x: float32 ``(batch, pixels, channels)``, contiguous.
            steps: from :func:`qmamba.ops.operands.step_codes`.
            projected: float32 ``(batch, pixels, routes, rank + 2 * states)``, contiguous; B and C
                are its last numbers.
            routes: int32 ``(routes, steps)``, contiguous.
            gate: the result is multiplied by SiLU of this; float32 ``(batch, pixels, channels)``,
                which may be part of an array with longer rows.
            out: where the result goes; contiguous.

        Returns:
            float32 ``(batch, pixels, channels)``.
        """
        batch, pixels, channels = x.shape
        tiles = round_up(channels) // 16
        assert channels == self.channels and x.is_contiguous() and projected.is_contiguous()
        codes, grids = steps
        assert codes.shape == (batch, self.routes, tiles, pixels, 16) and codes.is_contiguous()
        assert grids.shape == (batch, 4) and grids.is_contiguous() and routes.is_contiguous()
        y = torch.empty_like(x) if out is None else out
        assert y.shape == x.shape and y.is_contiguous()
        scan = Call(
            x=x.data_ptr(),
            projected=projected.data_ptr(),
            order=routes.data_ptr(),
            y=y.data_ptr(),
            batch=batch,
            pixels=pixels,
            steps=routes.shape[1],
            channels=channels,
            padded=tiles * 16,
            routes=self.routes,
            rank=projected.shape[3] - 2 * self.states,
            states=self.states,
            norm_epsilon=self._epsilon,
            shared=1,
            merged=1,
            softplus=1,
        )
        if self._norm is not None:
            scan.norm_weight, scan.norm_bias = (t.data_ptr() for t in self._norm)
        call = TableStruct(
            scan=scan,
            codes=codes.data_ptr(),
            grids=grids.data_ptr(),
            bias=self._bias.struct(),
            decay=self._decay.struct(),
            skip=self._skip.struct(),
            bits=self.rule.bits,
            lanes=self._lanes,
            first=self.rule.first,
            last=self.rule.last,
        )
        if gate is not None:
            assert gate.shape == x.shape and gate.stride(2) == 1
            assert batch == 1 or gate.stride(0) == pixels * gate.stride(1)
            call.gate, call.gate_stride = gate.data_ptr(), gate.stride(1)
        self._kernel.run_table_scan(call)
        return y
