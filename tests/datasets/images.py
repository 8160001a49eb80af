"""Synthetic textured images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def textured_image(seed: int, height: int = 128, width: int = 128) -> NDArray[np.uint8]:
    """uint8 (height, width, 3): colored texture with a 1/f spectrum, smooth light, hard edges."""
    generator = np.random.default_rng(seed)
    down = np.fft.fftfreq(height)[:, None, None]
    across = np.fft.fftfreq(width)[None, :, None]
    frequency = np.maximum(np.hypot(down, across), 1.0 / max(height, width))
    white = np.fft.fft2(generator.standard_normal((height, width, 3)), axes=(0, 1))
    texture = np.fft.ifft2(white / frequency**1.3, axes=(0, 1)).real
    mixed = texture + 1.5 * texture.mean(axis=2, keepdims=True)
    image = 120.0 + 35.0 * mixed / mixed.std() + 30.0 * generator.uniform(-1.0, 1.0, 3)
    y, x = np.mgrid[:height, :width]
    for _ in range(4):
        top, left = generator.uniform(0.0, height), generator.uniform(0.0, width)
        radius = generator.uniform(0.08, 0.25) * min(height, width)
        inside = (y - top) ** 2 + (x - left) ** 2 < radius**2
        image[inside] += generator.uniform(-70.0, 70.0, 3)
    return np.clip(image, 5.0, 250.0).astype(np.uint8)
