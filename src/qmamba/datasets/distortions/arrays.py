"""Array types and the filtering that the distortions share.

Arrays are numpy's, in float32 where speed asks for it; torch lends its fast Fourier transform.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
"""An image: uint8 sRGB of shape (height, width, 3)."""

Floats = NDArray[np.float32]
"""float32 values; images as floats keep the 0..255 scale unless a function says otherwise."""


def to_pixels(values: Floats) -> Pixels:
    """Round values on the 0..255 scale half up and clip them to uint8."""
    return np.clip(values + np.float32(0.5), 0.0, 255.0).astype(np.uint8)


def apply_curve(image: Pixels, curve: Floats) -> Pixels:
    """Map every value of ``image`` through ``curve``: 256 outputs on a 0..1 scale, clipped."""
    return np.take(to_pixels(curve * np.float32(255.0)), image)


def unit_ramp() -> Floats:
    """The 256 representable intensities 0/255, 1/255, .. 1, the abscissa of a tone curve."""
    return np.arange(256, dtype=np.float32) / np.float32(255.0)


@lru_cache(maxsize=256)
def _fast_length(minimum: int) -> int:
    """The smallest length >= ``minimum`` whose only prime factors are 2, 3 and 5."""
    length = minimum
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1


def convolve(values: Floats, kernel: Floats) -> Floats:
    """Convolve each channel of ``values`` (H, W, C) with ``kernel`` (odd, odd), mirrored borders.

    The border is mirrored with the edge pixel repeated, as often as the kernel needs, so the
    image may be smaller than the kernel.
    """
    height, width = values.shape[:2]
    rows, columns = kernel.shape
    margin = ((rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0))
    padded = np.pad(values, margin, mode="symmetric")
    planes = torch.from_numpy(np.ascontiguousarray(padded.transpose(2, 0, 1)))
    size = (_fast_length(padded.shape[0]), _fast_length(padded.shape[1]))
    spectrum = torch.fft.rfft2(planes, s=size)
    spectrum *= torch.fft.rfft2(torch.from_numpy(kernel), s=size)
    filtered = torch.fft.irfft2(spectrum, s=size).numpy()
    # Only outputs whose whole support lies inside the padded image are free of wrap-around.
    inner = filtered[:, rows - 1 : rows - 1 + height, columns - 1 : columns - 1 + width]
    return np.ascontiguousarray(inner.transpose(1, 2, 0))


def gaussian_kernel(sigma: float) -> Floats:
    """A square Gaussian kernel that sums to 1, integrated over each pixel.

    Integration, not point sampling, keeps the blur continuous in ``sigma`` (pixels, > 0) down to
    the identity.
    """
    radius = max(1, math.ceil(3.0 * sigma))
    edges = [math.erf((i - 0.5) / (sigma * math.sqrt(2.0))) for i in range(-radius, radius + 2)]
    profile = np.diff(np.asarray(edges))
    profile /= profile.sum()
    return np.outer(profile, profile).astype(np.float32)


def disc_kernel(radius: float, oversampling: int = 9) -> Floats:
    """A uniform disc of ``radius`` pixels (> 0) that sums to 1, with antialiased edge."""
    reach = max(1, math.ceil(radius - 0.5))
    side = 2 * reach + 1
    axis = (np.arange(side * oversampling) + 0.5) / oversampling - side / 2.0
    inside = (axis[:, None] ** 2 + axis[None, :] ** 2) <= radius**2
    kernel = inside.reshape(side, oversampling, side, oversampling).sum(axis=(1, 3))
    return (kernel / kernel.sum()).astype(np.float32)


def line_kernel(length: float, angle: float) -> Floats:
    """A straight stroke of ``length`` pixels (> 0) at ``angle`` radians that sums to 1."""
    reach = math.ceil(length / 2.0) + 1
    side = 2 * reach + 1
    count = max(3, math.ceil(16.0 * length))
    along = ((np.arange(count) + 0.5) / count - 0.5) * length
    y, x = along * math.sin(angle) + reach, along * math.cos(angle) + reach
    top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    down, right = y - top, x - left
    kernel = np.zeros(side * side)
    for row, column, weight in (
        (top, left, (1.0 - down) * (1.0 - right)),
        (top, left + 1, (1.0 - down) * right),
        (top + 1, left, down * (1.0 - right)),
        (top + 1, left + 1, down * right),
    ):
        kernel += np.bincount(row * side + column, weights=weight, minlength=side * side)
    return (kernel / kernel.sum()).reshape(side, side).astype(np.float32)
