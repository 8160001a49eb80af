"""Any comma-separated list of images and scores as a data set."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path, PurePosixPath

from qmamba.datasets.adapter import Labels, Reading, check_names, score_range
from qmamba.datasets.formats.label_files import Row, read_csv
from qmamba.datasets.records import RatedDataset, RatedImage
from qmamba.errors import DataError

PATH_COLUMNS = ("path", "image")
CONTENT_COLUMNS = ("content", "content_id")
SPLIT_PARTS = ("train", "val", "test")


def read_csv_dataset(
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    scale: tuple[float, float] | None = None,
    higher_is_better: bool = True,
    allow_incomplete: bool = False,
    keep_missing: bool = False,
) -> RatedDataset:
    """Read a data set from a CSV file in UTF-8 with a header line.

    Columns, in any order and letter case, others are passed over:
        path (or image): the image, relative to the folder of the CSV file or to a folder
            `images` beside it, or absolute.
        mos: the score, a finite number.
        content (or content_id): optional; images with equal content stay together when the set
            is split. An image without one is its own content.
        split: optional; the official part: train, val or test, in any letter case.
        distortion, level, generator: optional, as in `RatedImage`.

    Args:
        path: the CSV file.
        name: name of the data set; that of the file, or of its folder for `scores.csv`, if None.
        scale: (low, high) of the scores; the lowest and the highest score of the file if None.
        higher_is_better: direction of the scores.
        allow_incomplete: leave images out that are listed and do not exist.
        keep_missing: keep such images instead, for a reader that names what it cannot open.

    Raises:
        DataError: the file is missing or malformed; an image is listed twice or, unless allowed,
            does not exist, or none does; all scores are equal.
    """
    path = Path(path)
    reading = read_csv_list(path)
    if scale is not None:
        reading = replace(reading, scale=scale)
    name = name or csv_name(path)
    return reading.dataset(
        name,
        name,
        higher_is_better=higher_is_better,
        allow_incomplete=allow_incomplete,
        keep_missing=keep_missing,
    )


def csv_name(path: Path) -> str:
    """Name of the data set in a CSV file, from that of the file or of its folder."""
    return path.absolute().parent.name if path.stem.lower() == "scores" else path.stem


def read_csv_list(path: Path) -> Reading:
    """Read the file and look for its images; images that do not exist are problems.

    Raises:
        DataError: the file is missing or malformed, lists an image twice, or all scores are equal.
    """
    images, present, absent = [], [], []
    lines: dict[Path, int] = {}
    for row in read_csv(path, (PATH_COLUMNS, "mos")):
        image = _image(row)
        found = _found(path.parent, str(image.path))
        if found is None:
            absent.append(replace(image, path=path.parent / image.path))
        else:
            present.append(replace(image, path=found))
        first = lines.setdefault(found or image.path, row.line)
        if first != row.line:
            raise row.error(f"the image {image.name!r} is listed in line {first} already; keep one")
        images.append(image)
    labels = Labels(path, tuple(images))
    check_names(labels)
    low, high = score_range(images)
    if low == high:
        raise DataError(
            f"Every score in {str(path)!r} is {low:g}; at least two images must differ in 'mos'."
        )
    return Reading(labels, tuple(present), (low, high), absent=tuple(absent))


def _image(row: Row) -> RatedImage:
    listed = row.text(next(column for column in PATH_COLUMNS if column in row.cells))
    name = PurePosixPath(listed.replace("\\", "/")).as_posix()
    content = next((row.cells[column] for column in CONTENT_COLUMNS if column in row.cells), "")
    return RatedImage(
        name=name,
        path=Path(listed),
        mos=row.number("mos"),
        content=content or name,
        distortion=row.cells.get("distortion") or None,
        level=_level(row),
        generator=row.cells.get("generator") or None,
        split=_split(row),
    )


def _split(row: Row) -> str | None:
    text = row.cells.get("split", "")
    part = text.lower()
    if part and part not in SPLIT_PARTS:
        raise row.error(
            f"the column 'split' holds {text!r}, which is none of {', '.join(SPLIT_PARTS)}; correct"
            " or empty it"
        )
    return part or None


def _level(row: Row) -> int | None:
    if not row.cells.get("level"):
        return None
    level = row.number("level")
    if level != int(level):
        raise row.error(f"the level {level:g} is not a whole number; correct or empty it")
    return int(level)


def _found(folder: Path, listed: str) -> Path | None:
    # Lists written on Windows separate folders with backslashes.
    for form in dict.fromkeys((listed, listed.replace("\\", "/"))):
        for base in (folder, folder / "images"):
            if os.path.isfile(base / form):
                return base / form
    return None
