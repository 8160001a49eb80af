"""File formats: telling them apart, what each one checks before and after decoding, and writing."""

from qmamba.errors import ImageError
from qmamba.images.formats.bmp import BMP
from qmamba.images.formats.gif import GIF
from qmamba.images.formats.jpeg import JPEG
from qmamba.images.formats.png import PNG
from qmamba.images.formats.record import Format
from qmamba.images.formats.tiff import TIFF
from qmamba.images.formats.webp import WEBP

__all__ = ["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP", "Format", "identify"]


def identify(head: bytes) -> Format:
    """The format of a file by its first 16 bytes.

    Raises:
        ImageError: It is none of them.
    """
    if not head:
        raise ImageError("the file is empty (0 bytes)")
    if head.startswith(b"\xff\xd8\xff"):
        return JPEG
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return PNG
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return WEBP
    if head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return TIFF
    if head.startswith(b"BM"):
        return BMP
    if head.startswith((b"GIF87a", b"GIF89a")):
        return GIF
    raise ImageError("it is not a JPEG, PNG, WebP, TIFF, BMP or GIF file")
