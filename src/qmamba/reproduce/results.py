"""The cells of a reproduced table: our figure, the paper's, and what lies between them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qmamba.reproduce.paper_tables import Column, PaperRow, PaperTable
from qmamba.reproduce.plan import (
    NOT_HERE,
    Measurement,
    cost_figure,
    is_ours,
    measurement,
    members,
    rows_of,
)

Lookup = Callable[[Measurement], "dict[str, Any] | None"]
"""Finds a finished measurement, None where there is none."""

NO_AVERAGE = "not all of its figures were measured"
"""Why a mean is missing."""


@dataclass(frozen=True)
class Cell:
    """One figure."""

    column: Column
    paper: float | None
    """None where the paper has none."""
    ours: float | None
    """Median over the seeds; None where it was not measured."""
    by_seed: tuple[float, ...] = ()
    """Our figure of each seed, in order."""
    reason: str = ""
    """Why ours is missing."""

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's, None where one is missing."""
        return None if self.ours is None or self.paper is None else self.ours - self.paper

    def to_dict(self) -> dict[str, Any]:
        """The cell as JSON."""
        return {
            "metric": self.column.metric,
            "test": self.column.test,
            "train": list(self.column.train),
            "ours": self.ours,
            "paper": self.paper,
            "difference": self.difference,
            "by_seed": list(self.by_seed),
            "reason": self.reason,
        }


@dataclass(frozen=True)
class ResultRow:
    """One row of cells."""

    label: str
    label_is_ours: bool
    cells: tuple[Cell, ...]
    remark: str = ""
    """What a reader must know of our figures, such as that the model had no weights to start
    from."""


@dataclass(frozen=True)
class TableResult:
    """A table of the paper with our figures beside it."""

    table: PaperTable
    rows: tuple[ResultRow, ...]
    notes: tuple[str, ...] = ()
    """What a reader must know, such as that a trial run means nothing."""

    @property
    def measured(self) -> int:
        """Number of correlations that are ours."""
        return sum(
            cell.ours is not None and cell.column.metric not in ("parameters", "gflops")
            for row in self.rows
            for cell in row.cells
        )

    def to_dict(self) -> dict[str, Any]:
        """The table as JSON."""
        return {
            "table": self.table.name,
            "title": self.table.title,
            "notes": list(self.notes),
            "rows": [
                {
                    "label": row.label,
                    "remark": row.remark,
                    "cells": [cell.to_dict() for cell in row.cells],
                }
                for row in self.rows
            ],
        }


def collect(
    table: PaperTable,
    seeds: int,
    lookup: Lookup,
    *,
    pattern: str = "*",
    notes: tuple[str, ...] = (),
    remarks: Mapping[str, str] | None = None,
) -> TableResult:
    """Fill a table from what has been measured.

    Args:
        table: the paper's table.
        seeds: number of seeds; those without a measurement are left out of the median.
        lookup: finds measurements.
        pattern: which rows.
        notes: for the reader.
        remarks: what stands beside rows, by label.
    """
    rows = []
    for row in rows_of(table, pattern):
        cells = tuple(
            _cell(table, row, column, paper, seeds, lookup)
            for column, paper in zip(table.columns, row.figures, strict=True)
        )
        remark = (remarks or {}).get(row.label, "")
        rows.append(ResultRow(row.label, row.label_is_ours, cells, remark))
    return TableResult(table, tuple(rows), notes)


def _cell(
    table: PaperTable,
    row: PaperRow,
    column: Column,
    paper: float | None,
    seeds: int,
    lookup: Lookup,
) -> Cell:
    if not is_ours(table, row):
        return Cell(column, paper, None, reason=NOT_HERE)
    if column.metric in ("parameters", "gflops"):
        return Cell(column, paper, cost_figure(table, row, column))
    by_seed = []
    for seed in range(seeds):
        figures = [
            found[each.metric]
            for each in members(table, column)
            if (found := lookup(measurement(table, row, each, seed))) is not None
        ]
        if len(figures) == len(members(table, column)):
            by_seed.append(statistics.fmean(figures))
    if not by_seed:
        reason = "not measured" if column.test else NO_AVERAGE
        return Cell(column, paper, None, reason=reason)
    return Cell(column, paper, statistics.median(by_seed), tuple(by_seed))
