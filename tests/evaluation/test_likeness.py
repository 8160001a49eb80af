"""Whether two images show the same thing: on the example photographs, and on Kodak's."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qmamba.datasets.distortions import DISTORTIONS, Pixels, distort
from qmamba.evaluation.comparison.likeness import LEAST_LIKENESS, likeness
from tests.conftest import REPOSITORY

EXAMPLES = REPOSITORY / "examples"


def photograph(path: Path, width: int = 300) -> Pixels:
    with Image.open(path) as image:
        height = round(image.height * width / image.width)
        return np.asarray(image.convert("RGB").resize((width, height)))


@pytest.mark.parametrize("kind", sorted(DISTORTIONS))
@pytest.mark.parametrize("name", ["cat.jpg", "coffee.jpg"])
def test_a_damaged_photograph_shows_the_same(name: str, kind: str) -> None:
    # The strengths are for images of about this size.
    image = photograph(EXAMPLES / name, 500)
    damaged = distort(image, kind, 5, np.random.default_rng(0))
    assert likeness(image, damaged) == likeness(damaged, image) > LEAST_LIKENESS


def test_other_sizes_tones_and_colors_show_the_same() -> None:
    image = photograph(EXAMPLES / "cat.jpg")
    assert likeness(image, image) == pytest.approx(1)
    assert likeness(image, photograph(EXAMPLES / "cat.jpg", 38)) > 0.9
    assert likeness(image, 255 - image) > 0.99
    assert likeness(image, np.roll(image, 1, axis=2)) > 0.6
    assert likeness(image, np.repeat(image[..., 1:2] // 8 + 100, 3, axis=2)) > 0.8


def test_two_photographs_show_different_things() -> None:
    cat, coffee = (photograph(EXAMPLES / name) for name in ("cat.jpg", "coffee.jpg"))
    assert likeness(cat, coffee) < LEAST_LIKENESS
    assert likeness(cat, photograph(EXAMPLES / "coffee_blurred.jpg")) < LEAST_LIKENESS
    noise = np.random.default_rng(0).integers(0, 256, cat.shape, dtype=np.uint8)
    assert likeness(cat, noise) < LEAST_LIKENESS


@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_image_without_structure_says_nothing(value: int) -> None:
    flat = np.full((40, 50, 3), value, dtype=np.uint8)
    assert likeness(flat, photograph(EXAMPLES / "cat.jpg")) == 1
    assert likeness(flat, flat) == 1
    assert likeness(flat[:1, :1], flat) == 1


def test_photographs_of_kodak(shared: Path) -> None:
    folder = shared / "data" / "sr" / "Kodak24"
    if not folder.is_dir():
        pytest.skip("needs Kodak24")
    photographs = [photograph(path) for path in sorted(folder.glob("*.png"))[:12]]
    found = [likeness(first, second) for first, second in combinations(photographs, 2)]
    assert np.mean(np.array(found) < LEAST_LIKENESS) > 0.97
    for kind in ("gaussian_blur", "white_noise", "jpeg", "overexposure"):
        for image in photographs:
            assert likeness(image, distort(image, kind, 5, np.random.default_rng(1))) > 0.5
