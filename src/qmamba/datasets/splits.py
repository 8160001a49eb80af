"""Dividing a data set into a training and a test part, and keeping the division in a file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from qmamba.datasets.formats.label_files import read_text
from qmamba.datasets.records import RatedDataset
from qmamba.errors import ConfigError, DataError
from qmamba.files import atomic_write

Rule = Literal["content", "image", "official"]

_FORMAT = 1


@dataclass(frozen=True)
class Split:
    """Positions of images in a data set, in parts that share none.
    Raises:
        DataError: train or test is empty, or a position occurs twice.
    """

    rule: Rule
    """"content" (all images of a content on one side), "image" (each image for itself) or
    "official" (as the data set says)."""
    train: tuple[int, ...]
    """Positions to train with, ascending."""
    test: tuple[int, ...]
    """Positions to test with, ascending."""
    validation: tuple[int, ...] = ()
    """Positions to choose settings with, ascending; only some official splits have them."""
    seed: int | None = None
    """Seed of the random draw; None for an official split."""
    train_share: float | None = None
    """Share of contents or images that train; None for an official split."""

    def __post_init__(self) -> None:
        if not self.train or not self.test:
            raise DataError(
                f"The {self.rule} split has {len(self.train)} training and {len(self.test)} test"
                " images; both parts need at least one."
            )
        positions = [*self.train, *self.test, *self.validation]
        if len(set(positions)) != len(positions):
            raise DataError(
                f"An image is in the {self.rule} split more than once; write the split again."
            )


def split_by_content(dataset: RatedDataset, seed: int, train_share: float = 0.8) -> Split:
    """Draw contents at random; every image of a content falls on the same side.

    For synthetic sets this divides by reference image, for generated ones by prompt, and for
    photographs, each a content of its own, by image. The draw depends on the set of contents, the
    seed and the share alone, not on the order of the label file.

    Args:
        dataset: at least two contents.
        seed: 0 or larger; repeats usually take 0 to 9.
        train_share: share of the contents that train, between 0 and 1, rounded to whole contents
            with at least one on each side.

    Raises:
        ConfigError: a seed or share outside its range.
        DataError: fewer than two contents.
    """
    chosen = _drawn(dataset, dataset.contents, "contents", seed, train_share)
    split = _split(
        "content", [image.content in chosen for image in dataset], seed=seed, share=train_share
    )
    _check_contents(dataset, split)
    return split


def split_by_image(dataset: RatedDataset, seed: int, train_share: float = 0.8) -> Split:
    """Draw images at random, whatever they show.

    Some results on generated images are published this way; images of one prompt then occur
    on both sides. Arguments and errors are those of `split_by_content`.
    """
    chosen = _drawn(dataset, dataset.names, "images", seed, train_share)
    return _split("image", [name in chosen for name in dataset.names], seed=seed, share=train_share)


def official_split(dataset: RatedDataset) -> Split:
    """The split that the data set comes with (KonIQ-10k, LIVE-FB, a CSV with a split column).

    "train" trains. "test" tests and "val" validates; where there is no "test", "val" tests.

    Raises:
        DataError: the data set has no such parts.
    """
    test = "test" if "test" in dataset.splits else "val"
    if not {"train", test} <= set(dataset.splits):
        raise DataError(
            f"The data set {dataset.name!r} has no official split into train and test or val (its"
            f" parts: {', '.join(dataset.splits) or 'none'}); split it by content."
        )
    return Split(
        "official",
        train=_members(dataset, "train"),
        test=_members(dataset, test),
        validation=_members(dataset, "val") if test == "test" else (),
    )


def write_splits(
    path: str | os.PathLike[str], dataset: RatedDataset, splits: Sequence[Split]
) -> None:
    """Write splits of a data set to a JSON file, in one step.

    The file lists the names of the images once, sorted; each split lists positions in that list.
    A SHA-256 over names, contents and scores lets `read_splits` tell another data set.

    Raises:
        DataError: no splits, positions outside the data set, a content on both sides of a split by
            content, or the file cannot be written.
    """
    if not splits:
        raise DataError(f"No splits to write to {str(path)!r}; give at least one.")
    names = sorted(dataset.names)
    indices = {name: index for index, name in enumerate(names)}
    entries = []
    for split in splits:
        _check_positions(dataset, split)
        entry: dict[str, Any] = {
            "rule": split.rule,
            "seed": split.seed,
            "train_share": split.train_share,
        }
        for part in ("train", "validation", "test"):
            entry[part] = sorted(indices[dataset.names[i]] for i in getattr(split, part))
        entries.append(entry)
    content = {
        "format": _FORMAT,
        "dataset": {"name": dataset.name, "sha256": fingerprint(dataset)},
        "images": names,
        "splits": entries,
    }
    with atomic_write(path, "w") as stream:
        json.dump(content, stream, separators=(",", ":"))
        stream.write("\n")


def read_splits(path: str | os.PathLike[str], dataset: RatedDataset) -> tuple[Split, ...]:
    """Read splits that `write_splits` wrote, for the same data set wherever it lies now.

    Raises:
        DataError: the file is missing or malformed, or was written for other images, contents or
            scores.
    """
    path = Path(path)
    try:
        content = json.loads(read_text(path))
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']!r}")
        names, digest = content["images"], content["dataset"]["sha256"]
        _check_same(path, names, digest, dataset)
        indices = [dataset.index(name) for name in names]
        splits = tuple(_parsed(entry, indices) for entry in content["splits"])
    except DataError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{str(path)!r} is not a file of splits ({error}); write the splits again"
        ) from error
    for split in splits:
        _check_positions(dataset, split)
    return splits


def fingerprint(dataset: RatedDataset) -> str:
    """SHA-256 in hexadecimal over names, contents and scores; independent of order and place."""
    lines = sorted(f"{image.name}\0{image.content}\0{image.mos!r}\n" for image in dataset)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _drawn(
    dataset: RatedDataset, items: Iterable[str], kind: str, seed: int, train_share: float
) -> set[str]:
    if not 0.0 < train_share < 1.0:
        raise ConfigError(
            f"The option train_share is {train_share:g}; give a share between 0 and 1."
        )
    if seed < 0:
        raise ConfigError(f"The seed of a split is {seed}; give 0 or a larger number.")
    ordered = sorted(items)
    if len(ordered) < 2:
        raise DataError(
            f"The data set {dataset.name!r} has {len(ordered)} {kind}; a split needs at least two."
        )
    count = min(max(round(train_share * len(ordered)), 1), len(ordered) - 1)
    order = np.random.default_rng(seed).permutation(len(ordered))
    return {ordered[index] for index in order[:count]}


def _split(rule: Rule, in_train: list[bool], *, seed: int, share: float) -> Split:
    return Split(
        rule,
        train=tuple(i for i, inside in enumerate(in_train) if inside),
        test=tuple(i for i, inside in enumerate(in_train) if not inside),
        seed=seed,
        train_share=share,
    )


def _members(dataset: RatedDataset, part: str) -> tuple[int, ...]:
    return tuple(i for i, image in enumerate(dataset) if image.split == part)


def _check_positions(dataset: RatedDataset, split: Split) -> None:
    positions = [*split.train, *split.test, *split.validation]
    if min(positions) < 0 or max(positions) >= len(dataset):
        raise DataError(
            f"A split names positions {min(positions)} to {max(positions)} where the data set"
            f" {dataset.name!r} has {len(dataset)} images; split this data set again."
        )
    if split.rule == "content":
        _check_contents(dataset, split)


def _check_contents(dataset: RatedDataset, split: Split) -> None:
    sides = [
        {dataset[i].content for i in part} for part in (split.train, split.test, split.validation)
    ]
    for one, other in combinations(sides, 2):
        if shared := one & other:
            raise DataError(
                f"The content {min(shared)!r} of the data set {dataset.name!r} is in two parts of a"
                " split by content; write the split again."
            )


def _check_same(path: Path, names: list[str], digest: str, dataset: RatedDataset) -> None:
    ours, theirs = set(dataset.names), set(names)
    if ours != theirs:
        where = "only there" if theirs - ours else "only in the data set"
        example = min(theirs - ours or ours - theirs)
        raise DataError(
            f"{str(path)!r} was written for {len(theirs)} images and the data set {dataset.name!r}"
            f" has {len(ours)}: {example!r} is {where}; use the same images or write new splits"
        )
    if digest != fingerprint(dataset):
        raise DataError(
            f"{str(path)!r} was written for other scores or contents of the data set"
            f" {dataset.name!r}; use the same label file or write new splits"
        )


def _parsed(entry: dict[str, Any], indices: list[int]) -> Split:
    parts = {}
    for part in ("train", "test", "validation"):
        listed = entry[part]
        if not all(type(i) is int and 0 <= i < len(indices) for i in listed):
            raise ValueError(f"{part} lists something else than positions of images")
        parts[part] = tuple(sorted(indices[i] for i in listed))
    if entry["rule"] not in get_args(Rule):
        raise ValueError(f"rule {entry['rule']!r}")
    return Split(entry["rule"], seed=entry["seed"], train_share=entry["train_share"], **parts)
