"""Multiply-adds and parameters of a network, from its configuration alone."""

from __future__ import annotations

import torch

from qmamba.errors import ShapeError
from qmamba.models.fields import NetworkConfig
from qmamba.models.flops import FlopReport
from qmamba.models.network import Network
from qmamba.models.registry import architecture_of, build_model


def count_flops(model: Network | NetworkConfig, height: int = 224, width: int = 224) -> FlopReport:
    """Count the multiply-adds of one image of ``height`` x ``width`` pixels.

    The papers of super-resolution count for an output of 720 x 1280; the size here is the input's.

    Raises:
        ShapeError: a side is smaller than 1, or the network is bound to another size.

    Source: tables of the QMamba and MambaIR papers; the rules are fvcore's and VMamba's.
    """
    if height < 1 or width < 1:
        raise ShapeError(f"An image needs sides of at least 1, got {height} x {width}.")
    config = model if isinstance(model, NetworkConfig) else model.config
    return architecture_of(config).flops(config, height, width)


def count_parameters(model: Network | NetworkConfig) -> int:
    """Number of trainable and frozen parameters; a config is built without memory."""
    if isinstance(model, NetworkConfig):
        known = architecture_of(model).parameters(model)
        if known is not None:
            return known
        with torch.device("meta"):
            model = build_model(model)
    return sum(parameter.numel() for parameter in model.parameters())
