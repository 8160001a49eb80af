"""Gaussian noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qmamba.errors import ConfigError, ShapeError

MAX_SIGMA = 255.0


def add_benchmark_noise(
    pixels: NDArray[np.uint8], sigma: float, *, seed: int = 0
) -> NDArray[np.float32]:
    """The noisy image of published denoising results: one fixed draw, neither cut nor rounded.

    The noise is drawn by NumPy's legacy generator for the image in the order blue, green, red,
    as the evaluation code of the literature does, so that every method sees the same noise.

    Args:
        pixels: uint8 ``(height, width)`` or ``(height, width, 3)`` sRGB.
        sigma: standard deviation on the scale 0 to 255, from 0 to 255.
        seed: of the draw; 0 in the literature.

    Returns:
        float32, same shape, on the scale 0 to 1, with values below 0 and above 1.

    Raises:
        ConfigError: sigma is outside its range.
        ShapeError: the array has another shape or dtype.

    Source: evaluation code of SwinIR and MambaIR.
    """
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise ShapeError(
            f"Noise is added to uint8 pixels (height, width[, 3]), got {pixels.dtype} "
            f"{pixels.shape}."
        )
    check_sigma(sigma)
    generator = np.random.RandomState(seed)
    noise = generator.normal(0.0, sigma / 255.0, pixels.shape)
    if noise.ndim == 3:
        noise = noise[..., ::-1]
    return (pixels.astype(np.float32) / np.float32(255.0) + noise).astype(np.float32)


def check_sigma(sigma: float) -> None:
    """Raise ConfigError unless ``sigma`` is from 0 to 255."""
    if not 0.0 <= sigma <= MAX_SIGMA:
        raise ConfigError(f"The sigma of noise is on the scale 0 to 255, got {sigma!r}.")
