"""The rules that turn any Pillow image into three sRGB channels; `read_image` states them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from qmamba.errors import ImageError
from qmamba.images.color.profiles import ProfileError, SRGBTransform
from qmamba.images.color.stated import read_stated_colors
from qmamba.images.samples import (
    as_mode,
    bands,
    pending_orientation,
    reduced,
    rows_of,
    stored_samples,
    upright,
)


def image_pixels(
    image: Image.Image, low: Image.Image | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Pixels (height, width, 3) of `image` by the rules of `read_image`, and what was done.

    Args:
        image: Any Pillow image, loaded or not; it is loaded and otherwise left as it is.
        low: The low bytes of an image with 16 bits per color channel, where `image` (mode RGB or
            RGBA) holds the high bytes.

    Returns:
        A writable C-contiguous array, uint8, or uint16 where the source has 16 bits and kept them,
        and the notes.

    Raises:
        ImageError: the samples have no known range (float or 32-bit integers out of range).
        Exception: whatever Pillow raises while it decodes.
    """
    notes: list[str] = []
    stored = stored_samples(image, low, notes)
    stated = read_stated_colors(image)
    if stored.profile is None and stated.names and not stated.is_srgb:
        notes.append(f"colors taken as sRGB: {stated.names} not used")
    colors, alpha = stored.colors, stored.alpha
    if isinstance(colors, np.ndarray):
        assert not isinstance(alpha, Image.Image), "colors and alpha are of one depth"
        transform = _transform(stored.profile, "L" if colors.ndim == 2 else "RGB", notes)
        if transform is None:
            pixels = _finish_deep(colors, alpha, notes)
        else:
            notes.append("16-bit samples reduced to 8 bits for the color conversion")
            converted = transform.apply(Image.fromarray(reduced(colors)))
            mask = None if alpha is None else Image.fromarray(reduced(alpha))
            pixels = _finish_shallow(converted, mask, notes)
    else:
        assert not isinstance(alpha, np.ndarray), "colors and alpha are of one depth"
        pixels = _finish_shallow(to_srgb(colors, stored.profile, notes), alpha, notes)
    return upright(pixels, pending_orientation(image, stored.turned, notes)), tuple(notes)


def to_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """RGB image in sRGB from one of mode L, RGB, CMYK or LAB.

    Raises:
        ImageError: LAB colors, and this build of Pillow cannot convert them.
    """
    if image.mode == "LAB":
        notes.append("converted from LAB")
        try:
            return SRGBTransform(None, "LAB").apply(image)
        except ProfileError as error:
            raise ImageError(f"its LAB colors cannot be converted ({error})") from error
    if image.mode == "CMYK":
        notes.append("converted from CMYK")
    transform = _transform(profile, image.mode, notes)
    return as_mode(image, "RGB") if transform is None else transform.apply(image)


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


def _finish_shallow(colors: Image.Image, alpha: Image.Image | None, notes: list[str]) -> np.ndarray:
    """RGB image over white as a uint8 array."""
    pixels = np.empty((colors.height, colors.width, 3), np.uint8)
    if alpha is not None:
        notes.append("alpha composited on white")
    for top, bottom in bands(colors.width, colors.height):
        band = rows_of(colors, top, bottom)
        if alpha is not None:
            band = over_white(band, rows_of(alpha, top, bottom)[..., None])
        pixels[top:bottom] = band
    return pixels


def _finish_deep(samples: np.ndarray, alpha: np.ndarray | None, notes: list[str]) -> np.ndarray:
    """uint16 gray or RGB samples over white as an array (height, width, 3)."""
    height, width = samples.shape[:2]
    if samples.ndim == 2:
        samples = samples[..., None]
    composite = alpha is not None and alpha.min() < 65535
    if composite:
        notes.append("alpha composited on white")
    pixels = np.empty((height, width, 3), np.uint16)
    for top, bottom in bands(width, height):
        band = samples[top:bottom]
        if composite and alpha is not None:
            band = over_white(band, alpha[top:bottom, :, None])
        pixels[top:bottom] = band
    return pixels


def over_white(colors: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Unsigned samples over white, rounded to nearest; the arrays' dtype gives the range."""
    top = int(np.iinfo(colors.dtype).max)
    # 65535 * 65535 plus the rounding term still fits 32 unsigned bits.
    wide = alpha.astype(np.uint32)
    return ((colors * wide + top * (top - wide) + top // 2) // top).astype(colors.dtype)
