"""Checking data sets, from Python and from the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qmamba.cli import app
from qmamba.datasets import check_csv, check_dataset, list_datasets
from qmamba.errors import ConfigError
from tests.datasets.trees import build, write_files, write_text


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data sets")
    build("csiq", folder / "csiq")
    build("koniq10k", folder / "koniq", images=0)
    build("tid2013", folder / "tid", images=2990)
    return folder


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["datasets", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_reports(root: Path) -> None:
    report = check_dataset("csiq", root)
    assert report.complete
    assert (report.root, report.listed, report.present) == (root / "csiq", 866, 866)
    assert (report.contents, report.score_range, report.higher_is_better) == (30, (0, 1), False)
    report = check_dataset("koniq10k", root)
    assert report.found and not report.complete
    assert (report.listed, report.present) == (10073, 0)
    assert len(report.problems) == 1
    assert "1024x768' with 10073 images" in report.problems[0]
    report = check_dataset("tid2013", root)
    assert (report.present, len(report.problems)) == (2990, 10)
    report = check_dataset("spaq", root)
    assert not report.found and not report.complete and not report.problems
    with pytest.raises(ConfigError, match="Unknown data set"):
        check_dataset("spack", root)


def test_a_label_file_that_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    write_text(tmp_path / "dmos.csv", ["dist_img,ref_img", "I01_01_01.png,I01.png"])
    report = check_dataset("kadid10k", tmp_path)
    assert report.found and report.listed == 0 and report.score_range is None
    assert len(report.problems) == 1 and "no column 'dmos'" in report.problems[0]


def test_table(root: Path) -> None:
    code, output, errors = run("check", root)
    assert (code, errors) == (1, "")
    lines = output.splitlines()
    assert lines[0].split() == [
        "name",
        "found",
        "images",
        "contents",
        "scores",
        "better",
        "problems",
    ]
    assert [line.split()[0] for line in lines[1:11]] == list(list_datasets())
    assert lines[2].split() == ["csiq", "yes", "866", "30", "0", "to", "1", "lower", "0"]
    assert lines[3].split()[:3] == ["tid2013", "yes", "2990/3000"]
    assert lines[1].split() == ["live", "no", "-", "-", "-", "-", "-"]
    assert "i25_24_5.bmp" in output
    code, output, _ = run("check", root, "--problems", 2)
    assert "  8 more problems" in output


def test_named_sets(root: Path) -> None:
    code, output, _ = run("check", root, "--name", "csiq")
    assert code == 0
    assert len(output.split("\n\n")[0].splitlines()) == 2
    code, output, _ = run("check", root, "--name", "csiq", "--name", "live")
    assert code == 1
    assert "live     no" in output
    code, _, errors = run("check", root, "--name", "csik")
    assert code == 2
    assert "Unknown data set 'csik'" in errors


def test_nothing_found(tmp_path: Path) -> None:
    code, output, errors = run("check", tmp_path)
    assert code == 2
    assert "koniq10k" in output
    assert "No known data set in" in errors
    code, _, errors = run("check", tmp_path / "absent")
    assert code == 2
    assert "does not exist" in errors


def test_csv(tmp_path: Path) -> None:
    write_files(tmp_path / "images", ["a.png", "b.png"])
    path = tmp_path / "mine.csv"
    write_text(path, ["path,mos,content", "a.png,1,x", "b.png,2,x"])
    assert check_csv(path).complete
    code, output, _ = run("check", path)
    assert code == 0
    assert output.splitlines()[1].split() == ["mine", "yes", "2", "1", "1", "to", "2", "?", "0"]
    write_text(path, ["path,mos", "a.png,1", "c\x1b[2J.png,2"])
    code, output, _ = run("check", path)
    assert code == 1
    assert "1/2" in output and "\x1b" not in output
    write_text(path, ["path,mos", "a.png,one"])
    code, output, _ = run("check", path)
    assert code == 1
    assert "holds 'one'" in output
    code, _, errors = run("check", path, "--name", "csiq")
    assert code == 2
    assert "--name goes with a folder" in errors


def test_list() -> None:
    code, output, _ = run("list")
    assert code == 0
    lines = output.splitlines()
    assert [line.split()[0] for line in lines[1:11]] == list(list_datasets())
    assert "779" in lines[1] and "lower" in lines[1]


def test_commands_do_not_import_torch() -> None:
    code = "import sys; from qmamba import cli, datasets; print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"
