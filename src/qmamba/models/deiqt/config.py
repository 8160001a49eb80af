"""The configuration of a DEIQT network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qmamba.errors import ConfigError
from qmamba.models.fields import MAX_DEPTH, MAX_WIDTH, NetworkConfig, choice, whole

_MAX_QUERIES = 256


@dataclass(frozen=True)
class DEIQTConfig(NetworkConfig):
    """Everything that decides a :class:`~qmamba.models.deiqt.network.DEIQT`.

    The defaults are the published network.

    Raises:
        ConfigError: a value is outside its range.

    Source: DEIQT (Qin et al., AAAI 2023).
    """

    architecture: ClassVar[str] = "deiqt"

    dim: int = 384
    """Channels of a token, a multiple of ``heads``."""
    depth: int = 12
    """Blocks of the encoder."""
    heads: int = 6
    """Heads of every attention."""
    queries: int = 6
    """Learned queries of the decoder, whose scores are averaged."""
    side: int = 224
    """Side of the images in pixels, a multiple of 16."""
    num_outputs: int = 1
    """There is one."""

    def __post_init__(self) -> None:
        whole("dim", self.dim, 4, MAX_WIDTH)
        whole("depth", self.depth, 1, MAX_DEPTH)
        whole("heads", self.heads, 1, self.dim)
        whole("queries", self.queries, 1, _MAX_QUERIES)
        whole("side", self.side, PATCH, MAX_WIDTH)
        choice("num_outputs", self.num_outputs, (1,))
        for field, value, divisor in (("dim", self.dim, self.heads), ("side", self.side, PATCH)):
            if value % divisor:
                raise ConfigError(
                    f"The option {field} must be a multiple of {divisor}, got {value}."
                )

    @property
    def image_size(self) -> int | None:
        return self.side

    @property
    def blocks(self) -> int:
        return self.depth

    @property
    def patches(self) -> int:
        """Tokens without the class token."""
        return (self.side // PATCH) ** 2


PATCH = 16
"""Side of a patch in pixels."""
