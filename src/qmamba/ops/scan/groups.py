"""The 1-D scan as a 2-D one: each group of channels becomes a route that runs straight ahead.

The kernels read maps along routes. A sequence with grouped B and C is a set of maps of one row, one
for each group, so the same kernels serve both operators.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from qmamba.ops.scan.routes import straight_routes


class GroupedScan(NamedTuple):
    """The arguments of a 2-D scan with one input map per route and given time steps."""

    x: Tensor
    """``(batch, groups, length, channels / groups)``."""
    projected: Tensor
    """``(batch, length, groups, 2 * states)``: B and C."""
    routes: Tensor
    """int32 ``(groups, length)``."""
    dt_weight: Tensor
    """``(groups, channels / groups, 0)``: there is no low-rank time step."""
    dt_bias: Tensor
    """``(groups, channels / groups)``."""
    A: Tensor
    """``(groups, channels / groups, states)``."""
    D: Tensor
    """``(groups, channels / groups)``."""
    delta: Tensor
    """The time steps, like ``x``."""


def groups_as_routes(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
) -> GroupedScan:
    """From the arguments of :func:`qmamba.ops.selective_scan`; channel-last, contiguous copies."""
    batch, channels, length = u.shape
    B, C = (m if m.dim() == 4 else m[:, None] for m in (B, C))
    groups = B.shape[1]
    per_group = channels // groups

    def channel_last(tensor: Tensor) -> Tensor:
        return tensor.reshape(batch, groups, per_group, length).transpose(2, 3).contiguous()

    def grouped(parameter: Tensor | None) -> Tensor:
        if parameter is None:
            return A.new_zeros(groups, per_group)
        return parameter.reshape(groups, per_group)

    return GroupedScan(
        x=channel_last(u),
        projected=torch.cat([B, C], dim=2).permute(0, 3, 1, 2).contiguous(),
        routes=straight_routes(groups, length, u.device),
        dt_weight=A.new_zeros(groups, per_group, 0),
        dt_bias=grouped(delta_bias),
        A=A.reshape(groups, per_group, -1),
        D=grouped(D),
        delta=channel_last(delta),
    )


def routes_as_groups(y: Tensor) -> Tensor:
    """Back: ``(batch, groups, length, channels / groups)`` to ``(batch, channels, length)``."""
    return y.transpose(2, 3).flatten(1, 2)
