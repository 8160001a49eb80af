"""Tables with three columns for each of the paper's."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from qmamba.reproduce import Measurement
from qmamba.reproduce.paper_tables import TABLES
from qmamba.reproduce.plan import NOT_HERE, paper_table, rows_of
from qmamba.reproduce.render import comma_separated, heading, latex, markdown, write_table
from qmamba.reproduce.results import TableResult, collect


def measured(measurement: Measurement) -> dict[str, Any] | None:
    """Figures that depend on the seed; LIVE was not there."""
    if measurement.test == "live":
        return None
    return {"plcc": 0.5 + 0.1 * measurement.training.seed, "srcc": 0.25}


def table3(seeds: int = 3) -> TableResult:
    return collect(paper_table("table3"), seeds, measured, notes=("a note",))


def test_cells() -> None:
    rows = {row.label: row for row in table3().rows}
    plcc, srcc, absent = rows["StylePrompt & R"].cells[:3]
    assert plcc.ours == pytest.approx(0.6) and plcc.by_seed == pytest.approx((0.5, 0.6, 0.7))
    assert plcc.paper == 0.921 and plcc.difference == pytest.approx(0.6 - 0.921)
    assert srcc.ours == 0.25
    assert absent.ours is None and absent.difference is None and absent.reason == "not measured"
    foreign = collect(paper_table("table1"), 1, measured, pattern="BRISQUE").rows[0]
    assert foreign.cells[2].reason == NOT_HERE
    # A mean over all transfers needs every one of them.
    assert rows["StylePrompt & R"].cells[-1].ours is None
    whole = collect(paper_table("table3"), 1, lambda _: {"plcc": 0.5, "srcc": 0.3})
    assert whole.rows[-1].cells[-1].ours == pytest.approx(0.4)
    assert table3().measured == 7 * 14 and table3().to_dict()["notes"] == ["a note"]


def test_markdown() -> None:
    lines = markdown(table3()).splitlines()
    assert lines[0].startswith("# Table 3: Transfer")
    header, rule, *rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 7
    assert all(line.count("|") == 2 + 3 * 17 for line in (header, rule, *rows))
    assert header.startswith("| method | KonIQ+LIVEC to KADID PLCC: ours | paper | difference |")
    assert rows[2].startswith("| Without_tuning | 0.600 | 0.535 | +0.065 |")
    assert rows[5].startswith("| StylePrompt * |")
    assert "- a note" in lines
    assert any("Labels marked *" in line for line in lines)
    assert "that is not part of this package" not in "\n".join(lines)
    foreign = markdown(collect(paper_table("table1"), 1, measured, pattern="[iw]*iq*")).splitlines()
    assert "- Without figures of ours: ILNIQE, WaDIQaM (a method" in "\n".join(foreign)
    assert any("LoDa, Without_tuning" in line and "(not measured)" in line for line in lines)
    assert not any("Without the average" in line for line in lines)
    assert "- Number of random splits by content behind the median of ours: 3." in lines


def test_an_average_over_two_tables() -> None:
    def found(measurement: Measurement) -> dict[str, Any] | None:
        ours = "agiqa3k" in measurement.training.key.partition("_to_")[0]
        return {"plcc": 0.5, "srcc": 0.5} if ours else None

    lines = markdown(collect(paper_table("table7"), 1, found, pattern="DEIQT")).splitlines()
    assert "- The average is that of the paper, over the figures of tables 3 and 7." in lines
    assert "- Without the average: DEIQT (not all of its figures were measured)." in lines
    assert not any("not measured)" in line and "figures of ours" in line for line in lines)


def test_comma_separated() -> None:
    header, *rows = csv.reader(io.StringIO(comma_separated(table3())))
    assert header[:4] == [
        "method",
        *(f"KonIQ+LIVEC to KADID PLCC {kind}" for kind in ("ours", "paper", "difference")),
    ]
    assert rows[0][:4] == ["DEIQT", "0.600", "0.583", "+0.017"]
    assert all(len(row) == 1 + 3 * 17 + 1 for row in rows)


def test_no_difference_has_no_sign() -> None:
    loda = collect(paper_table("table2"), 1, measured, pattern="LoDa")
    assert "| LoDa | 8.93 | 8.93 | 0.00 | 23.68 | 23.68 | 0.00 |" in markdown(loda)


def test_latex() -> None:
    text = latex(table3())
    assert "StylePrompt \\& R & 0.600 & 0.921 & -0.321" in text
    assert "Without\\_tuning" in text and text.endswith("\\end{tabular}\n")
    rows = [line for line in text.splitlines() if line.endswith("\\\\")][1:]
    cells = {line.replace("\\&", "").count("&") for line in rows}
    assert cells == {3 * 17}


@pytest.mark.parametrize("name", TABLES)
def test_every_table_can_be_written(name: str, tmp_path: Path) -> None:
    result = collect(paper_table(name), 1, lambda _: {"plcc": 0.5, "srcc": 0.3})
    paths = write_table(result, tmp_path)
    assert [path.name for path in paths] == [f"{name}{s}" for s in (".md", ".csv", ".tex", ".json")]
    content = json.loads(paths[-1].read_text())
    assert [row["label"] for row in content["rows"]] == [row.label for row in rows_of(TABLES[name])]
    titles = [heading(column) for column in TABLES[name].columns]
    assert len(set(titles)) == len(titles)


def test_rows_can_be_chosen() -> None:
    result = collect(paper_table("table1"), 1, measured, pattern="lqmamba-*")
    assert [row.label for row in result.rows] == ["LQMamba-T", "LQMamba-S", "LQMamba-B"]
    several = collect(paper_table("table1"), 1, measured, pattern="loda | *qmamba-t|DEIQT")
    assert [row.label for row in several.rows] == ["DEIQT", "LoDa", "QMamba-T", "LQMamba-T"]


def test_what_stands_beside_a_row() -> None:
    result = collect(paper_table("table3"), 1, measured, remarks={"LoDa": "no weights"})
    assert "| LoDa (no weights) | 0.500 |" in markdown(result)
    assert "| DEIQT | 0.500 |" in markdown(result)
    rows = list(csv.reader(io.StringIO(comma_separated(result))))
    assert rows[0][-1] == "remark" and [row[-1] for row in rows[1:3]] == ["", "no weights"]
    assert "LoDa (no weights) & 0.500" in latex(result)
    assert result.to_dict()["rows"][1]["remark"] == "no weights"
