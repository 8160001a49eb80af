"""The options of a training run as options of a command, one for each field of the dataclass."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Annotated, Any, TypeVar

import typer

from qmamba.cli.options.grouped import with_group
from qmamba.errors import ConfigError
from qmamba.training.options import KEEPS, PRECISIONS, SCHEDULES, TrainingOptions

PARAMETER = "options"
"""Name of the parameter of a command that is replaced by the options."""

HELP = {
    "epochs": "Passes over the training examples.",
    "steps": "Updates of the weights, instead of --epochs.",
    "batch_size": "Examples of one step, over all processes together.",
    "learning_rate": "Highest learning rate of AdamW.",
    "schedule": f"Course of the learning rate: {', '.join(SCHEDULES)}.",
    "milestones": "Fractions of the run at which --schedule steps lowers the rate.",
    "milestone_factor": "What it multiplies the rate by there.",
    "warmup": "Fraction of the run in which the rate rises linearly.",
    "weight_decay": "Decay of matrices and kernels.",
    "betas": "Memory of AdamW's two moments.",
    "clip_norm": "Longest gradient; 0 never shortens it.",
    "ema_decay": "Keep a moving average of the weights with this decay.",
    "precision": f"Number format of the forward pass: {', '.join(PRECISIONS)}.",
    "seed": "Seed of the run: order, augmentation and fresh weights.",
    "workers": "Processes that prepare examples; 0 prepares them between the steps.",
    "checkpoint_every": "Steps between two checkpoints.",
    "evaluate_every": "Steps between two evaluations on the validation part (only at the end).",
    "log_every": "Steps between two lines of the log.",
    "keep": f"Weights to keep: {' or '.join(KEEPS)} on the validation part.",
    "tensorboard": "Write the log for TensorBoard too.",
}

_Result = TypeVar("_Result")
_LENGTHS = {"epochs", "steps"}


def with_training_options(
    **defaults: Any,
) -> Callable[[Callable[..., _Result]], Callable[..., _Result]]:
    """A decorator that gives a command one option for each field of `TrainingOptions`.

    They take the place of its parameter ``options: TrainingOptions``. Where a field may be None
    and is by default not, 0 stands for None.

    Args:
        defaults: defaults of this command that differ from those of the dataclass.
    """
    standard = TrainingOptions(**defaults)

    def decorate(command: Callable[..., _Result]) -> Callable[..., _Result]:
        return with_group(
            command, PARAMETER, _parameters(standard), partial(training_options, standard)
        )

    return decorate


def training_options(standard: TrainingOptions, given: dict[str, Any]) -> TrainingOptions:
    """The options from what was written on the command line; None takes the standard.

    Raises:
        ConfigError: a value cannot be read or is not allowed.
    """
    values = standard.to_dict()
    for name, value in given.items():
        if value is None:
            continue
        if isinstance(getattr(standard, name), tuple):
            values[name] = _numbers(name, value)
        else:
            # `--clip-norm 0`: what is on by default needs a word for off.
            off = value == 0 and getattr(standard, name) is not None and name in _OPTIONAL
            values[name] = None if off else value
    lengths = [name for name in sorted(_LENGTHS) if given.get(name) is not None]
    if len(lengths) == 2:
        raise ConfigError("Give --epochs or --steps, not both.")
    if lengths:
        values[next(iter(_LENGTHS - set(lengths)))] = None
    return TrainingOptions(**values)


_KINDS: dict[str, type] = {
    field.name: kind
    for field in fields(TrainingOptions)
    for kind in (bool, int, float, str)
    if field.type in (kind.__name__, f"{kind.__name__} | None")
}
_OPTIONAL = {
    field.name for field in fields(TrainingOptions) if "None" in str(field.type)
} - _LENGTHS


def _parameters(standard: TrainingOptions) -> list[inspect.Parameter]:
    parameters = []
    for field in fields(TrainingOptions):
        value = getattr(standard, field.name)
        flag = field.type == "bool"
        kind: Any = _KINDS.get(field.name, str)
        shown = "" if value is None or flag else f" ({_text(value)})"
        option = typer.Option(
            f"--{field.name.replace('_', '-')}",
            help=HELP[field.name] + shown,
            show_default=False,
            metavar=None if flag else _METAVARS.get(field.name, _METAVARS[kind]),
        )
        annotation: Any = Annotated[bool if flag else kind | None, option]
        parameters.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=value if flag else None,
                annotation=annotation,
            )
        )
    return parameters


_METAVARS: dict[Any, str] = {
    int: "N",
    float: "X",
    str: "TEXT",
    "milestones": "X,X,...",
    "betas": "X,X",
    "schedule": "|".join(SCHEDULES),
    "precision": "|".join(PRECISIONS),
    "keep": "|".join(KEEPS),
}


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(f"{part:.4g}" for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ConfigError(
            f"--{name.replace('_', '-')} takes numbers separated by commas, got {text!r}."
        ) from None
