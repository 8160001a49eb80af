"""Images in and out: decoding, encoding, tensors, crops, padding and resizing."""

from qmamba.images.budget import limit_decoding_memory
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
from qmamba.images.draft import read_draft
from qmamba.images.encode import ENCODED_SUFFIXES, write_layers
from qmamba.images.finding import LeftOut, UnreadableInput, find_images, require_existing
from qmamba.images.layers import ImageLayers, layers_of, read_layers
from qmamba.images.metadata import ImageMetadata
from qmamba.images.tensors import IMAGENET_MEAN, IMAGENET_STD, normalize, scaled_tensor, to_tensor

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "ENCODED_SUFFIXES",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "IMAGE_SUFFIXES",
    "DecodedImage",
    "ImageLayers",
    "ImageMetadata",
    "LeftOut",
    "Padding",
    "UnreadableInput",
    "crop_grid",
    "find_images",
    "layers_of",
    "limit_decoding_memory",
    "normalize",
    "pad_to",
    "padding_for",
    "random_crops",
    "read_draft",
    "read_image",
    "read_layers",
    "require_existing",
    "resize_shorter",
    "resize_to",
    "scaled_tensor",
    "take_crops",
    "to_tensor",
    "write_layers",
]
