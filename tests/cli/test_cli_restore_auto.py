"""`qmamba restore --task auto`: what each image needs, and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from qmamba.cli import app
from qmamba.images import read_layers
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    with Image.open(REPOSITORY / "examples" / "coffee.jpg") as image:
        return np.asarray(image.convert("RGB").reduce(2))[:160, :200]


def noisy(clean: np.ndarray, deviation: float) -> Image.Image:
    drawn = np.random.default_rng(0).normal(0, deviation, clean.shape)
    return Image.fromarray(np.clip(np.round(clean + drawn), 0, 255).astype(np.uint8))


def test_it_says_what_it_does(tmp_path: Path, clean: np.ndarray) -> None:
    """Noise is removed, blocks are removed, and a clean image is left as it was."""
    Image.fromarray(clean).save(tmp_path / "a.png")
    noisy(clean, 25).save(tmp_path / "b.png")
    Image.fromarray(clean).save(tmp_path / "c.jpg", quality=10)
    (tmp_path / "d.png").write_bytes(b"no image")
    result = CliRunner().invoke(app, ["restore", str(tmp_path), "--task", "auto"])
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert "a.png: Noise 0." in lines[0] and lines[0].endswith(": left as it was.")
    assert "(clearly visible)" in lines[1] and lines[1].endswith(": noise is removed.")
    assert "b-restored.png" in lines[2] and "noise of deviation" in lines[2]
    assert lines[3].endswith(": JPEG artifacts are removed.")
    assert "c-restored.png" in lines[4] and "JPEG blocks of strength" in lines[4]
    assert lines[5].startswith("error: ") and "d.png" in lines[5]
    assert "2 images restored, 1 left unchanged, 1 failed" in result.stderr
    assert not (tmp_path / "a-restored.png").exists()


def test_noise_and_blocks_are_both_removed(tmp_path: Path, clean: np.ndarray) -> None:
    path = tmp_path / "phone.jpg"
    noisy(clean, 10).save(path, quality=60)
    found: dict[str, float] = {}
    for task in ("auto", "denoise", "jpeg"):
        output = tmp_path / f"{task}.png"
        arguments = ["restore", str(path), "-o", str(output), "--task", task]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        error = read_layers(output).colors.astype(float) - clean
        found[task] = float(np.mean(error**2))
        if task == "auto":
            sentence, line = result.stdout.splitlines()
            assert sentence.endswith(": noise is removed, then JPEG artifacts are.")
            assert "noise of deviation" in line and "JPEG blocks of strength" in line
    assert found["auto"] < min(found["denoise"], found["jpeg"])
