"""`qmamba datasets`: which data sets can be read, and what is there of them on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qmamba.cli.common import EXIT_SOME_FAILED, answer, handled, shown, table_lines
from qmamba.cli.display.command_list import CommandList
from qmamba.errors import ConfigError, DataError

if TYPE_CHECKING:
    from qmamba.datasets import CheckReport

datasets = typer.Typer(
    name="datasets",
    cls=CommandList,
    help="Data sets of images with scores.",
    no_args_is_help=True,
)


def list_known() -> None:
    """List the data sets that can be read by name."""
    from qmamba.datasets.registry import ADAPTERS

    rows: list[tuple[str, ...]] = [
        (
            name,
            str(adapter.count),
            str(adapter.contents or adapter.count),
            f"{adapter.scale[0]:g} to {adapter.scale[1]:g}",
            _better(adapter.higher_is_better),
            adapter.title,
        )
        for name, adapter in ADAPTERS.items()
    ]
    header = ("name", "images", "contents", "scale", "better", "title")
    answer("\n".join(table_lines(header, rows)))
    answer("\nAny CSV file with the columns path and mos can be read as well.")


def check(
    root: Annotated[
        Path,
        typer.Argument(
            metavar="ROOT",
            help="Folder at or above the data sets (three levels), or a CSV file.",
            show_default=False,
        ),
    ],
    name: Annotated[
        list[str] | None,
        typer.Option(
            "--name",
            metavar="NAME",
            help="Look for this data set only; may be given more than once.",
            show_default=False,
        ),
    ] = None,
    problems: Annotated[
        int, typer.Option(min=0, metavar="N", help="Problems shown per data set.")
    ] = 10,
) -> None:
    """Show what is there of the data sets: images, contents, score range and problems.

    Image files are looked for and not opened.

    Exit code: 0 all complete, 1 something is wrong or missing, 2 wrong usage or nothing found.
    """
    from qmamba.datasets import (
        CheckReport,
        check_csv,
        check_dataset,
        find_datasets,
        list_datasets,
    )

    if not root.is_dir():
        if name:
            raise ConfigError("--name goes with a folder; leave it out for a CSV file.")
        if not root.is_file():
            raise DataError(f"{str(root)!r} does not exist; give a folder or a CSV file.")
        reports = [check_csv(root)]
    elif name:
        reports = [check_dataset(each, root) for each in dict.fromkeys(name)]
    else:
        folders = find_datasets(root)
        reports = [
            check_dataset(each, folders[each]) if each in folders else CheckReport(each, None)
            for each in list_datasets()
        ]
    header = ("name", "found", "images", "contents", "scores", "better", "problems")
    answer("\n".join(table_lines(header, [_row(report) for report in reports])))
    found = [report for report in reports if report.found]
    if not found:
        raise DataError(f"No known data set in {str(root)!r} or three levels below.")
    for report in found:
        answer(f"\n{report.name}: {shown(str(report.root))}")
        for problem in report.problems[:problems]:
            answer(f"  {shown(problem)}")
        if len(report.problems) > problems:
            answer(f"  {len(report.problems) - problems} more problems")
    wanted = reports if name else found
    if not all(report.complete for report in wanted):
        raise typer.Exit(EXIT_SOME_FAILED)


def _row(report: CheckReport) -> tuple[str, ...]:
    if not report.found:
        return (shown(report.name), "no", "-", "-", "-", "-", "-")
    images = str(report.listed)
    if report.present != report.listed:
        images = f"{report.present}/{report.listed}"
    low_high = report.score_range
    return (
        shown(report.name),
        "yes",
        images,
        str(report.contents),
        "-" if low_high is None else f"{low_high[0]:.4g} to {low_high[1]:.4g}",
        _better(report.higher_is_better),
        str(len(report.problems)),
    )


def _better(higher_is_better: bool | None) -> str:
    return {True: "higher", False: "lower", None: "?"}[higher_is_better]


datasets.command("list")(handled(list_known))
datasets.command("check")(handled(check))
