"""What a model undoes, as one value: its task with the range of strengths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from qmamba.errors import ConfigError
from qmamba.restore.degradations.compression import check_quality, jpeg
from qmamba.restore.degradations.files import (
    JPEG_FILE_MARGIN,
    SMALL_FILE_MARGIN,
    compressed_file,
    noisy_file,
    rounded,
    small_file,
    unit,
)
from qmamba.restore.degradations.luma import full_luma
from qmamba.restore.degradations.noise import add_benchmark_noise, check_sigma
from qmamba.restore.degradations.noise_level import NoiseLevel
from qmamba.restore.degradations.resize import crop_to_multiple, shrink

TaskName = Literal["sr", "denoise", "jpeg"]

MAX_SCALE = 8

_FLOATS: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
_INDICES: dict[str, Any] = {"dtype": torch.int64, "device": "cpu"}
_SHRINK_MARGIN = 2
_JPEG_MARGIN = 4
_FIXED_DRAW = 2


@dataclass(frozen=True)
class Degradation:
    """Shrinking by a factor, noise of some deviation, or JPEG of some quality.

    Raises:
        ConfigError: a value is outside its range, missing for the task or foreign to it.
    """

    task: TaskName
    """``sr`` (super-resolution), ``denoise`` or ``jpeg``."""
    scale: int = 1
    """Factor by which ``sr`` enlarges, 2 to 8; 1 for the other tasks."""
    sigma: tuple[float, float] | None = None
    """Least and largest deviation of the noise on the scale 0 to 255, for ``denoise`` alone."""
    quality: tuple[int, int] | None = None
    """Lowest and highest quality of the JPEG files, 1 to 100, for ``jpeg`` alone."""
    channels: int = 3
    """3 for sRGB, 1 for gray (BT.601 luma from 0 to 255)."""
    real: bool = False
    """Damage as files of people have it (:mod:`~qmamba.restore.degradations.files`), a share of
    crops clean, instead of exactly that of published results. Noise then comes with a map of its
    deviation."""

    def __post_init__(self) -> None:
        if self.task not in get_args(TaskName):
            raise ConfigError(f"The task must be sr, denoise or jpeg, got {self.task!r}.")
        if self.channels not in (1, 3):
            raise ConfigError(f"An image has 1 or 3 channels, got {self.channels!r}.")
        if not isinstance(self.real, bool):
            raise ConfigError(f"The option real must be true or false, got {self.real!r}.")
        if self.real and self.channels != 3:
            raise ConfigError("Damage as files have it is that of color images; leave gray out.")
        lowest, highest = (2, MAX_SCALE) if self.task == "sr" else (1, 1)
        if not isinstance(self.scale, int) or not lowest <= self.scale <= highest:
            allowed = f"2 to {MAX_SCALE}" if self.task == "sr" else "1"
            raise ConfigError(f"The scale of {self.task} must be {allowed}, got {self.scale!r}.")
        for name, owner in (("sigma", "denoise"), ("quality", "jpeg")):
            ends = getattr(self, name)
            if (ends is None) == (self.task == owner):
                verb = "needs a" if self.task == owner else "has no"
                raise ConfigError(f"The task {self.task} {verb} {name}.")
            if ends is not None:
                object.__setattr__(self, name, _checked_range(name, ends))

    @property
    def margin(self) -> int:
        """Input pixels on each side of a crop that its clean region must have in addition."""
        if self.task == "denoise":
            return 0
        if self.real:
            return SMALL_FILE_MARGIN if self.task == "sr" else JPEG_FILE_MARGIN
        return _SHRINK_MARGIN if self.task == "sr" else _JPEG_MARGIN

    @property
    def condition_channels(self) -> int:
        """Maps that follow the channels of a degraded image: 1, the deviation of real noise."""
        return int(self.real and self.task == "denoise")

    def clean(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A clean image as the task has it: its channels, its sides multiples of the scale.

        Args:
            pixels: uint8 ``(height, width, 3)`` sRGB or ``(height, width)`` gray.

        Returns:
            uint8 ``(height, width, channels)``.
        """
        if self.channels == 1:
            pixels = full_luma(pixels)[..., None]
        elif pixels.ndim == 2:
            pixels = np.repeat(pixels[..., None], 3, axis=2)
        return crop_to_multiple(pixels, self.scale)

    def benchmark(
        self, clean: NDArray[np.uint8], *, seed: int = _FIXED_DRAW
    ) -> NDArray[np.float32]:
        """The whole image degraded as published results have it, at the hard end of the range.

        Real noise is that of published results, cut and rounded to 8 bits, with its true deviation
        as the map. Of small real images the draw is fixed.

        Args:
            clean: uint8 ``(height, width, channels)``, sides multiples of the scale.
            seed: of the draw of small real images.

        Returns:
            float32 ``(height / scale, width / scale, channels + condition_channels)``, about 0 to
            1.
        """
        if self.task == "denoise":
            assert self.sigma is not None
            noisy = add_benchmark_noise(clean, self.sigma[1])
            if not self.real:
                return noisy
            noisy = unit(rounded(noisy))
            return _conditioned(noisy, NoiseLevel(self.sigma[1], self.sigma[1]).map(noisy))
        if self.task == "jpeg":
            assert self.quality is not None
            return unit(_jpeg(clean, self.quality[0]))
        if self.real:
            return unit(small_file(clean, self.scale, torch.Generator().manual_seed(seed)))
        return unit(shrink(clean, self.scale))

    def crop(
        self, region: NDArray[np.uint8], generator: torch.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Degrade a region at a random strength and cut its margin away.

        JPEG keeps a random part of its margin, so that blocks begin anywhere in the crop.

        Args:
            region: uint8 ``(height, width, channels)``, the crop with :attr:`margin` around it.
            generator: of every random choice.

        Returns:
            The degraded crop with its conditions, float32 about 0 to 1, and the clean one, uint8,
            ``scale`` times as large.
        """
        scale, margin = self.scale, self.margin
        top = left = margin
        if self.real:
            degraded, top, left = self._as_file(region, generator)
        elif self.task == "sr":
            degraded = unit(shrink(region, scale))
        elif self.task == "denoise":
            assert self.sigma is not None
            low, high = self.sigma
            sigma = low + (high - low) * torch.rand((), generator=generator, **_FLOATS).item()
            noise = torch.randn(region.shape, generator=generator, **_FLOATS).numpy()
            degraded = (unit(region) + noise * (sigma / 255.0)).astype(np.float32)
        else:
            assert self.quality is not None
            degraded = unit(_jpeg(region, _whole(self.quality, generator)))
            top, left = (_whole((0, 2 * margin), generator) for _ in range(2))
        height, width = (side // scale - 2 * margin for side in region.shape[:2])
        return (
            degraded[top : top + height, left : left + width],
            region[top * scale : (top + height) * scale, left * scale : (left + width) * scale],
        )

    def _as_file(
        self, region: NDArray[np.uint8], generator: torch.Generator
    ) -> tuple[NDArray[np.float32], int, int]:
        """The degraded region with its conditions, and where the crop begins in it."""
        if self.task == "denoise":
            assert self.sigma is not None
            return _conditioned(*noisy_file(region, self.sigma, generator)), 0, 0
        if self.task == "sr":
            return unit(small_file(region, self.scale, generator)), self.margin, self.margin
        assert self.quality is not None
        damaged, begin = compressed_file(region, self.quality, generator)
        return unit(damaged), *begin

    def to_dict(self) -> dict[str, Any]:
        """JSON values; :meth:`from_dict` is the inverse."""
        return {
            "task": self.task,
            "scale": self.scale,
            "sigma": None if self.sigma is None else list(self.sigma),
            "quality": None if self.quality is None else list(self.quality),
            "channels": self.channels,
            "real": self.real,
        }

    @classmethod
    def from_dict(cls, values: Any) -> Degradation:
        """The degradation that :meth:`to_dict` described; files of older versions lack ``real``.

        Raises:
            ConfigError: a field is missing, unknown or not allowed.
        """
        names = {"task", "scale", "sigma", "quality", "channels"}
        if not isinstance(values, Mapping) or set(values) - {"real"} != names:
            raise ConfigError(f"A degradation must have the fields {sorted(names)} and real.")
        return cls(**values)

    def __str__(self) -> str:
        if self.task == "sr":
            return f"super-resolution x{self.scale}{' of real files' if self.real else ''}"
        name, ends = ("sigma", self.sigma) if self.task == "denoise" else ("quality", self.quality)
        assert ends is not None
        span = f"{ends[0]:g}" if ends[0] == ends[1] else f"{ends[0]:g} to {ends[1]:g}"
        kind = "" if self.channels == 3 else "gray "
        what = "denoising" if self.task == "denoise" else "JPEG"
        if self.real:
            what = f"{'blind' if self.task == 'denoise' else 'color'} {what}"
        return f"{kind}{what}, {name} {span}"


def _checked_range(name: str, ends: Any) -> tuple[float, float]:
    is_pair = isinstance(ends, list | tuple) and len(ends) == 2
    if not is_pair or not all(isinstance(end, int | float) for end in ends) or ends[0] > ends[1]:
        raise ConfigError(f"The {name} must be a pair (lowest, highest), got {ends!r}.")
    for end in ends:
        check_sigma(end) if name == "sigma" else check_quality(end)
    return ends[0], ends[1]


def _jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    decoded = jpeg(pixels[..., 0] if pixels.shape[2] == 1 else pixels, quality)
    return decoded.reshape(pixels.shape)


def _conditioned(image: NDArray[np.float32], condition: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([image, condition[..., None]], axis=2)


def _whole(ends: tuple[int, int], generator: torch.Generator) -> int:
    return int(torch.randint(ends[0], ends[1] + 1, (), generator=generator, **_INDICES))
