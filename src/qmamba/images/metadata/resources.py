"""Photoshop's image resources and the IPTC record inside them, in JPEG and TIFF files.

Source: Adobe Photoshop File Formats Specification; IPTC-IIM 4.2.
"""

from __future__ import annotations

import struct
from typing import Any

from PIL import Image, TiffImagePlugin

IPTC_TAG, RESOURCES_TAG = 33723, 34377

_IPTC, _RESOLUTION = 0x0404, 0x03ED
_THUMBNAILS = (0x0409, 0x040C)
_SIGNATURE = b"8BIM"


def read_resources(image: Image.Image) -> tuple[bytes | None, bytes | None]:
    """The image resources of a file without thumbnails, and an IPTC record that stands beside them.

    The resolution has its place in the density of the metadata.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        blocks = _parsed(_as_bytes(tags.get(RESOURCES_TAG), tags.prefix))
        return _written(blocks) or None, _as_bytes(tags.get(IPTC_TAG), tags.prefix) or None
    stored = image.info.get("photoshop")
    if not isinstance(stored, dict):
        return None, None
    blocks = [(code, data) for code, data in stored.items() if isinstance(data, bytes)]
    return _written(blocks) or None, None


def jpeg_segment(resources: bytes | None, iptc: bytes | None) -> bytes:
    """The contents of an APP13 segment; empty where there are none."""
    blocks = resources or b""
    if iptc is not None and not any(code == _IPTC for code, _ in _parsed(blocks)):
        blocks += _written([(_IPTC, iptc)])
    return b"Photoshop 3.0\0" + blocks if blocks else b""


def _as_bytes(value: Any, prefix: bytes) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, tuple) and all(isinstance(part, bytes) for part in value):
        return b"".join(value)
    if isinstance(value, tuple) and all(isinstance(part, int) for part in value):
        # Many programs store the bytes of the record as 32-bit numbers.
        order = "<" if prefix == b"II" else ">"
        return struct.pack(f"{order}{len(value)}I", *value)
    return b""


def _parsed(data: bytes) -> list[tuple[int, bytes]]:
    """Codes and contents of resource blocks; what follows a damaged one is left out."""
    blocks = []
    place = 0
    while data[place : place + 4] == _SIGNATURE and place + 12 <= len(data):
        (code,) = struct.unpack_from(">H", data, place + 4)
        name = data[place + 6] + 1
        start = place + 6 + name + name % 2
        if start + 4 > len(data):
            break
        (size,) = struct.unpack_from(">I", data, start)
        if start + 4 + size > len(data):
            break
        blocks.append((code, data[start + 4 : start + 4 + size]))
        place = start + 4 + size + size % 2
    return blocks


def _written(blocks: list[tuple[int, bytes]]) -> bytes:
    return b"".join(
        _SIGNATURE + struct.pack(">HHI", code, 0, len(data)) + data + b"\0" * (len(data) % 2)
        for code, data in blocks
        if code not in (*_THUMBNAILS, _RESOLUTION)
    )
