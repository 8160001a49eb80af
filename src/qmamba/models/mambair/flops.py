"""Multiply-adds of MambaIR, from the configuration alone."""

from __future__ import annotations

from qmamba.models.flops import NORM, ROUTES, FlopReport
from qmamba.models.mambair.config import MambaIRConfig, RestorationConfig
from qmamba.models.mambair.network import TAIL_DIM


def mambair_flops(config: MambaIRConfig, height: int, width: int) -> FlopReport:
    """Count one image; see :mod:`qmamba.models.flops` for the rules."""
    dim, inner, rank, states = config.dim, config.inner_dim, config.dt_rank, config.state_size
    pixels, depth = height * width, sum(config.depths)
    hidden = dim // config.cab_reduction
    local = {
        "convolution": 2 * 9 * dim * hidden,
        "separable": 2 * dim * hidden + 9 * (hidden + dim),
        "depthwise": 9 * dim,
    }[config.cab]
    quarter = dim // 4
    bottleneck = 2 * 9 * dim * quarter + quarter**2
    group_end = 9 * dim**2 if config.group_convolution == "1conv" else bottleneck
    # Every group ends in such a convolution, and so does the body.
    convolution = 9 * config.inputs * dim + (len(config.depths) + 1) * group_end
    convolution += depth * (9 * inner + local) + reconstruction_flops(config)
    projections = ROUTES * inner * (rank + 2 * states + rank)
    attention = 2 * dim * (dim // config.attention_reduction)
    return FlopReport(
        height=height,
        width=width,
        convolution=convolution * pixels,
        linear=depth * (3 * dim * inner + projections) * pixels,
        normalization=NORM * (depth * (2 * dim + inner) + 2 * dim) * pixels,
        gate=depth * (dim * pixels + attention),
        scan=depth * ROUTES * inner * (9 * states + 1) * pixels,
        scan_in_paper=True,
    )


def reconstruction_flops(config: RestorationConfig) -> int:
    """Multiply-adds for one pixel of the input in the layers after the body of a MambaIR."""
    scale, channels = config.scale, config.channels
    if config.task == "sr-light":
        return 9 * config.dim * channels * scale**2
    if config.task not in ("sr-classic", "sr-real"):
        return 9 * config.dim * channels
    square = 9 * TAIL_DIM**2
    if config.task == "sr-real":
        # At twice the side, at four times, and once more there.
        enlarging = (2**2 + 2 * 4**2) * square
    elif scale == 3:
        enlarging = 9 * square
    else:
        enlarging = sum(4 * (2**i) ** 2 * square for i in range(scale.bit_length() - 1))
    return 9 * config.dim * TAIL_DIM + enlarging + 9 * TAIL_DIM * channels * scale**2
