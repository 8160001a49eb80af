"""Small versions of images for display, encoded anew, so that no metadata goes along."""

from __future__ import annotations

import io

from PIL import Image

from qmamba.assess.views import ImageFile
from qmamba.images import DEFAULT_MAX_PIXELS, read_image
from qmamba.images.samples import eight_bits


def small_image(
    source: ImageFile, side: int, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Image.Image:
    """An upright sRGB image whose longest side is at most ``side`` pixels.

    Raises:
        ImageError: the image cannot be decoded.
    """
    pixels = read_image(source, max_pixels=max_pixels).pixels
    image = Image.fromarray(eight_bits(pixels))
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return image


def encoded(image: Image.Image, kind: str = "WEBP", quality: int = 70) -> bytes:
    """The bytes of an image file without any metadata."""
    stream = io.BytesIO()
    image.save(stream, kind, quality=quality)
    return stream.getvalue()
