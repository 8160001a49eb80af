"""`qmamba report`: a table of scores as one page to look at, or as a contact sheet."""

from __future__ import annotations

import datetime
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from qmamba.cli.common import Progress, say, shown, take_outputs
from qmamba.cli.options.shared import DeviceOption, ForceOption, MaxPixelsOption
from qmamba.errors import ConfigError, QMambaError

if TYPE_CHECKING:
    from qmamba.assess import ImageRow, QualityMap


def report(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="SCORES",
            help="Table of `qmamba score -o`, .csv or .jsonl, or its folder with `--shards`.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The report: one .html file that loads nothing.",
            show_default=False,
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A contact sheet (.jpg, .png, .webp) of the best and the worst images.",
            show_default=False,
        ),
    ] = None,
    count: Annotated[
        int, typer.Option(min=1, metavar="N", help="Images in each half of the contact sheet.")
    ] = 20,
    images: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Images of a folder of scores that are shown at most: the best, the worst, and"
            " others at equal distances in the order of their scores.",
        ),
    ] = 5000,
    regions: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Worst images that are looked at again for their quality map and reasons; 0 for"
            " none.",
        ),
    ] = 20,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Weights for the maps. Without it those that the table names.",
            show_default=False,
        ),
    ] = None,
    title: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Title of the page.", show_default=False),
    ] = None,
    device: DeviceOption = "cpu",
    workers: Annotated[
        int, typer.Option(min=1, metavar="N", help="Threads that decode images.")
    ] = 2,
    max_pixels: MaxPixelsOption = None,
    force: ForceOption = False,
) -> None:
    """Show a table of scores: gallery, histogram, filters, worst regions, errors.

    The images are looked for where the table names them, or else beside the table; those of a
    folder of scores where its plan says, in tar and Parquet files, too. The report holds thumbnails
    of them and works without a network; a click on an image opens it as long as it lies where it
    lay.

    Exit code: 0 written, 2 wrong usage.
    """
    from qmamba.images import DEFAULT_MAX_PIXELS
    from qmamba.web.sheet import check_sheet_name

    if output is None and sheet is None:
        raise ConfigError("Give -o REPORT.html, --sheet SHEET.jpg, or both.")
    if output is not None and output.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"The report {str(output)!r} must end in .html.")
    if sheet is not None:
        check_sheet_name(sheet)
    take_outputs(output, sheet, force=force)
    with TemporaryDirectory(prefix="qmamba-report-") as temporary:
        if table.is_dir():
            found = _from_folder(table, images, max(count, regions), Path(temporary))
        else:
            found = _from_table(table)
        limit = max_pixels or DEFAULT_MAX_PIXELS
        if sheet is not None:
            _write_sheet(sheet, found, count)
        if output is not None:
            maps = _maps(found.rows, found.paths, regions, model, device, limit) if regions else {}
            _write_report(output, found, maps, title or table.stem, workers, limit)


@dataclass(frozen=True)
class _Found:
    """Scored images, where they lie, which of them only for now, and what part of all they are."""

    rows: list[ImageRow]
    paths: dict[str, str]
    unlinked: frozenset[str] = frozenset()
    part: str = ""


def _from_table(table: Path) -> _Found:
    from qmamba.web.records import read_rows
    from qmamba.web.report import locate

    rows = read_rows(table)
    return _Found(rows, {row.image: locate(row.image, table) for row in rows})


def _from_folder(folder: Path, most: int, ends: int, temporary: Path) -> _Found:
    from qmamba.scale import read_status
    from qmamba.scale.choice.gallery import find_files, gallery

    status = read_status(folder)
    shown_part = gallery(folder, most, ends)
    rows = shown_part.rows
    part = ""
    if len(rows) < shown_part.total:
        part = (
            f"{len(rows)} of {shown_part.total} images are shown: the best, the worst, and others"
            " at equal distances in the order of their scores."
        )
    if not status.complete:
        part += f" Only {status.done} of {status.shards} shards were done."
    wanted = [row.image for row in rows if row.score is not None]
    found = find_files(folder, wanted, temporary)
    unlinked = frozenset(n for n, path in found.items() if Path(path).parent == temporary)
    missing = str(temporary / "missing")
    paths = {row.image: found.get(row.image, missing) for row in rows}
    return _Found(rows, paths, unlinked | (set(paths) - set(found)), part.strip())


def _write_sheet(sheet: Path, found: _Found, count: int) -> None:
    from qmamba.web.sheet import best_and_worst, write_sheet

    sections = best_and_worst(found.rows, count, found.paths)
    score = next((row.score for row in found.rows if row.score is not None), None)
    write_sheet(sheet, sections, "" if score is None else f"{score.model}, {score.policy}")
    say(f"contact sheet written to {shown(str(sheet))}")


def _write_report(
    output: Path,
    found: _Found,
    maps: dict[str, QualityMap],
    title: str,
    workers: int,
    max_pixels: int,
) -> None:
    from qmamba.web.report import write_report

    progress = Progress(len(found.rows))
    made = f"Made on {datetime.datetime.now():%Y-%m-%d %H:%M}. {found.part}"
    shown_images = write_report(
        output,
        found.rows,
        paths=found.paths,
        unlinked=found.unlinked,
        maps=maps,
        title=title,
        command=shlex.join(["qmamba", *sys.argv[1:]]),
        made=made.strip(),
        workers=workers,
        max_pixels=max_pixels,
        progress=lambda done, total: progress.update(done, 0),
    )
    progress.clear()
    if found.part:
        say(found.part)
    size = os.path.getsize(output)
    say(
        f"{len(found.rows)} images, {shown_images} with a thumbnail, {len(maps)} with a quality"
        f" map, written to {shown(str(output))} ({size / 1e6:.1f} MB)"
    )


def _maps(
    rows: list[ImageRow],
    paths: dict[str, str],
    count: int,
    model: str | None,
    device: str,
    max_pixels: int,
) -> dict[str, QualityMap]:
    """Quality maps of the worst images; none, with a line that says why, where they cannot be."""
    from qmamba.assess import Scorer
    from qmamba.web.report import explain, worst_rows

    worst = worst_rows(rows, count)
    if not worst:
        return {}
    score = worst[0].score
    assert score is not None
    try:
        scorer = Scorer.from_pretrained(
            model or score.model,
            policy=score.policy,
            device=device,
            max_pixels=max_pixels,
            reasons=True,
        )
        if scorer.metadata.sha256 != score.sha256:
            raise ConfigError(f"The weights {model or score.model!r} are others than the table's.")
    except QMambaError as error:
        if model is not None:
            raise
        say(f"no quality maps: {shown(str(error))}")
        return {}
    progress = Progress(len(worst))
    maps = explain(scorer, worst, paths, lambda done, total: progress.update(done, 0))
    progress.clear()
    if len(maps) < len(worst):
        say(f"no quality map for {len(worst) - len(maps)} images, which have changed or gone")
    return maps
