"""The record of a family of networks: all that the rest of the package asks about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Size, Tensor

from qmamba.models.fields import NetworkConfig
from qmamba.models.flops import FlopReport
from qmamba.models.network import Network
from qmamba.models.state_dicts import Conversion, Refit


def _built(_: Any) -> None:
    return None


def _never(_: Mapping[str, Tensor]) -> bool:
    return False


@dataclass(frozen=True)
class Architecture:
    """One family of networks.

    A new family is a folder with such a record and one line in
    :data:`~qmamba.models.registry.ARCHITECTURES`.
    """

    config: type[NetworkConfig]
    """Class of its configurations; its ``architecture`` is the name that weights files have for the
    family."""
    build: Callable[[Any], Network]
    """A configuration to a network with fresh weights."""
    models: Mapping[str, NetworkConfig]
    """The named models of the family."""
    flops: Callable[[Any, int, int], FlopReport]
    """Multiply-adds of a configuration for one image of a height and width."""
    recognizes: Callable[[Mapping[str, Tensor]], bool]
    """Whether a foreign state dict is that of such a network."""
    convert: Callable[[Mapping[str, Tensor]], Conversion]
    """A foreign state dict with our keys."""
    infer: Callable[[Mapping[str, Tensor]], NetworkConfig]
    """The configuration with which a converted state dict was made."""
    refit: Callable[[Mapping[str, Tensor], Mapping[str, Size], Any, Any], Refit]
    """What may be dropped and left fresh when a state starts another network: from the state, the
    shapes of the network, the configuration of the state and that of the network."""
    rates: bool
    """Whether the networks take normalized images to raw scores; else they take images in [0, 1] to
    restored images."""
    quantizable: bool = False
    """Whether the layers can be quantized and packed."""
    tensors_per_block: int = 0
    """The least number of tensors of one block, where the configuration sets the number of blocks
    and a file could promise more than it holds; else 0."""
    safetensors: bool = False
    """Whether foreign weights also come as safetensors files."""
    starts: Callable[[Mapping[str, Tensor]], bool] = _never
    """Whether a foreign state dict of another family is a part of such a network, which can start
    from it when it is asked for by name."""
    parameters: Callable[[Any], int | None] = _built
    """Number of parameters where it is known without building the network, else None."""

    @property
    def name(self) -> str:
        """The name that weights files have for the family."""
        return self.config.architecture
