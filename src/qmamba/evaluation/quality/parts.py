"""Which images of a data set are judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from qmamba.datasets import RatedDataset, Split
from qmamba.errors import ConfigError, DataError

PartName = Literal["all", "train", "val", "test"]


@dataclass(frozen=True)
class RatedPart:
    """The images of a data set that are judged."""

    dataset: RatedDataset
    """Those images alone."""
    part: PartName = "all"
    """"all", "train", "val" or "test"."""
    split: Split | None = None
    """How the data set was divided; None where it was not."""


def select_part(
    dataset: RatedDataset, part: PartName | None = None, split: Split | None = None
) -> RatedPart:
    """The images of one part of a data set.

    Args:
        dataset: all images.
        part: None is the test part of a split, and all images where there is none.
        split: how the data set is divided. The test part of an official split without one is what
            the data set calls "val", and is called so.

    Raises:
        ConfigError: a part is asked for without a split, or has an unknown name.
        DataError: the split has no such part.
    """
    if part is None:
        part = "all" if split is None else "test"
    if part not in get_args(PartName):
        raise ConfigError(
            f"The option part is one of {', '.join(get_args(PartName))}, got {part!r}."
        )
    if part == "all":
        return RatedPart(dataset, "all", split)
    if split is None:
        raise ConfigError(
            f"The part {part!r} of {dataset.name!r} needs a split; give one or take all images."
        )
    only_val = split.rule == "official" and "test" not in dataset.splits
    if part in ("val", "test") and only_val:
        part = "val"
        chosen = split.test
    else:
        chosen = {"train": split.train, "val": split.validation, "test": split.test}[part]
    if not chosen:
        raise DataError(
            f"The {split.rule} split of {dataset.name!r} has no part {part!r}; take another."
        )
    return RatedPart(dataset.take(chosen), part, split)
