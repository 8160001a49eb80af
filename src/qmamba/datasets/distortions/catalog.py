"""The catalog: every distortion with its family and the parameters of its five levels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import features

from qmamba.datasets.distortions import blur, capture, color, compression, noise, spatial, tone
from qmamba.datasets.distortions.arrays import Pixels
from qmamba.errors import ConfigError, ImageError

LEVELS = 5

DistortionFunction = Callable[[Pixels, float, np.random.Generator], Pixels]


@dataclass(frozen=True)
class Distortion:
    """One kind of damage."""

    name: str
    """The key in the catalog."""
    family: str
    """``blur``, ``color``, ``compression``, ``noise``, ``brightness``, ``spatial``,
    ``sharpness_contrast`` (the seven of KADID-10k) or ``capture``."""
    function: DistortionFunction
    """Takes (image, parameter, generator), returns a new image of equal shape."""
    levels: tuple[float, float, float, float, float]
    """The parameter at levels 1 (barely visible) to 5 (severe); its meaning and unit are in the
    docstring of ``function``."""
    spacing: Literal["linear", "log"] = "linear"
    """How the parameter runs between two levels: ``linear`` or ``log``."""

    @property
    def description(self) -> str:
        """The first line of the function's docstring."""
        return (self.function.__doc__ or "").strip().splitlines()[0]

    def parameter(self, level: float) -> float:
        """The parameter at ``level`` in 1..5, interpolated between whole levels.

        Raises ConfigError outside 1..5.
        """
        if not 1.0 <= level <= LEVELS:
            raise ConfigError(
                f"distortion {self.name!r}: level {level} is outside 1..{LEVELS}; "
                f"1 is barely visible and {LEVELS} severe"
            )
        known = np.asarray(self.levels)
        values = np.log(known) if self.spacing == "log" else known
        value = float(np.interp(level, np.arange(1, LEVELS + 1), values))
        return float(np.exp(value)) if self.spacing == "log" else value


# Parameters start from the public KADID-10k generator (Lin, Hosu, Saupe, QoMEX 2019). They differ
# where its level 1 changes nothing (Gaussian and motion blur, Lab saturation) or is plain to see
# (HSV saturation, JPEG, color shift, color blocks), where its levels pass from one direction
# through no change to the other (mean shift, contrast: here a random direction and five strengths),
# and where its range is narrow or its steps uneven (noises, color diffusion, moved patches).
_KINDS = (
    Distortion("gaussian_blur", "blur", blur.gaussian_blur, (0.4, 0.7, 1.2, 2.2, 5.0), "log"),
    Distortion("lens_blur", "blur", blur.lens_blur, (1.0, 2.0, 4.0, 6.0, 8.0)),
    Distortion("motion_blur", "blur", blur.motion_blur, (2.0, 3.5, 6.0, 10.0, 16.0), "log"),
    Distortion(
        "color_diffusion", "color", color.color_diffusion, (1.0, 1.7, 3.0, 6.0, 12.0), "log"
    ),
    Distortion("color_shift", "color", color.color_shift, (0.5, 1.2, 2.5, 5.0, 10.0), "log"),
    Distortion(
        "color_quantization",
        "color",
        color.color_quantization,
        (64.0, 48.0, 32.0, 16.0, 8.0),
        "log",
    ),
    Distortion("saturation_hsv", "color", color.saturation_hsv, (0.7, 0.4, 0.15, -0.1, -0.4)),
    Distortion("saturation_lab", "color", color.saturation_lab, (1.3, 2.0, 3.0, 6.0, 9.0), "log"),
    Distortion(
        "jpeg2000", "compression", compression.jpeg2000, (16.0, 32.0, 60.0, 140.0, 400.0), "log"
    ),
    Distortion("jpeg", "compression", compression.jpeg, (75.0, 43.0, 24.0, 10.0, 4.0), "log"),
    Distortion("white_noise", "noise", noise.white_noise, (4e-4, 1e-3, 3e-3, 8e-3, 2e-2), "log"),
    Distortion(
        "white_noise_ycbcr",
        "noise",
        noise.white_noise_ycbcr,
        (1e-4, 5e-4, 1.5e-3, 4e-3, 1e-2),
        "log",
    ),
    Distortion(
        "impulse_noise", "noise", noise.impulse_noise, (1e-3, 5e-3, 1.2e-2, 3e-2, 6e-2), "log"
    ),
    Distortion(
        "multiplicative_noise",
        "noise",
        noise.multiplicative_noise,
        (1e-3, 5e-3, 1.5e-2, 4e-2, 0.1),
        "log",
    ),
    Distortion("denoise", "noise", noise.denoise, (2e-3, 1e-2, 3e-2, 7e-2, 0.15), "log"),
    Distortion("brighten", "brightness", tone.brighten, (0.1, 0.2, 0.4, 0.7, 1.1)),
    Distortion("darken", "brightness", tone.darken, (0.05, 0.1, 0.2, 0.4, 0.8)),
    Distortion("mean_shift", "brightness", tone.mean_shift, (0.03, 0.06, 0.1, 0.16, 0.25)),
    Distortion("jitter", "spatial", spatial.jitter, (0.05, 0.1, 0.2, 0.5, 1.0), "log"),
    Distortion(
        "displaced_patches", "spatial", spatial.displaced_patches, (0.03, 0.06, 0.12, 0.22, 0.4)
    ),
    Distortion("pixelate", "spatial", spatial.pixelate, (0.89, 0.75, 0.6, 0.42, 0.25)),
    Distortion("quantization", "spatial", spatial.quantization, (20.0, 14.0, 9.0, 6.0, 3.0), "log"),
    Distortion("color_blocks", "spatial", spatial.color_blocks, (1.0, 2.5, 4.5, 7.0, 10.0)),
    Distortion(
        "high_sharpen", "sharpness_contrast", tone.high_sharpen, (0.4, 1.0, 2.5, 6.0, 12.0), "log"
    ),
    Distortion(
        "contrast_change",
        "sharpness_contrast",
        tone.contrast_change,
        (0.12, 0.25, 0.45, 0.65, 0.85),
    ),
    Distortion(
        "sensor_noise", "capture", capture.sensor_noise, (4e-4, 1.5e-3, 4e-3, 1.1e-2, 3e-2), "log"
    ),
    Distortion("downscale", "capture", capture.downscale, (1.3, 1.8, 2.5, 4.0, 7.0), "log"),
    Distortion("webp", "capture", compression.webp, (70.0, 40.0, 20.0, 8.0, 0.0)),
    Distortion("overexposure", "capture", capture.overexposure, (0.3, 0.7, 1.2, 1.9, 2.8)),
    Distortion("underexposure", "capture", capture.underexposure, (0.4, 0.9, 1.6, 2.6, 4.0)),
    Distortion("vignetting", "capture", capture.vignetting, (0.5, 1.1, 2.0, 3.5, 6.0)),
    Distortion("haze", "capture", capture.haze, (0.15, 0.35, 0.7, 1.2, 2.0)),
)
_CODECS = {"jpeg2000": "jpg_2000", "jpeg": "jpg", "webp": "webp"}

UNAVAILABLE: Mapping[str, str] = {
    name: f"this Pillow was built without the codec {codec!r}"
    for name, codec in _CODECS.items()
    if not features.check(codec)
}
"""Distortions that cannot run here and why; they are not in ``DISTORTIONS``."""

DISTORTIONS: Mapping[str, Distortion] = {
    kind.name: kind for kind in _KINDS if kind.name not in UNAVAILABLE
}
"""Every distortion that can run here, by name."""

FAMILIES: tuple[str, ...] = tuple(dict.fromkeys(kind.family for kind in DISTORTIONS.values()))
"""The families in catalog order."""


def distort(image: Pixels, name: str, level: float, generator: np.random.Generator) -> Pixels:
    """Damage an image.

    Args:
        image: uint8 sRGB of shape (H, W, 3), any size from 1 x 1; it is not modified.
        name: a key of ``DISTORTIONS``.
        level: severity from 1 (barely visible) to 5 (severe); values between whole levels
            interpolate the parameter, counts and codec qualities rounded.
        generator: the only source of chance. Equal states give equal results, and the draws do
            not depend on the level: with equal states only the strength differs.

    Returns:
        A new uint8 array of the same shape.

    Raises:
        ConfigError: unknown or unavailable name, or a level outside 1..5.
        ImageError: the image has another dtype or shape.
    """
    if name in UNAVAILABLE:
        raise ConfigError(
            f"distortion {name!r} cannot run: {UNAVAILABLE[name]}; install an official Pillow wheel"
        )
    if name not in DISTORTIONS:
        raise ConfigError(f"Unknown distortion {name!r}; known are {', '.join(DISTORTIONS)}.")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ImageError(
            f"An image to distort must be uint8 of shape (H, W, 3), got {image.dtype} "
            f"of shape {tuple(image.shape)}; convert it first."
        )
    kind = DISTORTIONS[name]
    return kind.function(image, kind.parameter(level), generator)


def random_distortion_chain(
    image: Pixels, generator: np.random.Generator, max_length: int = 2
) -> tuple[Pixels, list[tuple[str, float]]]:
    """Damage an image by one to ``max_length`` random distortions of different families.

    The length, the families, one distortion of each and its level in [1, 5) are uniform.

    Returns:
        The damaged image and the (name, level) pairs in the order applied.

    Raises:
        ConfigError: ``max_length`` is not between 1 and the number of families.
    """
    if not 1 <= max_length <= len(FAMILIES):
        raise ConfigError(f"max_length {max_length} is outside 1..{len(FAMILIES)}")
    length = int(generator.integers(1, max_length + 1))
    steps: list[tuple[str, float]] = []
    for index in generator.permutation(len(FAMILIES))[:length].tolist():
        members = [kind.name for kind in DISTORTIONS.values() if kind.family == FAMILIES[index]]
        name = members[int(generator.integers(len(members)))]
        level = float(generator.uniform(1.0, LEVELS))
        image = distort(image, name, level, generator)
        steps.append((name, level))
    return image, steps
