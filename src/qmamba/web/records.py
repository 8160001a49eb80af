"""What the page and the report know of an image: plain values, as JSON has them."""

from __future__ import annotations

import base64
import csv
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from qmamba.assess import COLUMNS, ImageRow, QualityMap, Reasons, Score
from qmamba.errors import DataError

MAP_SIDE = 64
"""Longest side of the maps that are shown over thumbnails and images."""
REGIONS = 3
"""Worst regions that are shown."""

_MOST_BYTES = 2**31


def score_record(row: ImageRow, quality: QualityMap | None = None) -> dict[str, Any]:
    """The fields of an image that come from its score.

    Args:
        row: its score or error.
        quality: its map, where there is one.
    """
    score = row.score
    record: dict[str, Any] = {"name": printable(row.image), "error": row.error}
    if score is not None:
        record |= {
            "score": score.score,
            "raw": score.raw,
            "spread": score.crop_spread,
            "width": score.width,
            "height": score.height,
            "notes": list(score.notes),
            "whole": score.whole,
            "native": score.native,
            "reasons": None if score.reasons is None else score.reasons.sentence,
        }
    if quality is not None:
        record["map"] = map_record(quality)
        record["regions"] = [region._asdict() for region in quality.worst(REGIONS)]
    return record


def map_record(quality: QualityMap) -> dict[str, Any]:
    """A map as base64 of little-endian float32, row after row; NaN where no view looks."""
    rows, columns = quality.values.shape
    return {
        "rows": rows,
        "columns": columns,
        "values": _base64(quality.values),
        "coverage": _base64(quality.coverage),
    }


def scale_record(score: Score, name: str = "") -> dict[str, Any]:
    """How scores are to be read, and how they were made."""
    return {
        "name": name,
        "low": score.scale[0],
        "high": score.scale[1],
        "higherIsBetter": score.higher_is_better,
        "model": score.model,
        "sha256": score.sha256,
        "policy": score.policy,
    }


def read_rows(path: str | os.PathLike[str]) -> list[ImageRow]:
    """The rows of a table that ``qmamba score -o`` has written, .csv or .jsonl.

    A row of another model or policy than the first scored one is as good as any; the reader decides
    what to make of a mixture.

    Raises:
        DataError: there is no such file, or it is no table of scores; the message names the row.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in (".csv", ".jsonl"):
        raise DataError(f"The table {str(path)!r} must end in .csv or .jsonl.")
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(f"The table {str(path)!r} is larger than 2 GiB.")
        text = path.read_text("utf-8")
    except OSError as error:
        raise DataError(f"Cannot read {str(path)!r}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{str(path)!r} is no table of scores: it is not UTF-8.") from error
    entries: Iterable[Mapping[str, Any]]
    if kind == ".csv":
        reader = csv.DictReader(text.splitlines(keepends=True))
        missing = [
            name for name in ("image", "score", "raw") if name not in (reader.fieldnames or ())
        ]
        if missing:
            raise DataError(
                f"{str(path)!r} is no table of scores: it has no column {', '.join(missing)}; "
                "`qmamba score FOLDER -o scores.csv` writes one."
            )
        entries = reader
    else:
        entries = map(json.loads, filter(str.strip, text.splitlines()))
    rows: list[ImageRow] = []
    try:
        for entry in entries:
            rows.append(_row(entry))
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise DataError(
            f"Row {len(rows) + 1} of {str(path)!r} is no row of a table of scores "
            f"({type(error).__name__})."
        ) from error
    return rows


def printable(text: str) -> str:
    """The text with what cannot be shown or encoded as UTF-8 replaced by a question mark."""
    return "".join(
        part if part.isprintable() and not "\ud800" <= part <= "\udfff" else "?" for part in text
    )


def _row(entry: Mapping[str, Any]) -> ImageRow:
    values: dict[str, Any] = {
        name: None if entry.get(name) == "" else entry.get(name) for name in COLUMNS
    }
    image = str(entry["image"])
    if values["score"] is None:
        return ImageRow(image, error=str(values["error"] or "no score"))
    numbers = [float(values[name]) for name in ("score", "raw", "scale_low", "scale_high")]
    if not all(map(math.isfinite, numbers)) or numbers[2] >= numbers[3]:
        raise ValueError("numbers")
    score = Score(
        score=numbers[0],
        raw=numbers[1],
        scale=(numbers[2], numbers[3]),
        higher_is_better=values["higher_is_better"] in (True, "true"),
        crop_spread=_number(values["crop_spread"]),
        whole=_number(values["whole"]),
        native=_number(values["native"]),
        policy=str(values["policy"] or ""),
        model=str(values["model"] or ""),
        sha256=str(values["sha256"] or ""),
        width=int(values["width"]),
        height=int(values["height"]),
        notes=_listed(values["notes"]),
        image=image,
        reasons=Reasons.from_dict(entry) if entry.get("reasons") else None,
    )
    return ImageRow(image, score=score)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _listed(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(value.split("; ")) if isinstance(value, str) else tuple(map(str, value))


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode("ascii")
