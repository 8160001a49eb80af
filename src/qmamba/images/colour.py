"""The rules that turn any Pillow picture into three sRGB channels; `read_image` states them."""

from __future__ import annotations

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from qmamba.errors import ImageError
from qmamba.images.profiles import ProfileError, SRGBTransform

_BAND_PIXELS = 1 << 22
_FLOAT_TOLERANCE = 1e-3
_BITS_PER_SAMPLE = 258
_PHOTOMETRIC = 262
_WHITE_IS_ZERO = 0


def picture_pixels(
    image: Image.Image, low: Image.Image | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Pixels (height, width, 3) of `image` by the rules of `read_image`, and what was done.

    Args:
        image: Any Pillow picture, loaded or not; it is loaded and otherwise left as it is.
        low: The low bytes of a picture with 16 bits per colour channel, where `image` (mode RGB or
            RGBA) holds the high bytes.

    Returns:
        A writable C-contiguous array, uint8, or uint16 where the source has 16 bits and kept them,
        and the notes.

    Raises:
        ImageError: the samples have no known range (float or 32-bit integers out of range).
        Exception: whatever Pillow raises while it decodes.
    """
    notes: list[str] = []
    # Pillow turns a TIFF upright while loading it and forgets the tag.
    orientation = _tiff_orientation(image)
    bits = bits_per_sample(image)
    image.load()
    if low is not None:
        low.load()
    profile = image.info.get("icc_profile")
    profile = profile if isinstance(profile, bytes) and profile else None
    deep_grey = image.mode in ("I", "F") or image.mode.startswith("I;16")
    if deep_grey or low is not None:
        samples, alpha = _deep_grey(image, bits, notes) if low is None else _deep_colour(image, low)
        transform = _transform(profile, "L" if deep_grey else "RGB", notes)
        if transform is None:
            pixels = _finish_deep(samples, alpha, notes)
        else:
            notes.append("16-bit samples reduced to 8 bits for the colour conversion")
            colours = transform.apply(Image.fromarray(_reduced(samples)))
            mask = None if alpha is None else Image.fromarray(_reduced(alpha))
            pixels = _finish_shallow(colours, mask, notes)
    else:
        if bits == 16:
            notes.append("16-bit samples reduced to 8 bits")
        colours, mask = _split_alpha(image)
        pixels = _finish_shallow(_to_srgb(colours, profile, notes), mask, notes)
    return _upright(pixels, image, orientation, notes), tuple(notes)


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """An 8-bit picture of mode L, RGB, CMYK or LAB, and its alpha channel where one matters."""
    alpha = None
    opaque = image
    if image.has_transparency_data:
        opaque = _as_mode(image, "RGBA")
        alpha = opaque.getchannel("A")
        if alpha.getextrema() == (255, 255):
            alpha = None
    if image.mode in ("1", "L", "LA"):
        return _as_mode(image, "L"), alpha
    return _as_mode(opaque, opaque.mode if opaque.mode in ("CMYK", "LAB") else "RGB"), alpha


def _as_mode(image: Image.Image, mode: str) -> Image.Image:
    """`image.convert` without the copy where the mode is right already."""
    return image if image.mode == mode else image.convert(mode)


def _to_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """RGB picture in sRGB from one of mode L, RGB, CMYK or LAB."""
    if image.mode == "LAB":
        try:
            return SRGBTransform(None, "LAB").apply(image)
        except ProfileError as error:
            raise ImageError(f"its LAB colours cannot be converted ({error})") from error
    if image.mode == "CMYK":
        notes.append("converted from CMYK")
    transform = _transform(profile, image.mode, notes)
    return _as_mode(image, "RGB") if transform is None else transform.apply(image)


def _transform(profile: bytes | None, mode: str, notes: list[str]) -> SRGBTransform | None:
    """The conversion an embedded profile asks for; None where there is nothing to convert."""
    if profile is None:
        return None
    try:
        transform = SRGBTransform(profile, mode)
    except ProfileError as error:
        notes.append(f"ICC profile ignored: {error}")
        return None
    if transform.identity:
        return None
    notes.append(f"converted to sRGB from ICC profile '{transform.name}'")
    return transform


def _finish_shallow(
    colours: Image.Image, alpha: Image.Image | None, notes: list[str]
) -> np.ndarray:
    """RGB picture over white as a uint8 array."""
    pixels = np.empty((colours.height, colours.width, 3), np.uint8)
    if alpha is not None:
        notes.append("alpha composited on white")
    for top, bottom in _bands(colours.width, colours.height):
        band = _rows(colours, top, bottom)
        if alpha is not None:
            band = over_white(band, _rows(alpha, top, bottom)[..., None])
        pixels[top:bottom] = band
    return pixels


def _deep_colour(high: Image.Image, low: Image.Image) -> tuple[np.ndarray, np.ndarray | None]:
    """uint16 colours (height, width, 3) and alpha (height, width) from two 8-bit pictures."""
    channels = len(high.getbands())
    samples = np.empty((high.height, high.width, channels), np.uint16)
    for top, bottom in _bands(high.width, high.height):
        band = samples[top:bottom]
        band[:] = _rows(high, top, bottom)
        band <<= 8
        band |= _rows(low, top, bottom)
    if channels == 4:
        return samples[..., :3], samples[..., 3]
    key = high.info.get("transparency")
    if isinstance(key, tuple) and len(key) == 3:
        return samples, _keyed_alpha((samples == np.array(key)).all(axis=-1))
    return samples, None


def _deep_grey(
    image: Image.Image, bits: int, notes: list[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """uint16 grey and alpha (height, width) from mode I;16*, I or F."""
    stored = np.asarray(image)
    lowest, highest = stored.min(), stored.max()
    if image.mode == "F":
        if not (lowest >= -_FLOAT_TOLERANCE and highest <= 1 + _FLOAT_TOLERANCE):
            raise ImageError(
                f"its float samples span {lowest:g} to {highest:g} and only [0, 1] has a meaning "
                "here, scale them first"
            )
        notes.append("float samples stored as 16 bits")
        return (np.clip(stored, 0, 1) * 65535 + 0.5).astype(np.uint16), None
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


def _keyed_alpha(transparent: np.ndarray) -> np.ndarray | None:
    if not transparent.any():
        return None
    return np.where(transparent, 0, 65535).astype(np.uint16)


def _finish_deep(samples: np.ndarray, alpha: np.ndarray | None, notes: list[str]) -> np.ndarray:
    """uint16 grey or RGB samples over white as an array (height, width, 3)."""
    height, width = samples.shape[:2]
    if samples.ndim == 2:
        samples = samples[..., None]
    composite = alpha is not None and alpha.min() < 65535
    if composite:
        notes.append("alpha composited on white")
    pixels = np.empty((height, width, 3), np.uint16)
    for top, bottom in _bands(width, height):
        band = samples[top:bottom]
        if composite and alpha is not None:
            band = over_white(band, alpha[top:bottom, :, None])
        pixels[top:bottom] = band
    return pixels


def over_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Unsigned samples over white, rounded to nearest; the arrays' dtype gives the range."""
    top = int(np.iinfo(colours.dtype).max)
    # 65535 * 65535 plus the rounding term still fits 32 unsigned bits.
    wide = alpha.astype(np.uint32)
    return ((colours * wide + top * (top - wide) + top // 2) // top).astype(colours.dtype)


def _reduced(samples: np.ndarray) -> np.ndarray:
    """8-bit samples from 16-bit ones: division by 257, rounded to nearest."""
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _bands(width: int, height: int) -> list[tuple[int, int]]:
    """Row ranges of a bounded number of pixels, so that no second whole copy is ever made."""
    step = max(1, _BAND_PIXELS // width)
    return [(top, min(height, top + step)) for top in range(0, height, step)]


def _rows(image: Image.Image, top: int, bottom: int) -> np.ndarray:
    whole = top == 0 and bottom == image.height
    return np.asarray(image if whole else image.crop((0, top, image.width, bottom)))


def _tiff_tag(image: Image.Image, tag: int) -> object:
    return image.tag_v2.get(tag) if isinstance(image, TiffImagePlugin.TiffImageFile) else None


def _tiff_orientation(image: Image.Image) -> int:
    value = _tiff_tag(image, ExifTags.Base.Orientation)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def bits_per_sample(image: Image.Image) -> int:
    """Bits of one stored sample, 8 where an already loaded picture no longer tells."""
    stored = _tiff_tag(image, _BITS_PER_SAMPLE)
    if isinstance(stored, tuple) and stored:
        return int(max(stored))
    return 16 if any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())) else 8


def _upright(pixels: np.ndarray, image: Image.Image, stored: int, notes: list[str]) -> np.ndarray:
    """Apply the EXIF orientation that is still to be applied, and note the one of the file."""
    try:
        pending = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        # Pillow's EXIF parser raises many kinds of errors on damaged data.
        notes.append("EXIF data ignored: it cannot be read")
        pending = 1
    if not isinstance(pending, int) or not 1 <= pending <= 8:
        pending = 1
    if max(stored, pending) > 1:
        notes.append(f"EXIF orientation {max(stored, pending)} applied")
    # The orientations are one transposition (5 to 8) followed by two flips.
    if pending >= 5:
        pixels = pixels.swapaxes(0, 1)
    if pending in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if pending in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
