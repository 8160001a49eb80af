"""`qmamba train`: learn to rate images from rated ones."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from qmamba.cli.common import EXIT_INTERRUPTED, say
from qmamba.cli.quality_options import QualityArguments, quality_task, with_quality_options
from qmamba.cli.shared_options import (
    ResumeOption,
    RunFolderOption,
    RunNameOption,
    TrainingDeviceOption,
)
from qmamba.cli.training_display import TrainingDisplay
from qmamba.cli.training_options import with_training_options
from qmamba.errors import ConfigError
from qmamba.training.options import TrainingOptions


@with_training_options()
@with_quality_options
def train(
    data: QualityArguments,
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
        str | None,
        typer.Option(
            "--from",
            metavar="WEIGHTS",
            help="Weights to start from: embedded name, file (also official VMamba), or hub id.",
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
    machines.

    Exit code: 0 finished, 2 wrong usage or data, 130 stopped by a signal after a checkpoint.
    """
    from qmamba.training.distributed import is_main, process_group
    from qmamba.training.quality.initial_network import starting_model, usable_device
    from qmamba.training.quality.run import (
        MODEL_NAME,
        require_fitting,
        require_new_or_resumed,
        run_folder,
        train_quality,
    )

    usable_device(device)
    require_new_or_resumed(out, resume)
    overrides = _overrides(drop_path=drop_path, windows=windows)
    network = starting_model(model, weights, seed=options.seed, **overrides)
    require_fitting(network, data.crop_size, data.scored_size)
    with process_group(device), run_folder(out):
        tell = say if is_main() else _nothing
        task = quality_task(data, options, out, tell, resume=resume)
        display = TrainingDisplay()
        result = train_quality(
            network,
            task,
            options,
            out,
            name=name or out.absolute().name,
            resume=resume,
            device=device,
            report=display,
        )
        display.clear()
        if result.interrupted:
            tell(f"stopped after step {result.step}; the same command with --resume goes on")
            raise typer.Exit(EXIT_INTERRUPTED)
        tell(f"{result.step} steps done, weights in {out / MODEL_NAME}")


def _nothing(message: str) -> None:
    """Ranks other than the first are silent."""


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
