"""The definition of the selective scan, one step at a time.

Nothing here is fast. Every other implementation in this folder is tested against this file, forward
and backward; autograd differentiates the loop as it stands.

For each channel d and state n, with ``dt`` already positive:

    h[n, t] = exp(dt[t] * A[n]) * h[n, t-1] + dt[t] * B[n, t] * u[t]
    y[t]    = sum_n C[n, t] * h[n, t] + D * u[t]
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qmamba.ops.scan.routes import gather_routes, require_routes, scatter_routes


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The recurrence runs in float32 whatever the input, or in float64 if the input already is."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def selective_scan_naive(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    """Selective scan along the last axis; arguments as in :func:`qmamba.ops.selective_scan`."""
    dtype = state_dtype(u.dtype)
    inputs, dt = u.to(dtype), delta.to(dtype)
    if delta_bias is not None:
        dt = dt + delta_bias.to(dtype)[:, None]
    if delta_softplus:
        dt = F.softplus(dt)
    batch, channels, length = u.shape
    B, C = _per_channel(B, channels).to(dtype), _per_channel(C, channels).to(dtype)
    A = A.to(dtype)
    state = torch.zeros(batch, channels, A.shape[1], dtype=dtype, device=u.device)
    outputs = []
    for t in range(length):
        step = dt[:, :, t, None]
        state = torch.exp(step * A) * state + step * B[..., t] * inputs[:, :, t, None]
        outputs.append((state * C[..., t]).sum(-1))
    y = torch.stack(outputs, dim=-1)
    if D is not None:
        y = y + D.to(dtype)[:, None] * inputs
    return y.to(u.dtype)


def _per_channel(matrix: Tensor, channels: int) -> Tensor:
    """``(batch, groups, N, L)`` or ``(batch, N, L)`` to ``(batch, channels, N, L)``."""
    if matrix.dim() == 3:
        matrix = matrix[:, None]
    return matrix.repeat_interleave(channels // matrix.shape[1], dim=1)


def ss2d_naive(
    x: Tensor,
    projected: Tensor,
    routes: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    merge: bool = True,
) -> Tensor:
    """The 2-D scan composed of its parts; see :func:`qmamba.ops.ss2d` for the arguments.

    Four permuted copies of the map are made, each is scanned, and each result is put back.
    """
    dtype = state_dtype(x.dtype)
    batch, pixels, channels = x.shape
    if not torch.compiler.is_compiling():
        require_routes(routes, pixels)
    route_count, rank, size = dt_weight.shape[0], dt_weight.shape[2], A.shape[2]
    u = gather_routes(x.to(dtype), routes)
    along = torch.stack(
        [
            gather_routes(projected[:, :, k].to(dtype), routes[..., k : k + 1, :])[:, 0]
            for k in range(route_count)
        ],
        dim=1,
    )
    low, B, C = along.split([rank, size, size], dim=-1)
    delta = torch.einsum("bktr,kdr->bkdt", low, dt_weight.to(dtype))
    y = selective_scan_naive(
        u.permute(0, 1, 3, 2).flatten(1, 2),
        delta.flatten(1, 2),
        A.flatten(0, 1),
        B.transpose(2, 3),
        C.transpose(2, 3),
        D.flatten(),
        dt_bias.flatten(),
        delta_softplus=True,
    )
    y = y.view(batch, route_count, channels, -1).transpose(2, 3)
    y = scatter_routes(y, routes, pixels)
    return (y.sum(1) if merge else y).to(x.dtype)
