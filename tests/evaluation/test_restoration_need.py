"""Which restoration an image needs, from severities that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qmamba.assess.native.reasons import Reasons
from qmamba.evaluation.restoration.need import RestorationNeed, restoration_need
from tests.conftest import REPOSITORY


def need(sigma: float, blocks: float) -> RestorationNeed:
    return RestorationNeed(Reasons(*(0.0,) * 7), sigma, blocks)


@pytest.mark.parametrize(
    ("sigma", "blocks", "tasks"),
    [
        (3.9, 0.03, ()),  # texture that looks like noise, never compressed
        (3.9, 0.09, ()),  # the same, saved with quality 90
        (1.5, 0.15, ()),  # a smooth photograph, saved with quality 95
        (5.9, 0.0, ()),
        (6.0, 0.0, ("denoise",)),
        (0.0, 0.45, ("jpeg",)),
        (5.1, 0.29, ("jpeg",)),  # noise of 10 under texture, saved with quality 60
        (12.0, 0.4, ("denoise",)),
        (12.0, 0.5, ("denoise", "jpeg")),
        (6.0, 1.1, ("denoise", "jpeg")),
    ],
)
def test_what_is_done(sigma: float, blocks: float, tasks: tuple[str, ...]) -> None:
    assert need(sigma, blocks).tasks == tasks


def test_a_noisy_jpeg_of_a_phone_is_denoised(tmp_path: Path) -> None:
    with Image.open(REPOSITORY / "examples" / "coffee.jpg") as image:
        clean = np.asarray(image.convert("RGB").resize((300, 200), Image.Resampling.BOX))
    sigma = np.sqrt(60 + clean / 2)
    noisy = clean + np.random.default_rng(0).normal(size=clean.shape) * sigma
    for name, pixels in (("clean.jpg", clean), ("noisy.jpg", noisy)):
        saved = Image.fromarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8))
        saved.save(tmp_path / name, quality=75)
    assert "denoise" in restoration_need(tmp_path / "noisy.jpg").tasks
    assert "denoise" not in restoration_need(tmp_path / "clean.jpg").tasks
