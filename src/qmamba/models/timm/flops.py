"""Multiply-adds of the backbones with the rules of :mod:`qmamba.models.flops`.

A batch norm, folded into nothing, costs 2 per element, as in fvcore; the products of attention are
matrix products, its softmax costs nothing.
"""

from __future__ import annotations

from typing import NamedTuple

from qmamba.errors import ShapeError
from qmamba.models.flops import FlopReport, half
from qmamba.models.timm.config import FIXED_SIDE, TimmConfig

_BATCH_NORM = 2
_LAYER_NORM = 5
_EFFICIENTNET_WIDTHS = {
    "efficientnet-lite0": (16, 24, 40, 80, 112, 192, 320),
    "efficientnet-lite2": (16, 24, 48, 88, 120, 208, 352),
}
"""Channels after each stage."""
_EXPANSION = 6
_STRIDES, _SIDES = (1, 2, 2, 2, 1, 2, 1), (3, 3, 5, 3, 5, 5, 3)
_VIT_PATCH = 16
_SWIN_PATCH = 4
_SWIN_WINDOW = 7


class BackboneFlops(NamedTuple):
    """Multiply-adds for one image, by kind of operation."""

    convolution: int = 0
    linear: int = 0
    normalization: int = 0
    attention: int = 0

    def __add__(self, other: tuple[int, ...]) -> BackboneFlops:  # type: ignore[override]
        return BackboneFlops(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


def timm_flops(config: TimmConfig, height: int, width: int) -> FlopReport:
    """Count one image.

    Raises:
        ShapeError: ViT and Swin Transformer are bound to another size.
    """
    side = config.image_size
    if side is not None and (height, width) != (side, side):
        raise ShapeError(
            f"A {config.backbone} takes images of {side} x {side}, not {height} x {width}."
        )
    convolution, linear, normalization, attention = _by_kind(config, height, width)
    return FlopReport(
        height, width, convolution, linear, normalization, 0, 0, True, attention=attention
    )


def _by_kind(config: TimmConfig, height: int, width: int) -> BackboneFlops:
    backbone = config.network
    head = BackboneFlops(linear=backbone.features * config.num_outputs)
    if backbone.family == "resnet":
        return _resnet(backbone.dim, backbone.depths, height, width) + head
    if backbone.family == "efficientnet":
        return _efficientnet(_EFFICIENTNET_WIDTHS[config.backbone], config, height, width) + head
    if backbone.family == "vit":
        return _vit(backbone.dim, sum(backbone.depths)) + head
    return _swin(backbone.dim, backbone.depths) + head


def _resnet(dim: int, depths: tuple[int, ...], height: int, width: int) -> BackboneFlops:
    rows, columns = half(height), half(width)
    pixels = rows * columns
    total = BackboneFlops(49 * 3 * dim * pixels, 0, _BATCH_NORM * dim * pixels)
    rows, columns = half(rows), half(columns)
    previous = dim
    for stage, depth in enumerate(depths):
        inner = dim * 2**stage
        outer = 4 * inner
        for block in range(depth):
            before = rows * columns
            if stage and not block:
                rows, columns = half(rows), half(columns)
            pixels = rows * columns
            # Narrowing, then 3 x 3 with the stride, then widening.
            convolution = previous * inner * before + (9 * inner + outer) * inner * pixels
            elements = inner * before + (inner + outer) * pixels
            if not block:
                convolution += previous * outer * pixels
                elements += outer * pixels
            total += BackboneFlops(convolution, 0, _BATCH_NORM * elements)
            previous = outer
    return total + BackboneFlops(normalization=previous * rows * columns)


def _efficientnet(
    widths: tuple[int, ...], config: TimmConfig, height: int, width: int
) -> BackboneFlops:
    backbone = config.network
    rows, columns = half(height), half(width)
    total = BackboneFlops(
        27 * backbone.dim * rows * columns, 0, _BATCH_NORM * backbone.dim * rows * columns
    )
    previous = backbone.dim
    for stage, (depth, outer) in enumerate(zip(backbone.depths, widths, strict=True)):
        for block in range(depth):
            inner = previous * (_EXPANSION if stage else 1)
            before = rows * columns
            if _STRIDES[stage] == 2 and not block:
                rows, columns = half(rows), half(columns)
            pixels = rows * columns
            widening = previous * inner * before if stage else 0
            convolution = widening + (_SIDES[stage] ** 2 + outer) * inner * pixels
            elements = (inner * before if stage else 0) + (inner + outer) * pixels
            total += BackboneFlops(convolution, 0, _BATCH_NORM * elements)
            previous = outer
    pixels = rows * columns
    head = backbone.features * pixels
    return total + BackboneFlops(previous * head, 0, (_BATCH_NORM + 1) * head)


def _vit(dim: int, depth: int) -> BackboneFlops:
    patches = (FIXED_SIDE // _VIT_PATCH) ** 2
    tokens = patches + 1
    return BackboneFlops(
        convolution=patches * 3 * _VIT_PATCH**2 * dim,
        linear=depth * 12 * dim**2 * tokens,
        normalization=_LAYER_NORM * (2 * depth + 1) * dim * tokens,
        attention=depth * 2 * tokens**2 * dim,
    )


def _swin(dim: int, depths: tuple[int, ...]) -> BackboneFlops:
    tokens = (FIXED_SIDE // _SWIN_PATCH) ** 2
    total = BackboneFlops(3 * _SWIN_PATCH**2 * dim * tokens, 0, _LAYER_NORM * dim * tokens)
    for stage, depth in enumerate(depths):
        if stage:
            # Four neighbors become one token of twice the width.
            tokens //= 4
            linear, normalization = 8 * dim**2 * tokens, _LAYER_NORM * 4 * dim * tokens
            total += BackboneFlops(0, linear, normalization)
            dim *= 2
        total += BackboneFlops(
            linear=depth * 12 * dim**2 * tokens,
            normalization=depth * 2 * _LAYER_NORM * dim * tokens,
            attention=depth * 2 * tokens * _SWIN_WINDOW**2 * dim,
        )
    return total + BackboneFlops(normalization=(_LAYER_NORM + 1) * dim * tokens)
