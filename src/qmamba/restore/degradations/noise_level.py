"""How strong the noise of an image is, as a function of brightness, and as a map of its pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from qmamba.errors import ConfigError
from qmamba.restore.degradations.noise import MAX_SIGMA

_SMOOTHING = 7


@dataclass(frozen=True)
class NoiseLevel:
    """Noise whose variance grows linearly with brightness: that of a sensor.

    Raises:
        ConfigError: a deviation is not on the scale 0 to 255.

    Example:
        >>> NoiseLevel(dark=3.0, bright=4.0).sigma(0.5)
        3.5355339059327378

    Source: Foi et al., "Practical Poissonian-Gaussian noise modeling and fitting for single-image
    raw-data", 2008.
    """

    dark: float
    """Standard deviation at black, on the scale 0 to 255."""
    bright: float
    """Standard deviation at white, on the scale 0 to 255."""

    def __post_init__(self) -> None:
        for name in ("dark", "bright"):
            value = getattr(self, name)
            if not 0.0 <= value <= MAX_SIGMA:
                raise ConfigError(
                    f"The deviation of noise is on the scale 0 to 255, got {name}={value!r}."
                )

    def sigma(self, brightness: float) -> float:
        """Standard deviation at a brightness in [0, 1], on the scale 0 to 255."""
        return float(self.deviations(np.asarray(brightness, dtype=np.float64)))

    def deviations(self, brightness: NDArray[np.floating]) -> NDArray[np.float64]:
        """The same for an array of any shape; brightness outside [0, 1] counts as its border."""
        low, high = self.dark**2, self.bright**2
        return np.sqrt(low + (high - low) * np.clip(brightness.astype(np.float64), 0.0, 1.0))

    def scaled(self, factor: float) -> NoiseLevel:
        """Noise with deviations ``factor`` times as large, at most 255."""
        return NoiseLevel(min(MAX_SIGMA, factor * self.dark), min(MAX_SIGMA, factor * self.bright))

    def map(self, image: NDArray[np.floating]) -> NDArray[np.float32]:
        """Deviation of the noise at each pixel of a noisy image.

        The brightness of a pixel is the mean over its channels and over 7 x 7 pixels, because that
        of the pixel alone is noisy itself.

        Args:
            image: ``(height, width, channels)``, about [0, 1].

        Returns:
            float32 ``(height, width)``, on the scale 0 to 1.
        """
        gray = torch.from_numpy(image.mean(axis=2, dtype=np.float32))[None, None]
        smooth = F.avg_pool2d(
            gray, _SMOOTHING, stride=1, padding=_SMOOTHING // 2, count_include_pad=False
        )
        return (self.deviations(smooth[0, 0].numpy()) / 255.0).astype(np.float32)
