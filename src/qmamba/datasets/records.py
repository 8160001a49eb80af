"""What every data set becomes: images with the scores that people gave them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qmamba.errors import DataError


@dataclass(frozen=True, slots=True)
class RatedImage:
    """One image and its score."""

    name: str
    """Identity of the image within its data set, such as ``"jp2k/img2.bmp"``: the same on every
    machine, and what split files list."""
    path: Path
    """The image file."""
    mos: float
    """Mean opinion score on the native scale of the data set, in its native direction."""
    content: str
    """What the image shows. Images of one reference image, scene or prompt share it; where nothing
    is shared it equals ``name``."""
    distortion: str | None = None
    """Kind of damage as the data set names or numbers it, where known."""
    level: int | None = None
    """Strength of the damage, 1 the weakest, where known."""
    generator: str | None = None
    """The model that made the image, where known."""
    split: str | None = None
    """Official part of the data set it belongs to, such as ``"train"``, where known."""


@dataclass(frozen=True)
class RatedDataset:
    """Images with scores on one scale. Behaves as an immutable sequence of `RatedImage`.
    Raises:
        DataError: no images, a name that occurs twice, or a score that is not finite or lies
            outside the scale.
    """

    name: str
    """Short name, such as ``"koniq10k"``."""
    images: tuple[RatedImage, ...] = field(repr=False)
    """The images, in the order of the label file."""
    scale: tuple[float, float]
    """(low, high) of the native score scale; every score lies within."""
    higher_is_better: bool = True
    """False for DMOS, where a high score means strong damage."""
    score_name: str = "MOS"
    """What the numbers are, such as ``"KonIQ-10k MOS"``."""
    labels: Path | None = None
    """The file that the scores came from."""
    notes: tuple[str, ...] = ()
    """What a reader of results should know, such as an unusual label file."""

    def __post_init__(self) -> None:
        if not self.images:
            raise DataError(f"The data set {self.name!r} has no images; give it at least one.")
        low, high = self.scale
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise DataError(
                f"The score scale {low:g} to {high:g} of the data set {self.name!r} is empty; give"
                " two different finite numbers, the lower first."
            )
        for image in self.images:
            if not low <= image.mos <= high:
                raise DataError(
                    f"image {image.name!r} of the data set {self.name!r} has the score"
                    f" {image.mos:g} outside the scale {low:g} to {high:g}; correct the score or"
                    " the scale"
                )
        if len(self._positions) != len(self.images):
            name, times = Counter(image.name for image in self.images).most_common(1)[0]
            raise DataError(
                f"image {name!r} occurs {times} times in the data set {self.name!r}; keep one"
            )

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[RatedImage]:
        return iter(self.images)

    def __getitem__(self, index: int) -> RatedImage:
        return self.images[index]

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """Native scores, float64 of shape (images,), read-only."""
        scores = np.array([image.mos for image in self.images], dtype=np.float64)
        scores.flags.writeable = False
        return scores

    @cached_property
    def qualities(self) -> NDArray[np.float64]:
        """Scores turned so that higher is better: ``low + high - score`` where lower is better."""
        if self.higher_is_better:
            return self.scores
        qualities = self.scale[0] + self.scale[1] - self.scores
        qualities.flags.writeable = False
        return qualities

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Name of every image, in order."""
        return tuple(image.name for image in self.images)

    @cached_property
    def contents(self) -> tuple[str, ...]:
        """The different contents, in order of appearance."""
        return tuple(dict.fromkeys(image.content for image in self.images))

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """The different official parts, in order of appearance; empty where there are none."""
        parts = dict.fromkeys(image.split for image in self.images)
        return tuple(part for part in parts if part is not None)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {image.name: index for index, image in enumerate(self.images)}

    def index(self, name: str) -> int:
        """Position of the image with this name.

        Raises:
            DataError: no image has it.
        """
        if name not in self._positions:
            raise DataError(f"The data set {self.name!r} has no image {name!r}; see its `names`.")
        return self._positions[name]

    def take(self, indices: Sequence[int]) -> RatedDataset:
        """The data set reduced to these positions, in this order.

        Raises:
            DataError: no positions, or one of them twice.
        """
        return replace(self, images=tuple(self.images[index] for index in indices))

    def where(
        self,
        *,
        split: str | None = None,
        contents: Collection[str] | None = None,
        distortion: str | None = None,
        generator: str | None = None,
    ) -> RatedDataset:
        """The images that meet every condition given, in the same order.

        Raises:
            DataError: no image does.
        """
        wanted = None if contents is None else frozenset(contents)
        images = tuple(
            image
            for image in self.images
            if (split is None or image.split == split)
            and (wanted is None or image.content in wanted)
            and (distortion is None or image.distortion == distortion)
            and (generator is None or image.generator == generator)
        )
        if not images:
            raise DataError(
                f"No image of the data set {self.name!r} meets the conditions; its parts are"
                f" {', '.join(self.splits) or 'not marked'}."
            )
        return replace(self, images=images)
