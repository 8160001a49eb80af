"""A real Ray on this machine: an actor and then everything is killed, and no row is lost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.dataset
import pytest

import qmamba
from qmamba.scale import read_status
from qmamba.scale.ray import ScoreBatch
from qmamba.scale.rows import COLUMNS
from tests.assess.samples import encoded, write_image

FILES = 120
ATTEMPTS = 3
SECONDS = 240
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(qmamba.__file__).parent.parent),
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "disabled",
}
# The command leaves the number of blocks to Ray, which would make one of so few images.
PROGRAM = """
import sys
from qmamba.scale import Job, Settings
from qmamba.scale.ray import score_with_ray
images, scores, weights = sys.argv[1:]
job = Job(scores, model=weights, policy="native")
print(score_with_ray([images], job, Settings.of(job.make_scorer(), "parquet"), blocks=24))
"""


def test_a_batch(weights: Path) -> None:
    """The function alone, which needs no Ray."""
    score = ScoreBatch("path", root="/data/", name_or_path=weights)
    table = pyarrow.table(
        {"path": ["/data/a.png", "/data/b.png"], "bytes": [encoded(40, 40), b"no image"]}
    )
    rows = score(table).to_pylist()
    assert [row["key"] for row in rows] == ["a.png", "b.png"]
    assert rows[0]["score"] is not None and rows[0]["error"] is None
    assert rows[1]["score"] is None and "it is not a JPEG" in rows[1]["error"]
    assert set(rows[0]) == {*COLUMNS, "path"}
    samples = pyarrow.table({"__key__": ["0001"], "png": [encoded(40, 40)], "txt": [b"text"]})
    (row,) = ScoreBatch("__key__", name_or_path=weights)(samples).to_pylist()
    assert row["key"] == "0001" and row["score"] == rows[0]["score"]
    (row,) = ScoreBatch("__key__", name_or_path=weights)(samples.drop(["png"])).to_pylist()
    assert row["error"] == "the row has no image"


def descendants(pid: int) -> Iterator[int]:
    """Processes that a process has started, and those that these have."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                after = (entry / "stat").read_text(errors="replace").rpartition(")")[2]
                parents[int(entry.name)] = int(after.split()[1])
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        children = [child for child, its in parents.items() if its == parent]
        yield from children
        waiting += children


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def actors(driver: int) -> list[int]:
    found = []
    for pid in descendants(driver):
        with contextlib.suppress(OSError):
            if b"ScoreBatch" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


class Driver:
    """The program, and all that it has started, which ends with the block."""

    def __init__(self, *arguments: Path) -> None:
        command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT
        )
        self._seen: set[int] = set()

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self._seen |= set(descendants(self.process.pid))
        for pid in (self.process.pid, *self._seen):
            kill(pid)
        self.process.communicate()

    def wait_for(self, pattern: str, folder: Path, number: int) -> bool:
        """Whether there are so many files before the program or the patience ends."""
        until = time.monotonic() + SECONDS
        while time.monotonic() < until and self.process.poll() is None:
            self._seen |= set(descendants(self.process.pid))
            if len(list(folder.glob(pattern))) >= number:
                return True
            time.sleep(0.02)
        return len(list(folder.glob(pattern))) >= number


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
def test_nothing_is_lost(tmp_path: Path, weights: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray (pip install 'qmamba[ray]')")
    images, scores = tmp_path / "images", tmp_path / "scores"
    images.mkdir()
    for number in range(FILES):
        write_image(images / f"{number:03}.png", 300, 300, seed=number % 5)
    (images / "empty.png").touch()
    begun = killed = False
    output = ""
    for _ in range(ATTEMPTS):
        with Driver(images, scores, weights) as driver:
            begun = driver.wait_for("*.parquet", scores, 1)
            if begun and driver.process.poll() is None:
                for pid in actors(driver.process.pid)[:1]:
                    kill(pid)
                    killed = True
                driver.wait_for("*.parquet", scores, 2)
            elif not begun and driver.process.poll() is not None:
                output = driver.process.communicate()[0]
        if begun:
            break
    if not begun:
        pytest.skip(f"Ray does not start here: {output[-500:]}")
    assert killed, "the run was over before anything could be killed"
    for _ in range(ATTEMPTS):
        with Driver(images, scores, weights) as driver:
            with contextlib.suppress(subprocess.TimeoutExpired):
                output = driver.process.communicate(timeout=SECONDS)[0]
            if driver.process.poll() == 0:
                break
    else:
        pytest.skip(f"Ray does not start again here: {output[-500:]}")
    rows = pyarrow.dataset.dataset(scores, format="parquet").to_table().to_pylist()
    keys = [row["key"] for row in rows]
    assert len(keys) == len(set(keys)) == FILES + 1
    assert [row["key"] for row in rows if row["error"]] == ["empty.png"]
    status = read_status(scores)
    assert status.complete and status.errors == {"empty": 1}
    assert json.loads((scores / "_qmamba" / "ray-done.json").read_text()) == {"rows": FILES + 1}
