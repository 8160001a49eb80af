"""What reading needs to know of an image format."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import BinaryIO

from PIL import ImageFile


def _nothing(image: ImageFile.ImageFile, stream: BinaryIO) -> Iterable[str]:
    return ()


@dataclass(frozen=True)
class Format:
    """How files of one format are opened and what is checked in them.

    `check` and `verify` take the opened image and the stream, return what is to be noted, and raise
    `ImageError` where pixels are missing or damaged.
    """

    name: str
    """"JPEG", "PNG", "WEBP", "TIFF", "BMP" or "GIF"."""
    open: Callable[[BinaryIO], ImageFile.ImageFile]
    """From a stream at its start to an image whose header has been read."""
    size_before_opening: Callable[[BinaryIO], tuple[int, int] | None] | None = None
    """(width, height) from the first bytes, where opening allocates memory for them."""
    check: Callable[[ImageFile.ImageFile, BinaryIO], Iterable[str]] = _nothing
    """Called before pixels are decoded, when the size has passed the limit."""
    verify: Callable[[ImageFile.ImageFile, BinaryIO], Iterable[str]] = _nothing
    """Called with the loaded image."""
