"""Where results go, and restoring many files."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from qmamba import Restorer
from qmamba.errors import ConfigError, DataError
from qmamba.images import encode, read_layers
from qmamba.restore import Job, RestoredRow, Source, plan_jobs, restore_paths, target_name
from tests.restore.stand_ins import StandIn, identity, smooth


@pytest.mark.parametrize(
    ("source", "file_format", "name"),
    [
        ("photos/a.JPG", None, "a.JPG"),
        ("a.tiff", None, "a.tiff"),
        ("a.jfif", None, "a.jpg"),
        ("a.gif", None, "a.png"),
        ("a.bmp", None, "a.png"),
        ("a.tar.png", None, "a.tar.png"),
        ("noname", None, "noname.png"),
        ("a.JPEG", "jpeg", "a.JPEG"),
        ("a.jpg", "png", "a.png"),
        ("a.png", "tiff", "a.tif"),
        ("a.gif", "webp", "a.webp"),
    ],
)
def test_target_names(source: str, file_format: str | None, name: str) -> None:
    assert target_name(source, file_format) == name


def test_unknown_format() -> None:
    with pytest.raises(ConfigError, match="png, jpeg, webp, tiff"):
        target_name("a.png", "gif")


def test_jobs_keep_the_tree_and_never_collide(tmp_path: Path) -> None:
    sources = [
        Source(str(tmp_path / "in/a.jpg")),
        Source(str(tmp_path / "in/sub/a.jpg"), "sub"),
        Source(str(tmp_path / "in/a.png")),
        Source(str(tmp_path / "out/b.png")),
        Source(str(tmp_path / "in/c"), "", "cannot read the folder"),
    ]
    jobs = list(plan_jobs(sources, tmp_path / "out", "png"))
    assert [job.target.relative_to(tmp_path / "out").as_posix() for job in jobs[:2]] == [
        "a.png",
        "sub/a.png",
    ]
    assert [job.error is None for job in jobs] == [True, True, False, False, False]
    assert "over that of" in str(jobs[2].error) and "over the image itself" in str(jobs[3].error)
    assert all(job.error is None for job in list(plan_jobs(sources, tmp_path / "out"))[:3])


def test_no_input_is_the_place_of_another_result(tmp_path: Path) -> None:
    sources = [Source(str(tmp_path / name)) for name in ("a.jpg", "a.png", "b.jpg")]
    for job, problem in zip(
        plan_jobs(sources, tmp_path, "png"), ("over the input", "the image itself", None),
        strict=True,
    ):  # fmt: skip
        assert (job.error is None) if problem is None else problem in str(job.error)


def test_folders_that_are_one_by_a_link_are_one_place(tmp_path: Path) -> None:
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "b").symlink_to("a")
    sources = [Source(str(tmp_path / "in" / name / "x.png"), name) for name in "ab"]
    first, second = plan_jobs(sources, tmp_path / "out")
    assert first.error is None and "over that of" in str(second.error)


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "c.png"):
        Image.fromarray(smooth(12, 10)).save(tmp_path / "in" / name)
    (tmp_path / "in/b.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    names = ("a.png", "b.png", "c.png", "gone.png")
    return [Job(str(tmp_path / "in" / name), tmp_path / "out/deep" / name) for name in names]


def restored(jobs: list[Job], model: StandIn | None = None, **options: Any) -> list[RestoredRow]:
    return list(restore_paths(Restorer(model or StandIn()), jobs, **options))


def test_bad_files_give_rows(jobs: list[Job]) -> None:
    seen: list[tuple[int, int]] = []
    rows = restored(jobs, progress=lambda *at: seen.append(at))
    assert [row.error is None for row in rows] == [True, False, True, False]
    assert [row.image for row in rows] == [job.source for job in jobs]
    assert str(rows[1].error).startswith("cannot decode: ")
    assert rows[3].error == "cannot read: there is no such file"
    assert rows[0].seconds > 0 and rows[0].restored is not None
    assert sorted(path.name for path in jobs[0].target.parent.iterdir()) == ["a.png", "c.png"]
    assert read_layers(jobs[0].target).colors.shape == (24, 20, 3)
    assert seen == [(1, 1), (1, 1)]


def test_several_restorers_work_one_after_the_other(jobs: list[Job]) -> None:
    seen: list[tuple[int, int]] = []
    one_after_the_other = [Restorer(StandIn()), Restorer(identity()), Restorer(StandIn())]
    (row,) = restore_paths(one_after_the_other, jobs[:1], progress=lambda *at: seen.append(at))
    assert row.error is None and read_layers(jobs[0].target).colors.shape == (48, 40, 3)
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_present_files(jobs: list[Job]) -> None:
    jobs = [jobs[0], jobs[2]]
    restored(jobs[:1])
    before = jobs[0].target.read_bytes()
    rows = restored(jobs, identity())
    assert "exists already" in str(rows[0].error) and rows[1].error is None
    assert jobs[0].target.read_bytes() == before
    rows = restored(jobs, identity(), skip_existing=True)
    assert all(row.skipped for row in rows) and jobs[0].target.read_bytes() == before
    rows = restored(jobs, identity(), overwrite=True)
    assert not any(row.skipped or row.error for row in rows)
    assert np.array_equal(read_layers(jobs[0].target).colors, smooth(12, 10))
    with pytest.raises(ConfigError, match="not both"):
        restore_paths(Restorer(identity()), jobs, overwrite=True, skip_existing=True)


def test_errors_known_beforehand_cost_nothing(jobs: list[Job]) -> None:
    model = StandIn()
    rows = restored([Job(jobs[0].source, jobs[0].target, "told before")], model)
    assert rows[0].error == "told before" and not model.calls


def test_failure_of_the_network_is_a_row(jobs: list[Job]) -> None:
    model = StandIn()

    def fail(image: Any) -> Any:
        raise ZeroDivisionError("division by zero")

    model.change = fail
    rows = restored(jobs[:1], model)
    assert rows[0].error == "cannot be restored (ZeroDivisionError: division by zero)"
    assert not jobs[0].target.exists()


def test_interrupt_leaves_whole_files_only(jobs: list[Job]) -> None:
    model = StandIn()

    def interrupted(image: Any) -> Any:
        if len(model.calls) == 2:
            raise KeyboardInterrupt
        return image

    model.change = interrupted
    rows = restore_paths(Restorer(model), [jobs[0], jobs[2]])
    next(rows)
    with pytest.raises(KeyboardInterrupt):
        next(rows)
    assert [path.name for path in jobs[0].target.parent.iterdir()] == ["a.png"]
    rows = restore_paths(Restorer(StandIn()), [jobs[0], jobs[2]], skip_existing=True)
    assert [row.skipped for row in rows] == [True, False]


def test_full_disk_ends_the_work(jobs: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(stream: Any, *_: Any) -> None:
        stream.write(b"the first part")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(encode._WRITERS, "PNG", full)
    with pytest.raises(DataError, match="no space left"):
        restored(jobs)
    assert not list(jobs[0].target.parent.iterdir())


def test_folder_that_cannot_be_made(jobs: list[Job], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    rows = restored([jobs[0], jobs[2]])
    assert all("Cannot make the folder" in str(row.error) for row in rows)


def test_losses_of_the_format_are_noted(tmp_path: Path) -> None:
    samples = smooth(8, 8, 4)
    samples[0, 0, 3] = 0
    Image.fromarray(samples).save(tmp_path / "a.png")
    (row,) = restored([Job(str(tmp_path / "a.png"), tmp_path / "a.jpg")], identity())
    assert row.notes == ("alpha kept", "alpha composited on white: JPEG has none")
