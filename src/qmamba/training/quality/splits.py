"""The split of a run: drawn once, kept in its folder, and held to when the run is resumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from qmamba.datasets import (
    RatedDataset,
    Split,
    read_splits,
    split_by_content,
    split_by_image,
    write_splits,
)
from qmamba.errors import ConfigError, DataError
from qmamba.files import make_folder
from qmamba.training.distributed import is_main


def splits_path(folder: Path, dataset: RatedDataset, datasets: Sequence[RatedDataset]) -> Path:
    """Where a run keeps the split of one of its data sets."""
    if len(datasets) == 1:
        return folder / "splits.json"
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in dataset.name)
    return folder / f"splits-{safe}.json"


def kept_split(
    path: Path, dataset: RatedDataset, split: Callable[[], Split], *, resume: bool
) -> Split:
    """A new split, which is written, or of a resumed run the one that it has written.

    Args:
        path: from :func:`splits_path`.
        dataset: the data set that is divided.
        split: makes the split that is wanted, the same at every call.
        resume: whether the run is resumed.

    Raises:
        DataError: the run that is resumed divides the data set in another way than is wanted.
    """
    made = split()
    if resume and path.exists():
        kept = read_splits(path, dataset)[0]
        if kept != made:
            raise DataError(
                f"The run in {str(path.parent)!r} divides {dataset.name!r} otherwise"
                f" ({_described(kept)}, and now {_described(made)}); resume it as it was started,"
                " or give another folder."
            )
        return kept
    if is_main():
        make_folder(path.parent)
        write_splits(path, dataset, [made])
    return made


def hold_out(dataset: RatedDataset, split: Split, share: float, seed: int) -> Split:
    """The split with a share of its training part set aside for validation.

    It is drawn by content, or by image where the split is.

    Raises:
        ConfigError: the share is not between 0 and 1.
        DataError: the split has a validation part already, or too few contents.
    """
    if not 0 < share < 1:
        raise ConfigError(f"The validation share is {share:g}; give a share between 0 and 1.")
    if split.validation:
        raise DataError(
            f"The split of {dataset.name!r} has a validation part already; leave the share out."
        )
    draw = split_by_image if split.rule == "image" else split_by_content
    inner = draw(dataset.take(split.train), seed, 1 - share)
    return replace(
        split,
        train=tuple(split.train[index] for index in inner.train),
        validation=tuple(split.train[index] for index in inner.test),
    )


def _described(split: Split) -> str:
    drawn = "" if split.seed is None else f" with seed {split.seed}"
    share = "" if split.train_share is None else f", share {split.train_share:g}"
    counts = f"{len(split.train)} train, {len(split.validation)} validate"
    return f"by {split.rule}{drawn}{share}: {counts}"
