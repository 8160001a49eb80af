"""Full-reference fidelity of images: PSNR, SSIM, multi-scale SSIM and GMSD.

All take two float tensors of shape (B, 3, H, W) or (B, 1, H, W) with values in 0..1, return one
value per image (B,) in the dtype of the input (float32 or float64) and are differentiable in
both. Nothing is rounded or clamped: results printed in the literature belong to 8-bit images, so
round both to multiples of 1/255 first, and use float64 where the last digit counts.

``channels`` says what is compared:

- ``"rgb"``: every channel as it is, one value over all of them (SSIM: the mean over channels).
- ``"luma"``: full-range BT.601 luma 0.299 R + 0.587 G + 0.114 B, "rgb2gray".
- ``"video_luma"``: BT.601 luma in 16/255..235/255, unrounded, the Y of super-resolution tables.

An image of one channel is compared as it is under each of the three.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from qmamba.errors import ConfigError, ShapeError

Channels = Literal["rgb", "luma", "video_luma"]

_WINDOW = 11
_SIGMA = 1.5
_C1 = 0.01**2
_C2 = 0.03**2
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_GMSD_CONSTANT = 170.0 / 255.0**2


def luma(images: Tensor, *, video_range: bool = False) -> Tensor:
    """BT.601 luma (B, 1, H, W) of RGB (B, 3, H, W); one channel passes through.

    ``video_range`` maps black to 16/255 and white to 235/255 (MATLAB's ``rgb2ycbcr``).
    """
    if images.shape[1] == 1:
        return images
    weights = (65.481, 128.553, 24.966) if video_range else (0.299, 0.587, 0.114)
    scale = 255.0 if video_range else 1.0
    red, green, blue = images.unbind(1)
    mixed = (red * weights[0] + green * weights[1] + blue * weights[2]) / scale
    return (mixed + (16.0 / 255.0 if video_range else 0.0)).unsqueeze(1)


def _prepare(images: Tensor, reference: Tensor, channels: Channels) -> tuple[Tensor, Tensor]:
    """Check the pair and select its channels."""
    for tensor in (images, reference):
        if tensor.ndim != 4 or tensor.shape[1] not in (1, 3) or tensor.numel() == 0:
            raise ShapeError(
                f"The function fidelity needs tensors of shape (B, 3, H, W) or (B, 1, H, W), "
                f"got {tuple(tensor.shape)}."
            )
        if tensor.dtype not in (torch.float32, torch.float64):
            raise ShapeError(
                f"The function fidelity needs float32 or float64 tensors, got {tensor.dtype}."
            )
    if images.shape != reference.shape or images.dtype != reference.dtype:
        raise ShapeError(
            f"Images and reference differ: {tuple(images.shape)} {images.dtype} and "
            f"{tuple(reference.shape)} {reference.dtype}."
        )
    # In float32 the sums over a window can leave a similarity a little above 1.
    images, reference = images.double(), reference.double()
    if channels == "rgb":
        return images, reference
    if channels in ("luma", "video_luma"):
        video_range = channels == "video_luma"
        return luma(images, video_range=video_range), luma(reference, video_range=video_range)
    raise ConfigError(f"Unknown channels {channels!r}; known are 'rgb', 'luma', 'video_luma'.")


def _need_side(images: Tensor, least: int, metric: str) -> None:
    if min(images.shape[-2:]) < least:
        raise ShapeError(
            f"{metric} needs images of at least {least} pixels a side, got "
            f"{images.shape[-2]} x {images.shape[-1]}"
        )


def psnr(images: Tensor, reference: Tensor, *, channels: Channels = "rgb") -> Tensor:
    """Peak signal-to-noise ratio, -10 log10(mean squared error) for a peak of 1, in decibels (B,).

    Higher is better; about 20 (poor) to 50 (invisible), infinite for equal images, where the
    gradient is not defined.

    Raises ShapeError for other shapes or dtypes, ConfigError for unknown ``channels``.
    """
    first, second = _prepare(images, reference, channels)
    return (-10.0 * torch.log10((first - second).square().mean(dim=(1, 2, 3)))).to(images.dtype)


def _gaussian_mean(maps: Tensor) -> Tensor:
    """Weighted means over every whole 11 x 11 window (sigma 1.5): sides shrink by 10."""
    offsets = torch.arange(_WINDOW, dtype=torch.float64, device="cpu") - _WINDOW // 2
    profile = torch.exp(-offsets.square() / (2.0 * _SIGMA**2))
    weights = (profile / profile.sum()).tolist()
    # Sums of shifted maps; torch's convolution of float64 takes twelve times as long.
    for axis in (-2, -1):
        length = maps.shape[axis] - _WINDOW + 1
        means = maps.narrow(axis, 0, length) * weights[0]
        for index in range(1, _WINDOW):
            means = means.add_(maps.narrow(axis, index, length), alpha=weights[index])
        maps = means
    return maps


def _ssim_maps(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The luminance term and the contrast-structure term at every whole window."""
    mean_first, mean_second = _gaussian_mean(first), _gaussian_mean(second)
    variance_first = _gaussian_mean(first * first) - mean_first.square()
    variance_second = _gaussian_mean(second * second) - mean_second.square()
    covariance = _gaussian_mean(first * second) - mean_first * mean_second
    luminance = (2 * mean_first * mean_second + _C1) / (
        mean_first.square() + mean_second.square() + _C1
    )
    contrast_structure = (2 * covariance + _C2) / (variance_first + variance_second + _C2)
    return luminance, contrast_structure


def ssim(images: Tensor, reference: Tensor, *, channels: Channels = "luma") -> Tensor:
    """Structural similarity (B,), -1..1, higher is better, 1 only for equal images.

    Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to
    structural similarity", 2004: Gaussian window of 11 pixels and sigma 1.5, K1 = 0.01,
    K2 = 0.03, mean over the windows that lie whole inside the image, no downsampling first.

    Raises ShapeError for a side below 11, other shapes or dtypes, ConfigError for unknown
    ``channels``.
    """
    first, second = _prepare(images, reference, channels)
    _need_side(first, _WINDOW, "SSIM")
    luminance, contrast_structure = _ssim_maps(first, second)
    return (luminance * contrast_structure).mean(dim=(1, 2, 3)).to(images.dtype)


def _halve(maps: Tensor) -> Tensor:
    """Means of 2 x 2 blocks; an odd last row or column is repeated first."""
    bottom, right = maps.shape[-2] % 2, maps.shape[-1] % 2
    return functional.avg_pool2d(functional.pad(maps, (0, right, 0, bottom), mode="replicate"), 2)


def multiscale_ssim(images: Tensor, reference: Tensor, *, channels: Channels = "luma") -> Tensor:
    """Multi-scale structural similarity (B,), 0..1, higher is better.

    Wang, Simoncelli and Bovik, "Multiscale structural similarity for image quality assessment",
    2003: contrast and structure at five scales with exponents 0.0448, 0.2856, 0.3001, 0.2363,
    0.1333, luminance at the coarsest, 2 x 2 means in between. A mean below zero, possible for
    inverted structure only, counts as 1e-6, so that its power stays real and differentiable.

    Raises ShapeError for a side below 161, other shapes or dtypes, ConfigError for unknown
    ``channels``.
    """
    first, second = _prepare(images, reference, channels)
    steps = len(_SCALE_WEIGHTS) - 1
    _need_side(first, (_WINDOW - 1) * 2**steps + 1, "multi-scale SSIM")
    product = torch.ones(first.shape[:2], dtype=first.dtype, device=first.device)
    for scale, weight in enumerate(_SCALE_WEIGHTS):
        luminance, term = _ssim_maps(first, second)
        if scale == steps:
            term = luminance * term
        product = product * term.mean(dim=(2, 3)).clamp(min=1e-6) ** weight
        if scale < steps:
            first, second = _halve(first), _halve(second)
    return product.mean(dim=1).to(images.dtype)


def _gradient_magnitude(maps: Tensor) -> Tensor:
    """Magnitude of the 3 x 3 Prewitt gradient (taps of 1/3), zeros outside the image."""
    column = torch.tensor([1.0, 0.0, -1.0], dtype=maps.dtype, device=maps.device) / 3.0
    across = column.expand(3, 3)
    kernels = torch.stack((across, across.T)).unsqueeze(1)
    gradient = functional.conv2d(maps, kernels, padding=1)
    # The norm, unlike a square root of squares, has a gradient of zero where the image is flat.
    return torch.linalg.vector_norm(gradient, dim=1, keepdim=True)


def gmsd(images: Tensor, reference: Tensor) -> Tensor:
    """Gradient magnitude similarity deviation (B,), on luma; lower is better, 0 for equal images.

    Xue, Zhang, Mou and Bovik, "Gradient magnitude similarity deviation", 2014: 2 x 2 means, Prewitt
    gradients, constant 170 (for 0..255), standard deviation of the similarity map with n - 1.
    Values seldom exceed 0.35.

    Raises ShapeError for a side below 4, other shapes or dtypes.
    """
    first, second = _prepare(images, reference, "luma")
    _need_side(first, 4, "GMSD")
    # The authors' code pads the odd last row and column with zeros before it takes 2 x 2 means.
    odd = (0, first.shape[-1] % 2, 0, first.shape[-2] % 2)
    gradient_first, gradient_second = (
        _gradient_magnitude(functional.avg_pool2d(functional.pad(maps, odd), 2))
        for maps in (first, second)
    )
    similarity = (2 * gradient_first * gradient_second + _GMSD_CONSTANT) / (
        gradient_first.square() + gradient_second.square() + _GMSD_CONSTANT
    )
    values = similarity.flatten(1)
    centered = values - values.mean(dim=1, keepdim=True)
    return (torch.linalg.vector_norm(centered, dim=1) / (values.shape[1] - 1) ** 0.5).to(
        images.dtype
    )
