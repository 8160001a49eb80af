"""Blurs: Gaussian, lens (defocus) and motion."""

from __future__ import annotations

import numpy as np

from qmamba.datasets.distortions.arrays import (
    Pixels,
    convolve,
    disc_kernel,
    gaussian_kernel,
    line_kernel,
    to_pixels,
)


def gaussian_blur(image: Pixels, sigma: float, generator: np.random.Generator) -> Pixels:
    """Gaussian blur of standard deviation ``sigma`` pixels."""
    return to_pixels(convolve(image.astype(np.float32), gaussian_kernel(sigma)))


def lens_blur(image: Pixels, radius: float, generator: np.random.Generator) -> Pixels:
    """Defocus: mean over a disc of ``radius`` pixels."""
    return to_pixels(convolve(image.astype(np.float32), disc_kernel(radius)))


def motion_blur(image: Pixels, length: float, generator: np.random.Generator) -> Pixels:
    """Mean along a straight stroke of ``length`` pixels in a random direction."""
    angle = generator.uniform(0.0, np.pi)
    return to_pixels(convolve(image.astype(np.float32), line_kernel(length, angle)))
