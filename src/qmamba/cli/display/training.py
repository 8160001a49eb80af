"""What a training run shows: where it is, when it ends, and what the validation says."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import typer

from qmamba.cli.common import counted, exit_code_of, say, shown, write

if TYPE_CHECKING:
    from qmamba.training import TrainingProgress, TrainingResult
    from qmamba.training.quality.tuning import TuningResult


class TrainingDisplay:
    """A `report` for :func:`qmamba.training.train`: a line that redraws itself on a terminal.

    Elsewhere each report is a line of its own. Validation figures always stay on the screen.

    Args:
        stream: where it is drawn.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._on_terminal = self._stream.isatty()
        self._length = 0

    def begin(self, folder: Path, *, resume: bool) -> None:
        """Say where a run is to go on and nothing is there to go on from."""
        from qmamba.training.checkpoints import CHECKPOINT_NAME

        if resume and not os.path.lexists(folder / CHECKPOINT_NAME):
            _told()(f"nothing to go on from: {shown(str(folder))} has no {CHECKPOINT_NAME}")

    def __call__(self, progress: TrainingProgress) -> None:
        """Show a report."""
        if progress.figures is not None:
            self.clear()
            figures = ", ".join(f"{name} {value:.4f}" for name, value in progress.figures.items())
            write(f"step {progress.step}/{progress.steps}: {figures}\n", self._stream)
        elif self._on_terminal:
            line = _line(progress)
            write("\r" + line.ljust(self._length), self._stream)
            self._length = len(line)
        else:
            write(_line(progress) + "\n", self._stream)

    def clear(self) -> None:
        """Take the line off the terminal, so that other text can be written there."""
        if self._length:
            write("\r" + " " * self._length + "\r", self._stream)
            self._length = 0

    def finish(self, result: TrainingResult | TuningResult, written: str) -> None:
        """Say how a run ended, on one of its processes alone.

        Args:
            result: of the run.
            written: what it has written and where.

        Raises:
            Exit: the run was interrupted.
        """
        self.clear()
        told = _told()
        if result.interrupted:
            told(f"stopped after step {result.step}; the same command with --resume goes on")
            raise typer.Exit(exit_code_of(result.signal))
        told(f"{counted(result.step, 'step')} done, {written}")


def _told() -> Callable[[str], None]:
    return say if os.environ.get("RANK", "0") == "0" else _nothing


def _nothing(message: str) -> None:
    """Other processes of the run are silent."""


def duration(seconds: float) -> str:
    """Hours, minutes and seconds as ``1:02:03`` or ``2:03``."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    clock = f"{rest // 60:02d}:{rest % 60:02d}"
    return f"{hours}:{clock}" if hours else clock.removeprefix("0")


def _line(progress: TrainingProgress) -> str:
    parts = [f"step {progress.step}/{progress.steps}"]
    if not math.isnan(progress.loss):
        parts.append(f"loss {progress.loss:.4f}")
    parts += [f"rate {progress.learning_rate:.2g}", f"{duration(progress.seconds_left)} left"]
    return ", ".join(parts)
