"""Metrics of other packages under the protocol that our models are judged by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import qmamba
from qmamba.errors import DataError
from qmamba.evaluation.quality.evaluation import dataset_row
from qmamba.evaluation.quality.figures import (
    DEFAULT_LEVEL,
    DEFAULT_RESAMPLES,
    FIGURES,
    check_scores,
    measure,
)
from qmamba.evaluation.quality.parts import RatedPart
from qmamba.evaluation.quality.predictions import UnscoredError
from qmamba.evaluation.quality.report import DatasetRow, QualityReport


def evaluate_rival(
    name: str,
    score: Callable[[Path], float],
    parts: Sequence[RatedPart],
    *,
    higher_is_better: bool = True,
    parameters: int = 0,
    skip_bad: bool = False,
    resamples: int = DEFAULT_RESAMPLES,
    level: float = DEFAULT_LEVEL,
    seed: int = 0,
    report: Callable[[bool], None] | None = None,
) -> QualityReport:
    """Judge any function from image files to numbers as :func:`evaluate` judges a model.

    The same images, contents, resamples and seeds as for a model; ``rmse`` is left out, because
    the numbers are on no scale that is known here.

    Args:
        name: of the report, for example ``"pyiqa:niqe"``.
        score: from a file to a number; what it raises counts as an image without a score.
        parts: what is judged.
        higher_is_better: direction of the numbers.
        parameters: of the network behind it, for the report.
        skip_bad, resamples, level, seed: as for :func:`evaluate`.
        report: called for every image with whether it has a number.

    Raises:
        DataError: a part has too few images or scores that are all equal.
        UnscoredError: images have no number, unless they are skipped.
    """
    rows, problems = [], []
    for place, part in enumerate(parts):
        check_scores(part.dataset.scores, repr(part.dataset.name))
        values: list[float] = []
        kept: list[int] = []
        skipped: list[tuple[str, str]] = []
        for position, image in enumerate(part.dataset):
            value, reason = _number(score, image.path)
            if reason is None:
                values.append(value if higher_is_better else -value)
                kept.append(position)
            else:
                skipped.append((image.name, reason))
                problems.append((image.path, reason))
            if report is not None:
                report(reason is None)
        if not skipped or skip_bad:
            rows.append(_row(part, values, kept, skipped, resamples, level, seed + place))
    if problems and not skip_bad:
        raise UnscoredError(problems)
    return QualityReport(
        model=name,
        sha256="",
        architecture=name.partition(":")[0],
        parameters=parameters,
        gflops=None,
        precision="fp32",
        rows=tuple(rows),
        resamples=resamples,
        level=level,
        seed=seed,
        version=qmamba.__version__,
    )


def _number(score: Callable[[Path], float], path: Path) -> tuple[float, str | None]:
    try:
        value = score(path)
    except Exception as error:  # Foreign code, on files of any kind.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return 0.0, lines[0]
    return (value, None) if np.isfinite(value) else (0.0, "the number is not finite")


def _row(
    part: RatedPart,
    values: Sequence[float],
    kept: Sequence[int],
    skipped: Sequence[tuple[str, str]],
    resamples: int,
    level: float,
    seed: int,
) -> DatasetRow:
    if not kept:
        raise DataError(f"no image of {part.dataset.name!r} has a score")
    left = part.dataset.take(kept) if skipped else part.dataset
    check_scores(left.scores, f"what is left of {part.dataset.name!r}")
    measurement = measure(
        np.array(values, dtype=np.float64),
        left.qualities,
        names=[name for name in FIGURES if name != "rmse"],
        groups=[image.content for image in left],
        resamples=resamples,
        seed=seed,
        level=level,
    )
    return dataset_row(part, left, measurement, "its own", (), tuple(skipped))
