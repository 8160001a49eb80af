"""The command `qmamba`. Nothing here imports torch: each command imports what it needs itself."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated

import typer

from qmamba import __version__
from qmamba.cli.catalog.backends import backends
from qmamba.cli.catalog.datasets import datasets
from qmamba.cli.catalog.export import export
from qmamba.cli.catalog.models import models
from qmamba.cli.catalog.push import push
from qmamba.cli.catalog.reproduce import reproduce
from qmamba.cli.common import EXIT_USAGE, OUTPUT_IS_FULL, handled, say, silence
from qmamba.cli.display.command_list import CommandList
from qmamba.cli.quality.aggregate import aggregate
from qmamba.cli.quality.compare import compare
from qmamba.cli.quality.evaluate import evaluate
from qmamba.cli.quality.report import report
from qmamba.cli.quality.score import score
from qmamba.cli.quality.score_video import score_video_command
from qmamba.cli.quality.train import train
from qmamba.cli.quality.tune import tune
from qmamba.cli.restoration.evaluate_restoration import evaluate_restoration
from qmamba.cli.restoration.quantize import quantize
from qmamba.cli.restoration.restore import restore
from qmamba.cli.restoration.train_restoration import train_restoration_command
from qmamba.cli.scale.scores import scores, select
from qmamba.cli.serve import serve
from qmamba.cli.waiting import wait_briefly_where_busy
from qmamba.files import NO_SPACE

app = typer.Typer(
    name="qmamba",
    cls=CommandList,
    help="Score the quality of images and restore them, with state space models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for _command in (
    score,
    report,
    compare,
    serve,
    models,
    backends,
    train,
    evaluate,
    aggregate,
    tune,
    reproduce,
    quantize,
):
    app.command()(handled(_command))
app.command("score-video")(handled(score_video_command))
app.command("evaluate-restoration")(handled(evaluate_restoration))
app.command("train-restoration")(handled(train_restoration_command))
app.command()(handled(restore))
app.command()(handled(select))
app.command()(handled(export))
app.command()(handled(push))
app.add_typer(datasets)
app.add_typer(scores)


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
    # Python has None for a stream that the shell closed; its text goes nowhere, all else as ever.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - open until the end
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    # What Pillow warns of is a note or an error of the image's row.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    wait_briefly_where_busy()
    try:
        app(prog_name="qmamba")
    except OSError as error:
        # What no command writes, as --help.
        if error.errno not in NO_SPACE:
            raise
        silence(sys.stdout)
        say(OUTPUT_IS_FULL)
        sys.exit(EXIT_USAGE)
