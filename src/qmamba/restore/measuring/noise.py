"""Measuring the noise of an image from the image alone, without a network.

Blocks of 8 x 8 pixels are transformed by a DCT. Where the low frequencies of a block are weak,
there is nothing but noise in it; the high frequencies, which white noise fills independently of the
low ones, then tell its deviation. That is done for several ranges of brightness, and a line is laid
under the variances that were found, because texture only ever adds to them.

Noise that was saved as JPEG lacks its high frequencies, and of colors the difference from gray. The
lower frequencies keep it, but texture too. So for an image from a JPEG file several bands of
frequencies are looked at, each less what texture gives in the flattest blocks, and the one counts
that has most left.

Source: Ponomarenko et al., "An automatic approach to lossy compression of AVIRIS images", 2007, in
the form of Colom and Buades, "Analysis and extension of the Ponomarenko et al. method", IPOL 2013.
"""

from __future__ import annotations

import math
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmamba.restore.degradations import NoiseLevel
from qmamba.restore.measuring.blocks import CLEAR_BLOCKS, block_strength
from qmamba.restore.measuring.levels import on_8_bits

MIN_BLOCKS = 500
"""Blocks without saturated pixels that an image must have; below, no noise is found in it."""

_SIDE = 8
_BLOCKS = 60_000
_RANGES = 6
_FLATTEST = 0.01
_FLATTEST_OF_JPEG = 0.05
_FEWEST = 60
_SATURATED = 0.05
_HIGH = 9
# Of each band its first frequency, the one after its last, and the deviation that texture gives it:
# nine of ten photographs without noise, saved with quality 60 to 90, have about that or less.
_BANDS = ((9, 16, 1.0), (5, 9, 2.3), (4, 7, 3.1))
# Gray has 0.67 of the noise of independent colors, and JPEG keeps little but gray.
_KEPT_OF_COLORS = 0.7
_ROUNDING = 1.0 / 12.0
# How much a measured deviation above the line counts; one below it counts 1 less this.
_ABOVE = 0.25


def estimate_noise(image: NDArray[Any], *, jpeg: bool = False) -> NoiseLevel:
    """The noise of an image, as a function of brightness.

    Up to 60,000 blocks at fixed pseudo-random positions are looked at, in about a third of a second
    whatever the size. All channels have one level. What is found includes noise that is no fault of
    the file, such as film grain, and in images full of fine texture a little of that.

    Args:
        image: ``(height, width, channels)``; uint8, uint16, or floating point in [0, 1].
        jpeg: whether it comes from a JPEG file; an image with clear blocks is taken for one.
            Strong noise hides them.

    Returns:
        The level, before it was saved as JPEG; one of 0 for an image with fewer than
        :data:`MIN_BLOCKS` usable blocks, which are those where at most one pixel in twenty is black
        or white.

    Raises:
        ShapeError: the array has another shape or dtype.

    Example:
        >>> noisy = np.random.default_rng(0).normal(128, 10, (200, 200, 1)) / 255
        >>> 9 < estimate_noise(noisy).sigma(0.5) < 11
        True
    """
    values = on_8_bits(image)
    blocks = _blocks(values)
    brightness = blocks.mean(axis=1)
    if len(blocks) < MIN_BLOCKS:
        return NoiseLevel(0.0, 0.0)
    spectra = np.square(blocks @ _basis().T)
    ends = np.quantile(brightness, np.linspace(0.0, 1.0, _RANGES + 1))
    found = []
    for low, high in pairwise(ends):
        inside = (brightness >= low) & (brightness <= high)
        deviation = _deviation(spectra[inside], _HIGH, 2 * _SIDE, _FLATTEST)
        found.append((brightness[inside].mean() / 255.0, deviation))
    measured = np.asarray(found, dtype=np.float64)
    rounding = _ROUNDING if image.dtype == np.uint8 else 0.0
    high_part = np.sqrt(np.maximum(measured[:, 1] ** 2 - rounding, 0.0))
    level = _line_below(measured[:, 0], high_part)
    if not jpeg and (block_strength(image) or 0.0) < CLEAR_BLOCKS:
        return level
    before = _under_jpeg(spectra) / (_KEPT_OF_COLORS if image.shape[2] == 3 else 1.0)
    return NoiseLevel(max(level.dark, before), max(level.bright, before))


def _blocks(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Blocks without saturated pixels, ``(blocks, 64)``, of all channels."""
    height, width, channels = values.shape
    if min(height, width) < _SIDE:
        return np.zeros((0, _SIDE**2), np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(values, (_SIDE, _SIDE), axis=(0, 1))
    count = min(_BLOCKS // channels, windows.shape[0] * windows.shape[1])
    generator = np.random.default_rng(0)
    rows, columns = (generator.integers(0, windows.shape[axis], count) for axis in (0, 1))
    blocks = windows[rows, columns].reshape(-1, _SIDE**2)
    saturated = ((blocks <= 1.0) | (blocks >= 254.0)).mean(axis=1)
    return blocks[saturated <= _SATURATED]


def _basis() -> NDArray[np.float32]:
    """The orthonormal DCT-II of a block: ``(64 frequencies, 64 pixels)``."""
    index = np.arange(_SIDE)
    rows = np.cos(np.pi * (2 * index[None] + 1) * index[:, None] / (2 * _SIDE))
    rows *= np.where(index[:, None] == 0, np.sqrt(1 / _SIDE), np.sqrt(2 / _SIDE))
    return np.kron(rows, rows).astype(np.float32)


def _under_jpeg(spectra: NDArray[np.float32]) -> float:
    """Deviation of what JPEG left of the noise."""
    most = 0.0
    for first, last, texture in _BANDS:
        deviation = _deviation(spectra, first, last, _FLATTEST_OF_JPEG)
        most = max(most, deviation**2 - texture**2)
    return math.sqrt(most)


def _deviation(spectra: NDArray[np.float32], first: int, last: int, share: float) -> float:
    """Deviation of a band of frequencies in the share of the blocks that is flattest below it."""
    index = np.arange(_SIDE)
    frequency = (index[None] + index[:, None]).ravel()
    count = min(len(spectra), max(_FEWEST, int(share * len(spectra))))
    below = spectra[:, (frequency > 0) & (frequency < first)].sum(axis=1)
    flattest = np.argpartition(below, count - 1)[:count]
    powers = spectra[flattest][:, (frequency >= first) & (frequency < last)].mean(axis=0)
    return float(np.sqrt(np.median(powers)))


def _line_below(brightness: NDArray[np.float64], sigmas: NDArray[np.float64]) -> NoiseLevel:
    """The level whose variance is a line in brightness under most of what was measured."""
    variances = sigmas**2
    lines = [(variance, variance) for variance in variances]
    # Through the origin of photon noise, and through any two of the points.
    lines += [(0.0, variance / x) for x, variance in zip(brightness, variances, strict=True) if x]
    for first, second in combinations(range(len(sigmas)), 2):
        run = brightness[second] - brightness[first]
        if run > 1e-3:
            slope = (variances[second] - variances[first]) / run
            dark = variances[first] - slope * brightness[first]
            lines.append((dark, dark + slope))
    levels = [
        NoiseLevel(*(float(np.sqrt(min(max(end, 0.0), 255.0**2))) for end in line))
        for line in lines
    ]
    return min(levels, key=lambda level: _misfit(sigmas - level.deviations(brightness)))


def _misfit(above: NDArray[np.float64]) -> float:
    return float(np.where(above > 0, _ABOVE * above, (_ABOVE - 1.0) * above).sum())
