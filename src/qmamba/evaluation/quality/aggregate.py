"""Several evaluations of the same kind, one per split or per training seed, as one table."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qmamba.errors import ConfigError, DataError
from qmamba.evaluation.metrics.correlation import interval
from qmamba.evaluation.quality.figures import FIGURES, Figure
from qmamba.evaluation.quality.report import QualityReport, write_json
from qmamba.evaluation.quality.tables import TITLES, number, present, span
from qmamba.files import atomic_write

AGGREGATE_SUFFIXES = (".json", ".md")
"""Endings of the files that can be written."""

AVERAGE = "average"
"""Name of the row of means over the data sets."""


@dataclass(frozen=True)
class Aggregate:
    """Medians over repeats."""

    models: tuple[str, ...]
    """Name of the model of each repeat."""
    figures: Mapping[str, Mapping[str, Figure]]
    """For each data set and, where there are several, for :data:`AVERAGE`, the median of every
    figure with the bootstrap interval of that median."""
    values: Mapping[str, Mapping[str, tuple[float, ...]]]
    """What every repeat gave, in their order."""
    resamples: int
    """Draws behind each interval."""
    level: float
    """Share of the draws inside an interval."""
    seed: int
    """Seed of the draws."""


def aggregate(
    reports: Sequence[QualityReport], *, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> Aggregate:
    """Median of every figure over repeats, as published results with ten splits give it.

    The interval is that of the median when the repeats are resampled, so it tells how far ten other
    splits might lie, not how far other images might; with fewer than about five repeats it is no
    more than the range.

    Args:
        reports: at least two, with the same data sets.
        resamples: draws behind each interval.
        level: share of the draws inside an interval.
        seed: seed of the draws.

    Returns:
        Medians; a figure that a repeat lacks is left out.

    Raises:
        ConfigError: `resamples` is below 1 or `level` outside (0, 1).
        DataError: fewer than two reports; they differ in data sets, architecture, parts or views;
            or two of them are the same model on the same images.
    """
    if resamples < 1:
        raise ConfigError(f"The function aggregate needs at least 1 resample, got {resamples}.")
    if len(reports) < 2:
        raise DataError(f"medians need at least two reports, got {len(reports)}")
    _check(reports)
    values: dict[str, dict[str, tuple[float, ...]]] = {}
    for index, row in enumerate(reports[0].rows):
        repeats = [report.rows[index].figures for report in reports]
        values[row.dataset] = _collected(repeats, FIGURES)
    if len(reports[0].rows) > 1:
        values[AVERAGE] = _collected(
            [report.average for report in reports], ("plcc", "srcc", "both")
        )
    chosen = np.random.default_rng(seed).integers(0, len(reports), (resamples, len(reports)))
    figures = {
        name: {figure: _median(np.array(each), chosen, level) for figure, each in found.items()}
        for name, found in values.items()
    }
    return Aggregate(
        tuple(report.model for report in reports), figures, values, resamples, level, seed
    )


def write_aggregate(path: str | os.PathLike[str], result: Aggregate) -> None:
    """Write medians to a ``.json`` or ``.md`` file in one step.

    Raises:
        ConfigError: another suffix.
        DataError: the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in AGGREGATE_SUFFIXES:
        raise ConfigError(f"The table {str(path)!r} must end in {' or '.join(AGGREGATE_SUFFIXES)}.")
    if suffix == ".json":
        content: dict[str, Any] = asdict(result)
        write_json(path, content)
        return
    with atomic_write(path) as stream:
        stream.write(aggregate_markdown(result).encode("utf-8", "backslashreplace"))


def aggregate_markdown(result: Aggregate) -> str:
    """The medians as a table for people."""
    header, rows = aggregate_rows(result)
    lines = [header, ("---",) * len(header), *rows]
    table = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([aggregate_legend(result), "", *table]) + "\n"


def aggregate_legend(result: Aggregate) -> str:
    """One sentence that says what the medians are of."""
    return (
        f"Median of {len(result.models)} repeats "
        f"({', '.join(dict.fromkeys(result.models))}), {result.level:.0%} interval of the median."
    )


def aggregate_rows(result: Aggregate) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and lines of the table, as text."""
    names = present(result.figures.values())
    both = AVERAGE in result.figures
    header = ("data set", *(TITLES[name] for name in names), *(("both",) if both else ()))
    rows = []
    for dataset, figures in result.figures.items():
        cells = [dataset]
        for name in [*names, *(["both"] if both else [])]:
            figure = figures.get(name)
            cells.append(
                "-" if figure is None else f"{number(name, figure.value)} ({span(name, figure)})"
            )
        rows.append(tuple(cells))
    return header, rows


def _check(reports: Sequence[QualityReport]) -> None:
    first = _kind(reports[0])
    seen = set()
    for report in reports:
        for what, mine in _kind(report).items():
            if mine != first[what]:
                raise DataError(
                    f"The reports differ in their {what}: {first[what]} and {mine}; aggregate "
                    "repeats of one protocol."
                )
        # Repeats of a training on one split differ in their weights, repeats over splits in both.
        identity = (report.sha256, *(row.fingerprint for row in report.rows))
        if report.sha256 and identity in seen:
            raise DataError(
                f"Two reports are of the same weights {report.model!r} and the same images; give "
                "each repeat once."
            )
        seen.add(identity)


def _kind(report: QualityReport) -> dict[str, object]:
    return {
        "architecture": report.architecture,
        "parameters": report.parameters,
        "data sets": [row.dataset for row in report.rows],
        "parts": [(row.part, row.split) for row in report.rows],
        "views": [row.policy for row in report.rows],
    }


def _collected(
    repeats: Sequence[Mapping[str, Figure]], names: Sequence[str]
) -> dict[str, tuple[float, ...]]:
    return {
        name: tuple(figures[name].value for figures in repeats)
        for name in names
        if all(name in figures for figures in repeats)
    }


def _median(values: NDArray[np.float64], chosen: NDArray[np.int64], level: float) -> Figure:
    return Figure(float(np.median(values)), *interval(np.median(values[chosen], axis=1), level))
