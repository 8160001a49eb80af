"""Scoring many images and writing the quality map of each beside its row."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np

from qmamba.assess.folder import Found, ImageRow
from qmamba.assess.maps import QualityMap
from qmamba.assess.overlay import MAX_SIDE, overlay
from qmamba.assess.scorer import Scorer
from qmamba.errors import ConfigError, DataError, QMambaError
from qmamba.files import atomic_write, make_folder
from qmamba.images import UnreadableInput

MapFormat: TypeAlias = Literal["png", "npy"]
"""``png``: the map over the image with a legend. ``npy``: the values, float32 (height, width) of
the upright image, NaN where no view looks."""

Target: TypeAlias = Callable[[str], Path]
"""Where the map of an image goes, by the image's path."""


class MapFolder:
    """Names the maps in a folder after their images: ``holiday/a.jpg`` gives ``a.jpg.png``.

    Images from inside one of the input folders keep their inner folders. Where two images would
    have one name, the later gets a number.

    Args:
        folder: where the maps go; made when the first is written.
        inputs: what the images were found in; folders among them count.
        map_format: see :data:`MapFormat`.
    """

    def __init__(
        self, folder: str | Path, inputs: Iterable[str] = (), map_format: MapFormat = "png"
    ) -> None:
        check_format(map_format)
        self._folder = Path(folder)
        self._inputs = [os.path.normpath(path) for path in inputs if os.path.isdir(path)]
        self._suffix = f".{map_format}"
        self._taken: set[str] = set()

    def __call__(self, image: str) -> Path:
        name = os.path.basename(image)
        for folder in self._inputs:
            inside = os.path.relpath(image, folder)
            if not inside.startswith(os.pardir):
                name = inside
                break
        number = 1
        unique = name
        while unique in self._taken:
            number += 1
            unique = f"{name}-{number}"
        self._taken.add(unique)
        return self._folder / (unique + self._suffix)


def map_paths(
    scorer: Scorer,
    paths: Iterable[Found],
    target: Target,
    map_format: MapFormat = "png",
) -> Generator[ImageRow, None, None]:
    """Score image files as :func:`~qmamba.assess.score_paths` does, and write the map of each.

    Args:
        scorer: what scores them; the scores have the same bits as without maps.
        paths: files; a row among them is handed on.
        target: where each map goes, for example a :class:`MapFolder`. Missing folders are made.
        map_format: see :data:`MapFormat`.

    Raises:
        ConfigError: the format is unknown or the model has no maps.
        DataError: a map cannot be written, because the disk is full for example.
    """
    check_format(map_format)
    for path in paths:
        if isinstance(path, ImageRow):
            yield path
            continue
        if isinstance(path, UnreadableInput):
            yield ImageRow(path.image, error=path.error)
            continue
        name = os.fspath(path)
        try:
            quality = scorer.map(name, max_side=MAX_SIDE if map_format == "png" else None)
            content = _content(name, quality, map_format)
        except ConfigError:
            raise
        except QMambaError as error:
            # The row names the image already.
            yield ImageRow(name, error=str(error).replace(f" {name!r}", ""))
            continue
        file = target(name)
        make_folder(file.parent)
        with atomic_write(file) as stream:
            stream.write(content)
        yield ImageRow(name, score=quality.score)


def check_format(map_format: str) -> None:
    """Raise a ConfigError if a format of maps is unknown."""
    if map_format not in get_args(MapFormat):
        raise ConfigError(
            f"The format of maps {map_format!r} is unknown; choose one of "
            f"{', '.join(get_args(MapFormat))}."
        )


def format_of_map(path: Path) -> MapFormat:
    """The format that the name of a map file asks for.

    Raises:
        ConfigError: it ends in neither .png nor .npy.
        DataError: it is a folder.
    """
    if path.is_dir():
        raise DataError(f"Cannot write {str(path)!r}: it is a folder; --maps takes one.")
    for known in get_args(MapFormat):
        if path.suffix.lower() == f".{known}":
            return known
    raise ConfigError(f"The map {str(path)!r} must end in .png or .npy.")


def _content(name: str, quality: QualityMap, map_format: MapFormat) -> bytes:
    stream = io.BytesIO()
    if map_format == "npy":
        np.save(stream, quality.values)
    else:
        overlay(name, quality).save(stream, "PNG", optimize=True)
    return stream.getvalue()
