"""A report of `qmamba evaluate` on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from qmamba.cli.common import answer, say, shown, table_lines

if TYPE_CHECKING:
    from qmamba.evaluation.quality.figures import Figure
    from qmamba.evaluation.quality.report import QualityReport

_SHOWN = ("srcc", "plcc", "plcc_logistic4", "plcc_logistic5", "krcc", "rmse", "rmse_logistic4")


def show_report(report: QualityReport) -> None:
    """Print the figures of every data set with their intervals, the average and the groups."""
    from qmamba.evaluation.quality.tables import TITLES, part_name

    names = [name for name in _SHOWN if any(name in row.figures for row in report.rows)]
    header = ("data set", "images", *(TITLES[name] for name in names))
    lines: list[tuple[str, ...]] = []
    for row in report.rows:
        title = shown(f"{row.dataset}: {part_name(row)}")
        lines += _two_lines(title, str(row.images), names, row.figures)
    if len(report.rows) > 1:
        lines += _two_lines("average", "", names, report.average)
    answer("\n".join(table_lines(header, lines)))
    if "both" in report.average and len(report.rows) > 1:
        answer(f"average of PLCC and SRCC: {report.average['both'].value:.3f}")
    _show_groups(report)
    for row in report.rows:
        for name, reason in row.skipped:
            say(f"left out: {shown(name)}: {shown(reason)}")
        for note in row.notes:
            say(f"note on {shown(row.dataset)}: {shown(note)}")


def _two_lines(
    title: str, images: str, names: list[str], figures: Mapping[str, Figure]
) -> list[tuple[str, ...]]:
    """The values, and below them the intervals, if there are any."""
    from qmamba.evaluation.quality.tables import number, span

    values = [number(name, figures[name].value) if name in figures else "-" for name in names]
    spans = [span(name, figures[name]) if name in figures else "" for name in names]
    lines: list[tuple[str, ...]] = [(title, images, *values)]
    return [*lines, ("", "", *spans)] if any(spans) else lines


def _show_groups(report: QualityReport) -> None:
    from qmamba.evaluation.quality.tables import TITLES, number, present

    for by in dict.fromkeys(group.by for row in report.rows for group in row.groups):
        groups = [(row.dataset, group) for row in report.rows for group in row.groups]
        groups = [(dataset, group) for dataset, group in groups if group.by == by]
        names = present(group.figures for _, group in groups)
        header = (by, "images", *(TITLES[name] for name in names))
        prefix = len(report.rows) > 1
        rows = [
            (
                shown(f"{dataset}: {group.group}" if prefix else group.group),
                str(group.images),
                *(
                    number(name, group.figures[name].value) if name in group.figures else "-"
                    for name in names
                ),
            )
            for dataset, group in groups
        ]
        answer("\n" + "\n".join(table_lines(header, rows)))
