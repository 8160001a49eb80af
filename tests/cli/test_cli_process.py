"""The command as a process of its own: start-up, exit codes, pipes and signals."""

from __future__ import annotations

import csv
import functools
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import qmamba
from qmamba.cli.waiting import BRIEFLY, WAITING_VARIABLES
from tests.assess.samples import write_image

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(qmamba.__file__).parent.parent),
    "OMP_NUM_THREADS": "1",
}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "qmamba", *map(str, arguments)]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['qmamba', '--help']\n"
        "from qmamba.cli import main\n"
        "try: main()\n"
        "finally: print(*sorted(m.partition('.')[0] for m in sys.modules), file=sys.stderr)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    assert "score" in result.stdout and "backends" in result.stdout
    assert "..." not in result.stdout.replace("[ARGS]...", "")
    assert "restore" in result.stdout.partition("Options")[0]
    assert not {"torch", "numpy", "PIL", "safetensors"} & set(result.stderr.split())


@pytest.mark.skipif(os.name != "posix", reason="needs a shell that closes streams")
@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-"])
def test_closed_streams_stop_nothing(closed: str, weights: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    for arguments in (
        ("score", tmp_path, "--model", weights),
        ("compare", tmp_path, tmp_path, "--model", weights),
    ):
        line = f"{shlex.join(command(*arguments))} {closed}"
        result = subprocess.run(line, shell=True, capture_output=True, text=True, env=ENVIRONMENT)
        assert result.returncode == 0, result.stderr
        assert "unexpected" not in result.stderr


def test_score_in_a_process(weights: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "a.png")
    (tmp_path / "b.png").touch()
    result = subprocess.run(
        command("score", tmp_path, "--model", weights, "-o", tmp_path / "out.csv"),
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert result.returncode == 1, result.stderr
    assert result.stdout == "" and "1 image scored, 1 failed" in result.stderr
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize("option", [[], ["--json"]])
def test_a_full_disk_behind_standard_output(
    weights: Path, tmp_path: Path, option: list[str]
) -> None:
    write_image(tmp_path / "a.png")
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            command("score", tmp_path, "--model", weights, *option),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
    assert result.returncode == 2, result.stderr
    assert "error: cannot write the output: no space left there" in result.stderr
    assert "report" not in result.stderr and "Exception" not in result.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize("option", ["--help", "--version"])
def test_a_full_disk_behind_the_help(option: str) -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            command(option), stdout=full, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
    assert result.returncode == 2
    assert result.stderr == "error: cannot write the output: no space left there, free some space\n"


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_keeps_the_rows(weights: Path, tmp_path: Path, name: str, code: int) -> None:
    number = getattr(signal, name)
    path = write_image(tmp_path / "a.png")
    partial = tmp_path / "out.csv.partial"
    arguments = command(
        "score", "-", "--model", weights, "-o", tmp_path / "out.csv", "--workers", "1"
    )
    with subprocess.Popen(
        arguments,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        # A shell starts background jobs, and so the tests in one, with this signal ignored.
        preexec_fn=functools.partial(signal.signal, number, signal.SIG_DFL),
    ) as process:
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write(b"%s\n" % os.fsencode(path) * 6)
        process.stdin.flush()
        until = time.monotonic() + 120
        while not partial.exists() or partial.read_bytes().count(b"\n") < 4:
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        message = process.stderr.read().decode()
        assert process.wait(120) == code
    assert "their rows are in" in message and "Traceback" not in message
    with open(partial, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) >= 3 and all(float(row["score"]) >= 0 for row in rows)
    assert not (tmp_path / "out.csv").exists()
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".tmp", ".lock")]


def waiting_of(load: float, **environment: str) -> str | None:
    """GOMP_SPINCOUNT as a process of the command has it, at a load of the machine."""
    code = (
        f"import os; os.getloadavg = lambda: ({load}, 0, 0)\n"
        "import sys; from qmamba.cli import main; sys.argv = ['qmamba', '--version']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules\n"
        "print(os.environ.get('GOMP_SPINCOUNT'))"
    )
    kept = {k: v for k, v in ENVIRONMENT.items() if k not in WAITING_VARIABLES}
    printed = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = printed.split()[-1]
    return None if found == "None" else found


def test_threads_wait_briefly_on_a_busy_machine() -> None:
    assert waiting_of(load=1.5) == BRIEFLY
    assert waiting_of(load=0.2) is None
    assert waiting_of(load=1.5, GOMP_SPINCOUNT="7") == "7"
    assert waiting_of(load=1.5, OMP_WAIT_POLICY="active") is None
