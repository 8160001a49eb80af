"""The images that files, folders, patterns and lists stand for."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO

from qmamba.errors import DataError
from qmamba.images.decode import IMAGE_SUFFIXES

_CHUNK = 65_536

_OTHER_IMAGES = frozenset(
    (
        *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".psd", ".tga", ".ppm", ".pgm"),
        *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw"),
    )
)
"""Endings of images that a folder may hold and that are not looked for."""


@dataclass
class LeftOut:
    """Images of folders and patterns that are of no kind that is read."""

    endings: Counter[str] = field(default_factory=Counter)
    """How many have which ending, in lower case."""

    def note(self, path: str) -> None:
        """Count a file that is not looked for, if it is an image."""
        ending = os.path.splitext(path)[1].lower()
        if ending in _OTHER_IMAGES:
            self.endings[ending] += 1

    @property
    def sentence(self) -> str:
        """What was left out and what to do; empty where nothing was.

        Example:
            >>> found = LeftOut()
            >>> found.note("holiday/IMG_1.HEIC")
            >>> found.sentence
            'Left out: 1 .heic file, a kind that is not read; convert it to JPEG or PNG first.'
        """
        if not self.endings:
            return ""
        files = [f"{count} {ending}" for ending, count in self.endings.most_common()]
        one = self.endings.total() == 1
        kinds = "a kind that is" if len(files) == 1 else "kinds that are"
        return (
            f"Left out: {', '.join(files)} {'file' if one else 'files'}, {kinds} not read; convert"
            f" {'it' if one else 'them'} to JPEG or PNG first."
        )


@dataclass(frozen=True)
class UnreadableInput:
    """An input that stands for images and cannot be looked into."""

    image: str
    """Its path."""
    error: str
    """Why: one sentence."""


def find_images(
    inputs: Iterable[str],
    *,
    recursive: bool = False,
    stdin: BinaryIO | None = None,
    suffixes: Set[str] = IMAGE_SUFFIXES,
    left_out: LeftOut | None = None,
) -> Iterator[str | UnreadableInput]:
    """The images that a list of inputs stands for, one after the other.

    A file stands for itself whatever its name. A folder stands for the files in it that have an
    image suffix, in the order of their names, hidden ones left out; with ``recursive`` also for the
    folders inside, each visited once even where symbolic links make a loop. A pattern such as
    ``photos/**/*.jpg`` stands for the matching images and folders, each image once; ``**`` visits
    folders as ``recursive`` does. ``-`` stands for the inputs
    listed on ``stdin``, one per line, or separated by NUL characters as ``find -print0`` does.
    What is mentioned twice comes twice. What does not exist comes as it is, so that it gets its
    error row in its place; a folder that cannot be read comes as an :class:`UnreadableInput`.
    ``suffixes``, in lower case, are those that files of folders and patterns must have; images that
    have others are counted in ``left_out``.
    """
    wanted = _Wanted(recursive, suffixes, LeftOut() if left_out is None else left_out)
    for text in inputs:
        if text != "-":
            yield from _expand(text, wanted)
        elif stdin is not None:
            for line in _listed(stdin):
                yield from _expand(line, wanted)


def require_existing(inputs: Iterable[str]) -> None:
    """Check that at least one of the inputs of :func:`find_images` exists.

    Raises:
        DataError: none does.
    """
    inputs = list(inputs)
    if not any(text == "-" or os.path.lexists(text) or any(_matches(text)) for text in inputs):
        names = " or ".join(map(repr, inputs))
        if any(glob.has_magic(text) for text in inputs):
            raise DataError(f"No file matches {names}; check the spelling and the folder.")
        raise DataError(f"There is no file or folder {names}; check the spelling.")


@dataclass(frozen=True)
class _Wanted:
    """Which files of folders and patterns are looked for."""

    recursive: bool
    suffixes: Set[str]
    left_out: LeftOut

    def has(self, path: str) -> bool:
        """Whether a file is one of them; an image of another kind is counted."""
        if os.path.splitext(path)[1].lower() in self.suffixes:
            return True
        self.left_out.note(path)
        return False


def _expand(text: str, wanted: _Wanted) -> Iterator[str | UnreadableInput]:
    if os.path.isdir(text):
        yield from _folder(text, wanted)
    elif os.path.lexists(text):
        yield text
    else:
        matches = sorted(_matches(text))
        if not matches:
            yield text
        seen: set[str] = set()
        for match in matches:
            is_folder = os.path.isdir(match)
            entries = _folder(match, wanted) if is_folder else [match]
            for entry in entries:
                if isinstance(entry, UnreadableInput):
                    yield entry
                elif wanted.has(entry) and (place := _place(entry)) not in seen:
                    seen.add(place)
                    yield entry


def _place(path: str) -> str:
    """Where a file lies, however links lead there; a link to a file is a file of its own."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def _matches(text: str) -> Iterator[str]:
    return _globbed(text) if glob.has_magic(text) else iter(())


def _globbed(text: str) -> Iterator[str]:
    # The `**` of glob follows links round and round.
    parts = text.replace(os.altsep or os.sep, os.sep).split(os.sep)
    if "**" not in parts:
        yield from glob.iglob(text)
        return
    index = parts.index("**")
    before = os.sep.join([*parts[:index], ""])
    after = [part for part in parts[index + 1 :] if part not in ("**", "")] or ["*"]
    for start in glob.iglob(before) if before else [before]:
        for folder in _folders_below(start):
            yield from glob.iglob(os.path.join(glob.escape(folder), *after))


def _folders_below(start: str) -> Iterator[str]:
    """A folder, "" for the present one, and all below it, each once; hidden ones left out."""
    visited: set[tuple[int, int]] = set()
    waiting = [start]
    while waiting:
        folder = waiting.pop()
        # As in glob, a pattern passes over what cannot be read.
        with suppress(OSError):
            known = len(visited)
            entries = list(_entries(folder or os.curdir, visited))
            if len(visited) > known:
                names = [os.path.basename(path) for path, is_folder in entries if is_folder]
                waiting += [os.path.join(folder, name) for name in reversed(names)]
                yield folder


def _folder(folder: str, wanted: _Wanted) -> Iterator[str | UnreadableInput]:
    visited: set[tuple[int, int]] = set()
    open_folders = [_entries(folder, visited)]
    while open_folders:
        try:
            entry = next(open_folders[-1], None)
        except OSError as error:
            yield UnreadableInput(error.filename, error=f"cannot read the folder: {error.strerror}")
            entry = None
        if entry is None:
            open_folders.pop()
            continue
        path, is_folder = entry
        if is_folder:
            if wanted.recursive:
                open_folders.append(_entries(path, visited))
        elif wanted.has(path):
            yield path


def _entries(folder: str, visited: set[tuple[int, int]]) -> Iterator[tuple[str, bool]]:
    """Paths of what lies in a folder, sorted, and which are folders; each folder once."""
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in visited:
        return
    visited.add((status.st_dev, status.st_ino))
    names, folders = [], set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                names.append(entry.name)
                with suppress(OSError):
                    if entry.is_dir():
                        folders.add(entry.name)
    names.sort()
    start = os.path.join(folder, "")
    for name in names:
        yield start + name, name in folders


def _listed(stream: BinaryIO) -> Iterator[str]:
    """Names in a list that is separated by line ends, or by NUL if its first chunk has any."""
    separator, rest = b"", b""
    # What has arrived is scored while the writer of the list is still at work.
    read = getattr(stream, "read1", stream.read)
    while chunk := read(_CHUNK):
        separator = separator or (b"\0" if b"\0" in chunk else b"\n" if b"\n" in chunk else b"")
        *names, rest = (rest + chunk).split(separator) if separator else [rest + chunk]
        yield from filter(None, (_decoded(name, separator) for name in names))
    if name := _decoded(rest, separator):
        yield name


def _decoded(name: bytes, separator: bytes) -> str:
    return os.fsdecode(name if separator == b"\0" else name.removesuffix(b"\r"))
