"""What all networks of this package have in common, and what those that rate images have."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn

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
