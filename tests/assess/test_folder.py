"""Finding images, and scoring many of them whatever state they are in."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from qmamba.assess import ImageRow, ImageViews, Scorer, score_paths
from qmamba.errors import ConfigError, DataError, QMambaError
from qmamba.images import LeftOut, find_images, require_existing
from tests.assess.samples import write_image


def found(*inputs: str | Path, recursive: bool = False, stdin: bytes = b"") -> list[str]:
    rows = find_images(map(str, inputs), recursive=recursive, stdin=io.BytesIO(stdin))
    return [row if isinstance(row, str) else f"{row.image}: {row.error}" for row in rows]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    images = ["b.jpg", "a.PNG", ".hidden.png", "sub/c.tiff", "sub/deep/d.webp", ".git/e.png"]
    for name in ["note.txt", *images]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folder_is_sorted_and_leaves_out_what_is_no_image(tree: Path) -> None:
    assert found(tree) == [str(tree / "a.PNG"), str(tree / "b.jpg")]
    assert found(".") == ["./a.PNG", "./b.jpg"]


def test_images_of_kinds_that_are_not_read_are_counted(tree: Path) -> None:
    for name in ("x.HEIC", "y.heic", "sub/z.dng", "x.heic.txt"):
        (tree / name).touch()
    left_out = LeftOut()
    assert len(list(find_images(["."], left_out=left_out))) == 2
    assert left_out.endings == {".heic": 2}
    list(find_images(["sub", "*.HEIC", "y.heic"], left_out=left_out))
    assert left_out.sentence == (
        "Left out: 3 .heic, 1 .dng files, kinds that are not read; convert them to JPEG or PNG"
        " first."
    )
    assert LeftOut().sentence == ""


def test_recursive(tree: Path) -> None:
    assert found("./", recursive=True) == [
        "./a.PNG",
        "./b.jpg",
        "./sub/c.tiff",
        "./sub/deep/d.webp",
    ]


def test_files_stand_for_themselves_in_the_order_given(tree: Path) -> None:
    assert found("note.txt", ".hidden.png", "b.jpg", "b.jpg", "gone.jpg") == [
        "note.txt",
        ".hidden.png",
        "b.jpg",
        "b.jpg",
        "gone.jpg",
    ]


def test_patterns(tree: Path) -> None:
    assert found("*.jpg") == ["b.jpg"]
    assert found("*") == ["a.PNG", "b.jpg", "sub/c.tiff"]
    assert found("**/*.[tw]*") == ["sub/c.tiff", "sub/deep/d.webp"]
    assert found("*.gif") == ["*.gif"]
    (tree / "[1].jpg").touch()
    assert found("[1].jpg") == ["[1].jpg"]


def test_patterns_go_into_every_folder_once(tree: Path) -> None:
    (tree / "sub" / "deep" / "up").symlink_to(tree, target_is_directory=True)
    (tree / "sub" / "self").symlink_to(tree / "sub", target_is_directory=True)
    (tree / "sub" / "again.tiff").symlink_to(tree / "sub" / "c.tiff")
    every = ["a.PNG", "b.jpg", "sub/again.tiff", "sub/c.tiff", "sub/deep/d.webp"]
    for pattern in ("**", "**/", "**/*", "**/**/*"):
        assert sorted(found(pattern)) == every
    assert found(f"{tree}/**/*.webp") == [str(tree / "sub" / "deep" / "d.webp")]
    assert found("s*/**/d.webp", "sub/**/deep/*.webp") == ["sub/deep/d.webp", "sub/deep/d.webp"]
    assert found("**/deep") == ["sub/deep/d.webp"]
    assert found("absent/**/*.png", "b.jpg/**/*.png") == ["absent/**/*.png", "b.jpg/**/*.png"]
    (tree / "[x]").mkdir()
    (tree / "[x]" / "e.bmp").touch()
    assert found("**/*.bmp") == ["[x]/e.bmp"]


@pytest.mark.parametrize(
    "listing",
    [b"a.PNG\nsub\n", b"a.PNG\r\n\r\nsub", b"a.PNG\0sub\0", b"a.PNG\0sub"],
)
def test_list_on_standard_input(tree: Path, listing: bytes) -> None:
    assert found("b.jpg", "-", stdin=listing) == ["b.jpg", "a.PNG", "sub/c.tiff"]


def test_list_with_line_ends_in_names(tree: Path) -> None:
    (tree / "two\nlines.png").touch()
    assert found("-", stdin=b"two\nlines.png\0b.jpg\0") == ["two\nlines.png", "b.jpg"]
    assert found("-", stdin=b"") == []


def test_long_list_is_cut_into_names(tree: Path) -> None:
    names = [f"{'x' * 60}{i}.png" for i in range(3000)]
    assert found("-", stdin="\n".join(names).encode()) == names


def test_loop_of_links_ends(tree: Path) -> None:
    (tree / "sub" / "deep" / "up").symlink_to(tree, target_is_directory=True)
    (tree / "sub" / "self").symlink_to(tree / "sub", target_is_directory=True)
    (tree / "broken.png").symlink_to(tree / "nowhere.png")
    assert [os.path.basename(path) for path in found(tree, recursive=True)] == [
        "a.PNG",
        "b.jpg",
        "broken.png",
        "c.tiff",
        "d.webp",
    ]


def test_deep_folders(tmp_path: Path) -> None:
    inner = tmp_path
    for _ in range(60):
        inner = inner / "f"
    inner.mkdir(parents=True)
    (inner / "a.png").touch()
    assert len(found(tmp_path, recursive=True)) == 1


def test_unreadable_folder_is_a_row(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def guarded(folder: str) -> object:
        if folder.endswith("sub"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    assert found(".", recursive=True) == [
        "./a.PNG",
        "./b.jpg",
        "./sub: cannot read the folder: Permission denied",
    ]


def test_require_existing(tree: Path) -> None:
    for inputs in (["gone", "b.jpg"], ["-"], ["*.jpg"], ["sub"]):
        require_existing(inputs)
    for inputs in (["gone"], ["gone", "*.gif"]):
        with pytest.raises(DataError, match="gone"):
            require_existing(inputs)


def test_one_row_per_file_in_order(scorer: Scorer, tmp_path: Path) -> None:
    good = [str(write_image(tmp_path / f"{i}.png", seed=i)) for i in range(4)]
    empty = tmp_path / "empty.png"
    empty.touch()
    row_before = ImageRow("folder", error="cannot read the folder")
    paths: list[str | Path | ImageRow] = [
        good[0],
        empty,
        good[1],
        row_before,
        str(tmp_path / "gone.png"),
        good[2],
        good[3],
    ]
    rows = list(score_paths(scorer, paths, workers=2))
    assert [row.image for row in rows] == [*map(str, paths[:3]), "folder", *map(str, paths[4:])]
    assert [row.score is None for row in rows] == [row.error is not None for row in rows]
    assert [i for i, row in enumerate(rows) if row.error] == [1, 3, 4]
    assert rows[4].error == "cannot read: there is no such file"
    assert rows[3] == row_before
    assert rows[0].score == scorer(good[0])


def test_a_failure_that_nobody_foresaw_is_a_row(
    scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> ImageViews:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setattr(scorer, "prepare", broken)
    (row,) = score_paths(scorer, ["a.png"])
    assert row.error == "cannot prepare the image (ZeroDivisionError: by zero)"


@pytest.mark.parametrize("workers", [1, 3])
def test_look_ahead_is_bounded_and_the_threads_end(
    scorer: Scorer, tmp_path: Path, workers: int
) -> None:
    path = str(write_image(tmp_path / "a.png"))
    drawn = 0

    def paths() -> Iterator[str]:
        nonlocal drawn
        for _ in range(10_000):
            drawn += 1
            yield path

    rows = score_paths(scorer, paths(), workers=workers)
    for done in range(1, 12):
        next(rows)
        assert drawn <= done + 2 * workers
    rows.close()
    until = time.monotonic() + 5
    while any(thread.name.startswith("qmamba-decode") for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_errors_keep_their_place(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(scorer, "device", torch.device(device))
    scorer.batch_size = 4
    good, bad = scorer.prepare(np.zeros((40, 40, 3), np.uint8)), DataError("bad")
    stream: list[ImageViews | QMambaError] = [bad, good, good, bad, bad, good]
    results = list(scorer.score_prepared(stream))
    assert [result is bad for result in results] == [True, False, False, True, True, False]


def test_workers_are_checked_at_once(scorer: Scorer) -> None:
    with pytest.raises(ConfigError, match="workers"):
        score_paths(scorer, [], workers=0)


def test_no_paths_no_rows(scorer: Scorer) -> None:
    assert list(score_paths(scorer, [])) == []
