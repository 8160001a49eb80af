"""Starting values shared by the layers, as in VMamba and MambaIR."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from qmamba.nn.layers import Linear

STEP_RANGE = (1e-3, 1e-1)
"""Smallest and largest initial step size of the scan (``dt`` after the softplus)."""


def module_kwargs(dtype: torch.dtype | None = None) -> dict[str, Any]:
    """How a parameter or buffer of a new module is made: as those of ``torch.nn``.

    They follow the defaults of the process and the device of a ``with torch.device(...)`` block;
    all other tensors of the package name their own.

    Args:
        dtype: if it is not the default one.
    """
    return {"dtype": dtype or torch.get_default_dtype(), "device": None}


def linear(in_features: int, out_features: int, bias: bool = True) -> nn.Linear:
    """A linear layer with truncated normal weights of deviation 0.02 and zero bias."""
    layer = Linear(in_features, out_features, bias=bias)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def uniform(*shape: int, bound: float) -> nn.Parameter:
    """A parameter drawn uniformly from ``[-bound, bound]``."""
    return nn.Parameter(torch.empty(*shape, **module_kwargs()).uniform_(-bound, bound))


def step_bias(*shape: int) -> nn.Parameter:
    """A parameter whose softplus is log-uniform over :data:`STEP_RANGE`."""
    if _without_values():
        return nn.Parameter(torch.empty(*shape, **module_kwargs()))
    low, high = (math.log(step) for step in STEP_RANGE)
    step = torch.exp(torch.rand(*shape, **module_kwargs()) * (high - low) + low)
    return nn.Parameter(step + torch.log(-torch.expm1(-step)))


def state_decay(channels: int, state_size: int) -> nn.Parameter:
    """``log(1), ..., log(state_size)`` for every channel, shape ``(channels, state_size)``."""
    if _without_values():
        empty = torch.empty(channels, state_size, **module_kwargs(torch.float32))
        return nn.Parameter(empty)
    rates: Tensor = torch.arange(1, state_size + 1, **module_kwargs(torch.float32)).log()
    return nn.Parameter(rates.repeat(channels, 1))


def _without_values() -> bool:
    """Whether new parameters are on the meta device.

    Arithmetic there imports torch's compiler, which takes longer than loading a network.
    """
    return torch.empty(0, **module_kwargs()).is_meta
