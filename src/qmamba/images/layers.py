"""Reading an image to change and write it again: its own colors, its alpha and its metadata.

`read_image` gives every network the same three sRGB channels; here nothing is given up that a
image file can hold.  Formats, sizes, 16 bits, float samples and orientation follow the rules of
`read_image`, the rest is:

* Colors stay as they are stored, and their ICC profile goes along, or what else the file states
  about them.  CMYK and LAB are converted to sRGB.  A profile for other colors than the image has is
  dropped with a note.
* Gray stays one channel; so does a palette of grays.  Gray with a profile of RGB becomes RGB, since
  without the profile its tones would change.
* Alpha is a layer of its own.  One that is opaque everywhere is left out.
* EXIF, XMP, density, texts, IPTC, Photoshop and GeoTIFF data are kept, see
  `qmamba.images.metadata`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image

from qmamba.errors import ImageError
from qmamba.images.color.srgb import to_srgb
from qmamba.images.color.stated import StatedColors, read_stated_colors
from qmamba.images.decode import DEFAULT_MAX_PIXELS, decode
from qmamba.images.metadata import ImageMetadata, read_metadata
from qmamba.images.samples import pending_orientation, stored_samples, upright

_PROFILE_HEADER = 128
_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class ImageLayers:
    """An image with all that its file can hold, upright.

    Raises:
        ImageError: the arrays are not of these shapes and types, or empty.
    """

    colors: np.ndarray
    """(height, width, channels), uint8 or uint16; 1 channel for gray, 3 for RGB."""
    alpha: np.ndarray | None = None
    """(height, width) of the same type: 0 is transparent.  The colors are not multiplied by it."""
    profile: bytes | None = None
    """ICC profile of the colors; None stands for sRGB."""
    metadata: ImageMetadata = field(default_factory=ImageMetadata)
    """EXIF, XMP, density and texts."""
    stated: StatedColors = field(default_factory=StatedColors)
    """What the file says about the colors beside a profile, which comes first."""
    notes: tuple[str, ...] = ()
    """What was done to the image beyond plain decoding, one phrase each."""
    format: str | None = None
    """"JPEG", "PNG", "WEBP", "TIFF", "BMP" or "GIF"; None for what was no file."""
    path: str | None = None
    """The file's path as given, None for what was no path."""

    def __post_init__(self) -> None:
        shape, kind = self.colors.shape, self.colors.dtype
        if len(shape) != 3 or shape[2] not in (1, 3) or 0 in shape or kind not in _TYPES:
            raise ImageError(
                "colors must be uint8 or uint16 (height, width, 1 or 3 channels), got "
                f"{shape} of {kind}"
            )
        if self.alpha is not None and (self.alpha.shape != shape[:2] or self.alpha.dtype != kind):
            raise ImageError(
                f"alpha must be (height, width) of the colors' type, got {self.alpha.shape} of "
                f"{self.alpha.dtype} for {shape} of {kind}"
            )

    @property
    def width(self) -> int:
        """Pixels in a row."""
        return int(self.colors.shape[1])

    @property
    def height(self) -> int:
        """Rows of pixels."""
        return int(self.colors.shape[0])

    @property
    def bits(self) -> int:
        """Bits of one sample: 8 or 16."""
        return self.colors.dtype.itemsize * 8


_TYPES = (np.dtype(np.uint8), np.dtype(np.uint16))


def read_layers(
    source: str | os.PathLike[str] | bytes | BinaryIO, *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> ImageLayers:
    """Decode one image by the rules at the top of this module.

    Arguments, errors and thread safety are those of `read_image`.
    """
    layers, origin = decode(source, max_pixels, image_layers)
    return replace(
        layers, notes=origin.notes + layers.notes, format=origin.format, path=origin.path
    )


def image_layers(image: Image.Image, low: Image.Image | None = None) -> ImageLayers:
    """The layers of any Pillow image; `image` is loaded and otherwise left as it is.

    Args:
        image: Image of any mode.
        low: The low bytes of an image with 16 bits per color channel, where `image` (mode RGB or
            RGBA) holds the high bytes.

    Raises:
        ImageError: the samples have no known range (float or 32-bit integers out of range).
        Exception: whatever Pillow raises while it decodes.
    """
    notes: list[str] = []
    stored = stored_samples(image, low, notes)
    colors, profile = stored.colors, stored.profile
    stated = read_stated_colors(image)
    if isinstance(colors, Image.Image):
        if colors.mode in ("CMYK", "LAB"):
            colors, profile, stated = to_srgb(colors, profile, notes), None, StatedColors()
        colors = np.array(colors)
        if image.mode in ("P", "PA") and (colors == colors[..., :1]).all():
            colors = colors[..., :1]
    alpha = None if stored.alpha is None else np.array(stored.alpha)
    if alpha is not None and alpha.min() == np.iinfo(alpha.dtype).max:
        alpha = None
    if colors.ndim == 2:
        colors = colors[..., None]
    orientation = pending_orientation(image, stored.turned, notes)
    colors = upright(colors, orientation)
    if profile is not None and colors.shape[2] == 1 and _space_of(profile) == b"RGB ":
        notes.append("gray stored as RGB, because its ICC profile is one of RGB")
        colors = np.repeat(colors, 3, axis=2)
    turned = max(orientation, stored.turned) > 1
    return ImageLayers(
        colors=colors,
        alpha=None if alpha is None else upright(alpha, orientation),
        profile=_fitting(profile, colors.shape[2], notes),
        stated=stated,
        metadata=read_metadata(image, colors.shape[1], colors.shape[0], notes, turned=turned),
        notes=tuple(notes),
    )


def layers_of(image: Image.Image | np.ndarray | torch.Tensor) -> ImageLayers:
    """The layers of an image that is in memory already.

    Args:
        image: One of
            a Pillow image of any mode, by the rules of `read_layers`;
            an array (height, width) or (height, width, channels) with 1 (gray), 2 (gray and
            alpha), 3 (RGB) or 4 (RGB and alpha) channels: uint8, uint16 or float in [0, 1], in
            any byte order;
            a tensor (channels, height, width) with the same channels: uint8 or float in [0, 1].
            Float becomes 16 bits.  Up to 0.001 outside [0, 1] is clamped.

    Raises:
        ImageError: another type, shape or dtype, an empty image, or float values that are not
            finite or outside [0, 1].
    """
    if isinstance(image, Image.Image):
        return _from_image(image)
    if isinstance(image, torch.Tensor):
        if image.ndim != 3:
            raise ImageError(
                f"an image tensor must be (channels, height, width), got {tuple(image.shape)}"
            )
        values = image.detach().to("cpu").permute(1, 2, 0)
        return layers_of((values.float() if values.is_floating_point() else values).numpy())
    if not isinstance(image, np.ndarray):
        raise ImageError(
            "an image must be a Pillow image, a numpy array or a tensor, got "
            f"{type(image).__name__}"
        )
    samples = image[..., None] if image.ndim == 2 else image
    samples = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    if samples.ndim != 3 or samples.shape[2] not in (1, 2, 3, 4) or samples.size == 0:
        raise ImageError(
            "an image array must be (height, width), or (height, width, channels) with 1 to 4 "
            f"channels, and have pixels, got {image.shape}"
        )
    notes: tuple[str, ...] = ()
    if np.issubdtype(samples.dtype, np.floating):
        lowest, highest = float(samples.min()), float(samples.max())
        if not (lowest >= -_TOLERANCE and highest <= 1 + _TOLERANCE):
            raise ImageError(
                f"a float image must lie in [0, 1] and this one spans {lowest:g} to {highest:g}"
            )
        samples = (samples.astype(np.float32).clip(0, 1) * 65535 + 0.5).astype(np.uint16)
        notes = ("float samples stored as 16 bits",)
    if samples.dtype not in _TYPES:
        raise ImageError(f"an image must be uint8, uint16 or floating point, got {image.dtype}")
    with_alpha = samples.shape[2] in (2, 4)
    colors = np.ascontiguousarray(samples[..., :-1] if with_alpha else samples)
    alpha = np.ascontiguousarray(samples[..., -1]) if with_alpha else None
    return ImageLayers(colors, alpha, notes=notes)


def _from_image(image: Image.Image) -> ImageLayers:
    if min(image.size) < 1:
        raise ImageError(f"a Pillow image of {image.width} x {image.height} pixels is empty")
    try:
        return image_layers(image)
    except ImageError as error:
        raise ImageError(f"cannot use the Pillow image: {error}") from error.__cause__
    except Exception as error:
        # An unread image is decoded here, and Pillow raises nearly every kind of error then.
        reason = " ".join((str(error) or type(error).__name__).split())
        raise ImageError(f"cannot decode the Pillow image: {reason}") from error


def _fitting(profile: bytes | None, channels: int, notes: list[str]) -> bytes | None:
    """The profile if it is one of gray for one channel, of RGB for three."""
    if profile is None:
        return None
    wanted = b"GRAY" if channels == 1 else b"RGB "
    space = _space_of(profile)
    if space is None:
        notes.append("ICC profile dropped: it cannot be read")
    elif space != wanted:
        name = ascii(space.decode("ascii", "replace").strip())[1:-1]
        notes.append(f"ICC profile dropped: it is for other colors ({name})")
    else:
        return profile
    return None


def _space_of(profile: bytes) -> bytes | None:
    """The color space of a profile, None where it is no profile."""
    whole = len(profile) > _PROFILE_HEADER and profile[36:40] == b"acsp"
    return profile[16:20] if whole else None
