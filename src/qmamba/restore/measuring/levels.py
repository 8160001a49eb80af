"""Samples of any depth on one scale."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmamba.errors import ShapeError


def on_8_bits(image: NDArray[Any]) -> NDArray[np.float32]:
    """Samples of any depth as floats on the scale 0 to 255.

    Args:
        image: ``(height, width, 1 or 3 channels)``; uint8, uint16, or floating point in [0, 1].

    Raises:
        ShapeError: the array has another shape or dtype.
    """
    if image.ndim != 3 or image.shape[2] not in (1, 3) or 0 in image.shape:
        raise ShapeError(
            f"An image to measure is (height, width, 1 or 3 channels), got {image.shape}."
        )
    if image.dtype in (np.uint8, np.uint16):
        top = float(np.iinfo(image.dtype).max)
    elif np.issubdtype(image.dtype, np.floating):
        top = 1.0
    else:
        raise ShapeError(
            f"An image to measure has 8 or 16 bits or floats in [0, 1], got {image.dtype}."
        )
    return image.astype(np.float32) * np.float32(255.0 / top)
