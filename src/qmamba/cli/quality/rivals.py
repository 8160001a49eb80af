"""`qmamba evaluate --metric`: metrics of other packages beside our model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from qmamba.cli.common import (
    EXIT_INTERRUPTED,
    EXIT_SOME_FAILED,
    Progress,
    answer,
    say,
    shown,
    table_lines,
)
from qmamba.errors import ConfigError

if TYPE_CHECKING:
    from qmamba.evaluation.quality.parts import RatedPart
    from qmamba.evaluation.quality.report import QualityReport
    from qmamba.interop.pyiqa import RivalMetric

_PACKAGE = "pyiqa"
_FIGURES = ("srcc", "plcc", "plcc_logistic4", "krcc")


def rival_metrics(written: Sequence[str], device: str) -> list[RivalMetric]:
    """What the option names, made before any work begins.

    Raises:
        ConfigError: a name is malformed or unknown.
        QMambaError: pyiqa is missing or cannot make a metric.
    """
    if not written:
        return []
    from qmamba.interop.pyiqa import rival_metric

    return [rival_metric(_name(text), device) for text in written]


def rival_outputs(outputs: Sequence[Path], written: Sequence[str]) -> list[Path]:
    """The files beside our report, as ``report.pyiqa-NAME.json``.

    Raises:
        ConfigError: a name is malformed.
    """
    return [_beside(path, f"{_PACKAGE}:{_name(text)}") for path in outputs for text in written]


def _name(text: str) -> str:
    package, _, name = text.partition(":")
    if package != _PACKAGE or not name:
        raise ConfigError(f"A metric is written {_PACKAGE}:NAME, got {text!r}.")
    return name


def _beside(path: Path, model: str) -> Path:
    name = "".join(letter if letter.isalnum() else "-" for letter in model)
    return path.with_name(f"{path.stem}.{name}{path.suffix}")


def judge_rivals(
    rivals: Sequence[RivalMetric],
    parts: Sequence[RatedPart],
    own: QualityReport,
    *,
    skip_bad: bool,
    resamples: int,
    seed: int,
) -> list[QualityReport]:
    """Judge the metrics, and print them in one table with our model."""
    from qmamba.evaluation.quality.predictions import UnscoredError
    from qmamba.evaluation.quality.rivals import evaluate_rival

    reports: list[QualityReport] = []
    for rival in rivals:
        progress = Progress(sum(len(part.dataset) for part in parts))
        done = failed = 0

        def tell(good: bool, progress: Progress = progress) -> None:
            nonlocal done, failed
            done, failed = done + 1, failed + (not good)
            progress.update(done, failed)

        try:
            report = evaluate_rival(
                f"{_PACKAGE}:{rival.name}",
                rival.score,
                parts,
                higher_is_better=rival.higher_is_better,
                parameters=rival.parameters,
                skip_bad=skip_bad,
                resamples=resamples,
                seed=seed,
                report=tell,
            )
        except UnscoredError as error:
            progress.clear()
            for path, reason in error.problems:
                say(f"no score by {rival.name}: {shown(str(path))}: {shown(reason)}")
            say("error: images have no score; leave them out with --skip-bad")
            raise typer.Exit(EXIT_SOME_FAILED) from error
        except KeyboardInterrupt:
            progress.clear()
            say(f"interrupted in {_PACKAGE}:{rival.name}; the report of our model is above")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        progress.clear()
        reports.append(report)
    if reports:
        answer("\n" + "\n".join(_table([own, *reports])))
    return reports


def write_rivals(outputs: Sequence[Path], reports: Sequence[QualityReport]) -> list[Path]:
    """Write each report beside ours, see :func:`rival_outputs`; returns the files."""
    from qmamba.evaluation.quality.tables import write_report

    written = []
    for path in outputs:
        for report in reports:
            beside = _beside(path, report.model)
            write_report(beside, report)
            written.append(beside)
    return written


def _table(reports: Sequence[QualityReport]) -> list[str]:
    from qmamba.evaluation.quality.tables import TITLES, number, part_name, span

    lines = []
    for rows in zip(*(report.rows for report in reports), strict=True):
        for report, row in zip(reports, rows, strict=True):
            cells = [
                f"{number(name, row.figures[name].value)} {span(name, row.figures[name])}".rstrip()
                if name in row.figures
                else "-"
                for name in _FIGURES
            ]
            title = shown(f"{row.dataset}: {part_name(row)}")
            lines.append((title, shown(report.model), str(row.images), *cells))
    header = ("data set", "model", "images", *(TITLES[name] for name in _FIGURES))
    return table_lines(header, lines)
