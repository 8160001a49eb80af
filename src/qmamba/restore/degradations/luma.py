"""8-bit luma of sRGB images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qmamba.errors import ShapeError


def video_luma(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """BT.601 luma from 16 (black) to 235 (white), rounded: MATLAB's ``rgb2ycbcr``, first channel.

    Args:
        pixels: uint8 ``(height, width, 3)`` sRGB; a gray ``(height, width)`` passes through.

    Returns:
        uint8 ``(height, width)``.

    Raises:
        ShapeError: the array has another shape or dtype.
    """
    return _luma(pixels, (65.481, 128.553, 24.966), 16.0)


def full_luma(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """BT.601 luma from 0 to 255, rounded: the gray of a JPEG file.

    Arguments, result and errors are those of :func:`video_luma`.
    """
    return _luma(pixels, (0.299 * 255.0, 0.587 * 255.0, 0.114 * 255.0), 0.0)


def _luma(
    pixels: NDArray[np.uint8], weights: tuple[float, float, float], black: float
) -> NDArray[np.uint8]:
    color = pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or color):
        raise ShapeError(
            f"Luma needs uint8 pixels (height, width, 3) or (height, width), got {pixels.dtype} "
            f"{pixels.shape}."
        )
    if not color:
        return pixels
    mixed = pixels @ (np.asarray(weights) / 255.0) + black
    return np.round(mixed).astype(np.uint8)
