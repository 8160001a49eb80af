"""JPEG artifacts."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qmamba.errors import ConfigError, ShapeError

SUBSAMPLINGS = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}
"""How chroma is stored, by Pillow's number: in full, at half the width, at half of both sides."""


def jpeg(pixels: NDArray[np.uint8], quality: int, *, subsampling: int = 2) -> NDArray[np.uint8]:
    """The image after JPEG at a quality, by libjpeg with its default tables.

    Args:
        pixels: uint8 ``(height, width)`` gray, as in published results, or ``(height, width, 3)``
            sRGB.
        quality: 1 (worst) to 100.
        subsampling: of the chroma, one of :data:`SUBSAMPLINGS`; by default at half resolution.

    Raises:
        ConfigError: the quality is outside its range, or there is no such subsampling.
        ShapeError: the array has another shape or dtype.
    """
    check_quality(quality)
    if subsampling not in SUBSAMPLINGS:
        raise ConfigError(f"The subsampling of chroma is 0, 1 or 2, got {subsampling!r}.")
    color = pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or color):
        raise ShapeError(
            f"JPEG needs uint8 pixels (height, width) or (height, width, 3), got {pixels.dtype} "
            f"{pixels.shape}."
        )
    stream = io.BytesIO()
    options = {"subsampling": subsampling} if color else {}
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "JPEG", quality=quality, **options)
    with Image.open(stream) as decoded:
        return np.array(decoded)


def check_quality(quality: int) -> None:
    """Raise ConfigError unless ``quality`` is a whole number from 1 to 100."""
    if not isinstance(quality, int) or not 1 <= quality <= 100:
        raise ConfigError(f"The quality of JPEG is a whole number from 1 to 100, got {quality!r}.")
