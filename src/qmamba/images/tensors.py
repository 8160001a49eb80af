"""From images in any accepted form to float32 tensors in [0, 1], and ImageNet normalization."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from qmamba.errors import ImageError, ShapeError
from qmamba.images.color.srgb import image_pixels, over_white
from qmamba.images.crops import resize_to
from qmamba.images.decode import DecodedImage

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's red, green and blue in [0, 1], as VMamba uses them."""

_TOLERANCE = 1e-3


def to_tensor(image: DecodedImage | Image.Image | np.ndarray | torch.Tensor) -> torch.Tensor:
    """The image as a float32 tensor (3, height, width) with values in [0, 1].

    Args:
        image: One of
            a `DecodedImage`;
            a Pillow image of any mode, read by the rules of `read_image` (its size is not
            limited, its ICC profile and EXIF orientation count);
            an array (height, width), (height, width, 1), (height, width, 3) or, with alpha that is
            composited on white, (height, width, 4): uint8 (0 to 255), uint16 (0 to 65535) or float
            (0 to 1);
            a tensor (3, height, width) or (1, height, width): uint8 (0 to 255) or float (0 to 1).
            Gray is copied to three channels.  Float values up to 0.001 outside [0, 1] are clamped.

    Returns:
        A contiguous tensor on the CPU, or on the device of the tensor given.  Gradients flow to a
        float tensor, except through clamped values.

    Raises:
        ImageError: another type, shape or dtype, an empty image, or float values that are not
            finite or outside [0, 1].
    """
    if isinstance(image, DecodedImage):
        return _from_array(image.pixels)
    if isinstance(image, torch.Tensor):
        return _from_tensor(image)
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Image.Image):
        return _from_image(image)
    raise ImageError(
        f"an image must be a Pillow image, a numpy array or a tensor, got {type(image).__name__}"
    )


def scaled_tensor(pixels: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """`to_tensor` and `resize_to` of decoded pixels, one channel after the other.

    The bits are the same; a large image as floats is four times its size, and so only a third of
    it is held at a time.

    Args:
        pixels: (height, width, 3), uint8 or uint16.
        size: (height, width) of the result.

    Returns:
        float32 (3, *size); the filter may have pushed values out of [0, 1].
    """
    channels = (_from_plane(pixels[:, :, index]) for index in range(3))
    return torch.cat([resize_to(channel, size) for channel in channels])


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Subtract ImageNet's mean and divide by its standard deviation, per channel.

    Args:
        images: (..., 3, height, width), floating point, in [0, 1].

    Returns:
        The same shape, dtype and device; differentiable.

    Raises:
        ShapeError: no three channels in the third place from the end, or not floating point.
    """
    if images.ndim < 3 or images.shape[-3] != 3 or not images.is_floating_point():
        raise ShapeError(
            "normalize needs floating-point images (..., 3, height, width), got "
            f"{tuple(images.shape)} of {images.dtype}"
        )
    mean, std = (
        torch.tensor(values, dtype=images.dtype, device=images.device).view(3, 1, 1)
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return (images - mean) / std


def _from_image(image: Image.Image) -> torch.Tensor:
    if min(image.size) < 1:
        raise ImageError(f"a Pillow image of {image.width} x {image.height} pixels is empty")
    try:
        pixels, _ = image_pixels(image)
    except ImageError as error:
        raise ImageError(f"cannot use the Pillow image: {error}") from error.__cause__
    except Exception as error:
        # An unread image is decoded here, and Pillow raises nearly every kind of error then.
        reason = " ".join((str(error) or type(error).__name__).split())
        raise ImageError(f"cannot decode the Pillow image: {reason}") from error
    return _from_array(pixels)


def _from_plane(plane: np.ndarray) -> torch.Tensor:
    values = plane.astype(np.float32, order="C")
    values /= int(np.iinfo(plane.dtype).max)
    return torch.from_numpy(values)[None]


def _from_array(array: np.ndarray) -> torch.Tensor:
    channels_last = array[..., None] if array.ndim == 2 else array
    if channels_last.ndim != 3 or channels_last.shape[2] not in (1, 3, 4):
        raise ImageError(
            "an image array must be (height, width), or (height, width, channels) with 1, 3 or 4 "
            f"channels, got {array.shape}"
        )
    if channels_last.size == 0:
        raise ImageError(f"an image array must have pixels, got {array.shape}")
    if array.dtype.newbyteorder("=") in (np.uint8, np.uint16):
        top = int(np.iinfo(array.dtype).max)
        if channels_last.shape[2] == 4:
            channels_last = over_white(channels_last[..., :3], channels_last[..., 3:])
        # Copied by astype, so that a read-only array and one with negative strides are as good.
        planes = np.moveaxis(channels_last, 2, 0).astype(np.float32, order="C")
        planes /= top
        return _three_channels(torch.from_numpy(planes))
    if not np.issubdtype(array.dtype, np.floating):
        raise ImageError(
            f"an image array must be uint8, uint16 or floating point, got {array.dtype}"
        )
    planes = np.moveaxis(channels_last, 2, 0).astype(np.float32, order="C")
    values = _in_range(torch.from_numpy(planes), "array")
    if values.shape[0] == 4:
        alpha = values[3:]
        values = values[:3] * alpha + (1 - alpha)
    return _three_channels(values)


def _from_tensor(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
        raise ImageError(
            "an image tensor must be (3, height, width) or (1, height, width), got "
            f"{tuple(tensor.shape)}"
        )
    if tensor.numel() == 0:
        raise ImageError(f"an image tensor must have pixels, got {tuple(tensor.shape)}")
    if tensor.dtype == torch.uint8:
        return _three_channels(tensor.to(torch.float32) / 255)
    if not tensor.is_floating_point():
        raise ImageError(f"an image tensor must be uint8 or floating point, got {tensor.dtype}")
    return _three_channels(_in_range(tensor.to(torch.float32), "tensor"))


def _in_range(values: torch.Tensor, what: str) -> torch.Tensor:
    lowest, highest = (bound.item() for bound in torch.aminmax(values.detach()))
    if not (lowest >= -_TOLERANCE and highest <= 1 + _TOLERANCE):
        span = f"spans {lowest:g} to {highest:g}"
        problem = "holds values that are not finite" if lowest != lowest else span
        raise ImageError(f"a float image {what} must lie in [0, 1] and this one {problem}")
    if lowest < 0 or highest > 1:
        return values.clamp(0, 1)
    return values


def _three_channels(values: torch.Tensor) -> torch.Tensor:
    return values.repeat(3, 1, 1) if values.shape[0] == 1 else values.contiguous()
