"""The definition of the scan of a quantized network: delta as codes, decays from tables."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from qmamba.ops.scan.routes import PADDING, scatter_routes


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
        codes: integers ``(batch, routes, pixels, channels)``: the code of delta.
        levels: ``(batch, count)``: delta of each code, before bias and softplus.
        projected: ``(batch, pixels, routes, 2 * states)``: B and C.
        routes: ``(routes, steps)``; at padding the input and delta before its bias are 0.
        dt_bias: ``(routes, channels)``.
        A: ``(routes, channels, states)``.
        D: ``(routes, channels)``.

    Returns:
        ``(batch, pixels, channels)``, the sum over the routes.
    """
    batch, pixels, channels = x.shape
    # Delta of padding stands behind the others.
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
