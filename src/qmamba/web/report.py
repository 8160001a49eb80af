"""`report.html`: a table of scores as one file to look at, without a server or a network."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

from qmamba.assess import ImageRow, QualityMap, Score, Scorer
from qmamba.errors import DataError, QMambaError
from qmamba.files import atomic_write
from qmamba.images import DEFAULT_MAX_PIXELS
from qmamba.web import bundle
from qmamba.web.records import MAP_SIDE, scale_record, score_record
from qmamba.web.thumbnails import encoded, small_image

THUMBNAIL_SIDE = 192
"""Longest side of a thumbnail in pixels."""

Progress = Callable[[int, int], None]
"""Called with the number of images that are done and the number of all."""


def locate(image: str, table: str | os.PathLike[str]) -> str:
    """Where an image of a table lies: as it is named, or seen from the folder of the table."""
    beside = os.path.join(os.path.dirname(os.fspath(table)), image)
    return beside if not os.path.exists(image) and os.path.exists(beside) else image


def worst_rows(rows: Sequence[ImageRow], count: int) -> list[ImageRow]:
    """The scored rows of lowest quality, worst first."""
    scores = [row for row in rows if row.score is not None]
    scores.sort(key=_badness, reverse=True)
    return scores[:count]


def explain(
    scorer: Scorer,
    rows: Sequence[ImageRow],
    paths: dict[str, str],
    progress: Progress | None = None,
) -> dict[str, QualityMap]:
    """The quality maps of rows, by the image's name; an image that has changed or gone has none.

    Args:
        scorer: with the weights and the policy that the rows were made with.
        rows: scored rows.
        paths: where the images lie, by name.
        progress: see :data:`Progress`.
    """
    maps = {}
    for number, row in enumerate(rows, start=1):
        try:
            quality = scorer.map(paths[row.image], max_side=MAP_SIDE)
        except QMambaError:
            continue
        finally:
            if progress is not None:
                progress(number, len(rows))
        if row.score is not None and abs(quality.score.raw - row.score.raw) < 1e-3 * _span(
            row.score
        ):
            maps[row.image] = quality
    return maps


def write_report(
    path: str | os.PathLike[str],
    rows: Sequence[ImageRow],
    *,
    paths: dict[str, str] | None = None,
    unlinked: Collection[str] = (),
    maps: dict[str, QualityMap] | None = None,
    title: str = "",
    command: str = "",
    made: str = "",
    workers: int = 2,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    progress: Progress | None = None,
) -> int:
    """Write a report of scored images.

    Args:
        path: the .html file to write or replace.
        rows: the images; those with errors are listed as such.
        paths: where the images lie, by name; ``None`` takes the names. Those that cannot be read
            are shown without a thumbnail.
        unlinked: names of images that a click does not open, because their files will be gone.
        maps: quality maps of some of them, by name.
        title: of the page.
        command: how the report was made, for the reader.
        made: when it was made, for the reader.
        workers: threads that decode images.
        max_pixels: largest image that is decoded, in pixels.
        progress: see :data:`Progress`.

    Returns:
        How many images have a thumbnail.

    Raises:
        DataError: there is no scored row, the rows are of several scales, or the file cannot be
            written.
    """
    scores = [row.score for row in rows if row.score is not None]
    if not scores:
        raise DataError("No image of the table has a score, so there is nothing to report.")
    if len({(score.scale, score.higher_is_better) for score in scores}) > 1:
        raise DataError("The table mixes scores of different scales; make a report of each.")
    paths, maps = paths or {}, maps or {}
    folder = os.path.dirname(os.path.abspath(path))

    def record(row: ImageRow) -> dict[str, Any]:
        found = score_record(row, maps.get(row.image))
        file = paths.get(row.image, row.image)
        if row.image in maps and maps[row.image].score.reasons is not None:
            found |= {"reasons": score_record(ImageRow("", maps[row.image].score))["reasons"]}
        if row.score is not None:
            found["thumb"] = _thumbnail(file, max_pixels)
            found["link"] = None if row.image in unlinked else _link(file, folder)
        return found

    images = []
    with ThreadPoolExecutor(workers, thread_name_prefix="qmamba-thumbnail") as pool:
        for number, found in enumerate(pool.map(record, rows), start=1):
            images.append(found)
            if progress is not None:
                progress(number, len(rows))
    info = scale_record(scores[0]) | {
        "title": title,
        "command": command,
        "made": made,
        "models": sorted({f"{s.model}, {s.policy}" for s in scores}),
    }
    content = bundle.report({"info": info, "images": images})
    with atomic_write(path) as stream:
        stream.write(content.encode("utf-8", "backslashreplace"))
    return sum(image.get("thumb") is not None for image in images)


def _thumbnail(file: str, max_pixels: int) -> str | None:
    try:
        content = encoded(small_image(file, THUMBNAIL_SIDE, max_pixels=max_pixels), quality=60)
    except QMambaError:
        return None
    return "data:image/webp;base64," + base64.b64encode(content).decode("ascii")


def _link(file: str, folder: str) -> str | None:
    """The image's address as seen from the report, which holds while both stay where they are."""
    try:
        inside = os.path.relpath(os.path.abspath(file), folder)
    except ValueError:
        # Another drive of Windows.
        return None
    return "./" + quote(Path(inside).as_posix(), errors="surrogateescape")


def _badness(row: ImageRow) -> float:
    assert row.score is not None
    return -row.score.raw if row.score.higher_is_better else row.score.raw


def _span(score: Score) -> float:
    return score.scale[1] - score.scale[0]
