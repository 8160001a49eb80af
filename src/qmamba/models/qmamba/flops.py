"""Multiply-adds of QMamba and LQMamba, from the configuration alone."""

from __future__ import annotations

from qmamba.models.flops import NORM, ROUTES, FlopReport, half
from qmamba.models.qmamba.config import QMambaConfig

_GATE_REDUCTION = 8


def qmamba_flops(config: QMambaConfig, height: int, width: int) -> FlopReport:
    """Count one image; see :mod:`qmamba.models.flops` for the rules."""
    rows, columns = half(height), half(width)
    stem = config.dims[0] // 2
    convolution = 9 * 3 * stem * rows * columns
    normalization = NORM * stem * rows * columns
    linear = gate = scan = 0
    previous = stem
    for i, dim in enumerate(config.dims):
        rows, columns = half(rows), half(columns)
        pixels = rows * columns
        convolution += 9 * previous * dim * pixels
        normalization += NORM * dim * pixels
        previous = dim
        inner, rank, states = config.inner_dims[i], config.dt_ranks[i], config.state_size
        steps = _round_up(rows, config.windows[i]) * _round_up(columns, config.windows[i])
        depth = config.depths[i]
        convolution += depth * 9 * inner * pixels
        normalization += depth * NORM * (2 * dim + inner) * pixels
        pointwise = 2 * dim * inner + 2 * dim * int(config.mlp_ratio * dim)
        # Per route: to the step, B and C of a pixel, then from the step's low rank to all channels.
        projections = ROUTES * inner * (rank + 2 * states + rank)
        linear += depth * (pointwise * pixels + projections * steps)
        scan += depth * ROUTES * inner * steps * (9 * states + 1)
        if config.route_gate:
            hidden = inner // _GATE_REDUCTION
            gate += depth * ROUTES * (NORM * inner * pixels + 2 * inner * hidden)
    normalization += (NORM + 1) * previous * rows * columns
    linear += previous * config.num_outputs
    linear += config.statistics * (config.statistics_inputs + config.num_outputs)
    return FlopReport(
        height=height,
        width=width,
        convolution=convolution,
        linear=linear,
        normalization=normalization,
        gate=gate,
        scan=scan,
        scan_in_paper=not config.route_gate and max(config.windows) == 1,
    )


def _round_up(side: int, window: int) -> int:
    return -(-side // window) * window
