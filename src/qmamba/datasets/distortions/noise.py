"""Noises: white, white in YCbCr, impulse, multiplicative, and denoising artifacts.

Variances are on the 0..1 intensity scale. The noise field is drawn before its strength is applied,
so two levels with equal generator states show the same field.
"""

from __future__ import annotations

import math

import numpy as np

from qmamba.datasets.distortions.arrays import Floats, Pixels, to_pixels
from qmamba.datasets.distortions.color_spaces import rgb_to_ycbcr, ycbcr_to_rgb
from qmamba.datasets.distortions.wavelet import compose, decompose

# Variance in Y, Cb and Cr of unit-variance noise in R, G and B.
_YCBCR_NOISE_GAIN = (rgb_to_ycbcr(np.eye(3, dtype=np.float32)) ** 2).sum(axis=0)


def _normal(image: Pixels, variance: float, generator: np.random.Generator) -> Floats:
    """Gaussian noise of the image's shape on the 0..255 scale."""
    noise = generator.standard_normal(image.shape, dtype=np.float32)
    noise *= np.float32(255.0 * math.sqrt(variance))
    return noise


def white_noise(image: Pixels, variance: float, generator: np.random.Generator) -> Pixels:
    """Independent Gaussian noise in R, G and B."""
    return to_pixels(image + _normal(image, variance, generator))


def white_noise_ycbcr(image: Pixels, variance: float, generator: np.random.Generator) -> Pixels:
    """Independent Gaussian noise in Y, Cb and Cr, which is stronger in color than in light."""
    # The transform is linear, so noise added in YCbCr is its image in RGB added to the image.
    return to_pixels(image + ycbcr_to_rgb(_normal(image, variance, generator)))


def impulse_noise(image: Pixels, density: float, generator: np.random.Generator) -> Pixels:
    """A share ``density`` of the channel values set to 0 or 255 (salt and pepper)."""
    chance = generator.random(image.shape, dtype=np.float32)
    result = image.copy()
    result[chance < 0.5 * density] = 0
    result[chance > 1.0 - 0.5 * density] = 255
    return result


def multiplicative_noise(image: Pixels, variance: float, generator: np.random.Generator) -> Pixels:
    """Speckle: Gaussian noise whose amplitude is proportional to the intensity."""
    speckle = _normal(image, variance, generator) * np.float32(1.0 / 255.0)
    return to_pixels(image * (1 + speckle))


def denoise(image: Pixels, variance: float, generator: np.random.Generator) -> Pixels:
    """White noise of ``variance`` removed by shrinking wavelet coefficients in YCbCr.

    The threshold of each subband is BayesShrink's (Chang, Yu and Vetterli 2000) with the known
    noise variance: detail is smeared, edges ring. KADID-10k denoises with a trained network.
    """
    noisy = np.clip(image + _normal(image, variance, generator), 0.0, 255.0)
    planes = np.ascontiguousarray(rgb_to_ycbcr(noisy).transpose(2, 0, 1))
    noise_variance = np.float32(255.0**2 * variance) * _YCBCR_NOISE_GAIN[:, None, None]
    lowest, *details = decompose(planes)
    shrunk = [lowest]
    for band in details:
        power = (band * band).mean(axis=(1, 2), keepdims=True)
        signal = np.sqrt(np.maximum(power - noise_variance, np.float32(1e-6)))
        threshold = noise_variance / signal
        shrunk.append(band - np.clip(band, -threshold, threshold))
    return to_pixels(ycbcr_to_rgb(compose(shrunk).transpose(1, 2, 0)))
