"""Multiply-adds of MambaIRv2, from the configuration alone."""

from __future__ import annotations

from qmamba.models.flops import NORM, FlopReport
from qmamba.models.mambair.flops import reconstruction_flops
from qmamba.models.mambairv2.config import MambaIRv2Config

_SIDE = 5
"""Of the depthwise convolutions in the feed-forward nets."""


def mambairv2_flops(config: MambaIRv2Config, height: int, width: int) -> FlopReport:
    """Count one image, padded to windows; see :mod:`qmamba.models.flops` for the rules."""
    window = config.window
    rows, columns = -(-height // window), -(-width // window)
    pixels, depth, groups = rows * columns * window**2, sum(config.depths), len(config.depths)
    dim, inner, rank, states = config.dim, config.inner_dim, config.dt_rank, config.state_size
    gated = config.feed_forward == "gated"
    half = inner // 2 if gated else inner
    quarter = dim // 4
    bottleneck = 2 * 9 * dim * quarter + quarter**2
    group_end = 9 * dim**2 if config.group_convolution == "1conv" else bottleneck
    convolution = 9 * config.inputs * dim + (groups + 1) * group_end
    convolution += depth * (9 * inner + 2 * _SIDE**2 * half) + reconstruction_flops(config)
    projections = inner * (rank + 2 * states) + inner * rank
    router = dim * (dim // 3) + (dim // 3) * config.classes
    linear = 4 * dim**2 + 2 * dim * inner + projections + router + 2 * dim * (inner + half)
    prompts = config.classes * config.prompt_rank * states
    norms = 4 * dim + inner + (2 * half if gated else 0)
    return FlopReport(
        height=height,
        width=width,
        convolution=convolution * pixels,
        linear=depth * (linear * pixels + prompts),
        normalization=NORM * (depth * norms + 2 * dim) * pixels,
        gate=0,
        scan=depth * inner * (9 * states + 1) * pixels,
        scan_in_paper=True,
        attention=2 * depth * dim * window**2 * pixels,
    )
