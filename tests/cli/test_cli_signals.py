"""Commands that a signal stops: the exit code names it, and nothing half done is left."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import pytest

from qmamba.training.checkpoints import CHECKPOINT_NAME
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

pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")

CODES = {"SIGTERM": 143, "SIGHUP": 129, "SIGINT": 130}
SHORT = (
    *("compare -o", "report -o", "evaluate -o", "evaluate-restoration -o", "export -o"),
    "reproduce --out",
)
SIGNAL_OF = dict(zip(SHORT, cycle(CODES), strict=False))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


def stopped(
    command: list[str], name: str, when: Callable[[], bool], *, early: bool = False
) -> tuple[int, str]:
    """Exit code and messages of a command that gets a signal when something is so."""
    number = getattr(signal, name)
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        # A shell starts background jobs, and so the tests in one, with this signal ignored.
        preexec_fn=functools.partial(signal.signal, number, signal.SIG_DFL),
    ) as process:
        until = time.monotonic() + 120
        while not when():
            assert time.monotonic() < until and process.poll() is None, process.communicate()
            time.sleep(0.002)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def lock_of(writer: Writer, outputs: Path) -> Path:
    if writer.is_folder:
        return outputs / writer.output / ".qmamba.lock"
    return outputs / f".{writer.output}.lock"


@parametrized(named(*SHORT))
def test_stopped_at_its_work(writer: Writer, inputs: Path, tmp_path: Path) -> None:
    name = SIGNAL_OF[writer.name]
    code, errors = stopped(writer.command(inputs, tmp_path), name, lock_of(writer, tmp_path).exists)
    assert code == CODES[name], errors
    assert "Traceback" not in errors and "unexpected" not in errors
    left = [str(path) for path in tmp_path.rglob("*")]
    assert not [path for path in left if path.endswith((".lock", ".tmp"))]
    assert not (tmp_path / (writer.result or writer.output)).exists()


@parametrized(named("train --out", "tune --out", "train-restoration --out"))
def test_a_training_stops_after_a_checkpoint(writer: Writer, inputs: Path, tmp_path: Path) -> None:
    name = "SIGHUP" if writer.name.startswith("tune") else "SIGTERM"
    words = writer.command(inputs, tmp_path)
    words[words.index("--steps") + 1] = "100000"
    words += ["--log-every", "1"]
    folder = tmp_path / writer.output
    log = folder / "log.jsonl"
    code, errors = stopped(words, name, lambda: log.exists() and log.read_text().count("\n") >= 2)
    assert code == CODES[name], errors
    assert "stopped after step" in errors and "--resume goes on" in errors
    assert (folder / CHECKPOINT_NAME).exists() and not (folder / ".qmamba.lock").exists()
    assert not list(folder.glob("*.tmp"))


ALL = [writer for writer in (*WRITERS, SHARDS) if writer.name != "evaluate --cache"]
# Predictions in a file of their own are kept line by line.
SIGNALS = {writer.name: name for writer, name in zip(ALL, cycle(CODES), strict=False)}


@pytest.fixture(scope="module")
def met(tmp_path_factory: pytest.TempPathFactory, inputs: Path) -> dict[str, tuple[Path, Ended]]:
    """What becomes of each command that gets a signal while its first file takes its place."""
    found = [writer for writer in ALL if all(map(is_there, writer.needs))]
    folders = [tmp_path_factory.mktemp("outputs") for _ in found]
    calls = [
        Call(writer.line(inputs, folder), signal=SIGNALS[writer.name])
        for writer, folder in zip(found, folders, strict=True)
    ]
    ends = run_all(calls, ENVIRONMENT)
    return {w.name: pair for w, pair in zip(found, zip(folders, ends, strict=True), strict=True)}


@parametrized(ALL)
def test_stopped_while_it_writes(writer: Writer, met: dict[str, tuple[Path, Ended]]) -> None:
    folder, ended = met[writer.name]
    assert ended.code == CODES[SIGNALS[writer.name]], ended
    assert "Traceback" not in ended.errors and "unexpected" not in ended.errors
    left = [path for path in folder.rglob("*") if path.is_file()]
    # What was predicted before the report is kept, and no file is without content.
    assert all(path.suffix == ".partial" and path.stat().st_size for path in left), left


def test_every_command_that_writes_is_here() -> None:
    from qmamba.cli import app

    commands = {
        each.name or getattr(each.callback, "__name__", "") for each in app.registered_commands
    }
    only_read_or_send = {"models", "backends", "serve", "push"}
    assert commands - only_read_or_send == {writer.name.split()[0] for writer in WRITERS}
