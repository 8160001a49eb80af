"""Two folders with versions of the same images: pairs, paired rows and what they say together."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qmamba.assess import Scorer
from qmamba.cells import path_cell
from qmamba.errors import ConfigError, DataError, QMambaError
from qmamba.evaluation.comparison.images import Comparison, compare_images
from qmamba.files import atomic_write
from qmamba.images import DEFAULT_MAX_PIXELS, UnreadableInput, find_images

RESAMPLINGS = 10_000
"""Samples that the interval of the mean is taken from."""

COLUMNS = (
    *("name", "before", "after", "difference", "standard_error", "threshold", "verdict"),
    *("psnr", "width", "height", "policy", "model", "sha256", "note", "error"),
)
"""The fields of a row, in the order of a table's columns."""

_BATCH = 1 << 22


class Pair(NamedTuple):
    """Two versions of one image."""

    name: str
    """Path inside the first folder."""
    before: str
    after: str


class Pairing(NamedTuple):
    """What two folders have in common."""

    pairs: tuple[Pair, ...]
    only_before: tuple[str, ...]
    """Paths inside the first folder that have no partner."""
    only_after: tuple[str, ...]


@dataclass(frozen=True)
class ComparedRow:
    """What became of one pair: a comparison or an error."""

    name: str
    comparison: Comparison | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """A flat dictionary of plain values with the keys :data:`COLUMNS`."""
        values: dict[str, Any] = dict.fromkeys(COLUMNS)
        values.update(name=self.name, error=self.error)
        if self.comparison is not None:
            gain = self.comparison.gain
            values.update(
                before=gain.before.score,
                after=gain.after.score,
                difference=gain.difference,
                standard_error=gain.standard_error,
                threshold=gain.threshold,
                verdict=gain.verdict,
                psnr=self.comparison.psnr if math.isfinite(self.comparison.psnr) else None,
                width=gain.after.width,
                height=gain.after.height,
                policy=gain.after.policy,
                model=gain.after.model,
                sha256=gain.after.sha256,
                note=self.comparison.note,
            )
        return values


@dataclass(frozen=True)
class Summary:
    """What all pairs say together."""

    count: int
    """Pairs that were compared."""
    mean: float
    """Mean of the differences, after minus before."""
    interval: tuple[float, float] | None
    """95 % bootstrap interval of the mean over the images; ``None`` for a single one."""
    better: int
    unchanged: int
    worse: int


def pair_folders(
    before: str | os.PathLike[str], after: str | os.PathLike[str], *, recursive: bool = False
) -> Pairing:
    """Find the images of two folders that belong together.

    Those with the same path inside their folders do; of the rest, those whose paths are the same
    without their ending (``a.jpg`` and ``a.png``), where that leaves no choice. Two files stand for
    a pair of their own.

    Raises:
        DataError: one does not exist, one is a file and the other is a folder, or no two images
            belong together.
    """
    roots = [os.fspath(before), os.fspath(after)]
    for root in roots:
        if not os.path.exists(root):
            raise DataError(f"There is no file or folder {root!r}; check the spelling.")
    if os.path.isdir(roots[0]) != os.path.isdir(roots[1]):
        raise DataError(
            f"{roots[0]!r} and {roots[1]!r} must be two folders or two files; one is a folder."
        )
    if not os.path.isdir(roots[0]):
        return Pairing((Pair(os.path.basename(roots[0]), *roots),), (), ())
    first, second = (_inside(root, recursive) for root in roots)
    partners = {name: name for name in first if name in second}
    stems = [_stems(set(names) - set(partners)) for names in (first, second)]
    partners.update(
        (names[0], stems[1][stem][0])
        for stem, names in stems[0].items()
        if len(names) == len(stems[1].get(stem, ())) == 1
    )
    if not partners:
        hint = "" if recursive else "; --recursive looks into folders inside"
        raise DataError(f"No image of {roots[0]!r} has a partner in {roots[1]!r}{hint}.")
    taken = set(partners.values())
    return Pairing(
        tuple(Pair(name, first[name], second[partners[name]]) for name in sorted(partners)),
        tuple(sorted(set(first) - set(partners))),
        tuple(sorted(set(second) - taken)),
    )


def compare_pairs(
    scorer: Scorer, pairs: Iterable[Pair], *, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Iterator[ComparedRow]:
    """Compare pair after pair; a bad image gives an error row.

    Args:
        scorer: what scores both versions.
        pairs: for example of :func:`pair_folders`.
        max_pixels: largest image that is decoded, in pixels.
    """
    for name, before, after in pairs:
        try:
            yield ComparedRow(name, compare_images(scorer, before, after, max_pixels=max_pixels))
        except QMambaError as error:
            yield ComparedRow(name, error=str(error))
        except Exception as error:
            # One pair must not end the work on all the others, whatever it does.
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            yield ComparedRow(name, error=f"cannot be compared ({reason})")


def summarize(rows: Iterable[ComparedRow], *, seed: int = 0) -> Summary:
    """The mean difference with its interval, and how many images became better or worse.

    Args:
        rows: error rows are left out.
        seed: of the bootstrap.

    Raises:
        DataError: no row has a comparison.
    """
    gains = [row.comparison.gain for row in rows if row.comparison is not None]
    if not gains:
        raise DataError("No two images could be compared, so there is nothing to sum up.")
    differences = np.array([gain.difference for gain in gains])
    verdicts = [gain.verdict for gain in gains]
    return Summary(
        len(gains),
        float(differences.mean()),
        _interval(differences, seed) if len(gains) > 1 else None,
        verdicts.count("better"),
        verdicts.count("no clear change"),
        verdicts.count("worse"),
    )


def write_table(path: str | os.PathLike[str], rows: Iterable[ComparedRow]) -> None:
    """Write rows to a .csv or .jsonl file, which appears under its name when it is complete.

    Raises:
        ConfigError: another ending.
        DataError: the file cannot be written.
    """
    kind = check_table_name(path)
    text = io.StringIO(newline="")
    if kind == ".csv":
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            values = {**row.to_dict(), "name": path_cell(row.name)}
            writer.writerow("" if values[key] is None else values[key] for key in COLUMNS)
    else:
        text.writelines(json.dumps(row.to_dict()) + "\n" for row in rows)
    with atomic_write(path) as stream:
        stream.write(text.getvalue().encode("utf-8", "backslashreplace"))


def check_table_name(path: str | os.PathLike[str]) -> str:
    """The ending of a table's name.

    Raises:
        ConfigError: neither .csv nor .jsonl.
    """
    kind = Path(path).suffix.lower()
    if kind not in (".csv", ".jsonl"):
        raise ConfigError(f"The output {os.fspath(path)!r} must end in .csv or .jsonl.")
    return kind


def _inside(root: str, recursive: bool) -> dict[str, str]:
    found = {}
    for image in find_images([root], recursive=recursive):
        path = image.image if isinstance(image, UnreadableInput) else image
        found[os.path.relpath(path, root)] = path
    return found


def _stems(names: Iterable[str]) -> dict[str, list[str]]:
    stems: dict[str, list[str]] = defaultdict(list)
    for name in names:
        stems[os.path.splitext(name)[0]].append(name)
    return stems


def _interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    generator = np.random.default_rng(seed)
    means: list[np.ndarray] = []
    left = RESAMPLINGS
    while left:
        batch = min(left, max(1, _BATCH // len(values)))
        drawn = generator.integers(0, len(values), (batch, len(values)))
        means.append(values[drawn].mean(1))
        left -= batch
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(low), float(high)
