"""A worker on its own: what it writes, and what survives when it is killed."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from qmamba.errors import DataError
from qmamba.scale import Job, ScoresFolder, read_status
from qmamba.scale.claims import Claims, Range
from qmamba.scale.faults import VARIABLE
from qmamba.scale.shard_file import read_columns, read_footer
from qmamba.scale.worker import Worker
from tests.assess.samples import write_image
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
    """Half of the kills; a run that comes to its end is compared, and another one begins."""
    rng = random.Random(seed)
    deaths = runs = 0
    while deaths < KILLS // 2:
        job = make_job(tmp_path / f"scores{runs}", weights, threads=None)
        planned(job, [data])
        code = None
        while code != 0 and deaths < KILLS // 2:
            points = [*POINTS, *(f"after_rows={rng.randint(1, 12)}" for _ in range(4))]
            code = killed(job, f"crash:{rng.choice(points)}")
            assert code in (0, -signal.SIGKILL)
            deaths += code == -signal.SIGKILL
        work(job)
        assert contents(Path(job.folder)) == whole
        assert read_status(job.folder).complete
        runs += 1


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


def test_a_tar_file_that_grows_while_it_is_read(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tars = [write_tar(tmp_path / f"{n}.tar", samples(3, 3 * n)) for n in range(2)]
    job = make_job(tmp_path / "scores", weights, threads=None)
    planned(job, tars)
    monkeypatch.setattr("qmamba.scale.worker.REPORT_EVERY", 1)

    def report(message: dict[str, Any]) -> None:
        reports.append(message)
        if len(reports) == 1:
            with open(tars[0], "ab") as stream:
                stream.write(b"\0" * 512)

    reports: list[dict[str, Any]] = []
    Worker(job, report, threading.Event()).run()
    (gone,) = [message for message in reports if "gone" in message]
    assert gone["shard"] == "0" and "was changed since the plan was made" in gone["gone"]
    assert contents(tmp_path / "scores").keys() == {"1.parquet"}


def test_files_that_cannot_be_read(tmp_path: Path, weights: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    write_image(folder / "good.png", 40, 40)
    (folder / "circle.png").symlink_to("circle.png")
    (folder / "nowhere.png").symlink_to("gone")
    (folder / "closed.png").write_bytes((folder / "good.png").read_bytes())
    (folder / "closed.png").chmod(0)
    job = make_job(tmp_path / "scores", weights, threads=None)
    plan = planned(job, [folder])
    work(job)
    (shard,) = plan.shards
    table = read_columns(ScoresFolder(job.folder).output(shard, plan), ("key", "error"))
    errors = dict(zip(table["key"], table["error"], strict=True))
    assert errors["good.png"] is None
    assert "no such file" in errors["nowhere.png"] and errors["circle.png"]
    # Nothing is closed to the superuser.
    assert os.geteuid() == 0 or "ermission denied" in errors["closed.png"]


def test_names_that_are_no_plain_text(tmp_path: Path, weights: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    names = [
        b"latin-\xe9.png",
        b"line\nend.png",
        "n\N{LATIN SMALL LETTER E WITH ACUTE}.png".encode(),
    ]
    for name in names:
        path = folder / os.fsdecode(name)
        write_image(path, 40, 40)
    job = make_job(tmp_path / "scores", weights, threads=None)
    plan = planned(job, [folder])
    work(job)
    (shard,) = plan.shards
    table = read_columns(ScoresFolder(job.folder).output(shard, plan), ("key", "error"))
    wanted = ["latin-\\udce9.png", "line\nend.png", "n\N{LATIN SMALL LETTER E WITH ACUTE}.png"]
    assert sorted(table["key"]) == sorted(wanted) and set(table["error"]) == {None}


def test_clocks_that_jump(tmp_path: Path, weights: Path, data: Path) -> None:
    """Neither a heartbeat from tomorrow nor one from 1970 makes a claim stale or keeps it."""
    job = make_job(tmp_path / "scores", weights, threads=None)
    planned(job, [data])
    folder = ScoresFolder(job.folder)
    seconds = [0.0]
    watcher = Claims(folder, stale_seconds=10, clock=lambda: seconds[0])
    claim = Claims(folder, stale_seconds=1e6).take("00000")
    assert claim is not None
    day = 86_400 * 10**9
    for beat in (time.time_ns() + day, 5, time.time_ns() - day):
        os.utime(folder.claims / "00000", ns=(beat, beat))
        assert watcher.take("00000") is None
        seconds[0] += 9
        assert watcher.take("00000") is None
    # The last beat stands still, wherever it lies.
    seconds[0] += 2
    taken = watcher.take("00000")
    assert taken is not None
    with claim, taken:
        pass


def test_the_rate_when_the_clock_was_set_back(
    tmp_path: Path, weights: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path / "scores", weights, threads=None)
    planned(job, [data])
    claim = Claims(ScoresFolder(job.folder)).take("00000")
    assert claim is not None
    with claim:
        claim.mark(3, 3)
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now - 3600)
        status = read_status(job.folder)
    assert status.rate is None and status.seconds_left is None


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
