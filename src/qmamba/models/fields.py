"""What the configurations of all networks share: checked values, copies and JSON."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from qmamba.errors import ConfigError, unknown_name

MAX_DEPTH = 1024
MAX_WIDTH = 65536
MAX_RATIO = 64.0
MAX_STATES = 256

Fields = TypeVar("Fields", bound="NetworkConfig")


@dataclass(frozen=True)
class NetworkConfig:
    """Base of the frozen configurations; sequences may be given as lists and become tuples."""

    architecture: ClassVar[str]
    """The name that weights files have for this kind of network."""

    @property
    def image_size(self) -> int | None:
        """Side of the square images that the network is bound to; None where any size does."""
        return None

    @property
    def outputs(self) -> int | None:
        """Outputs of the head; None where the network makes images."""
        found: int | None = getattr(self, "num_outputs", None)
        return found

    @property
    def blocks(self) -> int:
        """Number of blocks, where the configuration sets it; else 0."""
        return sum(getattr(self, "depths", ()))

    def without(self: Fields, *names: str) -> Fields:
        """A copy in which some fields, where the family has them, have their defaults."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        return self.replace(**{name: defaults[name] for name in names if name in defaults})

    def replace(self: Fields, **overrides: Any) -> Fields:
        """A copy with other values.

        Raises:
            ConfigError: a name is not a field, or a value is not allowed.
        """
        return type(self)(**{**_as_fields(self), **_known(type(self), overrides)})

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values; :meth:`from_dict` is the inverse."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in _as_fields(self).items()
        }

    @classmethod
    def from_dict(cls: type[Fields], values: Mapping[str, Any]) -> Fields:
        """The config that :meth:`to_dict` described; fields that are absent have their defaults.

        Raises:
            ConfigError: ``values`` is no mapping, has an unknown field, or a value is not allowed.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"A model config must be a mapping, got {type(values).__name__}.")
        return cls(**_known(cls, values))


def whole_numbers(
    field: str, values: Any, count: int, low: int, high: int, meaning: str
) -> tuple[int, ...]:
    """``values`` as a tuple of ``count`` integers within the bounds, or a :class:`ConfigError`."""
    if (
        isinstance(values, Sequence)
        and not isinstance(values, str)
        and len(values) == count
        and all(_is_whole(value, low, high) for value in values)
    ):
        return tuple(values)
    raise ConfigError(
        f"{field} must be {count} whole numbers from {low} to {high}, {meaning}, "
        f"got {reprlib.repr(values)}."
    )


def length(field: str, values: Any, most: int, meaning: str) -> int:
    """The number of entries of a sequence of 1 to ``most``, or a :class:`ConfigError`."""
    if isinstance(values, Sequence) and not isinstance(values, str) and 1 <= len(values) <= most:
        return len(values)
    raise ConfigError(
        f"{field} must be 1 to {most} whole numbers, {meaning}, got {reprlib.repr(values)}."
    )


def whole(field: str, value: Any, low: int, high: int) -> None:
    """Raise a :class:`ConfigError` unless ``value`` is an integer within the bounds."""
    if not _is_whole(value, low, high):
        raise ConfigError(
            f"{field} must be a whole number from {low} to {high}, got {reprlib.repr(value)}."
        )


def number(field: str, value: Any, low: float, high: float) -> float:
    """``value`` as a float within the bounds, or a :class:`ConfigError`."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high:
        return float(value)
    raise ConfigError(
        f"{field} must be a number from {low:g} to {high:g}, got {reprlib.repr(value)}."
    )


def choice(field: str, value: Any, allowed: Sequence[str | int]) -> None:
    """Raise a :class:`ConfigError` unless ``value`` is one of a few."""
    if type(value) not in (str, int) or value not in allowed:
        options = " or ".join(repr(option) for option in allowed)
        raise ConfigError(f"{field} must be {options}, got {reprlib.repr(value)}.")


def expansion_of(inner: int, dim: int) -> float:
    """The ratio that takes ``dim`` channels to ``inner``: ``int(ratio * dim) == inner``."""
    ratio = inner / dim
    return ratio if int(ratio * dim) == inner else math.nextafter(ratio, math.inf)


def _as_fields(config: NetworkConfig) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


def _known(kind: type[NetworkConfig], values: Mapping[str, Any]) -> dict[str, Any]:
    fields = [field.name for field in dataclasses.fields(kind)]
    for name in values:
        if name not in fields:
            raise ConfigError(unknown_name("model option", str(name), fields))
    return dict(values)


def _is_whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
