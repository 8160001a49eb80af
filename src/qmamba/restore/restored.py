"""What a restorer gives back: the image, and how it came about."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from qmamba.errors import ConfigError
from qmamba.images import ImageLayers, write_layers
from qmamba.images.encode import DEFAULT_QUALITY
from qmamba.restore.degradations import TaskName


@dataclass(frozen=True, eq=False)
class RestoredImage:
    """A restored image and how it came about.

    Example:
        >>> from qmamba import Restorer
        >>> larger = Restorer.from_pretrained(scale=2).restore("examples/coffee_small.png")
        >>> larger.task, larger.pixels.shape, larger.tiling
        ('sr', (400, 600, 3), 'whole')
    """

    layers: ImageLayers
    """The image, with the profile and the metadata of the original."""
    task: TaskName
    """``sr``, ``denoise`` or ``jpeg``."""
    scale: int
    """Sides as a multiple of those of the input."""
    tiling: str
    """``whole``, or the number and size of the tiles: ``6 tiles of 400x300``."""
    model: str
    """Name of the weights."""
    sha256: str
    """SHA-256 of the weights file, hexadecimal; empty for a model that never was a file."""

    @property
    def pixels(self) -> np.ndarray:
        """(height, width, 1 or 3 channels), uint8 or uint16 as the input was."""
        return self.layers.colors

    @property
    def alpha(self) -> np.ndarray | None:
        """(height, width) of the same type, where the input has transparency."""
        return self.layers.alpha

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the image on the way, one phrase each."""
        return self.layers.notes

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        quality: int = DEFAULT_QUALITY,
        strip_metadata: bool = False,
        overwrite: bool = False,
    ) -> tuple[str, ...]:
        """Write the image; see :func:`qmamba.images.write_layers`, which states most errors.

        Args:
            path: a name that ends in .png, .jpg, .jpeg, .webp, .tif or .tiff.
            quality: of JPEG and WebP.
            strip_metadata: leave EXIF, XMP, density and texts out.
            overwrite: replace a file of that name.

        Returns:
            What the format could not keep, one phrase each.

        Raises:
            ConfigError: there is a file of that name already.
        """
        if not overwrite and os.path.lexists(path):
            raise ConfigError(
                f"{os.fspath(path)!r} exists already; choose another name, or overwrite=True."
            )
        return write_layers(path, self.layers, quality=quality, strip_metadata=strip_metadata)
