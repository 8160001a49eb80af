"""The result of an evaluation as data: what was judged, by which protocol, with which figures."""

from __future__ import annotations

import json
import os
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from qmamba.errors import DataError
from qmamba.evaluation.quality.figures import Figure, figures_from_dict
from qmamba.files import atomic_write

FORMAT = 1
"""Version of the JSON form."""

_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, type(None)),
    "int": (int,),
    "int | None": (int, type(None)),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "bool": (bool,),
}
"""What JSON may give for the plain fields of the classes here."""

_Part = TypeVar("_Part", "GroupRow", "DatasetRow", "QualityReport")


@dataclass(frozen=True)
class GroupRow:
    """The figures of the images that have one distortion, level or generator in common."""

    by: str
    """``"distortion"``, ``"level"`` or ``"generator"``."""
    group: str
    """Which one."""
    images: int
    figures: Mapping[str, Figure]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DatasetRow:
    """The figures of one data set."""

    dataset: str
    part: str
    """Which images: ``"all"``, or the part of a split such as ``"test"``."""
    split: str | None
    """How the split was made: official, content or image; None for all images."""
    split_seed: int | None
    """Seed of a random split."""
    score_name: str
    scale: tuple[float, float]
    higher_is_better: bool
    images: int
    """Images that the figures are of."""
    contents: int
    """Different contents among them."""
    fingerprint: str
    """Digest of the names, contents and scores of the images that were to be judged."""
    policy: str
    """Which views of an image were scored."""
    figures: Mapping[str, Figure]
    curves: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    """Coefficients of the logistic curves from quality to quality, by their number."""
    groups: tuple[GroupRow, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    """(name, reason) of images that have no score and were left out."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class QualityReport:
    """The figures of one model on one or several data sets."""

    model: str
    sha256: str
    """Digest of the weights file; empty for a model that never was a file."""
    architecture: str
    parameters: int
    gflops: float | None
    """10^9 multiply-adds of an image of 224 x 224 as the paper counts them; None if unknown."""
    precision: str
    rows: tuple[DatasetRow, ...]
    average: Mapping[str, Figure] = field(default_factory=dict)
    """Plain means over the data sets: ``plcc``, ``srcc`` and ``both``, the mean of the two."""
    resamples: int = 0
    level: float = 0.95
    """Share of the resamples inside an interval."""
    seed: int = 0
    """Seed of the resamples."""
    version: str = ""
    """Version of qmamba that made it."""

    def to_dict(self) -> dict[str, Any]:
        """JSON values; :meth:`from_dict` is the inverse."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Any) -> QualityReport:
        """The report that :meth:`to_dict` described.

        Raises:
            DataError: it is none, or of another format.
        """
        try:
            values = dict(values)
            if values.pop("format") != FORMAT:
                raise ValueError("of another format")
            rows = tuple(_row(dict(row)) for row in values.pop("rows"))
            average = figures_from_dict(values.pop("average"))
            return _checked(cls(rows=rows, average=average, **values))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise _no_report(f"{type(error).__name__}: {error}") from error


def read_report(path: str | os.PathLike[str]) -> QualityReport:
    """Read a report that was written as JSON.

    Raises:
        DataError: the file is missing or holds something else.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise DataError(f"Cannot read {str(path)!r}: {error.strerror}.") from error
    except RecursionError as error:
        raise DataError(f"{str(path)!r}: {_no_report('too deeply nested')}") from error
    except ValueError as error:
        raise DataError(f"{str(path)!r} is not JSON: {error}.") from error
    try:
        return QualityReport.from_dict(content)
    except DataError as error:
        raise DataError(f"{str(path)!r}: {error}") from error


def write_json(path: str | os.PathLike[str], values: Mapping[str, Any]) -> None:
    """Write JSON values in one step.

    Raises:
        DataError: the file cannot be written.
    """
    with atomic_write(path, "w") as stream:
        json.dump(values, stream, indent=1, allow_nan=False)
        stream.write("\n")


def _no_report(reason: str) -> DataError:
    return DataError(
        f"This is no report of an evaluation ({reason}); give the .json file that"
        " `qmamba evaluate -o` wrote."
    )


def _checked(part: _Part) -> _Part:
    """The same, if every text and number in it is one."""
    for each in fields(part):
        kinds, value = _KINDS.get(str(each.type)), getattr(part, each.name)
        if kinds is not None and not isinstance(value, kinds):
            raise TypeError(f"{each.name} is {reprlib.repr(value)}")
    return part


def _row(values: dict[str, Any]) -> DatasetRow:
    values["scale"] = tuple(values["scale"])
    values["figures"] = figures_from_dict(values["figures"])
    values["curves"] = {int(count): tuple(curve) for count, curve in values["curves"].items()}
    values["groups"] = tuple(_group(dict(group)) for group in values["groups"])
    values["skipped"] = tuple((name, reason) for name, reason in values["skipped"])
    values["notes"] = tuple(values["notes"])
    return _checked(DatasetRow(**values))


def _group(values: dict[str, Any]) -> GroupRow:
    values["figures"] = figures_from_dict(values["figures"])
    values["notes"] = tuple(values["notes"])
    return _checked(GroupRow(**values))
