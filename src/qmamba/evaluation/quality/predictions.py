"""Predictions of a scorer for rated images, and the table of them."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from qmamba.assess import Scorer, score_paths
from qmamba.cells import path_cell, text_cell
from qmamba.datasets import RatedDataset, RatedImage
from qmamba.errors import ConfigError, DataError
from qmamba.evaluation.quality.cache import PredictionCache, run_digest
from qmamba.files import atomic_write

COLUMNS = (
    "dataset",
    "image",
    "path",
    "content",
    "split",
    "distortion",
    "level",
    "generator",
    "mos",
    "prediction",
    "mapped",
    "error",
)
"""Columns of the table of predictions."""


@dataclass(frozen=True)
class Prediction:
    """What became of one rated image."""

    image: RatedImage
    raw: float | None
    """Predicted opinion score on the scale and in the direction of the model; None for an error."""
    error: str | None = None
    """Why there is none."""
    mapped: float | None = None
    """The prediction on the scale and in the direction of the data set, after the logistic curve
    with four coefficients."""


class UnscoredError(DataError):
    """Images of an evaluation have no score; the message names every one of them."""

    def __init__(self, problems: Sequence[tuple[Path, str]]) -> None:
        self.problems = tuple(problems)
        """(file, reason) of each."""
        names = ", ".join(repr(str(path)) for path, _ in problems)
        super().__init__(
            f"{len(problems)} images have no score: {names}; mend them, or leave them out with"
            " skip_bad=True (--skip-bad)"
        )


def predict(
    scorer: Scorer,
    dataset: RatedDataset,
    *,
    cache: PredictionCache | None = None,
    workers: int = 2,
    report: Callable[[bool], None] | None = None,
) -> list[Prediction]:
    """Score every image of a data set, in its order; a bad image stops nothing.

    Args:
        scorer: the model with its policy.
        dataset: the rated images.
        cache: predictions that are there already and where new ones go at once.
        workers: number of decoding threads.
        report: called for every image with whether it has a score.

    Raises:
        ConfigError: ``workers`` is below 1.
        DataError: the cache cannot be written.
    """
    run = "" if cache is None else run_digest(scorer)
    found: list[Prediction | None] = []
    for image in dataset:
        raw = None if cache is None else cache.get(run, image.path)
        found.append(None if raw is None else Prediction(image, raw))
        if raw is not None and report is not None:
            report(True)
    missing = [position for position, prediction in enumerate(found) if prediction is None]
    paths = [dataset[position].path for position in missing]
    with closing(score_paths(scorer, paths, workers=workers)) as rows:
        for position, row in zip(missing, rows, strict=True):
            raw = None if row.score is None else row.score.raw
            if raw is not None and cache is not None:
                cache.put(run, dataset[position].path, raw)
            found[position] = Prediction(dataset[position], raw, row.error)
            if report is not None:
                report(raw is not None)
    return [prediction for prediction in found if prediction is not None]


def write_predictions(
    path: str | os.PathLike[str], predictions: Iterable[tuple[str, Sequence[Prediction]]]
) -> None:
    """Write one line per image to a CSV file (UTF-8) with the columns :data:`COLUMNS`.

    Args:
        path: the file, ``.csv``.
        predictions: pairs of the name of a data set and its predictions.

    Raises:
        ConfigError: another suffix.
        DataError: the file cannot be written.
    """
    if Path(path).suffix.lower() != ".csv":
        raise ConfigError(f"The table of predictions {str(path)!r} must end in .csv.")
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, group in predictions:
        for prediction in group:
            cells = (name, *_described(prediction.image))
            results = (prediction.raw, prediction.mapped, prediction.error)
            writer.writerow(["" if cell is None else cell for cell in (*cells, *results)])
    with atomic_write(path) as stream:
        stream.write(table.getvalue().encode("utf-8", "backslashreplace"))


def _described(image: RatedImage) -> tuple[object, ...]:
    texts = (image.content, image.split, image.distortion, image.level, image.generator)
    return (
        path_cell(image.name),
        path_cell(str(image.path)),
        *(text_cell(text) if isinstance(text, str) else text for text in texts),
        image.mos,
    )
