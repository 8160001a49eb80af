"""Reading BMP files."""

from __future__ import annotations

from typing import BinaryIO

from PIL import BmpImagePlugin, ImageFile

from qmamba.images.formats.record import Format


def _open(stream: BinaryIO) -> ImageFile.ImageFile:
    return BmpImagePlugin.BmpImageFile(stream, "")


BMP = Format("BMP", _open)
