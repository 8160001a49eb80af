"""A small base with tunings of every kind."""

from __future__ import annotations

import torch
from torch import Tensor

from qmamba.models import ModelMetadata, QMamba, QMambaConfig
from qmamba.prompts import TunedQMamba, TuningConfig, attach
from tests.models.micro import build

BASE = QMambaConfig(dims=(8, 12, 16), depths=(1, 1, 1), windows=(4, 2, 2), route_gate=True)
WIDTH = 12

TUNINGS = {
    "probe": TuningConfig("probe"),
    "full": TuningConfig("full"),
    "ssf": TuningConfig("ssf"),
    "style": TuningConfig("style", prompts=3, width=WIDTH),
    "style & R": TuningConfig("style", prompts=3, width=WIDTH, regressor=True),
    "style 7x7": TuningConfig("style", prompts=3, width=WIDTH, size=(7, 7)),
    "style layer": TuningConfig("style", prompts=2, width=WIDTH, size="layer"),
    "cross-attention": TuningConfig("cross-attention", prompts=3),
    "convolution": TuningConfig("convolution", prompts=3, width=WIDTH),
}


def base_model(seed: int = 0) -> QMamba:
    model = build(BASE, seed)
    model.metadata = ModelMetadata(name="tiny-base")
    return model


def tuned_model(base: QMamba, tuning: TuningConfig, *, moved: bool = False) -> TunedQMamba:
    """A tuned model, with trained tensors away from their initial values if asked."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        model = attach(base, tuning).eval()
        for tensor in model.trained_state().values() if moved else ():
            tensor.add_(0.05 * torch.randn_like(tensor))
    return model


def copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in tensors.items()}
