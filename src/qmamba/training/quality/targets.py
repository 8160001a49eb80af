"""Scores of people as what a network learns, and its outputs back as scores.

Every data set is brought to mean 0 and deviation 1 over its training part. Of one data set the
network learns the scores in their own direction, and its output comes back on their scale. Of
several it learns quality, higher is better, and its output comes back on a common scale from 0 to
100 on which 50 is the mean training image of every set and 15 points are one deviation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmamba.datasets import RatedDataset
from qmamba.errors import DataError
from qmamba.models import ScoreScale

COMMON_MEAN = 50.0
"""Where the mean training image of a data set lies on the common scale."""
COMMON_STD = 15.0
"""Points of the common scale that one deviation of a data set spans."""


@dataclass(frozen=True)
class Target:
    """The linear map between the scores of a data set and what the network learns.

    ``learned = (score - mean) / std``, with the sign changed where `turned`.
    """

    name: str
    """What the scores are."""
    scale: tuple[float, float]
    """(low, high) of the scores."""
    higher_is_better: bool
    """Direction of the scores."""
    mean: float
    """Mean score of the training part."""
    std: float
    """Deviation of the training part, positive."""
    turned: bool = False
    """Whether the direction is changed, so that a higher target is a better image."""

    @property
    def factor(self) -> float:
        """Score points that one unit of the network's output stands for; negative if turned."""
        return -self.std if self.turned else self.std

    def learned(self, scores: NDArray[np.float64]) -> NDArray[np.float32]:
        """Targets of scores, of the same shape."""
        return ((scores - self.mean) / self.factor).astype(np.float32)

    def score_scale(self) -> ScoreScale:
        """How outputs become scores of this data set; only for a target that is not turned."""
        low, high = self.scale
        return ScoreScale(self.name, low, high, self.higher_is_better, self.mean, self.std)

    def from_common(self) -> dict[str, Any]:
        """The map from the common scale, as JSON: ``score = offset + factor * common``."""
        factor = self.factor / COMMON_STD
        return {
            "name": self.name,
            "scale": list(self.scale),
            "higher_is_better": self.higher_is_better,
            "offset": self.mean - factor * COMMON_MEAN,
            "factor": factor,
        }


def fit_target(dataset: RatedDataset, train: Sequence[int], *, quality: bool = False) -> Target:
    """The target of a data set from the scores of its training part alone.

    Args:
        dataset: the rated images.
        train: positions of the training part.
        quality: learn quality, so that a higher target is a better image.

    Raises:
        DataError: fewer than two images, or all their scores are equal.
    """
    scores = dataset.scores[list(train)]
    if scores.size < 2:
        raise DataError(
            f"The training part of {dataset.name!r} has {scores.size} images and training needs at"
            " least 2; give more images or a larger share."
        )
    if scores.min() == scores.max():
        raise DataError(
            f"Every score in the training part of {dataset.name!r} is {scores[0]:g}, so there is"
            " nothing to learn; check the score column."
        )
    return Target(
        name=dataset.score_name,
        scale=dataset.scale,
        higher_is_better=dataset.higher_is_better,
        mean=float(scores.mean()),
        std=float(scores.std()),
        turned=quality and not dataset.higher_is_better,
    )


def common_scale() -> ScoreScale:
    """How outputs of a network that learned several data sets become common quality."""
    return ScoreScale("common quality", 0.0, 100.0, True, COMMON_MEAN, COMMON_STD)
