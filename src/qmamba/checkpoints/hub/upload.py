"""Publishing one weights file and its card as one commit of a hub repository."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from qmamba.checkpoints.description import describe_content
from qmamba.checkpoints.hub.card import MARK, CardFigure, model_card
from qmamba.checkpoints.hub.download import HUB_FILE, HubId, quiet_client
from qmamba.checkpoints.loading import load, save_model
from qmamba.checkpoints.sources import WeightsFile, read_weights
from qmamba.checkpoints.tuned_file import read_tuned, save_tuned
from qmamba.errors import CheckpointError, ConfigError
from qmamba.models import ModelMetadata, Network
from qmamba.models.metadata import TUNED
from qmamba.prompts.tuned import TunedQMamba

_CARD_FILE = "README.md"


@dataclass(frozen=True)
class Published:
    """What was, or with ``dry_run`` would be, uploaded."""

    repository: str
    """``owner/name``."""
    sha256: str
    """Digest of the weights file."""
    size: int
    """Its bytes."""
    card: str
    """The model card."""
    commit: str | None = None
    """The new commit; ``None`` for a dry run."""
    url: str | None = None
    """Where the commit can be looked at; ``None`` for a dry run."""
    kept_card: bool = False
    """Whether the repository has a README of its own, which stays."""


def publish(
    source: str | Path,
    repository: str,
    *,
    license: str | None = None,
    figures: Sequence[CardFigure] = (),
    private: bool = False,
    token: str | None = None,
    message: str | None = None,
    dry_run: bool = False,
) -> Published:
    """Upload a weights file of ours, byte for byte, as ``model.safetensors``.

    The file is read as strictly as for use before anything is sent, and the hub's digest of it is
    compared afterwards. The repository is made where there is none. A README that somebody wrote
    stays; one of ours is replaced.

    Args:
        source: an embedded name or a path, of a full-precision, packed or tuned file of ours.
        repository: ``owner/name``.
        license, figures: see :func:`qmamba.checkpoints.hub.card.model_card`.
        private: make a new repository private.
        token: of the hub; ``None`` takes the one that ``hf auth login`` stored, or ``HF_TOKEN``.
        message: of the commit.
        dry_run: do everything but talk to the hub.

    Raises:
        CheckpointError: the file is no sound file of ours, or the hub refuses, cannot be reached,
            or stored something else.
        ConfigError: ``repository`` or ``license`` is malformed.
    """
    _require_repository(repository)
    file = read_weights(source)
    metadata = describe_content(file)
    if metadata.architecture == TUNED:
        read_tuned(source)
    else:
        load(source)
    return _publish(file, metadata, repository, license, figures, private, token, message, dry_run)


def publish_model(
    model: Network, metadata: ModelMetadata, repository: str, **options: Any
) -> Published:
    """Upload a model as it is in memory.

    Full precision is stored in the smallest of float16, bfloat16 and float32 that keeps every
    weight exactly. A packed model is uploaded as the file that it was loaded from.

    Args:
        model: a network of ours.
        metadata: what it is for.
        repository, options: as for :func:`publish`.

    Raises:
        CheckpointError, ConfigError: as for :func:`publish`.
    """
    _require_repository(repository)
    if getattr(model, "quantization", None) is not None:
        return publish(_unchanged_source(metadata), repository, **options)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / HUB_FILE
        if isinstance(model, TunedQMamba):
            save_tuned(model, path, metadata, dtype=_lossless(model.trained_state()))
        else:
            save_model(model, path, metadata=metadata, dtype=_lossless(model.state_dict()))
        return publish(path, repository, **options)


def _publish(
    file: WeightsFile,
    metadata: ModelMetadata,
    repository: str,
    license: str | None,
    figures: Sequence[CardFigure],
    private: bool,
    token: str | None,
    message: str | None,
    dry_run: bool,
) -> Published:
    digest = hashlib.sha256(file.content).hexdigest()
    card = model_card(metadata, repository, license=license, figures=figures)
    result = Published(repository, digest, len(file.content), card)
    if dry_run:
        return result
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token, library_name="qmamba")
    try:
        with quiet_client():
            api.create_repo(repository, private=private or None, exist_ok=True)
            kept = _has_own_card(api, repository)
            operations = [CommitOperationAdd(HUB_FILE, file.content)]
            if not kept:
                operations.append(CommitOperationAdd(_CARD_FILE, card.encode()))
            done = api.create_commit(
                repository, operations, commit_message=message or f"Upload {metadata.name[:60]}"
            )
            stored = api.get_paths_info(repository, HUB_FILE, revision=done.oid)
    except Exception as error:  # The hub client lets through errors of several HTTP libraries.
        raise CheckpointError(_refusal(repository, error)) from error
    found = _stored_digest(stored)
    if found is not None and found != digest:
        raise CheckpointError(
            f"The hub stored something else than {file.source} in {repository} (checksum "
            f"{found[:12]}, sent {digest[:12]}); do not use commit {done.oid[:12]}, push again."
        )
    return dataclasses.replace(result, commit=done.oid, url=done.commit_url, kept_card=kept)


def _stored_digest(paths: Sequence[Any]) -> str | None:
    """The sha256 that the hub states; None where the file is a plain object of git."""
    lfs = next((getattr(path, "lfs", None) for path in paths), None)
    return None if lfs is None else lfs.sha256


def _has_own_card(api: Any, repository: str) -> bool:
    """Whether the repository has a README that was not written here."""
    if not api.file_exists(repository, _CARD_FILE):
        return False
    path = api.hf_hub_download(repository, _CARD_FILE)
    return MARK not in Path(path).read_text(encoding="utf-8", errors="replace")


def _unchanged_source(metadata: ModelMetadata) -> str:
    """The file of a model whose weights cannot change after they were loaded."""
    if metadata.source is not None:
        file = read_weights(metadata.source)
        if hashlib.sha256(file.content).hexdigest() == metadata.sha256:
            return metadata.source
    raise CheckpointError(
        f"The packed model {metadata.name!r} is no longer in the file it came from; save it with "
        "save_quantized and push that file."
    )


def _lossless(state: Any) -> torch.dtype:
    tensors = [tensor for tensor in state.values() if tensor.is_floating_point()]
    for dtype in (torch.float16, torch.bfloat16):
        if all(tensor.to(dtype).to(tensor.dtype).equal(tensor) for tensor in tensors):
            return dtype
    return torch.float32


def _require_repository(repository: str) -> None:
    found = HubId.parse(repository)
    if found is None or found.repository != repository:
        raise ConfigError(f"A repository of the hub is owner/name, got {repository!r}.")


def _refusal(repository: str, error: Exception) -> str:
    from huggingface_hub import constants, errors

    if constants.is_offline_mode():
        return f"Nothing was sent to {repository}, because HF_HUB_OFFLINE is set; unset it."
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status in (401, 403) or isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"The hub does not let you write to {repository} (status {status}); log in with "
            "`hf auth login`, with a token that may write there."
        )
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{repository} could not be written on the hub: {lines[0].rstrip('.:')}."
