from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from qmamba import Restorer
from qmamba.images import read_layers
from qmamba.restore.margins import MARGIN, Margins, margins_of, needs_margin
from tests.restore.stand_ins import identity, smooth

COLORS = [(0, 255, 0), (255, 255, 255), (0, 0, 0), (200, 30, 90)]


@pytest.fixture(scope="module")
def restorers() -> dict[str, Restorer]:
    return {
        "x2": Restorer.from_pretrained(scale=2),
        "x3": Restorer.from_pretrained(scale=3),
        "x4": Restorer.from_pretrained(scale=4),
        "jpeg": Restorer.from_pretrained(task="jpeg"),
        "denoise": Restorer.from_pretrained(task="denoise"),
    }


@pytest.mark.parametrize(
    ("name", "side"),
    [
        *(("x2", side) for side in range(1, 17)),
        *((name, side) for name in ("x3", "x4", "jpeg", "denoise") for side in (1, 2, 3, 7, 16)),
    ],
)
def test_flat_images_stay_flat(name: str, side: int, restorers: dict[str, Restorer]) -> None:
    """Also their corners; the denoiser leaves a few levels of the noise that it expects."""
    restorer = restorers[name]
    allowed = 10 if name == "denoise" else 4
    color = COLORS[side % len(COLORS)]
    for shape in [(side, side), (side, 17)] if side < 4 else [(side, side)]:
        image = np.full((*shape, 3), color, np.uint8)
        result = restorer.restore(image).pixels
        assert result.shape == (restorer.scale * shape[0], restorer.scale * shape[1], 3)
        assert np.abs(result.astype(int) - color).max() <= allowed, shape


@pytest.mark.parametrize("name", ["x2", "x3", "x4"])
def test_thin_rows_are_what_a_wider_image_gives(name: str, restorers: dict[str, Restorer]) -> None:
    row = smooth(1, 64)
    restorer = restorers[name]
    wide = restorer.restore(np.repeat(row, 33, axis=0)).pixels
    thin = restorer.restore(row).pixels
    inside = wide[16 * restorer.scale : 17 * restorer.scale].astype(float)
    assert np.sqrt(np.square(thin - inside).mean()) < 4
    column = restorer.restore(row.swapaxes(0, 1)).pixels.swapaxes(0, 1)
    assert np.sqrt(np.square(column - inside).mean()) < 4


def test_cases(shared: Path, restorers: dict[str, Restorer]) -> None:
    for path in sorted((shared / "cases" / "thin-pictures").glob("*.png")):
        original = read_layers(path).colors
        result = restorers["x2"].restore(path).pixels
        averaged = result.reshape(original.shape[0], 2, original.shape[1], 2, 3).mean((1, 3))
        assert np.sqrt(np.square(averaged - original).mean()) < 8, path.name


def test_saturated_corners_of_a_larger_image(restorers: dict[str, Restorer]) -> None:
    image = np.full((64, 64, 3), (0, 255, 0), np.uint8)
    image[20:40, 20:40] = (90, 20, 200)
    result = restorers["x2"].restore(image).pixels.astype(int)
    for corner in (result[:12, :12], result[-12:, :12], result[:12, -12:], result[-12:, -12:]):
        assert np.abs(corner - (0, 255, 0)).max() <= 4


def test_which_images_need_a_margin() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert not needs_margin(noise, 255)
    assert needs_margin(noise[:15], 255) and needs_margin(noise[:, :15], 255)
    flat = noise.copy()
    flat[-8:, :8] = (7, 9, 200)
    assert needs_margin(flat, 255)
    assert not needs_margin(noise.astype(np.uint16) * 257, 65535)


def test_margins_are_cut_off_again() -> None:
    image = torch.arange(2 * 3 * 5.0).reshape(2, 3, 5)
    margins = Margins(4, 1, 0, 7)
    extended = margins.extend(image)
    assert extended.shape == (2, 8, 12)
    assert torch.equal(margins.cut(extended, 1), image)
    assert torch.equal(extended[:, 4:7, 5], image[:, :, 4])


def test_only_borders_of_the_image_are_mirrored() -> None:
    assert margins_of(slice(0, 10), slice(5, 30), 40, 30) == (MARGIN, 0, 0, MARGIN)


def test_ordinary_images_are_left_alone() -> None:
    network = identity()
    Restorer(network).restore(
        np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    )
    assert network.calls == [(1, 3, 40, 30)]
    network.calls.clear()
    Restorer(network).restore(np.zeros((40, 30, 3), np.uint8))
    assert network.calls == [(1, 3, 40 + 2 * MARGIN, 30 + 2 * MARGIN)]
