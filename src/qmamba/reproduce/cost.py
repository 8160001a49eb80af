"""What a plan costs, before anything is run."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch

from qmamba.datasets.registry import ADAPTERS
from qmamba.models import count_flops, create_model, model_config
from qmamba.reproduce.plan import Training
from qmamba.reproduce.protocol import TRAIN_SHARE, Protocol

_PROBE_MODEL = "qmamba-nano"
_PROBE_VIEWS = 4
_FULL = 3.0
_FACTORS = {"probe": 1.0, "full": _FULL}
_FROZEN = 2.0
"""Forward and the gradients of the maps, without those of the weights."""


def multiply_adds(plan: Mapping[Training, tuple[str, ...]], protocol: Protocol) -> float:
    """Multiply-adds of trainings and their tests, by the numbers of images, crops and epochs.

    Data sets count as complete, whether they are there or not. A step of training counts as three
    passes forward, as two where the backbone is frozen, and as one where nothing behind it needs a
    gradient.
    """
    total = 0.0
    for training, tests in plan.items():
        per_crop = count_flops(model_config(training.model)).total
        learned = {name: round(TRAIN_SHARE * ADAPTERS[name].count) for name in training.sets}
        judged = sum(
            protocol.images(round((1 - TRAIN_SHARE) * ADAPTERS[name].count)) for name in tests
        )
        method = "full" if training.tuning is None else training.tuning.method
        passes = _FACTORS.get(method, _FROZEN) * protocol.examples(training.model, learned)
        total += per_crop * (passes + judged * protocol.crops_used(training.model))
    return total


def measured_speed(device: torch.device | str = "cpu") -> float:
    """Multiply-adds per second that the smallest model reaches here going forward."""
    model = create_model(_PROBE_MODEL).to(device).eval()
    views = torch.zeros(_PROBE_VIEWS, 3, 224, 224, dtype=torch.float32, device=device)
    with torch.no_grad():
        model(views).sum().item()
        started = time.perf_counter()
        model(views).sum().item()
    return _PROBE_VIEWS * count_flops(model).total / (time.perf_counter() - started)
