"""Reading GIF files: the size before Pillow sets up its canvas, and frames beside the canvas."""

from __future__ import annotations

from typing import BinaryIO

from PIL import GifImagePlugin, ImageFile

from qmamba.images.formats.record import Format


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


class GifFile(GifImagePlugin.GifImageFile):
    """A GIF file whose first frame may be smaller than the canvas."""

    inside_canvas: tuple[int, int, int, int] | None = None
    """Left, top, right and bottom of such a frame; what lies around it is transparent."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream, "")
        frame = self.tile[0][1] if self.tile else None
        if frame is not None and frame != (0, 0, *self.size):
            self.inside_canvas = frame


def _check(image: ImageFile.ImageFile, stream: BinaryIO) -> list[str]:
    if getattr(image, "inside_canvas", None) is None:
        return []
    return ["the first frame is smaller than the canvas, and transparent around it"]


GIF = Format("GIF", GifFile, gif_size, check=_check)
