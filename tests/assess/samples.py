"""A tiny model on disk and images to score with it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from qmamba.checkpoints import save_model
from qmamba.models import ModelMetadata, QMamba, ScoreScale, create_model

SCALE = ScoreScale(
    name="test MOS", low=0, high=100, higher_is_better=True, target_mean=50, target_std=400
)
POLICY = {"name": "crops", "crop_size": 32, "crop_count": 5}


def tiny_model(**overrides: object) -> QMamba:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create_model("qmamba-nano", dims=(8, 16, 16, 16), depths=(1, 1, 1, 1), **overrides)
    assert isinstance(model, QMamba)
    return model.eval()


def save_tiny(folder: Path, score: ScoreScale | None = SCALE) -> Path:
    path = folder / "tiny.safetensors"
    metadata = ModelMetadata(
        name="tiny", score=score, policy=POLICY, training={"data": "noise", "terms": "none"}
    )
    save_model(tiny_model(), path, metadata=metadata)
    return path


def pixels(height: int = 80, width: int = 96, seed: int = 0) -> np.ndarray:
    """A smooth image with noise, uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(0, 1, height)[:, None, None] * np.linspace(0, 1, width)[None, :, None]
    values = 255 * ramp * rng.random(3) + 40 * seed * rng.random((height, width, 3))
    return values.clip(0, 255).astype(np.uint8)


def write_image(path: Path, height: int = 80, width: int = 96, seed: int = 0) -> Path:
    Image.fromarray(pixels(height, width, seed)).save(path, "PNG")
    return path


def encoded(height: int = 80, width: int = 96, seed: int = 0) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels(height, width, seed)).save(stream, "PNG")
    return stream.getvalue()
