"""Which rated data sets are meant, and how each is divided, from a few words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from qmamba.datasets.csv_list import csv_name, read_csv_dataset
from qmamba.datasets.records import RatedDataset
from qmamba.datasets.registry import list_datasets, read_dataset
from qmamba.datasets.splits import (
    Split,
    official_split,
    read_splits,
    split_by_content,
    split_by_image,
)
from qmamba.errors import ConfigError, DataError

SPLIT_RULES = ("auto", "official", "content", "image")
"""Ways to divide a data set; ``auto`` is ``official`` where the set has such parts, else
``content``."""


def read_rated_data(
    written: Iterable[str],
    *,
    scales: Mapping[str, tuple[float, float]] | None = None,
    lower_is_better: Iterable[str] = (),
    skip_bad: bool = False,
    keep_missing: bool = False,
) -> list[RatedDataset]:
    """The data sets that a few words name.

    Args:
        written: ``NAME=FOLDER``, ``FILE.csv`` or ``NAME=FILE.csv``, one for each data set.
        scales: (low, high) of the scores of CSV files, by name or, under "", of all of them.
        lower_is_better: names of the CSV files whose low scores are good, "" for all of them.
        skip_bad: take data sets that are not complete, without what they lack.
        keep_missing: keep single images that are listed and do not exist, to be named with those
            that cannot be read.

    Raises:
        ConfigError: a name is unknown or missing, occurs twice, or an option is for a data set that
            knows its scale itself.
        DataError: a data set is missing, malformed or not complete.
    """
    scales, turned = dict(scales or {}), set(lower_is_better)
    found: list[RatedDataset] = []
    lists: set[str] = set()
    for text in written:
        name, path = _name_and_path(text)
        if path.is_dir():
            if name is None:
                raise ConfigError(
                    f"{text!r} is a folder; write which data set it holds, as NAME={text}, with"
                    f" one of {', '.join(list_datasets())}."
                )
            dataset = read_dataset(name, path, allow_incomplete=skip_bad, keep_missing=keep_missing)
        elif path.is_file():
            key = name or csv_name(path)
            lists.add(key)
            dataset = read_csv_dataset(
                path,
                name=key,
                scale=scales.get(key, scales.get("")),
                higher_is_better=not turned & {key, ""},
                allow_incomplete=skip_bad,
                keep_missing=keep_missing,
            )
        else:
            raise DataError(f"{str(path)!r} does not exist; give a folder or a CSV file.")
        if dataset.name in [other.name for other in found]:
            raise ConfigError(f"Two data sets are called {dataset.name!r}; write NAME=FILE.")
        found.append(dataset)
    _refuse_others({*scales, *turned} - {""}, lists)
    if (scales or turned) and not lists:
        raise ConfigError("Scale and direction are given for CSV files; known data sets have them.")
    return found


def split_rules(written: Iterable[str], datasets: Iterable[RatedDataset]) -> dict[str, str]:
    """The rule of the split for each data set by name, "auto" where nothing is said.

    Raises:
        ConfigError: a name is not that of a data set given.
    """
    return for_each(written, [dataset.name for dataset in datasets], "auto", "The split")


def for_each(
    written: Iterable[str], names: Iterable[str], default: str, option: str
) -> dict[str, str]:
    """Values of an option that is written as ``VALUE`` for all or ``NAME=VALUE`` for one.

    Raises:
        ConfigError: a name is not among `names`.
    """
    names = list(names)
    values = dict.fromkeys(names, default)
    named: dict[str, str] = {}
    for text in written:
        name, separator, value = text.partition("=")
        if separator and name in names:
            named[name] = value
        elif separator and not Path(text).exists():
            raise ConfigError(
                f"{option} {text!r} names no data set given; they are {', '.join(names)}."
            )
        else:
            values = dict.fromkeys(names, text)
    return {**values, **named}


def chosen_split(
    dataset: RatedDataset, rule: str, *, seed: int = 0, train_share: float = 0.8
) -> Split:
    """The split of a data set by a rule.

    Args:
        dataset: what is divided.
        rule: one of :data:`SPLIT_RULES`, or a JSON file of splits, of which the one with this seed
            is taken, or the only one.
        seed: seed of a random draw.
        train_share: share of contents or images that train in a random draw.

    Raises:
        ConfigError: the rule is unknown.
        DataError: the data set has no such split, or the file does not fit it.
    """
    if rule == "auto":
        test = {"test", "val"} & set(dataset.splits)
        rule = "official" if test and "train" in dataset.splits else "content"
    if rule == "official":
        return official_split(dataset)
    if rule == "content":
        return split_by_content(dataset, seed, train_share)
    if rule == "image":
        return split_by_image(dataset, seed, train_share)
    if not Path(rule).is_file():
        raise ConfigError(
            f"The split {rule!r} is neither a file nor one of {', '.join(SPLIT_RULES)}."
        )
    splits = read_splits(rule, dataset)
    fitting = [split for split in splits if split.seed == seed] or list(splits)
    if len(fitting) > 1:
        seeds = ", ".join(str(split.seed) for split in splits)
        raise DataError(
            f"{rule!r} holds {len(splits)} splits with the seeds {seeds}; choose one by its seed."
        )
    return fitting[0]


def parsed_scales(written: Iterable[str]) -> dict[str, tuple[float, float]]:
    """Ends of the scores, by name of the CSV file; under "" what is for all of them.

    Raises:
        ConfigError: a text is neither ``LOW,HIGH`` nor ``NAME=LOW,HIGH``.
    """
    scales = {}
    for text in written:
        name, _, ends = text.rpartition("=")
        scales[name] = _parsed_scale(ends)
    return scales


def _parsed_scale(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"A scale is written LOW,HIGH such as 1,5, got {text!r}.") from None
    return low, high


def _name_and_path(text: str) -> tuple[str | None, Path]:
    name, separator, path = text.partition("=")
    if not separator or Path(text).exists():
        return None, Path(text).expanduser()
    return name, Path(path).expanduser()


def _refuse_others(given: set[str], known: set[str]) -> None:
    for name in sorted(given - known):
        raise ConfigError(
            f"A scale or direction is given for {name!r}, which is no CSV file among the data; they"
            f" are {', '.join(sorted(known)) or 'none'}."
        )
