"""Damage as files have it: noise that was rounded, JPEG in color and twice, small soft images.

Published results degrade images in one exact way; files that people have were degraded in many.
Each function here draws one of them. A stated share of all crops is left clean, which is what
teaches a network to leave clean images alone.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from qmamba.restore.degradations.compression import jpeg
from qmamba.restore.degradations.noise_level import NoiseLevel
from qmamba.restore.degradations.resize import shrink

CLEAN_SHARE = 0.15
"""Part of all crops that are not damaged (of those to enlarge: shrunk by bicubic alone)."""

JPEG_FILE_MARGIN = 12
"""Pixels around a crop that :func:`compressed_file` needs, so that blocks begin anywhere in it."""

SMALL_FILE_MARGIN = 6
"""Pixels of the small image around a crop that :func:`small_file` needs."""

Pixels: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]

_FLOATS: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
_INDICES: dict[str, Any] = {"dtype": torch.int64, "device": "cpu"}
_BLOCK = 8
# How wrong a measured deviation of the noise may be: a factor of e to this, one in three times.
_UNCERTAINTY = 0.1


def noisy_file(
    clean: Pixels, sigma: tuple[float, float], generator: torch.Generator
) -> tuple[Floats, Floats]:
    """Noise as 8-bit files have it, and a map of its deviation as it might be measured.

    Half of it is Gaussian; of the rest the variance grows with brightness. 85 % is cut to [0, 1]
    and rounded to 8 bits; the rest is left as published results have it. Of the rounded ones a
    fifth was saved as JPEG afterwards, of quality 60 to 95, with the deviation that is left of the
    noise in the map. The map is wrong by about 10 %, and says up to 1.5 of clean crops.

    Args:
        clean: uint8 ``(height, width, channels)``.
        sigma: least and largest deviation at middle gray, on the scale 0 to 255.
        generator: of every random choice.

    Returns:
        Two float32 arrays on the scale 0 to 1: ``(height, width, channels)`` and ``(height,
        width)``.
    """
    image = unit(clean)
    if _happens(CLEAN_SHARE, generator):
        wrong = _uniform(0.0, 1.5, generator)
        return image, NoiseLevel(wrong, wrong).map(image)
    level = _drawn_level(_uniform(*sigma, generator), generator)
    draw = torch.randn(clean.shape, generator=generator, **_FLOATS).numpy()
    noisy = (image + draw * (level.deviations(image) / 255.0)).astype(np.float32)
    left = math.exp(_UNCERTAINTY * torch.randn((), generator=generator, **_FLOATS).item())
    if _happens(0.85, generator):
        pixels = rounded(noisy)
        if _happens(0.2, generator):
            quality, subsampling = _whole(60, 95, generator), _subsampling(generator)
            before = _deviation(unit(pixels) - image)
            pixels = jpeg(pixels, quality, subsampling=subsampling)
            without = jpeg(clean, quality, subsampling=subsampling)
            after = _deviation(unit(pixels) - unit(without))
            left *= min(1.0, after / max(before, 1e-6))
        noisy = unit(pixels)
    return noisy, level.scaled(left).map(noisy)


def compressed_file(
    region: Pixels, quality: tuple[int, int], generator: torch.Generator
) -> tuple[Pixels, tuple[int, int]]:
    """JPEG in color, a third of it twice with other blocks, and where the crop begins in it.

    Chroma is stored at half resolution in both directions (60 %), in one (15 %) or in full (25 %).
    Of those that were compressed twice, the first time was at any quality of the range and on
    blocks that begin elsewhere.

    Args:
        region: uint8 ``(height, width, channels)``, the crop with :data:`JPEG_FILE_MARGIN` around
            it.
        quality: lowest and highest.
        generator: of every random choice.

    Returns:
        uint8 of the same shape, and the row and column where the crop begins, so that blocks begin
        anywhere in it.
    """
    begin = (
        _whole(_BLOCK, 2 * JPEG_FILE_MARGIN, generator),
        _whole(_BLOCK, 2 * JPEG_FILE_MARGIN, generator),
    )
    if _happens(CLEAN_SHARE, generator):
        return region, begin
    damaged, top, left = region, 0, 0
    if _happens(1 / 3, generator):
        damaged = jpeg(region, _whole(*quality, generator), subsampling=_subsampling(generator))
        top, left = (_whole(0, _BLOCK - 1, generator) for _ in range(2))
    damaged = damaged.copy()
    damaged[top:, left:] = jpeg(
        damaged[top:, left:], _whole(*quality, generator), subsampling=_subsampling(generator)
    )
    return damaged, begin


def small_file(region: Pixels, scale: int, generator: torch.Generator) -> Pixels:
    """A small image as files have it: slightly soft, slightly noisy, slightly compressed.

    Before it is made smaller, three of four are blurred by a Gaussian of up to half the scale. A
    half is shrunk by bicubic interpolation, the rest by means over pixels or without a filter
    against aliasing. Noise of deviation up to 8, partly growing with brightness, is added to two of
    three, JPEG of quality 50 to 95 to three of four. Clean ones are shrunk by bicubic alone.

    Args:
        region: uint8 ``(height, width, 3)``, sides multiples of the scale.
        scale: 2 or more.
        generator: of every random choice.

    Returns:
        uint8 ``(height / scale, width / scale, 3)``.
    """
    if _happens(CLEAN_SHARE, generator):
        return shrink(region, scale)
    if _happens(0.75, generator):
        region = blurred(region, _uniform(0.1, 0.5, generator) * scale)
    small = _shrunk(region, scale, generator)
    if _happens(2 / 3, generator):
        level = _drawn_level(_uniform(0.0, 8.0, generator), generator)
        image = unit(small)
        draw = torch.randn(small.shape, generator=generator, **_FLOATS).numpy()
        small = rounded(image + draw * (level.deviations(image) / 255.0))
    if _happens(0.75, generator):
        quality, subsampling = _whole(50, 95, generator), _subsampling(generator)
        top, left = (_whole(0, _BLOCK - 1, generator) for _ in range(2))
        # Blocks begin outside, so that the grid lies anywhere on the crop.
        wider = np.pad(small, ((top, 0), (left, 0), (0, 0)), mode="reflect")
        small = jpeg(wider, quality, subsampling=subsampling)[top:, left:]
    return small


def blurred(pixels: Pixels, sigma: float) -> Pixels:
    """An image under a Gaussian of deviation ``sigma`` pixels, mirrored at its borders.

    Args:
        pixels: uint8 ``(height, width, channels)``.
        sigma: above 0.
    """
    radius = min(max(1, math.ceil(3.0 * sigma)), min(pixels.shape[:2]) - 1)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()
    height, width = pixels.shape[:2]
    padded = np.pad(
        pixels.astype(np.float64), ((radius, radius), (radius, radius), (0, 0)), mode="symmetric"
    )
    down = sum(tap * padded[row : row + height] for row, tap in enumerate(taps))
    values = sum(tap * down[:, column : column + width] for column, tap in enumerate(taps))
    return np.round(values).astype(np.uint8)


def unit(pixels: Pixels) -> Floats:
    """8-bit samples on the scale 0 to 1."""
    return pixels.astype(np.float32) / np.float32(255.0)


def rounded(image: NDArray[np.floating]) -> Pixels:
    """Samples on the scale 0 to 1, cut to it and rounded to 8 bits."""
    return np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def _drawn_level(sigma: float, generator: torch.Generator) -> NoiseLevel:
    """Noise of a deviation at middle gray, in half of the cases with a slope."""
    if _happens(0.5, generator):
        return NoiseLevel(sigma, sigma)
    slope = _uniform(0.0, 1.0, generator)
    return NoiseLevel(sigma * math.sqrt(1.0 - slope), sigma * math.sqrt(1.0 + slope))


def _shrunk(region: Pixels, scale: int, generator: torch.Generator) -> Pixels:
    kind = _uniform(0.0, 1.0, generator)
    if kind < 0.5:
        return shrink(region, scale)
    height, width = (side // scale for side in region.shape[:2])
    blocks = region.reshape(height, scale, width, scale, -1)
    if kind > 0.85:
        # The middle of each block alone: bilinear interpolation without a filter.
        first = (scale - 1) // 2
        middle = slice(first, scale - first)
        blocks = blocks[:, middle, :, middle]
    return np.round(blocks.mean(axis=(1, 3))).astype(np.uint8)


def _subsampling(generator: torch.Generator) -> int:
    """0 (4:4:4), 1 (4:2:2) or 2 (4:2:0), as Pillow counts them."""
    kind = _uniform(0.0, 1.0, generator)
    return 2 if kind < 0.6 else 1 if kind < 0.75 else 0


def _deviation(values: Floats) -> float:
    return float(np.sqrt(np.mean(values.astype(np.float64) ** 2)))


def _happens(share: float, generator: torch.Generator) -> bool:
    return torch.rand((), generator=generator, **_FLOATS).item() < share


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * torch.rand((), generator=generator, **_FLOATS).item()


def _whole(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator, **_INDICES))
