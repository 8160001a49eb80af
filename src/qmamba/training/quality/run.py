"""A run that learns to rate images.

Beside the files of every run (:mod:`qmamba.training.run`) its folder holds ``splits.json``, which
images trained, or ``splits-NAME.json`` for each set of a mix. The card of the weights has their
score scale and the policy that they were judged with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from qmamba.checkpoints import save_model
from qmamba.errors import ConfigError
from qmamba.models import ModelMetadata, Network, architecture_of
from qmamba.training.loop import TrainingProgress, TrainingResult
from qmamba.training.options import TrainingOptions
from qmamba.training.quality.initial_network import is_output
from qmamba.training.quality.task import QualityTask
from qmamba.training.run import MODEL_NAME, described_length, run, shown_origin

_DECIDING = ("architecture", "config", "from", "task")


def train_quality(
    model: Network,
    task: QualityTask,
    options: TrainingOptions,
    folder: Path,
    *,
    name: str,
    card: Mapping[str, Any] | None = None,
    decides: Mapping[str, Any] | None = None,
    save: Callable[[Network, Path, ModelMetadata], object] | None = None,
    resume: bool = False,
    device: torch.device | str = "cpu",
    report: Callable[[TrainingProgress], None] | None = None,
) -> TrainingResult:
    """Train a quality model and write it with everything that tells how it came about.

    A model that rated in the other direction (quality before, DMOS now) and whose output layer is
    trained starts with its output turned round.

    Args:
        model: the network to start from, with one output.
        task: what it learns.
        options: schedule and optimizer.
        folder: where the files go; created if missing.
        name: name of the weights.
        card: further entries for the model card, as JSON; they replace those of the run.
        decides: further entries of the record that a resumed run must share, as JSON.
        save: writes the result to the folder instead of :data:`MODEL_NAME`.
        resume: go on with the run in the folder.
        device: where to train.
        report: see :func:`qmamba.training.train`.

    Returns:
        What :func:`qmamba.training.train` does. An interrupted run has written no model.

    Raises:
        ConfigError: the model has several outputs or other views than the task.
        DataError: the folder holds another run, or a file cannot be written.
        TrainingError: the loss is not finite.
    """
    require_fitting(model, task.crop_size, task.policy.size)
    _turn_output(model, task)

    def finish(record: dict[str, Any], result: TrainingResult) -> None:
        training = {
            **_card(task, options, record),
            **(card or {}),
            "figures": result.figures,
            "steps": result.step,
        }
        (save or _save_whole)(model, folder, task.metadata(name, training))

    return run(
        model,
        task,
        options,
        folder,
        name=name,
        record={
            "task": task.description(),
            **(decides or {}),
        },
        deciding=(*_DECIDING, *(decides or {})),
        save=finish,
        resume=resume,
        device=device,
        report=report,
    )


def require_fitting(model: Network, *sizes: int) -> None:
    """Check that a model gives one score for crops of these sides, in pixels.

    Raises:
        ConfigError: it is no quality model, has several outputs, or takes other views.
    """
    if not architecture_of(model).rates:
        raise ConfigError(f"A {type(model).__name__} gives no scores; choose a quality model.")
    outputs = model.config.outputs
    if outputs != 1:
        raise ConfigError(f"A quality model has one output and this one {outputs}.")
    side = model.config.image_size
    for size in sizes:
        if side is not None and side != size:
            raise ConfigError(
                f"The model takes images of {side} x {side} pixels and the crops have {size};"
                f" choose a crop size of {side}."
            )


def _turn_output(model: Network, task: QualityTask) -> None:
    """Turn the output of a model that has learned scores of the other direction."""
    learned = None if model.metadata is None else model.metadata.score
    if learned is not None and learned.higher_is_better != task.scale.higher_is_better:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if is_output(name) and parameter.requires_grad:
                    parameter.neg_()


def _save_whole(model: Network, folder: Path, metadata: ModelMetadata) -> None:
    path = folder / MODEL_NAME
    model.metadata = save_model(model, path, metadata=metadata, dtype=torch.float32)


def _card(task: QualityTask, options: TrainingOptions, record: Mapping[str, Any]) -> dict[str, Any]:
    data = "; ".join(
        f"{part.dataset.score_name}, {len(part.train)} training images" for part in task.parts
    )
    start = shown_origin(record["from"], "random weights")
    return {
        "data": data,
        "terms": "those of the data sets, which are not part of the weights",
        "protocol": (
            f"{described_length(options)} of {options.batch_size} crops of {task.crop_size},"
            f" AdamW at {options.learning_rate:g}, {task.loss_function}, from {start},"
            f" seed {options.seed}"
        ),
        "options": options.to_dict(),
    }
