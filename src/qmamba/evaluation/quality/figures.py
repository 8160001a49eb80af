"""The figures by which quality models are compared, each with an interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qmamba.errors import DataError
from qmamba.evaluation.metrics.correlation import (
    LogisticFit,
    bootstrap_values,
    fit_logistic,
    interval,
    krcc,
    plcc,
    rmse,
    srcc,
)

FloatArray = NDArray[np.float64]

FIGURES = (
    "srcc",
    "plcc",
    "plcc_logistic4",
    "plcc_logistic5",
    "krcc",
    "rmse",
    "rmse_logistic4",
    "rmse_logistic5",
)
"""Names of all figures, in the order of a table's columns. ``plcc`` and ``rmse`` are those of the
predictions as they are, the others after the logistic curve with 4 or 5 coefficients."""

LEAST_IMAGES = 5
"""Fewest images of a measurement: as many as the longer curve has coefficients."""

DEFAULT_RESAMPLES = 1000
DEFAULT_LEVEL = 0.95

_CURVES = (4, 5)
_METRICS: dict[str, Callable[[ArrayLike, ArrayLike], float]] = {
    "srcc": srcc,
    "plcc": plcc,
    "krcc": krcc,
    "rmse": rmse,
}


@dataclass(frozen=True)
class Figure:
    """A number and the interval in which resampling of the images moves it."""

    value: float
    low: float | None = None
    """Lower end; None where no interval was asked for."""
    high: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """JSON values; `Figure(**values)` is the inverse."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Measurement:
    """How well predictions follow opinion scores."""

    figures: Mapping[str, Figure]
    """A subset of :data:`FIGURES` by name; what is undefined is missing."""
    curves: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    """Coefficients of the logistic curve by their number, 4 or 5."""
    notes: tuple[str, ...] = ()
    """Why something is missing."""
    draws: Mapping[str, FloatArray] = field(default_factory=dict, repr=False)
    """The value of each figure on every resample, float64 of shape (resamples,)."""

    def mapped(self, prediction: ArrayLike, coefficients: int = 4) -> FloatArray | None:
        """Predictions after a curve, None where there is none."""
        if coefficients not in self.curves:
            return None
        return LogisticFit(self.curves[coefficients])(prediction)


def measure(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    names: Sequence[str] = FIGURES,
    groups: Sequence[Hashable] | None = None,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    level: float = DEFAULT_LEVEL,
) -> Measurement:
    """Figures of predictions against opinion scores of the same direction.

    The logistic curves are fitted once, to all images, and stay as they are in the resamples.

    Args:
        prediction, target: one finite number per image.
        names: which of :data:`FIGURES`.
        groups: the content of each image; whole contents are resampled. None: single images.
        resamples: draws behind each interval; 0 for no intervals.
        seed: seed of the draws.
        level: share of the draws inside an interval.

    Returns:
        The figures. Without SciPy those of the curves are missing, and where all predictions are
        equal all but ``rmse`` are; `notes` says so.

    Raises:
        ConfigError: a negative number of resamples or a level outside (0, 1).
        DataError: fewer than :data:`LEAST_IMAGES` images, a number that is not finite, or all
            scores are equal.
    """
    predicted, wanted = np.asarray(prediction, np.float64), np.asarray(target, np.float64)
    check_scores(wanted)
    rmse(predicted, wanted)
    notes: list[str] = []
    curves: dict[int, tuple[float, ...]] = {}
    asked = list(names)
    if predicted.min() == predicted.max():
        notes.append(f"every prediction is {predicted[0]:g}, so the correlations are undefined")
        asked = [name for name in asked if name == "rmse"]
    elif any("logistic" in name for name in asked):
        if find_spec("scipy") is None:
            notes.append('the logistic curves need SciPy: pip install "qmamba[train]"')
            asked = [name for name in asked if "logistic" not in name]
        else:
            curves = {
                count: fit_logistic(predicted, wanted, count).coefficients
                for count in _CURVES
                if any(name.endswith(f"logistic{count}") for name in asked)
            }
    figures: dict[str, Figure] = {}
    draws: dict[str, FloatArray] = {}
    for name in asked:
        metric, _, curve = name.partition("_logistic")
        x = LogisticFit(curves[int(curve)])(predicted) if curve else predicted
        try:
            value = _METRICS[metric](x, wanted)
            if not resamples:
                figures[name] = Figure(value)
                continue
            draws[name] = bootstrap_values(
                x, wanted, _METRICS[metric], resamples, seed=seed, groups=groups
            )
        except DataError as error:
            notes.append(f"{name}: {error}")
            continue
        figures[name] = Figure(value, *interval(draws[name], level))
    return Measurement(figures, curves, tuple(notes), draws)


def check_scores(scores: NDArray[np.float64], what: str = "the test part") -> None:
    """Raise a DataError where opinion scores are too few or all equal to measure against."""
    if scores.size < LEAST_IMAGES:
        raise DataError(
            f"{what} has {scores.size} images and an evaluation needs at least {LEAST_IMAGES}; "
            "give more"
        )
    if scores.min() == scores.max():
        raise DataError(
            f"Every score of {what} is {scores[0]:g}, so a correlation with them is undefined; "
            "check the score column."
        )


def mean_figure(
    measurements: Sequence[Measurement], names: Sequence[str], level: float = DEFAULT_LEVEL
) -> Figure | None:
    """The plain mean of some figures over several measurements, with the interval of that mean.

    None where a measurement lacks one of them.
    """
    if any(name not in each.figures for each in measurements for name in names):
        return None
    values = [each.figures[name].value for each in measurements for name in names]
    value = float(np.mean(values))
    if any(name not in each.draws for each in measurements for name in names):
        return Figure(value)
    draws = np.mean([each.draws[name] for each in measurements for name in names], axis=0)
    return Figure(value, *interval(draws, level))


def figures_from_dict(values: Mapping[str, Any]) -> dict[str, Figure]:
    """The inverse of `{name: figure.to_dict()}`.

    Raises:
        TypeError, ValueError, AttributeError: it is something else, or a number is not finite.
    """
    figures = {name: Figure(**entry) for name, entry in values.items()}
    for name, figure in figures.items():
        numbers = (figure.value, *(end for end in (figure.low, figure.high) if end is not None))
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"{name} is not finite")
    return figures
