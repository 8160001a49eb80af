"""What an image file says about its image, kept apart from the pixels: EXIF, XMP, density, text.

Pixels that are read are upright, and after restoration they may have another size.  So the EXIF
orientation and XMP's are set to 1, EXIF's pixel sizes follow the image, and EXIF's thumbnail is
taken out.  Everything else stays byte for byte: EXIF blocks are patched in place, because maker
notes hold offsets that a rewritten block would break.  A TIFF file has no block of its own, so one
is made of its descriptive tags.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from PIL import ExifTags, Image, JpegImagePlugin, TiffImagePlugin

_PREFIX = b"Exif\0\0"
_SHORT, _LONG = 3, 4
_INCH, _CENTIMETRE = 2, 3
_PER_INCH = {_INCH: 1.0, _CENTIMETRE: 2.54}
_JFIF_UNITS = (1, 2)
_WIDTHS = (ExifTags.Base.ImageWidth, ExifTags.Base.ExifImageWidth)
_HEIGHTS = (ExifTags.Base.ImageLength, ExifTags.Base.ExifImageHeight)
STRUCTURE_TAGS = frozenset(
    (
        *(254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 274, 277, 278, 279),
        *(280, 281, 282, 283, 284, 288, 289, 290, 291, 292, 293, 296, 297, 301, 317, 318, 319),
        *(320, 321, 322, 323, 324, 325, 326, 327, 328, 330, 332, 333, 334, 336, 337, 338, 339),
        *(340, 341, 342, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532),
        # What has a place of its own in `ImageMetadata`, and where pixels lie on the globe.
        *(700, 32781, 33550, 33723, 33922, 34264, 34377, 34675, 34735, 34736, 34737),
    )
)
"""Tags of a TIFF directory that say how the samples lie and hold for no other image."""

_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation\s*=\s*[\"']|<tiff:Orientation>\s*)\d+")


@dataclass(frozen=True)
class ImageMetadata:
    """What is known about an image beside its pixels and its color profile."""

    exif: bytes | None = None
    """EXIF block, from its byte-order mark on; orientation 1, no thumbnail."""
    xmp: bytes | None = None
    """XMP packet, UTF-8; orientation 1."""
    density: tuple[float, float] | None = None
    """Pixels per inch, horizontally and vertically."""
    texts: tuple[tuple[str, str], ...] = ()
    """Keywords and texts of a PNG file; the comment of a JPEG or GIF has the keyword "Comment"."""

    def resized(self, width: int, height: int) -> ImageMetadata:
        """The same for an image of another size; a damaged EXIF block is left out."""
        exif = None if self.exif is None else patched_exif(self.exif, width, height)
        return replace(self, exif=exif)


def read_metadata(image: Image.Image, width: int, height: int, notes: list[str]) -> ImageMetadata:
    """The metadata of a loaded image that is `width` x `height` pixels when upright.

    What is damaged or has no place is left out and named in `notes`.
    """
    exif = None
    block = _exif_block(image)
    if block:
        exif = patched_exif(block, width, height)
        if exif is None:
            notes.append("EXIF data dropped: it is damaged")
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode("utf-8", "surrogateescape")
    if isinstance(xmp, bytes) and xmp:
        xmp = _XMP_ORIENTATION.sub(rb"\g<1>1", xmp.rstrip(b"\0"))
    else:
        xmp = None
    if image.info.get("photoshop"):
        notes.append("Photoshop and IPTC data dropped")
    return ImageMetadata(exif, xmp, _density(image), tuple(_texts(image)))


def patched_exif(block: bytes, width: int, height: int) -> bytes | None:
    """An EXIF block for an upright image of `width` x `height` without a thumbnail.

    Returns:
        The block with its other bytes as they were; None where it is damaged.
    """
    data = bytearray(block)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None or len(block) < 8:
        return None
    try:
        (first,) = struct.unpack_from(f"{order}I", data, 4)
        after, inner = _patch_directory(data, order, first, width, height)
        if inner:
            _patch_directory(data, order, inner, width, height)
        if after + 4 <= len(data):
            (second,) = struct.unpack_from(f"{order}I", data, after)
            struct.pack_into(f"{order}I", data, after, 0)
            if second:
                _wipe_thumbnail(data, order, second)
    except struct.error:
        return None
    return bytes(data)


def _patch_directory(
    data: bytearray, order: str, start: int, width: int, height: int
) -> tuple[int, int]:
    """Set orientation and sizes of one directory; (offset behind it, offset of the EXIF one)."""
    (count,) = struct.unpack_from(f"{order}H", data, start)
    inner = 0
    for place in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", data, place)
        if tag == ExifTags.IFD.Exif:
            (inner,) = struct.unpack_from(f"{order}I", data, place + 8)
        value = None
        if tag == ExifTags.Base.Orientation:
            value = 1
        elif tag in _WIDTHS:
            value = width
        elif tag in _HEIGHTS:
            value = height
        if value is not None:
            # One LONG fits the entry as well as the usual SHORT, and a large image needs it.
            kind = _SHORT if value < 1 << 16 and kind == _SHORT else _LONG
            padded = f"{order}HHIHH" if kind == _SHORT else f"{order}HHII"
            filler = (0,) if kind == _SHORT else ()
            struct.pack_into(padded, data, place, tag, kind, 1, value, *filler)
    return start + 2 + 12 * count, inner


def _wipe_thumbnail(data: bytearray, order: str, start: int) -> None:
    """Take out the JPEG file that the second directory points to; a damaged one stays."""
    place = length = 0
    try:
        (count,) = struct.unpack_from(f"{order}H", data, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(f"{order}HHII", data, entry)
            if tag == ExifTags.Base.JpegIFOffset:
                place = value
            elif tag == ExifTags.Base.JpegIFByteCount:
                length = value
    except struct.error:
        return
    if data[place : place + 2] == b"\xff\xd8":
        end = min(place + length, len(data))
        data[place:end] = b"" if end == len(data) else bytes(end - place)


def _exif_block(image: Image.Image) -> bytes | None:
    """The image's EXIF block from its byte-order mark on; b"?" where it cannot be read."""
    try:
        stored = image.info.get("exif")
        raw = image.info.get("Raw profile type exif")
        if stored is None and isinstance(raw, str):
            stored = bytes.fromhex("".join(raw.split("\n")[3:]))
        if stored is None and isinstance(image, TiffImagePlugin.TiffImageFile):
            stored = _descriptive_exif(image)
        if not isinstance(stored, bytes):
            return None
        while stored.startswith(_PREFIX):
            stored = stored[len(_PREFIX) :]
        return stored
    except Exception:
        # Pillow's EXIF code raises many kinds of errors on damaged data.
        return b"?"


def _descriptive_exif(image: TiffImagePlugin.TiffImageFile) -> bytes | None:
    """A block of the tags of a TIFF file that do not say how its samples lie."""
    tags = image.getexif()
    for tag in list(tags):
        if tag in STRUCTURE_TAGS or tag > 0xFFFF or tag >= 50_000:
            del tags[tag]
    return tags.tobytes() if len(tags) else None


def _density(image: Image.Image) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in _stored_density(image))
    except Exception:
        # None is stored, or it is damaged, for which Pillow raises many kinds of errors.
        return None
    return (across, down) if 0 < across < 1e6 and 0 < down < 1e6 else None


def _stored_density(image: Image.Image) -> Any:
    """Pixels per inch as the file has them, two numbers; an exception where it has none.

    Pillow makes up 1 for a TIFF without resolution, and 72 for a JPEG whose EXIF block has none.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        if ExifTags.Base.XResolution not in tags or ExifTags.Base.YResolution not in tags:
            raise KeyError("resolution")
    if isinstance(image, JpegImagePlugin.JpegImageFile) and (
        image.info.get("jfif_unit") not in _JFIF_UNITS
    ):
        exif = image.getexif()
        across = float(exif[ExifTags.Base.XResolution])
        down = float(exif.get(ExifTags.Base.YResolution, across))
        per_inch = _PER_INCH[exif.get(ExifTags.Base.ResolutionUnit, _INCH)]
        return across * per_inch, down * per_inch
    return image.info["dpi"]


def _texts(image: Image.Image) -> Iterator[tuple[str, str]]:
    comment = image.info.get("comment")
    if isinstance(comment, bytes) and comment:
        yield "Comment", comment.rstrip(b"\0").decode("utf-8", "replace")
    texts = getattr(image, "text", None)
    if isinstance(texts, dict):
        for keyword, text in texts.items():
            own_place = keyword.startswith(("XML:", "Raw profile type")) or keyword == "exif"
            if not own_place:
                yield str(keyword), str(text)
