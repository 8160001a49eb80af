"""From what a person writes to the bytes of a weights file: embedded name, path or hub id."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from qmamba.checkpoints.hub.download import HubId, download
from qmamba.errors import CheckpointError, ConfigError, unknown_name
from qmamba.models.registry import named_configs

_SUFFIX = ".safetensors"
_FILE_SUFFIXES = (_SUFFIX, ".pth", ".pt", ".bin", ".ckpt")


@dataclass(frozen=True)
class WeightsFile:
    """The content of a weights file and where it came from."""

    content: bytes
    source: str
    """What was asked for: embedded name or path; a hub id with the commit that was taken."""
    stem: str
    """Name of the file without its folder and suffix."""


def list_weights() -> list[str]:
    """Names of the weights that come inside the package."""
    folder = resources.files("qmamba") / "weights"
    if not folder.is_dir():
        return []
    return sorted(
        entry.name[: -len(_SUFFIX)] for entry in folder.iterdir() if entry.name.endswith(_SUFFIX)
    )


def read_weights(source: str | Path, revision: str | None = None) -> WeightsFile:
    """Find and read a weights file.

    Args:
        source: name of embedded weights (:func:`list_weights`), or of a model of which only one
            set of weights is embedded, for example ``qmamba-nano``; or a path; or a hub id
            ``owner/name``, which means its ``model.safetensors``, or ``owner/name/file``; with
            ``owner/name@revision`` at a branch, tag or commit. What lies in an existing folder
            ``owner`` is a path.
        revision: branch, tag or commit of a hub repository.

    Raises:
        CheckpointError: there is no such file, or it cannot be read or downloaded.
        ConfigError: ``source`` names one revision and ``revision`` is another, or is no name.
    """
    if not isinstance(source, (str, os.PathLike)):
        what = "None" if source is None else f"a {type(source).__name__}"
        raise ConfigError(
            f"Weights are given as a name, a path or a hub id, not as {what}; a network that is"
            " loaded already is used as it is, as in Scorer(network)."
        )
    # An empty name becomes the path "." where it is read as one.
    if str(source) in ("", "."):
        raise CheckpointError(
            "The name of the weights is empty or '.'; give a file, an embedded name or a hub id."
        )
    if isinstance(source, str) and (name := _embedded(source)) is not None:
        entry = resources.files("qmamba") / "weights" / (name + _SUFFIX)
        return WeightsFile(entry.read_bytes(), source, name)
    hub_id = _hub_id(source)
    if hub_id is not None:
        content, taken = download(hub_id.at(revision))
        return WeightsFile(content, str(taken), Path(taken.file).stem)
    try:
        path = Path(source).expanduser()
        if not _is_path(source) and not path.exists():
            raise CheckpointError(_unknown(str(source)))
        if not path.is_file():
            problem = (
                "is not a file; give the weights file itself" if path.exists() else "is absent"
            )
            raise CheckpointError(f"The weights file {path} {problem}.")
        return WeightsFile(path.read_bytes(), str(source), path.stem)
    except CheckpointError:
        raise
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"The weights file {source} cannot be read: {error}.") from error


def _embedded(source: str) -> str | None:
    """The embedded weights that a name stands for: their own, or that of their model."""
    weights = list_weights()
    if source in weights:
        return source
    of_model = [
        name for name in weights if source in named_configs() and name.startswith(f"{source}-")
    ]
    return of_model[0] if len(of_model) == 1 else None


def _hub_id(source: str | Path) -> HubId | None:
    """What the source means on the hub, if it is not a path."""
    found = HubId.parse(source) if isinstance(source, str) else None
    if found is None or Path(found.owner).exists() or _has_file_suffix(found.name):
        return None
    return found


def _is_path(source: str | Path) -> bool:
    return isinstance(source, Path) or "/" in source or "\\" in source or _has_file_suffix(source)


def _has_file_suffix(name: str) -> bool:
    return name.lower().endswith(_FILE_SUFFIXES)


def _unknown(source: str) -> str:
    if source in named_configs():
        return (
            f"There are no weights named {source!r}, only an architecture: use create_model for "
            f"fresh weights, or give a file, a hub id or one of {', '.join(list_weights()) or '-'}."
        )
    return unknown_name("weights", source, [*list_weights(), "a path", "a hub id owner/name"])
