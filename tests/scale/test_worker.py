"""A worker on its own: what it writes, and what survives when it is killed."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from qmamba.errors import DataError
from qmamba.scale import Job, ScoresFolder, read_status
from qmamba.scale.claims import Claims, Range
from qmamba.scale.faults import VARIABLE
from qmamba.scale.shard_file import read_columns, read_footer
from qmamba.scale.worker import Worker
from tests.scale.sets import contents, make_job, planned, samples, write_tar

KILLS = 20
POINTS = ("before_rename", "after_rename", "during_footer")


def work(job: Job, stop: threading.Event | None = None) -> list[dict[str, Any]]:
    """Work in this process; the reports."""
    reports: list[dict[str, Any]] = []
    # Threads of the tests' own process stay as they are.
    Worker(job, reports.append, stop or threading.Event()).run()
    return reports


def work_and_die(job: Job, fault: str) -> None:
    os.environ[VARIABLE] = fault
    work(job)


def killed(job: Job, fault: str) -> int | None:
    """Work in a process of its own that dies at the fault; its exit code, 0 if it never came."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["qmamba.scale.worker"])
    process = context.Process(target=work_and_die, args=(job, fault))
    process.start()
    process.join()
    return process.exitcode


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, weights: Path, data: Path) -> dict[str, bytes]:
    """The files of a run that nothing interrupts."""
    job = make_job(tmp_path_factory.mktemp("whole") / "scores", weights, threads=None)
    planned(job, [data])
    work(job)
    return contents(Path(job.folder))


def test_rows(tmp_path: Path, weights: Path, data: Path) -> None:
    job = make_job(tmp_path / "scores", weights, threads=None)
    plan = planned(job, [data])
    reports = work(job)
    status = read_status(job.folder)
    assert status.complete and status.rows == 2 * 12 + 10 + 8
    assert status.errors == {"damaged": 1, "empty": 2, "not an image": 1}
    assert sum(report["rows"] for report in reports) == status.rows
    keys: list[str] = []
    for path in sorted((tmp_path / "scores").glob("*.parquet")):
        table = read_columns(path, ("key", "score", "error", "notes", "uid"))
        assert read_footer(path).rows == len(table["key"])
        for key, score, error, uid in zip(
            table["key"], table["score"], table["error"], table["uid"], strict=True
        ):
            assert (score is None) == (error is not None), key
            assert str(data) not in f"{key}{error}"
            assert (uid is not None) == key.startswith("0000"), key
        keys += table["key"]
    assert len(set(keys)) == len(keys) == status.rows
    assert {
        "00000.tar/000000.png",
        "hostile.tar/folder/inside.png",
        "hostile.tar/outside.png",
        "hostile.tar/absolute.png",
        "hostile.tar/twice.png",
        "hostile.tar/twice.png#2",
        "hostile.tar/line\nend.png",
        "hostile.tar/latin-\\udce9.png",
        "single0.png",
        "nothing.png",
    } <= set(keys)
    assert not list(ScoresFolder(job.folder).claims.iterdir())
    assert len(plan.shards) == 5
    assert work(job) == []


@pytest.mark.parametrize("seed", [0, 1])
def test_random_kills(
    tmp_path: Path, weights: Path, data: Path, whole: dict[str, bytes], seed: int
) -> None:
    job = make_job(tmp_path / "scores", weights, threads=None)
    planned(job, [data])
    rng = random.Random(seed)
    deaths = 0
    for _ in range(KILLS // 2):
        points = [*POINTS, *(f"after_rows={rng.randint(1, 12)}" for _ in range(4))]
        code = killed(job, f"crash:{rng.choice(points)}")
        deaths += code == -signal.SIGKILL
        assert code in (0, -signal.SIGKILL)
        if code == 0:
            break
    assert deaths >= 4
    work(job)
    assert contents(tmp_path / "scores") == whole
    assert read_status(job.folder).complete


def test_a_deadly_image_becomes_an_error_row(
    tmp_path: Path, weights: Path, data: Path, whole: dict[str, bytes]
) -> None:
    job = make_job(tmp_path / "scores", weights, threads=None)
    planned(job, [data])
    deadly = "00001.tar/000017.png"
    # Nobody watches, so the machine might have been switched off: three times are needed.
    for _ in range(3):
        assert killed(job, f"crash:member={deadly}") == -signal.SIGKILL
    assert killed(job, f"crash:member={deadly}") == 0
    status = read_status(job.folder)
    assert status.complete and status.errors["worker died"] == 1
    written = contents(tmp_path / "scores")
    changed = [name for name in written if written[name] != whole[name]]
    assert len(changed) == 1
    table = read_columns(tmp_path / "scores" / changed[0], ("key", "error"))
    errors = {k: e for k, e in zip(table["key"], table["error"], strict=True) if e}
    assert list(errors) == [deadly]
    assert not list(ScoresFolder(job.folder).deaths.iterdir())


def test_deaths_after_the_last_image_blame_none(
    tmp_path: Path, weights: Path, data: Path, whole: dict[str, bytes]
) -> None:
    job = make_job(tmp_path / "scores", weights, threads=None)
    planned(job, [data])
    for _ in range(4):
        assert killed(job, "crash:before_rename") == -signal.SIGKILL
    work(job)
    assert contents(tmp_path / "scores") == whole


def test_a_stop_drops_the_shard(tmp_path: Path, weights: Path, data: Path) -> None:
    job = make_job(tmp_path / "scores", weights, threads=None)
    planned(job, [data])
    stop = threading.Event()

    def report(message: dict[str, Any]) -> None:
        stop.set()

    Worker(job, report, stop).run()
    assert len(contents(tmp_path / "scores")) == 1
    assert not list(ScoresFolder(job.folder).claims.iterdir())


def test_parts_of_the_work(
    tmp_path: Path, weights: Path, data: Path, whole: dict[str, bytes]
) -> None:
    jobs = [
        make_job(tmp_path / "scores", weights, threads=None, shard_index=i, shard_count=2)
        for i in range(2)
    ]
    plan = planned(jobs[0], [data])
    assert [len(job.part(plan)) for job in jobs] == [3, 2]
    for job in jobs:
        work(job)
    assert contents(tmp_path / "scores") == whole


def test_inputs_that_change(tmp_path: Path, weights: Path) -> None:
    tars = [write_tar(tmp_path / f"{n}.tar", samples(3, 3 * n)) for n in range(3)]
    job = make_job(tmp_path / "scores", weights, threads=None)
    planned(job, tars)
    tars[0].unlink()
    with open(tars[1], "ab") as stream:
        stream.write(b"\0" * 512)
    reports = work(job)
    assert {r["shard"]: r["gone"] for r in reports if "gone" in r}.keys() == {"0", "1"}
    assert "No such file" in next(r["gone"] for r in reports if r["shard"] == "0")
    assert "was changed since the plan was made" in next(
        r["gone"] for r in reports if r["shard"] == "1"
    )
    status = read_status(job.folder)
    assert not status.complete and (status.done, status.shards) == (1, 3)


def test_single_files_that_vanish(tmp_path: Path, weights: Path, data: Path) -> None:
    names = tmp_path / "set"
    names.mkdir()
    for path in sorted(data.glob("single*"))[:3]:
        (names / path.name).write_bytes(path.read_bytes())
    job = make_job(tmp_path / "scores", weights, threads=None)
    planned(job, [names])
    (names / "single1.png").unlink()
    work(job)
    assert read_status(job.folder).errors == {"missing": 1}


def test_another_model_is_refused(tmp_path: Path, weights: Path, data: Path) -> None:
    planned(make_job(tmp_path / "scores", weights, threads=None), [data])
    other = make_job(tmp_path / "scores", weights, threads=None, policy="crops:3")
    with pytest.raises(DataError, match=r"another plan: policy was '.*count=5.* is .*count=3"):
        work(other)


def test_a_stopped_worker_that_goes_on(
    tmp_path: Path, weights: Path, data: Path, whole: dict[str, bytes]
) -> None:
    """Its claim becomes stale, another worker does the shard, and then it writes the same."""
    job = make_job(tmp_path / "scores", weights, threads=None)
    planned(job, [data])
    folder = ScoresFolder(job.folder)
    seconds = [0.0]
    watcher = Claims(folder, stale_seconds=10, clock=lambda: seconds[0])
    slow = Claims(folder, stale_seconds=1e6).take("00000")
    assert slow is not None
    slow.mark(3, 3)
    assert watcher.take("00000") is None
    seconds[0] = 9.0
    assert watcher.take("00000") is None
    os.utime(folder.claims / "00000", ns=(0, 5))
    seconds[0] = 11.0
    assert watcher.take("00000") is None
    seconds[0] = 22.0
    taken = watcher.take("00000")
    assert taken is not None
    assert [at for at, _ in watcher.deaths("00000").ranges] == [Range(3, 3)]
    with slow:
        slow.mark(4, 4)
    assert watcher.read("00000") is not None, "the claim of the new owner stays"
    with taken:
        pass
    work(job)
    assert contents(tmp_path / "scores") == whole
