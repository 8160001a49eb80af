"""No cell of a table is a formula, and a path that would be one stays a path."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from qmamba.assess import Scorer
from qmamba.cells import path_cell, text_cell
from qmamba.cli import app

NAMES = ("=cmd|calc.png", "+1.png", "-2.png", "@x.png", "plain.png")


@given(st.text(max_size=20))
def test_no_cell_is_a_formula(text: str) -> None:
    for cell in (path_cell(text), text_cell(text)):
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
        assert cell.endswith(text)


def test_tables_of_files_that_are_named_like_formulas(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(NAMES):
        Image.new("RGB", (40, 40), (number, 80, 120)).save(tmp_path / name)
    run = ["score", "*.png", "-o", "scores.csv", "--model", str(weights), "--workers", "1"]
    scored: list[str] = []
    prepare = Scorer.prepare

    def stopped(self: Scorer, image: Any) -> Any:
        scored.append(image)
        if len(scored) == 4:
            raise KeyboardInterrupt
        return prepare(self, image)

    monkeypatch.setattr(Scorer, "prepare", stopped)
    assert CliRunner().invoke(app, run).exit_code == 130
    result = CliRunner().invoke(app, [*run, "--resume"])
    assert result.exit_code == 0, result.output
    # Rows that were there are known again by the names of their files.
    assert scored[-2:] == ["@x.png", "plain.png"] and scored.count("=cmd|calc.png") == 1
    with open("scores.csv", newline="") as stream:
        images = [row["image"] for row in csv.DictReader(stream)]
    assert images == [path_cell(name) for name in sorted(NAMES)]
    assert all(Path(image).exists() for image in images)
