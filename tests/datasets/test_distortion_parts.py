from __future__ import annotations

import colorsys

import numpy as np
import pytest

from qmamba.datasets.distortions import arrays, color_spaces, wavelet
from qmamba.datasets.distortions.color import saturation_hsv
from qmamba.datasets.distortions.spatial import _class_means
from tests.datasets.images import textured_image


@pytest.mark.parametrize("size", [(9, 14), (3, 2), (1, 1)])
def test_convolution_against_its_definition(size: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    values = generator.random((*size, 2)).astype(np.float32)
    kernel = generator.random((7, 5)).astype(np.float32)
    padded = np.pad(values, ((3, 3), (2, 2), (0, 0)), mode="symmetric")
    expected = np.zeros_like(values)
    for row in range(size[0]):
        for column in range(size[1]):
            window = padded[row : row + 7, column : column + 5]
            expected[row, column] = (window * kernel[::-1, ::-1, None]).sum(axis=(0, 1))
    np.testing.assert_allclose(arrays.convolve(values, kernel), expected, rtol=1e-4, atol=1e-5)


def test_kernels_are_means_of_the_declared_width() -> None:
    def spread(kernel: arrays.Floats) -> float:
        reach = kernel.shape[0] // 2
        y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
        assert kernel.sum() == pytest.approx(1.0, abs=1e-5)
        assert (kernel * x).sum() == pytest.approx(0.0, abs=1e-4)
        assert (kernel * y).sum() == pytest.approx(0.0, abs=1e-4)
        return float((kernel * (x * x + y * y)).sum())

    pixel = 1 / 6
    for sigma in (1.0, 3.0):
        expected = 2 * sigma**2 + pixel
        assert spread(arrays.gaussian_kernel(sigma)) == pytest.approx(expected, rel=0.03)
    for radius in (2.0, 4.5, 8.0):
        assert spread(arrays.disc_kernel(radius)) == pytest.approx(radius**2 / 2 + pixel, rel=0.03)
    for angle in (0.0, 0.7, 2.0):
        line = spread(arrays.line_kernel(10.0, angle))
        assert line == pytest.approx(10.0**2 / 12, rel=0.05)
    assert arrays.gaussian_kernel(0.05).max() == pytest.approx(1.0)


def test_lab_of_known_colors_and_back() -> None:
    colors = np.array([[[255, 0, 0], [255, 255, 255], [0, 0, 255], [119, 119, 119]]], np.uint8)
    expected = np.array(
        [[53.24, 80.09, 67.20], [100.0, 0.0, 0.0], [32.30, 79.19, -107.86], [50.03, 0.0, 0.0]]
    )
    np.testing.assert_allclose(color_spaces.pixels_to_lab(colors)[0], expected, atol=0.05)
    image = textured_image(0)
    back = arrays.to_pixels(
        color_spaces.lab_to_srgb(color_spaces.pixels_to_lab(image)) * np.float32(255.0)
    )
    assert np.array_equal(back, image)


def test_ycbcr_round_trip_and_luma() -> None:
    values = textured_image(0).astype(np.float32)
    ycbcr = color_spaces.rgb_to_ycbcr(values)
    np.testing.assert_allclose(ycbcr[..., 0], color_spaces.luma(values), rtol=1e-5)
    np.testing.assert_allclose(color_spaces.ycbcr_to_rgb(ycbcr), values, atol=1e-3)


def test_hsv_saturation_against_the_standard_library() -> None:
    image = textured_image(0, 12, 12)
    result = saturation_hsv(image, 0.4, np.random.default_rng(0))
    for before, after in zip(image.reshape(-1, 3), result.reshape(-1, 3), strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*(before / 255.0))
        expected = np.array(colorsys.hsv_to_rgb(hue, 0.4 * saturation, value)) * 255.0
        np.testing.assert_allclose(after, expected, atol=0.51)


@pytest.mark.parametrize("size", [(64, 64), (37, 53), (1, 1), (2, 3), (1, 9), (5, 2)])
def test_wavelet_reconstructs_and_keeps_energy(size: tuple[int, int]) -> None:
    planes = np.random.default_rng(0).standard_normal((3, *size)).astype(np.float32)
    bands = wavelet.decompose(planes)
    assert sum(band.size for band in bands) == planes.size
    np.testing.assert_allclose(wavelet.compose(bands), planes, atol=1e-5)
    if min(size) >= 32:
        energy = sum(float((band**2).sum()) for band in bands)
        assert energy == pytest.approx(float((planes**2).sum()), rel=0.1)


def test_wavelet_details_of_a_cubic_vanish_inside() -> None:
    ramp = (np.arange(64, dtype=np.float32) / 64.0) ** 3
    plane = np.broadcast_to(ramp, (1, 64, 64)).copy()
    _, horizontal, vertical, diagonal = wavelet.decompose(plane, depth=1)
    for band in (horizontal, vertical, diagonal):
        assert np.abs(band[:, :, 2:-3]).max() < 1e-5


def test_class_means_find_separate_clusters() -> None:
    histogram = np.zeros(256, np.float32)
    histogram[[10, 12]] = 50.0
    histogram[[100, 104]] = 20.0
    histogram[240] = 5.0
    np.testing.assert_allclose(_class_means(histogram, 3), [11.0, 102.0, 240.0])
