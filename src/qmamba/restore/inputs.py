"""The forms in which an image may be given."""

from __future__ import annotations

import os
from typing import BinaryIO, TypeAlias

import numpy as np
from PIL import Image
from torch import Tensor

from qmamba.images import ImageLayers, layers_of, read_layers

ImageInput: TypeAlias = (
    str | os.PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray | Tensor | ImageLayers
)
"""One image: a path, a file's bytes or stream, a Pillow image, an array (height, width[, 1 to 4
channels]), a tensor (1 to 4 channels, height, width), or layers."""


def as_layers(image: ImageInput, max_pixels: int) -> ImageLayers:
    """The layers of an image in any form.

    Args:
        image: what was given.
        max_pixels: largest image, in pixels, that is decoded from a file.

    Raises:
        ImageError: it cannot be decoded or is not in an accepted form.
    """
    if isinstance(image, ImageLayers):
        return image
    if isinstance(image, (Image.Image, np.ndarray, Tensor)):
        return layers_of(image)
    return read_layers(image, max_pixels=max_pixels)
