"""Loading and saving weights; nothing in a weights file is ever executed."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from qmamba.checkpoints.mismatch import MismatchError
from qmamba.checkpoints.official import is_official, load_official
from qmamba.checkpoints.packed_file import is_packed, load_packed
from qmamba.checkpoints.pickled import read_pickled, require_backed
from qmamba.checkpoints.safetensors_file import METADATA_KEY, read_tensors, require_finite
from qmamba.checkpoints.sources import WeightsFile, read_weights
from qmamba.errors import CheckpointError, ConfigError, unknown_name
from qmamba.files import atomic_write
from qmamba.models import metadata as descriptions
from qmamba.models.fields import NetworkConfig
from qmamba.models.metadata import LoadReport, ModelMetadata, shortened
from qmamba.models.network import Network
from qmamba.models.registry import (
    ARCHITECTURES,
    architecture_of,
    build_model,
    model_config,
    name_of,
    recognize,
)
from qmamba.models.state_dicts import Conversion, Refit, find_state_dict
from qmamba.quantization.dequantization import dequantized

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

logger = logging.getLogger(__name__)


def load(
    source: str | Path,
    *,
    name: str | None = None,
    device: torch.device | str = "cpu",
    revision: str | None = None,
    dequantize: bool = False,
    **config_overrides: Any,
) -> Network:
    """Load a trained model in evaluation mode, in float32.

    Our own safetensors rebuild their model alone and must fit it exactly; packed files of
    :func:`~qmamba.checkpoints.save_quantized` give a quantized model. An official VMamba
    checkpoint (``.pth``) becomes the QMamba of its widths and depths with a fresh one-output head,
    an official MambaIR checkpoint the MambaIR that it was made from, an official Q-MambaIR
    checkpoint that MambaIR with its trained quantizers, and a ResNet, ViT or Swin Transformer of
    timm or its authors (``.safetensors`` or ``.pth``) the backbone with a fresh one-output head.
    With ``name`` or overrides, the weights start another model of the same shapes: an LQMamba from
    VMamba weights, a head with more outputs, or a MambaIR for another scale; the new tensors keep
    their initial values (from torch's global generator).

    The weights of a MambaIR do not tell the range of its values, which is taken as 1, nor whether a
    gray network without enlargement removes noise or JPEG artifacts, which is taken as the latter;
    ``image_range=255`` and ``task="denoise"`` say otherwise.

    Args:
        source: an embedded name (:func:`list_weights`), a path, or a hub id ``owner/name`` or
            ``owner/name/file``.
        name: build this named model instead of the one that the file describes.
        device: where the model is put.
        revision: branch, tag or commit of a hub repository.
        dequantize: of a packed file, take the full-precision network with the values of its codes
            (:func:`~qmamba.quantization.dequantized`), which can be trained and can start others.
        config_overrides: fields of :class:`~qmamba.models.QMambaConfig`,
            :class:`~qmamba.models.MambaIRConfig` or :class:`~qmamba.models.TimmConfig` that differ
            from the file, for example ``windows=(8, 4, 2, 2), route_gate=True``.

    Returns:
        The model. ``model.metadata`` says what it is for (without a score scale where the function
        of the network was changed by ``name`` or overrides); ``model.load_report`` what was dropped
        or left fresh, which is also logged as a warning.

    Raises:
        CheckpointError: the file cannot be found, is malformed or does not fit; as
            :class:`MismatchError` with the full lists of missing, unexpected and misshapen tensors.
        ConfigError: ``name``, ``device`` or an override is not allowed.
        QMambaError: the model is a backbone of timm, which is not installed.

    Example:
        >>> model = load("qmamba-nano-biq2021")
        >>> model.metadata.score.name
        'BIQ2021 MOS'
    """
    target = usable_device(device)
    file = read_weights(source, revision)
    if is_packed(file):
        if not dequantize and (name is not None or config_overrides):
            raise ConfigError(f"{file.source} is a packed file, which only gives its own model.")
        packed = load_packed(file)
        if not dequantize:
            return packed.to(target)
        plain = dequantized(packed)
        conversion = Conversion("packed", plain.state_dict())
        config, described = plain.config, plain.metadata
    elif file.content[8:9] == b"{":
        conversion, config, described = _read_safetensors(file, name)
    else:
        content = read_pickled(file)
        with _naming(file):
            state = find_state_dict(content)
            require_backed(state, len(file.content))
        if is_official(state):
            return _trained_quantized(file, state, name, config_overrides).to(target)
        conversion, config = _recognized(file, state, name)
        described = None
    wanted = (config if name is None else model_config(name)).replace(**config_overrides)
    if type(wanted) is not type(config):
        raise CheckpointError(
            f"The weights of {file.source} are those of a {config.architecture}, and {name} is a "
            f"{wanted.architecture}."
        )
    exact = described is not None and name is None and not config_overrides
    model, weights, dropped, fresh = _fit(file.source, conversion.state, config, wanted, exact)
    model.load_state_dict(weights, strict=not fresh, assign=not fresh)

    digest = hashlib.sha256(file.content).hexdigest()
    if described is None:
        described = ModelMetadata(
            name=name or name_of(wanted) or file.stem, architecture=wanted.architecture
        )
    elif wanted.without("drop_path") != config.without("drop_path"):
        described = dataclasses.replace(
            described, name=name or described.name, score=None, policy=None
        )
    model.metadata = dataclasses.replace(described, sha256=digest, source=file.source)
    model.load_report = LoadReport(
        file.source,
        conversion.layout,
        conversion.dropped + dropped,
        fresh,
        conversion.converted,
        len(file.content),
    )
    if model.load_report.dropped or fresh:
        logger.warning("Loaded %s.", model.load_report)
    return model.to(target).eval()


def _trained_quantized(
    file: WeightsFile, state: Mapping[str, Tensor], name: str | None, overrides: dict[str, Any]
) -> Network:
    """The prepared network of a checkpoint of the official Q-MambaIR training."""
    if name is not None:
        raise ConfigError(
            f"{file.source} is a checkpoint of a quantized network, which only gives its own model."
        )
    with _naming(file):
        model = load_official(state, **overrides)
    require_finite(model.state_dict(), f"The weights of {file.source} are damaged")
    digest = hashlib.sha256(file.content).hexdigest()
    model.metadata = ModelMetadata(file.stem, "mambair", sha256=digest, source=file.source)
    model.load_report = LoadReport(file.source, "q-mambair", file_bytes=len(file.content))
    return model


def save_model(
    model: Network,
    path: str | Path,
    *,
    metadata: ModelMetadata,
    dtype: torch.dtype = torch.float16,
) -> ModelMetadata:
    """Write a model to a safetensors file that :func:`load` rebuilds it from.

    The file appears under its name only when it is complete. The same weights and metadata give the
    same bytes.

    Args:
        model: the model; its config goes into the file.
        path: the file to write or replace.
        metadata: what the model is for; its ``sha256`` and ``source`` are not stored, and its
            ``architecture`` is the model's.
        dtype: float16, bfloat16 or float32.

    Returns:
        ``metadata`` with the digest and path of the written file.

    Raises:
        ConfigError: the dtype is another one, or the metadata is not plain JSON.
        CheckpointError: a weight is not finite in ``dtype``, or the model has tensors that its
            configuration does not know, such as prompts.
        DataError: the file cannot be written.
    """
    if dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise ConfigError(f"Weights are saved as float16, bfloat16 or float32, not {dtype}.")
    metadata = dataclasses.replace(metadata, architecture=model.config.architecture)
    text = descriptions.encode(model.config.to_dict(), metadata)
    tensors = {
        key: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None).contiguous()
        for key, tensor in model.state_dict().items()
    }
    with torch.device("meta"):
        known = build_model(model.config).state_dict()
    if extra := tuple(key for key in tensors if key not in known):
        raise CheckpointError(
            f"The model has more than its configuration says, {shortened(extra)}; save a tuned "
            "model with qmamba.checkpoints.save_tuned."
        )
    require_finite(tensors, f"The model cannot be saved as {dtype}")
    content = safetensors.torch.save(tensors, metadata={METADATA_KEY: text})
    with atomic_write(path) as stream:
        stream.write(content)
    digest = hashlib.sha256(content).hexdigest()
    return dataclasses.replace(metadata, sha256=digest, source=str(path))


def _read_safetensors(
    file: WeightsFile, name: str | None
) -> tuple[Conversion, NetworkConfig, ModelMetadata | None]:
    tensors, texts = read_tensors(file)
    state, text = dict(sorted(tensors.items())), texts.get(METADATA_KEY)
    if text is None and recognize(state, name).safetensors:
        return *_recognized(file, state, name), None
    if text is None:
        raise CheckpointError(
            f"{file.source} carries no qmamba metadata, so its model is unknown; save it with "
            f"save_model."
        )
    try:
        fields, described = descriptions.decode(text)
        if described.architecture == descriptions.TUNED:
            raise ConfigError(
                "it holds a tuning of another model; load that model and give this file as tuned."
            )
        if described.architecture not in ARCHITECTURES:
            raise ConfigError(unknown_name("architecture", described.architecture, ARCHITECTURES))
        architecture = ARCHITECTURES[described.architecture]
        config = architecture.config.from_dict(fields)
        if config.blocks * architecture.tensors_per_block > len(state):
            raise ConfigError(
                f"The config promises more blocks than {len(state)} tensors can fill."
            )
    except ConfigError as error:
        raise CheckpointError(f"{file.source} describes no model of ours: {error}") from error
    return Conversion("qmamba", state), config, described


def _recognized(
    file: WeightsFile, state: Mapping[str, Tensor], name: str | None
) -> tuple[Conversion, NetworkConfig]:
    """What the tensors of a foreign file are, told from their names and shapes."""
    architecture = recognize(state, name)
    with _naming(file):
        conversion = architecture.convert(state)
        return conversion, architecture.infer(conversion.state)


@contextmanager
def _naming(file: WeightsFile) -> Iterator[None]:
    """Say of which file an error is that only knows its tensors."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{file.source} cannot be read: {error}") from error


def _fit(
    source: str,
    state: Mapping[str, Tensor],
    given: NetworkConfig,
    wanted: NetworkConfig,
    exact: bool,
) -> tuple[Network, dict[str, Tensor], tuple[str, ...], tuple[str, ...]]:
    """Build the model and pick its tensors: (model, state, dropped keys, fresh keys).

    The model has no memory yet where the state fills all of it.
    """
    with torch.device("meta"):
        model = build_model(wanted)
    ours = model.state_dict()
    shapes = {key: tensor.shape for key, tensor in ours.items()}
    dropped, fresh = (
        Refit(set(), set())
        if exact
        else architecture_of(wanted).refit(state, shapes, given, wanted)
    )
    used = {key: tensor for key, tensor in state.items() if key not in dropped}
    missing = tuple(key for key in shapes if key not in used and key not in fresh)
    unexpected = tuple(key for key in used if key not in shapes)
    misshapen = tuple(
        f"{key}: {tuple(tensor.shape)}, model {tuple(shapes[key])}"
        for key, tensor in used.items()
        if key in shapes and tensor.shape != shapes[key]
    )
    if missing or unexpected or misshapen:
        raise MismatchError(source, missing, unexpected, misshapen)
    weights = {key: _weight(source, key, tensor, ours[key].dtype) for key, tensor in used.items()}
    require_finite(weights, f"The weights of {source} are damaged")
    if fresh:
        with torch.device("cpu"):
            model = build_model(wanted)
    in_order = tuple(key for key in shapes if key in fresh)
    return model, weights, tuple(key for key in state if key in dropped), in_order


def _weight(source: str, key: str, tensor: Tensor, wanted: torch.dtype) -> Tensor:
    allowed = _FLOATS if wanted.is_floating_point else (wanted,)
    if (
        tensor.layout != torch.strided
        or tensor.is_quantized
        or tensor.device.type != "cpu"
        or tensor.dtype not in allowed
    ):
        kind = "floating-point" if wanted.is_floating_point else str(wanted)
        raise CheckpointError(
            f"{key} of {source} is not a dense {kind} tensor but {tensor.dtype}, {tensor.layout}."
        )
    # A copy, because tensors of a file may share memory with each other.
    dtype = torch.float32 if wanted.is_floating_point else wanted
    return tensor.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)


def usable_device(device: torch.device | str) -> torch.device:
    """The device, if tensors can be put there.

    Raises:
        ConfigError: it is unknown or not there.
    """
    try:
        return torch.empty(0, dtype=torch.uint8, device=device).device
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"The device {str(device)!r} cannot be used here ({reason}); leave it out for the CPU, "
            "or install a torch that was built for it."
        ) from error
