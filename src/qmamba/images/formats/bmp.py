"""Reading BMP files."""

from __future__ import annotations

from typing import Any, BinaryIO

from PIL import BmpImagePlugin, ImageFile

from qmamba.errors import ImageError
from qmamba.images.formats.record import Format

_RUN_LENGTHS = "bmp_rle"


class BmpFile(BmpImagePlugin.BmpImageFile):
    """A BMP file whose run lengths must not leave pixels out at the end."""

    def load(self) -> Any:
        is_compressed = bool(self.tile) and self.tile[0][0] == _RUN_LENGTHS
        try:
            return super().load()
        except ValueError as error:
            if not is_compressed:
                raise
            raise ImageError(
                "its run lengths end before the last pixel, whose color is then unknown; save it"
                " uncompressed or as PNG"
            ) from error


def _open(stream: BinaryIO) -> ImageFile.ImageFile:
    return BmpFile(stream, "")


BMP = Format("BMP", _open)
