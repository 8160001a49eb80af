"""A run that learns to restore images.

The record of such a run (:mod:`qmamba.training.run`) also names the images that validated it, and
the card of the weights says what they undo.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from qmamba.checkpoints import save_model, save_quantized
from qmamba.errors import ConfigError
from qmamba.models import MambaIR, ModelMetadata, RestorationConfig
from qmamba.quantization import QuantConfig
from qmamba.restore.degradations import Degradation
from qmamba.training.loop import TrainingProgress, TrainingResult
from qmamba.training.options import TrainingOptions
from qmamba.training.restoration.task import RestorationTask
from qmamba.training.run import MODEL_NAME, described_length, run, shown_origin

_DECIDING = ("config", "from", "quantization", "task", "validation")


def train_restoration(
    model: MambaIR,
    task: RestorationTask,
    options: TrainingOptions,
    folder: Path,
    *,
    name: str,
    quantization: QuantConfig | None = None,
    card: Mapping[str, Any] | None = None,
    resume: bool = False,
    device: torch.device | str = "cpu",
    report: Callable[[TrainingProgress], None] | None = None,
) -> TrainingResult:
    """Train a restoration network and write it with everything that tells how it came about.

    Args:
        model: the network to start from; where it is to be quantized, prepared already.
        task: what it learns.
        options: schedule and optimizer.
        folder: where the files go; created if missing.
        name: name of the weights.
        quantization: how the model was prepared; None in full precision.
        card: further entries for the model card, as JSON, such as ``data`` and ``terms``.
        resume: go on with the run in the folder.
        device: where to train.
        report: see :func:`qmamba.training.train`.

    Returns:
        What :func:`qmamba.training.train` does. An interrupted run has written no model.

    Raises:
        ConfigError: the network does something else than the task.
        DataError: the folder cannot be made or holds another run, or a file cannot be written.
        TrainingError: the loss is not finite.
    """
    require_fitting(model, task.degradation)

    def save(record: dict[str, Any], result: TrainingResult) -> None:
        training = {
            **task.describe(),
            "protocol": _protocol(options, task, record["from"]),
            **(card or {}),
            "figures": result.figures,
            "steps": result.step,
            "options": options.to_dict(),
        }
        metadata = ModelMetadata(name, model.config.architecture, training=training)
        if quantization is None:
            save_model(model, folder / MODEL_NAME, metadata=metadata, dtype=torch.float32)
        else:
            save_quantized(model, folder / MODEL_NAME, metadata)

    return run(
        model,
        task,
        options,
        folder,
        name=name,
        record={
            "quantization": None if quantization is None else quantization.to_dict(),
            "task": task.describe(),
            "validation": task.validation_contents,
        },
        deciding=_DECIDING,
        save=save,
        resume=resume,
        device=device,
        report=report,
    )


def require_fitting(model: MambaIR, degradation: Degradation) -> None:
    """Refuse a network that does something else than a task.

    Raises:
        ConfigError: task, scale or channels differ.
    """
    config = model.config
    if (config.task_name, config.scale, config.channels, config.condition_channels) != (
        degradation.task,
        degradation.scale,
        degradation.channels,
        degradation.condition_channels,
    ):
        raise ConfigError(
            f"The network is for {config.task} x{config.scale} with {_channels(config)} and the"
            f" task is {degradation} with {_channels(degradation)}; choose another model."
        )


def _channels(subject: RestorationConfig | Degradation) -> str:
    conditions = subject.condition_channels
    return f"{subject.channels} channels" + (f" and {conditions} condition" if conditions else "")


def _protocol(
    options: TrainingOptions, task: RestorationTask, origin: Mapping[str, Any] | None
) -> str:
    start = shown_origin(origin, "an interpolating start")
    return (
        f"{described_length(options)} of {options.batch_size} crops of {task.options.side}, Adam at"
        f" {options.learning_rate:g} ({options.schedule}), {task.options.loss} loss, from {start},"
        f" seed {options.seed}"
    )
