"""Multiply-adds of LoDa, from the configuration alone."""

from __future__ import annotations

from dataclasses import replace

from qmamba.models.flops import FlopReport
from qmamba.models.loda.config import STAGES, LoDaConfig
from qmamba.models.timm.config import TimmConfig
from qmamba.models.timm.flops import timm_flops

_TOKENS, _LOCAL = 197, 196
_SIDES = (56, 28, 14, 7)


def loda_flops(config: LoDaConfig, height: int, width: int) -> FlopReport:
    """Count one image; see :mod:`qmamba.models.flops` for the rules.

    Raises:
        ShapeError: the sides are not 224.
    """
    vit = timm_flops(TimmConfig(backbone=config.transformer), height, width)
    cnn = timm_flops(TimmConfig(backbone="resnet-50"), height, width)
    dim, inner, depth = config.dim, config.width, config.depth
    convolution = sum(
        side**2 * (stage * inner + 9 * inner**2) for side, stage in zip(_SIDES, STAGES, strict=True)
    )
    down, up = dim * inner + inner**2, inner * dim + dim**2
    linear = _TOKENS * (down + up + 2 * inner**2) + _LOCAL * 2 * inner**2
    return replace(
        vit,
        convolution=vit.convolution + cnn.convolution + convolution,
        linear=vit.linear + cnn.linear + depth * linear,
        normalization=vit.normalization + cnn.normalization,
        attention=vit.attention + 2 * depth * _TOKENS * _LOCAL * inner,
    )
