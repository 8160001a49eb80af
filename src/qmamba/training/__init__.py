"""One training loop, and what it is used for.

The names are imported on first use, so that the command line can list the options without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qmamba.training.loop import TrainingProgress, TrainingResult, train
    from qmamba.training.options import TrainingOptions
    from qmamba.training.quality.losses import Loss, parse_loss
    from qmamba.training.quality.task import QualityPart, QualityTask
    from qmamba.training.task import Task

__all__ = [
    "Loss",
    "QualityPart",
    "QualityTask",
    "Task",
    "TrainingOptions",
    "TrainingProgress",
    "TrainingResult",
    "parse_loss",
    "train",
]

_HOMES = {
    "Loss": "quality.losses",
    "QualityPart": "quality.task",
    "QualityTask": "quality.task",
    "Task": "task",
    "TrainingOptions": "options",
    "TrainingProgress": "loop",
    "TrainingResult": "loop",
    "parse_loss": "quality.losses",
    "train": "loop",
}


# Hidden from type checkers, for which any name would exist here otherwise.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
