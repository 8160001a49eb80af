"""Everything that a killed run needs to go on as if nothing had happened, in one file."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qmamba.errors import DataError
from qmamba.files import atomic_write
from qmamba.training.options import TrainingOptions

CHECKPOINT_NAME = "checkpoint.pt"

_FREE_OPTIONS = {"workers", "checkpoint_every", "log_every", "tensorboard"}


@dataclass
class TrainingState:
    """Where a run stands between two steps.

    Attributes:
        step: steps done.
        weights: trained parameters and every buffer.
        optimizer: state of the optimizer.
        average: moving average of the weights, if one is kept.
        best: weights with the best validation figure so far, if that is what is kept.
        best_figures: the validation figures of those weights.
        figures: the last validation figures.
        recent: sum of the losses since the last line of the log, and their number.
    """

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    average: dict[str, Tensor] | None = None
    best: dict[str, Tensor] | None = None
    best_figures: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    recent: tuple[float, int] = (0.0, 0)


def trained_values(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that require a gradient, and the buffers: all that training can change."""
    buffers = dict(model.named_buffers())
    return {
        name: value
        for name, value in model.state_dict(keep_vars=True).items()
        if name in buffers or value.requires_grad
    }


def load_values(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Put the values of :func:`trained_values` back."""
    with torch.no_grad():
        for name, target in trained_values(model).items():
            target.copy_(values[name])


def write_checkpoint(
    folder: Path, state: TrainingState, options: TrainingOptions, examples: int
) -> None:
    """Replace the checkpoint of a folder; the old one survives whatever goes wrong.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    content = {**vars(state), "options": options.to_dict(), "examples": examples}
    with atomic_write(folder / CHECKPOINT_NAME, "wb") as stream:
        torch.save(content, stream)


def read_checkpoint(
    folder: Path, model: nn.Module, options: TrainingOptions, examples: int
) -> TrainingState | None:
    """The state in a folder, None where there is none.

    Raises:
        DataError: the file is damaged, or the run that wrote it had other options, other examples
            or another model.
    """
    path = folder / CHECKPOINT_NAME
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        written, count = content.pop("options"), content.pop("examples")
        state = TrainingState(**content)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError) as error:
        raise DataError(
            f"The checkpoint {str(path)!r} cannot be read ({type(error).__name__}); remove the "
            "folder and start the run again."
        ) from error
    _refuse_other_run(path, written, count, options, examples)
    _refuse_other_model(path, state, model)
    return state


def _refuse_other_run(
    path: Path, written: dict[str, Any], count: int, options: TrainingOptions, examples: int
) -> None:
    present = options.to_dict()
    different = [
        f"{name} {written.get(name)!r} instead of {value!r}"
        for name, value in present.items()
        if name not in _FREE_OPTIONS and written.get(name) != value
    ]
    if count != examples:
        different.append(f"{count} training examples instead of {examples}")
    if different:
        raise DataError(
            f"The checkpoint {str(path)!r} belongs to a run with {', '.join(different)}; resume it "
            "as it was started, or give another folder."
        )


def _refuse_other_model(path: Path, state: TrainingState, model: nn.Module) -> None:
    wanted = {name: value.shape for name, value in trained_values(model).items()}
    held = {name: value.shape for name, value in state.weights.items()}
    if wanted != held:
        names = sorted(
            name for name in wanted.keys() | held.keys() if wanted.get(name) != held.get(name)
        )
        raise DataError(
            f"The checkpoint {str(path)!r} belongs to another model: {len(names)} tensors differ, "
            f"the first is {names[0]!r}; give another folder."
        )
