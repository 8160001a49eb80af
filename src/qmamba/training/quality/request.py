"""Learning to rate from a few words: data, splits, schedule and folder in one call.

Nothing here imports torch until it runs, because the command line reads its options off
:class:`RatingRequest`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qmamba.errors import ConfigError
from qmamba.training.options import TrainingOptions

if TYPE_CHECKING:
    import torch

    from qmamba.datasets import RatedDataset, Split
    from qmamba.training.loop import TrainingProgress, TrainingResult
    from qmamba.training.quality.task import QualityPart, QualityTask

_GIBIBYTE = 1 << 30

Tell = Callable[[str], None]
"""Takes what the person at the screen should know, one line each."""


def silent(message: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True, kw_only=True)
class RatingRequest:
    """Rated images, how they are divided, and what is learned from them.

    Example:
        >>> RatingRequest(data=["ratings.csv"], validation_share=0.1).split_seed
        0
    """

    data: Sequence[str]
    """``NAME=FOLDER`` for a published data set, ``FILE.csv`` or ``NAME=FILE.csv`` for a list with
    the columns ``path`` and ``mos``."""
    split: Sequence[str] = ()
    """``auto``, ``official``, ``content``, ``image``, a JSON file of splits, or ``none``, with
    which every image trains; ``NAME=...`` for one data set of several."""
    split_seed: int = 0
    """Seed of a random split."""
    train_share: float = 0.8
    """Share of contents or images that train in a random split."""
    validation_share: float = 0.0
    """Share of the training part that is set aside for validation."""
    loss: str = "smooth_l1"
    """Weighted sum such as ``smooth_l1+0.5*plcc``; see
    :func:`~qmamba.training.quality.losses.parse_loss`."""
    crop_size: int = 224
    """Side of the square training crops in pixels."""
    crops: int = 10
    """Crops of a training image in one epoch."""
    usual_crops: Mapping[str, int] = field(default_factory=dict)
    """The same of the images of single data sets by name; others have ``crops``."""
    flips: str = "horizontal"
    """Mirror images that train: ``horizontal``, ``both`` for upside down as well, or ``none``."""
    test_crops: int = 10
    """Crops of an image that is scored."""
    test_size: int | None = None
    """Side of the crops of an image that is scored; None: that of the training crops."""
    shorter: Sequence[str] = ()
    """Shorter side in pixels to which images are scaled down first, or ``none``; ``NAME=...`` for
    one data set of several. By default that of ``usual_shorter``."""
    usual_shorter: Mapping[str, int] | None = None
    """Shorter side by name of data set; others are not scaled. None is what the paper does."""
    sampling: str = "proportional"
    """``proportional``: every image comes equally often; ``balanced``: every data set does."""
    head_factor: float = 1.0
    """Learning rate of the output layer as a multiple of the others'."""
    scales: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Lowest and highest score of a CSV file by name, under ``""`` of all of them."""
    lower_is_better: Sequence[str] = ()
    """Names of CSV files whose low scores are good, ``""`` for all of them."""
    skip_bad: bool = False
    """Leave out images that are missing or unreadable."""
    memory: float = 8.0
    """GiB of decoded images that a process keeps."""

    @property
    def scored_size(self) -> int:
        """Side of the crops of an image that is scored, in pixels."""
        return self.crop_size if self.test_size is None else self.test_size


def train_on_ratings(
    request: RatingRequest,
    folder: str | Path,
    options: TrainingOptions,
    *,
    model: str | None = None,
    weights: str | Path | Sequence[str | Path] | None = None,
    name: str | None = None,
    resume: bool = False,
    device: torch.device | str = "cpu",
    tell: Tell = silent,
    reading: Callable[[int, int, int], None] | None = None,
    report: Callable[[TrainingProgress], None] | None = None,
    **config_overrides: Any,
) -> TrainingResult:
    """Train a quality model on rated images, as ``qmamba train`` does.

    Under torchrun it runs on several processes. A run that was killed goes on with the same call
    and ``resume=True``.

    Args:
        request: what it learns from.
        folder: where the run leaves its files; created if missing.
        options: schedule and optimizer.
        model: name of the architecture; None takes that of the weights.
        weights: embedded name, path or hub id to start from, or several that hold different parts
            of the network; None: fresh weights.
        name: name of the weights; None: that of the folder.
        resume: go on with the run in the folder.
        device: where to train.
        tell: takes notes about the data, one line each.
        reading: called with the number of images read and failed so far, and their total.
        report: see :func:`qmamba.training.train`.
        config_overrides: fields of the model's configuration, such as ``drop_path=0.1``.

    Raises:
        ConfigError: an option is not allowed.
        DataError: a data set, split or image is not usable, or the folder holds another run.
        CheckpointError: the weights cannot be found or do not fit.
        TrainingError: the loss is not finite.
    """
    from qmamba.checkpoints.loading import usable_device
    from qmamba.training.distributed import process_group
    from qmamba.training.quality.initial_network import starting_model
    from qmamba.training.quality.run import require_fitting, train_quality
    from qmamba.training.run import require_new_or_resumed, run_folder

    folder = Path(folder)
    usable_device(device)
    require_new_or_resumed(folder, resume)
    network = starting_model(model, weights, seed=options.seed, **config_overrides)
    require_fitting(network, request.crop_size, request.scored_size)
    with process_group(device), run_folder(folder, resume=resume):
        task = quality_task(request, options, folder, resume=resume, tell=tell, reading=reading)
        return train_quality(
            network,
            task,
            options,
            folder,
            name=name or folder.absolute().name,
            resume=resume,
            device=device,
            report=report,
        )


def quality_task(
    request: RatingRequest,
    options: TrainingOptions,
    folder: Path,
    *,
    resume: bool = False,
    facing: Callable[[list[QualityPart]], list[QualityPart]] = lambda parts: parts,
    tell: Tell = silent,
    reading: Callable[[int, int, int], None] | None = None,
) -> QualityTask:
    """Read the data sets, divide them, and check every image.

    Args:
        request: what is learned from.
        options: schedule of the run, of which some need what others do without.
        folder: of the run, where the splits are kept.
        resume: divide as the run in the folder has.
        facing: changes the parts before anything is learned from them.
        tell: takes notes about the data, one line each.
        reading: called with the number of images read and failed so far, and their total.

    Raises:
        ConfigError: an option is not allowed.
        DataError: a data set, split or image is not usable.
    """
    from qmamba.assess import CropsPolicy
    from qmamba.datasets.selection import read_rated_data
    from qmamba.training.distributed import is_main
    from qmamba.training.log import require_tensorboard
    from qmamba.training.quality.losses import parse_loss
    from qmamba.training.quality.task import QualityTask, check_options

    tell = tell if is_main() else silent
    check_options(
        request.crop_size, request.crops, request.sampling, request.head_factor, request.flips
    )
    if options.tensorboard:
        require_tensorboard()
    loss = parse_loss(request.loss)
    policy = CropsPolicy(size=request.scored_size, count=request.test_crops)
    datasets = read_rated_data(
        request.data,
        scales=request.scales,
        lower_is_better=request.lower_is_better,
        skip_bad=request.skip_bad,
        keep_missing=request.skip_bad,
    )
    for note in (note for dataset in datasets for note in dataset.notes):
        tell(f"note: {note}")
    parts = facing(_parts(request, datasets, folder, resume))
    if options.keep == "best" and not any(part.validation for part in parts):
        raise ConfigError(
            "The option keep='best' needs a validation part; give a validation share."
        )
    for part in parts:
        used = len(part.train) + len(part.validation)
        tell(
            f"{part.dataset.name}: {len(part.train)} images train, {len(part.validation)}"
            f" validate, {len(part.dataset) - used} are left alone"
        )
    task = QualityTask(
        parts,
        loss=loss,
        policy=policy,
        crop_size=request.crop_size,
        crops=request.crops,
        flips=request.flips,
        sampling=request.sampling,  # type: ignore[arg-type]
        head_factor=request.head_factor,
        memory=round(request.memory * _GIBIBYTE),
        skip_bad=request.skip_bad,
        report=reading if is_main() else None,
    )
    for skipped in task.skipped:
        tell(f"skipped: {skipped} cannot be read")
    return task


def _parts(
    request: RatingRequest, datasets: Sequence[RatedDataset], folder: Path, resume: bool
) -> list[QualityPart]:
    from qmamba.datasets.selection import for_each, split_rules
    from qmamba.training.quality.splits import kept_split, splits_path
    from qmamba.training.quality.task import QualityPart

    names = [dataset.name for dataset in datasets]
    sizes = for_each(request.shorter, names, "usual", "The shorter side")
    rules = split_rules(request.split, datasets)
    parts = []
    for dataset in datasets:
        name = dataset.name
        rule, shorter = rules[name], _shorter(sizes[name], name, request.usual_shorter)
        crops = request.usual_crops.get(name)
        if rule == "none":
            if request.validation_share:
                raise ConfigError("The split 'none' leaves no image for a validation share.")
            parts.append(QualityPart(dataset, tuple(range(len(dataset))), (), shorter, crops))
            continue
        path = splits_path(folder, dataset, datasets)
        split = kept_split(path, dataset, partial(_drawn, request, dataset, rule), resume=resume)
        parts.append(QualityPart.of_split(dataset, split, shorter, crops))
    return parts


def _drawn(request: RatingRequest, dataset: RatedDataset, rule: str) -> Split:
    from qmamba.datasets.selection import chosen_split
    from qmamba.training.quality.splits import hold_out

    seed, share = request.split_seed, request.validation_share
    split = chosen_split(dataset, rule, seed=seed, train_share=request.train_share)
    return hold_out(dataset, split, share, seed) if share else split


def _shorter(text: str, name: str, usual: Mapping[str, int] | None) -> int | None:
    from qmamba.training.quality.task import PAPER_SHORTER

    if text == "usual":
        return (PAPER_SHORTER if usual is None else usual).get(name)
    if text == "none":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(
            f"The shorter side is a number of pixels of at least 1, or none, got {text!r}."
        )
    return int(text)
