"""`qmamba aggregate`: medians over several evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qmamba.cli.common import answer, say, shown, table_lines, take_outputs
from qmamba.cli.options.shared import ForceOption


def aggregate(
    reports: Annotated[
        list[Path],
        typer.Argument(
            metavar="REPORT", help="Reports of `qmamba evaluate -o FILE.json`.", show_default=False
        ),
    ],
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write the table to this .json or .md file; may be given several times.",
            show_default=False,
        ),
    ] = None,
    resamples: Annotated[
        int, typer.Option(min=1, metavar="N", help="Draws behind each interval.")
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the draws.")] = 0,
    force: ForceOption = False,
) -> None:
    """Median of several evaluations: repeats over split seeds or training seeds.

    Exit code: 0 done, 2 the reports do not belong together.
    """
    from qmamba.evaluation.quality.aggregate import aggregate as medians
    from qmamba.evaluation.quality.aggregate import (
        aggregate_legend,
        aggregate_rows,
        write_aggregate,
    )
    from qmamba.evaluation.quality.report import read_report

    take_outputs(*(output or []), force=force)
    result = medians([read_report(path) for path in reports], resamples=resamples, seed=seed)
    header, rows = aggregate_rows(result)
    say(shown(aggregate_legend(result)))
    answer("\n".join(table_lines(header, rows)))
    for path in output or []:
        write_aggregate(path, result)
    if output:
        say(f"written: {', '.join(shown(str(path)) for path in output)}")
