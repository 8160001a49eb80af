"""One training loop, and what it is used for."""

from qmamba.training.loop import TrainingProgress, TrainingResult, train
from qmamba.training.options import TrainingOptions
from qmamba.training.task import Task

__all__ = ["Task", "TrainingOptions", "TrainingProgress", "TrainingResult", "train"]
