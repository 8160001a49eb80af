"""`qmamba push`: a weights file and its model card to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qmamba.cli.common import answer, say, shown
from qmamba.errors import ConfigError

if TYPE_CHECKING:
    from qmamba.checkpoints import CardFigure

_FIGURES = ("srcc", "plcc", "krcc")


def push(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="A safetensors file of ours: full precision, packed, or tuned.",
            show_default=False,
        ),
    ],
    repository: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="Where on the hub.", show_default=False)
    ],
    license: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="License of the weights, such as apache-2.0; without it the file's own.",
            show_default=False,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A report of `qmamba evaluate -o report.json` on these weights, for the card.",
            show_default=False,
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    message: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Of the commit.", show_default=False)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the model card and send nothing.")
    ] = False,
) -> None:
    """Publish weights on the Hugging Face hub, with a model card made from their metadata.

    Log in once with `hf auth login`, or set HF_TOKEN. Without --report the figures are those that
    the training left in the file.

    Exit code: 0 published, 2 the file, the name or the hub refused.
    """
    from qmamba.checkpoints import publish

    done = publish(
        file,
        repository,
        license=license,
        figures=() if report is None else _figures(report, file),
        private=private,
        message=message,
        dry_run=dry_run,
    )
    size = f"{done.size / 1e6:.2f} MB, sha256 {done.sha256[:12]}"
    if dry_run:
        answer(done.card.removesuffix("\n"))
        say(f"would send model.safetensors ({size}) and this card to {repository}")
        return
    card = "; its own README stays" if done.kept_card else " and a model card"
    say(f"model.safetensors ({size}){card}: {shown(done.url or repository)}")
    say(f"use it as --model {repository}@{(done.commit or '')[:40]}")


def _figures(report: Path, file: str) -> list[CardFigure]:
    from qmamba.checkpoints import CardFigure, describe
    from qmamba.evaluation.quality.report import read_report

    found = read_report(report)
    if found.sha256 != describe(file).sha256:
        raise ConfigError(
            f"The report {str(report)!r} is about other weights (sha256 {found.sha256[:12]}); "
            "evaluate these."
        )
    return [
        CardFigure(
            name,
            figure.value,
            f"{row.dataset} ({row.part})",
            row.images,
            None if figure.low is None or figure.high is None else (figure.low, figure.high),
        )
        for row in found.rows
        for name, figure in row.figures.items()
        if name in _FIGURES
    ]
