"""Reproduced tables as Markdown, CSV and LaTeX, with three columns for each of the paper's."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from qmamba.files import atomic_write
from qmamba.reproduce.paper_tables import Column
from qmamba.reproduce.results import NO_AVERAGE, Cell, TableResult

TITLES = {
    "live": "LIVE",
    "csiq": "CSIQ",
    "tid2013": "TID2013",
    "kadid10k": "KADID",
    "livec": "LIVEC",
    "koniq10k": "KonIQ",
    "flive": "LIVEFB",
    "spaq": "SPAQ",
    "agiqa3k": "AGIQA3K",
    "aigciqa2023": "AIGCIQA2023",
}
"""Names of the data sets as the paper writes them."""

_METRICS = {
    "plcc": "PLCC",
    "srcc": "SRCC",
    "mean": "average",
    "parameters": "parameters (M)",
    "gflops": "GFLOPs",
}
_LATEX = str.maketrans({c: f"\\{c}" for c in "&%_#$"})


def write_table(result: TableResult, folder: Path) -> list[Path]:
    """Write a table as ``.md``, ``.csv``, ``.tex`` and ``.json``; the paths, in this order.

    Raises:
        DataError: a file cannot be written.
    """
    texts = {
        ".md": markdown(result),
        ".csv": comma_separated(result),
        ".tex": latex(result),
        ".json": json.dumps(result.to_dict(), indent=1) + "\n",
    }
    paths = []
    for suffix, text in texts.items():
        path = folder / f"{result.table.name}{suffix}"
        with atomic_write(path, "w", newline="") as stream:
            stream.write(text)
        paths.append(path)
    return paths


def heading(column: Column) -> str:
    """A column's title, such as ``"KonIQ+LIVEC to KADID PLCC"``."""
    train = "+".join(TITLES[name] for name in column.train)
    words = (train and f"{train} to", TITLES.get(column.test, ""), _METRICS[column.metric])
    title = " ".join(word for word in words if word)
    return f"{title} average" if not column.test and column.metric in ("plcc", "srcc") else title


def markdown(result: TableResult) -> str:
    """The table in GitHub's Markdown, with what is to be said about it below."""
    header = ["method"]
    for column in result.table.columns:
        header += [f"{heading(column)}: ours", "paper", "difference"]
    lines = [
        f"# Table {result.table.name.removeprefix('table')}: {result.table.title}",
        "",
        f"| {' | '.join(header)} |",
        "|---|" + "---:|" * (len(header) - 1),
    ]
    for row in result.rows:
        label = f"{row.label} *" if row.label_is_ours else row.label
        label += f" ({row.remark})" if row.remark else ""
        figures = [text for cell in row.cells for text in _texts(cell, "-")]
        lines.append(f"| {' | '.join([label, *figures])} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in _notes(result))]) + "\n"


def comma_separated(result: TableResult) -> str:
    """The table as CSV; what is missing is empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    titles = [heading(column) for column in result.table.columns]
    kinds = ("ours", "paper", "difference")
    writer.writerow(
        ["method", *(f"{title} {kind}" for title in titles for kind in kinds), "remark"]
    )
    for row in result.rows:
        figures = [text for cell in row.cells for text in _texts(cell, "")]
        writer.writerow([row.label, *figures, row.remark])
    return stream.getvalue()


def latex(result: TableResult) -> str:
    """The table as a LaTeX ``tabular``, for the package ``booktabs``."""
    columns = result.table.columns
    titles = [heading(column).translate(_LATEX) for column in columns]
    spans = " & ".join(f"\\multicolumn{{3}}{{c}}{{{title}}}" for title in titles)
    lines = [
        *(f"% {note}" for note in _notes(result)),
        f"\\begin{{tabular}}{{l{'rrr' * len(columns)}}}",
        "\\toprule",
        f" & {spans} \\\\",
        f"method{' & ours & paper & diff.' * len(columns)} \\\\",
        "\\midrule",
    ]
    for row in result.rows:
        figures = [text for cell in row.cells for text in _texts(cell, "--")]
        label = f"{row.label} ({row.remark})" if row.remark else row.label
        lines.append(f"{' & '.join([label.translate(_LATEX), *figures])} \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def _texts(cell: Cell, absent: str) -> tuple[str, str, str]:
    digits = 2 if cell.column.metric in ("parameters", "gflops") else 3
    ours, paper = (
        absent if value is None else f"{value:.{digits}f}" for value in (cell.ours, cell.paper)
    )
    difference = absent if cell.difference is None else f"{cell.difference:+.{digits}f}"
    # What rounds to nothing has no sign.
    if cell.difference is not None and float(difference) == 0:
        difference = difference[1:]
    return ours, paper, difference


def _notes(result: TableResult) -> list[str]:
    notes = list(result.notes)
    if any(row.label_is_ours for row in result.rows):
        notes.append(
            "Labels marked * are lost in the text that the paper's figures were read from and are"
            " named by their place."
        )
    if result.table.name in ("table3", "table7"):
        notes.append("The average is that of the paper, over the figures of tables 3 and 7.")
    reasons: dict[str, list[str]] = {}
    for row in result.rows:
        missing = dict.fromkeys(cell.reason for cell in row.cells if cell.reason)
        for reason in missing:
            # A mean is only spoken of where the figures in this table are all there.
            if reason != NO_AVERAGE or len(missing) == 1:
                reasons.setdefault(reason, []).append(row.label)
    for reason, labels in reasons.items():
        what = "the average" if reason == NO_AVERAGE else "figures of ours"
        notes.append(f"Without {what}: {', '.join(labels)} ({reason}).")
    counts = {len(cell.by_seed) for row in result.rows for cell in row.cells if cell.by_seed}
    if counts:
        low, high = min(counts), max(counts)
        number = str(low) if low == high else f"{low} to {high}"
        notes.append(f"Number of random splits by content behind the median of ours: {number}.")
    return notes
