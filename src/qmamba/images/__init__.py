"""Pictures in: decoding, tensors, crops, padding and resizing."""

from qmamba.images.crops import (
    Padding,
    crop_grid,
    pad_to,
    padding_for,
    random_crops,
    resize_shorter,
    resize_to,
    take_crops,
)
from qmamba.images.decode import DEFAULT_MAX_PIXELS, IMAGE_SUFFIXES, DecodedImage, read_image
from qmamba.images.tensors import IMAGENET_MEAN, IMAGENET_STD, normalize, to_tensor

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "IMAGE_SUFFIXES",
    "DecodedImage",
    "Padding",
    "crop_grid",
    "normalize",
    "pad_to",
    "padding_for",
    "random_crops",
    "read_image",
    "resize_shorter",
    "resize_to",
    "take_crops",
    "to_tensor",
]
