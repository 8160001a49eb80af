"""A small rated data set of images on the disk, and a scorer for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qmamba.assess import Scorer
from qmamba.datasets import RatedDataset, RatedImage
from qmamba.evaluation.quality.cache import PredictionCache, run_digest
from qmamba.models import ModelMetadata, ScoreScale
from tests.assess.samples import tiny_model, write_image

SCALE = ScoreScale(
    name="test MOS", low=0, high=100, higher_is_better=True, target_mean=50, target_std=400
)


def scorer(scale: ScoreScale = SCALE, **training: object) -> Scorer:
    metadata = ModelMetadata(name="tiny", score=scale, training=training, sha256="0" * 64)
    return Scorer(tiny_model(), metadata, policy="crops:size=32,count=2")


def rated(folder: Path, count: int = 12, name: str = "test", **options: object) -> RatedDataset:
    """Images of two damages, three levels, two per content; the score is 8 times the number."""
    folder.mkdir(exist_ok=True)
    images = tuple(
        RatedImage(
            name=f"{number}.png",
            path=write_image(folder / f"{number}.png", 34, 40, seed=number),
            mos=8.0 * number,
            content=f"scene {number // 2}",
            distortion=("blur", "noise")[number % 2],
            level=1 + number % 3,
        )
        for number in range(count)
    )
    return RatedDataset(name, images, (0, 100), score_name="test MOS", **options)  # type: ignore[arg-type]


def predicted(
    path: Path, model: Scorer, dataset: RatedDataset, raw: np.ndarray | list[float]
) -> PredictionCache:
    """A cache in which the predictions for a data set stand already."""
    cache = PredictionCache(path)
    for image, value in zip(dataset, raw, strict=True):
        cache.put(run_digest(model), image.path, float(value))
    return cache
