"""`qmamba evaluate` and `qmamba aggregate`."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from qmamba.assess import Scorer
from qmamba.cli import app
from qmamba.datasets import read_csv_dataset, split_by_content, write_splits
from tests.assess.samples import write_image


def run(*arguments: str | int | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """Twelve images, two per content; the first half is the official test part."""
    path = tmp_path / "mine.csv"
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "mos", "content", "split", "distortion"])
        for number in range(12):
            write_image(tmp_path / f"{number}.png", 34, 40, seed=number)
            part = "test" if number < 6 else "train"
            kind = ("blur", "noise")[number % 2]
            writer.writerow([f"{number}.png", number / 2, number // 2, part, kind])
    return path


def test_one_csv(scores: Path, weights: Path, tmp_path: Path) -> None:
    report, table = tmp_path / "r.json", tmp_path / "p.csv"
    result = run(
        "evaluate", "--data", scores, "--model", weights, "-o", report, "-o", tmp_path / "r.md",
        "--predictions", table, "--resamples", 20,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split()[:4] == ["data", "set", "images", "SRCC"]
    assert lines[1].startswith("mine: test (official)") and " to " in lines[2]
    content = json.loads(report.read_text())
    assert content["rows"][0]["images"] == 6 and content["model"] == "tiny"
    scorer = Scorer.from_pretrained(weights)
    with open(table, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["prediction"]) for row in rows] == [
        scorer(scores.parent / row["image"]).raw for row in rows
    ]
    assert not list(tmp_path.glob("*.partial"))


def test_all_images_a_policy_and_a_breakdown(scores: Path, weights: Path) -> None:
    result = run(
        "evaluate", "--data", scores, "--model", weights, "--part", "all", "--by", "distortion",
        "--policy", "crops:3", "--resamples", 0,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "crops(size=32,count=3,layout=fixed)" in result.stderr
    assert "mine: all" in result.stdout
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["blur", "6"] in [line[:2] for line in lines]


def test_the_protocol_of_the_paper_is_seeded(scores: Path, weights: Path) -> None:
    texts = [
        run(
            "evaluate", "--data", scores, "--model", weights, "--policy", "paper",
            "--resamples", 0, "--seed", seed,
        ).stderr
        for seed in (0, 7)
    ]  # fmt: skip
    assert "crops(size=224,count=10,layout=random,seed=0)" in texts[0]
    assert "crops(size=224,count=10,layout=random,seed=7)" in texts[1]


def test_a_file_of_splits(scores: Path, weights: Path, tmp_path: Path) -> None:
    data = read_csv_dataset(scores)
    splits = [split_by_content(data, seed, 0.5) for seed in (0, 1)]
    write_splits(tmp_path / "splits.json", data, splits)
    reports = [tmp_path / "0.json", tmp_path / "1.json"]
    for seed, report in enumerate(reports):
        result = run(
            "evaluate", "--data", scores, "--model", weights, "--split", tmp_path / "splits.json",
            "--split-seed", seed, "-o", report, "--resamples", 0,
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        row = json.loads(report.read_text())["rows"][0]
        assert (row["part"], row["split"], row["split_seed"]) == ("test", "content", seed)
    result = run("aggregate", *reports, "-o", tmp_path / "table.md")
    assert result.exit_code == 0, result.output
    assert "Median of 2 repeats (tiny)" in result.stderr
    assert result.stdout.splitlines()[1].startswith("mine")
    assert "| mine |" in (tmp_path / "table.md").read_text()
    assert run("aggregate", reports[0]).exit_code == 2


def test_a_mix(scores: Path, weights: Path, tmp_path: Path) -> None:
    result = run(
        "evaluate", "--data", f"one={scores}", "--data", f"two={scores}", "--model", weights,
        "--split", "none", "--resamples", 0, "-o", tmp_path / "r.md",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "average of PLCC and SRCC: " in result.stdout
    assert "## As in the paper's tables" in (tmp_path / "r.md").read_text()


def test_bad_images(scores: Path, weights: Path, tmp_path: Path) -> None:
    for number in (1, 4):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    command = ("evaluate", "--data", scores, "--model", weights, "--part", "all", "-o")
    report = tmp_path / "r.json"
    result = run(*command, report)
    assert result.exit_code == 1 and result.stdout == "" and not report.exists()
    assert result.stderr.count("no score: ") == 2 and "2 of 12 images" in result.stderr
    assert len((tmp_path / "r.json.partial").read_text().splitlines()) == 10
    result = run(*command, report, "--skip-bad", "--resamples", 0)
    assert result.exit_code == 0
    assert "10 predictions found" in result.stderr
    assert result.stderr.count("left out: ") == 2
    assert json.loads(report.read_text())["rows"][0]["images"] == 10
    (tmp_path / "1.png").unlink()
    report.unlink()
    result = run(*command, report)
    assert result.exit_code == 1 and result.stderr.count("no score: ") == 2
    assert "1.png: cannot read: there is no such file" in result.stderr
    assert run(*command, report, "--skip-bad", "--resamples", 0).exit_code == 0
    (row,) = json.loads(report.read_text())["rows"]
    assert [name for name, _ in row["skipped"]] == ["1.png", "4.png"] and row["images"] == 10


def test_no_image_at_all(scores: Path, weights: Path, tmp_path: Path) -> None:
    for path in tmp_path.glob("*.png"):
        path.unlink()
    result = run("evaluate", "--data", scores, "--model", weights)
    assert result.exit_code == 2 and "0.png' is listed in 'mine.csv'" in result.stderr
    assert "and 11 more" in result.stderr


def test_outputs_are_tried_before_the_work(
    scores: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[object] = []
    monkeypatch.setattr(Scorer, "prepare", lambda self, image: prepared.append(image))
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").touch()
    for option, name in (
        ("-o", "folder.csv"),
        ("--predictions", "folder.csv"),
        ("--predictions", "file/below.csv"),
    ):
        result = run("evaluate", "--data", scores, "--model", weights, option, tmp_path / name)
        assert result.exit_code == 2 and f"Cannot write '{tmp_path / name}'" in result.stderr
    assert not prepared


def test_an_interruption_goes_on(
    scores: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Scorer.prepare

    def stops(self: Scorer, image: object) -> object:
        if str(image).endswith("5.png"):
            raise KeyboardInterrupt
        return original(self, image)  # type: ignore[arg-type]

    command = (
        "evaluate", "--data", scores, "--model", weights, "--part", "all", "--workers", 1,
        "--resamples", 0, "-o", tmp_path / "r.json",
    )  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "prepare", stops)
        result = run(*command)
    assert result.exit_code == 130
    assert "interrupted after" in result.stderr and "r.json.partial" in result.stderr
    assert (tmp_path / "r.json.partial").stat().st_size > 0
    result = run(*command)
    assert result.exit_code == 0 and "predictions found" in result.stderr
    assert not (tmp_path / "r.json.partial").exists()


def test_a_cache_stays(scores: Path, weights: Path, tmp_path: Path) -> None:
    command = (
        "evaluate", "--data", scores, "--model", weights, "--part", "all", "--resamples", 0,
        "--cache", tmp_path / "cache",
    )  # fmt: skip
    first, second = run(*command), run(*command)
    assert first.stdout == second.stdout and "12 predictions found" in second.stderr
    assert len((tmp_path / "cache").read_text().splitlines()) == 12


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["-o", "report.txt"], "must end in .json or .md or .csv"),
        (["-o", "absent/report.json"], "does not exist"),
        (["--plot", "plot.gif"], ".png or .svg"),
        (["--predictions", "p.jsonl"], "must end in .csv"),
        (["--part", "dev"], "The option part is one of"),
        (["--by", "color"], "The option by is one of distortion, level, generator"),
        (["--by", "generator"], "has a generator"),
        (["--policy", "grid"], "policy 'grid' is unknown"),
        (["--split", "absent.json"], "absent.json"),
    ],
)
def test_wrong_usage(scores: Path, weights: Path, extra: list[str], message: str) -> None:
    result = run("evaluate", "--data", scores, "--model", weights, *extra)
    assert result.exit_code == 2
    assert message in result.stderr and result.stdout == ""


def test_unusable_scores(scores: Path, weights: Path) -> None:
    text = scores.read_text()
    header, *lines = text.splitlines()
    for content, message in (
        ([line.replace(line.split(",")[1], "2.5", 1) for line in lines], "Every score"),
        ([lines[0].replace(",0.0,", ",nan,"), *lines[1:]], "line 2"),
        (lines[:3], "at least 5"),
    ):
        scores.write_text("\n".join([header, *content]) + "\n")
        result = run("evaluate", "--data", scores, "--model", weights, "--split", "none")
        assert result.exit_code == 2 and message in result.stderr, result.stderr


def test_a_plot_without_matplotlib_is_refused_at_once(
    scores: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run("evaluate", "--data", scores, "--model", weights, "--plot", "plot.png")
    assert result.exit_code == 2 and 'pip install "qmamba[plot]"' in result.stderr
