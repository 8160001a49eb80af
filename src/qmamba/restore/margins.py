"""Mirrored margins: what a network of zero-padded convolutions needs at the border of some images.

At its border a network sees zeros beyond the image.  It has learned to live with them in
photographs of some size; rows and columns of a few pixels, and corners of one flat color, come out
with other colors.  Such images get a mirrored margin, which is cut off the result; all others are
left alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

MARGIN = 8
"""Pixels that are mirrored beyond each border of the image."""
THIN = 16
"""Images with a side below this many pixels get a margin."""

_CORNER = 8
_FLAT = 4 / 255


class Margins(NamedTuple):
    """Pixels added to a tile beyond those borders of it that are borders of the image."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    def extend(self, image: Tensor) -> Tensor:
        """``(..., height, width)`` with mirrored margins; the outermost pixels come twice."""
        if not any(self):
            return image
        for axis, size in ((-2, self[:2]), (-1, self[2:])):
            mirrored = np.pad(np.arange(image.shape[axis]), size, mode="symmetric")
            image = image.index_select(axis, torch.from_numpy(mirrored).to(image.device))
        return image

    def cut(self, image: Tensor, scale: int) -> Tensor:
        """The enlarged image without its margins."""
        if not any(self):
            return image
        height, width = image.shape[-2:]
        top, bottom, left, right = (scale * count for count in self)
        return image[..., top : height - bottom, left : width - right]


def needs_margin(image: np.ndarray, white: float) -> bool:
    """Whether an image is thin or has a corner of one color.

    Args:
        image: ``(height, width, channels)``.
        white: largest value of a sample.
    """
    if min(image.shape[:2]) < THIN:
        return True
    corners = (
        image[rows, columns].astype(np.float32)
        for rows in (slice(0, _CORNER), slice(-_CORNER, None))
        for columns in (slice(0, _CORNER), slice(-_CORNER, None))
    )
    return any(float(np.ptp(corner, axis=(0, 1)).max()) <= _FLAT * white for corner in corners)


def margins_of(rows: slice, columns: slice, height: int, width: int) -> Margins:
    """The margins of a tile of an image that needs them."""
    return Margins(
        MARGIN * (rows.start == 0),
        MARGIN * (rows.stop == height),
        MARGIN * (columns.start == 0),
        MARGIN * (columns.stop == width),
    )
