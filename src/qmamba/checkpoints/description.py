"""What a weights file of ours says about itself, without its tensors."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from qmamba.checkpoints.safetensors_file import METADATA_KEY, header_of
from qmamba.checkpoints.sources import WeightsFile, read_weights
from qmamba.errors import CheckpointError, ConfigError
from qmamba.models import metadata as descriptions
from qmamba.models.metadata import ModelMetadata


def describe(source: str | Path, *, revision: str | None = None) -> ModelMetadata:
    """Read the metadata of a weights file, in full precision or packed to few bits.

    Args:
        source: an embedded name (:func:`list_weights`), a path, or a hub id.
        revision: branch, tag or commit of a hub repository.

    Raises:
        CheckpointError: the file cannot be found or is not one of ours.
    """
    return describe_content(read_weights(source, revision))


def describe_content(file: WeightsFile) -> ModelMetadata:
    """The metadata of a weights file that has been read; see :func:`describe`."""
    try:
        text = header_of(file.content)["__metadata__"][METADATA_KEY]
        _, metadata = descriptions.decode(text)
    except (ValueError, KeyError, TypeError, RecursionError, ConfigError) as error:
        raise CheckpointError(
            f"{file.source} carries no readable description of a model of ours."
        ) from error
    digest = hashlib.sha256(file.content).hexdigest()
    return dataclasses.replace(metadata, sha256=digest, source=file.source)
