"""Which images to keep, by score: thresholds, shares, and shares within groups."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qmamba.errors import ConfigError, DataError
from qmamba.scale.shard_file import read_columns
from qmamba.scale.status import score_files

_COLUMNS = ("score", "raw", "higher_is_better")


@dataclass(frozen=True)
class Wanted:
    """Which images to keep. What has no score is never kept.

    Raises:
        ConfigError: nothing is asked for, a share is out of range, or a pattern is not usable.
    """

    least: float | None = None
    """Lowest score to keep, on the model's scale."""
    most: float | None = None
    """Highest score to keep."""
    share: float | None = None
    """Share of the images to keep, the best ones, above 0 and at most 1."""
    count: int | None = None
    """Number of images to keep, the best ones."""
    per_key: str | None = None
    """Regular expression; `share` and `count` hold within each group of keys for which its first
    group, or all that it matches where it has none, is the same."""

    def __post_init__(self) -> None:
        if all(v is None for v in (self.least, self.most, self.share, self.count)):
            raise ConfigError("Say which images to keep: --min, --max or --top.")
        if self.least is not None and self.most is not None and self.least > self.most:
            raise ConfigError(
                f"No score is at least {self.least:g} (--min) and at most {self.most:g} (--max)."
            )
        if self.share is not None and self.count is not None:
            raise ConfigError("Give a share or a number of images, not both.")
        if self.share is not None and not 0 < self.share <= 1:
            raise ConfigError(f"The share must be above 0 % and at most 100 %, got {self.share:%}.")
        if self.count is not None and self.count < 1:
            raise ConfigError(f"The number of images must be 1 or more, got {self.count}.")
        if self.per_key is not None:
            if self.share is None and self.count is None:
                raise ConfigError("--per-key divides what --top takes; give --top, too.")
            try:
                re.compile(self.per_key)
            except re.error as error:
                raise ConfigError(
                    f"per_key={self.per_key!r} is no regular expression: {error}."
                ) from error


def parse_top(text: str) -> tuple[float | None, int | None]:
    """The share or the number that a text such as "10%" or "5000" stands for.

    Raises:
        ConfigError: it stands for neither.
    """
    try:
        if text.strip().endswith("%"):
            return float(text.strip()[:-1]) / 100, None
        return None, int(text)
    except ValueError:
        raise ConfigError(f"--top takes a share such as 10% or a number, got {text!r}.") from None


@dataclass(frozen=True)
class Selection:
    """The images to keep of one file of scores."""

    file: Path
    """The file of scores."""
    rows: np.ndarray
    """bool ``(rows,)``: whether each row is kept."""


def select(folder: str | os.PathLike[str], wanted: Wanted) -> Iterator[Selection]:
    """Choose images of a folder of scores.

    The best are those with the highest `raw` value, or the lowest where a low score is good. Equals
    are taken in the order of the plan, so that the same scores give the same choice. Memory: five
    bytes per image, and with ``per_key`` eight more.

    Args:
        folder: a folder of scores; shards that are not done yet do not count.
        wanted: which images to keep.

    Returns:
        One selection per file of scores, in the order of the plan.

    Raises:
        DataError: it is no folder of scores, a file is damaged, or files were made by models whose
            directions differ.
    """
    files = list(score_files(folder))
    values, kept, groups = [], [], []
    names: dict[str, int] = {}
    pattern = None if wanted.per_key is None else re.compile(wanted.per_key)
    directions: set[bool] = set()
    for path in files:
        columns = (*_COLUMNS, "key") if pattern is not None else _COLUMNS
        table = read_columns(path, columns)
        score = np.array([np.nan if v is None else v for v in table["score"]], np.float32)
        raw = np.array([np.nan if v is None else v for v in table["raw"]], np.float32)
        directions |= {v for v in set(table["higher_is_better"]) if v is not None}
        keep = ~np.isnan(score)
        # A bound means its nearest float32, which is what the scores are.
        if wanted.least is not None:
            keep &= score >= np.float32(wanted.least)
        if wanted.most is not None:
            keep &= score <= np.float32(wanted.most)
        values.append(raw)
        kept.append(keep)
        if pattern is not None:
            found = (_group(pattern, key) for key in table["key"])
            numbers = (names.setdefault(name, len(names)) for name in found)
            groups.append(np.fromiter(numbers, np.int64, len(raw)))
    if len(directions) > 1:
        raise DataError("High scores are good in some of the files and bad in others.")
    if wanted.share is not None or wanted.count is not None:
        better = np.concatenate(values) if values else np.empty(0, np.float32)
        if directions == {True}:
            better = -better
        all_kept = np.concatenate(kept) if kept else np.empty(0, bool)
        group = np.concatenate(groups) if groups else np.zeros(len(better), np.int64)
        chosen = _best(better, all_kept, group, wanted)
        kept = np.split(chosen, np.cumsum([len(part) for part in kept])[:-1]) if kept else []
    for path, rows in zip(files, kept, strict=True):
        yield Selection(path, rows)


def _best(order: np.ndarray, kept: np.ndarray, group: np.ndarray, wanted: Wanted) -> np.ndarray:
    """Of the kept rows of each group those with the least `order`; shares are of what has one."""
    chosen = np.zeros(len(order), bool)
    if not kept.any():
        return chosen
    totals = np.bincount(group[~np.isnan(order)], minlength=int(group.max()) + 1)
    if wanted.share is None:
        assert wanted.count is not None
        limits = np.full_like(totals, wanted.count)
    else:
        # Ten percent of 30 is 3, though 0.1 is a little more than a tenth.
        limits = np.floor(totals * wanted.share + 1e-9).astype(totals.dtype)
    candidates = np.flatnonzero(kept)
    ranked = candidates[np.lexsort((order[candidates], group[candidates]))]
    sizes = np.bincount(group[candidates], minlength=len(totals))
    first = np.cumsum(sizes) - sizes
    rank = np.arange(len(ranked)) - first[group[ranked]]
    chosen[ranked[rank < limits[group[ranked]]]] = True
    return chosen


def _group(pattern: re.Pattern[str], key: str) -> str:
    match = pattern.search(key)
    if match is None:
        return ""
    return (match[1] or "") if pattern.groups else match[0]
