"""One row per image, and the kinds of errors that are counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from qmamba.assess import Score

Row: TypeAlias = dict[str, Any]
"""The values of one image by column."""

COLUMNS: dict[str, str] = {
    "key": "string",
    "score": "float",
    "raw": "float",
    "crop_spread": "float",
    "whole": "float",
    "native": "float",
    "width": "int",
    "height": "int",
    "notes": "string",
    "error": "string",
    "uid": "string",
    "scale_low": "float",
    "scale_high": "float",
    "higher_is_better": "bool",
    "policy": "label",
    "model": "label",
    "sha256": "label",
}
"""Columns and their types: a label is a string with few different values."""

WORKER_DIED = "the worker died while it was at work on this image"

_KINDS = {
    "missing": ("there is no such file",),
    "empty": ("is empty",),
    "unreadable": ("permission denied",),
    "damaged": ("damaged", "truncated", "cut short", "checksum"),
    "too large": ("the limit is",),
    "not an image": ("it is not a JPEG",),
    "worker died": (WORKER_DIED,),
}
_IN_MEMORY = re.compile(r" image of \d+ bytes in memory")


def scored_row(key: str, uid: str | None, score: Score, notes: tuple[str, ...]) -> Row:
    """The row of an image that has a score."""
    values = score.to_dict()
    row = {column: values.get(column) for column in COLUMNS}
    row |= {"key": key, "uid": uid, "notes": "; ".join((*notes, *score.notes)) or None}
    return row


def error_row(key: str, uid: str | None, error: str, notes: tuple[str, ...], source: str) -> Row:
    """The row of an image that has none; `source`, its path, is left out of the error."""
    if source:
        error = error.replace(f" {source!r}", "")
    row: Row = dict.fromkeys(COLUMNS)
    row |= {"key": key, "uid": uid, "notes": "; ".join(notes) or None}
    return row | {"error": _IN_MEMORY.sub("", error)}


def error_kind(error: str) -> str:
    """In a word or two what an error is about: "missing", "damaged", ..., "other"."""
    found = (kind for kind, phrases in _KINDS.items() if any(p in error for p in phrases))
    return next(found, "other")


def count_errors(rows: Iterable[Row]) -> dict[str, int]:
    """How many rows have an error of each kind, the kinds in alphabetical order."""
    kinds = Counter(error_kind(row["error"]) for row in rows if row["error"] is not None)
    return dict(sorted(kinds.items()))


def valid_text(name: str) -> str:
    """A file name as text that every file format takes; bytes that are not UTF-8 are escaped."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
