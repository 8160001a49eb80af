"""A report as Markdown, as CSV and as rows of text."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from qmamba.cells import text_cell
from qmamba.errors import ConfigError
from qmamba.evaluation.quality.figures import FIGURES, Figure
from qmamba.evaluation.quality.report import DatasetRow, QualityReport, write_json
from qmamba.files import atomic_write

REPORT_SUFFIXES = (".json", ".md", ".csv")
"""Endings of the report files that can be written."""

TITLES = {
    "srcc": "SRCC",
    "plcc": "PLCC",
    "plcc_logistic4": "PLCC, 4-par.",
    "plcc_logistic5": "PLCC, 5-par.",
    "krcc": "KRCC",
    "rmse": "RMSE",
    "rmse_logistic4": "RMSE, 4-par.",
    "rmse_logistic5": "RMSE, 5-par.",
}
"""Headings of the figures."""

_UNDEFINED = "-"


def check_report_path(path: str | os.PathLike[str]) -> None:
    """Raise a ConfigError unless a report can be written under this name."""
    if Path(path).suffix.lower() not in REPORT_SUFFIXES:
        raise ConfigError(f"The report {str(path)!r} must end in {' or '.join(REPORT_SUFFIXES)}.")


def write_report(path: str | os.PathLike[str], report: QualityReport) -> None:
    """Write a report in one step, in the form that the suffix names.

    ``.json`` holds everything and can be read back, ``.md`` is for people, ``.csv`` has one line
    per data set and per group.

    Raises:
        ConfigError: another suffix.
        DataError: the file cannot be written.
    """
    check_report_path(path)
    suffix = Path(path).suffix.lower()
    if suffix == ".json":
        write_json(path, report.to_dict())
        return
    text = markdown(report) if suffix == ".md" else csv_table(report)
    with atomic_write(path) as stream:
        stream.write(text.encode("utf-8", "backslashreplace"))


def number(name: str, value: float) -> str:
    """A figure as text: three decimals, errors in score points with four significant digits."""
    return f"{value:.4g}" if name.startswith("rmse") else f"{value:.3f}"


def span(name: str, figure: Figure) -> str:
    """Its interval as text, empty where there is none."""
    if figure.low is None or figure.high is None:
        return ""
    return f"{number(name, figure.low)} to {number(name, figure.high)}"


def present(rows: Iterable[Mapping[str, Figure]]) -> list[str]:
    """The figures that occur, in the order of :data:`FIGURES`."""
    found = {name for figures in rows for name in figures}
    return [name for name in FIGURES if name in found]


def part_name(row: DatasetRow) -> str:
    """Which images a row is of, such as ``"test (content, seed 3)"``."""
    if row.split is None:
        return row.part
    seed = "" if row.split_seed is None else f", seed {row.split_seed}"
    return f"{row.part} ({row.split}{seed})"


def markdown(report: QualityReport) -> str:
    """The report for people: protocol, figures with intervals, the paper's table, breakdowns."""
    cost = f"{report.parameters / 1e6:.2f} M parameters"
    if report.gflops is not None:
        cost += f", {report.gflops:.2f} GFLOPs"
    lines = [
        f"# {report.model}",
        "",
        f"- Weights: sha256 `{report.sha256 or 'unknown'}`, {report.architecture}, {cost}",
        f"- Views: {', '.join(dict.fromkeys(row.policy for row in report.rows))}; "
        f"{report.precision}",
    ]
    if report.resamples:
        lines.append(
            f"- Intervals: {report.level:.0%}, {report.resamples} resamples of whole contents, "
            f"seed {report.seed}"
        )
    lines.append(f"- Made by qmamba {report.version}")
    names = present(row.figures for row in report.rows)
    header = ["data set", "part", "images", "contents", *(TITLES[name] for name in names)]
    rows = [
        [
            row.dataset,
            part_name(row),
            str(row.images),
            str(row.contents),
            *(_cell(name, row.figures) for name in names),
        ]
        for row in report.rows
    ]
    lines += ["", *_markdown_table(header, rows)]
    if len(report.rows) > 1:
        lines += ["", "## As in the paper's tables", "", *_paper_table(report)]
    for by in dict.fromkeys(group.by for row in report.rows for group in row.groups):
        lines += ["", f"## By {by}", "", *_group_table(report, by)]
    for row in report.rows:
        if row.notes or row.skipped:
            lines += ["", f"## Notes on {row.dataset}", ""]
            lines += [f"- {note}" for note in row.notes]
            lines += [f"- left out: {name}: {reason}" for name, reason in row.skipped]
    return "\n".join(lines) + "\n"


def csv_table(report: QualityReport) -> str:
    """One line per data set and per group of one; three columns per figure."""
    names = list(FIGURES)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    columns = [column for name in names for column in (name, f"{name}_low", f"{name}_high")]
    writer.writerow(["model", "dataset", "part", "by", "group", "images", *columns])
    for row in report.rows:
        start = [text_cell(report.model), text_cell(row.dataset), part_name(row)]
        writer.writerow([*start, "", "", row.images, *_csv_cells(names, row.figures)])
        for group in row.groups:
            index = [group.by, text_cell(group.group), group.images]
            writer.writerow([*start, *index, *_csv_cells(names, group.figures)])
    return text.getvalue()


def _paper_table(report: QualityReport) -> list[str]:
    header = ["model", "parameters", "GFLOPs"]
    cells = [
        report.model,
        f"{report.parameters / 1e6:.2f}M",
        _UNDEFINED if report.gflops is None else f"{report.gflops:.2f}G",
    ]
    for row in report.rows:
        header += [f"{row.dataset} PLCC", "SRCC"]
        cells += [_plain("plcc", row.figures), _plain("srcc", row.figures)]
    header += ["average PLCC", "average SRCC", "average"]
    cells += [_cell(name, report.average) for name in ("plcc", "srcc", "both")]
    return _markdown_table(header, [cells])


def _group_table(report: QualityReport, by: str) -> list[str]:
    groups = [(row.dataset, group) for row in report.rows for group in row.groups]
    groups = [(dataset, group) for dataset, group in groups if group.by == by]
    names = present(group.figures for _, group in groups)
    header = ["data set", by, "images", *(TITLES[name] for name in names)]
    rows = [
        [dataset, group.group, str(group.images), *(_cell(name, group.figures) for name in names)]
        for dataset, group in groups
    ]
    return _markdown_table(header, rows)


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _plain(name: str, figures: Mapping[str, Figure]) -> str:
    return number(name, figures[name].value) if name in figures else _UNDEFINED


def _cell(name: str, figures: Mapping[str, Figure]) -> str:
    if name not in figures:
        return _UNDEFINED
    ends = span(name, figures[name])
    return number(name, figures[name].value) + (f" ({ends})" if ends else "")


def _csv_cells(names: Sequence[str], figures: Mapping[str, Figure]) -> list[str]:
    values: list[float | None] = []
    for name in names:
        figure = figures.get(name)
        values += [None] * 3 if figure is None else [figure.value, figure.low, figure.high]
    return ["" if value is None else repr(value) for value in values]
