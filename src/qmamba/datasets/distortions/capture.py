"""Distortions of real cameras and of sharing, beyond the KADID-10k catalog."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from qmamba.datasets.distortions.arrays import (
    Pixels,
    apply_curve,
    convolve,
    gaussian_kernel,
    to_pixels,
    unit_ramp,
)
from qmamba.datasets.distortions.color_spaces import decode_srgb, encode_srgb, pixels_to_light

_SCALE = np.float32(255.0)


def sensor_noise(image: Pixels, gain: float, generator: np.random.Generator) -> Pixels:
    """Poisson-Gaussian noise in linear light: variance ``gain`` * light + (2 * ``gain``) ** 2.

    The Poisson part is approximated by a Gaussian of equal variance. The grain is as wide as a
    camera's demosaicing leaves it: white noise blurred by a random sigma of 0.3 to 0.9 pixels.
    """
    grain = gaussian_kernel(generator.uniform(0.3, 0.9))
    white = generator.standard_normal(image.shape, dtype=np.float32)
    noise = convolve(white, grain / np.sqrt((grain * grain).sum()))
    light = pixels_to_light(image)
    spread = np.sqrt(np.float32(gain) * light + np.float32(4.0 * gain * gain))
    return to_pixels(encode_srgb(light + spread * noise) * _SCALE)


def downscale(image: Pixels, factor: float, generator: np.random.Generator) -> Pixels:
    """Antialiased reduction by ``factor`` and enlargement by a random interpolation."""
    height, width = image.shape[:2]
    enlarge = (
        Image.Resampling.BILINEAR,
        Image.Resampling.BICUBIC,
        Image.Resampling.LANCZOS,
    )[generator.integers(3)]
    small = (max(1, round(width / factor)), max(1, round(height / factor)))
    reduced = Image.fromarray(image).resize(small, Image.Resampling.BICUBIC)
    return np.array(reduced.resize((width, height), enlarge))


def overexposure(image: Pixels, stops: float, generator: np.random.Generator) -> Pixels:
    """Light multiplied by 2 ** ``stops``; what exceeds white clips."""
    light = decode_srgb(unit_ramp()) * np.float32(2.0**stops)
    return apply_curve(image, encode_srgb(light))


def underexposure(image: Pixels, stops: float, generator: np.random.Generator) -> Pixels:
    """Light divided by 2 ** ``stops`` and lowered by 0.002, so that the shadows clip to black."""
    light = decode_srgb(unit_ramp()) * np.float32(2.0**-stops) - np.float32(0.002)
    return apply_curve(image, encode_srgb(light))


def vignetting(image: Pixels, stops: float, generator: np.random.Generator) -> Pixels:
    """Light falling off around a random center by ``stops`` at half a diagonal's distance."""
    height, width = image.shape[:2]
    center = generator.uniform(0.35, 0.65, 2)
    radius = 0.5 * math.hypot(height, width)
    falloff = []
    for side, middle in zip((height, width), center.tolist(), strict=True):
        distance = (np.arange(side) + 0.5 - middle * side) / radius
        # An exponent of 1 / 2.2 turns a gain in light into one in display intensity.
        falloff.append(np.exp2(-stops / 2.2 * distance**2).astype(np.float32))
    gain = falloff[0][:, None] * falloff[1][None, :]
    return to_pixels(image * gain[..., None])


def haze(image: Pixels, thickness: float, generator: np.random.Generator) -> Pixels:
    """Airlight mixed in by 1 - exp(-``thickness`` * depth) for a random smooth depth of 0.3..1.3.

    The scattering model of Koschmieder, on display intensities as the dehazing literature has it;
    depth is a slope that grows towards the top plus low-frequency variation.
    """
    height, width = image.shape[:2]
    airlight = generator.uniform(0.75, 0.95) + generator.uniform(-0.03, 0.03, 3)
    coarse = generator.random((4, 4), dtype=np.float32) * np.float32(0.4)
    coarse += np.linspace(0.9, 0.3, 4, dtype=np.float32)[:, None]
    depth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
    clear = np.exp(np.float32(-thickness) * np.asarray(depth))[..., None]
    return to_pixels(image * clear + (1 - clear) * (airlight * 255.0).astype(np.float32))
