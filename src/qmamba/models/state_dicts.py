"""State dicts on their way from a file into a network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from qmamba.errors import CheckpointError, ConfigError

ROOT_KEYS = ("model", "params_ema", "params")
"""Where checkpoints of VMamba and of MambaIR keep their state dict, in order of preference: of a
file with the trained weights and their moving average, the average counts."""


_PARTS = ("learner", "bn_buffer")
"""How a checkpoint of LoDa is divided; keys get the name of their part in front."""


@dataclass(frozen=True)
class Conversion:
    """A state dict with our keys, and what was changed on the way."""

    layout: str
    """What the file was, as in :class:`~qmamba.models.LoadReport`."""
    state: dict[str, Tensor]
    dropped: tuple[str, ...] = ()
    converted: tuple[str, ...] = ()


class Refit(NamedTuple):
    """Keys that may go or come when a state starts a network that is not quite its own."""

    dropped: set[str]
    """Tensors of the state that the network does without."""
    fresh: set[str]
    """Tensors of the network that keep their initial values."""


def find_state_dict(content: Any) -> dict[str, Tensor]:
    """The tensors of an unpickled checkpoint: the file itself or under one of :data:`ROOT_KEYS`.

    Raises:
        CheckpointError: there are none.
    """
    if isinstance(content, Mapping) and all(
        isinstance(content.get(part), Mapping) for part in _PARTS
    ):
        content = {
            f"{part}.{key}": value for part in _PARTS for key, value in content[part].items()
        }
    if isinstance(content, Mapping):
        root = next((key for key in ROOT_KEYS if isinstance(content.get(key), Mapping)), None)
        content = content if root is None else content[root]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    ):
        raise CheckpointError(
            "The checkpoint holds no state dict; expected tensors by name, directly or under one "
            f"of the keys {', '.join(repr(key) for key in ROOT_KEYS)}."
        )
    return dict(content)


def size_of(state: Mapping[str, Tensor], key: str, axis: int) -> int:
    """One side of a tensor, or a :class:`ConfigError` where it is absent."""
    if key not in state or state[key].dim() <= axis:
        raise ConfigError(f"{key} is absent or has no axis {axis}.")
    return int(state[key].shape[axis])


def block_counts(state: Mapping[str, Tensor], pattern: re.Pattern[str]) -> tuple[int, ...]:
    """Blocks of each stage that the keys speak of; empty where they speak of none.

    Args:
        state: tensors by name.
        pattern: matches the start of a block's keys; its groups are the stage and the block.

    Raises:
        ConfigError: there are fewer tensors than blocks.
    """
    counts: dict[int, int] = {}
    for key in state:
        block = pattern.match(key)
        if block:
            stage = int(block[1])
            counts[stage] = max(counts.get(stage, 0), int(block[2]) + 1)
    depths = tuple(counts.get(stage, 0) for stage in range(max(counts, default=-1) + 1))
    if sum(depths) > len(state):
        raise ConfigError(f"the keys speak of {sum(depths)} blocks in {len(state)} tensors.")
    return depths
