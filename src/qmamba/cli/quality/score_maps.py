"""`qmamba score --map` and `--maps`: where quality maps go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from qmamba.cli.common import hold, require_new, take_outputs
from qmamba.errors import ConfigError
from qmamba.locks import owned_folder

if TYPE_CHECKING:
    from qmamba.assess import MapFormat
    from qmamba.assess.map_files import Target
    from qmamba.images import UnreadableInput


class MapFileFormat(str, Enum):
    """Formats of quality maps."""

    png = "png"
    npy = "npy"


def chosen_maps(
    paths: list[str],
    file: Path | None,
    folder: Path | None,
    wanted: MapFileFormat | None,
    *,
    force: bool,
) -> tuple[Target, MapFormat] | None:
    """Where the quality maps go and their format; None where none are asked for.

    Raises:
        ConfigError: the options contradict each other, or the map of one image is there already.
        DataError: another process writes there, or the place is not writable.
    """
    from qmamba.assess.map_files import MapFolder, format_of_map

    if file is not None and folder is not None:
        raise ConfigError("--map writes one map and --maps a folder of them; choose one.")
    if file is not None:
        if len(paths) != 1 or paths == ["-"] or not os.path.isfile(paths[0]):
            raise ConfigError("--map is for one image file; --maps FOLDER takes many.")
        kind = format_of_map(file)
        if wanted is not None and wanted.value != kind:
            raise ConfigError(f"--map-format {wanted.value} contradicts the name {str(file)!r}.")
        if os.path.realpath(file) == os.path.realpath(paths[0]):
            raise ConfigError(f"{str(file)!r} is the image itself; choose another name.")
        take_outputs(file, force=force)
        return (lambda image: file), kind
    if folder is None:
        if wanted is not None:
            raise ConfigError("--map-format needs --maps FOLDER.")
        return None
    kind = "npy" if wanted is MapFileFormat.npy else "png"
    hold(owned_folder(folder))
    return MapFolder(folder, paths, kind), kind


def without_maps(
    found: Iterator[str | UnreadableInput], folder: Path, paths: list[str], kind: MapFormat
) -> Iterator[str | UnreadableInput]:
    """The same images, none of which has a map in the folder.

    Raises:
        ConfigError: one of them has.
    """
    from qmamba.assess.map_files import MapFolder

    images = list(found)
    target = MapFolder(folder, paths, kind)
    require_new(*(target(image) for image in images if isinstance(image, str)))
    return iter(images)
