"""No command replaces a file that is there; --force replaces it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from qmamba.assess import Scorer
from qmamba.cli import app
from tests.cli.writers import WRITERS, Writer, make_inputs, named, parametrized

MINE = b"what I have written myself\n"

FILES = [
    writer
    for writer in WRITERS
    # Predictions of a cache are taken up, and a folder is that of the files in it.
    if writer.name != "evaluate --cache" and (not writer.is_folder or writer.name == "score --maps")
]
RUNS = named("train --out", "tune --out", "train-restoration --out")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


def run(words: list[str]) -> Result:
    return CliRunner().invoke(app, words)


@parametrized(FILES)
def test_a_file_is_replaced_by_force_alone(writer: Writer, inputs: Path, tmp_path: Path) -> None:
    file = tmp_path / (writer.result or writer.output)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(MINE)
    words = writer.line(inputs, tmp_path)
    result = run(words)
    assert result.exit_code == 2, result.output
    assert result.stderr.endswith(f"error: {str(file)!r} exists already; --force replaces it.\n")
    assert file.read_bytes() == MINE and os.listdir(file.parent) == [file.name]
    result = run([*words, "--force"])
    assert result.exit_code == 0, result.output
    assert file.read_bytes() != MINE
    assert run(words).exit_code == 2


@parametrized(RUNS)
def test_weights_are_not_replaced(writer: Writer, inputs: Path, tmp_path: Path) -> None:
    weights = tmp_path / writer.result
    weights.parent.mkdir()
    weights.write_bytes(MINE)
    for more in ([], ["--resume"]):
        result = run([*writer.line(inputs, tmp_path), *more])
        assert result.exit_code == 2, result.output
        assert f"holds the weights of a run, {weights.name}, and no checkpoint" in result.stderr
        assert weights.read_bytes() == MINE and os.listdir(weights.parent) == [weights.name]


def test_a_device_may_be_there(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "null.jsonl").symlink_to(os.devnull)
    (writer,) = named("score -o")
    words = [each.replace("t.csv", "null.jsonl") for each in writer.line(inputs, tmp_path)]
    for _ in range(2):
        assert run(words).exit_code == 0


def test_each_of_several_outputs_counts(inputs: Path, tmp_path: Path) -> None:
    (writer,) = named("evaluate -o")
    words = [*writer.line(inputs, tmp_path), "-o", str(tmp_path / "b.md")]
    words += ["--predictions", str(tmp_path / "p.csv")]
    for name in ("b.md", "p.csv"):
        (tmp_path / name).write_bytes(MINE)
        result = run(words)
        assert result.exit_code == 2 and f"{name}' exists already" in result.stderr
        assert os.listdir(tmp_path) == [name]
        (tmp_path / name).unlink()


def test_a_table_that_is_there_and_rows_of_a_stopped_run(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (writer,) = named("score -o")
    words = writer.line(inputs, tmp_path)
    table = tmp_path / "t.csv"
    assert run(words).exit_code == 0
    whole = table.read_bytes()
    result = run([*words, "--resume"])
    assert result.exit_code == 2, result.output
    assert "is complete, no stopped run is left; --force" in result.stderr
    assert table.read_bytes() == whole and os.listdir(tmp_path) == ["t.csv"]
    # A run with --force that was stopped has left the old table, and may be gone on with.
    table.write_bytes(MINE)
    prepare = Scorer.prepare

    def stop(self: Scorer, image: Any) -> Any:
        if os.path.basename(image) == "2.png":
            raise KeyboardInterrupt
        return prepare(self, image)

    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "prepare", stop)
        assert run([*words, "--force", "--workers", "1"]).exit_code == 130
    assert table.read_bytes() == MINE
    result = run([*words, "--resume"])
    assert result.exit_code == 0 and "going on after" in result.stderr, result.output
    assert table.read_bytes() == whole and os.listdir(tmp_path) == ["t.csv"]


def test_options_that_a_folder_of_scores_does_not_have(inputs: Path, tmp_path: Path) -> None:
    words = ["score", str(inputs / "images"), "-o", str(tmp_path / "scores"), "--shards"]
    for more in (["--force"], ["--maps", str(tmp_path / "maps")]):
        result = run([*words, "--model", str(inputs / "tiny.safetensors"), *more])
        assert result.exit_code == 2 and "have no effect on a folder of scores" in result.stderr
        assert os.listdir(tmp_path) == []
