"""Reading WebP files: the size before Pillow's reader sets up a canvas."""

from __future__ import annotations

from typing import BinaryIO

from PIL import ImageFile, WebPImagePlugin

from qmamba.images.formats.record import Format


def webp_size(stream: BinaryIO) -> tuple[int, int] | None:
    """(width, height) of the WebP file at the start of `stream`; None where the header is odd."""
    head = stream.read(30)
    chunk = head[12:16]
    if chunk == b"VP8X" and len(head) == 30:
        return (
            int.from_bytes(head[24:27], "little") + 1,
            int.from_bytes(head[27:30], "little") + 1,
        )
    if chunk == b"VP8L" and len(head) >= 25:
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 " and len(head) == 30:
        return (
            int.from_bytes(head[26:28], "little") & 0x3FFF,
            int.from_bytes(head[28:30], "little") & 0x3FFF,
        )
    return None


def _open(stream: BinaryIO) -> ImageFile.ImageFile:
    return WebPImagePlugin.WebPImageFile(stream, "")


WEBP = Format("WEBP", _open, webp_size)
