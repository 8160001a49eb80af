"""The embedded restoration networks make a shipped photograph better."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from qmamba import Restorer
from qmamba.evaluation.metrics.fidelity import psnr
from qmamba.inference.precision import Precision
from qmamba.restore.degradations import (
    TaskName,
    add_benchmark_noise,
    crop_to_multiple,
    enlarge,
    jpeg,
    shrink,
)

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


def restored(pixels: np.ndarray, name: str, precision: Precision = "auto") -> np.ndarray:
    planes = torch.from_numpy(np.asarray(pixels, np.float32) / 255)
    planes = planes.reshape(*planes.shape[:2], -1).permute(2, 0, 1)[None]
    result = Restorer.from_pretrained(name, precision=precision).restore_tensor(planes)[0]
    result = result.permute(1, 2, 0)
    return 255 * result.numpy()


@pytest.mark.parametrize(("scale", "gain"), [(2, 1.0), (3, 1.0), (4, 1.0)])
def test_super_resolution(original: np.ndarray, scale: int, gain: float) -> None:
    original = crop_to_multiple(original, scale)
    small = shrink(original, scale)
    result = restored(small, f"mambair-nano-x{scale}-w4a4")
    assert decibels(result, original) > decibels(enlarge(small, scale), original) + gain


def test_denoising(original: np.ndarray) -> None:
    noisy = 255 * add_benchmark_noise(original, 25)
    result = restored(noisy, "mambair-nano-denoise-w4a4")
    assert decibels(result, original) > decibels(noisy.clip(0, 255), original) + 7


# The values of the codes without the ranges of the activations gain a little less.
@pytest.mark.parametrize(("precision", "gain"), [("auto", 0.3), ("fp32", 0.2)])
@pytest.mark.parametrize("quality", [10, 40])
def test_jpeg(original: np.ndarray, quality: int, precision: Precision, gain: float) -> None:
    gray = np.asarray(Image.fromarray(original).convert("L"))
    blocky = jpeg(gray, quality)
    result = restored(blocky, "mambair-nano-jpeg-w4a4", precision).reshape(gray.shape)
    assert decibels(result, gray) > decibels(blocky, gray) + gain


@pytest.fixture(scope="module")
def photograph() -> np.ndarray:
    """The whole photograph, halved."""
    with Image.open(PHOTOGRAPH) as image:
        return np.asarray(image.convert("RGB").reduce(2))


@pytest.mark.parametrize(("sigma", "gain"), [(5, 1.0), (15, 5.0), (25, 7.0), (50, 8.0)])
def test_blind_denoising(photograph: np.ndarray, sigma: float, gain: float) -> None:
    """Of 8-bit files, with the noise that is measured in them."""
    noisy = np.round(255 * add_benchmark_noise(photograph, sigma)).clip(0, 255).astype(np.uint8)
    result = Restorer.from_pretrained(task="denoise").restore(noisy)
    assert result.model == "mambair-nano-denoise-blind-w4a4"
    assert decibels(result.pixels, photograph) > decibels(noisy, photograph) + gain


@pytest.mark.parametrize("quality", [10, 40, 80])
def test_color_jpeg(photograph: np.ndarray, quality: int) -> None:
    blocky = jpeg(photograph, quality)[3:, 5:]
    result = Restorer.from_pretrained(task="jpeg").restore(blocky)
    assert result.model == "mambair-nano-jpeg-color-w4a4"
    gain = decibels(result.pixels, photograph[3:, 5:]) - decibels(blocky, photograph[3:, 5:])
    assert gain > 0.3


@pytest.mark.parametrize("task", ["denoise", "jpeg"])
def test_no_harm(photograph: np.ndarray, task: TaskName) -> None:
    """A clean photograph stays what it is."""
    result = Restorer.from_pretrained(task=task).restore(photograph)
    assert decibels(result.pixels, photograph) > 42


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_real_super_resolution(original: np.ndarray, scale: int) -> None:
    """Of small images that were compressed, better than the network of clean ones."""
    original = crop_to_multiple(original, scale)
    small = jpeg(shrink(original, scale), 60)
    real, usual = (restored(small, f"mambair-nano-x{scale}-{kind}w4a4") for kind in ("real-", ""))
    assert decibels(real, original) > decibels(usual, original) + 0.2
