"""The configuration of a MambaIR restoration network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

from qmamba.errors import ConfigError
from qmamba.models.fields import (
    MAX_DEPTH,
    MAX_RATIO,
    MAX_STATES,
    MAX_WIDTH,
    NetworkConfig,
    choice,
    length,
    number,
    whole,
    whole_numbers,
)
from qmamba.nn import CHANNEL_ATTENTION_BLOCKS, GROUP_CONVOLUTIONS

SCALES: dict[str, tuple[int, ...]] = {
    "sr-classic": (2, 3, 4, 8),
    "sr-light": (2, 3, 4, 5, 6, 7, 8),
    "sr-real": (4,),
    "denoise": (1,),
    "jpeg": (1,),
}
"""The tasks, and the factors by which each may enlarge."""

RestorationName = Literal["sr", "denoise", "jpeg"]

_MAX_GROUPS = 64
_ROUTES = 4
_MAX_CONDITIONS = 8


class RestorationConfig(NetworkConfig):
    """What all restoration networks have in their configuration."""

    task: str
    scale: int
    channels: int
    dim: int
    depths: tuple[int, ...]
    state_size: int
    group_convolution: str
    image_range: float
    condition_channels: int

    @property
    def inputs(self) -> int:
        """Channels of what the network is given: those of the image and the conditions."""
        return self.channels + self.condition_channels

    @property
    def task_name(self) -> RestorationName:
        """The task without the kind of its last layers: ``sr``, ``denoise`` or ``jpeg``."""
        return cast(RestorationName, self.task.partition("-")[0])

    @property
    def widest(self) -> int:
        """Channels of the widest map in the body."""
        raise NotImplementedError

    @property
    def held(self) -> int:
        """Channels of all maps that are alive at once in the deepest block, from above."""
        raise NotImplementedError


def require_conditions(config: RestorationConfig) -> None:
    """Raise a :class:`ConfigError` unless the network can have as many conditions."""
    most = _MAX_CONDITIONS if config.scale == 1 else 0
    whole(f"condition_channels for {config.task}", config.condition_channels, 0, most)


@dataclass(frozen=True)
class MambaIRConfig(RestorationConfig):
    """Everything that decides the shapes and the function of a :class:`~qmamba.models.MambaIR`.

    The defaults are the lightweight network for a factor of two.

    Raises:
        ConfigError: a value is outside its range or does not fit the task.

    Source: MambaIR paper and its official configurations.
    """

    architecture: ClassVar[str] = "mambair"

    task: str = "sr-light"
    """What the network is for, which decides its last layers. ``sr-classic``: convolutions between
    pixel shuffles; ``sr-light``: one convolution and one pixel shuffle; ``sr-real``: nearest
    neighbors and convolutions; ``denoise`` and ``jpeg``: a correction is added to the input."""
    scale: int = 2
    """Sides of the output as a multiple of those of the input; 1 where nothing is enlarged."""
    channels: int = 3
    """Channels of the images: 3 for sRGB, 1 for gray."""
    dim: int = 60
    """Channels of the features, at least 4."""
    depths: tuple[int, ...] = (6, 6, 6, 6)
    """Blocks of each residual group; may be given as a list."""
    state_size: int = 10
    """States per channel of the scan."""
    expansion: float = 1.2
    """Inner channels of the scan as a multiple of ``dim``."""
    cab: str = "separable"
    """Kind of the channel attention block, see :class:`~qmamba.nn.ChannelAttentionBlock`:
    ``convolution`` in everything but ``sr-light``, where the generations differ: ``separable`` in
    the current one (October 2024), ``convolution`` in that of March, ``depthwise`` in February."""
    cab_reduction: int = 2
    """Hidden channels of the block are ``dim // cab_reduction``; 1 for ``depthwise``, which has
    none. Officially 2 for ``separable``, 3 for ``convolution`` and 6 in the lightweight one."""
    attention_reduction: int = 30
    """Hidden units of the channel attention are ``dim // attention_reduction``."""
    group_convolution: str = "1conv"
    """End of every residual group: ``1conv``, or ``3conv`` with a bottleneck of ``dim // 4``."""
    image_range: float = 1.0
    """Factor on images in [0, 1] before the network, divided out after it."""
    drop_path: float = 0.0
    """Probability of dropping a scan in training; it grows from 0 to this over the blocks.
    Officially trained with 0.1."""
    condition_channels: int = 0
    """Maps that follow the channels of the image and tell the network about it, such as the
    deviation of the noise at each pixel; at most 8, and only where nothing is enlarged.
    Officially 0."""

    def __post_init__(self) -> None:
        choice("task", self.task, tuple(SCALES))
        choice(f"scale for {self.task}", self.scale, SCALES[self.task])
        choice("channels", self.channels, (1, 3))
        require_conditions(self)
        whole("dim", self.dim, 4, MAX_WIDTH)
        meaning = "one per residual group"
        groups = length("depths", self.depths, _MAX_GROUPS, meaning)
        depths = whole_numbers("depths", self.depths, groups, 1, MAX_DEPTH, meaning)
        object.__setattr__(self, "depths", depths)
        whole("state_size", self.state_size, 1, MAX_STATES)
        choice("cab", self.cab, CHANNEL_ATTENTION_BLOCKS)
        whole("cab_reduction", self.cab_reduction, 1, self.dim)
        whole("attention_reduction", self.attention_reduction, 1, self.dim)
        choice("group_convolution", self.group_convolution, GROUP_CONVOLUTIONS)
        for field, low, high in (
            ("expansion", 0.25, MAX_RATIO),
            ("image_range", 1e-3, 1e6),
            ("drop_path", 0.0, 0.99),
        ):
            object.__setattr__(self, field, number(field, getattr(self, field), low, high))
        if self.cab == "depthwise" and self.cab_reduction != 1:
            raise ConfigError(
                f"The option cab_reduction must be 1 with cab='depthwise', which has no hidden "
                "channels, got "
                f"{self.cab_reduction}."
            )

    @property
    def inner_dim(self) -> int:
        """Channels that are scanned."""
        return int(self.expansion * self.dim)

    @property
    def widest(self) -> int:
        return max(2 * self.inner_dim, _ROUTES * (self.dt_rank + 2 * self.state_size))

    @property
    def held(self) -> int:
        block = 5 * self.dim + 5 * self.inner_dim
        block += _ROUTES * (self.dt_rank + 2 * self.state_size)
        return block + self.dim if self.cab == "convolution" else block

    @property
    def dt_rank(self) -> int:
        """Rank of the step-size projection."""
        return math.ceil(self.dim / 16)
