"""Spatial distortions: jitter, displaced patches, pixelation, tone quantization, color blocks."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from qmamba.datasets.distortions.arrays import Floats, Pixels, to_pixels

# Sizes in KADID-10k refer to its images; coverage is kept when an image has another area.
_KADID_AREA = 512 * 384


def jitter(image: Pixels, amount: float, generator: np.random.Generator) -> Pixels:
    """Every pixel fetched from a random place, five Gaussian steps of ``amount`` pixels away.

    The five independent warps of KADID-10k are drawn as one with their total variance.
    """
    height, width = image.shape[:2]
    steps = generator.standard_normal((height, width, 2), dtype=np.float32)
    steps *= np.float32(amount * math.sqrt(5.0))
    size = np.array([width, height], dtype=np.float32)
    indices = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    grid = (2 * (indices + steps) + 1) / size - 1
    planes = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None]
    warped = functional.grid_sample(
        planes,
        torch.from_numpy(grid.astype(np.float32))[None],
        mode="bilinear",
        padding_mode="reflection",
        align_corners=False,
    )
    return to_pixels(warped[0].permute(1, 2, 0).contiguous().numpy())


def displaced_patches(image: Pixels, coverage: float, generator: np.random.Generator) -> Pixels:
    """Patches of 16 x 16 pixels copied to a place at most 8 away, over ``coverage`` of the area.

    This is the non-eccentricity patch of TID2013 and KADID-10k.
    """
    height, width = image.shape[:2]
    side = max(1, min(16, height // 2, width // 2))
    count = max(1, round(coverage * height * width / side**2))
    room = np.array([height - side, width - side])
    draws = generator.random((count, 4))
    sources = np.floor(draws[:, :2] * (room + 1)).astype(np.int64)
    moves = np.rint((draws[:, 2:] - 0.5) * side).astype(np.int64)
    targets = np.clip(sources + moves, 0, room)
    result = image.copy()
    for (top, left), (to_top, to_left) in zip(sources.tolist(), targets.tolist(), strict=True):
        patch = image[top : top + side, left : left + side]
        result[to_top : to_top + side, to_left : to_left + side] = patch
    return result


def pixelate(image: Pixels, scale: float, generator: np.random.Generator) -> Pixels:
    """Nearest-neighbor reduction to ``scale`` times the size and back."""
    height, width = image.shape[:2]
    small = (max(1, round(scale * width)), max(1, round(scale * height)))
    reduced = Image.fromarray(image).resize(small, Image.Resampling.NEAREST)
    return np.array(reduced.resize((width, height), Image.Resampling.NEAREST))


def _class_means(histogram: Floats, classes: int) -> Floats:
    """Means (at most ``classes``) of the split of 256 intensities with least variance within.

    This is Otsu's criterion for several thresholds, solved exactly by Fisher's dynamic program.
    """
    mass = np.concatenate(([0.0], np.cumsum(histogram)))
    moment = np.concatenate(([0.0], np.cumsum(histogram * np.arange(256))))
    # gain[i, j]: what intensities i..j-1 as one class add to the variance between classes.
    weight = mass[None, :] - mass[:, None]
    sums = moment[None, :] - moment[:, None]
    gain = np.divide(sums * sums, weight, out=np.zeros_like(sums), where=weight > 0)
    gain[np.tril_indices(257, -1)] = -np.inf
    best = gain[0]
    starts = []
    for _ in range(classes - 1):
        totals = best[:, None] + gain
        start = totals.argmax(axis=0)
        best = totals[start, np.arange(257)]
        starts.append(start)
    edges = [256]
    for start in reversed(starts):
        edges.append(int(start[edges[-1]]))
    bounds = np.array([0, *reversed(edges)])
    filled = np.diff(mass[bounds]) > 0
    return (np.diff(moment[bounds])[filled] / np.diff(mass[bounds])[filled]).astype(np.float32)


def quantization(image: Pixels, classes: float, generator: np.random.Generator) -> Pixels:
    """Intensities of all channels reduced to ``classes`` (rounded) values: banding."""
    histogram = np.bincount(image.ravel(), minlength=256).astype(np.float32)
    means = _class_means(histogram, round(classes))
    nearest = np.abs(np.arange(256)[:, None] - means[None, :]).argmin(axis=1)
    return np.take(to_pixels(means[nearest]), image)


def color_blocks(image: Pixels, count: float, generator: np.random.Generator) -> Pixels:
    """``count`` squares of random colors at random places (32 x 32 at 512 x 384 pixels).

    A fractional count draws its last square with that fraction of the area.
    """
    height, width = image.shape[:2]
    full = 32.0 * math.sqrt(height * width / _KADID_AREA)
    draws = generator.random((math.ceil(count), 5))
    result = image.copy()
    for index, (down, right, *color) in enumerate(draws.tolist()):
        side = max(1, round(full * math.sqrt(min(1.0, count - index))))
        top, left = round(down * max(0, height - side)), round(right * max(0, width - side))
        value = np.floor(np.asarray(color) * 256.0).astype(np.uint8)
        result[top : top + side, left : left + side] = value
    return result
