"""A run that learns to restore, and what it leaves in its folder.

=====================  ===============================================================
``model.safetensors``  the weights, with what they undo and how they were trained
``options.json``       everything that decided the run, and which images validated it
``checkpoint.pt``      where the run stands
``log.jsonl``          loss, learning rate and validation figures by step
=====================  ===============================================================
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from qmamba import __version__
from qmamba.checkpoints import save_model
from qmamba.checkpoints.packed_file import save_quantized
from qmamba.errors import ConfigError, DataError
from qmamba.files import atomic_write, make_folder
from qmamba.models import MambaIR, ModelMetadata
from qmamba.quantization import QuantConfig
from qmamba.restore.degradations import Degradation
from qmamba.training.checkpoints import CHECKPOINT_NAME
from qmamba.training.distributed import barrier, is_main
from qmamba.training.loop import TrainingProgress, TrainingResult, train
from qmamba.training.options import TrainingOptions
from qmamba.training.restoration.task import RestorationTask

MODEL_NAME = "model.safetensors"
OPTIONS_NAME = "options.json"

_FORMAT = 1


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
    record: dict[str, Any] = {
        "format": _FORMAT,
        "qmamba": __version__,
        "torch": torch.__version__,
        "name": name,
        "config": model.config.to_dict(),
        "from": _origin(model),
        "quantization": None if quantization is None else quantization.to_dict(),
        "task": task.describe(),
        "validation": task.validation_contents,
        "training": options.to_dict(),
    }
    if is_main():
        make_folder(folder)
        refuse_unfinished(folder, resume)
        if resume:
            _refuse_other_run(folder / OPTIONS_NAME, record)
        with atomic_write(folder / OPTIONS_NAME, "w") as stream:
            json.dump(record, stream, indent=1)
            stream.write("\n")
    barrier()
    result = train(model, task, options, folder, resume=resume, device=device, report=report)
    if is_main() and not result.interrupted:
        training = {
            **task.describe(),
            "protocol": _protocol(options, task, record["from"]),
            **(card or {}),
            "figures": result.figures,
            "steps": result.step,
            "options": options.to_dict(),
        }
        metadata = ModelMetadata(name=name, architecture="mambair", training=training)
        if quantization is None:
            save_model(model, folder / MODEL_NAME, metadata=metadata, dtype=torch.float32)
        else:
            save_quantized(model, folder / MODEL_NAME, metadata)
    barrier()
    return result


def refuse_unfinished(folder: Path, resume: bool) -> None:
    """Refuse a folder in which a run stands that is not to be resumed.

    Raises:
        DataError: that is so.
    """
    if not resume and os.path.exists(folder / CHECKPOINT_NAME):
        raise DataError(
            f"The folder {str(folder)!r} holds the checkpoint of a run; resume it (--resume) or"
            " give another folder."
        )


def require_fitting(model: MambaIR, degradation: Degradation) -> None:
    """Refuse a network that does something else than a task.

    Raises:
        ConfigError: task, scale or channels differ.
    """
    config = model.config
    kind = config.task.split("-")[0]
    if (kind, config.scale, config.channels) != (
        degradation.task,
        degradation.scale,
        degradation.channels,
    ):
        raise ConfigError(
            f"The network is for {config.task} x{config.scale} with {config.channels} channels and"
            f" the task is {degradation} with {degradation.channels}; choose another model."
        )


def _origin(model: MambaIR) -> dict[str, Any] | None:
    if model.load_report is None:
        return None
    digest = None if model.metadata is None else model.metadata.sha256
    return {"source": model.load_report.source, "sha256": digest}


def _refuse_other_run(path: Path, record: Mapping[str, Any]) -> None:
    if not path.exists():
        return
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        different = [
            key
            for key in ("config", "from", "quantization", "task", "validation")
            if written[key] != json.loads(json.dumps(record[key]))
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{str(path)!r} is not the record of a run ({error}); give another folder."
        ) from error
    if different:
        raise DataError(
            f"The run in {str(path.parent)!r} was started with another "
            f"{' and another '.join(different)} (see {path.name} there); resume it as it was"
            " started, or give another folder."
        )


def _protocol(
    options: TrainingOptions, task: RestorationTask, origin: Mapping[str, Any] | None
) -> str:
    length = f"{options.epochs:g} epochs" if options.epochs else f"{options.steps} steps"
    start = "an interpolating start" if origin is None else str(origin["source"])
    return (
        f"{length} of {options.batch_size} crops of {task.options.side}, Adam at"
        f" {options.learning_rate:g} ({options.schedule}), {task.options.loss} loss, from {start},"
        f" seed {options.seed}"
    )
