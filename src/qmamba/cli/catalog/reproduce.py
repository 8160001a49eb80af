"""`qmamba reproduce`: the tables and the figure of the QMamba paper as one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qmamba.cli.common import EXIT_SOME_FAILED, answer, exit_code_of, say, shown, table_lines
from qmamba.cli.display.training import TrainingDisplay
from qmamba.errors import ConfigError, DataError

if TYPE_CHECKING:
    from qmamba.reproduce import Plan, Step

_GIBIBYTE = 1 << 30


def reproduce(
    experiment: Annotated[
        str,
        typer.Argument(metavar="table1|...|table10|figure3", help="What to run again."),
    ],
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="ROOT",
            help="Folder at or up to three levels above the data sets.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="FOLDER", help="Runs, results and tables; shared by all tables."
        ),
    ] = Path("reproduced"),
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            "--from",
            metavar="FOLDER",
            help="ImageNet weights to start from, one file per model, such as qmamba-tiny.pth.",
            show_default=False,
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start from random weights where there are no others.")
    ] = False,
    rows: Annotated[
        str, typer.Option(metavar="PATTERN", help="Rows to run, as '*Mamba-T' or 'DEIQT|LoDa'.")
    ] = "*",
    seeds: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Random splits (10; 1 with --quick)."),
    ] = None,
    own_schedules: Annotated[
        bool,
        typer.Option(
            "--own-schedules",
            help="Train and test DEIQT and LoDa as their authors did, not by the paper's protocol.",
        ),
    ] = False,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Try the whole way in minutes: few steps, few images, small models."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan and what it costs, and run nothing.")
    ] = False,
    device: Annotated[str, typer.Option(help="Where to train, such as cpu or cuda.")] = "cpu",
    precision: Annotated[
        str, typer.Option(metavar="fp32|bf16", help="Number format of the forward pass.")
    ] = "fp32",
    workers: Annotated[
        int, typer.Option(min=0, metavar="N", help="Processes that prepare examples.")
    ] = 0,
    memory: Annotated[
        float, typer.Option(min=0, metavar="GIB", help="Memory for decoded images.")
    ] = 8.0,
    keep_weights: Annotated[
        bool, typer.Option("--keep-weights", help="Keep the weights of every training.")
    ] = False,
) -> None:
    """Run a table or figure of the paper again and lay our figures beside its own.

    Writes TABLE.md, .csv, .tex and .json with three columns for each of the paper's: ours, paper,
    difference; figure3 as .png and .svg with its silhouettes. What is missing is said and left out.
    A run that was stopped goes on with the same command; what tables share is run once.

    Exit code: 0 everything was run, 1 something was missing or failed, 2 wrong usage or nothing to
    run, 130 stopped by Ctrl-C (143 by SIGTERM, 129 by SIGHUP).
    """
    from qmamba.checkpoints.loading import usable_device
    from qmamba.reproduce import (
        EXPERIMENTS,
        Conditions,
        InterruptedRunError,
        Protocol,
        make_plan,
        run_plan,
    )
    from qmamba.training.options import PRECISIONS

    if experiment not in EXPERIMENTS:
        raise ConfigError(f"The paper has no {experiment!r}; give one of {', '.join(EXPERIMENTS)}.")
    if precision not in PRECISIONS:
        raise ConfigError(f"--precision is {' or '.join(PRECISIONS)}, got {precision!r}.")
    usable_device(device)
    protocol = Protocol(
        seeds=seeds or (1 if quick else 10), quick=quick, own_schedules=own_schedules
    )
    plan = make_plan(experiment, data, protocol, rows=rows, weights=weights, fresh=fresh)
    for reason, count in plan.missing().items():
        say(f"missing: {shown(reason)} ({count} of {len(plan.steps)} trainings)")
    if dry_run:
        _show(plan, device)
        return
    if not plan.possible:
        raise DataError(f"Nothing of {experiment} can be run with what is in {str(data)!r}.")
    display = TrainingDisplay()
    conditions = Conditions(
        out,
        device=device,
        precision=precision,
        workers=workers,
        memory=round(memory * _GIBIBYTE),
        keep_weights=keep_weights,
        report=display,
    )

    def tell(message: str) -> None:
        display.clear()
        say(shown(message))

    try:
        paths, failures = run_plan(plan, conditions, tell)
    except InterruptedRunError as error:
        display.clear()
        say(str(error))
        raise typer.Exit(exit_code_of(error.signal)) from None
    display.clear()
    say(f"written: {', '.join(str(path) for path in paths)}")
    if failures or plan.missing():
        raise typer.Exit(EXIT_SOME_FAILED)


def _show(plan: Plan, device: str) -> None:
    from qmamba.reproduce.cost import measured_speed

    # One line for all seeds of a training.
    first = [step for step in plan.steps if step.training.seed == 0]
    rows: list[tuple[str, ...]] = [
        (step.training.key.replace("_seed0", ""), str(plan.seeds_of(step)), _state(step))
        for step in first
    ]
    answer("\n".join(table_lines(("training", "seeds", "state"), rows)))
    speed = measured_speed(device)
    answer("")
    for title, possible, count in (
        ("all", False, len(plan.steps)),
        ("can be run", True, len(plan.possible)),
    ):
        cost = plan.multiply_adds(possible=possible)
        answer(
            f"{title}: {count} trainings, {cost:.2e} multiply-adds, about"
            f" {cost / speed / 3600:,.1f} hours at the speed of qmamba-nano on {device}"
            f" ({speed / 1e9:,.0f} x 10^9 per second)"
        )


def _state(step: Step) -> str:
    return f"{len(step.missing)} missing" if step.missing else "ready"
