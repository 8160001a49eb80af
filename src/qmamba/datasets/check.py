"""What is there of a data set, without using it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from qmamba.datasets.adapter import Reading, read_folder, score_range
from qmamba.datasets.csv_list import csv_name, read_csv_list
from qmamba.datasets.registry import find_adapter, find_folder
from qmamba.errors import DataError


@dataclass(frozen=True)
class CheckReport:
    """The state of one data set on disk."""

    name: str
    """Of the data set."""
    root: Path | None
    """Its folder (or the CSV file); None where it was not found."""
    listed: int = 0
    """Images in its label files, 0 where they could not be read."""
    present: int = 0
    """How many of them exist as files."""
    contents: int = 0
    """Different contents among those listed."""
    score_range: tuple[float, float] | None = None
    """(lowest, highest) score listed, None where not read."""
    higher_is_better: bool | None = None
    """Direction of the scores; None where not known."""
    problems: tuple[str, ...] = ()
    """What is wrong, one sentence each; a set that was not found has none."""

    @property
    def found(self) -> bool:
        """Whether a folder of this data set is there."""
        return self.root is not None

    @property
    def complete(self) -> bool:
        """Whether the data set is there and has no problems."""
        return self.found and not self.problems


def check_dataset(name: str, root: str | os.PathLike[str]) -> CheckReport:
    """Look at a data set below a folder. Image files are looked for and not opened.

    Args:
        name: one of `list_datasets()`.
        root: folder of the data set, or one up to three levels above it.

    Raises:
        ConfigError: unknown name.
        DataError: `root` is not a folder.
    """
    adapter = find_adapter(name)
    folder = find_folder(adapter, Path(root))
    if folder is None:
        return CheckReport(name, None)
    try:
        reading = read_folder(adapter, folder)
    except DataError as error:
        return CheckReport(
            name, folder, higher_is_better=adapter.higher_is_better, problems=(str(error),)
        )
    return _report(name, folder, reading, adapter.higher_is_better)


def check_csv(path: str | os.PathLike[str]) -> CheckReport:
    """Look at a CSV file as `read_csv_dataset` reads it."""
    path = Path(path)
    try:
        reading = read_csv_list(path)
    except DataError as error:
        return CheckReport(csv_name(path), path, problems=(str(error),))
    return _report(csv_name(path), path, reading, None)


def _report(name: str, root: Path, reading: Reading, higher_is_better: bool | None) -> CheckReport:
    images = reading.labels.images
    return CheckReport(
        name=name,
        root=root,
        listed=len(images),
        present=len(reading.present),
        contents=len({image.content for image in images}),
        score_range=score_range(images),
        higher_is_better=higher_is_better,
        problems=reading.problems,
    )
