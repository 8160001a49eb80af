"""The record of a run: one JSON object a line, and TensorBoard's files where they are wanted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qmamba.errors import ConfigError, DataError
from qmamba.files import atomic_write
from qmamba.training.checkpoints import require_regular

LOG_NAME = "log.jsonl"


class TrainingLog:
    """Appends to ``log.jsonl`` in a folder.

    Args:
        folder: where the file lies.
        step: steps done so far; later lines, of a run that was killed, are dropped.
        tensorboard: write event files beside it.

    Raises:
        ConfigError: TensorBoard is wanted and not installed.
    """

    def __init__(self, folder: Path, step: int, tensorboard: bool) -> None:
        self._path = folder / LOG_NAME
        require_regular(self._path)
        kept = [line for line in self._lines() if line["step"] <= step]
        with atomic_write(self._path, "w") as stream:
            stream.writelines(json.dumps(line) + "\n" for line in kept)
        self._board = _event_writer(folder, step) if tensorboard else None

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Add a line and flush it.

        Raises:
            DataError: the disk is full, or the folder is gone.
        """
        try:
            with open(self._path, "a", encoding="utf-8") as stream:
                stream.write(json.dumps({"step": step, **values}) + "\n")
        except OSError as error:
            raise DataError(
                f"Cannot write {str(self._path)!r}: {error.strerror}; the last checkpoint stays."
            ) from error
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
            self._board.flush()

    def close(self) -> None:
        """Finish the event files."""
        if self._board is not None:
            self._board.close()

    def _lines(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        try:
            texts = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"The log {str(self._path)!r} is not the text of a run ({type(error).__name__}); "
                "remove it or give another folder."
            ) from error
        found = []
        for text in texts:
            try:
                found.append(json.loads(text))
            except (ValueError, RecursionError):
                # A line that the kill cut short.
                continue
        return [
            line
            for line in found
            if isinstance(line, dict) and isinstance(line.get("step"), int | float)
        ]


def require_tensorboard() -> Any:
    """TensorBoard's class of event files.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "TensorBoard is not installed; run `pip install tensorboard` or leave the option out."
        ) from error
    return SummaryWriter


def _event_writer(folder: Path, step: int) -> Any:
    return require_tensorboard()(str(folder / "tensorboard"), purge_step=step + 1)
