"""Writing PNG files of 8 and 16 bits a sample, gray or RGB, with or without alpha.

Pillow has no 16-bit color, so the format is written here as a whole.  Rows are filtered as
libpng's default does it, each by the filter whose differences sum to the least.

Source: PNG specification, third edition (W3C, 2025).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from qmamba.images.layers import ImageLayers

MAX_SIDE = 2**31 - 1

_GRAY, _COLOR, _ALPHA = 0, 2, 4
_BAND_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20
_COMPRESSION = 6
_METRES_PER_INCH = 0.0254
_XMP_KEYWORD = "XML:com.adobe.xmp"


def write_png(stream: BinaryIO, layers: ImageLayers) -> None:
    """Write the image with its profile and metadata; a band of rows is in memory at a time.

    Raises:
        OSError: the stream cannot be written.
    """
    channels = layers.colors.shape[2] + (layers.alpha is not None)
    color_type = (_GRAY if layers.colors.shape[2] == 1 else _COLOR) | (
        _ALPHA if layers.alpha is not None else 0
    )
    header = struct.pack(">IIBBBBB", layers.width, layers.height, layers.bits, color_type, 0, 0, 0)
    stream.write(b"\x89PNG\r\n\x1a\n")
    _chunk(stream, b"IHDR", header)
    for kind, data in layers.stated.chunks:
        # A profile and this chunk exclude each other.
        if kind != "sRGB" or layers.profile is None:
            _chunk(stream, kind.encode(), data)
    if layers.profile is not None:
        _chunk(stream, b"iCCP", b"ICC profile\0\0" + zlib.compress(layers.profile))
    density, exif, xmp = layers.metadata.density, layers.metadata.exif, layers.metadata.xmp
    if density is not None:
        across, down = (round(value / _METRES_PER_INCH) for value in density)
        _chunk(stream, b"pHYs", struct.pack(">IIB", across, down, 1))
    if exif is not None:
        _chunk(stream, b"eXIf", exif)
    if xmp is not None:
        _text(stream, _XMP_KEYWORD, xmp)
    for keyword, text in layers.metadata.texts:
        _text(stream, keyword, text.encode("utf-8", "replace"))
    compressor = zlib.compressobj(_COMPRESSION)
    waiting = bytearray()
    for rows in _filtered(layers, channels):
        waiting += compressor.compress(rows.tobytes())
        if len(waiting) >= _CHUNK_BYTES:
            _chunk(stream, b"IDAT", waiting)
            waiting.clear()
    waiting += compressor.flush()
    _chunk(stream, b"IDAT", waiting)
    _chunk(stream, b"IEND", b"")


def _chunk(stream: BinaryIO, kind: bytes, data: bytes | bytearray) -> None:
    stream.write(struct.pack(">I", len(data)) + kind)
    stream.write(data)
    stream.write(struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))))


def _text(stream: BinaryIO, keyword: str, text: bytes) -> None:
    """An international text chunk; keywords are Latin-1 of at most 79 bytes."""
    name = keyword.encode("latin-1", "replace").replace(b"\0", b"?").strip()[:79]
    # Without compression, language tag and translated keyword.
    _chunk(stream, b"iTXt", (name or b"Comment") + b"\0\0\0\0\0" + text.replace(b"\0", b""))


def _filtered(layers: ImageLayers, channels: int) -> Iterator[np.ndarray]:
    """Bands of rows as the compressor takes them: uint8, a filter number before each row."""
    pixel = channels * layers.bits // 8
    row_bytes = layers.width * pixel
    step = max(1, _BAND_BYTES // row_bytes)
    above = np.zeros(row_bytes, np.uint8)
    for top in range(0, layers.height, step):
        rows = _stored(layers, top, top + step)
        previous = np.concatenate([above[None], rows[:-1]])
        above = rows[-1]
        yield _best_filter(rows, previous, pixel)


def _stored(layers: ImageLayers, top: int, bottom: int) -> np.ndarray:
    """Rows as the file has them before filtering: big-endian samples, alpha last, as bytes."""
    samples = layers.colors[top:bottom]
    if layers.alpha is not None:
        samples = np.concatenate([samples, layers.alpha[top:bottom, :, None]], axis=2)
    stored = np.ascontiguousarray(samples, samples.dtype.newbyteorder(">"))
    return stored.reshape(len(samples), -1).view(np.uint8)


def _best_filter(rows: np.ndarray, above: np.ndarray, pixel: int) -> np.ndarray:
    """Each row by the best of the five filters, with the filter's number in front."""
    left, corner = np.zeros_like(rows), np.zeros_like(rows)
    left[:, pixel:] = rows[:, :-pixel]
    corner[:, pixel:] = above[:, :-pixel]
    best = np.empty((rows.shape[0], rows.shape[1] + 1), np.uint8)
    least = np.full(len(rows), np.iinfo(np.int64).max)
    for number, expected in enumerate(_expectations(left, above, corner)):
        difference = rows - expected
        size = np.minimum(difference, ~difference + np.uint8(1)).sum(axis=1, dtype=np.int64)
        better = size < least
        least[better] = size[better]
        best[better, 0] = number
        best[better, 1:] = difference[better]
    return best


def _expectations(left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> Iterator[np.ndarray]:
    """What the filters none, sub, up, average and Paeth expect of each byte."""
    yield np.zeros_like(left)
    yield left
    yield above
    yield ((left.astype(np.uint16) + above) >> 1).astype(np.uint8)
    a, b, c = (part.astype(np.int16) for part in (left, above, corner))
    to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
    nearest_b = np.where(to_b <= to_c, above, corner)
    yield np.where((to_a <= to_b) & (to_a <= to_c), left, nearest_b)
