"""From what a person writes to the bytes of a weights file: embedded name, path or hub id."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from qmamba.errors import CheckpointError
from qmamba.models.names import unknown_name
from qmamba.models.registry import MODELS

HUB_FILE = "model.safetensors"
"""The file that is taken from a hub repository when the id names none."""

_SUFFIX = ".safetensors"
_FILE_SUFFIXES = (_SUFFIX, ".pth", ".pt", ".bin", ".ckpt")
# An owner starts with a letter or digit, so "./file" and "../file" are paths.
_HUB_ID = re.compile(r"(?P<owner>\w[\w.-]*)/(?P<name>[\w.-]+)(?:/(?P<file>[\w.-]+(?:/[\w.-]+)*))?")


@dataclass(frozen=True)
class WeightsFile:
    """The content of a weights file and where it came from."""

    content: bytes
    source: str
    """What was asked for: embedded name, path or hub id."""
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
            ``owner/name``, which means its ``model.safetensors``, or ``owner/name/file``. What lies
            in an existing folder ``owner`` is a path.
        revision: branch, tag or commit of a hub repository.

    Raises:
        CheckpointError: there is no such file or it cannot be read or downloaded.
    """
    # An empty name becomes the path "." where it is read as one.
    if str(source) in ("", "."):
        raise CheckpointError(
            "The name of the weights is empty or '.'; give a file, an embedded name or a hub id."
        )
    if isinstance(source, str) and (name := _embedded(source)) is not None:
        entry = resources.files("qmamba") / "weights" / (name + _SUFFIX)
        return WeightsFile(entry.read_bytes(), source, name)
    try:
        path = _local_path(source, revision)
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
    of_model = [name for name in weights if source in MODELS and name.startswith(f"{source}-")]
    return of_model[0] if len(of_model) == 1 else None


def _local_path(source: str | Path, revision: str | None) -> Path:
    path = Path(source).expanduser()
    hub_id = _HUB_ID.fullmatch(source) if isinstance(source, str) else None
    if hub_id and not Path(hub_id["owner"]).exists() and not _has_file_suffix(hub_id["name"]):
        repository = f"{hub_id['owner']}/{hub_id['name']}"
        return _download(repository, hub_id["file"] or HUB_FILE, revision)
    if not _is_path(source) and not path.exists():
        raise CheckpointError(_unknown(str(source)))
    return path


def _is_path(source: str | Path) -> bool:
    return isinstance(source, Path) or "/" in source or "\\" in source or _has_file_suffix(source)


def _has_file_suffix(name: str) -> bool:
    return name.lower().endswith(_FILE_SUFFIXES)


def _unknown(source: str) -> str:
    if source in MODELS:
        return (
            f"There are no weights named {source!r}, only an architecture: use create_model for "
            f"fresh weights, or give a file, a hub id or one of {', '.join(list_weights()) or '-'}."
        )
    return unknown_name("weights", source, [*list_weights(), "a path", "a hub id owner/name"])


def _download(repository: str, file: str, revision: str | None) -> Path:
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(repository, file, revision=revision))
    except Exception as error:  # The hub client lets through errors of several HTTP libraries.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CheckpointError(
            f"There is no local file {repository}/{file}, and the hub did not give it either "
            f"({lines[0].rstrip('.:')}); check the name and the connection."
        ) from error
