"""Decoding a JPEG file at a fraction of its size, which takes a fraction of the time.

Pillow's draft mode: the decoder leaves out the high frequencies of every block of 8 x 8 pixels and
gives an image of 1/2, 1/4 or 1/8 of the sides. The pixels differ slightly from those of an image
that was decoded in full and scaled down.
"""

from __future__ import annotations

import os
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, JpegImagePlugin

from qmamba.images.color.srgb import image_pixels
from qmamba.images.decode import DEFAULT_MAX_PIXELS, DecodedImage, decode

_SIDEWAYS = range(5, 9)


class _Taken(NamedTuple):
    pixels: np.ndarray
    notes: tuple[str, ...]
    full: tuple[int, int]


def read_draft(
    source: str | os.PathLike[str] | bytes | BinaryIO,
    least_side: int,
    *,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> tuple[DecodedImage, tuple[int, int]]:
    """Decode an image whose sides will be scaled down to at least `least_side` pixels.

    JPEG files are decoded at the smallest of 1, 1/2, 1/4 and 1/8 of their size at which the shorter
    side is not below `least_side`; every other format in full.

    Args:
        source, max_pixels: see :func:`~qmamba.images.read_image`; the limit holds for the full
            size.
        least_side: shortest side that is needed.

    Returns:
        The image, and the (height, width) that it has in full, upright.

    Raises:
        ImageError, ConfigError: see :func:`~qmamba.images.read_image`.

    >>> image, (height, width) = read_draft("examples/coffee.jpg", 256)  # doctest: +SKIP
    """

    def take(image: Image.Image, low: Image.Image | None) -> _Taken:
        width, height = image.size
        shorter = min(width, height)
        if isinstance(image, JpegImagePlugin.JpegImageFile) and shorter >= 2 * least_side:
            # The decoder takes the largest fraction that gives neither side less than asked for.
            image.draft(image.mode, (width * least_side // shorter, height * least_side // shorter))
        pixels, notes = image_pixels(image, low)
        full = (width, height) if _lies_sideways(image) else (height, width)
        return _Taken(pixels, notes, full)

    taken, origin = decode(source, max_pixels, take)
    notes = origin.notes + taken.notes
    return DecodedImage(taken.pixels, notes, origin.format, origin.path), taken.full


def _lies_sideways(image: Image.Image) -> bool:
    """Whether width and height change places when the image is turned upright."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) in _SIDEWAYS
    except Exception:
        # Pillow's EXIF parser raises many kinds of errors on damaged data.
        return False
