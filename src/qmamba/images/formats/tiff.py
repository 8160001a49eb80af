"""Reading TIFF files: the page that is the image, and whether all of its data is there.

The rules: the first page counts, unless it is marked as a preview (reduced resolution) or a mask;
then the first page or sub-image that is not, with a note.  A file whose image is a camera's raw
data is refused, because the previews in it are other images.  Every strip or tile must lie in the
file and be as large as its pixels need, and tiles may not claim memory that the image has no use
for; all this is found in the header, before memory is taken.

Source: TIFF 6.0; Adobe's TIFF Technical Note 1 (sub-images); DNG 1.7.
"""

from __future__ import annotations

import ctypes
import functools
import io
import logging
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal

from PIL import ExifTags, Image, ImageFile, ImagePalette, TiffImagePlugin

from qmamba.errors import ImageError
from qmamba.images.formats.jpeg import read_layout
from qmamba.images.formats.record import Format

# What Pillow logs is raised as well; without a handler Python would print it.
logging.getLogger(TiffImagePlugin.__name__).addHandler(logging.NullHandler())

_NEW_SUBFILE, _SUBFILE = 254, 255
_REDUCED, _MASK = 1, 4
_OLD_REDUCED = 2
_COMPRESSION, _PHOTOMETRIC, _SUB_IMAGES = 259, 262, 330
_COMPRESSIONS = {
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34887: "LERC",
    34933: "PNG",
    34934: "JPEG XR",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
"""Methods that others write and Pillow does not know."""
_ALWAYS_READ = {*range(1, 9), 32773, 32946}
"""Methods that every build of Pillow reads."""
_RAW_PHOTOMETRICS = {32803: "a color filter array", 34892: "linear raw data"}
_CANON_RAW = b"CR\x02\x00"
_FORMATS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_MAX_PAGES = 64
_MAX_ENTRIES = 4096
_MAX_SUB_IMAGES = 32

_UNCOMPRESSED, _OLD_JPEG, _JPEG, _YCBCR = 1, 6, 7, 6
_DEFLATED = (8, 32946)
_READ_BYTES = 1 << 16
_SEPARATE_PLANES = 2
_RATIOS = {1: 1, 5: 2730, 7: 2048, 8: 1032, 32773: 64, 32946: 1032}
"""Bytes that a byte of compressed data stands for at most, by compression."""
_FREE_TILE_PIXELS = 1 << 22
_SIGNED = 2
_SIGNED_BYTES = "its samples are signed 8-bit numbers, whose white is unknown; save unsigned ones"
_SAVE_OTHERWISE = "save it uncompressed or with LZW or Deflate"
_GRAY_ALPHA_PLANES = (
    "the TIFF file keeps gray and alpha in separate planes, which is not supported; save it with "
    "interleaved samples"
)
_NATIVE = {
    **dict.fromkeys(("F;32F", "F;32BF"), "F;32NF"),
    **dict.fromkeys(("I;32S", "I;32BS"), "I;32NS"),
    **dict.fromkeys(("I;16S", "I;16BS"), "I;16NS"),
}
"""Raw modes of Pillow by those that it takes for compressed files."""


@dataclass
class _Page:
    """What selects a page."""

    offset: int
    tags: dict[int, tuple[int, ...]] = field(default_factory=dict)
    sub_image: bool = False

    @property
    def is_preview(self) -> bool:
        kind = self.tags.get(_NEW_SUBFILE, (0,))[0]
        return bool(kind & (_REDUCED | _MASK)) or self.tags.get(_SUBFILE) == (_OLD_REDUCED,)

    @property
    def area(self) -> int:
        width, height = (self.tags.get(tag, (0,))[0] for tag in (256, 257))
        return width * height


class TiffFile(TiffImagePlugin.TiffImageFile):
    """A TIFF file opened at the page that is its image.

    Raises:
        ImageError: The image is a camera's raw data.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.notes: list[str] = []
        """What is to be said about the file."""
        self._page_header: bytes | None = None
        _silence_libtiff()
        self._choose(stream)
        stream.seek(0)
        try:
            super().__init__(stream, "")
        except IndexError as error:
            # Pillow looks for a third plane.
            raise ImageError(_GRAY_ALPHA_PLANES) from error
        except SyntaxError as error:
            tags = getattr(self, "tag_v2", {})
            if isinstance(error.__cause__, KeyError):
                _refuse_compression(tags.get(_COMPRESSION))
            if "mode" not in str(error) or not tags:
                raise
            said = ", ".join(
                f"{title} {str(tags.get(number, usual))[:40]}"
                for title, number, usual in (
                    ("photometric interpretation", 262, "none"),
                    ("bits", 258, 1),
                    ("sample format", 339, 1),
                    ("extra samples", 338, "none"),
                )
            )
            raise ImageError(
                f"the TIFF file arranges its samples in a way that is not supported ({said}); save"
                " it as gray or RGB with integers of 8 or 16 bits"
            ) from error

    def _open(self) -> None:
        stream = self.fp
        if self._page_header is not None:
            # Pillow begins at the page that the header names, and later seeks to it by itself.
            self.fp = _Redirected(stream, self._page_header)  # type: ignore[assignment,arg-type]
        super()._open()
        self.fp = self._fp = stream  # type: ignore[assignment]

    def load(self) -> Any:
        try:
            return super().load()
        except OSError as error:
            if (method := self.tag_v2.get(_COMPRESSION, 1)) in _ALWAYS_READ:
                raise
            raise ImageError(
                f"the TIFF data of method {TiffImagePlugin.COMPRESSION_INFO.get(method)} ({method})"
                f" is truncated, damaged or unknown to this Pillow; {_SAVE_OTHERWISE}"
            ) from error

    def _choose(self, stream: BinaryIO) -> None:
        """Find the page that is the image; leaves alone what Pillow can judge better."""
        head = stream.read(16)
        if head[:4] == b"MM\0+":
            raise ImageError(
                "it is a BigTIFF file in big-endian byte order, which is not supported; save it in "
                "little-endian order or as TIFF"
            )
        order: Literal["<", ">"] = "<" if head[:2] == b"II" else ">"
        big = 43 in head[2:4]
        pages = list(_pages(stream, head, order, big))
        if not pages:
            return
        full = [page for page in pages if not page.is_preview]
        for page in full:
            raw = _RAW_PHOTOMETRICS.get(page.tags.get(_PHOTOMETRIC, (0,))[0])
            if raw is not None or head[8:12] == _CANON_RAW:
                raise ImageError(
                    f"it is a camera raw file ({raw or 'CR2'}), whose other images are previews; "
                    "develop it to a TIFF, PNG or JPEG file first"
                )
        first = pages[0]
        if not first.is_preview:
            return
        if not full:
            self.notes.append("the image is marked as a preview and the file has no other")
            return
        in_chain = [page for page in full if not page.sub_image]
        chosen = in_chain[0] if in_chain else max(full, key=lambda page: page.area)
        number = [page for page in pages if page.sub_image == chosen.sub_image].index(chosen) + 1
        what = "sub-image" if chosen.sub_image else "page"
        self.notes.append(f"{what} {number} used, because the first page is a preview")
        start = struct.pack(f"{order}{'Q' if big else 'I'}", chosen.offset)
        self._page_header = (head[:8] if big else head[:4]) + start


def _refuse_compression(method: object) -> None:
    if method in _RATIOS or not isinstance(method, int):
        return
    named = f"{_COMPRESSIONS[method]} ({method})" if method in _COMPRESSIONS else method
    raise ImageError(
        f"the TIFF file is compressed by method {named}, which is not supported; {_SAVE_OTHERWISE}"
    )


@functools.cache
def _silence_libtiff() -> None:
    """Keep the library inside Pillow from printing; what it refuses Pillow raises as well."""
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(Image.core.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            handler = getattr(library, name)
            handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            handler(None)


class _Redirected:
    """A stream whose first bytes are others."""

    def __init__(self, stream: BinaryIO, header: bytes) -> None:
        self._stream, self._header = stream, header
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, count: int = -1) -> bytes:
        start = self._stream.tell()
        data = self._stream.read(count)
        other = self._header[start : start + len(data)]
        return other + data[len(other) :]


def _pages(stream: BinaryIO, head: bytes, order: Literal["<", ">"], big: bool) -> Iterator[_Page]:
    """The pages of the file, each followed by its sub-images; a damaged one ends them."""
    try:
        (offset,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", head, 8 if big else 4)
    except struct.error:
        return
    seen: set[int] = set()
    while offset and offset not in seen and len(seen) < _MAX_PAGES:
        seen.add(offset)
        read = _directory(stream, offset, order, big)
        if read is None:
            return
        tags, following = read
        yield _Page(offset, tags)
        for start in tags.get(_SUB_IMAGES, ())[:_MAX_SUB_IMAGES]:
            below = _directory(stream, start, order, big)
            if below is not None:
                yield _Page(start, below[0], sub_image=True)
        offset = following


def _directory(
    stream: BinaryIO, offset: int, order: str, big: bool
) -> tuple[dict[int, tuple[int, ...]], int] | None:
    """Unsigned tags of few values of a directory, and the offset of the next; None if damaged."""
    counted, sized, entry_bytes = ("Q", "Q", 20) if big else ("H", "I", 12)
    try:
        stream.seek(offset)
        (count,) = struct.unpack(order + counted, stream.read(struct.calcsize(order + counted)))
        if not 0 < count <= _MAX_ENTRIES:
            return None
        data = stream.read(count * entry_bytes)
        tags: dict[int, tuple[int, ...]] = {}
        inline = struct.calcsize(sized)
        for place in range(0, count * entry_bytes, entry_bytes):
            tag, kind = struct.unpack_from(f"{order}HH", data, place)
            (number,) = struct.unpack_from(order + sized, data, place + 4)
            if tag not in (_NEW_SUBFILE, _SUBFILE, 256, 257, _PHOTOMETRIC, _SUB_IMAGES):
                continue
            letter = _FORMATS.get(kind)
            if letter is None or not 0 < number <= _MAX_SUB_IMAGES:
                continue
            layout = f"{order}{number}{letter}"
            start = place + 4 + inline
            if struct.calcsize(layout) <= inline:
                tags[tag] = struct.unpack_from(layout, data, start)
            else:
                (where,) = struct.unpack_from(order + sized, data, start)
                back = stream.tell()
                stream.seek(where)
                tags[tag] = struct.unpack(layout, stream.read(struct.calcsize(layout)))
                stream.seek(back)
        tail = stream.read(inline)
        return tags, struct.unpack(order + sized, tail)[0] if len(tail) == inline else 0
    except (struct.error, OSError, OverflowError, ValueError):
        return None


def _check(image: ImageFile.ImageFile, stream: BinaryIO) -> list[str]:
    assert isinstance(image, TiffFile), "opened by this module"
    tags = image.tag_v2
    notes = list(image.notes)
    bits = tags.get(258, (1,))
    bits = (bits,) if isinstance(bits, int) else tuple(bits)
    formats = tags.get(339, (1,))
    formats = (formats,) if isinstance(formats, int) else tuple(formats)
    if _SIGNED in formats and max(bits) <= 8:
        raise ImageError(_SIGNED_BYTES)
    samples = int(tags.get(277, 1))
    if tags.get(284) == _SEPARATE_PLANES and len(image.getbands()) == 2:
        raise ImageError(_GRAY_ALPHA_PLANES)
    for index, tile in enumerate(image.tile):
        if tile[0] == "libtiff" and isinstance(tile[3], tuple) and tile[3][0] in _NATIVE:
            # libtiff gives the byte order of this machine, and Pillow expects the file's.
            arguments = (_NATIVE[tile[3][0]], *tile[3][1:])
            image.tile[index] = type(tile)(*tile[:3], arguments)
    _check_parts(image, stream, max(bits), samples)
    _repair_color_map(image, notes)
    return notes


@dataclass(frozen=True)
class _Parts:
    """The strips or tiles of an image."""

    name: str
    """"strip" or "tile"."""
    across: int
    down: int
    columns: int
    rows: int
    planes: int

    def __len__(self) -> int:
        return self.columns * self.rows * self.planes

    def height(self, index: int, image_height: int) -> int:
        """Rows of pixels of a part; the last strip holds what is left, tiles are padded."""
        row = index // self.columns % self.rows
        if self.name == "tile" or row < self.rows - 1:
            return self.down
        return image_height - row * self.down


def _parts(tags: TiffImagePlugin.ImageFileDirectory_v2, samples: int) -> _Parts:
    width, height = int(tags[256]), int(tags[257])
    planes = samples if tags.get(284) == _SEPARATE_PLANES else 1
    if 324 not in tags:
        down = min(int(tags.get(278, height) or height), height)
        return _Parts("strip", width, down, 1, -(-height // down), planes)
    across, down = int(tags.get(322, 0)), int(tags.get(323, 0))
    if across < 1 or down < 1:
        raise ImageError("the TIFF data is damaged: its tiles have no size")
    if across * down > max(4 * width * height, _FREE_TILE_PIXELS):
        raise ImageError(
            f"the TIFF data is damaged: its tiles of {across} x {down} pixels do not belong to "
            f"an image of {width} x {height}"
        )
    return _Parts("tile", across, down, -(-width // across), -(-height // down), planes)


def _check_parts(image: TiffFile, stream: BinaryIO, bits: int, samples: int) -> None:
    """Compare the strips or tiles listed with what the image needs and the file has."""
    tags = image.tag_v2
    compression = int(tags.get(259, 1))
    if compression == _OLD_JPEG:
        return
    parts = _parts(tags, samples)
    offsets = tuple(tags.get(324 if parts.name == "tile" else 273, ()))
    counts = tuple(tags.get(325 if parts.name == "tile" else 279, ()))
    if len(offsets) < len(parts):
        raise ImageError(
            f"the TIFF data is truncated or damaged: it lists {len(offsets)} of {len(parts)} "
            f"{parts.name}s"
        )
    size = stream.seek(0, os.SEEK_END)
    row = -(-parts.across * bits * (samples // parts.planes) // 8)
    ratio = None if tags.get(_PHOTOMETRIC) == _YCBCR else _RATIOS.get(compression)
    for index in range(len(parts)):
        rows = parts.height(index, int(tags[257]))
        needed = row * rows
        least = 1 if ratio is None else max(1, needed // ratio)
        stored = counts[index] if index < len(counts) else 0
        if compression == _UNCOMPRESSED and stored == 0:
            stored = least
        where = f"{parts.name} {index + 1} of {len(parts)}"
        if stored < least:
            raise ImageError(
                f"the TIFF data is truncated or damaged: {where} has {stored} bytes, too few for "
                f"its {parts.across} x {rows} pixels"
            )
        end = offsets[index] + (least if compression == _UNCOMPRESSED else stored)
        if offsets[index] < 8 or end > size:
            raise ImageError(f"the TIFF data is truncated: {where} lies beyond its end")
        problem = None
        if compression in _DEFLATED:
            problem = _deflate_problem(stream, offsets[index], stored, needed if ratio else 1)
        elif compression == _JPEG:
            stream.seek(offsets[index])
            whole = read_layout(io.BytesIO(stream.read(stored))).end is not None
            problem = None if whole else "its JPEG data has no end"
        if problem is not None:
            raise ImageError(f"the TIFF data is truncated or damaged: {where}, {problem}")


def _deflate_problem(stream: BinaryIO, start: int, count: int, needed: int) -> str | None:
    """What is wrong with a deflated part; libtiff stops at the last row, before the checksum."""
    inflater = zlib.decompressobj()
    found = 0
    stream.seek(start)
    while count and not inflater.eof:
        piece = stream.read(min(count, _READ_BYTES))
        count -= len(piece)
        while piece and not inflater.eof:
            try:
                found += len(inflater.decompress(piece, _READ_BYTES))
            except zlib.error:
                return "its compressed data or its checksum is wrong"
            piece = inflater.unconsumed_tail
    if found < needed:
        return "its compressed data ends too early"
    return None if inflater.eof else "its compressed data has no end"


def _repair_color_map(image: TiffFile, notes: list[str]) -> None:
    """A color map that some programs write with 8 bits instead of 16; libtiff knows it so too."""
    stored = image.tag_v2.get(ExifTags.Base.ColorMap)
    if image.mode in ("P", "PA") and stored and 0 < max(stored) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(stored))
        notes.append("color map taken as 8-bit values")


TIFF = Format("TIFF", TiffFile, check=_check)
