"""Under which conditions the paper's experiments are run again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from qmamba.errors import ConfigError
from qmamba.reproduce.plan import Training
from qmamba.training.options import TrainingOptions
from qmamba.training.quality.losses import Loss, parse_loss
from qmamba.training.quality.presets import PRESETS, Preset
from qmamba.training.quality.task import PAPER_SHORTER

TRAIN_SHARE = 0.8
"""Share of the contents of a data set that train; the others test."""

_LARGE_SET = 4000
_QUICK_STEPS = 4
_QUICK_BATCH = 4
_QUICK_WIDTH = 16
_QUICK_IMAGES = 12
_QUICK_MODELS = {
    "qmamba-*": "qmamba-nano",
    "lqmamba-*": "lqmamba-nano",
    "resnet-*": "resnet-50",
    "vit-*": "vit-tiny",
    "swin-*": "swin-tiny",
    "efficientnet-*": "efficientnet-lite0",
    "deiqt": "deiqt",
    "loda": "loda",
}


@dataclass(frozen=True)
class Protocol:
    """The paper's conditions, or with ``quick`` a trial of the whole way in minutes.

    A quick run trains small stand-ins for a few steps on a few images. It shows that everything
    needed is there; its figures mean nothing.

    Raises:
        ConfigError: a number is below 1.

    Source: QMamba paper, section 4.1: nine epochs, ten crops of 224 per image, batches of 32
    (LIVE Challenge) to 128 (KonIQ-10k). The paper does not say how often it repeats; ten random
    splits and their median are the custom of the work that it builds on.
    """

    seeds: int = 10
    """Random splits; a figure is the median over them."""
    quick: bool = False
    crops: int = 10
    """Crops of each image, in an epoch of training and at test."""
    epochs: float = 9.0
    own_schedules: bool = False
    """Train and test DEIQT and LoDa as their authors did instead."""

    def __post_init__(self) -> None:
        for name in ("seeds", "crops"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")

    def standing_in(self, training: Training) -> Training:
        """The training that is run where the paper has this one."""
        if not self.quick:
            return training
        model = next(
            stand_in
            for pattern, stand_in in _QUICK_MODELS.items()
            if fnmatchcase(training.model, pattern)
        )
        tuning, base = training.tuning, training.base
        return dataclasses.replace(
            training,
            model=model,
            tuning=None if tuning is None else dataclasses.replace(tuning, width=_QUICK_WIDTH),
            base=None if base is None else self.standing_in(base),
        )

    def preset(self, model: str) -> Preset | None:
        """The schedule of its own that a model has, None where it follows the protocol."""
        return PRESETS.get(model) if self.own_schedules and not self.quick else None

    def crops_used(self, model: str) -> int:
        """Crops of each image that a model is tested on."""
        if self.quick:
            return 1
        return int(self._asked(model, "test_crops", self.crops))

    def training_crops(self, model: str, name: str) -> int:
        """Crops of each image of a data set in one epoch of training."""
        usual = self._asked(model, "usual_crops", {})
        return int(usual.get(name, self._asked(model, "crops", self.crops)))

    def shorter(self, model: str, name: str) -> int | None:
        """Shorter side in pixels that images of a data set are scaled to; None: as they are."""
        sizes: Mapping[str, int] = self._asked(model, "usual_shorter", PAPER_SHORTER)
        return sizes.get(name)

    def loss(self, model: str) -> Loss:
        """What the outputs of a model are judged by in training."""
        return parse_loss(self._asked(model, "loss", "smooth_l1"))

    def flips(self, model: str) -> str:
        """Which mirror images train."""
        return str(self._asked(model, "flips", "horizontal"))

    def _asked(self, model: str, field: str, otherwise: Any) -> Any:
        preset = self.preset(model)
        return otherwise if preset is None else preset.request.get(field, otherwise)

    def chosen(self, positions: tuple[int, ...]) -> tuple[int, ...]:
        """The positions of a part that are used: all, or a few evenly spaced ones."""
        count = self.images(len(positions))
        return tuple(positions[index * len(positions) // count] for index in range(count))

    def images(self, there: int) -> int:
        """How many images of a part are used."""
        return min(there, _QUICK_IMAGES) if self.quick else there

    def options(self, model: str, images: int, seed: int, **others: Any) -> TrainingOptions:
        """The schedule of a training.

        Args:
            model: name of the model.
            images: number of training images, which decides the batch.
            seed: seed of the run.
            others: fields of the options that do not belong to the protocol.
        """
        if self.quick:
            return TrainingOptions(
                epochs=None, steps=_QUICK_STEPS, batch_size=_QUICK_BATCH, seed=seed, **others
            )
        preset = self.preset(model)
        if preset is not None and preset.training:
            return TrainingOptions(**{**preset.training, "seed": seed, **others})
        batch = 128 if images >= _LARGE_SET else 32
        return TrainingOptions(epochs=self.epochs, batch_size=batch, seed=seed, **others)

    def examples(self, model: str, images: Mapping[str, float]) -> int:
        """Crops that a training sees in all.

        Args:
            model: name of the model.
            images: number of training images of each data set.
        """
        if self.quick:
            return _QUICK_STEPS * _QUICK_BATCH
        epochs = self.options(model, 1, 0).epochs
        assert epochs is not None
        crops = sum(count * self.training_crops(model, name) for name, count in images.items())
        return round(epochs * crops)

    def to_dict(self) -> dict[str, Any]:
        """What results of one folder must share, as JSON: all but the number of seeds."""
        shared = {"quick": self.quick, "crops": self.crops, "epochs": self.epochs}
        return {**shared, "own_schedules": True} if self.own_schedules else shared
