"""What quality models learn from, as the options of the commands that train and tune them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Annotated, Any, TypeVar

import typer

from qmamba.cli.common import Progress, say, shown
from qmamba.cli.options.grouped import with_group
from qmamba.cli.options.shared import DATA_HELP, SPLIT_HELP, LowerIsBetterOption, RatingScaleOption
from qmamba.training.quality.request import RatingRequest

PARAMETER = "request"
"""Name of the parameter of a command that is replaced by the options."""

OPTIONS: dict[str, Any] = {
    "data": Annotated[
        list[str], typer.Option("--data", metavar="DATA", help=DATA_HELP, show_default=False)
    ],
    "split": Annotated[
        list[str] | None,
        typer.Option(
            "--split",
            metavar="SPLIT",
            help=f"{SPLIT_HELP} none: every image trains.",
            show_default=False,
        ),
    ],
    "split_seed": Annotated[int, typer.Option(min=0, metavar="N", help="Seed of the split.")],
    "train_share": Annotated[
        float, typer.Option(metavar="X", help="Share that trains in a random split.")
    ],
    "validation_share": Annotated[
        float,
        typer.Option(metavar="X", help="Share of the training part to set aside for validation."),
    ],
    "loss": Annotated[
        str,
        typer.Option(
            metavar="SUM",
            help="Weighted sum such as smooth_l1+0.5*plcc of smooth_l1, l1, mse, plcc, r2, rank,"
            " fidelity.",
        ),
    ],
    "crop_size": Annotated[
        int, typer.Option(min=32, metavar="PIXELS", help="Side of the square training crops.")
    ],
    "crops": Annotated[
        int, typer.Option(min=1, metavar="N", help="Crops of a training image in one epoch.")
    ],
    "flips": Annotated[
        str,
        typer.Option(
            metavar="horizontal|both|none",
            help="Mirror images that train as well; both: also upside down.",
        ),
    ],
    "test_crops": Annotated[
        int, typer.Option(min=1, metavar="N", help="Crops of an image that is scored.")
    ],
    "test_size": Annotated[
        int | None,
        typer.Option(
            min=32,
            metavar="PIXELS",
            help="Side of the crops of an image that is scored (--crop-size).",
            show_default=False,
        ),
    ],
    "shorter": Annotated[
        list[str] | None,
        typer.Option(
            metavar="PIXELS",
            help="Scale images down to this shorter side first, or none; NAME=... for one data"
            " set of several (384 for koniq10k and spaq, none for others).",
            show_default=False,
        ),
    ],
    "sampling": Annotated[
        str,
        typer.Option(
            metavar="proportional|balanced",
            help="Whether every image or every data set of a mix comes equally often.",
        ),
    ],
    "head_factor": Annotated[
        float, typer.Option(metavar="X", help="Learning rate of the output layer, as a multiple.")
    ],
    "scales": RatingScaleOption,
    "lower_is_better": LowerIsBetterOption,
    "skip_bad": Annotated[
        bool,
        typer.Option("--skip-bad", help="Leave out images that are missing or unreadable."),
    ],
    "memory": Annotated[
        float, typer.Option(min=0, metavar="GIB", help="Memory for decoded images, per process.")
    ],
}
"""What typer has to know of each field of :class:`RatingRequest` that is an option."""

_NAMES = {"scales": "scale"}
_Result = TypeVar("_Result")


def with_rating_options(command: Callable[..., _Result]) -> Callable[..., _Result]:
    """Give a command the options of :data:`OPTIONS`.

    They take the place of its parameter ``request: RatingRequest``.
    """
    options = []
    for field in fields(RatingRequest):
        if field.name not in OPTIONS:
            continue
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        if field.default_factory is not MISSING or default == ():
            default = None
        options.append(
            inspect.Parameter(
                _NAMES.get(field.name, field.name),
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=OPTIONS[field.name],
            )
        )
    return with_group(command, PARAMETER, options, _request)


def _request(given: dict[str, Any]) -> RatingRequest:
    from qmamba.datasets.selection import parsed_scales

    scales = parsed_scales(given.pop("scale") or [])
    values = {name: () if value is None else value for name, value in given.items()}
    return RatingRequest(**{**values, "test_size": given["test_size"]}, scales=scales)


def tell(message: str) -> None:
    """A note about data, whose names may come from anywhere."""
    say(shown(message))


class Reading:
    """Progress of decoding, in the form that a task reports it."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def __call__(self, done: int, failed: int, total: int) -> None:
        if self._progress is None:
            self._progress = Progress(total)
        self._progress.update(done, failed)
        if done + failed >= total:
            self._progress.clear()
