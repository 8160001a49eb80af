"""The command as processes: several runners, signals, full disks, deaths that are seen."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import qmamba
from qmamba.scale import ScoresFolder, read_status
from qmamba.scale.faults import VARIABLE
from tests.scale.sets import contents, samples, write_tar

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(qmamba.__file__).parent.parent),
    "OMP_NUM_THREADS": "1",
}
pytestmark = pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")


def score(
    scores: Path, weights: Path, *paths: Path, options: tuple[str, ...] = ("--processes", "1")
) -> list[str]:
    command = [sys.executable, "-m", "qmamba", "score", *map(str, paths), "-o", str(scores)]
    return [*command, "--shards", "--shard-size", "4", "--model", str(weights), *options]


def run(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**ENVIRONMENT, **variables}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.01)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tar files that take a worker a moment."""
    folder = tmp_path_factory.mktemp("large")
    for number in range(2):
        write_tar(folder / f"{number:05}.tar", samples(150, 150 * number))
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, weights: Path, large: Path) -> dict[str, bytes]:
    scores = tmp_path_factory.mktemp("whole") / "scores"
    done = run(score(scores, weights, large))
    assert done.returncode == 0, done.stderr
    assert "300 images done now, 300 scored in all" in done.stderr
    return contents(scores)


def test_a_worker_that_dies_is_replaced(tmp_path: Path, weights: Path, data: Path) -> None:
    scores = tmp_path / "scores"
    fault = {VARIABLE: "crash:member=00001.tar/000017.png"}
    done = run(score(scores, weights, data), **fault)
    # The set has other images that fail.
    assert done.returncode == 1, done.stderr
    assert "2 workers died and were replaced" in done.stderr and "5 failed" in done.stderr
    status = read_status(scores)
    assert status.complete and status.errors["worker died"] == 1


def test_everything_dies_at_once(
    tmp_path: Path, weights: Path, large: Path, whole: dict[str, bytes]
) -> None:
    scores = tmp_path / "scores"
    for fault in ("kill:after_rows=17", "kill:before_rename"):
        done = run(score(scores, weights, large), **{VARIABLE: fault})
        assert done.returncode == -signal.SIGKILL
        assert contents(scores) == {}
    done = run(score(scores, weights))
    assert done.returncode == 0, done.stderr
    assert contents(scores) == whole and read_status(scores).complete
    assert not [p for p in scores.rglob("*.tmp")]


def test_two_runners_and_one_that_stands_still(
    tmp_path: Path, weights: Path, large: Path, whole: dict[str, bytes]
) -> None:
    scores = tmp_path / "scores"
    options = ("--processes", "1", "--stale-minutes", "0.03")
    first = start(score(scores, weights, large, options=options))
    claims = ScoresFolder(scores).claims
    held: list[int] = []

    def at_work() -> bool:
        from qmamba.scale.claims import Claims

        if not claims.is_dir():
            return False
        entries = Claims(ScoresFolder(scores)).held().values()
        held[:] = [entry.owner.pid for entry in entries if entry.at.first > 5]
        return bool(held) or first.poll() is not None

    wait_for(at_work, "the first runner has not begun")
    assert first.poll() is None and held
    worker = held[0]
    os.kill(worker, signal.SIGSTOP)
    try:
        second = run(score(scores, weights, large, options=options))
        assert second.returncode == 0, second.stderr
        assert contents(scores) == whole
    finally:
        os.kill(worker, signal.SIGCONT)
    _, message = first.communicate(timeout=120)
    assert first.returncode == 0, message
    assert contents(scores) == whole and not list(claims.iterdir())


def test_two_runners_share_the_work(
    tmp_path: Path, weights: Path, large: Path, whole: dict[str, bytes]
) -> None:
    scores = tmp_path / "scores"
    command = score(scores, weights, large)
    assert run([*command, "--plan-only"]).returncode == 0
    runners = [start(command) for _ in range(2)]
    said = [runner.communicate(timeout=300)[1] for runner in runners]
    assert [runner.returncode for runner in runners] == [0, 0], said
    assert contents(scores) == whole
    done = [int(re.findall(r"(\d+) images? done now", text)[0]) for text in said]
    assert sum(done) == 300
    assert not list(ScoresFolder(scores).claims.iterdir())


def test_a_device_without_room(tmp_path: Path, weights: Path, large: Path) -> None:
    """A file system of its own that is full; what is there is looked at before it goes."""
    program = """
set -e
mount -t tmpfs -o size=64k tmpfs "$1" 2>/dev/null || exit 77
cd "$1"; shift
"$@" --plan-only >/dev/null 2>&1
head -c 100000 /dev/zero > filler 2>/dev/null || true
set +e
"$@"; echo "code $?"
find . -name '*.tmp' -o -path '*claims/*'
rm filler
"$@"; echo "code $?"
ls scores
"""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare for a file system of its own")
    (tmp_path / "full").mkdir()
    command = score(Path("scores"), weights, large)
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", program, "sh", str(tmp_path / "full"), *command],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=300,
    )
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("may not mount a file system")
    left = ["00000.parquet", "00001.parquet", "_qmamba"]
    assert done.stdout.split() == ["code", "2", "code", "0", *left], done.stderr
    assert "free some space" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal(
    tmp_path: Path, weights: Path, large: Path, whole: dict[str, bytes], number: int
) -> None:
    scores = tmp_path / "scores"
    command = score(scores, weights, large)
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        claims = ScoresFolder(scores).claims
        wait_for(lambda: claims.is_dir() and any(claims.iterdir()), "nothing is claimed")
        process.send_signal(number)
        _, message = process.communicate(timeout=120)
    assert process.returncode == 128 + number and "the same command goes on" in message
    assert "Traceback" not in message
    assert not list(claims.iterdir()) and not [p for p in scores.rglob("*.tmp")]
    assert run(command).returncode == 0
    assert contents(scores) == whole


def test_a_full_disk(tmp_path: Path, weights: Path, large: Path, whole: dict[str, bytes]) -> None:
    scores = tmp_path / "scores"
    command = score(scores, weights, large)
    assert run([*command, "--plan-only"]).returncode == 0

    def small_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = subprocess.run(
        command, capture_output=True, text=True, env=ENVIRONMENT, preexec_fn=small_files
    )
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert re.search(
        r"^error: Cannot write '.*/0000[01].parquet': no space left there, free some space and try"
        r" again; 0 of 2 shards finished and kept, the same command goes on$",
        last,
    ), done.stderr
    assert contents(scores) == {} and not [p for p in scores.rglob("*.tmp")]
    assert run(command).returncode == 0
    assert contents(scores) == whole


def test_several_processes_give_the_same(tmp_path: Path, weights: Path, data: Path) -> None:
    results = []
    for number in ("1", "3"):
        scores = tmp_path / number
        done = run(score(scores, weights, data, options=("--processes", number)))
        assert done.returncode == 1, done.stderr
        results.append(contents(scores))
    assert results[0] == results[1]
