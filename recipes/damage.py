"""Ladders of damage and what a score should do on them, for `robust.py` and `flaws.py`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from qmamba.datasets.distortions import DISTORTIONS, Pixels, distort
from qmamba.datasets.distortions.tone import lower_contrast
from qmamba.images import IMAGE_SUFFIXES
from qmamba.restore.degradations import jpeg

LEVELS = 4
"""Damaged images of a ladder, beside the undamaged one."""

KINDS = (*DISTORTIONS, "lower_contrast")
"""The catalog, and of the changed contrast the direction that every image loses by."""

FREQUENT = {
    "jpeg": 6.0,
    "webp": 2.5,
    "gaussian_blur": 2.5,
    "downscale": 2.5,
    "white_noise": 2.5,
    "sensor_noise": 2.0,
    "overexposure": 3.0,
    "underexposure": 2.0,
    "lower_contrast": 2.0,
    "haze": 1.5,
    "motion_blur": 1.5,
}
"""How much oftener than the others a kind is drawn: what files in the wild have."""

TONAL = {
    "brighten": 0.8,
    "contrast_change": 0.65,
    "color_shift": 0.6,
    "darken": 0.8,
    "haze": 0.65,
    "lower_contrast": 0.65,
    "mean_shift": 0.4,
    "overexposure": 0.9,
    "saturation_hsv": 0.45,
    "saturation_lab": 0.5,
    "underexposure": 0.9,
    "vignetting": 0.6,
}
"""Kinds that a full-reference metric judges badly, and how far their worst level goes on the way
from the undamaged image to the worst there is."""

TECHNICAL = {
    **dict.fromkeys(("gaussian_blur", "lens_blur", "motion_blur", "downscale"), "blur"),
    **dict.fromkeys(("white_noise", "white_noise_ycbcr", "sensor_noise"), "noise"),
    **dict.fromkeys(("impulse_noise", "multiplicative_noise"), "noise"),
    **dict.fromkeys(("jpeg", "jpeg2000", "webp"), "compression"),
}
"""Kinds that a camera or a codec leaves in the pixels, and what they are."""

_ENLARGED, _SOFTNESS = (1.0, 1.3, 1.8, 2.5, 4.0), (0.0, 0.15, 0.32, 0.5, 0.75)
_HAAR_C, _HAAR_ALPHA = 30.0, 4.2


class Ladder(NamedTuple):
    """One image at rising levels of one kind of damage."""

    images: list[Pixels]
    """The undamaged one first."""
    kind: str
    levels: list[float]
    """0 and :data:`LEVELS` levels in 1..5."""
    softness: float = 0.0
    """Severity of the softness that the undamaged one has."""


def photographs(folders: list[Path], least: int) -> list[Path]:
    """Image files in these folders whose shorter side has at least ``least`` pixels."""
    paths = [path for folder in folders for path in sorted(folder.iterdir())]
    found = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]
    return [path for path in found if min(Image.open(path).size) >= least]


def random_crop(path: Path, side: int, generator: np.random.Generator) -> Pixels:
    """A crop of a photograph, often scaled down first, which hides the traces of its own JPEG."""
    image = Image.open(path).convert("RGB")
    if generator.random() < 0.5:
        factor = generator.uniform(max(side / min(image.size), 0.4), 1.0)
        size = (max(side, round(factor * image.width)), max(side, round(factor * image.height)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    top = int(generator.integers(pixels.shape[0] - side + 1))
    left = int(generator.integers(pixels.shape[1] - side + 1))
    cut = pixels[top : top + side, left : left + side]
    return np.ascontiguousarray(cut[:, ::-1] if generator.random() < 0.5 else cut)


def damaged(image: Pixels, kind: str, level: float, generator: np.random.Generator) -> Pixels:
    """The image with damage of one of :data:`KINDS`."""
    if kind == "lower_contrast":
        amount = DISTORTIONS["contrast_change"].parameter(level)
        return lower_contrast(image, amount, generator)
    return distort(image, kind, level, generator)


def random_ladder(
    path: Path,
    side: int,
    generator: np.random.Generator,
    *,
    saved: float = 0.0,
    soft: float = 0.0,
) -> Ladder:
    """A ladder of a random kind.

    The blocks of a codec begin anywhere in it, as in a crop of a photograph.

    Args:
        path: the photograph; its shorter side has at least ``side`` + 8 pixels.
        side: side of the images in pixels.
        generator: the only source of chance.
        saved: probability that all images of the ladder are saved as JPEG of quality 70 to 96 after
            the damage, as files are.
        soft: probability that the undamaged image is enlarged, which makes it soft; the damage is
            one of :data:`TECHNICAL` then.
    """
    softness, kinds = 0.0, list(KINDS)
    if soft and generator.random() < soft:
        image, softness = enlarged(path, side + 8, generator)
        kinds = list(TECHNICAL)
    else:
        image = random_crop(path, side + 8, generator)
    weights = np.array([FREQUENT.get(kind, 1.0) for kind in kinds])
    kind = kinds[int(generator.choice(len(kinds), p=weights / weights.sum()))]
    levels = np.sort(generator.uniform(1.0, 5.0, LEVELS))
    levels[0] = min(levels[0], generator.uniform(1.0, 2.2))
    seed = int(generator.integers(2**31))
    images = [image, *(damaged(image, kind, v, np.random.default_rng(seed)) for v in levels)]
    if generator.random() < saved and TECHNICAL.get(kind) != "compression":
        quality = int(generator.integers(70, 97))
        images = [jpeg(entry, quality) for entry in images]
    top, left = generator.integers(0, 8, 2)
    cut = [np.ascontiguousarray(i[top : top + side, left : left + side]) for i in images]
    return Ladder(cut, kind, [0.0, *map(float, levels)], softness)


def share_of_the_way(ladder: Ladder) -> Tensor:
    """How far each image of a ladder is on the way to the worst there is: 0 to 1, never falling.

    Half of it is HaarPSI to the undamaged image, half the level, for tones mostly the level.
    """
    most = TONAL.get(ladder.kind, 1.0)
    images = to_batch(ladder.images)
    likeness = haarpsi(images, images[:1].expand_as(images))
    measured = ((1 - likeness) / 0.6).clamp(0, 1) ** 0.75
    nominal = most * ((torch.tensor(ladder.levels) - 0.6).clamp_min(0) / 4.4) ** 1.1
    weight = 0.25 if ladder.kind in TONAL else 0.5
    share = torch.minimum(weight * measured + (1 - weight) * nominal, torch.tensor(most))
    share[0] = 0
    return share.cummax(0).values


def without_content(side: int, generator: np.random.Generator) -> Pixels:
    """Noise, a flat color or a gradient, gray or colored, of any strength and direction."""
    kind, channels = int(generator.integers(4)), 3 if generator.random() < 0.6 else 1
    shape = (side, side, channels)
    if kind == 0:
        values = generator.normal(generator.uniform(60, 200), generator.uniform(5, 90), shape)
    elif kind == 1:
        values = generator.uniform(0, 256, shape)
    elif kind == 2:
        # Half of them have the faint noise of a sensor.
        faint = generator.uniform(0, 2) * generator.integers(2)
        values = generator.uniform(0, 256, channels) + generator.normal(0, faint, shape)
        values = generator.choice((0, 255), channels) if generator.random() < 0.3 else values
    else:
        angle = generator.integers(4) / 4 if generator.random() < 0.5 else generator.random()
        down, across = np.mgrid[:side, :side] / side
        ramp = across * np.cos(2 * np.pi * angle) + down * np.sin(2 * np.pi * angle)
        ramp = ((ramp - ramp.min()) / np.ptp(ramp))[..., None]
        first, last = generator.uniform(0, 256, (2, channels))
        if generator.random() < 0.3:
            first, last = np.zeros(channels), np.full(channels, 255.0)
        values = first * (1 - ramp) + last * ramp
    values = values * np.ones((side, side, 3))
    return np.clip(values, 0, 255).astype(np.uint8)


def to_batch(images: list[Pixels]) -> Tensor:
    """float32 (images, 3, height, width) in [0, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def haarpsi(images: Tensor, references: Tensor) -> Tensor:
    """Haar wavelet similarity of each image to its reference, 1 where they are equal.

    Args:
        images, references: (batch, 3, height, width) in [0, 1].

    Source: Reisenhofer, Bosse, Kutyniok and Wiegand, "A Haar wavelet-based perceptual similarity
    index for image quality assessment" (2018).
    """
    matrix = images.new_tensor(
        [[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]]
    )
    first, second = (
        F.avg_pool2d(torch.einsum("oc,nchw->nohw", matrix, 255 * values), 2, ceil_mode=True)
        for values in (images, references)
    )
    ours = [_haar(first[:, :1], scale) for scale in (1, 2, 3)]
    theirs = [_haar(second[:, :1], scale) for scale in (1, 2, 3)]
    light = (_alike(ours[0], theirs[0]) + _alike(ours[1], theirs[1])) / 2
    weight = torch.maximum(ours[2], theirs[2])
    smooth = [F.avg_pool2d(F.pad(v[:, 1:], (0, 1, 0, 1)), 2, 1).abs() for v in (first, second)]
    likeness = torch.cat([light, _alike(*smooth).mean(1, keepdim=True)], 1)
    weights = torch.cat([weight, weight.mean(1, keepdim=True)], 1)
    mean = (torch.sigmoid(_HAAR_ALPHA * likeness) * weights).sum((1, 2, 3))
    mean = mean / (weights.sum((1, 2, 3)) + 1e-9)
    # Without any detail in both there is nothing to compare.
    mean = torch.where(
        weights.sum((1, 2, 3)) > 0, mean, torch.sigmoid(mean.new_tensor(_HAAR_ALPHA))
    )
    return (torch.logit(mean.clamp(1e-6, 1 - 1e-6)) / _HAAR_ALPHA).clamp(0, 1) ** 2


def _alike(first: Tensor, second: Tensor) -> Tensor:
    return (2 * first * second + _HAAR_C) / (first**2 + second**2 + _HAAR_C)


def _haar(plane: Tensor, scale: int) -> Tensor:
    side = 2**scale
    kernel = plane.new_full((side, side), 2.0**-scale)
    kernel[: side // 2] *= -1
    before = side // 2 - 1
    margin = (before, side - 1 - before, before, side - 1 - before)
    return F.conv2d(F.pad(plane, margin), torch.stack([kernel, kernel.T])[:, None]).abs()


def enlarged(path: Path, side: int, generator: np.random.Generator) -> tuple[Pixels, float]:
    """A crop that was enlarged, and how soft that made it."""
    factor = generator.uniform(1.1, 4.0)
    crop = Image.fromarray(random_crop(path, int(np.ceil(side / factor)), generator))
    filters = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
    chosen = filters[int(generator.integers(len(filters)))]
    return np.array(crop.resize((side, side), chosen)), float(
        np.interp(factor, _ENLARGED, _SOFTNESS)
    )


def severity(level: float) -> float:
    """From a level of damage to the severity that people see: 0.5 at level 3, clearly visible."""
    return float(np.interp(level, [0, 1, 2, 3, 4, 5], [0.0, 0.15, 0.32, 0.5, 0.75, 1.0]))
