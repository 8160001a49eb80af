"""The data sets by name: which there are, where they lie, and reading them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from qmamba.datasets.adapter import Adapter, read_folder
from qmamba.datasets.authentic import FLIVE, KONIQ10K, LIVEC, SPAQ
from qmamba.datasets.generated import AGIQA3K, AIGCIQA2023
from qmamba.datasets.records import RatedDataset
from qmamba.datasets.synthetic import CSIQ, KADID10K, LIVE, TID2013
from qmamba.errors import ConfigError, DataError

_SEARCH_DEPTH = 3

ADAPTERS: Mapping[str, Adapter] = {
    "live": LIVE,
    "csiq": CSIQ,
    "tid2013": TID2013,
    "kadid10k": KADID10K,
    "livec": LIVEC,
    "koniq10k": KONIQ10K,
    "flive": FLIVE,
    "spaq": SPAQ,
    "agiqa3k": AGIQA3K,
    "aigciqa2023": AIGCIQA2023,
}
"""Every data set that can be read by name."""


def list_datasets() -> tuple[str, ...]:
    """Names of the data sets that `read_dataset` knows."""
    return tuple(ADAPTERS)


def read_dataset(
    name: str,
    root: str | os.PathLike[str],
    *,
    allow_incomplete: bool = False,
    keep_missing: bool = False,
) -> RatedDataset:
    """Read a data set in its official layout.

    Args:
        name: one of `list_datasets()`.
        root: folder of the data set as published, or one up to three levels above it.
        allow_incomplete: leave out images that are listed and do not exist, and accept another
            number of rows than the data set has. What is left is noted in `notes`.
        keep_missing: keep such images instead, for a reader that names what it cannot open; not
            where their whole folder does not exist.

    Raises:
        ConfigError: unknown name.
        DataError: the data set is not there; a label file is missing, malformed or altered; or,
            unless allowed, it is not complete.
    """
    adapter = find_adapter(name)
    folder = find_folder(adapter, Path(root))
    if folder is None:
        files = " or ".join(repr(file) for file, _ in adapter.label_files)
        raise DataError(
            f"{adapter.title} is not in {str(root)!r} or {_SEARCH_DEPTH} levels below: no folder"
            f" there has the original {files}; see docs/datasets.md for what to put where"
        )
    return read_folder(adapter, folder).dataset(
        adapter.name,
        adapter.title,
        higher_is_better=adapter.higher_is_better,
        allow_incomplete=allow_incomplete,
        keep_missing=keep_missing,
    )


def find_adapter(name: str) -> Adapter:
    """The adapter with this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in ADAPTERS:
        raise ConfigError(
            f"Unknown data set {name!r}; known are {', '.join(ADAPTERS)}, and read_csv_dataset"
            " reads any list of images and scores."
        )
    return ADAPTERS[name]


def find_datasets(root: str | os.PathLike[str]) -> dict[str, Path]:
    """Folders of the known data sets at or up to three levels below `root`, by name.

    Where one occurs more than once, the copy fewest levels down counts, then the first by name.

    Raises:
        DataError: `root` is not a folder.
    """
    found: dict[str, Path] = {}
    for folder in _folders(Path(root)):
        for name, adapter in ADAPTERS.items():
            if name not in found and adapter.marks(folder, look_inside=True):
                found[name] = folder
    return {name: found[name] for name in ADAPTERS if name in found}


def find_folder(adapter: Adapter, root: Path) -> Path | None:
    """Folder of one data set at or below `root`, None where it is not there.

    A label file at `root` itself counts even where its text is not the expected one, so that
    reading it can tell what is wrong.

    Raises:
        DataError: `root` is not a folder.
    """
    if adapter.marks(root, look_inside=False):
        return root
    return next(
        (folder for folder in _folders(root) if adapter.marks(folder, look_inside=True)), None
    )


def _folders(root: Path) -> Iterator[Path]:
    """`root` and the folders below it, level by level; links are followed, each folder once."""
    if not root.is_dir():
        raise DataError(f"{str(root)!r} is not a folder; give the folder that holds the data sets")
    seen = set()
    level = [root]
    for depth in range(_SEARCH_DEPTH + 1):
        below: list[Path] = []
        for folder in level:
            real = os.path.realpath(folder)
            if real in seen:
                continue
            seen.add(real)
            yield folder
            if depth < _SEARCH_DEPTH:
                below += _subfolders(folder)
        level = below


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as scan:
            names = [
                entry.name for entry in scan if not entry.name.startswith(".") and entry.is_dir()
            ]
    except OSError:
        return []
    return [folder / name for name in sorted(names)]
