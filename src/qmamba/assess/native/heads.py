"""Small heads on the statistics of crops at native size, and which crops those are."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

import safetensors.torch
import torch

from qmamba.nn.image_statistics import StatisticsBranch

NATIVE_CROPS = 16
"""Crops at native size that are looked at."""

NATIVE_SIDE = 224
"""Side of these crops in pixels."""


@lru_cache(maxsize=4)
def embedded_head(name: str, device: torch.device | str = "cpu") -> StatisticsBranch:
    """A head that comes with the package, in float32 and frozen; its sigmoid is a severity."""
    file = resources.files("qmamba").joinpath("weights", "heads", f"{name}.safetensors")
    state = {k: v.float() for k, v in safetensors.torch.load(file.read_bytes()).items()}
    outputs, hidden = state["fc2.weight"].shape
    head = StatisticsBranch(hidden, outputs, state["fc1.weight"].shape[1])
    head.load_state_dict(state)
    return head.to(device).eval().requires_grad_(False)
