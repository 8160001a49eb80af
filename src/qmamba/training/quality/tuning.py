"""Adapting a trained quality model to other images, with few parameters or with all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qmamba.assess import DEFAULT_WEIGHTS
from qmamba.checkpoints import load, save_tuned
from qmamba.checkpoints.loading import usable_device
from qmamba.datasets import RatedDataset
from qmamba.errors import ConfigError
from qmamba.models import ModelMetadata, Network, QMamba
from qmamba.prompts import TunedQMamba, TuningConfig, attach
from qmamba.training.distributed import process_group
from qmamba.training.loop import TrainingProgress
from qmamba.training.options import TrainingOptions
from qmamba.training.quality.request import RatingRequest, Tell, quality_task, silent
from qmamba.training.quality.run import require_fitting, train_quality
from qmamba.training.quality.task import QualityPart, QualityTask
from qmamba.training.run import TUNED_NAME, require_new_or_resumed, run_folder
from qmamba.training.stream import derived_seed


@dataclass(frozen=True)
class TuningResult:
    """What a run ends with."""

    model: TunedQMamba
    """The tuned model, in evaluation mode."""
    metadata: ModelMetadata | None
    """Of the written file; None where the run was interrupted, and on other ranks."""
    parameters: int
    """Number of trained parameters."""
    step: int
    """Steps done."""
    figures: dict[str, float]
    """Validation figures; empty where none were measured."""
    interrupted: bool
    """Whether a signal ended the run before its last step."""
    signal: int | None = None
    """The number of the signal that this process received, also of one that came too late to
    interrupt the run."""


def tune(
    base: Network,
    task: QualityTask,
    tuning: TuningConfig,
    options: TrainingOptions,
    folder: Path,
    *,
    name: str | None = None,
    card: Mapping[str, Any] | None = None,
    resume: bool = False,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float16,
    report: Callable[[TrainingProgress], None] | None = None,
) -> TuningResult:
    """Train what the tuning frees and write it to ``tuned.safetensors`` in the folder.

    The base is not changed. What is drawn comes from the seed of the options. The other files of
    the folder are those of :func:`qmamba.training.quality.run.train_quality`.

    Args:
        base: the model to adapt, on any device.
        task: rated images; its parts must face the way of the base, see :func:`facing`.
        tuning: what is trained.
        options: schedule and optimizer.
        folder: where checkpoint, log and tuned file go.
        name: name of the tuned model; None makes one of base, data and tuning.
        card: further entries for the model card, as JSON.
        resume: go on from the checkpoint in the folder, if there is one.
        device: where to train.
        dtype: number format of the file.
        report: as for :func:`qmamba.training.train`.

    Raises:
        ConfigError: the base cannot be tuned, or an option is not allowed.
        DataError: the folder belongs to another run, or a file cannot be written.
        TrainingError: the loss is not finite.
    """
    base = require_tunable(base, tuning)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(options.seed, "tuning"))
        model = attach(base, tuning)
    written: list[ModelMetadata] = []

    def save(tuned: Network, index: Path, described: ModelMetadata) -> None:
        assert isinstance(tuned, TunedQMamba)
        written.append(save_tuned(tuned, index / TUNED_NAME, described, dtype=dtype))
        tuned.metadata = written[-1]

    sets = "+".join(part.dataset.name for part in task.parts)
    result = train_quality(
        model,
        task,
        options,
        folder,
        name=name or f"{model.base.name}-{tuning.method}-{sets}",
        card=card,
        decides={"base": dataclasses.asdict(model.base), "tuning": tuning.to_dict()},
        save=save,
        resume=resume,
        device=device,
        report=report,
    )
    return TuningResult(
        model=model.eval(),
        metadata=written[0] if written else None,
        parameters=sum(tensor.numel() for tensor in model.trained_state().values()),
        step=result.step,
        figures=result.figures,
        interrupted=result.interrupted,
        signal=result.signal,
    )


def tune_on_ratings(
    request: RatingRequest,
    folder: str | Path,
    options: TrainingOptions,
    *,
    tuning: TuningConfig,
    base: str | Path | None = None,
    name: str | None = None,
    resume: bool = False,
    device: torch.device | str = "cpu",
    tell: Tell = silent,
    reading: Callable[[int, int, int], None] | None = None,
    report: Callable[[TrainingProgress], None] | None = None,
) -> TuningResult:
    """Adapt a model to rated images, as ``qmamba tune`` does.

    Args:
        request: what it learns from.
        folder: where the run leaves its files; created if missing.
        options: schedule and optimizer.
        tuning: what is trained.
        base: embedded name, path or hub id of the model to adapt; None: the embedded default.
        name, resume, device, tell, reading, report: see
            :func:`~qmamba.training.quality.request.train_on_ratings`.

    Raises:
        ConfigError: the base cannot be tuned, or an option is not allowed.
        DataError: a data set, split or image is not usable, or the folder holds another run.
        CheckpointError: the base cannot be found.
        TrainingError: the loss is not finite.
    """
    folder = Path(folder)
    usable_device(device)
    require_new_or_resumed(folder, resume)
    model = load(DEFAULT_WEIGHTS if base is None else base).requires_grad_(False)
    require_fitting(require_tunable(model, tuning), request.crop_size, request.scored_size)
    with process_group(device), run_folder(folder, resume=resume):
        task = quality_task(
            request,
            options,
            folder,
            resume=resume,
            facing=lambda parts: facing(parts, model, tuning),
            tell=tell,
            reading=reading,
        )
        return tune(
            model,
            task,
            tuning,
            options,
            folder,
            name=name or folder.absolute().name,
            resume=resume,
            device=device,
            report=report,
        )


def require_tunable(base: Network, tuning: TuningConfig) -> QMamba:
    """The base, if it can be tuned in this way.

    Raises:
        ConfigError: it is another kind of model, or there is nothing to train.
    """
    if not isinstance(base, QMamba):
        raise ConfigError(f"A {type(base).__name__} cannot be tuned; give a QMamba or LQMamba.")
    if tuning.method == "none":
        raise ConfigError("The tuning 'none' has nothing to train; score with the base itself.")
    return base


def facing(parts: Sequence[QualityPart], base: Network, tuning: TuningConfig) -> list[QualityPart]:
    """The parts with their scores turned to the direction in which the base rates, if need be.

    The regressor of the base may stay frozen, and prompts cannot be expected to learn that its
    output now means the opposite. Turned scores lie on the same scale, ``low + high - score``.

    Args:
        parts: one data set, or several, which are learned as quality, higher is better.
        base: a model with a score scale; without one higher is better.
        tuning: what will be trained.

    Raises:
        ConfigError: several parts for a frozen regressor whose output falls with quality.
    """
    described = None if base.metadata is None else base.metadata.score
    rising = described is None or described.higher_is_better
    if len(parts) > 1:
        if not rising and not tuning.trains_regressor:
            raise ConfigError(
                "The base rates worse images higher, and several data sets are learned as "
                "quality; train the regressor as well, or tune on one data set."
            )
        return list(parts)
    return [
        part
        if part.dataset.higher_is_better == rising
        else dataclasses.replace(part, dataset=turned(part.dataset))
        for part in parts
    ]


def turned(dataset: RatedDataset) -> RatedDataset:
    """The same images with ``low + high - score`` in the other direction."""
    low, high = dataset.scale
    # Rounding may carry the ends of the scale out of it.
    images = tuple(
        dataclasses.replace(image, mos=min(max(low + high - image.mos, low), high))
        for image in dataset
    )
    return dataclasses.replace(
        dataset,
        images=images,
        higher_is_better=not dataset.higher_is_better,
        score_name=f"{dataset.score_name}, turned",
    )
