"""Bytes of image files and ICC profiles that Pillow cannot write itself."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Literal

import numpy as np
from PIL import Image, ImageCms

PNG_GRAY, PNG_RGB, PNG_GRAY_ALPHA, PNG_RGBA = 0, 2, 4, 6


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_file(
    width: int,
    height: int,
    bits: int,
    color: int,
    rows: list[bytes],
    extra: bytes = b"",
    interlaced: bool = False,
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlaced)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", data)
        + png_chunk(b"IEND", b"")
    )


def png16(samples: np.ndarray, color: int, extra: bytes = b"") -> bytes:
    """16-bit PNG of (height, width, channels) samples."""
    height, width = samples.shape[:2]
    rows = [row.astype(">u2").tobytes() for row in samples]
    return png_file(width, height, 16, color, rows, extra)


def tiff_file(
    samples: np.ndarray,
    order: Literal["<", ">"] = "<",
    photometric: int = 2,
    sample_format: int = 1,
    separate: bool = False,
    orientation: int = 1,
    extra_samples: tuple[int, ...] = (),
) -> bytes:
    """Uncompressed TIFF of (height, width, channels) samples in the byte order "<" or ">"."""
    height, width, channels = samples.shape
    bits = samples.dtype.itemsize * 8
    stored = np.moveaxis(samples, 2, 0) if separate else samples
    data = stored.astype(samples.dtype.newbyteorder(order)).tobytes()
    strips = channels if separate else 1
    strip = len(data) // strips
    blob = bytearray()
    entries: list[tuple[int, int, int, bytes]] = []
    start = 8

    def add(tag: int, kind: int, values: list[int]) -> None:
        packed = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed) > 4:
            place = start + len(data) + len(blob)
            blob.extend(packed)
            packed = struct.pack(f"{order}I", place)
        entries.append((tag, kind, len(values), packed.ljust(4, b"\0")))

    add(256, 4, [width])
    add(257, 4, [height])
    add(258, 3, [bits] * channels)
    add(259, 3, [1])
    add(262, 3, [photometric])
    add(273, 4, [start + index * strip for index in range(strips)])
    add(274, 3, [orientation])
    add(277, 3, [channels])
    add(278, 4, [height])
    add(279, 4, [strip] * strips)
    add(284, 3, [2 if separate else 1])
    if extra_samples:
        add(338, 3, list(extra_samples))
    add(339, 3, [sample_format] * channels)
    directory = struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        directory += struct.pack(f"{order}HHI", tag, kind, count) + value
    directory += b"\0\0\0\0"
    magic = b"II" if order == "<" else b"MM"
    place = start + len(data) + len(blob)
    header = magic + struct.pack(f"{order}HI", 42, place)
    return header + data + bytes(blob) + directory


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile() -> bytes:
    """sRGB with its red and green primaries exchanged: converting it exchanges the channels."""
    profile = srgb_profile().replace(b"rXYZ", b"tttt")
    return profile.replace(b"gXYZ", b"rXYZ").replace(b"tttt", b"gXYZ")


def _icc(space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for signature, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += signature + struct.pack(">II", start + len(body), len(data))
        body += data
    device_class = b"prtr" if space == b"CMYK" else b"mntr"
    header = struct.pack(
        ">I4sI4s4s4s12s4s4sIIIQIIII48s",
        start + len(body),
        b"test",
        0x02400000,
        device_class,
        space,
        connection,
        struct.pack(">6H", 2020, 1, 1, 0, 0, 0),
        b"acsp",
        b"\0" * 4,
        0,
        0,
        0,
        0,
        0,
        0x0000F6D6,
        0x00010000,
        0x0000D32D,
        b"",
    )
    return header + table + body


def _white_point() -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">III", 0xF6D6, 0x10000, 0xD32D)


def linear_gray_profile() -> bytes:
    """Gray whose stored values are proportional to light."""
    gamma_one = b"curv\0\0\0\0" + struct.pack(">I", 0)
    return _icc(b"GRAY", b"XYZ ", {b"wtpt": _white_point(), b"kTRC": gamma_one})


def cmyk_profile() -> bytes:
    """CMYK where cyan ink alone prints middle gray, no ink is white and any other ink is black."""
    ramp = bytes(range(256))
    lattice = b""
    for corner in range(16):
        lightness = {0: 255, 8: 128}.get(corner, 0)
        lattice += bytes((lightness, 128, 128))
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + ramp * 4 + lattice + ramp * 3
    return _icc(b"CMYK", b"Lab ", {b"wtpt": _white_point(), b"A2B0": table})
