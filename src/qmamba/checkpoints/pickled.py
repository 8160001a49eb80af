"""PyTorch checkpoints: no code of theirs runs, no memory is taken that the file does not back."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from qmamba.checkpoints.safetensors_file import MOST_TENSORS
from qmamba.checkpoints.sources import WeightsFile
from qmamba.errors import CheckpointError

# Tensors of a file may share memory, as tied weights do.
_MOST_SHARED = 4
_SLACK = 1 << 20


def read_pickled(file: WeightsFile) -> Any:
    """The content of a PyTorch checkpoint, without running any code of it.

    Raises:
        CheckpointError: it is none, is damaged, holds more than tensors, or is compressed.
    """
    if not file.content.startswith((b"PK\x03\x04", b"\x80")):
        raise CheckpointError(
            f"{file.source} is neither a safetensors file nor a PyTorch checkpoint."
        )
    _require_stored(file)
    try:
        with warnings.catch_warnings():
            # torch asks for a report of every pickle that it did not write itself.
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            return torch.load(io.BytesIO(file.content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file.source} holds more than tensors and was not opened, because that would run "
            "code of the file; save its state dict alone."
        ) from error
    except Exception as error:  # Whatever a malformed file provokes, it is a malformed file.
        reason = (str(error).splitlines() or [""])[0]
        raise CheckpointError(
            f"{file.source} is not a readable PyTorch checkpoint: {type(error).__name__} {reason}."
        ) from error


def require_backed(state: Mapping[str, Tensor], file_bytes: int) -> None:
    """Refuse tensors that would take more memory than the file has bytes for.

    A tensor of stride 0 claims any size with a few bytes; the copy that a network gets would take
    all of it.

    Args:
        state: tensors as they were read, before any copy of them.
        file_bytes: size of the file.

    Raises:
        CheckpointError: there are too many tensors, or they are larger than the file.
    """
    if len(state) > MOST_TENSORS:
        raise CheckpointError(
            f"It holds {len(state):,} tensors and a network at most {MOST_TENSORS:,}."
        )
    total = 0
    for key, tensor in state.items():
        # Other layouts are refused one by one later, before they are made dense.
        if tensor.layout != torch.strided or tensor.device.type == "meta":
            continue
        size = tensor.numel() * tensor.element_size()
        total += size
        if size > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"The tensor {key[:200]!r} claims {size:,} bytes and has "
                f"{tensor.untyped_storage().nbytes():,} in the file."
            )
    if total > _MOST_SHARED * file_bytes + _SLACK:
        raise CheckpointError(f"Its tensors claim {total:,} bytes in a file of {file_bytes:,}.")


def _require_stored(file: WeightsFile) -> None:
    """Refuse a compressed archive, which torch never writes and which may grow without bound."""
    if not file.content.startswith(b"PK\x03\x04"):
        return
    try:
        with zipfile.ZipFile(io.BytesIO(file.content)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise CheckpointError(
            f"{file.source} is not a readable PyTorch checkpoint: {error}."
        ) from error
    compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if compressed or sum(entry.file_size for entry in entries) > len(file.content):
        raise CheckpointError(
            f"{file.source} is a compressed archive, which PyTorch does not write; save the state "
            "dict with torch.save."
        )
