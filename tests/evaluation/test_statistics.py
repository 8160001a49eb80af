from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from qmamba.errors import ImageError, ShapeError
from qmamba.evaluation.metrics.generalized_gaussian import (
    fit_asymmetric_gaussian,
    fit_generalized_gaussian,
)
from qmamba.evaluation.metrics.natural_scenes import (
    BRISQUE_NAMES,
    STATISTIC_NAMES,
    brisque_features,
    image_statistics,
)

GRAY = 255.0


def texture(batch: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth colored noise with 8-bit values, a stand-in for photographs."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, height // 4 + 2, width // 4 + 2, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    fine = 0.05 * torch.randn(batch, 3, height, width, generator=generator)
    return ((smooth + fine).clamp(0, 1) * GRAY).round() / GRAY


def gray(values: Tensor) -> Tensor:
    """(height, width) gray levels as a batch of one image."""
    return (values / GRAY).expand(1, 3, -1, -1).contiguous()


def statistic(images: Tensor, name: str) -> Tensor:
    return image_statistics(images)[:, STATISTIC_NAMES.index(name)]


def gamma_samples(shape: float, count: int, seed: int) -> Tensor:
    """Magnitudes of a generalized Gaussian of scale 1: |x|^shape is gamma distributed."""
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.gamma(1.0 / shape, size=count) ** (1.0 / shape))


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0, 4.0])
def test_generalized_gaussian_recovers_its_parameters(shape: float) -> None:
    magnitude = 3.0 * gamma_samples(shape, 400_000, seed=1)
    found_shape, found_variance = fit_generalized_gaussian(magnitude)
    variance = 9.0 * math.gamma(3 / shape) / math.gamma(1 / shape)
    assert float(found_shape) == pytest.approx(shape, rel=0.03)
    assert float(found_variance) == pytest.approx(variance, rel=0.03)


@pytest.mark.parametrize(
    ("shape", "left", "right"), [(0.7, 1.0, 1.0), (1.0, 0.5, 2.0), (2.0, 3.0, 1.0), (3.0, 1.0, 1.5)]
)
def test_asymmetric_gaussian_recovers_its_parameters(
    shape: float, left: float, right: float
) -> None:
    magnitude = gamma_samples(shape, 600_000, seed=2)
    side = torch.from_numpy(np.random.default_rng(3).random(magnitude.numel()))
    samples = torch.where(side < left / (left + right), -left * magnitude, right * magnitude)
    found = [float(value) for value in fit_asymmetric_gaussian(samples)]
    unit_variance = math.gamma(3 / shape) / math.gamma(1 / shape)
    mean = (right - left) * math.gamma(2 / shape) / math.gamma(1 / shape)
    assert found[0] == pytest.approx(shape, rel=0.03)
    assert found[1] == pytest.approx(mean, abs=0.03)
    assert found[2] == pytest.approx(left**2 * unit_variance, rel=0.03)
    assert found[3] == pytest.approx(right**2 * unit_variance, rel=0.03)
    assert float(samples.mean()) == pytest.approx(mean, abs=0.03)


def test_fits_follow_the_scale_and_the_sign_of_samples() -> None:
    samples = torch.randn(3, 5000, dtype=torch.float64) + 0.2
    shape, variance = fit_generalized_gaussian(samples)
    scaled_shape, scaled_variance = fit_generalized_gaussian(7 * samples)
    torch.testing.assert_close(scaled_shape, shape)
    torch.testing.assert_close(scaled_variance, 49 * variance)
    shape, mean, left, right = fit_asymmetric_gaussian(samples)
    mirrored = fit_asymmetric_gaussian(-7 * samples)
    expected = (shape, -7 * mean, 49 * right, 49 * left)
    for found, wanted in zip(mirrored, expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_fits_of_degenerate_samples_stay_in_range() -> None:
    for samples in (torch.zeros(2, 10), torch.ones(2, 10), -torch.ones(2, 10), torch.zeros(2, 0)):
        for result in (*fit_generalized_gaussian(samples), *fit_asymmetric_gaussian(samples)):
            assert result.shape == (2,)
            assert result.isfinite().all()
    shape, mean, left, right = fit_asymmetric_gaussian(torch.full((10,), 2.0))
    assert (float(shape), float(left), float(right)) == (10.0, 0.0, 4.0)
    assert float(mean) > 0


def test_first_scale_follows_the_definition_in_plain_numpy() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    special = pytest.importorskip("scipy.special")
    images = texture(1, 61, 48, seed=4).double()
    luma = (images[0] * GRAY).numpy().transpose(1, 2, 0) @ np.array([0.299, 0.587, 0.114])
    axis = np.arange(-3, 4)
    window = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * (7 / 6) ** 2))
    window /= window.sum()
    mean = ndimage.correlate(luma, window, mode="nearest")
    deviation = np.sqrt(np.abs(ndimage.correlate(luma**2, window, mode="nearest") - mean**2))
    coefficients = (luma - mean) / (deviation + 1)

    candidates = np.arange(0.2, 10, 1e-4)
    log_gamma = special.gammaln
    ratios = np.exp(
        2 * log_gamma(2 / candidates) - log_gamma(1 / candidates) - log_gamma(3 / candidates)
    )

    def closest_shape(ratio: float) -> float:
        return float(candidates[np.argmin(np.abs(ratios - ratio))])

    square = np.mean(coefficients**2)
    expected = [closest_shape(np.mean(np.abs(coefficients)) ** 2 / square), square]
    height, width = coefficients.shape
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        pairs = [
            coefficients[row, column] * coefficients[row + down, column + right]
            for row in range(height - down)
            for column in range(max(0, -right), width - max(0, right))
        ]
        product = np.array(pairs)
        left_deviation = np.sqrt(np.mean(product[product < 0] ** 2))
        right_deviation = np.sqrt(np.mean(product[product > 0] ** 2))
        balance = left_deviation / right_deviation
        ratio = np.mean(np.abs(product)) ** 2 / np.mean(product**2)
        ratio *= (balance**3 + 1) * (balance + 1) / (balance**2 + 1) ** 2
        shape = closest_shape(ratio)
        gammas = [math.gamma(order / shape) for order in (1, 2, 3)]
        product_mean = (right_deviation - left_deviation) * gammas[1] / gammas[0]
        product_mean *= math.sqrt(gammas[0] / gammas[2])
        expected += [shape, product_mean, left_deviation**2, right_deviation**2]
    np.testing.assert_allclose(brisque_features(images)[0, :18].numpy(), expected, atol=2e-4)


def test_names_match_the_columns() -> None:
    images = texture(2, 40, 40)
    assert brisque_features(images).shape == (2, len(BRISQUE_NAMES)) == (2, 36)
    assert image_statistics(images).shape == (2, len(STATISTIC_NAMES))
    assert len(set(BRISQUE_NAMES)) == 36
    assert len(set(STATISTIC_NAMES)) == len(STATISTIC_NAMES)


def test_batch_equals_single_images() -> None:
    images = texture(3, 67, 51)
    for function in (brisque_features, image_statistics):
        single = torch.cat([function(image.unsqueeze(0)) for image in images])
        torch.testing.assert_close(function(images), single, rtol=1e-4, atol=1e-5)


def test_precision_follows_the_input() -> None:
    images = texture(1, 64, 64)
    for function in (brisque_features, image_statistics):
        exact = function(images.double())
        assert exact.dtype == torch.float64
        found = function(images)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), exact, rtol=2e-3, atol=2e-3)
        assert function(images.half()).dtype == torch.float32


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 9), (9, 1), (2, 3), (5, 4), (8, 8), (9, 17), (33, 31)]
)
def test_features_are_finite_on_tiny_odd_and_flat_images(size: tuple[int, int]) -> None:
    height, width = size
    images = torch.cat(
        (texture(1, height, width), torch.zeros(1, 3, *size), torch.ones(1, 3, *size))
    )
    brisque, statistics = brisque_features(images), image_statistics(images)
    assert brisque.isfinite().all()
    assert statistics.isfinite().all()
    shapes = brisque[:, [name.endswith("shape") for name in BRISQUE_NAMES]]
    assert shapes.min() >= 0.2
    assert shapes.max() <= 10.0


@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_flat_image_has_no_texture(level: float) -> None:
    images = torch.full((1, 3, 41, 37), level)
    brisque = dict(zip(BRISQUE_NAMES, brisque_features(images)[0].tolist(), strict=True))
    for name, value in brisque.items():
        assert value == pytest.approx(0.2 if name.endswith("shape") else 0.0, abs=1e-7), name
    flat = dict(zip(STATISTIC_NAMES, image_statistics(images)[0].tolist(), strict=True))
    assert flat.pop("luma_mean") == pytest.approx(255 * level, abs=1e-3)
    for name in ("log_laplacian_1", "log_laplacian_2", "log_laplacian_3"):
        assert flat.pop(name) == pytest.approx(math.log(1e-3), abs=1e-3)
    assert flat.pop("dark_share") == float(level == 0.0)
    assert flat.pop("bright_share") == float(level == 1.0)
    for name, value in flat.items():
        assert value == pytest.approx(0.0, abs=1e-3), name


def test_mirroring_swaps_the_diagonals_only() -> None:
    images = texture(2, 64, 48)
    features, mirrored = brisque_features(images), brisque_features(images.flip(3))
    order = [
        BRISQUE_NAMES.index(
            name.replace("antidiagonal", "other")
            .replace("diagonal", "antidiagonal")
            .replace("other", "diagonal")
        )
        for name in BRISQUE_NAMES
    ]
    torch.testing.assert_close(mirrored[:, order], features, rtol=1e-3, atol=1e-4)


def test_brightness_shift_leaves_brisque_alone() -> None:
    images = 0.25 + 0.5 * texture(1, 64, 64)
    torch.testing.assert_close(
        brisque_features(images + 0.1), brisque_features(images), rtol=1e-3, atol=1e-4
    )


def test_halving_changes_the_second_scale_only() -> None:
    images = texture(1, 64, 64)
    smooth, plain = brisque_features(images), brisque_features(images, antialias=False)
    torch.testing.assert_close(plain[:, :18], smooth[:, :18])
    # The low-pass takes noise away: its half size differs from the full one by less grain.
    variance = BRISQUE_NAMES.index("scale2_variance")
    assert plain[0, variance] > smooth[0, variance]


def test_blur_makes_neighbors_agree() -> None:
    generator = torch.Generator().manual_seed(5)
    noise = gray((127 + 25 * torch.randn(128, 128, generator=generator)).clamp(0, 255))
    right = BRISQUE_NAMES.index("scale1_horizontal_right_variance")
    left = BRISQUE_NAMES.index("scale1_horizontal_left_variance")
    blurred = torch.nn.functional.avg_pool2d(noise, 5, 1, 2, count_include_pad=False)
    sharp, soft = brisque_features(noise)[0], brisque_features(blurred)[0]
    assert soft[right] / soft[left] > 2 * sharp[right] / sharp[left]


def test_laplacian_and_gradient_know_a_ramp_and_a_chequer() -> None:
    ramp = gray(torch.arange(64.0).repeat(64, 1))
    assert float(statistic(ramp, "gradient_mean")) == pytest.approx(63 / 64, abs=1e-3)
    chequer = gray(100.0 + 10.0 * ((torch.arange(32)[:, None] + torch.arange(32)) % 2))
    inner = 40.0**2
    assert float(statistic(chequer, "log_laplacian_1")) == pytest.approx(math.log(inner), abs=0.1)


def test_color_statistics_on_known_colors() -> None:
    red = torch.zeros(1, 3, 8, 8)
    red[:, 0] = 1.0
    # rg = 255, yb = 127.5 everywhere: no spread, only the cast counts.
    assert float(statistic(red, "colorfulness")) == pytest.approx(
        0.3 * math.hypot(255, 127.5), rel=1e-4
    )
    assert float(statistic(red, "saturation_mean")) == 1.0
    assert float(statistic(red, "luma_mean")) == pytest.approx(0.299 * 255, rel=1e-4)


def test_exposure_statistics_on_two_halves() -> None:
    halves = torch.zeros(16, 16)
    halves[:, 8:] = 255.0
    images = gray(halves)
    assert float(statistic(images, "luma_entropy")) == pytest.approx(1.0, abs=1e-5)
    assert float(statistic(images, "luma_contrast")) == pytest.approx(127.5, rel=1e-4)
    assert float(statistic(images, "luma_skew")) == pytest.approx(0.0, abs=1e-5)
    assert float(statistic(images, "dark_share")) == pytest.approx(0.5)
    assert float(statistic(images, "bright_share")) == pytest.approx(0.5)


def test_noise_estimate_recovers_the_deviation() -> None:
    generator = torch.Generator().manual_seed(6)
    for deviation in (2.0, 10.0):
        noise = 127 + deviation * torch.randn(200, 200, generator=generator)
        found = float(statistic(gray(noise), "noise"))
        assert found == pytest.approx(deviation, rel=0.03)


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0])
def test_spectral_slope_recovers_the_exponent(exponent: float) -> None:
    generator = torch.Generator().manual_seed(7)
    side = 192
    spectrum = torch.fft.rfft2(torch.randn(side, side, generator=generator))
    rows, columns = torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)
    frequency = torch.hypot(rows, columns.expand(side, -1)).clamp(min=1 / side)
    field = torch.fft.irfft2(spectrum * frequency ** (-exponent / 2), (side, side))
    images = gray(127 + 30 * field / field.abs().max())
    assert float(statistic(images, "spectral_slope")) == pytest.approx(-exponent, abs=0.2)


def test_blockiness_sees_the_grid_and_only_the_grid() -> None:
    generator = torch.Generator().manual_seed(8)
    blocks = 40 * torch.rand(8, 8, generator=generator) + 100
    blocky = gray(blocks.repeat_interleave(8, 0).repeat_interleave(8, 1))
    shifted = blocky.roll((4, 4), (2, 3))
    noise = gray(100 + 40 * torch.rand(64, 64, generator=generator))
    assert float(statistic(blocky, "blockiness")) > 2
    assert float(statistic(shifted, "blockiness")) < 0
    assert abs(float(statistic(noise, "blockiness"))) < 0.1


@pytest.mark.parametrize("function", [brisque_features, image_statistics])
def test_wrong_input_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    for images in (
        torch.zeros(3, 8, 8),
        torch.zeros(1, 1, 8, 8),
        torch.zeros(0, 3, 8, 8),
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
    ):
        with pytest.raises(ShapeError):
            function(images)
    for images in (torch.full((1, 3, 8, 8), 200.0), torch.full((1, 3, 8, 8), math.nan)):
        with pytest.raises(ImageError):
            function(images)
