"""`qmamba train`: learn to rate images from rated ones."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from qmamba.cli.display.training import TrainingDisplay
from qmamba.cli.options.grouped import given_options
from qmamba.cli.options.rating import Reading, tell, with_rating_options
from qmamba.cli.options.shared import (
    ResumeOption,
    RunFolderOption,
    RunNameOption,
    TrainingDeviceOption,
)
from qmamba.cli.options.training import with_training_options
from qmamba.errors import ConfigError
from qmamba.training.options import TrainingOptions
from qmamba.training.quality.request import RatingRequest


@with_training_options()
@with_rating_options
def train(
    context: typer.Context,
    request: RatingRequest,
    out: RunFolderOption,
    options: TrainingOptions,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Architecture (`qmamba models` has the names); with --from, that of the file.",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="WEIGHTS",
            help="Weights to start from: embedded name, file (also official VMamba), or hub id;"
            " again for a second file with another part of the network.",
            show_default=False,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="qmamba|deiqt|loda",
            help="Take options that are not given from the published schedule of a method.",
            show_default=False,
        ),
    ] = None,
    drop_path: Annotated[
        float | None,
        typer.Option(
            metavar="X", help="Probability of dropping a branch in training.", show_default=False
        ),
    ] = None,
    windows: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,N,N",
            help="Side of the local scan windows of each stage, 1 for the cross scan.",
            show_default=False,
        ),
    ] = None,
    name: RunNameOption = None,
    resume: ResumeOption = False,
    device: TrainingDeviceOption = "cpu",
) -> None:
    """Train a model on rated images: one data set, a CSV file, or a mix of several.

    The folder receives model.safetensors, options.json, splits.json, log.jsonl and checkpoint.pt.
    The test part of a split is never opened; `qmamba evaluate` measures on it. A run that was
    killed goes on with the same command and --resume. Under torchrun it runs on several GPUs or
    machines. Presets are described in docs/rivals.md.

    Exit code: 0 finished, 2 wrong usage or data; stopped after a checkpoint: 130 by Ctrl-C, 143 by
    SIGTERM, 129 by SIGHUP.
    """
    from qmamba.training.quality.presets import with_preset
    from qmamba.training.quality.request import train_on_ratings
    from qmamba.training.run import MODEL_NAME

    if preset is not None:
        request, options = with_preset(preset, request, options, given_options(context))
    display = TrainingDisplay()
    display.begin(out, resume=resume)
    result = train_on_ratings(
        request,
        out,
        options,
        model=model,
        weights=weights,
        name=name,
        resume=resume,
        device=device,
        tell=tell,
        reading=Reading(),
        report=display,
        **_overrides(drop_path=drop_path, windows=windows),
    )
    display.finish(result, f"weights in {out / MODEL_NAME}")


def _overrides(drop_path: float | None, windows: str | None) -> dict[str, Any]:
    overrides: dict[str, Any] = {}
    if drop_path is not None:
        overrides["drop_path"] = drop_path
    if windows is not None:
        try:
            overrides["windows"] = tuple(int(part) for part in windows.split(","))
        except ValueError:
            raise ConfigError(
                f"--windows takes whole numbers such as 8,4,2,2, got {windows!r}."
            ) from None
    return overrides
