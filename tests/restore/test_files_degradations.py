"""Damage as files have it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qmamba.errors import ConfigError
from qmamba.restore.degradations import Degradation, NoiseLevel, jpeg, shrink
from qmamba.restore.degradations.files import (
    CLEAN_SHARE,
    JPEG_FILE_MARGIN,
    blurred,
    compressed_file,
    noisy_file,
    small_file,
)

DRAWS = 200


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def region(side: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[:side, :side]
    gray = 128 + 60 * np.sin(x / 3) * np.cos(y / 4)
    return np.stack([gray, gray[::-1], 255 - gray], axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    "degradation",
    [
        Degradation("denoise", sigma=(0, 50), real=True),
        Degradation("jpeg", quality=(5, 95), real=True),
        Degradation("sr", 2, real=True),
        Degradation("sr", 4, real=True),
    ],
    ids=str,
)
def test_crops(degradation: Degradation) -> None:
    """Sizes, ranges and repeatability; a stated share is clean."""
    side = 16
    source = region((side + 2 * degradation.margin) * degradation.scale)
    clean_ones = 0
    for seed in range(DRAWS):
        degraded, clean = degradation.crop(source, generator(seed))
        assert degraded.shape == (side, side, 3 + degradation.condition_channels)
        assert clean.shape == (side * degradation.scale,) * 2 + (3,)
        assert degraded.dtype == np.float32 and np.isfinite(degraded).all()
        if degradation.scale == 1:
            same = np.abs(degraded[..., :3] * 255 - clean).max() < 0.5
            clean_ones += bool(same)
    again, _ = degradation.crop(source, generator(DRAWS - 1))
    assert np.array_equal(again, degraded)
    if degradation.scale == 1:
        assert 0.5 * CLEAN_SHARE < clean_ones / DRAWS < 1.7 * CLEAN_SHARE
    assert Degradation.from_dict(degradation.to_dict()) == degradation


def test_older_files_do_not_say_real() -> None:
    stored = Degradation("denoise", sigma=(25, 25)).to_dict()
    del stored["real"]
    assert Degradation.from_dict(stored).real is False
    with pytest.raises(ConfigError, match="leave gray out"):
        Degradation("jpeg", quality=(5, 95), channels=1, real=True)


def test_the_map_tells_the_noise() -> None:
    """Deviation of what was added, against the map, over draws of one flat gray."""
    flat = np.full((48, 48, 3), 128, np.uint8)
    ratios = []
    for seed in range(60):
        noisy, told = noisy_file(flat, (5, 40), generator(seed))
        difference = noisy - np.float32(128 / 255)
        if np.abs(difference).max() > 1e-3:
            ratios.append(difference.std() / told.mean())
    assert len(ratios) > 40
    assert 0.95 < np.median(ratios) < 1.05
    assert np.percentile(ratios, 90) < 1.35


def test_noise_grows_with_brightness() -> None:
    level = NoiseLevel(3.0, 4.0)
    assert level.sigma(0.0) == 3 and level.sigma(1.0) == 4 and level.sigma(2.0) == 4
    assert level.sigma(0.5) == pytest.approx(12.5**0.5)
    steps = np.repeat(np.array([0.0, 1.0], np.float32), 20)[None, :, None].repeat(20, 0)
    told = level.map(steps)
    assert told.dtype == np.float32 and told.shape == (20, 40)
    assert told[10, 0] == pytest.approx(3 / 255) and told[10, -1] == pytest.approx(4 / 255)
    assert level.scaled(0.0).map(steps).max() == 0
    with pytest.raises(ConfigError, match="dark=-1"):
        NoiseLevel(-1.0, 0.0)


def test_blocks_begin_anywhere() -> None:
    """Rows of a crop at which a grid of 8 begins, over draws."""
    found = set()
    for seed in range(150):
        _, (top, left) = compressed_file(
            region(16 + 2 * JPEG_FILE_MARGIN), (30, 30), generator(seed)
        )
        found |= {top % 8, left % 8}
        assert 8 <= top <= 2 * JPEG_FILE_MARGIN and 8 <= left <= 2 * JPEG_FILE_MARGIN
    assert found == set(range(8))


def test_subsampling_of_chroma() -> None:
    source = region(32)
    full, half = (jpeg(source, 90, subsampling=kind).astype(float) for kind in (0, 2))
    assert np.abs(full - source).mean() < np.abs(half - source).mean()
    with pytest.raises(ConfigError, match="0, 1 or 2"):
        jpeg(source, 90, subsampling=3)


def test_small_files_stay_in_place() -> None:
    """No resizer moves the image: a ramp keeps its middle."""
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None] * 3, (64, 64, 3)).copy()
    expected = shrink(ramp, 2).astype(float)
    for seed in range(40):
        small = small_file(ramp, 2, generator(seed)).astype(float)
        assert abs((small - expected)[8:-8, 8:-8].mean()) < 0.8


def test_blur() -> None:
    """A point becomes the Gaussian, and nothing is lost."""
    point = np.zeros((21, 21, 1), np.uint8)
    point[10, 10] = 255
    found = blurred(point, 1.0)[..., 0].astype(float)
    assert found[10, 10] == pytest.approx(255 / (2 * np.pi), abs=1)
    assert found.sum() == pytest.approx(255, abs=12)
    assert np.array_equal(found, found.T)
    flat = np.full((9, 9, 3), 77, np.uint8)
    assert np.array_equal(blurred(flat, 2.0), flat)
