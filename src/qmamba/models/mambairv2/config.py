"""The configuration of a MambaIRv2 restoration network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from qmamba.errors import ConfigError
from qmamba.models.fields import (
    MAX_DEPTH,
    MAX_RATIO,
    MAX_STATES,
    MAX_WIDTH,
    choice,
    length,
    number,
    whole,
    whole_numbers,
)
from qmamba.models.mambair.config import SCALES, RestorationConfig, require_conditions
from qmamba.nn import FEED_FORWARDS, GROUP_CONVOLUTIONS, ROUTINGS

_MAX_GROUPS = 64
_MAX_WINDOW = 64
_MAX_CLASSES = 4096
_MAX_SEED = 2**31 - 1


@dataclass(frozen=True)
class MambaIRv2Config(RestorationConfig):
    """Everything that decides the shapes and the function of a
    :class:`~qmamba.models.mambairv2.network.MambaIRv2`.

    The defaults are the lightweight network for a factor of two.

    Raises:
        ConfigError: a value is outside its range or does not fit the others.

    Source: MambaIRv2 paper (Guo et al., CVPR 2025) and its official configurations.
    """

    architecture: ClassVar[str] = "mambairv2"

    task: str = "sr-light"
    """What the network is for, as in :class:`~qmamba.models.MambaIRConfig`."""
    scale: int = 2
    """Sides of the output as a multiple of those of the input; 1 where nothing is enlarged."""
    channels: int = 3
    """Channels of the images: 3 for sRGB, 1 for gray."""
    dim: int = 48
    """Channels of the features, at least 4 and a multiple of ``heads``."""
    depths: tuple[int, ...] = (5, 5, 5, 5)
    """Blocks of each residual group; may be given as a list."""
    heads: int = 4
    """Heads of the window attention."""
    window: int = 16
    """Side of the windows of the attention, even. Images are padded to multiples of it."""
    state_size: int = 8
    """States per channel of the scan."""
    expansion: float = 1.0
    """Inner channels of the scan, and hidden channels of the feed-forward nets, as a multiple of
    ``dim``."""
    classes: int = 64
    """Classes that the router sorts the pixels into."""
    prompt_rank: int = 32
    """Rank of the prompts of the classes."""
    feed_forward: str = "gated"
    """``gated`` officially in the lightweight networks, ``convolutional`` in all others."""
    group_convolution: str = "1conv"
    """End of every residual group, as in :class:`~qmamba.models.MambaIRConfig`."""
    image_range: float = 1.0
    """Factor on images in [0, 1] before the network, divided out after it."""
    routing: str = "sampled"
    """How a pixel gets its class in evaluation: ``sampled`` with the probabilities of the router
    and a fixed sequence of random numbers, which is what the published weights were trained for,
    or ``argmax``, the most probable class."""
    routing_seed: int = 0
    """Seed of the sequence."""
    condition_channels: int = 0
    """Maps that follow the channels of the image, as in :class:`~qmamba.models.MambaIRConfig`."""

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
        whole("heads", self.heads, 1, self.dim)
        whole("window", self.window, 2, _MAX_WINDOW)
        whole("state_size", self.state_size, 1, MAX_STATES)
        whole("classes", self.classes, 1, _MAX_CLASSES)
        whole("prompt_rank", self.prompt_rank, 1, MAX_WIDTH)
        choice("feed_forward", self.feed_forward, FEED_FORWARDS)
        choice("group_convolution", self.group_convolution, GROUP_CONVOLUTIONS)
        choice("routing", self.routing, ROUTINGS)
        whole("routing_seed", self.routing_seed, 0, _MAX_SEED)
        for field, low, high in (("expansion", 0.5, MAX_RATIO), ("image_range", 1e-3, 1e6)):
            object.__setattr__(self, field, number(field, getattr(self, field), low, high))
        for field, value, divisor in (
            ("dim", self.dim, self.heads),
            ("window", self.window, 2),
            ("expansion * dim", self.inner_dim, 2 if self.feed_forward == "gated" else 1),
        ):
            if value % divisor:
                raise ConfigError(
                    f"The option {field} must be a multiple of {divisor}, got {value}."
                )

    @property
    def inner_dim(self) -> int:
        """Channels that are scanned, and hidden channels of the feed-forward nets."""
        return int(self.expansion * self.dim)

    @property
    def widest(self) -> int:
        projected = self.dt_rank + 2 * self.state_size
        return max(3 * self.dim, 2 * self.inner_dim, projected, self.classes)

    @property
    def held(self) -> int:
        projected = self.dt_rank + 2 * self.state_size
        attention, scan = 12 * self.dim, 4 * self.inner_dim + projected + 2 * self.state_size
        return 3 * self.dim + max(attention, scan)

    @property
    def dt_rank(self) -> int:
        """Rank of the step-size projection."""
        return math.ceil(self.inner_dim / 16)
