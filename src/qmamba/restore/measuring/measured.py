"""What a network is told about an image, and how much of its correction is taken."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qmamba.errors import CheckpointError, ConfigError
from qmamba.models import Network, RestorationConfig
from qmamba.restore.degradations import NoiseLevel, check_sigma
from qmamba.restore.measuring.blocks import CLEAR_BLOCKS, NO_BLOCKS, block_strength
from qmamba.restore.measuring.noise import estimate_noise

MAX_STRENGTH = 4.0

WHOLE_NOISE = 2.0
"""Deviation of the noise, on the scale 0 to 255, from which a correction is taken in full; below,
in proportion."""


@dataclass(frozen=True)
class Measured:
    """What was measured in one image."""

    noise: Tensor | None = None
    """float32 ``(1, height, width)``, deviation of the noise of the colors at each pixel on the
    scale 0 to 1; None for a network that is not told."""
    alpha_noise: Tensor | None = None
    """The same for the transparency, where there is any."""
    share: float = 1.0
    """Part of the network's correction that is taken."""
    notes: tuple[str, ...] = ()
    """What was found, one phrase each."""

    def cut(self, rows: slice, columns: slice) -> Measured:
        """What holds for a tile."""
        if self.noise is None:
            return self
        alpha = None if self.alpha_noise is None else self.alpha_noise[:, rows, columns]
        return replace(self, noise=self.noise[:, rows, columns], alpha_noise=alpha)


def takes_noise_map(model: Network) -> bool:
    """Whether a network is given the noise of its images."""
    return bool(getattr(model.config, "condition_channels", 0))


def taken(image: Tensor, restored: Tensor, noise: Tensor | None, share: float) -> Tensor:
    """A restored image with as much of the correction as there is damage.

    So an image without damage stays as it is, to the bit where nothing at all was measured.

    Args:
        image, restored: ``(channels, height, width)``.
        noise: ``(1, height, width)`` on the scale 0 to 1, or None.
        share: see :class:`Measured`.
    """
    if noise is not None:
        weight = (noise * (255.0 / WHOLE_NOISE)).clamp(max=1.0)
        return torch.lerp(image, restored, weight.expand_as(image))
    return restored if share == 1.0 else torch.lerp(image, restored, share)


class Measuring:
    """Measures what a network needs to know about an image.

    Args:
        config: of the network.
        sigma: deviation of the noise on the scale 0 to 255; ``None`` measures it in each image.
        strength: factor on the noise, 0 to 4: below 1 more of the noise and of the detail stays.
        blocks: whether the correction of JPEG shall depend on the blocks that are found.

    Raises:
        CheckpointError: the network needs conditions that are not a noise map.
        ConfigError: a value is outside its range, or the network takes no noise map.
    """

    def __init__(
        self,
        config: RestorationConfig,
        sigma: float | None = None,
        strength: float = 1.0,
        *,
        blocks: bool = False,
    ) -> None:
        self._takes_noise = config.condition_channels > 0
        if self._takes_noise and (config.condition_channels > 1 or config.task_name != "denoise"):
            raise CheckpointError(
                f"The network needs {config.condition_channels} conditions for "
                f"{config.task_name}; only a denoiser with one noise map can be run."
            )
        if not isinstance(strength, Real) or not 0.0 <= strength <= MAX_STRENGTH:
            raise ConfigError(f"strength must be 0 to {MAX_STRENGTH:g}, got {strength!r}.")
        if strength != 1.0 and config.task_name != "denoise":
            raise ConfigError(
                f"A strength belongs to the task denoise, not to {config.task_name}; leave it out."
            )
        if not self._takes_noise and (strength != 1.0 or sigma is not None):
            raise ConfigError(
                "The network takes no noise map, so it has one strength only; choose a blind "
                "denoiser, such as mambair-nano-denoise-blind-w4a4."
            )
        if sigma is not None:
            check_sigma(sigma)
        self._sigma: float | None = sigma
        self._strength: float = float(strength)
        self._blocks: bool = blocks

    def measure(
        self, colors: NDArray[Any], alpha: NDArray[Any] | None, *, jpeg: bool = False
    ) -> Measured:
        """What is to be known about an image.

        Args:
            colors: ``(height, width, 1 or 3)``, uint8, uint16, or floating point in about [0, 1].
            alpha: ``(height, width)`` of the same type, or None.
            jpeg: whether the image comes from a JPEG file.
        """
        if self._takes_noise:
            level = self._level(colors, jpeg)
            around = None if alpha is None else alpha[..., None]
            return Measured(
                self._map(colors, level),
                None if around is None else self._map(around, self._level(around)),
                notes=(self._note(level),),
            )
        strength = block_strength(colors) if self._blocks else None
        if strength is None:
            return Measured()
        share = min(1.0, max(0.0, (strength - NO_BLOCKS) / (CLEAR_BLOCKS - NO_BLOCKS)))
        found = "no JPEG blocks found, left as it was"
        if share:
            found = f"JPEG blocks of strength {strength:.2f} found"
            found += "" if share == 1.0 else f", {share:.0%} of the correction taken"
        return Measured(share=share, notes=(found,))

    def _level(self, samples: NDArray[Any], jpeg: bool = False) -> NoiseLevel:
        if self._sigma is not None:
            return NoiseLevel(self._sigma, self._sigma)
        return estimate_noise(samples, jpeg=jpeg)

    def _map(self, samples: NDArray[Any], level: NoiseLevel) -> Tensor:
        unit = samples.astype(np.float32)
        if samples.dtype.kind == "u":
            unit /= np.float32(np.iinfo(samples.dtype).max)
        return torch.from_numpy(level.scaled(self._strength).map(unit))[None]

    def _note(self, level: NoiseLevel) -> str:
        if self._sigma is not None:
            found = f"noise of deviation {self._sigma:g} taken as given"
        else:
            dark, middle, bright = (level.sigma(each) for each in (0.0, 0.5, 1.0))
            found = f"noise of deviation {middle:.1f} measured"
            if not math.isclose(dark, bright, abs_tol=1.0):
                found += f" ({dark:.1f} in the dark, {bright:.1f} in the light)"
        return found if self._strength == 1.0 else f"{found}, times {self._strength:g}"
