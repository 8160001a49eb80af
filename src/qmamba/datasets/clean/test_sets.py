"""The test sets of restoration, as they are handed around.

=============  ======================================================  ======  ==================
set            folders that are recognized                             images  customary task
=============  ======================================================  ======  ==================
Set5, Set14    the name                                                5, 14   super-resolution
BSD100         BSD100, B100, BSDS100; ``val`` of BSDS500               100     super-resolution
Urban100       the name                                                100     super-resolution
Manga109       the name                                                109     super-resolution
CBSD68         CBSD68; or the 68 images of BSD100                    68      color denoising
Kodak24        Kodak24, Kodak                                          24      color denoising
McMaster       McMaster, McM                                           18      color denoising
Classic5       the name                                                5       JPEG, gray
LIVE1          LIVE1, LIVE1_color                                      29      JPEG, gray
=============  ======================================================  ======  ==================

Any other folder can be named too. Inside, the originals lie directly or in a folder ``HR``, ``GT``,
``GTmod12``, ``original`` or ``image_SRF_2``; small versions, which are made here anyway, are passed
over.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from qmamba.datasets.clean.cbsd68 import CBSD68_NAMES
from qmamba.errors import DataError
from qmamba.images import IMAGE_SUFFIXES

RESTORATION_SETS: dict[str, tuple[tuple[str, ...], int]] = {
    "Set5": (("set5",), 5),
    "Set14": (("set14",), 14),
    "BSD100": (("bsd100", "b100", "bsds100"), 100),
    "Urban100": (("urban100",), 100),
    "Manga109": (("manga109",), 109),
    "CBSD68": (("cbsd68",), 68),
    "Kodak24": (("kodak24", "kodak"), 24),
    "McMaster": (("mcmaster", "mcm"), 18),
    "Classic5": (("classic5",), 5),
    "LIVE1": (("live1", "live1_color"), 29),
}
"""Names of folders, in small letters, and the number of images of every set."""

CUSTOMARY_SETS: dict[str, tuple[str, ...]] = {
    "sr": ("Set5", "Set14", "BSD100", "Urban100", "Manga109"),
    "denoise": ("CBSD68", "Kodak24", "McMaster", "Urban100"),
    "jpeg": ("Classic5", "LIVE1"),
}
"""The sets of published tables by task."""

_ORIGINALS = re.compile(r"(hr|gt\w*|original\w*|image_srf_\d)", re.IGNORECASE)
_SMALL = re.compile(r"(^|[_\-])(lr|lrbi)($|[_\-])|(?<!_hr_)(?<!_hr)x\d$", re.IGNORECASE)
_DECORATION = re.compile(r"(_srf_\d)?_(hr|gt)(_?x\d)?$", re.IGNORECASE)
_DEEPEST = 3


@dataclass(frozen=True)
class RestorationSet:
    """Original images of a test set."""

    name: str
    """Of the set."""
    paths: tuple[Path, ...]
    """Of the originals, in the order of their names."""
    complete: bool = True
    """Whether there are as many as the published set has; True for a set of one's own."""

    @property
    def names(self) -> tuple[str, ...]:
        """The images' names without what folders and tools add to them."""
        return tuple(_DECORATION.sub("", path.stem) for path in self.paths)


def find_restoration_set(name: str, root: str | os.PathLike[str]) -> RestorationSet | None:
    """A test set below a folder; None where it is not there.

    Args:
        name: a key of :data:`RESTORATION_SETS` in any case, the name of a folder below ``root``, or
            the path of a folder.
        root: the set's folder, or one up to three levels above it.

    Raises:
        DataError: `root` is not a folder, or the set's folder holds no images.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"There is no folder {str(root)!r}; check the spelling.")
    known = next((each for each in RESTORATION_SETS if each.lower() == name.lower()), None)
    if known is None:
        folder = Path(name) if Path(name).is_dir() else _named(root, (name.lower(),))
        return None if folder is None else RestorationSet(folder.name, _originals(folder))
    aliases, count = RESTORATION_SETS[known]
    folder = _named(root, aliases)
    if folder is not None:
        paths = _originals(folder)
    elif known == "BSD100":
        paths = _part_of_bsds500(root)
    elif known == "CBSD68":
        whole = find_restoration_set("BSD100", root)
        paths = () if whole is None else whole.paths
        paths = tuple(path for path in paths if path.stem in CBSD68_NAMES)
    else:
        paths = ()
    return RestorationSet(known, paths, len(paths) == count) if paths else None


def _part_of_bsds500(root: Path) -> tuple[Path, ...]:
    """BSD100 is the validation part of BSDS500."""
    for folder in _folders(root):
        if folder.name == "val" and folder.parent.name == "images":
            return _originals(folder)
    return ()


def _named(root: Path, names: tuple[str, ...]) -> Path | None:
    """The uppermost folder with one of the names, the root itself included."""
    return next((folder for folder in _folders(root) if folder.name.lower() in names), None)


def _folders(root: Path) -> Iterator[Path]:
    level = [root.absolute()]
    for _ in range(_DEEPEST + 1):
        yield from level
        level = sorted(
            inside
            for folder in level
            for inside in folder.iterdir()
            if inside.is_dir() and not inside.name.startswith(".")
        )


def _originals(folder: Path) -> tuple[Path, ...]:
    inside = sorted(each for each in folder.iterdir() if _ORIGINALS.fullmatch(each.name))
    indices = [folder, *(each for each in inside if each.is_dir())]
    for index in indices:
        found = sorted(
            path
            for path in index.iterdir()
            if path.suffix.lower() in IMAGE_SUFFIXES
            and not path.name.startswith(".")
            and not _SMALL.search(path.stem)
        )
        if found:
            return tuple(found)
    raise DataError(f"The folder {str(folder)!r} holds no original images.")
