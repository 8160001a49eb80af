"""What is to be scored: folders, lists, patterns, tar and Parquet files as one stream of names.

Every name lies under a root, the folder that was named or the one that a named file lies in. Keys
are made of the path below the root, so they stay the same when the data move.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from qmamba.errors import ConfigError

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
"""Endings of the archives whose members are scored."""
PARQUET_SUFFIX = ".parquet"


@dataclass(frozen=True)
class Root:
    """A folder that names lie under."""

    path: str
    """The folder, absolute."""
    label: str
    """What keys begin with, "" where there is one root only."""


@dataclass(frozen=True)
class Found:
    """One file that was found."""

    root: int
    """Index of its root."""
    name: str
    """Path below the root."""

    @property
    def is_tar(self) -> bool:
        return self.name.lower().endswith(TAR_SUFFIXES)

    @property
    def is_parquet(self) -> bool:
        return self.name.lower().endswith(PARQUET_SUFFIX)


class Sources:
    """The files that a list of inputs stands for.

    Args:
        inputs: folders, patterns, files, and ``-`` for a list on ``stdin``; see
            :func:`qmamba.images.find_images`. Beside images, tar and Parquet files count.
        recursive: go into the folders inside folders.
        stdin: where the list is read from.
        without: a folder whose files do not count, for that of the scores.

    Raises:
        ConfigError: an address of a network, or two lists on standard input.
        DataError: none of the inputs exists.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        *,
        recursive: bool = False,
        stdin: BinaryIO | None = None,
        without: str | os.PathLike[str] | None = None,
    ) -> None:
        for text in inputs:
            if "://" in text:
                raise ConfigError(
                    f"{text!r} is an address on a network; mount it as a folder, copy it here, or"
                    " score it with --ray, which reads object stores."
                )
        if list(inputs).count("-") > 1:
            raise ConfigError("The list on standard input (-) can be read once only.")
        from qmamba.images import require_existing

        require_existing(inputs)
        self._recursive = recursive
        self._without = None if without is None else os.path.join(os.path.abspath(without), "")
        self._listed = [] if "-" not in inputs else list(self._find("-", stdin))
        self._inputs = list(inputs)
        folders = [self._root_of(text) for text in self._inputs]
        self._index = {folder: i for i, folder in enumerate(dict.fromkeys(folders))}
        self._folders = folders

    @property
    def roots(self) -> list[Root]:
        """The roots, in the order of the inputs."""
        folders = list(self._index)
        return [Root(path, label) for path, label in zip(folders, _labels(folders), strict=True)]

    def __iter__(self) -> Iterator[Found]:
        """The files, in the order of the inputs, each once."""
        seen: set[tuple[int, str]] | None = set() if len(self._inputs) > 1 else None
        for text, folder in zip(self._inputs, self._folders, strict=True):
            is_folder = text != "-" and os.path.isdir(text)
            names = iter(self._listed)
            if text != "-":
                names = self._find(folder if is_folder else text, None)
            start = folder.rstrip(os.sep) + os.sep
            for path in dict.fromkeys(names) if text == "-" else names:
                if not is_folder:
                    path = os.path.abspath(path)
                if self._without is not None and path.startswith(self._without):
                    continue
                name = path[len(start) :] if path.startswith(start) else os.path.basename(path)
                if seen is not None:
                    if (self._index[folder], name) in seen:
                        continue
                    seen.add((self._index[folder], name))
                yield Found(self._index[folder], name)

    def _find(self, text: str, stdin: BinaryIO | None) -> Iterator[str]:
        from qmamba.images import IMAGE_SUFFIXES, UnreadableInput, find_images

        suffixes = IMAGE_SUFFIXES | {".tar", ".gz", ".tgz", PARQUET_SUFFIX}
        found = find_images([text], recursive=self._recursive, stdin=stdin, suffixes=suffixes)
        for entry in found:
            # A folder that cannot be read gets its error row when it is opened as an image.
            path = entry.image if isinstance(entry, UnreadableInput) else entry
            if not path.lower().endswith(".gz") or path.lower().endswith(TAR_SUFFIXES):
                yield path

    def _root_of(self, text: str) -> str:
        if text == "-":
            folders = {os.path.dirname(os.path.abspath(path)) for path in self._listed}
            return os.path.commonpath(folders) if folders else os.getcwd()
        if os.path.isdir(text):
            return os.path.abspath(text)
        if os.path.lexists(text):
            return os.path.dirname(os.path.abspath(text))
        parts = text.split(os.sep)
        plain = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
        start = os.sep.join(parts[:plain])
        return os.path.abspath(start or (os.sep if os.path.isabs(text) else os.curdir))


def _labels(folders: list[str]) -> list[str]:
    """The shortest labels that tell the folders apart."""
    if len(folders) == 1:
        return [""]
    names = [os.path.basename(folder) for folder in folders]
    if len(set(names)) == len(names) and all(names):
        return names
    common = os.path.commonpath(folders)
    return [os.path.relpath(folder, common) for folder in folders]
