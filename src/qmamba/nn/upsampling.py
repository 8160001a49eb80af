"""Enlarging maps ``(batch, channels, height, width)`` by convolution and pixel shuffle."""

from __future__ import annotations

from torch import nn


def pixel_shuffle_stages(dim: int, scale: int) -> nn.Sequential:
    """To ``scale`` times each side with ``dim`` channels throughout.

    A factor of two for each of the twos in ``scale``, a power of two; or one factor of three.
    """
    factor = 3 if scale == 3 else 2
    count = 1 if scale == 3 else scale.bit_length() - 1
    layers: list[nn.Module] = []
    for _ in range(count):
        layers += pixel_shuffle(dim, dim, factor)
    return nn.Sequential(*layers)


def pixel_shuffle(dim: int, out_dim: int, scale: int) -> nn.Sequential:
    """To ``scale`` times each side and ``out_dim`` channels in one 3x3 convolution."""
    return nn.Sequential(
        nn.Conv2d(dim, scale * scale * out_dim, 3, padding=1), nn.PixelShuffle(scale)
    )
