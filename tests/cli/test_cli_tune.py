"""`qmamba tune`, and scoring with what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from qmamba.checkpoints import is_tuned_file, load, load_tuned_model
from qmamba.cli import app
from tests.training.samples import write_rated

QUICK = ("--steps", "2", "--batch-size", "4", "--crop-size", "32", "--test-crops", "1")
SMALL = ("--width", "4", "--prompts", "2")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_rated(tmp_path / "rated")


def test_tune_and_score(table: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "adapted"
    before = weights.read_bytes()
    arguments = ("tune", "--data", table, "-o", out, "--base", weights, *QUICK, *SMALL)
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    assert "images train" in result.stderr and "tuned parameters in" in result.stderr
    assert weights.read_bytes() == before
    assert is_tuned_file(out / "tuned.safetensors")
    assert (out / "tuned.safetensors").stat().st_size < weights.stat().st_size
    for name in ("options.json", "splits.json", "log.jsonl", "checkpoint.pt"):
        assert (out / name).exists()

    images = sorted(table.parent.glob("*.png"))[:2]
    scored = run("score", "--model", weights, "--tuned", out / "tuned.safetensors", *images)
    assert scored.exit_code == 0, scored.stderr
    assert "ratings MOS" in scored.stderr and "model adapted" in scored.stderr
    judged = run(
        *("evaluate", "--data", table, "--model", weights),
        *("--tuned", out / "tuned.safetensors", "--split", "none"),
    )
    assert judged.exit_code == 0, judged.stderr

    again = run(*arguments)
    assert again.exit_code == 2 and "--resume" in again.stderr
    assert run(*arguments, "--resume").exit_code == 0
    other = run(*arguments, "--resume", "--regressor")
    assert other.exit_code == 2 and "another tuning" in other.stderr


def test_options_of_the_tuning(table: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run(
        *("tune", "--data", table, "-o", out, "--base", weights, *QUICK, *SMALL),
        *("--size", "7x7", "--regressor", "--name", "mine", "--split", "none"),
    )
    assert result.exit_code == 0, result.stderr
    model = load_tuned_model(weights, out / "tuned.safetensors")
    assert (model.tuning.size, model.tuning.regressor) == ((7, 7), True)
    assert (model.tuning.prompts, model.tuning.width) == (2, 4)
    assert model.metadata is not None and model.metadata.name == "mine"


def test_scores_that_fall(table: Path, weights: Path, tmp_path: Path) -> None:
    """The base rates better images higher, and so does what is tuned on a DMOS list."""
    result = run(
        *("tune", "--data", table, "--lower-is-better", "ratings", "-o", tmp_path / "run"),
        *("--base", weights, *QUICK, *SMALL),
    )
    assert result.exit_code == 0, result.stderr
    metadata = load_tuned_model(weights, tmp_path / "run" / "tuned.safetensors").metadata
    assert metadata is not None and metadata.score is not None
    assert metadata.score.higher_is_better and metadata.score.name.endswith("turned")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "styles"], "method must be"),
        (["--method", "none"], "nothing to train"),
        (["--method", "full", "--regressor"], "trains it anyway"),
        (["--method", "ssf", "--size", "7x7"], "Only style has a size"),
        (["--size", "7"], "--size is height x width"),
        (["--size", "0x7"], "size must be a whole number"),
        (["--base", "absent.safetensors"], "absent.safetensors"),
        (["--data", "absent.csv"], "absent.csv"),
        (["--epochs", "1", "--steps", "2"], "not both"),
    ],
)
def test_wrong_usage(
    table: Path, weights: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    base = [] if "--base" in arguments else ["--base", str(weights)]
    result = run("tune", "--data", table, "-o", tmp_path / "run", *base, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "run" / "options.json").exists()


def test_the_base_is_judged_before_the_data_are_read(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qmamba.datasets.read_csv_dataset", None)
    for base, message in (
        ("mambair-nano-x2-w4a4", "cannot be tuned"),
        ("", "empty"),
    ):
        result = run("tune", "--data", table, "-o", tmp_path / "run", "--base", base, *QUICK)
        assert result.exit_code == 2 and message in result.stderr, result.stderr
        assert not (tmp_path / "run").exists()


def test_a_tuned_file_of_another_base(table: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run("tune", "--data", table, "-o", out, "--base", weights, *QUICK, *SMALL).exit_code == 0
    tuned = out / "tuned.safetensors"
    image = next(table.parent.glob("*.png"))
    for model in ([], ["--model", "qmamba-nano-biq2021"]):
        result = run("score", *model, "--tuned", tuned, image)
        assert result.exit_code == 2 and "was tuned on 'tiny'" in result.stderr
    result = run("score", "--model", tuned, image)
    assert result.exit_code == 2 and "give this file as tuned" in result.stderr
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(tuned.read_bytes()[:100])
    result = run("score", "--model", weights, "--tuned", damaged, image)
    assert result.exit_code == 2 and "is not a tuned file" in result.stderr


def test_help_names_the_methods() -> None:
    text = run("tune", "--help").stdout
    for word in ("StylePrompt", "--regressor", "--learning-rate", "--validation-share"):
        assert word in text


def test_the_card_tells_how_it_was_tuned(table: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run("tune", "--data", table, "-o", out, "--base", weights, *QUICK, *SMALL).exit_code == 0
    record = json.loads((out / "options.json").read_text())
    digest = load(weights).metadata.sha256  # type: ignore[union-attr]
    assert record["base"]["file_sha256"] == digest and record["tuning"]["width"] == 4
