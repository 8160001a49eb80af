"""What all networks of this package have in common."""

from __future__ import annotations

from torch import nn

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
