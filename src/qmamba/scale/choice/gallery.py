"""A part of the images of a folder of scores that stands for all of them, to look at."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qmamba.assess import ImageRow
from qmamba.errors import DataError
from qmamba.scale.members import Member, members
from qmamba.scale.plan import ScoresFolder
from qmamba.scale.rows import COLUMNS
from qmamba.scale.shard_file import read_columns
from qmamba.scale.status import RAY_RECORD, is_of_ray, score_files


@dataclass(frozen=True)
class Gallery:
    """Images of a folder of scores, and how many it has."""

    rows: list[ImageRow]
    """The images, named by their keys, in the order of the plan."""
    total: int
    """Number of the images of the folder."""


def gallery(folder: str | os.PathLike[str], most: int, ends: int = 20) -> Gallery:
    """Choose images that show what a folder of scores holds.

    Where it holds more than `most`, these are the best and the worst and, of the others, images at
    equal distances in the order of their scores; of the images without a score as large a part.
    Memory: four bytes per image of the folder.

    Args:
        folder: a folder of scores; shards that are not done yet do not count.
        most: number of images to choose, 1 or more.
        ends: how many of the best and of the worst are among them, where `most` suffices for that.

    Raises:
        DataError: it is no folder of scores, or a file is damaged.
    """
    files = list(score_files(folder))
    parts = [_raw(path) for path in files]
    values = np.concatenate([np.empty(0, np.float32), *parts])
    chosen = np.zeros(len(values), bool)
    chosen[_places(values, most, ends)] = True
    rows: list[ImageRow] = []
    first = 0
    for path, part in zip(files, parts, strict=True):
        wanted = chosen[first : first + len(part)]
        first += len(part)
        if wanted.any():
            rows += _rows(path, wanted)
    return Gallery(rows, len(values))


def find_files(
    folder: str | os.PathLike[str], keys: Collection[str], temporary: Path
) -> dict[str, str]:
    """Paths of images by key; those of tar and Parquet files are written to a temporary folder.

    Every shard that holds one of them is read up to the last of them. Images that are gone are left
    out, and so are those that Ray has read from archives or from elsewhere.

    Args:
        folder: the folder of scores.
        keys: which images.
        temporary: an existing folder for the bytes of images from archives.

    Raises:
        DataError: it is no folder of scores, or the temporary folder cannot be written.
    """
    scores = ScoresFolder(folder)
    if is_of_ray(scores):
        return _files_of_ray(scores, keys)
    plan = scores.load()
    found: dict[str, str] = {}
    wanted = set(keys)
    for shard in plan.shards:
        output = scores.output(shard, plan)
        if not wanted or not output.exists():
            continue
        here = wanted.intersection(read_columns(output, ("key",))["key"])
        wanted -= here
        if not here:
            continue
        try:
            for member in members(shard, plan, scores):
                if member.key in here:
                    here.discard(member.key)
                    if member.error is None:
                        found[member.key] = _path(member, temporary / str(len(found)))
                if not here:
                    break
        except _Unwritable:
            raise
        except DataError:
            # The shard has changed or gone, and its images are shown without themselves.
            continue
    return found


class _Unwritable(DataError):
    """The temporary folder takes nothing more."""


def _path(member: Member, place: Path) -> str:
    if isinstance(member.source, str):
        return member.source
    try:
        place.write_bytes(member.source)
    except OSError as error:
        raise _Unwritable(f"Cannot write {str(place)!r}: {error.strerror}.") from error
    return str(place)


def _files_of_ray(scores: ScoresFolder, keys: Collection[str]) -> dict[str, str]:
    from qmamba.scale.ray import local_root

    try:
        paths = json.loads((scores.books / RAY_RECORD).read_bytes())["paths"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{str(scores.books / RAY_RECORD)!r} is damaged.") from error
    root = local_root(paths)
    if root is None:
        return {}
    return {key: os.path.join(root, key) for key in keys}


def _raw(path: Path) -> np.ndarray:
    """float32 ``(rows,)``, NaN where there is no score."""
    column: list[float | None] = read_columns(path, ("raw",))["raw"]
    return np.array([np.nan if value is None else value for value in column], np.float32)


def _places(values: np.ndarray, most: int, ends: int) -> np.ndarray:
    """Indices of the images to show."""
    if len(values) <= most:
        return np.arange(len(values))
    # Those without a score come last.
    order = np.argsort(values, kind="stable")
    scored = len(values) - int(np.isnan(values).sum())
    failed = -(-(len(values) - scored) * most // len(values))
    kept = most - failed
    ends = min(ends, kept // 2)
    inner = _spread(order[ends : scored - ends], kept - 2 * ends)
    both = (order[:ends], order[scored - ends : scored])
    return np.concatenate([*both, inner, _spread(order[scored:], failed)])


def _spread(order: np.ndarray, number: int) -> np.ndarray:
    """So many entries at equal distances."""
    if number >= len(order):
        return order
    middles = (np.arange(number) + 0.5) * len(order) / max(number, 1)
    return order[middles.astype(np.int64)]


def _rows(path: Path, wanted: np.ndarray) -> list[ImageRow]:
    table = read_columns(path, tuple(COLUMNS))
    rows = []
    for index in np.flatnonzero(wanted):
        values = {name: column[index] for name, column in table.items()}
        rows.append(ImageRow.from_dict(_as_in_tables(values)))
    return rows


def _as_in_tables(values: dict[str, Any]) -> dict[str, Any]:
    """A row of a shard with the names and the forms of a row of a table."""
    notes = values["notes"]
    listed: Sequence[str] = notes.split("; ") if notes else ()
    return {**values, "image": values["key"], "notes": listed}
