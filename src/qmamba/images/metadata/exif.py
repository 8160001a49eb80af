"""EXIF blocks, patched in place: maker notes hold offsets that a rewritten block would break.

A TIFF file has no block of its own, so one is made of its descriptive tags.
"""

from __future__ import annotations

import struct

from PIL import ExifTags, Image, TiffImagePlugin

_PREFIX = b"Exif\0\0"
_SHORT, _LONG = 3, 4
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


def exif_block(image: Image.Image) -> bytes | None:
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
    # A block has the offsets of 32 bits of a classic file; those of BigTIFF have twice as many.
    tags.bigtiff = False
    return tags.tobytes() if len(tags) else None
