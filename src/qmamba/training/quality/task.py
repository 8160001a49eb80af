"""Learning to rate images from one rated data set or from several at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qmamba.assess import CropsPolicy, Scorer, policy_to_metadata
from qmamba.datasets import RatedDataset, RatedImage, Split
from qmamba.errors import ConfigError, DataError
from qmamba.evaluation.metrics.correlation import plcc, srcc
from qmamba.evaluation.quality.predictions import UnscoredError, predict
from qmamba.images import normalize, pad_to, random_crops, take_crops
from qmamba.models import ModelMetadata, Network, ScoreScale
from qmamba.training.quality.images import DEFAULT_MEMORY, ImageFile, Images, UnreadableError
from qmamba.training.quality.initial_network import is_output
from qmamba.training.quality.losses import Loss
from qmamba.training.quality.targets import Target, common_scale, fit_target

Sampling = Literal["proportional", "balanced"]
FLIPS = ("horizontal", "both", "none")
"""Which mirror images train beside the images."""

PAPER_CROPS = 10
"""Crops of each training image in an epoch, and of each image at test."""
PAPER_SHORTER: Mapping[str, int] = {"koniq10k": 384, "spaq": 384}
"""Shorter side to which the images of these data sets are scaled first: 512 x 384 for KonIQ-10k,
after the code that QMamba's paper follows (DEIQT), with the shape of the images kept."""

_METRICS = {"srcc": srcc, "plcc": plcc}
_LEAST_VALIDATION = 3
_LARGEST_FACTOR = 1000.0
_FLIPPED = {"horizontal": (2,), "both": (2, 1), "none": ()}


@dataclass(frozen=True)
class QualityPart:
    """What is used of one data set."""

    dataset: RatedDataset
    """The rated images."""
    train: tuple[int, ...]
    """Positions to learn from."""
    validation: tuple[int, ...] = ()
    """Positions to judge with; none of them trains."""
    shorter: int | None = None
    """Pixels to which the shorter side of its images is scaled down first; None: the images stay as
    they are."""
    crops: int | None = None
    """Crops of each training image in one epoch; None: those of the task."""

    @classmethod
    def of_split(
        cls,
        dataset: RatedDataset,
        split: Split,
        shorter: int | None = None,
        crops: int | None = None,
    ) -> QualityPart:
        """The training and validation part of a split; its test part is left alone."""
        return cls(dataset, split.train, split.validation, shorter, crops)


class QualityTask:
    """Random square crops of rated images, flipped at random, and a loss on their scores.

    Making one decodes every image that it will use, to know that it can.

    Args:
        parts: one data set, or several for universal training. What is learned and how an output
            becomes a score is described in :mod:`qmamba.training.quality.targets`.
        loss: what outputs are judged by.
        policy: crops of the validation images, and of those that the weights will score.
        crop_size: side of the training crops; that of the policy's if None.
        crops: crops of each training image in one epoch, where a part says no other number.
        flips: mirror images that train as well, one of :data:`FLIPS`.
        sampling: "proportional" uses every image of every part equally often; "balanced" every
            part equally often, drawing its images at random.
        head_factor: learning rate of the output layer as a multiple of that of the others.
        memory: bytes of decoded images that are kept; others are decoded at every use.
        skip_bad: leave out images that cannot be read; :attr:`skipped` names them.
        report: called with the number of images read and failed so far, and their total.

    Raises:
        ConfigError: an option is outside its range.
        DataError: too few images, or all scores of a training part are equal.
        UnreadableError: images cannot be read, unless they are skipped.
    """

    def __init__(
        self,
        parts: Sequence[QualityPart],
        *,
        loss: Loss | None = None,
        policy: CropsPolicy | None = None,
        crop_size: int | None = None,
        crops: int = PAPER_CROPS,
        flips: str = "horizontal",
        sampling: Sampling = "proportional",
        head_factor: float = 1.0,
        memory: int = DEFAULT_MEMORY,
        skip_bad: bool = False,
        report: Callable[[int, int, int], None] | None = None,
    ) -> None:
        _check_parts(parts)
        check_options(crop_size, crops, sampling, head_factor, flips)
        self.loss_function = loss or Loss()
        """What outputs are judged by."""
        self.policy = policy or CropsPolicy()
        """Crops of the validation images, before the scaling that a part asks for."""
        self.crop_size = self.policy.size if crop_size is None else crop_size
        """Side of the training crops."""
        self.crops = crops
        """Crops of each training image in one epoch."""
        self.flips = flips
        """Mirror images that train as well."""
        self.sampling = sampling
        """How the parts of a mix share the batches."""
        self.head_factor = head_factor
        """Learning rate of the output layer as a multiple of that of the others."""
        self._policies = [replace(self.policy, shorter=part.shorter) for part in parts]
        self._images, self.parts, self.skipped = _read_all(parts, memory, skip_bad, report)
        _check_validation(self.parts)
        mixed = len(self.parts) > 1
        self.targets: tuple[Target, ...] = tuple(
            fit_target(part.dataset, part.train, quality=mixed) for part in self.parts
        )
        """What is learned of each part."""
        self.scale: ScoreScale = common_scale() if mixed else self.targets[0].score_scale()
        """How an output becomes a score."""
        self._learnt = [
            target.learned(part.dataset.scores[list(part.train)])
            for part, target in zip(self.parts, self.targets, strict=True)
        ]
        self._rounds = _rounds(self.parts, crops)

    @property
    def examples(self) -> int:
        """Crops of one epoch: the images of all parts times the crops of each."""
        return sum(len(each) for each in self._rounds)

    @property
    def metric(self) -> str | None:
        """The mean SRCC over the parts, "srcc", where there are validation images."""
        return "srcc" if any(part.validation for part in self.parts) else None

    def example(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        """One crop: "image" (3, side, side) uint8, "target" float32 and "part" int64 scalars."""
        part, place = self._place(index, generator)
        pixels = self._images[part][place]
        side = self.crop_size
        image, _ = pad_to(torch.from_numpy(pixels).permute(2, 0, 1), side)
        height, width = image.shape[1:]
        crop = take_crops(image, random_crops(height, width, side, 1, generator), side)[0]
        for axis in _FLIPPED[self.flips]:
            if torch.rand((), generator=generator, dtype=torch.float32, device="cpu") < 0.5:
                crop = crop.flip(axis)
        return {
            "image": crop.contiguous(),
            "target": torch.tensor(self._learnt[part][place], dtype=torch.float32, device="cpu"),
            "part": torch.tensor(part, dtype=torch.int64, device="cpu"),
        }

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """The loss of a batch of examples."""
        outputs = model(normalize(batch["image"].float() / 255))
        # A network with a bounded output learns, too, how that stands for a score.
        observe = getattr(getattr(model, "module", model), "observe", None)
        if observe is not None and model.training:
            observe(outputs[:, 0], batch["target"])
        return self.loss_function(outputs[:, 0], batch["target"], batch["part"])

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """SRCC and PLCC on the validation images, through the scorer.

        Of several parts, those of each as ``srcc/name`` and their plain mean as ``srcc``.
        Predictions that are all equal count as 0.
        """
        mixed = len(self.parts) > 1
        figures: dict[str, float] = {}
        judged = [place for place, part in enumerate(self.parts) if part.validation]
        for part, policy in ((self.parts[place], self._policies[place]) for place in judged):
            truth = part.dataset.qualities if mixed else part.dataset.scores
            wanted = truth[list(part.validation)]
            predicted = self._predicted(model, part, policy)
            constant = min(predicted) == max(predicted)
            for name, metric in _METRICS.items():
                value = 0.0 if constant else metric(predicted, wanted)
                figures[name] = figures.get(name, 0.0) + value / len(judged)
                if mixed:
                    figures[f"{name}/{part.dataset.name}"] = value
        return figures

    def learning_rate_factor(self, name: str) -> float:
        """The head's factor for the parameters of the output layer, 1 for all others."""
        return self.head_factor if is_output(name) else 1.0

    def metadata(self, name: str, training: Mapping[str, Any]) -> ModelMetadata:
        """What a weights file says about a model that this task trained.

        Args:
            name: name of the weights.
            training: further JSON entries for the model card, beside those of the task.
        """
        same = len(set(self._policies)) == 1
        policy = self._policies[0] if same else replace(self.policy, shorter=None)
        entries: dict[str, Any] = {"task": self.description()}
        if len(self.parts) > 1:
            entries["maps"] = [target.from_common() for target in self.targets]
        return ModelMetadata(
            name=name,
            score=self.scale,
            policy=policy_to_metadata(policy),
            training={**training, **entries},
        )

    def description(self) -> dict[str, Any]:
        """What is learned and how, as JSON."""
        return {
            "data": [
                {
                    "name": part.dataset.name,
                    "scores": part.dataset.score_name,
                    "scale": list(part.dataset.scale),
                    "train": len(part.train),
                    "validation": len(part.validation),
                    "shorter": part.shorter,
                    "mean": target.mean,
                    "std": target.std,
                    **({} if part.crops is None else {"crops": part.crops}),
                }
                for part, target in zip(self.parts, self.targets, strict=True)
            ],
            "skipped": list(self.skipped),
            "policy": policy_to_metadata(self.policy),
            "loss": str(self.loss_function),
            "crop_size": self.crop_size,
            "crops": self.crops,
            "sampling": self.sampling,
            "head_factor": self.head_factor,
            **({} if self.flips == "horizontal" else {"flips": self.flips}),
        }

    def _place(self, index: int, generator: torch.Generator) -> tuple[int, int]:
        """Part and position in it of an example."""
        if self.sampling == "balanced":
            part = index % len(self.parts)
            count = len(self.parts[part].train)
            return part, int(
                torch.randint(count, (), generator=generator, dtype=torch.int64, device="cpu")
            )
        index %= self.examples
        for each in self._rounds:
            if index < len(each):
                return each.place(index)
            index -= len(each)
        raise AssertionError

    def _predicted(self, model: nn.Module, part: QualityPart, policy: CropsPolicy) -> list[float]:
        metadata = ModelMetadata(name="the model in training", score=self.scale)
        scorer = Scorer(cast(Network, model), metadata, policy=policy)
        predictions = predict(scorer, part.dataset.take(part.validation))
        problems = [(each.image.path, each.error) for each in predictions if each.error is not None]
        if problems:
            raise UnscoredError(problems)
        return [each.raw for each in predictions if each.raw is not None]


@dataclass(frozen=True)
class _Round:
    """One crop of every image of some parts."""

    parts: tuple[int, ...]
    starts: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.starts[-1])

    def place(self, index: int) -> tuple[int, int]:
        """Part and position in it of an image of the round."""
        found = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.parts[found], index - int(self.starts[found])


def _rounds(parts: Sequence[QualityPart], crops: int) -> list[_Round]:
    counts = [crops if part.crops is None else part.crops for part in parts]
    rounds = []
    for done in range(max(counts)):
        left = tuple(place for place, count in enumerate(counts) if count > done)
        sizes = [len(parts[place].train) for place in left]
        rounds.append(_Round(left, np.cumsum([0, *sizes])))
    return rounds


def check_options(
    crop_size: int | None,
    crops: int,
    sampling: str,
    head_factor: float,
    flips: str = "horizontal",
) -> None:
    """Check the options of :class:`QualityTask` that need no images.

    Raises:
        ConfigError: one of them is outside its range.
    """
    for name, value in (("crop_size", crop_size), ("crops", crops)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}.")
    if sampling not in get_args(Sampling):
        raise ConfigError(f"The option sampling is proportional or balanced, got {sampling!r}.")
    if flips not in FLIPS:
        raise ConfigError(f"The option flips is one of {', '.join(FLIPS)}, got {flips!r}.")
    if not 0 < head_factor <= _LARGEST_FACTOR:
        raise ConfigError(
            f"The option head_factor must be above 0 and at most 1000, got {head_factor:g}."
        )


def _check_parts(parts: Sequence[QualityPart]) -> None:
    if not parts:
        raise ConfigError("Training needs at least one data set.")
    for part in parts:
        if part.crops is not None and part.crops < 1:
            raise ConfigError(
                f"The crops of {part.dataset.name!r} must be at least 1, got {part.crops}."
            )
    names = [part.dataset.name for part in parts]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f"The data set {twice[0]!r} is given twice; name each differently.")


def _check_validation(parts: Sequence[QualityPart]) -> None:
    for part in parts:
        if set(part.train) & set(part.validation):
            raise DataError(
                f"An image of {part.dataset.name!r} is in its training and in its validation part;"
                " keep them apart."
            )
        scores = part.dataset.scores[list(part.validation)]
        if 0 < scores.size < _LEAST_VALIDATION:
            raise DataError(
                f"The validation part of {part.dataset.name!r} has {scores.size} images and a"
                f" correlation needs {_LEAST_VALIDATION}; give more, or none."
            )
        if scores.size and scores.min() == scores.max():
            raise DataError(
                f"Every score in the validation part of {part.dataset.name!r} is {scores[0]:g}, so"
                " its correlation is undefined; check the score column."
            )


def _read_all(
    parts: Sequence[QualityPart],
    memory: int,
    skip_bad: bool,
    report: Callable[[int, int, int], None] | None,
) -> tuple[list[Images], tuple[QualityPart, ...], tuple[str, ...]]:
    """Training images of each part, the parts without what cannot be read, and its names."""
    total = sum(len(part.train) + len(part.validation) for part in parts)
    done = failed = 0

    def tell(good: bool) -> None:
        nonlocal done, failed
        done, failed = done + 1, failed + (not good)
        if report is not None:
            report(done, failed, total)

    images: list[Images] = []
    kept: list[QualityPart] = []
    problems: list[tuple[RatedImage, str]] = []
    for part in parts:
        good, train, bad = _readable(part, memory, tell)
        memory -= train.memory
        images.append(train)
        kept.append(good)
        problems += bad
    if problems and not skip_bad:
        raise UnreadableError([(image.path, reason) for image, reason in problems])
    return images, tuple(kept), tuple(image.name for image, _ in problems)


def _readable(
    part: QualityPart, memory: int, report: Callable[[bool], None]
) -> tuple[QualityPart, Images, list[tuple[RatedImage, str]]]:
    """A part without the images that cannot be read, its training images, and the others."""
    problems: list[tuple[RatedImage, str]] = []
    images: list[Images] = []
    kept: list[tuple[int, ...]] = []
    for positions, share in ((part.train, memory), (part.validation, 0)):
        rated = [part.dataset[position] for position in positions]
        images.append(Images(ImageFile(image.path, part.shorter) for image in rated))
        bad = images[-1].read(share, report)
        problems += [(rated[index], reason) for index, reason in bad.items()]
        kept.append(tuple(p for index, p in enumerate(positions) if index not in bad))
    return replace(part, train=kept[0], validation=kept[1]), images[0], problems
