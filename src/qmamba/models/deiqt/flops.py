"""Multiply-adds of DEIQT, from the configuration alone."""

from __future__ import annotations

from qmamba.errors import ShapeError
from qmamba.models.deiqt.config import PATCH, DEIQTConfig
from qmamba.models.flops import NORM, FlopReport

_MLP_RATIO = 4


def deiqt_flops(config: DEIQTConfig, height: int, width: int) -> FlopReport:
    """Count one image; see :mod:`qmamba.models.flops` for the rules.

    Raises:
        ShapeError: the network is bound to another size.
    """
    if (height, width) != (config.side, config.side):
        raise ShapeError(
            f"This DEIQT takes images of {config.side} x {config.side} pixels, not {height} x "
            f"{width}."
        )
    dim, depth, patches, queries = config.dim, config.depth, config.patches, config.queries
    tokens, square = patches + 1, config.dim**2
    block = (4 + 2 * _MLP_RATIO) * square * tokens
    decoder = (4 + 2 + 2 * _MLP_RATIO) * square * queries + 2 * square * patches + dim * queries
    return FlopReport(
        height=height,
        width=width,
        convolution=3 * PATCH**2 * dim * patches,
        linear=depth * block + decoder,
        normalization=NORM * dim * ((2 * depth + 1) * tokens + 3 * queries),
        gate=0,
        scan=0,
        scan_in_paper=True,
        attention=2 * dim * (depth * tokens**2 + queries**2 + queries * patches),
    )
