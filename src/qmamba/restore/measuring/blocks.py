"""Finding the blocks of JPEG in an image, wherever their grid begins."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmamba.restore.measuring.levels import on_8_bits

NO_BLOCKS, CLEAR_BLOCKS = 0.03, 0.07
"""Strengths up to which nothing of a correction of JPEG is taken, and from which all of it is."""

_SIDE = 8
_SMALLEST = 64
_WEIGHTS = (0.299, 0.587, 0.114)
# Edges of the image itself count no more than this.
_MOST = 20.0


def block_strength(image: NDArray[Any]) -> float | None:
    """How much rougher an image is across the borders of 8 x 8 blocks than elsewhere.

    Roughness is the third difference across a border, cut at 20 levels. Of the eight grids that
    there can be in each direction the roughest is compared with the median of the others.

    Args:
        image: ``(height, width, 1 or 3 channels)``; uint8, uint16, or floating point in [0, 1].

    Returns:
        0 where no grid stands out (photographs that never were JPEG have up to 0.03), about 0.1 to
        0.3 for JPEG of quality 90, above 1 for quality 30; None for a side below 64 pixels, in
        which it cannot be told.
    """
    if min(image.shape[:2]) < _SMALLEST:
        return None
    values = on_8_bits(image)
    luma = values @ np.asarray(_WEIGHTS, np.float32) if values.shape[2] == 3 else values[..., 0]
    return float(np.mean([_roughest(luma), _roughest(luma.T)]))


def _roughest(luma: NDArray[np.float32]) -> float:
    """How far the roughest of the eight grids of columns stands out."""
    rough = np.abs(luma[:, :-3] - 3 * luma[:, 1:-2] + 3 * luma[:, 2:-1] - luma[:, 3:])
    columns = np.minimum(rough, _MOST).mean(axis=0, dtype=np.float64)
    whole = len(columns) // _SIDE * _SIDE
    grids = columns[:whole].reshape(-1, _SIDE).mean(axis=0)
    others = float(np.median(np.delete(grids, grids.argmax())))
    return (float(grids.max()) - others) / others if others > 0 else 0.0
