"""Embedded ICC profiles: one transform from the profile's colors to sRGB."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms, features

_COLOR_SPACE = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK", "LAB": "Lab"}


class ProfileError(Exception):
    """The profile cannot be used; the text says why and becomes a note of the decoded image."""


class SRGBTransform:
    """The conversion of 8-bit images of one mode ("L", "RGB", "CMYK", "LAB") to sRGB.

    A gray image may carry a profile of RGB colors; it is then converted as three equal channels.
    Rendering is perceptual, LittleCMS's default.

    Args:
        profile: The ICC profile's bytes; None stands for the CIELAB (D50) space itself.
        mode: Pillow mode of the images.

    Attributes:
        name: The profile's own description, one printable line.
        identity: True where no probed color moves by more than one level of 255: such an image
            is in sRGB already and is best left alone.

    Raises:
        ProfileError: the profile is broken, is of another color space, or LittleCMS is missing.
    """

    def __init__(self, profile: bytes | None, mode: str) -> None:
        if not features.check("littlecms2"):
            raise ProfileError("this build of Pillow has no LittleCMS")
        try:
            source = (
                ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
                if profile is None
                else ImageCms.ImageCmsProfile(io.BytesIO(profile))
            )
            space = source.profile.xcolor_space.strip()
            description = source.profile.profile_description or ""
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError) as error:
            raise ProfileError("it cannot be read") from error
        self.mode = "RGB" if (mode, space) == ("L", "RGB") else mode
        if space != _COLOR_SPACE[self.mode]:
            raise ProfileError(f"it is for {space or 'unknown'} colors, the image has {mode}")
        try:
            # LittleCMS's optimized gray table is several levels off in the shadows.
            flags = ImageCms.Flags.NOOPTIMIZE if self.mode == "L" else ImageCms.Flags.NONE
            self._transform = ImageCms.buildTransform(
                source, ImageCms.createProfile("sRGB"), self.mode, "RGB", flags=flags
            )
            self.identity = self._leaves_colors_alone()
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            raise ProfileError("it cannot be converted to sRGB") from error
        printable = "".join(c if c.isprintable() else " " for c in description)
        self.name = " ".join(printable.split())[:60] or "unnamed"

    def apply(self, image: Image.Image) -> Image.Image:
        """A new RGB image in sRGB; `image` is not changed."""
        source = image if image.mode == self.mode else image.convert(self.mode)
        converted = ImageCms.applyTransform(source, self._transform)
        assert converted is not None, "only an in-place conversion returns nothing"
        return converted

    def _leaves_colors_alone(self) -> bool:
        if self.mode == "RGB":
            levels = np.linspace(0, 255, 9).round().astype(np.uint8)
            cube = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)
            probe = Image.fromarray(cube.reshape(27, 27, 3))
        elif self.mode == "L":
            probe = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
        else:
            return False
        before = np.asarray(probe.convert("RGB")).astype(np.int16)
        return bool(np.abs(np.asarray(self.apply(probe)) - before).max() <= 1)
