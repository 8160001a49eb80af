"""Image sizes read from the first bytes, for the formats whose Pillow reader allocates at once.

Pillow's WebP reader sets up a canvas and its GIF reader a disposal area while the file is being
opened, which is too late for a size limit; the other readers only parse their header.
"""

from __future__ import annotations

from typing import BinaryIO


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


def gif_size(stream: BinaryIO) -> tuple[int, int] | None:
    """(width, height) that holds the logical screen and the first frame of a GIF file."""
    head = stream.read(13)
    if len(head) < 13:
        return None
    width = int.from_bytes(head[6:8], "little")
    height = int.from_bytes(head[8:10], "little")
    if head[10] & 0x80:
        stream.read(3 << ((head[10] & 7) + 1))
    while (marker := stream.read(1)) not in (b"", b";"):
        if marker == b"!":
            stream.read(1)
            while (length := stream.read(1)) not in (b"", b"\0"):
                stream.read(length[0])
        elif marker == b",":
            left, top, frame_width, frame_height = (
                int.from_bytes(stream.read(2), "little") for _ in range(4)
            )
            return max(width, left + frame_width), max(height, top + frame_height)
    return width, height
