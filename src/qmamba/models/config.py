"""The configuration of a QMamba or LQMamba network."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qmamba.errors import ConfigError
from qmamba.models.names import unknown_name

_MAX_STAGES = 8
_MAX_DEPTH = 1024
_MAX_WIDTH = 65536
_MAX_RATIO = 64.0
_MAX_STATES = 256


@dataclass(frozen=True)
class QMambaConfig:
    """Everything that decides the shapes and the function of a :class:`~qmamba.models.QMamba`.

    ``windows`` all 1 and no ``route_gate`` is QMamba; larger windows with the gate is LQMamba. The
    sequences have one entry per stage and may be given as lists.

    Raises:
        ConfigError: a value is outside its range, or the sequences differ in length.

    Source: QMamba paper; VMamba v2. The paper leaves the window sizes and the drop path open.
    """

    dims: tuple[int, ...] = (96, 192, 384, 768)
    """Channels of each stage, at least 4; the first is even."""
    depths: tuple[int, ...] = (2, 2, 4, 2)
    """Blocks of each stage."""
    windows: tuple[int, ...] = (1, 1, 1, 1)
    """Side of the local scan windows of each stage in pixels of that stage; 1 is the cross scan."""
    route_gate: bool = False
    """Weigh the four scan routes by a channel gate before they are summed."""
    num_outputs: int = 1
    """Outputs of the head; a quality score needs one."""
    state_size: int = 1
    """States per channel of the scan."""
    expansion: float = 2.0
    """Inner channels of the scan as a multiple of the stage's channels."""
    mlp_ratio: float = 4.0
    """Hidden channels of the MLP as a multiple of the stage's channels."""
    drop_path: float = 0.0
    """Probability of dropping a branch in training; it grows from 0 to this over the blocks."""

    def __post_init__(self) -> None:
        stages = _stage_count(self.dims)
        for field, low, high in (
            ("dims", 4, _MAX_WIDTH),
            ("depths", 1, _MAX_DEPTH),
            ("windows", 1, _MAX_WIDTH),
        ):
            values = _whole_numbers(field, getattr(self, field), stages, low, high)
            object.__setattr__(self, field, values)
        if self.dims[0] % 2:
            raise ConfigError(f"dims must start with an even number, got {list(self.dims)}.")
        if not isinstance(self.route_gate, bool):
            raise ConfigError(
                f"route_gate must be true or false, got {reprlib.repr(self.route_gate)}."
            )
        _whole("num_outputs", self.num_outputs, 1, _MAX_WIDTH)
        _whole("state_size", self.state_size, 1, _MAX_STATES)
        for field, low_ratio, high_ratio in (
            ("expansion", 0.25, _MAX_RATIO),
            ("mlp_ratio", 0.25, _MAX_RATIO),
            ("drop_path", 0.0, 0.99),
        ):
            number = _number(field, getattr(self, field), low_ratio, high_ratio)
            object.__setattr__(self, field, number)
        if self.route_gate and min(self.inner_dims) < 8:
            raise ConfigError(
                f"route_gate needs at least 8 inner channels (expansion * dims) in every stage, "
                f"got {list(self.inner_dims)}."
            )

    @property
    def inner_dims(self) -> tuple[int, ...]:
        """Channels that are scanned in each stage."""
        return tuple(int(self.expansion * dim) for dim in self.dims)

    @property
    def dt_ranks(self) -> tuple[int, ...]:
        """Rank of the step-size projection in each stage."""
        return tuple(math.ceil(dim / 16) for dim in self.dims)

    def replace(self, **overrides: Any) -> QMambaConfig:
        """A copy with other values.

        Raises:
            ConfigError: a name is not a field, or a value is not allowed.
        """
        return QMambaConfig(**{**_as_fields(self), **_known(overrides)})

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values; :meth:`from_dict` is the inverse."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in _as_fields(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> QMambaConfig:
        """The config that :meth:`to_dict` described; fields that are absent have their defaults.

        Raises:
            ConfigError: ``values`` is no mapping, has an unknown field, or a value is not allowed.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"A model config must be a mapping, got {type(values).__name__}.")
        return cls(**_known(values))


def _as_fields(config: QMambaConfig) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    fields = [field.name for field in dataclasses.fields(QMambaConfig)]
    for name in values:
        if name not in fields:
            raise ConfigError(unknown_name("model option", str(name), fields))
    return dict(values)


def _stage_count(dims: Any) -> int:
    if isinstance(dims, Sequence) and not isinstance(dims, str) and 1 <= len(dims) <= _MAX_STAGES:
        return len(dims)
    raise ConfigError(
        f"dims must be 1 to {_MAX_STAGES} whole numbers, one per stage, got {reprlib.repr(dims)}."
    )


def _whole_numbers(field: str, values: Any, count: int, low: int, high: int) -> tuple[int, ...]:
    if (
        isinstance(values, Sequence)
        and not isinstance(values, str)
        and len(values) == count
        and all(_is_whole(value, low, high) for value in values)
    ):
        return tuple(values)
    raise ConfigError(
        f"{field} must be {count} whole numbers from {low} to {high}, one per stage as in dims, "
        f"got {reprlib.repr(values)}."
    )


def _whole(field: str, value: Any, low: int, high: int) -> None:
    if not _is_whole(value, low, high):
        raise ConfigError(
            f"{field} must be a whole number from {low} to {high}, got {reprlib.repr(value)}."
        )


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _number(field: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high:
        return float(value)
    raise ConfigError(
        f"{field} must be a number from {low:g} to {high:g}, got {reprlib.repr(value)}."
    )
