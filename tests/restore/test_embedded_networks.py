"""The embedded restoration networks make a shipped photograph better."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qmamba import Restorer
from qmamba.evaluation.metrics.fidelity import psnr
from qmamba.restore.degradations import add_benchmark_noise, enlarge, jpeg, shrink

PHOTOGRAPH = Path(__file__).parents[2] / "examples" / "cat.jpg"


@pytest.fixture(scope="module")
def original() -> np.ndarray:
    """uint8 (height, width, 3); halved, so that the artifacts of its own JPEG are gone."""
    with Image.open(PHOTOGRAPH) as image:
        small = image.convert("RGB").reduce(2)
    return np.asarray(small.crop((40, 20, 200, 140)))


def decibels(result: np.ndarray, original: np.ndarray) -> float:
    a, b = (torch.from_numpy(np.asarray(x, np.float32) / 255) for x in (result, original))
    a, b = (x.reshape(*x.shape[:2], -1).permute(2, 0, 1)[None] for x in (a, b))
    return float(psnr(a.clamp(0, 1), b))


def restored(pixels: np.ndarray, name: str) -> np.ndarray:
    planes = torch.from_numpy(np.asarray(pixels, np.float32) / 255)
    planes = planes.reshape(*planes.shape[:2], -1).permute(2, 0, 1)[None]
    result = Restorer.from_pretrained(name).restore_tensor(planes)[0].permute(1, 2, 0)
    return 255 * result.numpy()


@pytest.mark.parametrize(("scale", "gain"), [(2, 1.0), (4, 1.0)])
def test_super_resolution(original: np.ndarray, scale: int, gain: float) -> None:
    small = shrink(original, scale)
    result = restored(small, f"mambair-nano-x{scale}-w4a4")
    assert decibels(result, original) > decibels(enlarge(small, scale), original) + gain


def test_denoising(original: np.ndarray) -> None:
    noisy = 255 * add_benchmark_noise(original, 25)
    result = restored(noisy, "mambair-nano-denoise-w4a4")
    assert decibels(result, original) > decibels(noisy.clip(0, 255), original) + 7


@pytest.mark.parametrize("quality", [10, 40])
def test_jpeg(original: np.ndarray, quality: int) -> None:
    gray = np.asarray(Image.fromarray(original).convert("L"))
    blocky = jpeg(gray, quality)
    result = restored(blocky, "mambair-nano-jpeg-w4a4").reshape(gray.shape)
    assert decibels(result, gray) > decibels(blocky, gray) + 0.3
