"""The configuration of a QMamba or LQMamba network."""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass
from typing import ClassVar

from qmamba.errors import ConfigError
from qmamba.models.fields import (
    MAX_DEPTH,
    MAX_RATIO,
    MAX_STATES,
    MAX_WIDTH,
    NetworkConfig,
    length,
    number,
    whole,
    whole_numbers,
)
from qmamba.nn.image_statistics import STATISTICS

_MAX_STAGES = 8


@dataclass(frozen=True)
class QMambaConfig(NetworkConfig):
    """Everything that decides the shapes and the function of a :class:`~qmamba.models.QMamba`.

    ``windows`` all 1 and no ``route_gate`` is QMamba; larger windows with the gate is LQMamba. The
    sequences have one entry per stage and may be given as lists.

    Raises:
        ConfigError: a value is outside its range, or the sequences differ in length.

    Source: QMamba paper; VMamba v2. The paper leaves the window sizes and the drop path open.
    """

    architecture: ClassVar[str] = "qmamba"

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
    statistics: int = 0
    """Hidden width of a branch that adds what :mod:`qmamba.nn.image_statistics` says to the
    outputs; 0 for none, as in the paper."""
    statistics_inputs: int = 50
    """How many of the image statistics the branch takes, the first ones; 50 is the number of files
    that do not say it."""

    def __post_init__(self) -> None:
        stages = length("dims", self.dims, _MAX_STAGES, "one per stage")
        for field, low, high in (
            ("dims", 4, MAX_WIDTH),
            ("depths", 1, MAX_DEPTH),
            ("windows", 1, MAX_WIDTH),
        ):
            values = whole_numbers(
                field, getattr(self, field), stages, low, high, "one per stage as in dims"
            )
            object.__setattr__(self, field, values)
        if self.dims[0] % 2:
            raise ConfigError(
                f"The option dims must start with an even number, got {list(self.dims)}."
            )
        if not isinstance(self.route_gate, bool):
            raise ConfigError(
                f"The option route_gate must be true or false, got {reprlib.repr(self.route_gate)}."
            )
        whole("num_outputs", self.num_outputs, 1, MAX_WIDTH)
        whole("state_size", self.state_size, 1, MAX_STATES)
        whole("statistics", self.statistics, 0, MAX_WIDTH)
        whole("statistics_inputs", self.statistics_inputs, 1, STATISTICS)
        for field, low_ratio, high_ratio in (
            ("expansion", 0.25, MAX_RATIO),
            ("mlp_ratio", 0.25, MAX_RATIO),
            ("drop_path", 0.0, 0.99),
        ):
            ratio = number(field, getattr(self, field), low_ratio, high_ratio)
            object.__setattr__(self, field, ratio)
        if self.route_gate and min(self.inner_dims) < 8:
            raise ConfigError(
                f"The option route_gate needs at least 8 inner channels (expansion * dims) in "
                "every stage, "
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
