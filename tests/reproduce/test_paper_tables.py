"""The paper's figures: complete, and in agreement with the paper's own averages."""

from __future__ import annotations

import statistics

import pytest

from qmamba.errors import ConfigError
from qmamba.reproduce.paper_tables import TABLES, TRANSFERS, PaperRow, PaperTable


def correlations(table: PaperTable, row: PaperRow, metric: str = "") -> list[float]:
    return [
        figure
        for column, figure in zip(table.columns, row.figures, strict=True)
        if column.test and figure is not None and metric in ("", column.metric)
    ]


def test_ten_tables() -> None:
    assert list(TABLES) == [f"table{number}" for number in range(1, 11)]
    counts = [len(table.rows) for table in TABLES.values()]
    assert counts == [26, 7, 7, 4, 15, 7, 7, 4, 6, 5]
    for table in TABLES.values():
        labels = [row.label for row in table.rows]
        assert len(set(labels)) == len(labels)
        for row in table.rows:
            assert all(0.2 < value < 1 for value in correlations(table, row))


@pytest.mark.parametrize("name", ["table1", "table5", "table6", "table8", "table9", "table10"])
def test_printed_means_are_those_of_the_row(name: str) -> None:
    table = TABLES[name]
    for row in table.rows:
        printed = row.figures[-1]
        assert printed is not None
        assert abs(statistics.fmean(correlations(table, row)) - printed) < 0.00071, row.label


def test_means_of_the_transfer_tables_are_over_both() -> None:
    first, second = TABLES["table3"], TABLES["table7"]
    for row in first.rows:
        other = second.row(row.label)
        assert row.figures[-1] == other.figures[-1]
        found = statistics.fmean(correlations(first, row) + correlations(second, other))
        assert found == pytest.approx(row.figures[-1], abs=0.00071)
    columns = first.columns[:-1] + second.columns[:-1]
    assert columns == TRANSFERS and len(TRANSFERS) == 24


@pytest.mark.parametrize(("short", "long"), [("table2", "table6"), ("table4", "table8")])
def test_short_tables_are_averages_of_long_ones(short: str, long: str) -> None:
    for row in TABLES[short].rows:
        detailed = TABLES[long].row(row.label)
        found = [
            statistics.fmean(correlations(TABLES[long], detailed, metric))
            for metric in ("plcc", "srcc")
        ]
        assert found == pytest.approx(list(row.figures[-2:]), abs=0.0006), row.label


def test_rows_that_stand_in_several_tables_agree() -> None:
    # This is also what names the row whose label is lost.
    style = TABLES["table8"].row("StylePrompt").figures[1:-1]
    assert style == TABLES["table9"].row("N=6").figures[:-1]
    assert style == TABLES["table10"].row("(1,1)").figures[:-1]
    named = [TABLES[name].row("StylePrompt") for name in ("table3", "table7")]
    assert style == named[0].figures[:-1] + named[1].figures[:-1]
    assert all(row.label_is_ours for row in named)


def test_what_the_paper_leaves_out_is_absent() -> None:
    row = TABLES["table1"].row("LoDa")
    assert row.figures[0] is None and row.figures[4] is None and row.figures[2] == 0.979
    with pytest.raises(ConfigError, match="table2 has no row 'BRISQUE'; its rows are ResNet-50"):
        TABLES["table2"].row("BRISQUE")
