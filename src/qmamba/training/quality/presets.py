"""Published schedules of the methods that the paper compares, as values of a run's options."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from qmamba.errors import ConfigError, unknown_name
from qmamba.training.options import TrainingOptions
from qmamba.training.quality.request import RatingRequest


@dataclass(frozen=True)
class Preset:
    """What a method was trained with, where that differs from the defaults."""

    source: str
    """Where the values come from."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Fields of :class:`~qmamba.training.TrainingOptions`."""
    request: Mapping[str, Any] = field(default_factory=dict)
    """Fields of :class:`RatingRequest`."""


PRESETS: Mapping[str, Preset] = {
    "qmamba": Preset("QMamba paper, section 4.1"),
    "deiqt": Preset(
        "the official configuration of DEIQT (Qin et al., AAAI 2023)",
        # The rate rises for three epochs while its steps count from the start of the run, so that
        # it reaches its height and is divided by ten at once.
        training={
            "epochs": 9.0,
            "batch_size": 64,
            "learning_rate": 2e-4,
            "schedule": "steps",
            "milestones": (1 / 3, 2 / 3),
            "milestone_factor": 0.1,
            "warmup": 1 / 3,
            "weight_decay": 0.05,
            "clip_norm": 5.0,
        },
    ),
    "loda": Preset(
        "the official configuration of LoDa (Xu et al., CVPR 2024)",
        training={
            "epochs": 10.0,
            "batch_size": 128,
            "learning_rate": 3e-4,
            "schedule": "cosine",
            "weight_decay": 0.01,
            "clip_norm": None,
        },
        request={
            # Its loss is the mean of two squared errors of standardized scores, a quarter of each:
            # of the predictions, and of the predictions times their correlation.
            "loss": "0.5*plcc+0.125*r2",
            "flips": "both",
            # For sets that it was not trained on; the others have theirs.
            "crops": 3,
            "usual_crops": {
                "live": 5,
                "livec": 5,
                "tid2013": 10,
                "kadid10k": 3,
                "koniq10k": 3,
                "spaq": 3,
                "flive": 1,
            },
            "test_crops": 15,
            "usual_shorter": {"koniq10k": 384, "livec": 384, "spaq": 384},
        },
    ),
}
"""Presets by the name of the method."""

_TABLES = {"usual_crops": "crops", "usual_shorter": "shorter"}
_LENGTHS = {"epochs", "steps"}


def preset_named(name: str) -> Preset:
    """The preset with this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in PRESETS:
        raise ConfigError(unknown_name("preset", name, PRESETS))
    return PRESETS[name]


def with_preset(
    name: str,
    request: RatingRequest,
    options: TrainingOptions,
    given: Collection[str] = (),
) -> tuple[RatingRequest, TrainingOptions]:
    """A request and options with the values of a preset.

    Args:
        name: one of :data:`PRESETS`.
        request: what is learned from.
        options: schedule and optimizer.
        given: fields of both that were chosen on purpose and keep their values.

    Raises:
        ConfigError: there is no such preset.

    Example:
        >>> request, options = with_preset("loda", RatingRequest(data=["a.csv"]), TrainingOptions())
        >>> request.test_crops, options.epochs
        (15, 10.0)
    """
    preset = preset_named(name)
    kept = set(given)
    if kept & _LENGTHS:
        kept |= _LENGTHS
    asked = {
        key: value
        for key, value in preset.request.items()
        if key not in kept and _TABLES.get(key) not in kept
    }
    scheduled = {key: value for key, value in preset.training.items() if key not in kept}
    return replace(request, **asked), replace(options, **scheduled)
