"""Everything that a killed run needs to go on as if nothing had happened, in one file."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor, nn

from qmamba.errors import DataError
from qmamba.files import atomic_write
from qmamba.training.options import TrainingOptions

CHECKPOINT_NAME = "checkpoint.pt"

_FREE_OPTIONS = {"workers", "checkpoint_every", "log_every", "tensorboard"}
_GROUP_KEYS = ("params", "factor", "weight_decay", "betas", "eps", "amsgrad", "maximize")


@dataclass
class TrainingState:
    """Where a run stands between two steps."""

    step: int
    """Steps done."""
    weights: dict[str, Tensor]
    """Trained parameters and every buffer."""
    optimizer: dict[str, Any]
    """State of the optimizer."""
    average: dict[str, Tensor] | None = None
    """Moving average of the weights, if one is kept."""
    best: dict[str, Tensor] | None = None
    """Weights with the best validation figure so far, if that is what is kept."""
    best_figures: dict[str, float] = field(default_factory=dict)
    """The validation figures of those weights."""
    figures: dict[str, float] = field(default_factory=dict)
    """The last validation figures."""
    recent: tuple[float, int] = (0.0, 0)
    """Sum of the losses since the last line of the log, and their number."""


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
        watched = _Watched(stream)
        try:
            torch.save(content, cast("BinaryIO", watched))
        except RuntimeError:
            # torch's writer reports a full disk as an unexpected position in the file.
            if watched.error is not None:
                raise watched.error from None
            raise


class _Watched:
    """A stream that remembers the error of the system that a writer hides."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._stream.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._stream.flush()


def read_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    options: TrainingOptions,
    examples: int,
) -> TrainingState | None:
    """The state in a folder, None where there is none. Everything in it is checked.

    Args:
        folder: of the run.
        model: that goes on; it is not changed.
        optimizer: of the model; it is not changed.
        options: of the run that goes on.
        examples: training examples of the run that goes on.

    Raises:
        DataError: the file is damaged, or the run that wrote it had other options, other examples
            or another model.
    """
    path = folder / CHECKPOINT_NAME
    if not os.path.lexists(path):
        return None
    content = read_content(path)
    _refuse_other_run(path, content, options, examples)
    state = TrainingState(
        **{name: content[name] for name in _FIELDS if name not in ("options", "examples")}
    )
    _refuse_other_model(path, state, model)
    _refuse_other_optimizer(path, state.optimizer, optimizer)
    return state


def read_content(path: Path) -> dict[str, Any]:
    """All fields of a checkpoint, each of the right type and all numbers finite.

    Raises:
        DataError: the file is damaged.
    """
    require_regular(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # Whatever a malformed file provokes, it is a malformed file.
        raise _damaged(path, f"it cannot be read, {type(error).__name__}") from error
    if not isinstance(content, dict):
        raise _damaged(path, f"it holds a {type(content).__name__} and no fields")
    for name, is_right in _FIELDS.items():
        if name not in content:
            raise _damaged(path, f"it has no field {name!r}")
        if not is_right(content[name]):
            raise _damaged(path, f"its field {name!r} is not what a run writes there")
    if unknown := sorted(map(repr, content.keys() - _FIELDS.keys())):
        raise _damaged(path, f"it has a field {unknown[0][:40]} that no run writes")
    return content


def require_regular(path: Path) -> None:
    """Refuse a folder, a link or a device in the place of a file of a run.

    Raises:
        DataError: something of that name is there and is no regular file.
    """
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "device"
        raise DataError(
            f"The path {str(path)!r} is a {kind}, where a run keeps a file; give another folder."
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_figures(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and _is_number(figure) for name, figure in value.items()
    )


def _is_sound(tensor: Any) -> bool:
    return (
        isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()
        and bool(torch.isfinite(tensor).all())
    )


def _are_tensors(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(name, str) and _is_sound(tensor) for name, tensor in value.items()
    )


def _is_sum(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and _is_number(value[0])
        and math.isfinite(value[0])
        and _is_count(value[1])
    )


_FIELDS = {
    "step": _is_count,
    "weights": _are_tensors,
    "optimizer": lambda value: isinstance(value, dict),
    "average": lambda value: value is None or _are_tensors(value),
    "best": lambda value: value is None or _are_tensors(value),
    "best_figures": _are_figures,
    "figures": _are_figures,
    "recent": _is_sum,
    "options": lambda value: isinstance(value, dict),
    "examples": _is_count,
}
assert {f.name for f in dataclasses.fields(TrainingState)} <= _FIELDS.keys()


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        f"The checkpoint {str(path)!r} is damaged: {reason}; remove the folder and start the run "
        "again."
    )


def _refuse_other_run(
    path: Path, content: Mapping[str, Any], options: TrainingOptions, examples: int
) -> None:
    written, count = content["options"], content["examples"]
    different = [
        f"{name} {written.get(name)!r} instead of {value!r}"
        for name, value in options.to_dict().items()
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
    wanted = {name: (value.shape, value.dtype) for name, value in trained_values(model).items()}
    parameters = {name for name, value in model.named_parameters() if value.requires_grad}
    averaged = {name: value for name, value in wanted.items() if name in parameters}
    for field_name, expected in (("weights", wanted), ("best", wanted), ("average", averaged)):
        values: dict[str, Tensor] | None = getattr(state, field_name)
        if values is None:
            continue
        held = {name: (value.shape, value.dtype) for name, value in values.items()}
        names = sorted(
            name for name in expected.keys() | held.keys() if expected.get(name) != held.get(name)
        )
        if names:
            raise DataError(
                f"The checkpoint {str(path)!r} belongs to another model: {len(names)} tensors of "
                f"its {field_name} differ, the first is {names[0][:200]!r}; give another folder."
            )


def _refuse_other_optimizer(
    path: Path, written: Mapping[str, Any], optimizer: torch.optim.Optimizer
) -> None:
    present = optimizer.state_dict()
    groups, states = written.get("param_groups"), written.get("state")
    if not isinstance(groups, list) or not isinstance(states, dict):
        raise _damaged(path, "its optimizer has no groups or no state")
    # The learning rate follows the schedule and is set at every step.
    fixed = [[group[key] for key in _GROUP_KEYS] for group in present["param_groups"]]
    found = [
        [group.get(key) for key in _GROUP_KEYS] if isinstance(group, dict) else None
        for group in groups
    ]
    if found != fixed:
        raise DataError(
            f"The checkpoint {str(path)!r} was written with other groups of parameters in the "
            "optimizer; resume it as it was started, or give another folder."
        )
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, state in states.items():
        if not _is_count(index) or index >= len(parameters) or not isinstance(state, dict):
            raise _damaged(path, "its optimizer speaks of parameters that there are not")
        shape = parameters[index].shape
        moments = all(
            _is_sound(state.get(name)) and state[name].shape == shape
            for name in ("exp_avg", "exp_avg_sq")
        )
        if not moments or not _is_sound(state.get("step")) or state["step"].numel() != 1:
            raise _damaged(path, "the moments of its optimizer do not fit the model")
