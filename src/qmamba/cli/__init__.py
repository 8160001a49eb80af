"""The command `qmamba`. Nothing here imports torch: each command imports what it needs itself."""

from __future__ import annotations

from typing import Annotated

import typer

from qmamba import __version__
from qmamba.cli.backends import backends
from qmamba.cli.common import handled
from qmamba.cli.datasets import datasets
from qmamba.cli.models import models
from qmamba.cli.score import score

app = typer.Typer(
    name="qmamba",
    help="Quality scores of pictures with state space models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for _command in (score, models, backends):
    app.command()(handled(_command))
app.add_typer(datasets)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"qmamba {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and stop.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; the process ends with its exit code."""
    app(prog_name="qmamba")
