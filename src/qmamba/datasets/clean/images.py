"""Clean images to learn restoration from: finding them, and setting some aside.

Any folder of images serves, and so do the usual ones as they are unpacked: DIV2K, Flickr2K and
DF2K with their small versions beside them, which are passed over because degradations are made
here, and with DIV2K's validation part, which is kept for validation.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qmamba.errors import DataError, ShapeError
from qmamba.images import IMAGE_SUFFIXES, read_image

VALIDATION_SHARE = 0.05
VALIDATION_LIMIT = 20

_DEGRADED_FOLDER = re.compile(r"(^|[^a-z])(lr|lrbi\w*|noisy|x[2-8])($|[^a-z])")
_VALIDATION_FOLDER = re.compile(r"(^|[^a-z])(val|valid|validation)($|[^a-z])")
_TILE_SUFFIX = re.compile(r"_s\d+$")


@dataclass(frozen=True)
class CleanImage:
    """An image without damage."""

    path: Path
    """Its file."""
    content: str
    """What it shows, as far as the name tells: images of one content, such as tiles of one
    photograph (``0001_s001``, ``0001_s002``), are never on both sides of a split."""
    validation: bool = False
    """Whether the folder says that it belongs to a validation part."""


def find_clean_images(
    folders: Iterable[str | os.PathLike[str]],
    exclude: Iterable[str | os.PathLike[str]] = (),
) -> tuple[CleanImage, ...]:
    """The images in folders and in the folders inside, in the order of their paths.

    Passed over are hidden files and folders whose names say that they hold degraded images (LR,
    LR_bicubic, LRBI, X2, noisy).

    Args:
        folders: where to look; may also name single files.
        exclude: folders or files of images that must not be among them, for example test sets;
            compared by their decoded pixels.

    Raises:
        DataError: a folder does not exist, or no image is left.
        ImageError: an image that has to be compared cannot be decoded.
    """
    paths = sorted({path for folder in folders for path in _images(Path(folder))})
    excluded = {_digest(path) for folder in exclude for path in _images(Path(folder))}
    if excluded:
        paths = [path for path in paths if _digest(path) not in excluded]
    if not paths:
        raise DataError("No clean images are left to train with; give a folder of images.")
    return tuple(
        CleanImage(
            path, _content(path), _VALIDATION_FOLDER.search(path.parent.name.lower()) is not None
        )
        for path in paths
    )


def split_clean_images(
    images: Sequence[CleanImage],
) -> tuple[tuple[CleanImage, ...], tuple[CleanImage, ...]]:
    """Training part and validation part, without a content in both.

    The validation part is what the folders say; where they say nothing, the contents whose names
    have the smallest SHA-256, one in twenty and at most 20. It thus depends on the names alone and
    on no seed.

    Raises:
        DataError: fewer than two contents.
    """
    contents = sorted({image.content for image in images})
    held = {image.content for image in images if image.validation}
    if not held:
        count = min(max(1, round(VALIDATION_SHARE * len(contents))), VALIDATION_LIMIT)
        held = set(sorted(contents, key=_name_digest)[:count])
    if len(held) == len(contents):
        raise DataError(
            f"{len(contents)} contents cannot be divided into a training and a validation part; "
            "give more images."
        )
    return (
        tuple(image for image in images if image.content not in held),
        tuple(image for image in images if image.content in held),
    )


def read_clean(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """8-bit sRGB pixels ``(height, width, 3)`` of an image.

    Raises:
        ImageError: it cannot be decoded.
    """
    pixels = read_image(path).pixels
    if pixels.dtype == np.uint16:
        return np.round(pixels / np.float32(257.0)).astype(np.uint8)
    return pixels


@contextmanager
def image_named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Put the name of the image before what is said of its shape.

    Raises:
        ShapeError: as the block raised it, with the name.
    """
    try:
        yield
    except ShapeError as error:
        raise ShapeError(f"The image {os.fspath(path)!r} cannot be used: {error}") from error


def _images(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise DataError(f"There is no folder {str(folder)!r}; check the spelling.")
    found = []
    for index, inside, names in os.walk(folder):
        inside[:] = [
            name
            for name in inside
            if not name.startswith(".") and not _DEGRADED_FOLDER.search(name.lower())
        ]
        found += [
            Path(index, name)
            for name in names
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
        ]
    return sorted(found)


def _content(path: Path) -> str:
    return _TILE_SUFFIX.sub("", path.stem.lower())


def _name_digest(content: str) -> str:
    return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()


def _digest(path: Path) -> str:
    pixels = read_clean(path)
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
