"""Bicubic resizing of 8-bit images, pixel for pixel that of MATLAB's ``imresize``.

The small images of every published super-resolution result were made with it. Other bicubic
resizers differ in what they do when they shrink (this one widens the kernel, which suppresses
aliasing), at the border (mirrored here) and in rounding: MATLAB resizes the rows first, rounds to
8 bits, and then the columns.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qmamba.errors import ConfigError, ShapeError

Pixels: TypeAlias = NDArray[np.uint8]
"""8-bit samples, ``(height, width)`` of a gray image or ``(height, width, 3)`` of sRGB."""

_SUPPORT = 4.0
_SHARPNESS = -0.5


def shrink(pixels: Pixels, scale: int) -> Pixels:
    """The small image of a super-resolution pair: each side divided by ``scale``.

    Args:
        pixels: uint8 ``(height, width)`` or ``(height, width, channels)``; sides that are no
            multiple of ``scale`` are cut at the bottom and the right first.
        scale: 1 or larger.

    Raises:
        ConfigError: the scale is no positive whole number.
        ShapeError: the array has another shape or dtype, or a side is smaller than ``scale``.
    """
    pixels = crop_to_multiple(pixels, scale)
    height, width = pixels.shape[:2]
    return resize_bicubic(pixels, height // scale, width // scale)


def enlarge(pixels: Pixels, scale: int) -> Pixels:
    """Each side times ``scale``: the bicubic baseline of super-resolution tables.

    Arguments and errors are those of :func:`shrink`.
    """
    _check(pixels, scale)
    height, width = pixels.shape[:2]
    return resize_bicubic(pixels, height * scale, width * scale)


def crop_to_multiple(pixels: Pixels, scale: int) -> Pixels:
    """The image without the last rows and columns that make its sides no multiple of ``scale``.

    A view. Arguments and errors are those of :func:`shrink`.
    """
    _check(pixels, scale)
    height, width = (side - side % scale for side in pixels.shape[:2])
    if not height or not width:
        raise ShapeError(
            f"An image of {pixels.shape[0]} x {pixels.shape[1]} pixels cannot be made {scale} "
            "times smaller."
        )
    return pixels[:height, :width]


def resize_bicubic(pixels: Pixels, height: int, width: int) -> Pixels:
    """An image with other sides.

    Args:
        pixels: uint8 ``(rows, columns)`` or ``(rows, columns, channels)``.
        height: rows of the result, at least 1.
        width: columns of the result, at least 1.

    Raises:
        ConfigError: a side is smaller than 1.
        ShapeError: the array has another shape or dtype.

    Source: ``imresize`` of MATLAB with its defaults; cubic kernel of Keys (1981) with a = -0.5.
    """
    _check(pixels, 1)
    if height < 1 or width < 1:
        raise ConfigError(f"An image needs sides of at least 1, got {height} x {width}.")
    # The axis that shrinks most comes first, the rows where both shrink alike.
    axes = [0, 1]
    if width * pixels.shape[0] < height * pixels.shape[1]:
        axes.reverse()
    for axis in axes:
        pixels = _resize_axis(pixels, (height, width)[axis], axis)
    return np.ascontiguousarray(pixels)


def _check(pixels: Pixels, scale: int) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise ShapeError(
            f"Bicubic resizing needs uint8 pixels (height, width[, channels]), none of them zero, "
            f"got {pixels.dtype} {pixels.shape}."
        )
    if not isinstance(scale, int) or scale < 1:
        raise ConfigError(f"The scale must be a positive whole number, got {scale!r}.")


def _resize_axis(pixels: Pixels, size: int, axis: int) -> Pixels:
    if pixels.shape[axis] == size:
        return pixels
    places, weights = _taps(pixels.shape[axis], size)
    lines = np.moveaxis(pixels, axis, 0)
    shape = (-1,) + (1,) * (lines.ndim - 1)
    total = np.zeros((size, *lines.shape[1:]))
    for place, weight in zip(places, weights, strict=True):
        total += lines[place] * weight.reshape(shape)
    rounded = np.floor(np.clip(total, 0.0, 255.0) + 0.5).astype(np.uint8)
    return np.moveaxis(rounded, 0, axis)


@lru_cache(maxsize=64)
def _taps(size: int, new_size: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Where each new sample looks and how much it takes: two arrays ``(taps, new_size)``."""
    scale = new_size / size
    stretch = max(1.0, 1.0 / scale)
    support = _SUPPORT * stretch
    center = (np.arange(1, new_size + 1)) / scale + 0.5 * (1.0 - 1.0 / scale)
    first = np.floor(center - support / 2.0)
    places = first[None] + np.arange(math.ceil(support) + 2)[:, None]
    weights = _cubic((center[None] - places) / stretch)
    weights /= weights.sum(axis=0)
    used = np.any(weights != 0.0, axis=1)
    mirrored = np.concatenate([np.arange(size), np.arange(size)[::-1]])
    places = mirrored[np.mod(places.astype(np.int64) - 1, 2 * size)]
    return places[used], weights[used]


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(distance)
    a = _SHARPNESS
    near = (a + 2.0) * x**3 - (a + 3.0) * x**2 + 1.0
    far = a * x**3 - 5.0 * a * x**2 + 8.0 * a * x - 4.0 * a
    return np.where(x <= 1.0, near, np.where(x <= 2.0, far, 0.0))
