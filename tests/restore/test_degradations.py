from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from qmamba.errors import ConfigError, ShapeError
from qmamba.restore.degradations import (
    Degradation,
    add_benchmark_noise,
    crop_to_multiple,
    enlarge,
    full_luma,
    jpeg,
    resize_bicubic,
    shrink,
    video_luma,
)
from tests.datasets.images import textured_image


def formula_image(side: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[:side, :side]
    return ((37 * y * y + 91 * x + 13 * y * x) % 256).astype(np.uint8)


# By the recipe that gives the pixels of MATLAB's Set5, see test_matlab_small_images.
SHRUNK = {
    2: [
        [70, 136, 123, 137, 138, 150],
        [110, 163, 151, 148, 141, 145],
        [132, 158, 102, 136, 126, 140],
        [105, 125, 142, 110, 115, 145],
        [101, 109, 151, 132, 60, 170],
        [115, 57, 118, 186, 133, 148],
    ],
    3: [[100, 137, 143, 143], [139, 136, 134, 140], [110, 133, 110, 134], [96, 114, 150, 138]],
    4: [[116, 140, 144], [130, 125, 132], [97, 136, 136]],
}
ENLARGED = [
    [0, 15, 62, 110, 160, 184],
    [0, 23, 77, 130, 181, 207],
    [11, 44, 109, 169, 223, 250],
    [57, 71, 99, 144, 205, 235],
    [134, 105, 47, 54, 127, 163],
    [173, 123, 24, 12, 88, 126],
]


@pytest.mark.parametrize("scale", SHRUNK)
def test_shrinking(scale: int) -> None:
    assert shrink(formula_image(12), scale).tolist() == SHRUNK[scale]


def test_enlarging() -> None:
    assert enlarge(formula_image(12)[:3, :3], 2).tolist() == ENLARGED


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_matlab_small_images(shared: Path, scale: int) -> None:
    folder = shared / "data" / "sr"
    names = sorted((folder / "Set5").iterdir())
    assert len(names) == 5
    for path in names:
        small = folder / "Set5_LR_bicubic" / f"X{scale}" / f"{path.stem}x{scale}.png"
        made = shrink(np.array(Image.open(path).convert("RGB")), scale)
        assert (made == np.array(Image.open(small).convert("RGB"))).all()


def test_rows_are_rounded_before_columns() -> None:
    image = formula_image(12)
    assert (shrink(image, 3) != shrink(image.T.copy(), 3).T).any()
    # Half of 255 is rounded up.
    halves = np.repeat(np.array([[0, 0, 255, 255]], np.uint8), 4, axis=0)
    assert shrink(halves, 4).tolist() == shrink(halves.T.copy(), 4).tolist() == [[128]]


def test_colors_are_resized_alone_and_flat_areas_stay_flat() -> None:
    image = textured_image(0, 24, 36)
    whole = shrink(image, 3)
    assert (whole[..., 1] == shrink(image[..., 1], 3)).all()
    assert (resize_bicubic(np.full((7, 9, 3), 201, np.uint8), 13, 4) == 201).all()
    assert (resize_bicubic(image, 24, 36) == image).all()


def test_odd_sides_are_cut_and_bad_arrays_refused() -> None:
    assert crop_to_multiple(np.zeros((7, 9), np.uint8), 4).shape == (4, 8)
    with pytest.raises(ShapeError, match="3 x 9"):
        shrink(np.zeros((3, 9), np.uint8), 4)
    with pytest.raises(ShapeError, match="float64"):
        shrink(np.zeros((8, 8)), 2)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="whole number"):
        shrink(np.zeros((8, 8), np.uint8), 0)


def test_noise_is_the_draw_of_the_literature() -> None:
    image = textured_image(1, 8, 10)
    noisy = add_benchmark_noise(image, 25)
    drawn = np.random.RandomState(0).normal(0, 25 / 255.0, image.shape)
    blue_first = image[..., ::-1].astype(np.float32) / 255.0 + drawn
    assert noisy.dtype == np.float32
    np.testing.assert_allclose(noisy, blue_first[..., ::-1], atol=1e-6)
    np.testing.assert_allclose(
        add_benchmark_noise(image[..., 0], 25) - image[..., 0] / np.float32(255.0),
        np.random.RandomState(0).normal(0, 25 / 255.0, (8, 10)),
        atol=1e-6,
    )
    with pytest.raises(ConfigError, match="sigma"):
        add_benchmark_noise(image, 300)


def test_jpeg_is_pillows() -> None:
    gray = textured_image(2, 24, 32)[..., 0]
    stream = io.BytesIO()
    Image.fromarray(gray).save(stream, "JPEG", quality=10)
    assert (jpeg(gray, 10) == np.array(Image.open(stream))).all()
    assert jpeg(textured_image(2, 17, 9), 40).shape == (17, 9, 3)
    with pytest.raises(ConfigError, match="quality"):
        jpeg(gray, 0)


def test_luma() -> None:
    colors = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [12, 200, 90]]], np.uint8)
    assert video_luma(colors).tolist() == [[16, 235, 81, 129]]
    assert full_luma(colors).tolist() == [[0, 255, 76, 131]]
    assert full_luma(colors[..., 0]).tolist() == [[0, 255, 255, 12]]
    with pytest.raises(ShapeError):
        video_luma(colors.astype(np.float32))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"task": "blur"}, "task"),
        ({"task": "sr", "scale": 1}, "2 to 8"),
        ({"task": "sr", "scale": 2, "sigma": (1, 2)}, "no sigma"),
        ({"task": "denoise"}, "needs a sigma"),
        ({"task": "denoise", "scale": 2, "sigma": (1, 2)}, "scale"),
        ({"task": "denoise", "sigma": (5, 2)}, "pair"),
        ({"task": "jpeg", "quality": (0, 20)}, "1 to 100"),
        ({"task": "jpeg", "quality": (10, 20), "channels": 2}, "channels"),
    ],
)
def test_impossible_degradations(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Degradation(**values)


DEGRADATIONS = (
    Degradation("sr", scale=3),
    Degradation("denoise", sigma=(0, 50)),
    Degradation("jpeg", quality=(10, 40), channels=1),
)


@pytest.mark.parametrize("degradation", DEGRADATIONS, ids=str)
def test_record_and_back(degradation: Degradation) -> None:
    assert Degradation.from_dict(degradation.to_dict()) == degradation
    with pytest.raises(ConfigError, match="fields"):
        Degradation.from_dict({"task": "sr"})


@pytest.mark.parametrize("degradation", DEGRADATIONS, ids=str)
def test_crops_depend_on_the_generator_alone(degradation: Degradation) -> None:
    side = (8 + 2 * degradation.margin) * degradation.scale
    region = degradation.clean(textured_image(3, side, side))
    first, again, other = (
        degradation.crop(region, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)
    )
    assert first[0].shape == (8, 8, degradation.channels)
    assert first[1].shape == (8 * degradation.scale, 8 * degradation.scale, degradation.channels)
    assert first[0].dtype == np.float32
    assert (first[0] == again[0]).all()
    assert (first[0] != other[0]).any() or degradation.task == "sr"


def test_a_crop_is_what_the_whole_small_image_has_there() -> None:
    degradation = Degradation("sr", scale=3)
    image = textured_image(4, 60, 60)
    region = image[12:48, 15:51]
    degraded, clean = degradation.crop(region, torch.Generator())
    assert (degraded * 255 == shrink(image, 3)[6:14, 7:15]).all()
    assert (clean == region[6:30, 6:30]).all()


def test_jpeg_blocks_begin_anywhere_in_a_crop() -> None:
    degradation = Degradation("jpeg", quality=(10, 10), channels=1)
    region = degradation.clean(textured_image(5, 24, 24))
    starts = set()
    for seed in range(100):
        _, clean = degradation.crop(region, torch.Generator().manual_seed(seed))
        starts |= {
            (top, left)
            for top in range(9)
            for left in range(9)
            if (clean == region[top : top + 16, left : left + 16]).all()
        }
    assert len({top % 8 for top, _ in starts}) == len({left % 8 for _, left in starts}) == 8


def test_noise_of_a_crop_has_the_strength_of_the_range() -> None:
    degradation = Degradation("denoise", sigma=(20, 30))
    region = np.full((64, 64, 3), 128, np.uint8)
    found = [
        float(degradation.crop(region, torch.Generator().manual_seed(seed))[0].std()) * 255
        for seed in range(20)
    ]
    assert 19.5 < min(found) < 22.5 and 27.5 < max(found) < 30.5


def test_benchmark_takes_the_hard_end() -> None:
    image = textured_image(6, 32, 32)
    gray = DEGRADATIONS[2].clean(image)
    expected = jpeg(gray[..., 0], 10).astype(np.float32) / np.float32(255)
    assert (DEGRADATIONS[2].benchmark(gray)[..., 0] == expected).all()
    noisy = DEGRADATIONS[1].benchmark(image)
    assert (noisy == add_benchmark_noise(image, 50)).all()
