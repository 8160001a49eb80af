"""Outputs that cannot be written or read: one sentence, and what was computed is kept."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qmamba.cli import app
from tests.cli.processes import Call, Ended, run_all
from tests.cli.writers import (
    ENVIRONMENT,
    SHARDS,
    WRITERS,
    Writer,
    is_there,
    make_inputs,
    named,
    parametrized,
)

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions and pipes")

ALL = (*WRITERS, SHARDS)


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


def tried(
    tmp_path_factory: pytest.TempPathFactory,
    inputs: Path,
    arrange: Callable[[Writer, Path], Call],
    *,
    rights: bool = True,
) -> dict[str, tuple[Path, Ended]]:
    """What became of every command that writes, and the folder for its output.

    Args:
        tmp_path_factory: of pytest.
        inputs: what the commands read.
        arrange: prepares the folder of a command and says how it is called.
        rights: False for an output that is not the user's to write.
    """
    if not rights and os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("root may write everywhere, and setpriv is not there")
    found = [writer for writer in ALL if all(map(is_there, writer.needs))]
    folders = [tmp_path_factory.mktemp("outputs") for _ in found]
    calls = [arrange(writer, folder) for writer, folder in zip(found, folders, strict=True)]
    ends = run_all(calls, ENVIRONMENT, rights=rights)
    return {w.name: pair for w, pair in zip(found, zip(folders, ends, strict=True), strict=True)}


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


Tried = dict[str, tuple[Path, Ended]]


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory, inputs: Path) -> Tried:
    """Where the folder of the output must not be written."""

    def arrange(writer: Writer, folder: Path) -> Call:
        place = folder
        if writer.is_folder and writer is not SHARDS:
            # One that is there already, which the command would put its files into.
            place = folder / writer.output
            place.mkdir()
        place.chmod(0o555)
        return Call(writer.line(inputs, folder))

    return tried(tmp_path_factory, inputs, arrange, rights=False)


@posix
@parametrized(ALL)
def test_a_folder_that_must_not_be_written(writer: Writer, closed: Tried) -> None:
    folder, ended = closed[writer.name]
    assert ended.code == 2 and is_one_sentence(ended.errors), ended
    assert "Permission denied" in ended.errors and str(folder) in ended.errors
    assert set(tree(folder)) <= {writer.output}


@pytest.fixture(scope="module")
def misplaced(tmp_path_factory: pytest.TempPathFactory, inputs: Path) -> Tried:
    """Where a folder has the name of a file, or a file that of a folder."""

    def arrange(writer: Writer, folder: Path) -> Call:
        if writer.is_folder:
            (folder / writer.output).write_text("mine")
        else:
            (folder / writer.output).mkdir()
        return Call(writer.line(inputs, folder))

    return tried(tmp_path_factory, inputs, arrange)


@posix
@parametrized(ALL)
def test_a_folder_in_the_place_of_a_file_and_the_reverse(writer: Writer, misplaced: Tried) -> None:
    folder, ended = misplaced[writer.name]
    if writer.name == "restore FILE":
        # A folder is a place for results, whatever its name ends in.
        assert ended.code == 0 and tree(folder) == ["0.png", "0.png/0.png"]
        return
    assert ended.code == 2 and is_one_sentence(ended.errors), ended
    assert str(folder / writer.output) in ended.errors
    assert tree(folder) == [writer.output]
    assert not writer.is_folder or (folder / writer.output).read_text() == "mine"


@pytest.fixture(scope="module")
def missing(tmp_path_factory: pytest.TempPathFactory, inputs: Path) -> Tried:
    """Where the folder of the output is not there."""

    def arrange(writer: Writer, folder: Path) -> Call:
        return Call(writer.line(inputs, folder / "none"))

    return tried(tmp_path_factory, inputs, arrange)


@posix
@parametrized(ALL)
def test_a_parent_that_is_missing(writer: Writer, missing: Tried) -> None:
    folder, ended = missing[writer.name]
    if writer.is_folder:
        assert ended.code == (1 if writer.name.startswith("reproduce") else 0), ended
        assert (folder / "none" / writer.result).is_file()
        return
    assert ended.code == 2 and is_one_sentence(ended.errors), ended
    assert str(folder / "none") in ended.errors
    assert tree(folder) == []


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, inputs: Path) -> Tried:
    """Where there is space for the name of the owner and little more."""

    def arrange(writer: Writer, folder: Path) -> Call:
        return Call(writer.line(inputs, folder), largest_file=300)

    return tried(tmp_path_factory, inputs, arrange)


@posix
@parametrized(ALL)
def test_a_full_disk(writer: Writer, full: Tried) -> None:
    folder, ended = full[writer.name]
    assert not [name for name in tree(folder) if name.endswith((".lock", ".tmp"))]
    result = folder / (writer.result or writer.output)
    if ended.code == 0:
        assert 0 < result.stat().st_size <= 300
        return
    assert ended.code == 2 and is_one_sentence(ended.errors), ended
    assert str(folder) in ended.errors.splitlines()[-1]
    assert re.search("no space left there|File too large", ended.errors)
    # Predictions are kept line by line.
    assert writer.name == "evaluate --cache" or not result.exists()


@pytest.fixture(scope="module")
def unread(tmp_path_factory: pytest.TempPathFactory, inputs: Path) -> Tried:
    """Where nobody reads the lines, as after ``| head -1``."""

    def arrange(writer: Writer, folder: Path) -> Call:
        return Call(writer.line(inputs, folder), is_read=False)

    return tried(tmp_path_factory, inputs, arrange)


@posix
@parametrized(ALL)
def test_files_are_finished_where_nobody_reads_the_lines(writer: Writer, unread: Tried) -> None:
    folder, ended = unread[writer.name]
    assert ended.code == (1 if writer.name.startswith("reproduce") else 0), ended
    assert (folder / (writer.result or writer.output)).is_file()
    assert "Broken" not in ended.errors and "Exception" not in ended.errors


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
