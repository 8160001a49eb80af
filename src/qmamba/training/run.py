"""One run of training, whatever it learns: its folder, its record, resuming it, and its files.

=====================  ===============================================================
``model.safetensors``  the weights, with what they are for and how they were trained
``options.json``       everything that decided the run
``checkpoint.pt``      where the run stands
``log.jsonl``          loss, learning rate and validation figures by step
=====================  ===============================================================
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PurePath
from typing import Any

import torch

from qmamba import __version__
from qmamba.errors import DataError
from qmamba.files import atomic_write
from qmamba.locks import owned_folder
from qmamba.models import Network
from qmamba.training.checkpoints import CHECKPOINT_NAME, require_regular
from qmamba.training.distributed import barrier, is_main
from qmamba.training.loop import TrainingProgress, TrainingResult, train
from qmamba.training.options import TrainingOptions
from qmamba.training.task import Task

MODEL_NAME = "model.safetensors"
"""Name of the file of weights in the folder of a run."""
TUNED_NAME = "tuned.safetensors"
"""Name of the file of weights in the folder of a run that adapts a model."""
OPTIONS_NAME = "options.json"
"""Name of the record of a run in its folder."""

_FORMAT = 1
_OWNED: ContextVar[Path | None] = ContextVar("owned", default=None)
"""The folder that :func:`run_folder` keeps to this process."""


def run(
    model: Network,
    task: Task,
    options: TrainingOptions,
    folder: Path,
    *,
    name: str,
    record: Mapping[str, Any],
    deciding: Sequence[str],
    save: Callable[[dict[str, Any], TrainingResult], None],
    resume: bool = False,
    device: torch.device | str = "cpu",
    report: Callable[[TrainingProgress], None] | None = None,
) -> TrainingResult:
    """Train in a folder and save the result there with everything that tells how it came about.

    Args:
        model: the network to start from.
        task: what it learns.
        options: schedule and optimizer.
        folder: where the files go; created if missing.
        name: name of the weights.
        record: what decided this kind of run, as JSON; configuration, origin and options of the
            run are added to it.
        deciding: entries of the record that a resumed run must share.
        save: writes the weights; it is called with the whole record once training has finished.
        resume: go on with the run in the folder.
        device: where to train.
        report: see :func:`qmamba.training.train`.

    Returns:
        What :func:`qmamba.training.train` does. An interrupted run has saved nothing.

    Raises:
        DataError: the folder holds another run, is written by another process, or a file cannot
            be written.
        TrainingError: the loss is not finite.
    """
    whole = {**_common(model, options, name), **record, "training": options.to_dict()}
    with run_folder(folder, resume=resume):
        if is_main():
            if resume:
                _refuse_other_run(folder / OPTIONS_NAME, whole, deciding)
            require_regular(folder / OPTIONS_NAME)
            with atomic_write(folder / OPTIONS_NAME, "w") as stream:
                json.dump(whole, stream, indent=1)
                stream.write("\n")
        barrier()
        result = train(model, task, options, folder, resume=resume, device=device, report=report)
        if is_main() and not result.interrupted:
            save(whole, result)
        barrier()
    return result


def require_new_or_resumed(folder: Path, resume: bool) -> None:
    """Refuse a folder in which another run stands, before any work is done.

    Raises:
        DataError: the folder holds a checkpoint and the run is not resumed, or weights without a
            checkpoint.
    """
    # Path.exists raises where a folder may not be looked into.
    if os.path.lexists(folder / CHECKPOINT_NAME):
        if not resume:
            raise DataError(
                f"The folder {str(folder)!r} holds the checkpoint of a run; resume it (--resume) or"
                " give another folder."
            )
        return
    for name in (MODEL_NAME, TUNED_NAME):
        if os.path.lexists(folder / name):
            raise DataError(
                f"The folder {str(folder)!r} holds the weights of a run, {name}, and no checkpoint"
                " to go on from; give another folder."
            )


@contextmanager
def run_folder(folder: Path, *, resume: bool) -> Iterator[None]:
    """Create the folder of a run before its data are read, and keep it to this process.

    It is removed again if it stays empty. Only the first of several processes of one run does
    this; a block inside a block has the folder already.

    Raises:
        DataError: it cannot be created, another process writes it, or as for
            :func:`require_new_or_resumed`.
    """
    if not is_main() or _OWNED.get() == folder:
        yield
        return
    with owned_folder(folder):
        require_new_or_resumed(folder, resume)
        before = _OWNED.set(folder)
        try:
            yield
        finally:
            _OWNED.reset(before)


def read_record(path: Path) -> dict[str, Any]:
    """The record of a run.

    Raises:
        DataError: the file cannot be read or holds something else.
    """
    require_regular(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"The file {str(path)!r} is not the record of a run ({type(error).__name__}); give "
            "another"
            " folder."
        ) from error
    if not isinstance(record, dict):
        raise DataError(
            f"The file {str(path)!r} is not the record of a run (it holds a "
            f"{type(record).__name__});"
            " give another folder."
        )
    return record


def described_length(options: TrainingOptions) -> str:
    """How long a run is, such as ``"20 epochs"``."""
    return f"{options.epochs:g} epochs" if options.epochs else f"{options.steps} steps"


def _common(model: Network, options: TrainingOptions, name: str) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "qmamba": __version__,
        "torch": torch.__version__,
        "name": name,
        "architecture": model.config.architecture,
        "config": model.config.to_dict(),
        "from": _origin(model),
    }


def shown_origin(record: Mapping[str, Any] | None, otherwise: str) -> str:
    """What the card of a run says it started from: a file's own folder and name and no more of its
    path, which is nobody's business, or the name of published weights."""
    if record is None:
        return otherwise
    source = PurePath(str(record["source"]))
    return "/".join(source.parts[1 if source.anchor else 0 :][-2:])


def _origin(model: Network) -> dict[str, Any] | None:
    if model.load_report is None:
        return None
    digest = None if model.metadata is None else model.metadata.sha256
    return {"source": model.load_report.source, "sha256": digest}


def _refuse_other_run(path: Path, record: Mapping[str, Any], keys: Sequence[str]) -> None:
    if not os.path.lexists(path):
        return
    written = read_record(path)
    if missing := [key for key in keys if key not in written]:
        raise DataError(
            f"The file {str(path)!r} is not the record of a run (it has no {', '.join(missing)}); "
            "give"
            " another folder."
        )
    different = [key for key in keys if written[key] != json.loads(json.dumps(record[key]))]
    if different:
        raise DataError(
            f"The run in {str(path.parent)!r} was started with another"
            f" {' and another '.join(different)}, or by another version of qmamba (see"
            f" {path.name} there); resume it as it was started, or give another folder."
        )
