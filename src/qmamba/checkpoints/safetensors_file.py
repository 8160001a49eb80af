"""What every reader and writer of safetensors files needs: header, tensors, finite values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from qmamba.checkpoints.sources import WeightsFile
from qmamba.errors import CheckpointError
from qmamba.models.metadata import shortened

METADATA_KEY = "qmamba"
"""Key of the safetensors metadata that holds the description of the model."""
MOST_TENSORS = 20_000
"""Tensors that a file may hold; the largest networks here have less than a tenth of it."""


def header_of(content: bytes) -> dict[str, Any]:
    """The header of a safetensors file as it stands there.

    Raises:
        ValueError, RecursionError: the content is not that of such a file.
    """
    length = int.from_bytes(content[:8], "little")
    if length >= len(content):
        raise ValueError("the header is longer than the file")
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    return header


def read_tensors(file: WeightsFile) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the texts of the metadata.

    Raises:
        CheckpointError: the file is malformed, or holds more tensors than any network.
    """
    try:
        header = header_of(file.content)
        if len(header) > MOST_TENSORS:
            raise ValueError(
                f"it holds {len(header):,} tensors, a network at most {MOST_TENSORS:,}"
            )
        tensors = safetensors.torch.load(file.content)
    except Exception as error:  # Whatever a malformed file provokes, it is a malformed file.
        raise CheckpointError(
            f"{file.source} is not a readable safetensors file: {error}."
        ) from error
    return tensors, header.get("__metadata__") or {}


def require_finite(tensors: Mapping[str, Tensor], problem: str) -> None:
    """Raise CheckpointError with this problem and the names of tensors that are not finite."""
    bad = tuple(key for key, tensor in tensors.items() if not bool(torch.isfinite(tensor).all()))
    if bad:
        raise CheckpointError(f"{problem}: not finite in {shortened(bad)}.")
