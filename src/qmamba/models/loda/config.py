"""The configuration of a LoDa network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qmamba.errors import ConfigError
from qmamba.models.fields import MAX_WIDTH, NetworkConfig, choice, whole
from qmamba.models.timm.config import BACKBONES

STAGES = (256, 512, 1024, 2048)
"""Channels of the four stages of a ResNet-50."""


@dataclass(frozen=True)
class LoDaConfig(NetworkConfig):
    """Everything that decides a :class:`~qmamba.models.loda.network.LoDa`.

    The defaults are the published network.

    Raises:
        ConfigError: a value is outside its range.

    Source: LoDa (Xu et al., CVPR 2024).
    """

    architecture: ClassVar[str] = "loda"

    transformer: str = "vit-base"
    """The frozen vision transformer, one of ``vit-tiny``, ``vit-small`` and ``vit-base``."""
    width: int = 64
    """Channels of the local features, a multiple of ``heads``."""
    heads: int = 4
    """Heads of the attention between the two."""
    num_outputs: int = 1
    """There is one."""

    def __post_init__(self) -> None:
        choice("transformer", self.transformer, ("vit-tiny", "vit-small", "vit-base"))
        whole("width", self.width, 4, MAX_WIDTH)
        whole("heads", self.heads, 1, self.width)
        choice("num_outputs", self.num_outputs, (1,))
        if self.width % self.heads:
            raise ConfigError(
                f"The option width must be a multiple of {self.heads}, got {self.width}."
            )

    @property
    def dim(self) -> int:
        """Channels of a token of the transformer."""
        return BACKBONES[self.transformer].dim

    @property
    def depth(self) -> int:
        """Blocks of the transformer."""
        return BACKBONES[self.transformer].depths[0]

    @property
    def image_size(self) -> int | None:
        return 224

    @property
    def trainable_parameters(self) -> int:
        """Parameters that learn; the transformer and the ResNet do not."""
        dim, width, depth = self.dim, self.width, self.depth
        convolutions = sum(stage * width + width + 9 * width**2 for stage in STAGES)
        down = dim * width + width + width**2 + width
        attention = 4 * width**2 + width
        up = width * dim + dim + dim**2 + dim
        return convolutions + depth * (down + attention + up + dim) + dim

    @property
    def parameters(self) -> int:
        """All parameters, those that are frozen included."""
        frozen = BACKBONES[self.transformer].parameters + BACKBONES["resnet-50"].parameters
        return self.trainable_parameters + frozen
