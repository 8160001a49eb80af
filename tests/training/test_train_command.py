from __future__ import annotations

import csv
import json
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from qmamba.checkpoints import load
from qmamba.cli import app
from qmamba.cli.options.training import HELP, training_options
from qmamba.datasets import read_csv_dataset, read_splits, split_by_content, write_splits
from qmamba.datasets.selection import chosen_split, for_each, read_rated_data
from qmamba.errors import ConfigError, DataError
from qmamba.training.options import TrainingOptions
from tests.assess.samples import save_tiny
from tests.datasets.trees import build
from tests.training.samples import write_rated

QUICK = ("--steps", "4", "--batch-size", "4", "--crop-size", "32", "--test-crops", "1")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_rated(tmp_path / "rated")


@pytest.fixture
def start(tmp_path: Path) -> Path:
    return save_tiny(tmp_path)


def change(table: Path, line: int, column: str, value: str) -> None:
    with open(table, newline="") as file:
        rows = list(csv.reader(file))
    rows[line][rows[0].index(column)] = value
    with open(table, "w", newline="") as file:
        csv.writer(file).writerows(rows)


def test_own_csv(table: Path, start: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ("--data", table, "-o", out, "--from", start, *QUICK, "--validation-share", 0.4)
    result = run(*map(str, arguments))
    assert result.exit_code == 0, result.stderr
    assert "ratings: 6 images train, 4 validate, 2 are left alone" in result.stderr
    assert "step 4/4" in result.stderr and "left" in result.stderr and "srcc" in result.stderr
    model = load(out / "model.safetensors")
    assert model.metadata is not None and model.metadata.name == "run"
    data = read_csv_dataset(table)
    (split,) = read_splits(out / "splits.json", data)
    assert (len(split.train), len(split.validation), len(split.test)) == (6, 4, 2)
    before = (out / "model.safetensors").read_bytes()
    again = run(*map(str, arguments))
    assert again.exit_code == 2 and "--resume" in again.stderr
    again = run(*map(str, arguments), "--resume")
    assert again.exit_code == 0 and (out / "model.safetensors").read_bytes() == before
    other = run(*map(str, arguments), "--resume", "--loss", "l1")
    assert other.exit_code == 2 and "another task" in other.stderr


def test_resume_wants_every_option_again(table: Path, start: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    common = ("--data", table, "-o", out, "--from", start, *QUICK, "--scale", "0,10")
    assert run(*common, "--split-seed", "1", "--train-share", "0.6").exit_code == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    for other, message in (
        (("--split-seed", "7", "--train-share", "0.6"), "with seed 7"),
        (("--split-seed", "1", "--train-share", "0.8"), "share 0.8"),
        (("--split-seed", "1", "--train-share", "0.6", "--split", "image"), "by image"),
        (
            ("--split-seed", "1", "--train-share", "0.6", "--validation-share", "0.5"),
            "4 train, 4 validate",
        ),
        (("--split-seed", "1", "--train-share", "0.6", "--test-crops", "2"), "another task"),
        (("--split-seed", "1", "--train-share", "0.6", "--test-size", "40"), "another task"),
        (("--split-seed", "1", "--train-share", "0.6", "--scale", "0,20"), "another task"),
    ):
        result = run(*common, *other, "--resume")
        assert result.exit_code == 2 and message in result.stderr, result.stderr
        assert {path: path.read_bytes() for path in out.iterdir()} == before
    again = run(*common, "--split-seed", "1", "--train-share", "0.6", "--resume")
    assert again.exit_code == 0, again.stderr


def test_a_folder_that_cannot_be(
    table: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("qmamba.datasets.read_csv_dataset", None)
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        result = run("--data", table, "-o", out, "--from", start, *QUICK)
        assert result.exit_code == 2 and "Cannot make the folder" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keep", "best"], "The option keep='best' needs a validation part"),
        (["--tensorboard"], "TensorBoard is not installed"),
        (["--head-factor", "nan"], "head_factor"),
        (["--from", "mambair-nano-x2-w4a4"], "MambaIR gives no scores"),
    ],
)
def test_wrong_usage_is_found_before_the_images_are_read(
    arguments: list[str],
    message: str,
    table: Path,
    start: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qmamba.training.quality.task.Images", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    source = () if "--from" in arguments else ("--from", start)
    result = run("--data", table, "-o", tmp_path / "run", *source, *QUICK, *arguments)
    assert result.exit_code == 2 and message in result.stderr, result.stderr


def test_missing_images_are_named(table: Path, start: Path, tmp_path: Path) -> None:
    change(table, 5, "path", "gone.png")
    (table.parent / "ratings07.png").write_bytes(b"no image")
    common = ("--data", table, "-o", tmp_path / "run", "--from", start, *QUICK, "--split", "none")
    result = run(*common, "--skip-bad")
    assert result.exit_code == 0 and "skipped: gone.png" in result.stderr, result.stderr
    told = json.loads((tmp_path / "run" / "options.json").read_text())["task"]
    assert told["skipped"] == ["gone.png", "ratings07.png"] and told["data"][0]["train"] == 10
    metadata = load(tmp_path / "run" / "model.safetensors").metadata
    assert metadata is not None and metadata.training["task"]["skipped"] == told["skipped"]


def test_a_run_without_missing_images_is_evaluated_on_its_split(
    table: Path, start: Path, tmp_path: Path
) -> None:
    change(table, 5, "path", "gone.png")
    out = tmp_path / "run"
    common = ("--data", str(table), "--skip-bad")
    result = run(*common, "-o", out, "--from", start, *QUICK, "--train-share", "0.5")
    assert result.exit_code == 0, result.stderr
    result = CliRunner().invoke(
        app,
        [
            *("evaluate", *common, "--model", str(out / "model.safetensors")),
            *("--split", str(out / "splits.json"), "--resamples", "0"),
        ],
    )
    assert result.exit_code == 0, result.stderr


def test_the_test_part_is_never_opened(table: Path, start: Path, tmp_path: Path) -> None:
    data = read_csv_dataset(table)
    split = split_by_content(data, 0)
    for position in split.test:
        data[position].path.write_bytes(b"no image")
    result = run("--data", table, "-o", tmp_path / "run", "--from", start, *QUICK)
    assert result.exit_code == 0, result.stderr
    result = run(
        "--data", table, "-o", tmp_path / "all", "--from", start, *QUICK, "--split", "none"
    )
    assert result.exit_code == 2
    assert all(data[position].path.name in result.stderr for position in split.test)
    result = run(
        *("--data", table, "-o", tmp_path / "all", "--from", start, *QUICK),
        *("--split", "none", "--skip-bad"),
    )
    assert result.exit_code == 0 and result.stderr.count("skipped:") == 2
    assert not (tmp_path / "all" / "splits.json").exists()
    told = json.loads((tmp_path / "all" / "options.json").read_text())["task"]
    assert sorted(told["skipped"]) == sorted(data[position].name for position in split.test)


def test_a_mix(table: Path, start: Path, tmp_path: Path) -> None:
    second = write_rated(tmp_path / "second", 8, name="second", scale=10.0)
    out = tmp_path / "run"
    result = run(
        *("--data", table, "--data", f"dmos={second}", "--lower-is-better", "dmos"),
        *("--scale", "dmos=0,60", "--scale", "ratings=1,5", "--shorter", "dmos=36"),
        *("--sampling", "balanced", "--loss", "smooth_l1+plcc"),
        *("-o", out, "--from", start, *QUICK, "--validation-share", "0.6"),
    )
    assert result.exit_code == 0, result.stderr
    metadata = load(out / "model.safetensors").metadata
    assert metadata is not None and metadata.score is not None
    assert (metadata.score.low, metadata.score.high) == (0, 100)
    first, other = metadata.training["maps"]
    assert first["scale"] == [1, 5] and first["factor"] > 0
    assert other["scale"] == [0, 60] and other["factor"] < 0
    assert set(metadata.training["figures"]) >= {"srcc", "srcc/ratings", "plcc/dmos"}
    assert [entry["shorter"] for entry in metadata.training["task"]["data"]] == [None, 36]
    assert (out / "splits-ratings.json").exists() and (out / "splits-dmos.json").exists()


@pytest.mark.parametrize(
    ("line", "column", "value", "message"),
    [
        (3, "mos", "nan", "line 4"),
        (3, "mos", "", "line 4"),
        (5, "path", "gone.png", "gone.png"),
        (5, "path", "ratings00.png", "already"),
    ],
)
def test_bad_lists(
    line: int, column: str, value: str, message: str, table: Path, start: Path, tmp_path: Path
) -> None:
    change(table, line, column, value)
    result = run("--data", table, "-o", tmp_path / "run", "--from", start, *QUICK)
    assert result.exit_code == 2 and message in result.stderr
    assert not (tmp_path / "run").exists()


def test_constant_scores(table: Path, start: Path, tmp_path: Path) -> None:
    for line in range(1, 13):
        change(table, line, "mos", "3")
    result = run("--data", table, "-o", tmp_path / "run", "--from", start, *QUICK)
    assert result.exit_code == 2 and "Every score" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "4", "--epochs", "2"], "not both"),
        (["--loss", "huber"], "Unknown loss"),
        (["--split", "random"], "neither a file"),
        (["--split", "official"], "no official split"),
        (["--split", "other=content"], "names no data set"),
        (["--train-share", "1.5"], "train_share"),
        (["--validation-share", "0.1"], "2 images and a correlation needs 3"),
        (["--windows", "a"], "--windows"),
        (["--windows", "2"], "windows"),
        (["--betas", "0.9"], "betas"),
        (["--milestones", "x"], "--milestones"),
        (["--precision", "fp8"], "precision"),
        (["--keep", "best"], "validation"),
        (["--shorter", "big"], "shorter side is a number"),
        (["--scale", "5"], "LOW,HIGH"),
        (["--scale", "other=1,5"], "'other'"),
        (["--sampling", "even"], "balanced"),
        (["--device", "nowhere"], "cannot be used"),
        (["--model", "qmamba-huge"], "qmamba-huge"),
        (["--batch-size", "0"], "batch_size"),
    ],
)
def test_wrong_usage(
    arguments: list[str], message: str, table: Path, start: Path, tmp_path: Path
) -> None:
    result = run("--data", table, "-o", tmp_path / "run", "--from", start, *arguments)
    assert result.exit_code == 2 and message in result.stderr, result.stderr


def test_data_that_is_not_there(table: Path, tmp_path: Path) -> None:
    for data, message in (
        (str(tmp_path / "none.csv"), "does not exist"),
        (str(tmp_path), "which data set it holds"),
        (f"koniq10k={tmp_path}", "KonIQ-10k is not in"),
        (f"konik={tmp_path}", "Unknown data set"),
    ):
        result = run("--data", data, "-o", tmp_path / "run", "--model", "qmamba-nano")
        assert result.exit_code == 2 and message in result.stderr
    with pytest.raises(ConfigError, match="Two data sets"):
        read_rated_data([str(table), str(table)])


def test_known_data_sets_by_name(tmp_path: Path) -> None:
    build("csiq", tmp_path / "csiq", images=8)
    written = [f"csiq={tmp_path / 'csiq'}"]
    with pytest.raises(DataError, match="not complete"):
        read_rated_data(written)
    (data,) = read_rated_data(written, skip_bad=True)
    assert (data.name, len(data), data.higher_is_better) == ("csiq", 8, False)
    with pytest.raises(ConfigError, match="'csiq', which is no CSV"):
        read_rated_data(written, lower_is_better=["csiq"], skip_bad=True)


def test_every_option_of_a_run_has_its_help() -> None:
    assert list(HELP) == [field.name for field in fields(TrainingOptions)]
    shown = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).stdout
    assert all(f"--{name.replace('_', '-')} " in shown for name in HELP)


def test_options_from_the_command_line() -> None:
    standard = TrainingOptions(ema_decay=0.9)
    assert training_options(standard, {}) == standard
    given = {"steps": 7, "clip_norm": 0.0, "ema_decay": 0.0, "betas": "0.8,0.9", "warmup": 0.0}
    options = training_options(standard, given)
    assert (options.steps, options.epochs, options.clip_norm) == (7, None, None)
    assert options.ema_decay is None and options.betas == (0.8, 0.9) and options.warmup == 0
    assert training_options(TrainingOptions(epochs=None, steps=5), {"epochs": 2.0}).epochs == 2


def test_values_for_each_data_set(tmp_path: Path) -> None:
    assert for_each([], ["a", "b"], "auto", "--split") == {"a": "auto", "b": "auto"}
    assert for_each(["b=x", "y"], ["a", "b"], "auto", "--split") == {"a": "y", "b": "x"}
    odd = tmp_path / "a=b.json"
    odd.touch()
    assert for_each([str(odd)], ["c"], "auto", "--split") == {"c": str(odd)}


def test_splits_from_a_file(table: Path, tmp_path: Path) -> None:
    data = read_csv_dataset(table)
    path = tmp_path / "splits.json"
    splits = [split_by_content(data, seed) for seed in (0, 1, 2)]
    write_splits(path, data, splits)
    assert chosen_split(data, str(path), seed=1) == splits[1]
    with pytest.raises(DataError, match="seeds 0, 1, 2"):
        chosen_split(data, str(path), seed=7)
    write_splits(path, data, splits[2:])
    assert chosen_split(data, str(path), seed=7) == splits[2]
    assert chosen_split(data, "auto") == split_by_content(data, 0)
