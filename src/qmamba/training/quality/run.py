"""A run that learns to rate images, and what it leaves in its folder.

==================  ==================================================================
``model.safetensors``  the weights with their score scale, policy and model card
``options.json``    everything that decided the run
``splits.json``     which images trained (``splits-NAME.json`` for each set of a mix)
``checkpoint.pt``   where the run stands
``log.jsonl``       loss, learning rate and validation figures by step
==================  ==================================================================
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from qmamba import __version__
from qmamba.checkpoints import save_model
from qmamba.datasets import (
    RatedDataset,
    Split,
    read_splits,
    split_by_content,
    split_by_image,
    write_splits,
)
from qmamba.errors import ConfigError, DataError
from qmamba.files import atomic_write, make_folder
from qmamba.models import ModelMetadata, Network, QMamba, TimmBackbone
from qmamba.training.checkpoints import CHECKPOINT_NAME
from qmamba.training.distributed import barrier, is_main
from qmamba.training.loop import TrainingProgress, TrainingResult, train
from qmamba.training.options import TrainingOptions
from qmamba.training.quality.initial_network import is_output
from qmamba.training.quality.task import QualityTask

MODEL_NAME = "model.safetensors"
OPTIONS_NAME = "options.json"

_FORMAT = 1
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
    record = {**_record(model, task, options, name), **(decides or {})}
    _face(model, task)
    if is_main():
        make_folder(folder)
        if resume:
            _refuse_other_run(folder / OPTIONS_NAME, record, (*_DECIDING, *(decides or {})))
        require_new_or_resumed(folder, resume)
        with atomic_write(folder / OPTIONS_NAME, "w") as stream:
            json.dump(record, stream, indent=1)
            stream.write("\n")
    barrier()
    result = train(model, task, options, folder, resume=resume, device=device, report=report)
    if is_main() and not result.interrupted:
        training = {
            **_card(task, options, record),
            **(card or {}),
            "figures": result.figures,
            "steps": result.step,
        }
        (save or _save_whole)(model, folder, task.metadata(name, training))
    barrier()
    return result


def require_new_or_resumed(folder: Path, resume: bool) -> None:
    """Refuse a folder in which another run stands, before any work is done.

    Raises:
        DataError: the folder holds a checkpoint and the run is not resumed.
    """
    # Path.exists raises where a folder may not be looked into.
    if not resume and os.path.exists(folder / CHECKPOINT_NAME):
        raise DataError(
            f"The folder {str(folder)!r} holds the checkpoint of a run; resume it (--resume) or"
            " give another folder."
        )


@contextmanager
def run_folder(folder: Path) -> Iterator[None]:
    """Create the folder of a run before its data are read; it goes again if it stays empty.

    Raises:
        DataError: it cannot be created.
    """
    is_new = is_main() and not os.path.exists(folder)
    if is_main():
        make_folder(folder)
    try:
        yield
    finally:
        if is_new:
            with suppress(OSError):
                folder.rmdir()


def splits_path(folder: Path, dataset: RatedDataset, datasets: Sequence[RatedDataset]) -> Path:
    """Where a run keeps the split of one of its data sets."""
    if len(datasets) == 1:
        return folder / "splits.json"
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in dataset.name)
    return folder / f"splits-{safe}.json"


def kept_split(
    path: Path, dataset: RatedDataset, split: Callable[[], Split], *, resume: bool
) -> Split:
    """A new split, which is written, or of a resumed run the one that it has written.

    Args:
        path: from :func:`splits_path`.
        dataset: the data set that is divided.
        split: makes the split that is wanted, the same at every call.
        resume: whether the run is resumed.

    Raises:
        DataError: the run that is resumed divides the data set in another way than is wanted.
    """
    made = split()
    if resume and path.exists():
        kept = read_splits(path, dataset)[0]
        if kept != made:
            raise DataError(
                f"the run in {str(path.parent)!r} divides {dataset.name!r} otherwise"
                f" ({_described(kept)}, and now {_described(made)}); resume it as it was started,"
                " or give another folder"
            )
        return kept
    if is_main():
        make_folder(path.parent)
        write_splits(path, dataset, [made])
    return made


def hold_out(dataset: RatedDataset, split: Split, share: float, seed: int) -> Split:
    """The split with a share of its training part set aside for validation.

    It is drawn by content, or by image where the split is.

    Raises:
        ConfigError: the share is not between 0 and 1.
        DataError: the split has a validation part already, or too few contents.
    """
    if not 0 < share < 1:
        raise ConfigError(f"the validation share is {share:g}; give a share between 0 and 1")
    if split.validation:
        raise DataError(
            f"the split of {dataset.name!r} has a validation part already; leave the share out"
        )
    draw = split_by_image if split.rule == "image" else split_by_content
    inner = draw(dataset.take(split.train), seed, 1 - share)
    return replace(
        split,
        train=tuple(split.train[place] for place in inner.train),
        validation=tuple(split.train[place] for place in inner.test),
    )


def require_fitting(model: Network, *sizes: int) -> None:
    """Check that a model gives one score for crops of these sides, in pixels.

    Raises:
        ConfigError: it is no quality model, has several outputs, or takes other views.
    """
    if not isinstance(model, QMamba | TimmBackbone):
        raise ConfigError(f"A {type(model).__name__} gives no scores; choose a quality model.")
    if model.config.num_outputs != 1:
        raise ConfigError(
            f"A quality model has one output and this one {model.config.num_outputs}."
        )
    side = model.config.image_size
    for size in sizes:
        if side is not None and side != size:
            raise ConfigError(
                f"The model takes images of {side} x {side} pixels and the crops have {size};"
                f" choose a crop size of {side}."
            )


def _described(split: Split) -> str:
    drawn = "" if split.seed is None else f" with seed {split.seed}"
    share = "" if split.train_share is None else f", share {split.train_share:g}"
    counts = f"{len(split.train)} train, {len(split.validation)} validate"
    return f"by {split.rule}{drawn}{share}: {counts}"


def _face(model: Network, task: QualityTask) -> None:
    """Turn the output of a model that has learned scores of the other direction."""
    learned = None if model.metadata is None else model.metadata.score
    if learned is not None and learned.higher_is_better != task.scale.higher_is_better:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if is_output(name) and parameter.requires_grad:
                    parameter.neg_()


def _record(
    model: Network, task: QualityTask, options: TrainingOptions, name: str
) -> dict[str, Any]:
    started = None
    if model.load_report is not None:
        digest = None if model.metadata is None else model.metadata.sha256
        started = {"source": model.load_report.source, "sha256": digest}
    return {
        "format": _FORMAT,
        "qmamba": __version__,
        "torch": torch.__version__,
        "name": name,
        "architecture": model.config.architecture,
        "config": model.config.to_dict(),
        "from": started,
        "task": task.description(),
        "training": options.to_dict(),
    }


def _save_whole(model: Network, folder: Path, metadata: ModelMetadata) -> None:
    path = folder / MODEL_NAME
    model.metadata = save_model(model, path, metadata=metadata, dtype=torch.float32)


def _refuse_other_run(path: Path, record: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    if not path.exists():
        return
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        different = [key for key in keys if written[key] != json.loads(json.dumps(record[key]))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{str(path)!r} is not the record of a run ({error}); give another folder"
        ) from error
    if different:
        raise DataError(
            f"the run in {str(path.parent)!r} was started with another"
            f" {' and another '.join(different)}, or by another version of qmamba (see"
            f" {path.name} there); resume it as it was started, or give another folder"
        )


def _card(task: QualityTask, options: TrainingOptions, record: Mapping[str, Any]) -> dict[str, Any]:
    data = "; ".join(
        f"{part.dataset.score_name}, {len(part.train)} training images" for part in task.parts
    )
    start = record["from"]["source"] if record["from"] else "random weights"
    length = f"{options.epochs:g} epochs" if options.epochs else f"{options.steps} steps"
    return {
        "data": data,
        "terms": "those of the data sets, which are not part of the weights",
        "protocol": (
            f"{length} of {options.batch_size} crops of {task.crop_size}, AdamW at"
            f" {options.learning_rate:g}, {task.loss_function}, from {start},"
            f" seed {options.seed}"
        ),
        "options": options.to_dict(),
    }
