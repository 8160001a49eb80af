"""JPEG artifacts."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qmamba.errors import ConfigError, ShapeError


def jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """The image after JPEG at a quality, by libjpeg with its default tables.

    Args:
        pixels: uint8 ``(height, width)`` gray, as in published results, or ``(height, width, 3)``
            sRGB, whose chroma is stored at half resolution.
        quality: 1 (worst) to 100.

    Raises:
        ConfigError: the quality is outside its range.
        ShapeError: the array has another shape or dtype.
    """
    check_quality(quality)
    color = pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or color):
        raise ShapeError(
            f"JPEG needs uint8 pixels (height, width) or (height, width, 3), got {pixels.dtype} "
            f"{pixels.shape}."
        )
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "JPEG", quality=quality)
    with Image.open(stream) as decoded:
        return np.array(decoded)


def check_quality(quality: int) -> None:
    """Raise ConfigError unless ``quality`` is a whole number from 1 to 100."""
    if not isinstance(quality, int) or not 1 <= quality <= 100:
        raise ConfigError(f"The quality of JPEG is a whole number from 1 to 100, got {quality!r}.")
