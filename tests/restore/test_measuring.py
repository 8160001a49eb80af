"""What is measured in an image, against what was put into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from qmamba import Restorer, create_model
from qmamba.errors import CheckpointError, ConfigError, ShapeError
from qmamba.restore.degradations import jpeg
from qmamba.restore.measuring import Measured, Measuring, block_strength, estimate_noise
from qmamba.restore.measuring.measured import taken

PHOTOGRAPH = Path(__file__).parents[2] / "examples" / "cat.jpg"
CONFIG: Any = create_model("mambair-nano-denoise-blind", dim=8, depths=(1,)).config


@pytest.fixture(scope="module")
def photograph() -> NDArray[np.uint8]:
    """Halved, so that the artifacts of its own JPEG are gone."""
    with Image.open(PHOTOGRAPH) as image:
        return np.asarray(image.convert("RGB").reduce(2))


def noisy(clean: NDArray[np.uint8], dark: float, bright: float) -> NDArray[np.uint8]:
    """Noise whose variance is a line in brightness, cut and rounded to 8 bits."""
    unit = clean / 255.0
    sigma = np.sqrt(dark**2 + (bright**2 - dark**2) * unit)
    drawn = np.random.default_rng(1).normal(size=clean.shape) * sigma
    return np.clip(np.round(clean + drawn), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("sigma", [3.0, 8.0, 15.0, 25.0, 50.0])
def test_gaussian_noise(photograph: NDArray[np.uint8], sigma: float) -> None:
    level = estimate_noise(noisy(photograph, sigma, sigma))
    assert level.sigma(0.5) == pytest.approx(sigma, rel=0.12, abs=0.6)


@pytest.mark.parametrize(("dark", "bright"), [(3.0, 15.0), (5.0, 25.0)])
def test_noise_that_grows_with_brightness(
    photograph: NDArray[np.uint8], dark: float, bright: float
) -> None:
    level = estimate_noise(noisy(photograph, dark, bright))
    assert level.sigma(0.5) == pytest.approx(((dark**2 + bright**2) / 2) ** 0.5, rel=0.15)
    assert level.bright > 1.5 * level.dark


def test_clean_images_have_none(photograph: NDArray[np.uint8]) -> None:
    assert estimate_noise(photograph).sigma(0.5) < 2.0
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None, None], (200, 200, 3))
    assert estimate_noise(ramp).sigma(0.5) < 0.5
    white = np.full((100, 100, 3), 255, np.uint8)
    assert estimate_noise(white).sigma(0.5) == 0
    assert estimate_noise(white[:5, :5]).sigma(0.5) == 0


def test_all_depths_agree(photograph: NDArray[np.uint8]) -> None:
    pixels = noisy(photograph, 10, 10)
    found = [
        estimate_noise(each).sigma(0.5)
        for each in (pixels, pixels.astype(np.uint16) * 257, pixels.astype(np.float32) / 255)
    ]
    assert found == pytest.approx([found[0]] * 3, abs=0.02)
    gray = estimate_noise(pixels[..., :1]).sigma(0.5)
    assert gray == pytest.approx(10, rel=0.15)
    for wrong in (pixels[..., 0], pixels.astype(np.int64), pixels[:0]):
        with pytest.raises(ShapeError, match="An image to measure"):
            estimate_noise(wrong)


@pytest.mark.parametrize("quality", [60, 75, 90])
@pytest.mark.parametrize("channels", [1, 3])
def test_noise_under_jpeg_is_what_it_was_before(
    photograph: NDArray[np.uint8], quality: int, channels: int
) -> None:
    """High frequencies alone would say that little is left, and strong noise hides the blocks."""

    def measured(sigma: float) -> float:
        pixels = noisy(photograph, sigma, sigma)[..., :channels].squeeze(2 if channels == 1 else ())
        saved = jpeg(pixels, quality).reshape(*pixels.shape[:2], channels)
        return estimate_noise(saved, jpeg=True).sigma(0.5)

    for sigma in (12.0, 16.0, 25.0):
        assert measured(sigma) == pytest.approx(sigma, rel=0.35)
    assert measured(0.0) < 2.5


def test_blocks_tell_that_noise_was_under_jpeg(photograph: NDArray[np.uint8]) -> None:
    saved = jpeg(noisy(photograph, 10, 10), 60)
    assert estimate_noise(saved).sigma(0.5) == estimate_noise(saved, jpeg=True).sigma(0.5) > 5


@pytest.mark.parametrize("shift", [(0, 0), (3, 5)])
def test_blocks(photograph: NDArray[np.uint8], shift: tuple[int, int]) -> None:
    """More for lower quality, wherever the grid begins, and next to nothing without."""
    top, left = shift
    found = [block_strength(jpeg(photograph, quality)[top:, left:]) for quality in (90, 60, 20)]
    clean = block_strength(photograph[top:, left:])
    assert clean is not None and clean < 0.03
    assert None not in found and 0.05 < found[0] < found[1] < found[2]  # type: ignore[operator]
    assert block_strength(photograph[:40]) is None
    assert block_strength(np.full((80, 80, 1), 9, np.uint8)) == 0


def test_little_noise_changes_little() -> None:
    image, restored = torch.full((3, 2, 2), 0.5), torch.zeros(3, 2, 2)
    noise = torch.tensor([[[0.0, 0.5], [1.0, 2.0]]]) / 255
    found = taken(image, restored, noise, 1.0)[0]
    assert torch.allclose(found, torch.tensor([[0.5, 0.375], [0.25, 0.0]]))
    assert torch.equal(taken(image, restored, None, 0.0), image)
    assert torch.equal(taken(image, restored, None, 1.0), restored)


def test_strength_and_known_noise(photograph: NDArray[np.uint8]) -> None:
    pixels = noisy(photograph, 10, 10)
    usual, half, known = (
        Measuring(CONFIG, sigma, strength).measure(pixels, None)
        for sigma, strength in ((None, 1.0), (None, 0.5), (10.0, 1.0))
    )
    assert usual.noise is not None and half.noise is not None and known.noise is not None
    assert torch.allclose(half.noise, usual.noise / 2)
    assert torch.allclose(known.noise, torch.full_like(known.noise, 10 / 255))
    assert "times 0.5" in half.notes[0] and known.notes == ("noise of deviation 10 taken as given",)
    tile = usual.cut(slice(5, 9), slice(2, 4))
    assert tile.noise is not None and torch.equal(tile.noise, usual.noise[:, 5:9, 2:4])
    assert Measured().cut(slice(0, 1), slice(0, 1)) == Measured()


def test_what_cannot_be_measured_for() -> None:
    plain = create_model("mambair-nano-denoise", dim=8, depths=(1,))
    with pytest.raises(ConfigError, match="takes no noise map"):
        Restorer(plain, strength=0.5)
    with pytest.raises(ConfigError, match="strength must be 0 to 4"):
        Measuring(CONFIG, strength=5)
    with pytest.raises(ConfigError, match="0 to 255"):
        Measuring(CONFIG, sigma=-1)
    with pytest.raises(CheckpointError, match="2 conditions for denoise"):
        Restorer(create_model("mambair-nano-denoise", dim=8, depths=(1,), condition_channels=2))


def test_maps_go_with_tiles_flips_and_alpha(photograph: NDArray[np.uint8]) -> None:
    """A network that gives its noise map back, in every way that an image can take."""

    model = create_model("mambair-nano-denoise-blind", dim=8, depths=(1,))
    pixels = noisy(photograph[:48, :64], 4, 20)
    whole = Restorer(model, sigma=None).restore(pixels).pixels.astype(int)
    layers = np.dstack([pixels, pixels[..., 0]])
    for options in ({"tile": 32}, {"ensemble": True}):
        other = Restorer(model, **options).restore(pixels).pixels.astype(int)
        assert other.shape == whole.shape
    given = Restorer(model, alpha="restore").restore(layers)
    assert given.alpha is not None and given.alpha.shape == (48, 64)
    nothing = Restorer(model, strength=0.0).restore(pixels)
    assert np.array_equal(nothing.pixels, pixels)
    gray = Restorer(model).restore(pixels[..., 0])
    assert gray.pixels.shape == (48, 64, 1)
