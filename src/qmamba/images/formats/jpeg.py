"""Reading JPEG files: libjpeg invents what is missing, so it is found out here.

The rules: a file whose compressed data ends before the last bit that its pixels need is refused,
also where an end marker, the next scan or a restart marker closes it early, and so is a progressive
one without its last scans.  One that lacks the end marker alone has all its pixels and is taken
with a note.  Arithmetic coding leaves out zeros at the end, so there is no telling; a note says so.
JPEG has no checksums: damage that leaves the compressed data readable cannot be told from an image.

Source: ITU-T T.81 (1992).
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from PIL import ImageFile, JpegImagePlugin

from qmamba.errors import ImageError
from qmamba.images.formats.record import Format

_SOI, _EOI, _SOS, _DRI = 0xD8, 0xD9, 0xDA, 0xDD
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset((0xC2, 0xCA))
_ARITHMETIC = frozenset(range(0xC9, 0xD0)) - {0xCC}
_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_RESTARTS = range(0xD0, 0xD8)
_READ_BYTES = 1 << 20
_MAX_BYTES = 1 << 29
_LAST_COEFFICIENT = 63
_PADDING = (b"\x5a\xa5\x33" * 64, b"\xa6\x59\xcc" * 64)
"""Neither the zeros that libjpeg reads where data is missing, nor one like the other."""
_RESTART_PADDING = 12
_MOST_RESTARTS = 100_000
_USUAL_SCANS = 25
_MOST_SCANNED_PIXELS = 2_500_000_000
"""Of all scans of a file that has more than the usual number: some ten seconds of decoding."""


class _Scan(NamedTuple):
    """One scan: its components, the coefficients and the bit it brings, and where it ends."""

    components: tuple[int, ...]
    first: int
    last: int
    low_bit: int
    restarts: int
    restart_interval: int
    ends: tuple[int, ...]
    """Positions where its data ends: behind a marker comes more, or another scan."""


class Layout(NamedTuple):
    """What the markers of a file say."""

    progressive: bool
    components: dict[int, tuple[int, int]]
    """Sampling factors by component."""
    scans: list[_Scan]
    end: int | None
    """Position of the end marker."""
    arithmetic: bool = False


class JpegFile(JpegImagePlugin.JpegImageFile):
    """A JPEG file and what its markers say."""

    def __init__(self, stream: BinaryIO) -> None:
        self.layout = read_layout(stream)
        stream.seek(0)
        if self.layout.end is None:
            # libjpeg waits for more data unless an end is there.
            stream = io.BytesIO(stream.read(_MAX_BYTES) + b"\xff\xd9")
        super().__init__(stream, "")


def _check(image: ImageFile.ImageFile, stream: BinaryIO) -> list[str]:
    assert isinstance(image, JpegFile), "opened by this module"
    layout = image.layout
    if not layout.scans:
        raise ImageError("the JPEG data is truncated: it holds no image data")
    _check_work(layout, *image.size)
    if layout.progressive:
        _check_scans(layout)
    else:
        covered = {component for scan in layout.scans for component in scan.components}
        if covered < set(layout.components):
            raise ImageError(
                f"the JPEG data is truncated: {len(covered)} of {len(layout.components)} color "
                "components are there"
            )
    _check_restarts(layout, *image.size)
    notes = [] if layout.end is not None else ["the file has no end marker"]
    if layout.arithmetic:
        notes.append("whether the end of arithmetic-coded data is missing cannot be told")
    return notes


def _check_work(layout: Layout, width: int, height: int) -> None:
    """Refuse scans upon scans, each of which takes a few bytes and goes over the whole image."""
    count = len(layout.scans)
    if count > _USUAL_SCANS and count * width * height > _MOST_SCANNED_PIXELS:
        raise ImageError(
            f"the JPEG data has {count} scans over {width} x {height} pixels, which no encoder "
            f"writes; {_USUAL_SCANS} are accepted at that size"
        )


def _check_scans(layout: Layout) -> None:
    """Each coefficient of each component must have come down to its last bit."""
    for component in layout.components:
        open_bits = dict.fromkeys(range(_LAST_COEFFICIENT + 1), 99)
        for scan in layout.scans:
            if component in scan.components:
                for index in range(scan.first, min(scan.last, _LAST_COEFFICIENT) + 1):
                    open_bits[index] = scan.low_bit
        if any(open_bits.values()):
            raise ImageError(
                f"the JPEG data is truncated: after its {len(layout.scans)} scans the image is "
                "not complete"
            )


def _check_restarts(layout: Layout, width: int, height: int) -> None:
    """Count the restart markers, behind which libjpeg goes on over whatever is missing."""
    if not layout.components:
        return
    largest = [max(factors[axis] for factors in layout.components.values()) for axis in (0, 1)]
    for scan in layout.scans:
        if not scan.restart_interval:
            continue
        unit = [8 * factor for factor in largest]
        columns, rows = -(-width // unit[0]), -(-height // unit[1])
        if len(scan.components) == 1:
            factors = layout.components.get(scan.components[0], (1, 1))
            columns, rows = (
                math.ceil(math.ceil(side * factor / most) / 8)
                for side, factor, most in zip((width, height), factors, largest, strict=True)
            )
        expected = (columns * rows - 1) // scan.restart_interval
        if scan.restarts < expected:
            raise ImageError(
                f"the JPEG data is damaged: {expected - scan.restarts} of {expected} restart "
                "markers are missing, and the parts of the image behind them"
            )


def _verify(image: ImageFile.ImageFile, stream: BinaryIO) -> list[str]:
    """Refuse an image that libjpeg had to complete.

    Whether something is missing shows in decoding again with other data in front of every marker
    that ends some: a complete image does not look at it.
    """
    assert isinstance(image, JpegFile), "opened by this module"
    layout = image.layout
    if layout.arithmetic:
        return []
    stream.seek(0)
    data = stream.read(_MAX_BYTES)
    # One filling may happen to be what libjpeg makes up; that takes longer to find out.
    for padding in _PADDING[: 2 if _ends_gray(image) else 1]:
        other = JpegImagePlugin.JpegImageFile(io.BytesIO(_padded(data, layout, padding)), "")
        if other.size != image.size:
            # The image was decoded at a fraction of its size, whose sides were rounded up.
            other.draft(image.mode, (max(1, image.width - 1), max(1, image.height - 1)))
        other.load()
        if other.tobytes() != image.tobytes():
            raise ImageError("the JPEG data is truncated: its data ends before the last pixel")
    return []


def _ends_gray(image: ImageFile.ImageFile) -> bool:
    """Whether the last pixel is of the middle gray that stands for missing blocks."""
    corner = image.getpixel((image.width - 1, image.height - 1))
    levels = corner if isinstance(corner, tuple) else (corner,)
    return all(127 <= int(level or 0) <= 129 for level in levels)


def _padded(data: bytes, layout: Layout, padding: bytes) -> bytes:
    """The file with something in front of every marker that ends data of a scan."""
    view = memoryview(data)
    pieces: list[bytes | memoryview] = []
    begin = 0
    for scan in layout.scans:
        for end in scan.ends:
            stop = end
            # Fill bytes belong to the marker behind them.
            while stop > begin and data[stop - 1] == 0xFF:
                stop -= 1
            last = end == scan.ends[-1]
            pieces += [view[begin:stop], padding if last else padding[:_RESTART_PADDING]]
            begin = stop
    pieces.append(view[begin:])
    if layout.end is None:
        pieces.append(b"\xff\xd9")
    return b"".join(pieces)


def read_layout(stream: BinaryIO) -> Layout:
    """Walk through the markers up to the end of the first image."""
    progressive = arithmetic = False
    components: dict[int, tuple[int, int]] = {}
    scans: list[_Scan] = []
    interval = 0
    position = 2
    stream.seek(position)
    while True:
        marker, start = _next_marker(stream, position)
        if marker is None or marker == _EOI:
            end = start if marker == _EOI else None
            return Layout(progressive, components, scans, end, arithmetic)
        position = start + 2
        if marker in _RESTARTS or marker in (_SOI, 0x01):
            continue
        stream.seek(position)
        size = int.from_bytes(stream.read(2), "big")
        segment = stream.read(max(0, size - 2))
        position += max(2, size)
        if marker in _FRAMES:
            progressive, arithmetic = marker in _PROGRESSIVE, marker in _ARITHMETIC
            count = segment[5] if len(segment) > 5 else 0
            for entry in range(6, min(len(segment) - 2, 6 + 3 * count), 3):
                sampling = segment[entry + 1]
                components[segment[entry]] = (max(1, sampling >> 4), max(1, sampling & 15))
        elif marker == _DRI and len(segment) >= 2:
            interval = int.from_bytes(segment[:2], "big")
        elif marker == _SOS and segment:
            count = segment[0]
            body = segment[1 + 2 * count :]
            if len(body) < 3:
                continue
            names = tuple(segment[1 + 2 * index] for index in range(count))
            restarts, ends = _skip_scan(stream, position)
            position = ends[-1]
            scans.append(_Scan(names, body[0], body[1], body[2] & 15, restarts, interval, ends))


def _next_marker(stream: BinaryIO, position: int) -> tuple[int | None, int]:
    stream.seek(position)
    usual = stream.read(2)
    if len(usual) == 2 and usual[0] == 0xFF and usual[1] not in (0, 0xFF):
        return usual[1], position
    for start, code in _markers(stream, position):
        return code, start
    return None, position


def _skip_scan(stream: BinaryIO, position: int) -> tuple[int, tuple[int, ...]]:
    """Restart markers in the data of a scan, and where parts of its data end, the last one last."""
    count, end = 0, position
    ends: list[int] = []
    for start, code in _markers(stream, position):
        end = start
        if code not in _RESTARTS:
            return count, (*ends, start)
        count += 1
        # A file of nothing but markers must not take much memory.
        if count <= _MOST_RESTARTS:
            ends.append(start)
    return count, (*ends, max(end, stream.tell()))


def _markers(stream: BinaryIO, position: int) -> Iterator[tuple[int, int]]:
    """Positions and codes of markers from a position on, stuffed bytes left out."""
    kept = b""
    stream.seek(position)
    while block := stream.read(_READ_BYTES):
        data = kept + block
        base = position - len(kept)
        for match in _MARKER.finditer(data):
            # Of several fill bytes the last one belongs to the marker.
            yield base + match.end() - 2, match.group(1)[0]
        position += len(block)
        kept = b"\xff" if data.endswith(b"\xff") else b""


JPEG = Format("JPEG", JpegFile, check=_check, verify=_verify)
