"""Tone distortions: brighten, darken, mean shift, contrast change and over-sharpening."""

from __future__ import annotations

import numpy as np

from qmamba.datasets.distortions.arrays import (
    Floats,
    Pixels,
    apply_curve,
    convolve,
    gaussian_kernel,
    to_pixels,
    unit_ramp,
)
from qmamba.datasets.distortions.color_spaces import lab_to_srgb, luma, pixels_to_lab


def _bend(values: Floats, amount: float) -> Floats:
    """The parabola through (0, 0), (0.5, 0.5 + amount / 2) and (1, 1), clipped to 0..1."""
    bent = values + np.float32(2.0 * amount) * values * (1 - values)
    return np.clip(bent, 0.0, 1.0)


def _bend_image(image: Pixels, amount: float) -> Pixels:
    """Two thirds of the curve applied to R, G, B and one third applied to Lab lightness."""
    lab = pixels_to_lab(image)
    lab[..., 0] = _bend(lab[..., 0] / np.float32(100.0), amount) * np.float32(100.0)
    light = np.clip(lab_to_srgb(lab), 0.0, 1.0) * np.float32(255.0 / 3.0)
    return to_pixels(light + np.take(_bend(unit_ramp(), amount) * np.float32(510.0 / 3.0), image))


def brighten(image: Pixels, amount: float, generator: np.random.Generator) -> Pixels:
    """Midtones lifted by ``amount`` / 2 of the range; above 0.5 the highlights clip."""
    return _bend_image(image, amount)


def darken(image: Pixels, amount: float, generator: np.random.Generator) -> Pixels:
    """Midtones lowered by ``amount`` / 2 of the range; above 0.5 the shadows clip."""
    return _bend_image(image, -amount)


def mean_shift(image: Pixels, amount: float, generator: np.random.Generator) -> Pixels:
    """All values shifted by ``amount`` of the range, up or down at random, and clipped."""
    sign = generator.choice((-1.0, 1.0))
    return apply_curve(image, unit_ramp() + np.float32(sign * amount))


def contrast_change(image: Pixels, amount: float, generator: np.random.Generator) -> Pixels:
    """Contrast raised by an S-curve or lowered towards the mean, at random."""
    if generator.random() < 0.5:
        return raise_contrast(image, amount, generator)
    return lower_contrast(image, amount, generator)


def raise_contrast(image: Pixels, amount: float, generator: np.random.Generator) -> Pixels:
    """Contrast raised by an S-curve.

    A cubic through (0, 0), (0.25, 0.25 - amount / 4), (0.5, 0.5), (0.75, 0.75 + amount / 4) and
    (1, 1).
    """
    x = unit_ramp()
    shape = x * (x - np.float32(0.5)) * (x - np.float32(1.0))
    return apply_curve(image, x - np.float32(16.0 / 3.0 * amount) * shape)


def lower_contrast(image: Pixels, amount: float, generator: np.random.Generator) -> Pixels:
    """Contrast lowered: distances to the mean intensity multiplied by 1 - ``amount``."""
    mean = np.float32(image.mean() / 255.0)
    return apply_curve(image, mean + np.float32(1.0 - amount) * (unit_ramp() - mean))


def high_sharpen(image: Pixels, amount: float, generator: np.random.Generator) -> Pixels:
    """Unsharp masking of the luma with sigma 3: ``amount`` times the detail is added."""
    values = image.astype(np.float32)
    light = luma(values)[..., None]
    detail = light - convolve(light, gaussian_kernel(3.0))
    return to_pixels(values + np.float32(amount) * detail)
