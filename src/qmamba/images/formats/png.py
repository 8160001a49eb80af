"""Reading PNG files: chunks are checked here, Pillow unpacks the pixels.

The rules: every byte that pixels are made of must be in the file and pass its checksum (IHDR,
PLTE, IDAT, the end of the compressed data, and that all rows are there), or the file is refused.
A damaged, oversized or misplaced chunk of any other kind is left out with a note, and so are a
missing end and what the compressed data holds beyond the last row.  What follows the end of the
image is not looked at.  Pillow alone would do neither: it takes missing rows and wrong
checksums of pixel data, and refuses files for their texts.

Source: PNG specification, third edition (W3C, 2025).
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from PIL import ImageFile, PngImagePlugin

from qmamba.errors import ImageError
from qmamba.images.formats.record import Format

SIGNATURE = b"\x89PNG\r\n\x1a\n"

COLOR_CHUNKS = ("cICP", "sRGB", "gAMA", "cHRM", "mDCV", "cLLI")
"""Chunks that say what the colors mean, beside the ICC profile."""

MAX_METADATA_BYTES = 16 << 20
"""Texts and the profile of a file are read up to this size in all; what exceeds it is skipped."""

_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_ANIMATION_CHUNKS = (b"acTL", b"fcTL", b"fdAT")
_FIXED_SIZES = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"cICP": 4, b"mDCV": 24, b"cLLI": 8}
_MAX_CHUNK_BYTES = 64 << 20
_STORED_BYTES = 65_535
_READ_BYTES = 1 << 16
_DEFLATE_RATIO = 1032
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_WITH_ALPHA = (4, 6)
_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
"""First column, first row and their distances in the seven passes of an interlaced image."""
_METRES_PER_INCH = 0.0254
_XMP_KEYWORD = "XML:com.adobe.xmp"


class _Span(NamedTuple):
    """Where the data of a chunk lies in the file."""

    start: int
    length: int


class PngFile(PngImagePlugin.PngImageFile):
    """A PNG file whose chunks have been read and checked; pixel data is checked as it is loaded.

    Args:
        stream: The file, seekable; it must stay open until the image is loaded.

    Raises:
        ImageError: The file is truncated or damaged where pixels depend on it.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.notes: list[str] = []
        """What is to be said about the file."""
        self.color_chunks: tuple[tuple[str, bytes], ...] = ()
        """Sound chunks of `COLOR_CHUNKS`, by kind and data."""
        self.other_chunks: tuple[str, ...] = ()
        """Kinds of ancillary chunks whose content is used nowhere."""
        self.late_notes: list[str] = []
        """What loading the pixels has found."""
        self.palette_entries: int | None = None
        self.more_frames = False
        """Whether the file is an animation."""
        self._pixel_data: list[_Span] = []
        self._metadata: dict[str, object] = {}
        self._texts: dict[str, str] = {}
        self._left = MAX_METADATA_BYTES
        self._skipped: Counter[tuple[str, str]] = Counter()
        head = self._scan()
        for (kind, reason), count in self._skipped.items():
            times = f" ({count} times)" if count > 1 else ""
            self.notes.append(f"PNG chunk {kind} skipped: {reason}{times}")
        super().__init__(io.BytesIO(head), "")
        self.info.update(self._metadata)

    @property
    def text(self) -> dict[str, str]:
        """Keywords and texts, wherever in the file they stand."""
        return self._texts

    def load_prepare(self) -> None:
        self._blocks = self._stored_blocks()
        super().load_prepare()

    def load_read(self, read_bytes: int) -> bytes:
        return next(self._blocks, b"")

    def load_end(self) -> None:
        # Pillow stops at the last row; the checksums come behind it.
        for _ in self._blocks:
            pass
        super().load_end()

    @property
    def packed_bytes(self) -> int:
        """Bytes of compressed pixel data that are in the file."""
        return sum(span.length for span in self._pixel_data)

    @property
    def row_bytes(self) -> list[tuple[int, int]]:
        """Rows and bytes of a row (with its filter number) of the image, or of its passes."""
        bits = self._bits * _CHANNELS[self._color]
        width, height = self.size
        if not self._interlaced:
            return [(height, 1 + (width * bits + 7) // 8)]
        sizes = (
            (-(-(height - top) // down), -(-(width - left) // across))
            for left, top, across, down in _PASSES
        )
        return [(rows, 1 + (columns * bits + 7) // 8) for rows, columns in sizes if columns > 0]

    def _scan(self) -> bytes:
        """Go through all chunks; returns a file of those that Pillow needs."""
        stream = self._stream
        size = stream.seek(0, os.SEEK_END)
        position = len(SIGNATURE)
        head = bytearray(SIGNATURE)
        begun = ended = False
        while not ended:
            stream.seek(position)
            header = stream.read(8)
            kind = header[4:]
            if len(header) < 8 or not (kind.isalpha() and kind.isascii()):
                if not self._pixel_data:
                    raise ImageError("the PNG data is truncated or damaged before its pixels")
                self.notes.append(
                    "the file has no end marker (IEND)"
                    if len(header) < 8
                    else "the file is damaged behind its pixel data"
                )
                break
            length = int.from_bytes(header[:4], "big")
            span = _Span(position + 8, min(length, max(0, size - position - 8)))
            if kind == b"IDAT":
                if begun:
                    self._skip(kind, "it does not follow the other pixel data")
                else:
                    self._pixel_data.append(span)
            elif self._pixel_data:
                begun = True
            if kind == b"IEND":
                ended = True
            elif kind != b"IDAT":
                data = self._chunk(kind, length, span)
                if kind in (b"IHDR", b"PLTE") or (kind == b"tRNS" and data is not None):
                    assert data is not None, "damage of these chunks is an error"
                    if self._pixel_data or (kind == b"IHDR") != (len(head) == len(SIGNATURE)):
                        self._skip(kind, "it is misplaced")
                    elif kind == b"tRNS" and self._color in _WITH_ALPHA:
                        self._skip(kind, "the image has an alpha channel")
                    else:
                        if kind == b"IHDR":
                            self._read_header(data)
                        elif kind == b"PLTE":
                            self.palette_entries = len(data) // 3
                        head += _chunk(kind, data)
                elif data is not None:
                    self._take(kind, data)
            position += 12 + length
        if not self._pixel_data or len(head) == len(SIGNATURE):
            raise ImageError("the file has no pixel data")
        return bytes(head + _chunk(b"IDAT", b"") + _chunk(b"IEND", b""))

    def _chunk(self, kind: bytes, length: int, span: _Span) -> bytes | None:
        """The data of a chunk that is not pixel data; None where it is to be left out."""
        required = not kind[0] & 0x20
        if required and kind not in _PIXEL_CHUNKS:
            raise ImageError(f"its pixels depend on a chunk {kind.decode()} of unknown meaning")
        if span.length > _MAX_CHUNK_BYTES:
            self._skip(kind, f"it is larger than {_MAX_CHUNK_BYTES >> 20} MiB")
            return None
        data = self._stream.read(span.length)
        stored = self._stream.read(4)
        if len(data) == length and stored == struct.pack(">I", zlib.crc32(data, zlib.crc32(kind))):
            return data
        problem = "its checksum is wrong" if len(stored) == 4 else "the file ends inside it"
        if required:
            raise ImageError(f"the PNG data is damaged: chunk {kind.decode()}, {problem}")
        self._skip(kind, problem)
        return None

    def _read_header(self, data: bytes) -> None:
        if len(data) != 13 or data[9] not in _CHANNELS:
            raise ImageError("the PNG data is damaged: its header (IHDR) makes no sense")
        self._bits, self._color, self._interlaced = data[8], data[9], bool(data[12])

    def _take(self, kind: bytes, data: bytes) -> None:
        """Keep what a sound ancillary chunk says."""
        name = kind.decode()
        try:
            if kind in _FIXED_SIZES:
                if len(data) != _FIXED_SIZES[kind]:
                    raise ValueError(f"it has {len(data)} bytes instead of {_FIXED_SIZES[kind]}")
                if name not in dict(self.color_chunks):
                    self.color_chunks += ((name, data),)
            elif kind == b"iCCP":
                _, packed = _keyword(data)
                self._metadata.setdefault("icc_profile", self._inflated(packed[1:]))
            elif kind == b"pHYs":
                across, down, unit = struct.unpack(">IIB", data)
                if unit == 1:
                    density = (across * _METRES_PER_INCH, down * _METRES_PER_INCH)
                    self._metadata.setdefault("dpi", density)
            elif kind == b"eXIf":
                self._metadata.setdefault("exif", b"Exif\0\0" + data)
            elif kind in (b"tEXt", b"zTXt", b"iTXt"):
                self._take_text(kind, data)
            elif kind in _ANIMATION_CHUNKS:
                self.more_frames = True
            elif name not in self.other_chunks and len(self.other_chunks) < 20:
                self.other_chunks += (name,)
        except (ValueError, struct.error, zlib.error) as error:
            reason = str(error) if isinstance(error, ValueError) else "it is damaged"
            self._skip(kind, reason)

    def _take_text(self, kind: bytes, data: bytes) -> None:
        keyword, rest = _keyword(data)
        encoding = "latin-1"
        if kind == b"zTXt":
            rest = self._inflated(rest[1:])
        elif kind == b"iTXt":
            packed = rest[:1] == b"\1"
            _, _, rest = rest[2:].partition(b"\0")
            _, _, rest = rest.partition(b"\0")
            rest = self._inflated(rest) if packed else rest
            encoding = "utf-8"
        if kind == b"tEXt" or (kind == b"iTXt" and not packed):
            self._spend(len(rest))
        name = keyword.decode("latin-1")
        if name in self._texts or name in self._metadata:
            return
        text = rest.decode(encoding, "replace")
        if name == _XMP_KEYWORD:
            self._metadata[name] = text
            self._metadata["xmp"] = rest
        elif name.startswith("Raw profile type "):
            self._metadata[name] = text
        else:
            self._texts[name] = text

    def _inflated(self, packed: bytes) -> bytes:
        inflater = zlib.decompressobj()
        data = inflater.decompress(packed, self._left + 1)
        self._spend(len(data))
        if not inflater.eof:
            raise ValueError("it is damaged")
        return data

    def _spend(self, count: int) -> None:
        if count > self._left:
            raise ValueError(f"more than {MAX_METADATA_BYTES >> 20} MiB of texts and profile")
        self._left -= count

    def _skip(self, kind: bytes, reason: str) -> None:
        self._skipped[kind.decode(), reason] += 1

    def _stored_blocks(self) -> Iterator[bytes]:
        """The pixel data inflated and checked, as zlib data without compression.

        Pillow inflates what it reads; handing it the inflated bytes in stored blocks costs a copy
        and saves inflating everything twice to find out whether it is all there.
        """
        passes = self.row_bytes
        expected = sum(rows * row for rows, row in passes)
        inflater = zlib.decompressobj()
        count, checksum, surplus = 0, 1, False
        yield b"\x78\x01"
        for piece in self._packed_pieces():
            if piece and inflater.eof:
                surplus = True
            while piece and not (inflater.eof or surplus):
                try:
                    data = inflater.decompress(piece, _STORED_BYTES)
                except zlib.error as error:
                    raise ImageError(
                        f"the PNG data is damaged: its pixel data cannot be decompressed ({error})"
                    ) from error
                piece = inflater.unconsumed_tail
                # Where there is too much, it may be gigabytes.
                surplus = len(data) > expected - count or bool(inflater.unused_data)
                data = data[: expected - count]
                if data:
                    count += len(data)
                    checksum = zlib.adler32(data, checksum)
                    yield struct.pack("<BHH", 0, len(data), len(data) ^ 0xFFFF) + data
        if count < expected:
            have = f"{count * 100 // expected} % of its pixel data"
            if len(passes) == 1:
                have = f"{count // passes[0][1]} of its {passes[0][0]} rows of pixels"
            raise ImageError(f"the PNG data is truncated or damaged: it holds {have}")
        if surplus:
            self.late_notes.append("the pixel data goes on behind the last row")
        elif not inflater.eof:
            raise ImageError("the PNG data is truncated: its pixel data has no checksum at its end")
        yield struct.pack("<BHH", 1, 0, 0xFFFF) + struct.pack(">I", checksum)

    def _packed_pieces(self) -> Iterator[bytes]:
        for span in self._pixel_data:
            self._stream.seek(span.start)
            checksum = zlib.crc32(b"IDAT")
            left = span.length
            while left:
                piece = self._stream.read(min(left, _READ_BYTES))
                if not piece:
                    raise ImageError("the PNG data is truncated in its pixel data")
                left -= len(piece)
                checksum = zlib.crc32(piece, checksum)
                yield piece
            stored = self._stream.read(4)
            if len(stored) < 4:
                raise ImageError("the PNG data is truncated in its pixel data")
            if stored != struct.pack(">I", checksum):
                raise ImageError(
                    "the PNG data is damaged: the checksum of its pixel data (IDAT) is wrong"
                )


def _keyword(data: bytes) -> tuple[bytes, bytes]:
    keyword, separator, rest = data.partition(b"\0")
    if not separator:
        raise ValueError("it is damaged")
    return keyword, rest


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(data, zlib.crc32(kind))
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _check(image: ImageFile.ImageFile, stream: BinaryIO) -> list[str]:
    assert isinstance(image, PngFile), "opened by this module"
    needed = sum(rows * row for rows, row in image.row_bytes)
    if needed > _DEFLATE_RATIO * image.packed_bytes:
        raise ImageError(
            f"the PNG data is truncated: {image.packed_bytes} compressed bytes cannot hold "
            f"{image.width} x {image.height} pixels"
        )
    return image.notes


def _verify(image: ImageFile.ImageFile, stream: BinaryIO) -> list[str]:
    assert isinstance(image, PngFile), "opened by this module"
    notes = list(image.late_notes)
    if image.mode == "P" and image.palette_entries is not None:
        highest = image.getextrema()[1]
        if isinstance(highest, int) and highest >= image.palette_entries:
            notes.append(
                f"pixels name color {highest} of a palette of {image.palette_entries} colors"
            )
    return notes


PNG = Format("PNG", PngFile, check=_check, verify=_verify)
