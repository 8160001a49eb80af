"""Outputs that cannot be written or read: one sentence, and what was computed is kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qmamba.cli import app
from tests.cli.writers import ENVIRONMENT, WRITERS, Writer, make_inputs, named, parametrized

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions and pipes")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


def is_one_sentence(errors: str) -> bool:
    last = errors.rstrip("\n").splitlines()[-1]
    words = ("Traceback", "unexpected", "please report", "Exception ignored")
    return last.startswith("error: ") and not any(word in errors for word in words)


@parametrized(WRITERS)
def test_a_file_in_the_place_of_a_folder(writer: Writer, inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    result = CliRunner().invoke(app, writer.line(inputs, tmp_path / "file"))
    assert result.exit_code == 2 and is_one_sentence(result.stderr), result.output
    assert str(tmp_path / "file") in result.stderr
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "mine"


@posix
@pytest.mark.skipif(
    os.name == "posix" and os.geteuid() == 0 and shutil.which("setpriv") is None,
    reason="root may write everywhere, and setpriv is not there",
)
@parametrized(named("score -o", "report -o", "restore FOLDER", "train --out"))
def test_a_folder_that_must_not_be_written(writer: Writer, inputs: Path, tmp_path: Path) -> None:
    words = writer.command(inputs, tmp_path / "closed")
    if os.geteuid() == 0:
        words = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", *words]
    (tmp_path / "closed").mkdir(mode=0o555)
    result = subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT)
    assert result.returncode == 2 and is_one_sentence(result.stderr), result.stderr
    assert "Permission denied" in result.stderr
    assert os.listdir(tmp_path / "closed") == []


@posix
@parametrized(named("score -o", "compare -o", "train --out"))
def test_a_folder_that_disappears(writer: Writer, inputs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    begun = folder / f".{writer.output}.lock"
    words = writer.command(inputs, folder)
    if writer.is_folder:
        begun = folder / writer.output / "log.jsonl"
        words[words.index("--steps") + 1] = "100000"
        words += ["--log-every", "1", "--checkpoint-every", "5"]
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        until = time.monotonic() + 120
        while not begun.exists():
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.002)
        shutil.rmtree(folder)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 2 and is_one_sentence(errors), errors
    assert str(folder) in errors


@posix
@parametrized(named("compare -o", "evaluate -o", "evaluate-restoration -o", "restore FOLDER"))
def test_files_are_finished_where_nobody_reads_the_lines(
    writer: Writer, inputs: Path, tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as closed:
        result = subprocess.run(
            writer.command(inputs, tmp_path),
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / (writer.result or writer.output)).is_file()
    assert "Broken" not in result.stderr and "Exception" not in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_behind_the_lines_keeps_the_rows(inputs: Path, tmp_path: Path) -> None:
    (writer,) = named("compare -o")
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            writer.command(inputs, tmp_path),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
    assert result.returncode == 2 and is_one_sentence(result.stderr), result.stderr
    assert (tmp_path / "c.partial.csv").read_text().count("\n") == 2
    assert os.listdir(tmp_path) == ["c.partial.csv"]
