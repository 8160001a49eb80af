"""`qmamba reproduce`: the plan, a quick trial of the whole way, and what is missing."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from qmamba.cli import app
from qmamba.reproduce import cost, protocol, sources
from tests.reproduce.samples import tiny_dataset


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["reproduce", *map(str, arguments)])


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which AGIQA-3K alone is found, and a fast device."""
    folder = tmp_path / "sets"
    folder.mkdir()
    dataset = tiny_dataset("agiqa3k", folder / "agiqa3k")
    monkeypatch.setattr(sources, "find_datasets", lambda _: {"agiqa3k": folder / "agiqa3k"})
    monkeypatch.setattr(sources, "read_dataset", lambda name, path: dataset)
    monkeypatch.setattr(cost, "measured_speed", lambda device: 1e12)
    monkeypatch.setattr(protocol, "_QUICK_STEPS", 1)
    return folder


def test_the_plan(root: Path, tmp_path: Path) -> None:
    result = run("table5", "--data", root, "--dry-run", "--fresh", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines() if line.strip()}
    assert rows["lqmamba-base_agiqa3k"] == ["lqmamba-base_agiqa3k", "10", "ready"]
    assert rows["lqmamba-base_aigciqa2023"] == ["lqmamba-base_aigciqa2023", "10", "1", "missing"]
    assert "all: 320 trainings" in result.stdout and "hours at the speed" in result.stdout
    assert "aigciqa2023 is not in" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_quick_trial(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("table5", "--data", root, "--quick", "-o", out, "--rows", "*mamba-[tb]")
    result = run(*arguments)
    assert result.exit_code == 1, result.stderr
    assert "missing: aigciqa2023" in result.stderr and "written:" in result.stderr
    header, *rows = csv.reader((out / "table5.csv").read_text().splitlines())
    assert header[7:10] == [f"AGIQA3K PLCC {kind}" for kind in ("ours", "paper", "difference")]
    assert [row[0] for row in rows] == ["QMamba-T", "QMamba-B", "LQMamba-T", "LQMamba-B"]
    for row in rows:
        assert -1 <= float(row[7]) <= 1 and row[8] and row[9]
        assert row[13] == "" and row[14]
    text = (out / "table5.md").read_text()
    assert "mean nothing else" in text and "Not run: aigciqa2023" in text
    assert (out / "table5.tex").exists() and (out / "table5.json").exists()

    again = run(*arguments)
    assert again.exit_code == 1 and "1/2" not in again.stderr
    other = run("table5", "--data", root, "--fresh", "-o", out)
    assert other.exit_code == 2 and "give another folder" in other.stderr


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_a_row_that_the_paper_has_not(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("table5", "--data", root, "--quick", "-o", out, "--rows", "EfficientNet*")
    assert "written:" in result.stderr, result.stderr
    _, row = csv.reader((out / "table5.csv").read_text().splitlines())
    assert row[0] == "EfficientNet-Lite0" and -1 <= float(row[7]) <= 1
    assert not row[8] and not row[9] and "not in the paper" in row[-1]


def test_nothing_can_be_run(tmp_path: Path) -> None:
    result = run("table1", "--data", tmp_path, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "Nothing of table1 can be run" in result.stderr
    assert "no weights to start resnet-50 from" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table0"], "The paper has no 'table0'; give one of table1"),
        (["table5", "--rows", "VGG"], "No row of table5 fits"),
        (["table5", "--precision", "int8"], "--precision is fp32 or bf16"),
        (["table5", "--seeds", "0"], "--seeds"),
        (["table5", "--weights", "absent"], "'absent' does not exist"),
        (["figure3", "--rows", "vgg"], "No backbone of figure 3"),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: list[str], message: str) -> None:
    result = run(*arguments, "--data", tmp_path, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.stderr


def test_figure_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    dataset = tiny_dataset("kadid10k", tmp_path / "kadid10k")
    monkeypatch.setattr(sources, "find_datasets", lambda _: {"kadid10k": tmp_path})
    monkeypatch.setattr(sources, "read_dataset", lambda name, path: dataset)
    monkeypatch.setattr(protocol, "_QUICK_STEPS", 1)
    arguments = ("figure3", "--data", tmp_path, "--quick", "--rows", "qmamba-*", "-o")
    result = run(*arguments, tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    names = sorted(path.name for path in (tmp_path / "out").glob("figure3*"))
    assert names == ["figure3.csv", "figure3.json", "figure3.png", "figure3.svg"]
    assert len((tmp_path / "out" / "figure3.csv").read_text().splitlines()) == 5
