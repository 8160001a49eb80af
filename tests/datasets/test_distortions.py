from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, features

from qmamba.datasets.distortions import (
    DISTORTIONS,
    FAMILIES,
    UNAVAILABLE,
    distort,
    random_distortion_chain,
)
from qmamba.errors import ConfigError, ImageError
from tests.datasets.images import textured_image

NAMES = list(DISTORTIONS)
LEVELS = (1, 2, 3, 4, 5)
COLOR_ONLY = {"saturation_hsv", "saturation_lab", "color_diffusion"}


def psnr(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    error = ((first.astype(np.float64) - second) ** 2).mean()
    return float("inf") if error == 0 else float(10.0 * np.log10(255.0**2 / error))


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.uint8]]:
    return [textured_image(seed) for seed in range(3)]


def test_catalog_has_the_kadid_families_and_more() -> None:
    sizes = {family: 0 for family in FAMILIES}
    for kind in DISTORTIONS.values():
        sizes[kind.family] += 1
    for name in UNAVAILABLE:
        sizes["capture" if name == "webp" else "compression"] += 1
    assert sizes.pop("capture") == 7
    assert sizes == {
        "blur": 3,
        "color": 5,
        "compression": 2,
        "noise": 5,
        "brightness": 3,
        "spatial": 5,
        "sharpness_contrast": 2,
    }
    assert all(kind.description.endswith(".") for kind in DISTORTIONS.values())


@pytest.mark.parametrize("name", NAMES)
def test_every_level_changes_the_image_reproducibly(
    name: str, images: list[NDArray[np.uint8]]
) -> None:
    original = images[0].copy()
    for level in LEVELS:
        first = distort(images[0], name, level, np.random.default_rng(level))
        second = distort(images[0], name, level, np.random.default_rng(level))
        assert first.dtype == np.uint8
        assert first.shape == original.shape
        assert first.flags.c_contiguous and first.flags.writeable
        assert np.array_equal(first, second)
        assert not np.array_equal(first, original)
        assert np.array_equal(images[0], original)


@pytest.mark.parametrize("name", NAMES)
def test_fidelity_falls_with_the_level(name: str, images: list[NDArray[np.uint8]]) -> None:
    levels = np.arange(1.0, 5.01, 0.5)
    means = [
        np.mean(
            [
                psnr(distort(image, name, level, np.random.default_rng(seed)), image)
                for seed, image in enumerate(images * 2)
            ]
        )
        for level in levels
    ]
    steps = np.diff(means)
    # Half levels may leave a rounded count or codec quality unchanged.
    assert (steps <= 1e-9).all(), dict(zip(levels, means, strict=True))
    assert (means[0] - means[-1]) > 3.0
    assert means[0] > 24.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(37, 53), (8, 8), (3, 90), (1, 1)])
def test_any_size(name: str, size: tuple[int, int]) -> None:
    image = textured_image(5, *size)
    for level in (1, 3.3, 5):
        result = distort(image, name, level, np.random.default_rng(1))
        assert result.shape == (*size, 3)
        assert result.dtype == np.uint8


@pytest.mark.parametrize("name", NAMES)
def test_gray_images(name: str) -> None:
    gray = np.repeat(textured_image(7, 64, 64)[..., :1], 3, axis=2)
    result = distort(gray, name, 4, np.random.default_rng(2))
    if name in COLOR_ONLY:
        assert np.abs(result.astype(int) - gray).max() <= 1
    else:
        assert not np.array_equal(result, gray)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0, 255])
def test_flat_black_and_white(name: str, value: int) -> None:
    flat = np.full((32, 32, 3), value, dtype=np.uint8)
    result = distort(flat, name, 5, np.random.default_rng(2))
    assert result.shape == flat.shape
    if DISTORTIONS[name].family == "blur":
        assert np.array_equal(result, flat)


def test_read_only_and_strided_images() -> None:
    image = textured_image(3, 64, 64)[::2, ::-1]
    image.setflags(write=False)
    for name in NAMES:
        expected = distort(image.copy(), name, 3, np.random.default_rng(0))
        assert np.array_equal(distort(image, name, 3, np.random.default_rng(0)), expected)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_interpolated_between_levels(name: str) -> None:
    kind = DISTORTIONS[name]
    assert [kind.parameter(level) for level in LEVELS] == pytest.approx(kind.levels)
    sign = np.sign(kind.levels[-1] - kind.levels[0])
    fine = [kind.parameter(level) for level in np.linspace(1, 5, 41)]
    assert (sign * np.diff(fine) > 0).all()
    middle = kind.parameter(1.5)
    if kind.spacing == "log":
        assert middle == pytest.approx(np.sqrt(kind.levels[0] * kind.levels[1]))
    else:
        assert middle == pytest.approx((kind.levels[0] + kind.levels[1]) / 2)


@pytest.mark.parametrize("level", [0.99, 5.01, float("nan"), -1.0])
def test_a_level_outside_the_scale_is_refused(level: float) -> None:
    with pytest.raises(ConfigError, match=r"outside 1\.\.5"):
        distort(textured_image(0, 16, 16), "jpeg", level, np.random.default_rng(0))


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="known are gaussian_blur"):
        distort(textured_image(0, 16, 16), "jpg", 1, np.random.default_rng(0))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 8, 3), np.float32),
    ],
)
def test_other_arrays_are_refused(image: NDArray[np.uint8]) -> None:
    with pytest.raises(ImageError, match="uint8 of shape"):
        distort(image, "lens_blur", 1, np.random.default_rng(0))


def test_chain_is_reproducible_and_replayable() -> None:
    image = textured_image(1, 48, 64)
    lengths = set()
    for seed in range(60):
        damaged, steps = random_distortion_chain(image, np.random.default_rng(seed), 3)
        again, same = random_distortion_chain(image, np.random.default_rng(seed), 3)
        assert np.array_equal(damaged, again)
        assert steps == same
        assert damaged.shape == image.shape
        families = [DISTORTIONS[name].family for name, _ in steps]
        assert len(set(families)) == len(families)
        assert all(1.0 <= level <= 5.0 for _, level in steps)
        lengths.add(len(steps))
    assert lengths == {1, 2, 3}


@pytest.mark.parametrize("max_length", [0, 9])
def test_chain_length_is_checked(max_length: int) -> None:
    with pytest.raises(ConfigError, match="max_length"):
        random_distortion_chain(textured_image(1, 16, 16), np.random.default_rng(0), max_length)


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow lacks OpenJPEG")
@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_jpeg2000_loses_as_much_as_the_codec(level: int) -> None:
    ratio = DISTORTIONS["jpeg2000"].levels[level - 1]
    differences = []
    for seed in range(3):
        image = textured_image(seed, 256, 256)
        stream = io.BytesIO()
        options = {"quality_mode": "rates", "quality_layers": [ratio], "irreversible": True}
        Image.fromarray(image).save(stream, "JPEG2000", mct=1, no_jp2=True, **options)
        coded = np.asarray(Image.open(stream))
        ours = distort(image, "jpeg2000", level, np.random.default_rng(0))
        differences.append(psnr(ours, image) - psnr(coded, image))
        assert psnr(ours, coded) > psnr(coded, image)
    assert abs(np.mean(differences)) < 1.0


def test_noise_strength_is_the_declared_variance() -> None:
    gray = np.full((256, 256, 3), 128, dtype=np.uint8)
    for name in ("white_noise", "multiplicative_noise"):
        kind = DISTORTIONS[name]
        noisy = distort(gray, name, 3, np.random.default_rng(0)).astype(np.float64) - 128.0
        scale = 255.0 if name == "white_noise" else 128.0
        assert (noisy / scale).var() == pytest.approx(kind.levels[2], rel=0.05)
    changed = distort(gray, "impulse_noise", 3, np.random.default_rng(0)) != 128
    assert changed.mean() == pytest.approx(DISTORTIONS["impulse_noise"].levels[2], rel=0.1)


def test_quantizations_leave_the_declared_number_of_values() -> None:
    image = textured_image(2, 128, 128)
    for level in LEVELS:
        banded = distort(image, "quantization", level, np.random.default_rng(0))
        assert len(np.unique(banded)) == DISTORTIONS["quantization"].levels[level - 1]
        palette = distort(image, "color_quantization", level, np.random.default_rng(0))
        colors = np.unique(palette.reshape(-1, 3), axis=0)
        assert len(colors) <= DISTORTIONS["color_quantization"].levels[level - 1]


def test_motion_blur_spares_the_direction_of_motion() -> None:
    y, x = np.mgrid[:128, :128]
    waves = [
        np.rint(127.5 + 100.0 * np.sin(0.8 * (np.cos(angle) * x + np.sin(angle) * y)))
        for angle in np.linspace(0.0, np.pi, 12, endpoint=False)
    ]
    contrasts = [
        distort(
            np.repeat(wave[..., None], 3, axis=2).astype(np.uint8),
            "motion_blur",
            4,
            np.random.default_rng(3),
        )[20:-20, 20:-20].std()
        for wave in waves
    ]
    assert max(contrasts) > 60.0
    assert min(contrasts) < 30.0
