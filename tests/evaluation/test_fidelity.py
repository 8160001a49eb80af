from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.signal import convolve2d
from torch import Tensor

from qmamba.errors import ConfigError, ShapeError
from qmamba.evaluation.metrics.fidelity import gmsd, luma, multiscale_ssim, psnr, ssim

Metric = Callable[[Tensor, Tensor], Tensor]
METRICS = [psnr, ssim, multiscale_ssim, gmsd]


def pair(*shape: int, noise: float = 0.1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A smooth random reference with texture, and a noisy version, float64 in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(*shape[:-2], 8, 8, generator=generator, dtype=torch.float64)
    smooth = torch.nn.functional.interpolate(coarse, shape[-2:], mode="bicubic").clamp(0, 1)
    texture = torch.rand(*shape, generator=generator, dtype=torch.float64)
    reference = 0.8 * smooth + 0.2 * texture
    change = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return (reference + noise * change).clamp(0, 1), reference


def window() -> np.ndarray:
    offsets = np.arange(-5, 6)
    profile = np.exp(-(offsets**2) / (2 * 1.5**2))
    return np.outer(profile, profile) / profile.sum() ** 2


def naive_ssim_terms(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Mean SSIM and mean contrast-structure term, window by window, on the 0..255 scale."""
    weight = window()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    total, structure = [], []
    for row in range(first.shape[0] - 10):
        for column in range(first.shape[1] - 10):
            x = 255 * first[row : row + 11, column : column + 11]
            y = 255 * second[row : row + 11, column : column + 11]
            mean_x, mean_y = (weight * x).sum(), (weight * y).sum()
            variance_x = (weight * (x - mean_x) ** 2).sum()
            variance_y = (weight * (y - mean_y) ** 2).sum()
            covariance = (weight * (x - mean_x) * (y - mean_y)).sum()
            term = (2 * covariance + c2) / (variance_x + variance_y + c2)
            structure.append(term)
            total.append(term * (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1))
    return float(np.mean(total)), float(np.mean(structure))


def test_ssim_against_the_definition() -> None:
    images, reference = pair(2, 3, 15, 13)
    gray_images, gray_reference = luma(images), luma(reference)
    for index in range(2):
        expected, _ = naive_ssim_terms(
            gray_images[index, 0].numpy(), gray_reference[index, 0].numpy()
        )
        assert ssim(images, reference)[index].item() == pytest.approx(expected, abs=1e-9)
        per_channel = [
            naive_ssim_terms(images[index, c].numpy(), reference[index, c].numpy())[0]
            for c in range(3)
        ]
        assert ssim(images, reference, channels="rgb")[index].item() == pytest.approx(
            np.mean(per_channel), abs=1e-9
        )


def test_multiscale_ssim_against_the_definition() -> None:
    images, reference = pair(1, 1, 163, 170)
    first, second = images[0, 0].numpy(), reference[0, 0].numpy()
    weights = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333]
    expected = 1.0
    for scale, exponent in enumerate(weights):
        maps = {
            key: convolve2d(a, window(), mode="valid")
            for key, a in {
                "x": first,
                "y": second,
                "xx": first * first,
                "yy": second * second,
                "xy": first * second,
            }.items()
        }
        structure = (2 * (maps["xy"] - maps["x"] * maps["y"]) + 0.03**2) / (
            maps["xx"] - maps["x"] ** 2 + maps["yy"] - maps["y"] ** 2 + 0.03**2
        )
        light = (2 * maps["x"] * maps["y"] + 0.01**2) / (maps["x"] ** 2 + maps["y"] ** 2 + 0.01**2)
        expected *= (structure * (light if scale == 4 else 1.0)).mean() ** exponent
        # imfilter(ones(2) / 4, 'symmetric') looks one pixel down and right; then every second.
        grown = (np.pad(a, ((0, 1), (0, 1)), mode="symmetric") for a in (first, second))
        first, second = (convolve2d(a, np.ones((2, 2)) / 4, "valid")[::2, ::2] for a in grown)
    assert multiscale_ssim(images, reference).item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("size", [(24, 30), (23, 31)])
def test_gmsd_against_the_definition(size: tuple[int, int]) -> None:
    images, reference = pair(1, 3, *size)
    kernel = np.array([[1, 0, -1]] * 3) / 3
    magnitudes = []
    for tensor in (images, reference):
        gray = 255 * luma(tensor)[0, 0].numpy()
        # MATLAB's conv2(.., 'same') keeps the part that starts one row and column later.
        mean = convolve2d(gray, np.ones((2, 2)) / 4)[1:, 1:][: size[0], : size[1]][::2, ::2]
        across = convolve2d(mean, kernel, mode="same")
        down = convolve2d(mean, kernel.T, mode="same")
        magnitudes.append(np.hypot(across, down))
    x, y = magnitudes
    expected = ((2 * x * y + 170) / (x**2 + y**2 + 170)).std(ddof=1)
    assert gmsd(images, reference).item() == pytest.approx(expected, abs=1e-9)


def test_psnr_of_known_errors() -> None:
    reference = torch.full((2, 3, 4, 5), 0.5)
    images = reference.clone()
    images[0] += 0.1
    assert psnr(images, reference)[0].item() == pytest.approx(20.0, abs=1e-4)
    assert psnr(images, reference)[1].item() == float("inf")
    assert psnr(images, reference, channels="luma")[0].item() == pytest.approx(20.0, abs=1e-4)
    gain = 20 * np.log10(255 / 219)
    assert psnr(images, reference, channels="video_luma")[0].item() == pytest.approx(
        20.0 + gain, abs=1e-4
    )


def test_luma_ranges() -> None:
    ends = torch.stack((torch.zeros(3, 1, 1), torch.ones(3, 1, 1)))
    torch.testing.assert_close(luma(ends).flatten(), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(
        255 * luma(ends, video_range=True).flatten(), torch.tensor([16.0, 235.0])
    )
    gray = torch.rand(2, 1, 3, 3)
    assert luma(gray, video_range=True) is gray


@pytest.mark.parametrize("metric", METRICS)
def test_symmetry_batches_and_monotone_noise(metric: Metric) -> None:
    values = []
    for noise in (0.01, 0.03, 0.1, 0.3):
        images, reference = pair(2, 3, 176, 161, noise=noise)
        value = metric(images, reference)
        assert value.shape == (2,)
        assert value.dtype == torch.float64
        torch.testing.assert_close(value, metric(reference, images))
        torch.testing.assert_close(value[1:], metric(images[1:], reference[1:]))
        torch.testing.assert_close(
            value.float(), metric(images.float(), reference.float()), rtol=1e-4, atol=1e-5
        )
        values.append(value.mean().item())
    steps = np.diff(values)
    assert (steps > 0).all() if metric is gmsd else (steps < 0).all()


def test_equal_images_get_the_best_value() -> None:
    _, reference = pair(1, 3, 170, 170)
    assert psnr(reference, reference).item() == float("inf")
    assert ssim(reference, reference).item() == pytest.approx(1.0, abs=1e-12)
    assert multiscale_ssim(reference, reference).item() == pytest.approx(1.0, abs=1e-12)
    assert gmsd(reference, reference).item() == pytest.approx(0.0, abs=1e-12)


def test_inverted_structure() -> None:
    _, reference = pair(1, 1, 176, 176)
    assert ssim(1 - reference, reference).item() < 0
    assert 0 <= multiscale_ssim(1 - reference, reference).item() < 0.1


@pytest.mark.parametrize("metric", [psnr, ssim, gmsd])
def test_gradients(metric: Metric) -> None:
    images, reference = pair(1, 3, 13, 12)
    assert torch.autograd.gradcheck(
        metric, (images.requires_grad_(), reference.requires_grad_()), fast_mode=True
    )


@pytest.mark.parametrize("metric", [ssim, multiscale_ssim, gmsd])
def test_gradients_stay_finite_on_flat_and_equal_images(metric: Metric) -> None:
    for images in (torch.full((1, 3, 161, 161), 0.5), pair(1, 3, 161, 161)[1].float()):
        leaf = images.clone().requires_grad_()
        metric(leaf, images).sum().backward()
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (torch.rand(3, 32, 32), torch.rand(3, 32, 32)),
        (torch.rand(1, 2, 32, 32), torch.rand(1, 2, 32, 32)),
        (torch.rand(1, 3, 32, 32), torch.rand(2, 3, 32, 32)),
        (torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32).double()),
        (torch.rand(1, 3, 32, 32).half(), torch.rand(1, 3, 32, 32).half()),
        (torch.zeros(1, 3, 0, 32), torch.zeros(1, 3, 0, 32)),
    ],
)
def test_other_tensors_are_refused(first: Tensor, second: Tensor) -> None:
    for metric in METRICS:
        with pytest.raises(ShapeError):
            metric(first, second)


@pytest.mark.parametrize(("metric", "side"), [(ssim, 11), (multiscale_ssim, 161), (gmsd, 4)])
def test_least_side(metric: Metric, side: int) -> None:
    images, reference = pair(1, 3, side, side)
    assert torch.isfinite(metric(images, reference)).all()
    with pytest.raises(ShapeError, match=f"at least {side} pixels"):
        metric(images[..., 1:], reference[..., 1:])


def test_unknown_channels_are_refused() -> None:
    images, reference = pair(1, 3, 12, 12)
    with pytest.raises(ConfigError, match="Unknown channels 'y'"):
        psnr(images, reference, channels="y")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scale", "decibels", "similarity"), [(2, 33.66, 0.9299), (4, 28.42, 0.8104)]
)
def test_bicubic_enlargement_of_set5(
    shared: Path, scale: int, decibels: float, similarity: float
) -> None:
    """The figures every super-resolution paper prints for bicubic enlargement of Set5."""
    folder = shared / "data" / "sr"
    results = []
    for path in sorted((folder / "Set5").glob("*.png")):
        (small_path,) = (folder / "Set5_LR_bicubic" / f"X{scale}").glob(f"{path.stem}*.png")
        small = Image.open(small_path).convert("RGB")
        size = (small.width * scale, small.height * scale)
        large = np.asarray(small.resize(size, Image.Resampling.BICUBIC))
        truth = np.asarray(Image.open(path).convert("RGB"))[: size[1], : size[0]]
        images, reference = (
            torch.from_numpy(a[scale:-scale, scale:-scale] / 255.0).permute(2, 0, 1)[None]
            for a in (large, truth)
        )
        results.append(
            [
                psnr(images, reference, channels="video_luma").item(),
                ssim(images, reference, channels="video_luma").item(),
            ]
        )
    mean = np.mean(results, axis=0)
    assert mean[0] == pytest.approx(decibels, abs=0.03)
    assert mean[1] == pytest.approx(similarity, abs=0.001)
