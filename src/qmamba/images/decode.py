"""Reading an image file: any accepted format in, upright sRGB pixels out, or one clear error.

The rules, in the order they act:

* Formats: JPEG (also multi-image), PNG, WebP, TIFF, BMP, GIF, known by their first bytes and
  never by the file name.  Of several frames or pages the first is used, with a note.
* Size: width x height is read from the header and compared with `max_pixels` before any pixel is
  decoded.  Images of 1 x 1 are as good as any.
* Palette: looked up to RGB, with its transparency.
* 16 bits: gray, RGB and RGBA samples of PNG and TIFF keep all 16 bits (uint16; v / 65535 is the
  intensity, so an 8-bit v corresponds to 257 v).  12-bit gray is widened to 16.  16-bit samples in
  other arrangements (CMYK, compressed separate planes, or with an ICC profile that asks for a
  conversion) come as 8 bits, with a note.
* Float and 32-bit samples: float must lie in [0, 1] and becomes 16 bits, integers must lie in 0 to
  65535 and count as 16 bits; anything else is an error, since its white is unknown.
* Color: an embedded ICC profile is converted to sRGB (perceptual intent) unless it is sRGB
  already; a broken or ill-fitting one is ignored with a note.  CMYK without a usable profile is
  converted by Pillow's plain formula.  Without a profile the colors are taken as sRGB; gAMA, cHRM
  and EXIF color-space hints are not used.
* Alpha: composited on white (with a note where any pixel is not opaque), after the conversion to
  sRGB, on the encoded values.
* Gray: copied to three channels.
* EXIF orientation (or XMP's, where EXIF has none) is applied.
"""

from __future__ import annotations

import io
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin

from qmamba.errors import ConfigError, ImageError
from qmamba.images.budget import claimed, decoding_bytes
from qmamba.images.color.srgb import image_pixels
from qmamba.images.formats import Format, identify
from qmamba.images.samples import bits_per_sample

IMAGE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng"),
        *(".webp", ".tif", ".tiff", ".bmp", ".dib", ".gif"),
    )
)
"""Lower-case file name endings by which a folder's images are found."""

DEFAULT_MAX_PIXELS = 100_000_000

_Taken = TypeVar("_Taken")

_PLANAR_CONFIGURATION = 284
_SEPARATE_PLANES = 2


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """A decoded image."""

    pixels: np.ndarray
    """(height, width, 3) sRGB, uint8 or (16-bit sources) uint16, writable, C-contiguous."""
    notes: tuple[str, ...]
    """What was done to the image beyond plain decoding, one phrase each."""
    format: str
    """"JPEG", "PNG", "WEBP", "TIFF", "BMP" or "GIF"."""
    path: str | None
    """The file's path as given, None for bytes and streams."""


class Origin(NamedTuple):
    """Where a decoded image came from."""

    format: str
    """"JPEG", "PNG", "WEBP", "TIFF", "BMP" or "GIF"."""
    path: str | None
    """The file's path as given, None for bytes and streams."""
    notes: tuple[str, ...]
    """What is to be said about the file: that it has more than one frame."""


def read_image(
    source: str | os.PathLike[str] | bytes | BinaryIO, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> DecodedImage:
    """Decode one image by the rules at the top of this module.

    Safe to call from many threads at once.

    Args:
        source: A path, the file's bytes, or a binary stream (read from its position to its end and
            left open).
        max_pixels: Largest width x height that is decoded.  While it is decoded a pixel takes 7
            bytes of memory in a plain RGB file, and up to 27 in one of 16 bits with alpha.

    Raises:
        ImageError: the file is missing, not readable, empty, not of an accepted format, damaged,
            truncated, larger than `max_pixels`, or holds samples without a known range.
        ConfigError: `max_pixels` is not a positive integer.
    """
    (pixels, notes), origin = decode(source, max_pixels, image_pixels)
    return DecodedImage(pixels, origin.notes + notes, origin.format, origin.path)


def decode(
    source: str | os.PathLike[str] | bytes | BinaryIO,
    max_pixels: int,
    take: Callable[[Image.Image, Image.Image | None], _Taken],
) -> tuple[_Taken, Origin]:
    """Open one image as `read_image` does, which states the errors too, and hand it to `take`.

    Args:
        source, max_pixels: See `read_image`.
        take: Called with the image, not yet loaded, and, where the file has 16 bits per color
            channel, with a second image that holds the low bytes.

    Returns:
        What `take` returned, and where it came from.
    """
    if not isinstance(max_pixels, int) or max_pixels < 1:
        raise ConfigError(f"max_pixels must be a positive integer, got {max_pixels!r}")
    where, path, stream = _open_source(source)
    kind = "image"
    with stream:
        try:
            file_format = identify(stream.read(16))
            kind = file_format.name
            taken, notes = _decode(stream, file_format, max_pixels, take)
            return taken, Origin(file_format.name, path, notes)
        except ImageError as error:
            raise ImageError(f"cannot decode {where}: {error}") from error.__cause__
        except MemoryError as error:
            raise ImageError(f"cannot decode {where}: not enough memory") from error
        except Exception as error:
            # Pillow's readers raise nearly every built-in kind of error on hostile bytes.
            raise ImageError(
                f"cannot decode {where}: the {kind} data is truncated, damaged or of "
                f"an unsupported kind ({_reason(error)})"
            ) from error


def _open_source(
    source: str | os.PathLike[str] | bytes | BinaryIO,
) -> tuple[str, str | None, BinaryIO]:
    """What to call the source in messages, its path, and a seekable stream at its start."""
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        where = repr(path)
        try:
            mode = os.stat(path).st_mode
            if stat.S_ISDIR(mode):
                raise ImageError(f"cannot read {where}: it is a folder, give an image file")
            if not stat.S_ISREG(mode):
                raise ImageError(
                    f"cannot read {where}: it is not a regular file, pass its bytes instead"
                )
            return where, path, open(path, "rb")
        except ImageError:
            raise
        except FileNotFoundError as error:
            raise ImageError(f"cannot read {where}: there is no such file") from error
        except PermissionError as error:
            raise ImageError(f"cannot read {where}: permission denied") from error
        except (OSError, ValueError) as error:
            raise ImageError(f"cannot read {where}: {_reason(error)}") from error
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        return f"image of {len(data)} bytes in memory", None, io.BytesIO(data)
    if not callable(getattr(source, "read", None)):
        raise ImageError(
            f"cannot read an image from {type(source).__name__}, give a path, bytes or a binary "
            "stream"
        )
    name = getattr(source, "name", None)
    where = repr(name) if isinstance(name, str) else "image stream"
    try:
        data = source.read()
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot read {where}: {_reason(error)}") from error
    if not isinstance(data, bytes):
        raise ImageError(f"cannot read {where}: the stream gives text, open it in binary mode")
    return where, None, io.BytesIO(data)


def _decode(
    stream: BinaryIO,
    file_format: Format,
    max_pixels: int,
    take: Callable[[Image.Image, Image.Image | None], _Taken],
) -> tuple[_Taken, tuple[str, ...]]:
    pixel_count = 0
    if file_format.size_before_opening is not None:
        stream.seek(0)
        size = file_format.size_before_opening(stream)
        if size is not None:
            pixel_count = _checked_pixels(size, max_pixels)
    with _pillow_limit_lifted(pixel_count):
        image = _open_image(stream, file_format)
    pixel_count = max(pixel_count, _checked_pixels(image.size, max_pixels))
    notes = ["first of several frames used"] if _has_more_frames(image) else []
    notes += file_format.check(image, stream)
    _repair_gray_key(image)
    with _pillow_limit_lifted(pixel_count):
        low: Image.Image | None = None
        if _select_bytes(image, low=False):
            low = opened = _open_image(stream, file_format)
            _select_bytes(opened, low=True)
        elif _is_deep_gray_alpha(image):
            low = _low_gray_alpha(_open_image(stream, file_format))
        with claimed(decoding_bytes(image, deep=low is not None)):
            taken = take(image, low)
            notes += file_format.verify(image, stream)
    return taken, tuple(notes)


def _open_image(stream: BinaryIO, file_format: Format) -> ImageFile.ImageFile:
    """The format's own Pillow reader: `Image.open` would warn by its global pixel limit and try
    formats that are not wanted here."""
    stream.seek(0)
    return file_format.open(stream)


def _checked_pixels(size: tuple[int, int], max_pixels: int) -> int:
    width, height = size
    if width * height > max_pixels:
        raise ImageError(
            f"it is {width} x {height} = {width * height} pixels and the limit is {max_pixels}, "
            "raise max_pixels (--max-pixels) to decode it"
        )
    return width * height


class _LiftedLimit:
    """Count of decodes that need Pillow's process-wide limit out of the way, and its value."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.saved: int | None = None


_lifted = _LiftedLimit()


@contextmanager
def _pillow_limit_lifted(pixels: int) -> Iterator[None]:
    """Let Pillow decode an image that has passed `max_pixels` and is beyond Pillow's own limit.

    The global limit is touched for such large images only, and restored when the last of them is
    done, since `max_pixels` is the one limit here and Pillow's would warn or refuse.
    """
    with _lifted.lock:
        limit = _lifted.saved if _lifted.users else Image.MAX_IMAGE_PIXELS
        needed = limit is not None and pixels > limit
        if needed:
            if not _lifted.users:
                _lifted.saved = limit
                Image.MAX_IMAGE_PIXELS = None
            _lifted.users += 1
    try:
        yield
    finally:
        if needed:
            with _lifted.lock:
                _lifted.users -= 1
                if not _lifted.users:
                    Image.MAX_IMAGE_PIXELS = _lifted.saved


def _select_bytes(image: ImageFile.ImageFile, *, low: bool) -> bool:
    """Choose which byte of 16-bit color samples Pillow unpacks; False where it cannot choose.

    Pillow keeps 8 bits of a 16-bit color sample, the first byte by raw mode "RGB;16B" and the
    second by "RGB;16L".  Reading with each in turn gives both.
    """
    if image.mode not in ("RGB", "RGBA"):
        return False
    plane_order = _separate_plane_order(image)
    tiles = []
    for tile in image.tile:
        codec, extents, offset, arguments = tile
        raw_mode = arguments if isinstance(arguments, str) else str((arguments or ("",))[0])
        colors, _, order = raw_mode.partition(";16")
        if plane_order and codec == "raw" and colors in ("R", "G", "B", "A"):
            order = plane_order
        elif plane_order or colors not in ("RGB", "RGBA", "RGBX", "RGBa"):
            return False
        # Pillow would divide by alpha with 8 bits.
        colors = colors.upper()
        if order == "N":
            order = "L" if sys.byteorder == "little" else "B"
        if order not in ("B", "L"):
            return False
        if low:
            order = "B" if order == "L" else "L"
        raw_mode = f"{colors};16{order}"
        chosen = raw_mode if isinstance(arguments, str) else (raw_mode, *(arguments or ())[1:])
        tiles.append(type(tile)(codec, extents, offset, chosen))
    image.tile = tiles
    return bool(tiles)


def _is_deep_gray_alpha(image: ImageFile.ImageFile) -> bool:
    return bool(image.tile) and all(tile[3] == "LA;16B" for tile in image.tile)


def _low_gray_alpha(image: ImageFile.ImageFile) -> Image.Image:
    """The low bytes of 16-bit gray and alpha, mode LA: the four bytes of a pixel read as RGBA."""
    image.tile = [type(tile)(*tile[:3], "RGBA") for tile in image.tile]
    bytes_of_pixel = image.split()
    return Image.merge("LA", (bytes_of_pixel[1], bytes_of_pixel[3]))


def _separate_plane_order(image: ImageFile.ImageFile) -> str:
    """Byte order "B" or "L" of a 16-bit TIFF with one plane per color, "" for other images.

    Pillow reads such planes as if they had 8 bits, unless told their raw mode.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return ""
    planes = image.tag_v2.get(_PLANAR_CONFIGURATION) == _SEPARATE_PLANES
    if not planes or bits_per_sample(image) != 16:
        return ""
    return "B" if image.tag_v2.prefix == b"MM" else "L"


def _repair_gray_key(image: ImageFile.ImageFile) -> None:
    """Scale the transparent level of 2- and 4-bit gray PNG as Pillow scales the pixels."""
    scale = {"L;2": 85, "L;4": 17}.get(str(image.tile[0][3]) if image.tile else "")
    key = image.info.get("transparency")
    if scale is not None and isinstance(key, int):
        image.info["transparency"] = key * scale


def _has_more_frames(image: ImageFile.ImageFile) -> bool:
    if "mp" in image.info or getattr(image, "more_frames", False):
        return True
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:
        # A damaged second frame does not matter, the first has been decoded.
        return False


def _reason(error: BaseException) -> str:
    """The error's own words on one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:200]
