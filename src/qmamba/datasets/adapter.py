"""What the adapter of a data set says about it, and how it is read with that knowledge."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from qmamba.datasets.records import RatedDataset, RatedImage
from qmamba.errors import DataError

_RANGE_TOLERANCE = 0.0075


@dataclass(frozen=True)
class Labels:
    """What label files say, before the image files are looked for."""

    source: Path
    """The file that the scores came from."""
    images: tuple[RatedImage, ...]
    """The images listed; their `path` is relative to the folder of the data set."""
    notes: tuple[str, ...] = ()
    """What a reader of results should know."""
    unusual_scale: bool = False
    """True where the scores are on another scale than the adapter declares."""


@dataclass(frozen=True)
class Adapter:
    """A data set as it is published."""

    name: str
    """Key in the registry."""
    title: str
    """Name in texts."""
    label_files: tuple[tuple[str, str], ...]
    """Files, relative to the folder of the data set, of which at least one marks such a folder,
    each with a text that it contains ("" where the name says enough)."""
    read_labels: Callable[[Path], Labels]
    """Reads the label files of a folder; raises DataError where one is missing or altered."""
    count: int
    """Number of rated images."""
    contents: int | None
    """Number of different contents; None where every image is its own."""
    scale: tuple[float, float]
    """(low, high) of the score scale."""
    higher_is_better: bool
    """Direction of the scores."""
    score_range: tuple[float, float] | None
    """(lowest, highest) score of the complete set; None where not known."""

    def marks(self, folder: Path, *, look_inside: bool) -> bool:
        """Whether `folder` is that of this data set.

        Args:
            folder: an existing folder.
            look_inside: also require the text that a label file must contain.
        """
        for name, text in self.label_files:
            path = folder / name
            if path.is_file() and not (look_inside and text and not _contains(path, text)):
                return True
        return False


@dataclass(frozen=True)
class Reading:
    """The outcome of reading a data set, complete or not."""

    labels: Labels
    """What the label files say."""
    present: tuple[RatedImage, ...]
    """The images that exist, with their paths."""
    scale: tuple[float, float]
    """(low, high) of the score scale."""
    gaps: tuple[str, ...] = ()
    """What the set lacks beside single images, one sentence each."""
    absent: tuple[RatedImage, ...] = ()
    """The images that do not exist, with the paths where they should be; without those of whole
    folders that do not exist, which are gaps."""

    @property
    def problems(self) -> tuple[str, ...]:
        """All that is incomplete, one sentence each."""
        source = self.labels.source
        return (*self.gaps, *(_missing_image(source, image.path) for image in self.absent))

    def dataset(
        self,
        name: str,
        title: str,
        *,
        higher_is_better: bool,
        allow_incomplete: bool,
        keep_missing: bool,
    ) -> RatedDataset:
        """The data set of the images that are present.

        Args:
            name: short name.
            title: name in texts.
            higher_is_better: direction of the scores.
            allow_incomplete: take what there is.
            keep_missing: take single images that are absent as well, at their place in the list.

        Raises:
            DataError: something else is incomplete and `allow_incomplete` is False, or no image
                is present.
        """
        problems, left_out = self.problems, self.gaps if keep_missing else self.problems
        if (left_out and not allow_incomplete) or (problems and not self.present):
            others = len(problems) - 1
            raise DataError(
                f"{title} is not complete: {problems[0]}"
                + (f" (and {others} more, see `qmamba datasets check`)" if others else "")
                + (
                    "; complete it or read it with allow_incomplete=True (--skip-bad)"
                    if self.present
                    else ""
                )
            )
        notes = self.labels.notes
        if left_out:
            more = f" (and {len(left_out) - 1} more)" if len(left_out) > 1 else ""
            notes += (f"read although incomplete: {left_out[0]}{more}",)
        found = {image.name: image for image in self.present}
        if keep_missing:
            found.update((image.name, image) for image in self.absent)
        return RatedDataset(
            name=name,
            images=tuple(found[image.name] for image in self.labels.images if image.name in found),
            scale=self.scale,
            higher_is_better=higher_is_better,
            score_name=f"{title} {'MOS' if higher_is_better else 'DMOS'}",
            labels=self.labels.source,
            notes=notes,
        )


def read_folder(adapter: Adapter, folder: Path) -> Reading:
    """Read label files and look for the images.

    Raises:
        DataError: a label file is missing, malformed or altered.
    """
    labels = adapter.read_labels(folder)
    check_names(labels)
    gaps = []
    count, contents = len(labels.images), len({image.content for image in labels.images})
    if count != adapter.count:
        gaps.append(
            f"{str(labels.source)!r} lists {count} images where {adapter.title} has {adapter.count}"
        )
    elif contents != (adapter.contents or adapter.count):
        gaps.append(
            f"{str(labels.source)!r} has {contents} contents where {adapter.title} has"
            f" {adapter.contents}"
        )
    scale = _checked_scale(adapter, labels)
    present, absent = [], []
    finder = FileFinder(folder)
    for image in labels.images:
        path = finder.find(image.path)
        if path is None:
            absent.append(image)
        else:
            present.append(replace(image, path=path))
    folders = Counter(image.path.parent for image in absent)
    for parent, missing in folders.items():
        if not finder.has_folder(parent):
            gaps.append(
                f"the folder {str(folder / parent)!r} with {missing} images listed in"
                f" {labels.source.name!r} does not exist"
            )
    single = tuple(
        replace(image, path=folder / image.path)
        for image in absent
        if finder.has_folder(image.path.parent)
    )
    return Reading(labels, tuple(present), scale, tuple(gaps), single)


def _missing_image(source: Path, path: Path) -> str:
    """The sentence for an image that is listed and not there."""
    return f"{str(path)!r} is listed in {source.name!r} and does not exist"


def check_names(labels: Labels) -> None:
    """Raise DataError where no image is listed, or one twice."""
    if not labels.images:
        raise DataError(f"{str(labels.source)!r} lists no images; get it again")
    name, times = Counter(image.name for image in labels.images).most_common(1)[0]
    if times > 1:
        raise DataError(
            f"{str(labels.source)!r} lists the image {name!r} {times} times; keep one line"
        )


def score_range(images: Sequence[RatedImage]) -> tuple[float, float]:
    """The lowest and the highest score."""
    scores = [image.mos for image in images]
    return min(scores), max(scores)


def first_folder(root: Path, names: Sequence[str]) -> str:
    """The first of the folders that exists below `root`, the first of all where none does."""
    return next((name for name in names if (root / name).is_dir()), names[0])


def first_file(root: Path, names: Sequence[str]) -> Path:
    """The first of the files that exists below `root`, the first of all where none does."""
    return root / next((name for name in names if (root / name).is_file()), names[0])


class FileFinder:
    """Looks up files below a folder without regard to upper and lower case; exact names first.

    Every folder is listed once, so that thousands of images cost a few system calls.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[PurePath, dict[str, tuple[Path, bool]] | None] = {}

    def find(self, relative: PurePath) -> Path | None:
        """The file at this path below the folder, None where there is no such file."""
        path, is_file = self._entry(relative) or (None, False)
        return path if is_file else None

    def has_folder(self, relative: PurePath) -> bool:
        """Whether this folder below the root exists; asked after `find` in it."""
        return self._folders[relative] is not None

    def _entry(self, relative: PurePath) -> tuple[Path, bool] | None:
        parent = relative.parent
        if parent not in self._folders:
            self._folders[parent] = self._listed(parent)
        entries = self._folders[parent] or {}
        # Exact and folded names share the table; a slash, which no name has, tells them apart.
        return entries.get(relative.name) or entries.get("/" + relative.name.casefold())

    def _listed(self, folder: PurePath) -> dict[str, tuple[Path, bool]] | None:
        if folder == PurePath("."):
            path = self._root
        else:
            entry = self._entry(folder)
            if entry is None:
                return None
            path = entry[0]
        try:
            with os.scandir(path) as scan:
                found = sorted((entry.name, entry.is_file()) for entry in scan)
        except OSError:
            return None
        entries: dict[str, tuple[Path, bool]] = {}
        for name, is_file in found:
            entries[name] = (path / name, is_file)
            entries.setdefault("/" + name.casefold(), entries[name])
        return entries


def _checked_scale(adapter: Adapter, labels: Labels) -> tuple[float, float]:
    lowest, highest = score_range(labels.images)
    if labels.unusual_scale:
        return lowest, highest
    if adapter.score_range is not None and len(labels.images) == adapter.count:
        low, high = adapter.score_range
        fits = max(abs(lowest - low), abs(highest - high)) <= _RANGE_TOLERANCE
    else:
        low, high = adapter.scale
        fits = low <= lowest and highest <= high
    if not fits:
        raise DataError(
            f"The scores of {str(labels.source)!r} run from {lowest:g} to {highest:g} where those"
            f" of {adapter.title} run from {low:g} to {high:g}; get the original file, this one is"
            " on another scale or altered."
        )
    return adapter.scale


def _contains(path: Path, text: str) -> bool:
    try:
        return text.lower().encode() in path.read_bytes().lower()
    except OSError:
        return False
