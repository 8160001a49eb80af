"""`qmamba tune`: adapt a model to other images with few parameters."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from qmamba.cli.display.training import TrainingDisplay
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

if TYPE_CHECKING:
    from qmamba.prompts import TuningConfig


@with_training_options()
@with_rating_options
def tune(
    request: RatingRequest,
    out: RunFolderOption,
    options: TrainingOptions,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="WEIGHTS",
            help="The model to adapt: embedded name, file, or hub id. Without it the embedded"
            " default.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="style (StylePrompt), convolution or cross-attention for prompts; ssf scales and"
            " shifts every layer; probe trains the output layer alone, full everything.",
        ),
    ] = "style",
    regressor: Annotated[
        bool, typer.Option("--regressor", help="Train the output layer as well.")
    ] = False,
    prompts: Annotated[
        int, typer.Option(min=1, metavar="N", help="Prompt components of each stage.")
    ] = 6,
    width: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Channels of a prompt; 256 as in the paper fits its large models, 32 the nano.",
        ),
    ] = 256,
    size: Annotated[
        str,
        typer.Option(
            metavar="HxW|layer",
            help="Height and width of a StylePrompt, or those of the map that it follows.",
        ),
    ] = "1x1",
    name: RunNameOption = None,
    resume: ResumeOption = False,
    device: TrainingDeviceOption = "cpu",
) -> None:
    """Adapt a model to rated images; everything but a few parameters stays as it is.

    The folder receives tuned.safetensors, which holds only what was trained and works with its base
    alone (`qmamba score --model BASE --tuned FILE`), and the other files of `qmamba train`, whose
    options for data and schedule this command shares.

    Exit code: 0 finished, 2 wrong usage or data; stopped after a checkpoint: 130 by Ctrl-C, 143 by
    SIGTERM, 129 by SIGHUP.
    """
    from qmamba.training.quality.tuning import tune_on_ratings
    from qmamba.training.run import TUNED_NAME

    display = TrainingDisplay()
    display.begin(out, resume=resume)
    result = tune_on_ratings(
        request,
        out,
        options,
        tuning=_tuning(method, regressor, prompts, width, size),
        base=base,
        name=name,
        resume=resume,
        device=device,
        tell=tell,
        reading=Reading(),
        report=display,
    )
    display.finish(result, f"{result.parameters:,} tuned parameters in {out / TUNED_NAME}")


def _tuning(method: str, regressor: bool, prompts: int, width: int, size: str) -> TuningConfig:
    from qmamba.prompts import TuningConfig

    match = re.fullmatch(r"(\d{1,4})x(\d{1,4})", size)
    if match is None and size != "layer":
        raise ConfigError(f"--size is height x width such as 7x7, or layer, got {size!r}.")
    return TuningConfig(
        method=cast(Any, method),
        regressor=regressor,
        prompts=prompts,
        width=width,
        size="layer" if match is None else (int(match[1]), int(match[2])),
    )
