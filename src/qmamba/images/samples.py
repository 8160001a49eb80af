"""From a Pillow image of any mode to its samples of 8 or 16 bits, its alpha, its orientation."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from qmamba.errors import ImageError

_BAND_PIXELS = 1 << 22
_FLOAT_TOLERANCE = 1e-3
_BITS_PER_SAMPLE = 258
_PHOTOMETRIC = 262
_WHITE_IS_ZERO = 0
_EXTRA_SAMPLES = 338
_ASSOCIATED = 1
_SAMPLE_FORMAT = 339
_UNSIGNED = (1,)
_NO_ALPHA = "alpha ignored: it is zero everywhere"


_XMP_ORIENTATION = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])\s*[\"'<]")


@dataclass(frozen=True, eq=False)
class StoredSamples:
    """The samples of an image as its file has them, before any color conversion or turning."""

    colors: Image.Image | np.ndarray
    """8 bits: an image of mode L, RGB, CMYK or LAB.  16 bits: uint16 (height, width) gray or
    (height, width, 3)."""
    alpha: Image.Image | np.ndarray | None
    """Alpha of the same depth, one channel; None where there is none or it may not matter."""
    profile: bytes | None
    """The embedded ICC profile."""
    turned: int
    """EXIF orientation that Pillow has applied already, 1 for none."""


def stored_samples(image: Image.Image, low: Image.Image | None, notes: list[str]) -> StoredSamples:
    """Load `image` and take its samples; what was done to them is added to `notes`.

    Args:
        image: Any Pillow image, loaded or not; it is loaded and otherwise left as it is.
        low: The low bytes of an image with 16 bits per color channel, where `image` (mode RGB or
            RGBA) holds the high bytes; mode LA where both colors and alpha are gray levels.
        notes: Receives one phrase per change.

    Raises:
        ImageError: the samples have no known range (float or 32-bit integers out of range).
        Exception: whatever Pillow raises while it decodes.
    """
    # Pillow turns a TIFF upright while loading it and forgets the tag.
    turned = _tiff_orientation(image)
    bits = bits_per_sample(image)
    image.load()
    if low is not None:
        low.load()
    profile = image.info.get("icc_profile")
    profile = profile if isinstance(profile, bytes) and profile else None
    if low is not None:
        colors, alpha = _deep_color(image, low)
        if alpha is not None and _may_mean_nothing(image) and not alpha.any():
            notes.append(_NO_ALPHA)
            alpha = None
        return StoredSamples(colors, alpha, profile, turned)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return StoredSamples(*_deep_gray(image, bits, notes), profile, turned)
    if bits == 16:
        notes.append("16-bit samples reduced to 8 bits")
    return StoredSamples(*_shallow(image, notes), profile, turned)


def _shallow(image: Image.Image, notes: list[str]) -> tuple[Image.Image, Image.Image | None]:
    colors, alpha = _split_alpha(image)
    if alpha is not None and _may_mean_nothing(image) and alpha.getextrema() == (0, 0):
        notes.append(_NO_ALPHA)
        alpha = None
    inside = getattr(image, "inside_canvas", None)
    if inside is not None:
        beside = Image.new("L", image.size, 0)
        beside.paste(255 if alpha is None else alpha.crop(inside), inside)
        alpha = beside
    return colors, alpha


def _may_mean_nothing(image: Image.Image) -> bool:
    """Whether programs leave the fourth channel at zero in such files and do not mean it."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return _tiff_tag(image, _EXTRA_SAMPLES) is None
    return image.format == "BMP"


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """An 8-bit image of mode L, RGB, CMYK or LAB, and its alpha channel where one matters."""
    alpha = None
    # Pillow converts multiplied samples to plain ones of the same bands and to nothing else.
    image = as_mode(image, {"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode))
    opaque = image
    if image.has_transparency_data:
        opaque = as_mode(image, "RGBA")
        alpha = opaque.getchannel("A")
        if alpha.getextrema() == (255, 255):
            alpha = None
    if image.mode in ("1", "L", "LA"):
        return as_mode(image, "L"), alpha
    return as_mode(opaque, opaque.mode if opaque.mode in ("CMYK", "LAB") else "RGB"), alpha


def as_mode(image: Image.Image, mode: str) -> Image.Image:
    """`image.convert` without the copy where the mode is right already."""
    return image if image.mode == mode else image.convert(mode)


def _deep_color(high: Image.Image, low: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """uint16 colors (height, width, 3) and alpha (height, width) from two 8-bit images.

    Where `low` has mode LA the colors are gray (height, width).
    """
    if low.mode == "LA":
        high = Image.merge("LA", (high.getchannel(0), high.getchannel(3)))
    channels = len(high.getbands())
    samples = np.empty((high.height, high.width, channels), np.uint16)
    for top, bottom in bands(high.width, high.height):
        band = samples[top:bottom]
        band[:] = rows_of(high, top, bottom)
        band <<= 8
        band |= rows_of(low, top, bottom)
    if channels == 4:
        if _is_associated(high):
            _divide_by_alpha(samples)
        return samples[..., :3], samples[..., 3]
    if channels == 2:
        return samples[..., 0], samples[..., 1]
    key = high.info.get("transparency")
    if isinstance(key, tuple) and len(key) == 3:
        return samples, _keyed_alpha((samples == np.array(key)).all(axis=-1))
    return samples, None


def _deep_gray(
    image: Image.Image, bits: int, notes: list[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """uint16 gray and alpha (height, width) from mode I;16*, I or F."""
    stored = np.asarray(image)
    lowest, highest = stored.min(), stored.max()
    if image.mode == "F":
        if not (lowest >= -_FLOAT_TOLERANCE and highest <= 1 + _FLOAT_TOLERANCE):
            raise ImageError(
                f"its float samples span {lowest:g} to {highest:g} and only [0, 1] has a meaning "
                "here, scale them first"
            )
        notes.append("float samples stored as 16 bits")
        if _tiff_tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO:
            stored = 1 - stored
        return (np.clip(stored, 0, 1) * 65535 + 0.5).astype(np.uint16), None
    if bits == 32 and lowest < 0 and _tiff_tag(image, _SAMPLE_FORMAT) in (None, _UNSIGNED):
        # Pillow takes all integers of 32 bits as signed.
        unsigned = stored.view(np.uint32)
        lowest, highest = unsigned.min(), unsigned.max()
    if lowest < 0 or highest > 65535:
        raise ImageError(
            f"its integer samples span {lowest} to {highest} and only 0 to 65535 has a meaning "
            "here, scale them first"
        )
    samples: np.ndarray = stored.astype(np.uint16)
    if bits == 12:
        samples = samples << 4 | samples >> 8
    key = image.info.get("transparency")
    alpha = _keyed_alpha(samples == key) if isinstance(key, int) else None
    if _tiff_tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO:
        samples = ~samples
    return samples, alpha


def _is_associated(image: Image.Image) -> bool:
    extra = _tiff_tag(image, _EXTRA_SAMPLES)
    return isinstance(extra, tuple) and extra[:1] == (_ASSOCIATED,)


def _divide_by_alpha(samples: np.ndarray) -> None:
    """Undo the multiplication of 16-bit colors by their alpha, in place; nothing becomes white."""
    for top, bottom in bands(samples.shape[1], samples.shape[0]):
        colors, alpha = samples[top:bottom, :, :3], samples[top:bottom, :, 3:].astype(np.uint64)
        plain = (colors * np.uint64(65535) + alpha // 2) // np.maximum(alpha, 1)
        colors[...] = np.where(alpha > 0, np.minimum(plain, 65535), 65535)


def _keyed_alpha(transparent: np.ndarray) -> np.ndarray | None:
    if not transparent.any():
        return None
    return np.where(transparent, 0, 65535).astype(np.uint16)


def reduced(samples: np.ndarray) -> np.ndarray:
    """8-bit samples from 16-bit ones: division by 257, rounded to nearest."""
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def eight_bits(samples: np.ndarray) -> np.ndarray:
    """Samples of 8 bits from those of 8 or 16."""
    return reduced(samples) if samples.dtype == np.uint16 else samples


def bands(width: int, height: int) -> list[tuple[int, int]]:
    """Row ranges of a bounded number of pixels, so that no second whole copy is ever made."""
    step = max(1, _BAND_PIXELS // width)
    return [(top, min(height, top + step)) for top in range(0, height, step)]


def rows_of(image: Image.Image, top: int, bottom: int) -> np.ndarray:
    whole = top == 0 and bottom == image.height
    return np.asarray(image if whole else image.crop((0, top, image.width, bottom)))


def _tiff_tag(image: Image.Image, tag: int) -> object:
    return image.tag_v2.get(tag) if isinstance(image, TiffImagePlugin.TiffImageFile) else None


def _tiff_orientation(image: Image.Image) -> int:
    """The orientation that Pillow will apply to a TIFF file that is not loaded yet."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or not image.tile:
        return 1
    value = image.getexif().get(ExifTags.Base.Orientation)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def bits_per_sample(image: Image.Image) -> int:
    """Bits of one stored sample, 8 where an already loaded image no longer tells."""
    stored = _tiff_tag(image, _BITS_PER_SAMPLE)
    if isinstance(stored, tuple) and stored:
        return int(max(stored))
    if image.format == "BMP":
        # Its 16 bits are those of a whole pixel.
        return 8
    return 16 if any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())) else 8


def pending_orientation(image: Image.Image, turned: int, notes: list[str]) -> int:
    """The EXIF orientation (1 to 8) still to be applied; the one of the file is noted.

    Args:
        image: The loaded image.
        turned: Orientation that has been applied already, 1 for none.
        notes: Receives the orientation, or why there is none.
    """
    try:
        pending = image.getexif().get(ExifTags.Base.Orientation) or _xmp_orientation(image)
    except Exception:
        # Pillow's EXIF parser raises many kinds of errors on damaged data.
        notes.append("EXIF data ignored: it cannot be read")
        pending = 1
    if not isinstance(pending, int) or not 1 <= pending <= 8:
        pending = 1
    if max(turned, pending) > 1:
        notes.append(f"EXIF orientation {max(turned, pending)} applied")
    return pending


def _xmp_orientation(image: Image.Image) -> int:
    """What XMP says in ways that Pillow does not look for; 1 for nothing."""
    packet = image.info.get("xmp")
    found = _XMP_ORIENTATION.search(packet) if isinstance(packet, bytes) else None
    return int(found[1]) if found else 1


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels (height, width[, channels]) turned by an EXIF orientation, C-contiguous."""
    # The orientations are one transposition (5 to 8) followed by two flips.
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
