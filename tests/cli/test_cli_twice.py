"""Two processes that would write the same output: the second is refused in one sentence."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from qmamba.cli import app
from qmamba.locks import Owner
from tests.cli.writers import ENVIRONMENT, WRITERS, Writer, make_inputs, named, parametrized
from tests.owners import owner_of

posix = pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


def run(writer: Writer, inputs: Path, outputs: Path) -> Result:
    return CliRunner().invoke(app, writer.line(inputs, outputs))


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@parametrized(WRITERS)
def test_the_second_of_two_is_refused(writer: Writer, inputs: Path, tmp_path: Path) -> None:
    with owner_of(tmp_path / writer.output, is_folder=writer.is_folder) as owner:
        before = tree(tmp_path)
        result = run(writer, inputs, tmp_path)
        assert result.exit_code == 2, result.output
        assert re.search(
            rf"error: Cannot write '{tmp_path}/[^']*': process {owner.pid} on"
            rf" '{socket.gethostname()}' is writing it; wait until it is done or choose another"
            r" output\.\n$",
            result.stderr,
        ), result.stderr
        assert tree(tmp_path) == before
    result = run(writer, inputs, tmp_path)
    # The tables of the paper need more than one data set, which is said.
    assert result.exit_code == (1 if writer.name.startswith("reproduce") else 0), result.output
    assert (tmp_path / (writer.result or writer.output)).is_file()
    assert not [name for name in tree(tmp_path) if name.endswith((".lock", ".tmp"))]


FEW = ("score -o", "quantize -o", "restore FILE", "restore FOLDER")


@parametrized(named(*FEW))
def test_a_process_of_another_machine(writer: Writer, inputs: Path, tmp_path: Path) -> None:
    elsewhere = replace(Owner.here(), host="else\x1bwhere")
    lock = tmp_path / f".{writer.output}.lock"
    if writer.is_folder:
        (tmp_path / writer.output).mkdir()
        lock = tmp_path / writer.output / ".qmamba.lock"
    lock.write_bytes(elsewhere.to_json())
    result = run(writer, inputs, tmp_path)
    assert result.exit_code == 2, result.output
    assert f"process {os.getpid()} on 'else\\x1bwhere' is writing it" in result.stderr
    assert f"or delete '{lock}' if that one is gone" in result.stderr
    assert lock.read_bytes() == elsewhere.to_json()
    lock.unlink()
    assert run(writer, inputs, tmp_path).exit_code == 0


@posix
@parametrized(named(*FEW))
def test_a_process_that_was_killed(writer: Writer, inputs: Path, tmp_path: Path) -> None:
    with owner_of(tmp_path / writer.output, is_folder=writer.is_folder) as owner:
        owner.send_signal(signal.SIGKILL)
        assert owner.wait() == -signal.SIGKILL
    folder = tmp_path / writer.output if writer.is_folder else tmp_path
    (folder / f".{Path(writer.result or writer.output).name}.0123456789ab.tmp").touch()
    assert sum(name.endswith((".lock", ".tmp")) for name in tree(tmp_path)) == 2
    result = run(writer, inputs, tmp_path)
    assert result.exit_code == 0, result.output
    assert not [name for name in tree(tmp_path) if name.endswith((".lock", ".tmp"))]


@posix
@parametrized(named("score -o", "restore FOLDER"))
def test_two_commands_at_once(writer: Writer, inputs: Path, tmp_path: Path) -> None:
    lock = tmp_path / f".{writer.output}.lock"
    if writer.is_folder:
        lock = tmp_path / writer.output / ".qmamba.lock"
    with subprocess.Popen(
        writer.command(inputs, tmp_path), stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as first:
        until = time.monotonic() + 120
        while not lock.exists():
            assert time.monotonic() < until and first.poll() is None
            time.sleep(0.001)
        first.send_signal(signal.SIGSTOP)
        try:
            assert lock.exists()
            result = run(writer, inputs, tmp_path)
        finally:
            first.send_signal(signal.SIGCONT)
        assert result.exit_code == 2, result.output
        assert f"process {first.pid} on" in result.stderr
        _, errors = first.communicate(timeout=120)
        assert first.returncode == 0, errors
    assert (tmp_path / (writer.result or writer.output)).is_file()
    assert not [name for name in tree(tmp_path) if name.endswith((".lock", ".tmp"))]


def test_one_image_each_into_the_same_folder(inputs: Path, tmp_path: Path) -> None:
    (writer,) = named("restore FOLDER")
    words = writer.line(inputs, tmp_path)
    (tmp_path / "better").mkdir()
    with owner_of(tmp_path / "better" / "0.png", is_folder=False):
        for name, code in (("0.png", 2), ("1.png", 0)):
            words[1] = str(inputs / "images" / name)
            assert CliRunner().invoke(app, words).exit_code == code
    assert tree(tmp_path / "better") == ["1.png"]


def test_results_beside_their_images(inputs: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("0.png", "1.png"):
        (images / name).write_bytes((inputs / "images" / name).read_bytes())
    words = ["restore", str(images), "--model", str(inputs / "tiny-sr.safetensors")]
    with owner_of(images, is_folder=True) as owner:
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 2 and f"process {owner.pid} on" in result.stderr
    assert CliRunner().invoke(app, words).exit_code == 0
    assert tree(images) == ["0-x2.png", "0.png", "1-x2.png", "1.png"]


def test_one_name_for_two_outputs(inputs: Path, tmp_path: Path) -> None:
    (writer,) = named("evaluate -o")
    same = str(tmp_path / "e.csv")
    words = [same if each.endswith("e.json") else each for each in writer.line(inputs, tmp_path)]
    result = CliRunner().invoke(app, [*words, "--predictions", same])
    assert result.exit_code == 2 and "is given for two outputs" in result.stderr
    assert tree(tmp_path) == []
