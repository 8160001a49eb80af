"""What all networks of this package have in common, and what those that rate images have."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from qmamba.errors import ConfigError
from qmamba.models.fields import NetworkConfig
from qmamba.models.metadata import LoadReport, ModelMetadata


class Network(nn.Module):
    """A module that knows its configuration and where its weights come from."""

    config: NetworkConfig
    """The configuration that it was built from."""
    metadata: ModelMetadata | None = None
    """What the weights were trained for; set by :func:`qmamba.load`."""
    load_report: LoadReport | None = None
    """What was left out or left fresh when the weights were loaded."""
    quantization: Any = None
    """How it is quantized, a :class:`~qmamba.quantization.QuantConfig`; None in full precision."""


class RatingNetwork(Network):
    """A network that takes normalized images to raw scores."""

    @abstractmethod
    def forward_features(self, images: Tensor) -> Tensor:
        """What the head sees: normalized images ``(batch, 3, height, width)`` to
        ``(batch, features)``."""


def require_network(
    model: object, taker: str, loader: str, metadata: ModelMetadata | None = None
) -> ModelMetadata | None:
    """Check what is given as a network, and with it as its metadata, before it is used.

    Args:
        model: what should be a network.
        taker: what takes it, for the message.
        loader: the call that loads weights by their name instead.
        metadata: what should be its metadata; None for those that it has.

    Returns:
        The metadata of the network, if it has any.

    Raises:
        ConfigError: it is something else; the message says how to get a network from it.
    """
    if not isinstance(model, Network):
        raise ConfigError(f"{taker} takes a network, not {_instead(model, loader)}.")
    if metadata is not None and not isinstance(metadata, ModelMetadata):
        raise ConfigError(
            f"The metadata of a network are a ModelMetadata, got {metadata!r:.80}; give options by"
            " their names."
        )
    return metadata or model.metadata


def _instead(model: object, loader: str) -> str:
    """What something else than a network is, and what to do with it."""
    if model is None:
        return f"None; {loader}() loads the embedded weights"
    if isinstance(model, (str, os.PathLike)):
        given = os.fspath(model)
        return f"the name {given!r:.200}; {loader}({given!r:.200}) loads it"
    if isinstance(model, Mapping):
        return "a state dict; create_model makes a network with load_state_dict"
    if isinstance(model, type):
        return f"the class {model.__name__}; create_model makes a network"
    for holder in ("module", "model", "_orig_mod"):
        if isinstance(getattr(model, holder, None), Network):
            return f"a {type(model).__name__}; give its .{holder}"
    return f"a {type(model).__name__}; {loader} loads one, create_model makes one"
