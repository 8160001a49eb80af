"""Color distortions: diffusion, shift, quantization and two kinds of saturation."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from qmamba.datasets.distortions.arrays import (
    Floats,
    Pixels,
    convolve,
    gaussian_kernel,
    to_pixels,
)
from qmamba.datasets.distortions.color_spaces import lab_to_srgb, luma, pixels_to_lab

_SCALE = np.float32(255.0)


def color_diffusion(image: Pixels, amount: float, generator: np.random.Generator) -> Pixels:
    """Chroma (Lab a, b) blurred with sigma 1.5 * amount + 2 pixels and multiplied by ``amount``."""
    lab = pixels_to_lab(image)
    blurred = convolve(lab[..., 1:], gaussian_kernel(1.5 * amount + 2.0))
    lab[..., 1:] = blurred * np.float32(amount)
    return to_pixels(lab_to_srgb(lab) * _SCALE)


def _shifted(plane: Floats, down: float, right: float) -> Floats:
    """``plane`` (H, W) moved by a fraction of pixels, bilinear, borders mirrored."""
    height, width = plane.shape
    reach = math.ceil(max(abs(down), abs(right))) + 1
    padded = np.pad(plane, reach, mode="symmetric")
    top, left = math.floor(reach - down), math.floor(reach - right)
    y, x = np.float32(reach - down - top), np.float32(reach - right - left)
    block = padded[top : top + height + 1, left : left + width + 1]
    rows = block[:-1] + y * (block[1:] - block[:-1])
    return rows[:, :-1] + x * (rows[:, 1:] - rows[:, :-1])


def _edge_weight(gray: Floats) -> Floats:
    """Smoothed gradient magnitude stretched to 0..1: where a misplaced channel shows."""
    down = np.diff(gray, axis=0, append=gray[-1:])
    right = np.diff(gray, axis=1, append=gray[:, -1:])
    edges = np.sqrt(down * down + right * right)
    smooth = convolve(edges[..., None], gaussian_kernel(4.0))[..., 0]
    low, high = np.quantile(smooth[::2, ::2], (0.05, 0.95))
    if high <= low:
        return np.zeros_like(smooth)
    return np.clip((smooth - low) / (high - low), 0.0, 1.0).astype(np.float32)


def color_shift(image: Pixels, amount: float, generator: np.random.Generator) -> Pixels:
    """Green channel moved by ``amount`` pixels in a random direction, near edges only."""
    angle = generator.uniform(0.0, 2.0 * np.pi)
    values = image.astype(np.float32)
    weight = _edge_weight(luma(values))
    green = values[..., 1]
    moved = _shifted(green, amount * math.sin(angle), amount * math.cos(angle))
    values[..., 1] = green + weight * (moved - green)
    return to_pixels(values)


def color_quantization(image: Pixels, colors: float, generator: np.random.Generator) -> Pixels:
    """Palette of ``colors`` (rounded) median-cut colors with Floyd-Steinberg dither."""
    # The palette comes from a thinned image because median cut dominates the time.
    rows, columns = (max(1, side // 64) for side in image.shape[:2])
    thinned = Image.fromarray(np.ascontiguousarray(image[::rows, ::columns]))
    palette = thinned.quantize(round(colors), method=Image.Quantize.MEDIANCUT)
    mapped = Image.fromarray(image).quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    return np.array(mapped.convert("RGB"))


def saturation_hsv(image: Pixels, factor: float, generator: np.random.Generator) -> Pixels:
    """HSV saturation multiplied by ``factor``: 1 keeps, 0 is gray, below 0 inverts the hue."""
    # With hue and value kept, S -> k S moves every channel c to V - k (V - c).
    values = image.astype(np.float32)
    peak = values.max(axis=2, keepdims=True)
    return to_pixels(peak - np.float32(factor) * (peak - values))


def saturation_lab(image: Pixels, factor: float, generator: np.random.Generator) -> Pixels:
    """Lab chroma (a, b) multiplied by ``factor`` > 1: garish colors."""
    lab = pixels_to_lab(image)
    lab[..., 1:] *= np.float32(factor)
    return to_pixels(lab_to_srgb(lab) * _SCALE)
