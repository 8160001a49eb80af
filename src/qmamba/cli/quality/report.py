"""`qmamba report`: a table of scores as one page to look at, or as a contact sheet."""

from __future__ import annotations

import datetime
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qmamba.cli.common import Progress, say, shown
from qmamba.cli.options.shared import DeviceOption, MaxPixelsOption
from qmamba.errors import ConfigError, QMambaError
from qmamba.files import require_writable

if TYPE_CHECKING:
    from qmamba.assess import ImageRow, QualityMap


def report(
    table: Annotated[
        Path,
        typer.Argument(metavar="SCORES", help="Table of `qmamba score -o`, .csv or .jsonl."),
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
    regions: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Worst images that are looked at again for their quality map; 0 for none.",
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
) -> None:
    """Show a table of scores: gallery, histogram, filters, worst regions, errors.

    The images are looked for where the table names them, or else beside the table. The report holds
    thumbnails of them and works without a network; a click on an image opens it as long as it lies
    where it lay.

    Exit code: 0 written, 2 wrong usage.
    """
    from qmamba.images import DEFAULT_MAX_PIXELS
    from qmamba.web.records import read_rows
    from qmamba.web.report import locate, write_report
    from qmamba.web.sheet import best_and_worst, check_sheet_name, write_sheet

    if output is None and sheet is None:
        raise ConfigError("Give -o REPORT.html, --sheet SHEET.jpg, or both.")
    if output is not None:
        if output.suffix.lower() not in (".html", ".htm"):
            raise ConfigError(f"The report {str(output)!r} must end in .html.")
        require_writable(output)
    if sheet is not None:
        check_sheet_name(sheet)
        require_writable(sheet)
    rows = read_rows(table)
    paths = {row.image: locate(row.image, table) for row in rows}
    limit = max_pixels or DEFAULT_MAX_PIXELS
    if sheet is not None:
        sections = best_and_worst(rows, count, paths)
        score = next((row.score for row in rows if row.score is not None), None)
        write_sheet(sheet, sections, "" if score is None else f"{score.model}, {score.policy}")
        say(f"contact sheet written to {shown(str(sheet))}")
    if output is None:
        return
    maps = _maps(rows, paths, regions, model, device, limit) if regions else {}
    progress = Progress(len(rows))
    shown_images = write_report(
        output,
        rows,
        paths=paths,
        maps=maps,
        title=title or table.stem,
        command=shlex.join(["qmamba", *sys.argv[1:]]),
        made=f"Made on {datetime.datetime.now():%Y-%m-%d %H:%M}.",
        workers=workers,
        max_pixels=limit,
        progress=lambda done, total: progress.update(done, 0),
    )
    progress.clear()
    size = os.path.getsize(output)
    say(
        f"{len(rows)} images, {shown_images} with a thumbnail, {len(maps)} with a quality map, "
        f"written to {shown(str(output))} ({size / 1e6:.1f} MB)"
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
            model or score.model, policy=score.policy, device=device, max_pixels=max_pixels
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
