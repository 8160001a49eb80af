"""What quality models learn from, as the options of the commands that train and tune them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar, get_type_hints

import typer

from qmamba.cli.common import Progress, shown
from qmamba.cli.grouped_options import with_group
from qmamba.cli.rated_data import (
    DATA_HELP,
    SPLIT_HELP,
    chosen_split,
    for_each,
    parsed_scales,
    read_rated_data,
    split_rules,
)
from qmamba.cli.shared_options import LowerIsBetterOption, RatingScaleOption
from qmamba.errors import ConfigError

if TYPE_CHECKING:
    from qmamba.datasets import RatedDataset, Split
    from qmamba.training.options import TrainingOptions
    from qmamba.training.quality.task import QualityPart, QualityTask

PARAMETER = "data"
"""Name of the parameter of a command that is replaced by the options."""

_GIBIBYTE = 1 << 30
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class QualityArguments:
    """Rated images, how they are divided, and what is done with them, as it was written."""

    data: Annotated[
        list[str], typer.Option("--data", metavar="DATA", help=DATA_HELP, show_default=False)
    ]
    split: Annotated[
        list[str] | None,
        typer.Option(
            "--split",
            metavar="SPLIT",
            help=f"{SPLIT_HELP} none: every image trains.",
            show_default=False,
        ),
    ] = None
    split_seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the split.")] = 0
    train_share: Annotated[
        float, typer.Option(metavar="X", help="Share that trains in a random split.")
    ] = 0.8
    validation_share: Annotated[
        float,
        typer.Option(metavar="X", help="Share of the training part to set aside for validation."),
    ] = 0.0
    loss: Annotated[
        str,
        typer.Option(
            metavar="SUM",
            help="Weighted sum such as smooth_l1+0.5*plcc of smooth_l1, l1, mse, plcc, rank,"
            " fidelity.",
        ),
    ] = "smooth_l1"
    crop_size: Annotated[
        int, typer.Option(min=32, metavar="PIXELS", help="Side of the square training crops.")
    ] = 224
    crops: Annotated[
        int, typer.Option(min=1, metavar="N", help="Crops of a training image in one epoch.")
    ] = 10
    test_crops: Annotated[
        int, typer.Option(min=1, metavar="N", help="Crops of an image that is scored.")
    ] = 10
    test_size: Annotated[
        int | None,
        typer.Option(
            min=32,
            metavar="PIXELS",
            help="Side of the crops of an image that is scored (--crop-size).",
            show_default=False,
        ),
    ] = None
    shorter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PIXELS",
            help="Scale images down to this shorter side first, or none; NAME=... for one data"
            " set of several (384 for koniq10k and spaq, none for others).",
            show_default=False,
        ),
    ] = None
    sampling: Annotated[
        str,
        typer.Option(
            metavar="proportional|balanced",
            help="Whether every image or every data set of a mix comes equally often.",
        ),
    ] = "proportional"
    head_factor: Annotated[
        float, typer.Option(metavar="X", help="Learning rate of the output layer, as a multiple.")
    ] = 1.0
    scale: RatingScaleOption = None
    lower_is_better: LowerIsBetterOption = None
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Leave out images that are missing or unreadable."),
    ] = False
    memory: Annotated[
        float, typer.Option(min=0, metavar="GIB", help="Memory for decoded images, per process.")
    ] = 8.0

    @property
    def scored_size(self) -> int:
        """Side of the crops of an image that is scored, in pixels."""
        return self.crop_size if self.test_size is None else self.test_size


def with_quality_options(command: Callable[..., _Result]) -> Callable[..., _Result]:
    """Give a command one option for each field of :class:`QualityArguments`.

    They take the place of its parameter ``data: QualityArguments``.
    """
    hints = get_type_hints(QualityArguments, include_extras=True)
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(QualityArguments)
    ]
    return with_group(command, PARAMETER, options, lambda given: QualityArguments(**given))


def quality_task(
    arguments: QualityArguments,
    options: TrainingOptions,
    out: Path,
    tell: Callable[[str], None],
    *,
    resume: bool = False,
    facing: Callable[[list[QualityPart]], list[QualityPart]] = lambda parts: parts,
) -> QualityTask:
    """Read the data sets, divide them, and check every image.

    Args:
        arguments: what was written.
        options: schedule of the run, of which some need what others do without.
        out: folder of the run, where the splits are kept.
        tell: takes what the person at the screen should know, one line each.
        resume: divide as the run in the folder has.
        facing: changes the parts before anything is learned from them.

    Raises:
        ConfigError: an option is not allowed.
        DataError: a data set, split or image is not usable.
    """
    from qmamba.assess import CropsPolicy
    from qmamba.training.distributed import is_main
    from qmamba.training.log import require_tensorboard
    from qmamba.training.quality.losses import parse_loss
    from qmamba.training.quality.task import QualityTask, check_options

    check_options(arguments.crop_size, arguments.crops, arguments.sampling, arguments.head_factor)
    if options.tensorboard:
        require_tensorboard()
    loss = parse_loss(arguments.loss)
    policy = CropsPolicy(size=arguments.scored_size, count=arguments.test_crops)
    datasets = read_rated_data(
        arguments.data,
        scales=parsed_scales(arguments.scale or []),
        lower_is_better=arguments.lower_is_better or [],
        skip_bad=arguments.skip_bad,
        keep_missing=arguments.skip_bad,
    )
    for note in (note for dataset in datasets for note in dataset.notes):
        tell(f"note: {shown(note)}")
    parts = facing(_parts(arguments, datasets, out, resume))
    if options.keep == "best" and not any(part.validation for part in parts):
        raise ConfigError("--keep best needs a validation part; give --validation-share.")
    for part in parts:
        used = len(part.train) + len(part.validation)
        tell(
            f"{shown(part.dataset.name)}: {len(part.train)} images train, {len(part.validation)}"
            f" validate, {len(part.dataset) - used} are left alone"
        )
    reading = _Reading() if is_main() else None
    task = QualityTask(
        parts,
        loss=loss,
        policy=policy,
        crop_size=arguments.crop_size,
        crops=arguments.crops,
        sampling=arguments.sampling,  # type: ignore[arg-type]
        head_factor=arguments.head_factor,
        memory=round(arguments.memory * _GIBIBYTE),
        skip_bad=arguments.skip_bad,
        report=reading,
    )
    if reading is not None:
        reading.clear()
    for skipped in task.skipped:
        tell(f"skipped: {shown(skipped)} cannot be read")
    return task


class _Reading:
    """Progress of decoding, in the form that the task reports it."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def __call__(self, done: int, failed: int, total: int) -> None:
        if self._progress is None:
            self._progress = Progress(total)
        self._progress.update(done, failed)

    def clear(self) -> None:
        if self._progress is not None:
            self._progress.clear()


def _parts(
    arguments: QualityArguments, datasets: Sequence[RatedDataset], out: Path, resume: bool
) -> list[QualityPart]:
    from qmamba.training.quality.run import kept_split, splits_path
    from qmamba.training.quality.task import QualityPart

    names = [dataset.name for dataset in datasets]
    sizes = for_each(arguments.shorter or [], names, "paper", "--shorter")
    rules = split_rules(arguments.split or [], datasets)
    parts = []
    for dataset in datasets:
        rule, shorter = rules[dataset.name], _shorter(sizes[dataset.name], dataset.name)
        if rule == "none":
            if arguments.validation_share:
                raise ConfigError("--split none leaves no image for --validation-share.")
            parts.append(QualityPart(dataset, tuple(range(len(dataset))), (), shorter))
            continue
        path = splits_path(out, dataset, datasets)
        split = kept_split(path, dataset, partial(_drawn, arguments, dataset, rule), resume=resume)
        parts.append(QualityPart.of_split(dataset, split, shorter))
    return parts


def _drawn(arguments: QualityArguments, dataset: RatedDataset, rule: str) -> Split:
    from qmamba.training.quality.run import hold_out

    seed, share = arguments.split_seed, arguments.validation_share
    split = chosen_split(dataset, rule, seed=seed, train_share=arguments.train_share)
    return hold_out(dataset, split, share, seed) if share else split


def _shorter(text: str, name: str) -> int | None:
    from qmamba.training.quality.task import PAPER_SHORTER

    if text == "paper":
        return PAPER_SHORTER.get(name)
    if text == "none":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"--shorter takes a number of pixels or none, got {text!r}.")
    return int(text)
