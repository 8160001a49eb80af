"""Packed model files: codes of a few bits for what is quantized, half precision for the rest.

A packed file is a safetensors file of three tensors: ``codes`` (uint8), the packed codes of all
constants one after the other, each from a whole byte on; ``numbers`` (float32), the quantization
parameters of those constants and the parameters of the activation quantizers; ``rest`` (float16 or
float32), every other tensor. What lies where follows from the configurations in the metadata alone,
so no names are stored; a digest of the layout makes sure that writer and reader agree on it.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from qmamba.checkpoints.bit_packing import pack, packed_size, unpack
from qmamba.checkpoints.packed_layout import REST_DTYPES, PackedLayout
from qmamba.checkpoints.packed_structure import frozen_structure, frozen_twin
from qmamba.checkpoints.safetensors_file import METADATA_KEY, header_of, read_tensors
from qmamba.checkpoints.sources import WeightsFile, read_weights
from qmamba.errors import CheckpointError, ConfigError, ShapeError
from qmamba.files import atomic_write
from qmamba.models import metadata as descriptions
from qmamba.models.fields import NetworkConfig
from qmamba.models.metadata import LoadReport, ModelMetadata, shortened
from qmamba.models.network import Network
from qmamba.models.registry import ARCHITECTURES
from qmamba.quantization.config import QuantConfig
from qmamba.quantization.layers import FrozenTensor
from qmamba.quantization.prepare import quantize_
from qmamba.quantization.quantizers import Quantizer

PACKED_KEY = "quantization"
"""Key of the safetensors metadata that only packed files have."""
FORMAT = 1
"""Version of the layout of a packed file."""

_TENSORS = ("codes", "numbers", "rest")
# A block of any network has more bytes than this in a packed file.
_BYTES_PER_BLOCK = 64


@torch.no_grad()
def save_quantized(
    model: Network,
    path: str | Path,
    metadata: ModelMetadata | None = None,
    *,
    rest: str = "fp16",
) -> ModelMetadata:
    """Write a quantized model to a packed file that :func:`load_quantized` rebuilds it from.

    The file appears under its name only when it is complete. The same model and metadata give the
    same bytes.

    Args:
        model: after :func:`~qmamba.quantization.quantize_`, trained or calibrated; it is not
            changed.
        path: the file to write or replace.
        metadata: what the model is for; by default ``model.metadata``.
        rest: ``"fp16"`` or ``"fp32"`` for the tensors that are not quantized.

    Returns:
        The metadata with the digest and path of the written file.

    Raises:
        ConfigError: the model is not quantized, has quantizers that have seen no data, has no
            metadata, or ``rest`` is unknown.
        CheckpointError: a tensor is not finite in the stored precision, or the model is not what
            its configurations say.
        DataError: the file cannot be written.
    """
    if rest not in REST_DTYPES:
        raise ConfigError(f"rest must be one of {', '.join(REST_DTYPES)}, got {rest!r}.")
    metadata = metadata or model.metadata
    quantization = getattr(model, "quantization", None)
    if not isinstance(quantization, QuantConfig):
        raise ConfigError("The model is not quantized; call quantize_ and calibrate it first.")
    if metadata is None:
        raise ConfigError("The model has no metadata; say what it is for.")
    metadata = dataclasses.replace(metadata, architecture=model.config.architecture)
    converted = _converted(model)
    _require_initialized(converted)
    twin, excluded = frozen_twin(converted, model.config, quantization)
    layout, found = PackedLayout.of(twin), PackedLayout.of(converted)
    if different := tuple(sorted(set(layout.entries()) ^ set(found.entries()))):
        raise CheckpointError(
            f"The model is not what its configurations say, {shortened(different)}; only networks "
            "of this package can be packed."
        )
    state = converted.state_dict()
    tensors = {
        "codes": _joined([_packed(state[key], bits) for key, (_, bits) in layout.codes.items()]),
        "numbers": _joined([state[key].float().flatten() for key in layout.numbers]),
        "rest": _joined([state[key].flatten().to(REST_DTYPES[rest]) for key in layout.rest]),
    }
    for key in ("numbers", "rest"):
        if not bool(torch.isfinite(tensors[key]).all()):
            raise CheckpointError(f"The model cannot be packed: {key} are not finite in {rest}.")
    unsigned = [key for key in layout.codes if state[key].dtype == torch.uint8]
    description = {
        "format": FORMAT,
        "config": quantization.to_dict(),
        "excluded": excluded,
        "unsigned": unsigned,
        "layout": layout.digest(),
    }
    text = {
        METADATA_KEY: descriptions.encode(model.config.to_dict(), metadata),
        PACKED_KEY: json.dumps(description, sort_keys=True, allow_nan=False),
    }
    content = _sorted_header(safetensors.torch.save(tensors, metadata=text))
    with atomic_write(path) as stream:
        stream.write(content)
    digest = hashlib.sha256(content).hexdigest()
    return dataclasses.replace(metadata, sha256=digest, source=str(path))


def load_quantized(
    source: str | Path, *, device: torch.device | str = "cpu", revision: str | None = None
) -> Network:
    """The model of a packed file, in evaluation mode.

    What is quantized stays in codes of at most 8 bits; each layer turns its own codes into values
    while it runs. :func:`qmamba.inference.prepare` makes of it a network that computes on the
    codes.

    Args:
        source: a path, embedded name or hub id as for :func:`qmamba.checkpoints.load`.
        device: where the model is put.
        revision: branch, tag or commit of a hub repository.

    Returns:
        A MambaIR (images in [0, 1] to restored images) or a QMamba (normalized images to outputs).

    Raises:
        CheckpointError: the file cannot be found, or is no packed file, or a damaged one.
    """
    return load_packed(read_weights(source, revision), device)


def packed_parts(path: str | Path) -> dict[str, int]:
    """Bytes of the three tensors of a packed file.

    Raises:
        CheckpointError: it is none.
    """
    tensors, _ = _read(read_weights(path))
    return {name: tensors[name].nbytes for name in _TENSORS if name in tensors}


def load_packed(file: WeightsFile, device: torch.device | str = "cpu") -> Network:
    """The model of a packed file that has been read; see :func:`load_quantized`."""
    tensors, header = _read(file)
    try:
        config, metadata, description = _described(header, len(file.content))
        quantization = QuantConfig(**description["config"])
        model = frozen_structure(config, quantization, description["excluded"])
        layout = PackedLayout.of(model)
        _check(tensors, layout, description)
        state = _state(tensors, layout, description["unsigned"])
    except (ConfigError, ShapeError) as error:
        raise CheckpointError(f"{file.source} is not a sound packed file: {error}") from error
    model.load_state_dict(state, strict=True, assign=True)
    for key in description["unsigned"]:
        frozen = model.get_submodule(key.rpartition(".")[0])
        assert isinstance(frozen, FrozenTensor)
        frozen.low, frozen.high = 0, 2**frozen.bits - 1
    digest = hashlib.sha256(file.content).hexdigest()
    model.metadata = dataclasses.replace(metadata, sha256=digest, source=file.source)
    model.load_report = LoadReport(file.source, "packed", file_bytes=len(file.content))
    return model.eval().requires_grad_(False).to(device)


def is_packed(file: WeightsFile) -> bool:
    """Whether a weights file is a packed one; False for what is no weights file."""
    try:
        return PACKED_KEY in header_of(file.content)["__metadata__"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return False


def _converted(model: Network) -> Network:
    if any(isinstance(module, FrozenTensor) for module in model.modules()):
        return model
    return quantize_(copy.deepcopy(model).cpu(), QuantConfig(step="convert"))


def _require_initialized(model: nn.Module) -> None:
    waiting = tuple(
        name
        for name, module in model.named_modules()
        if isinstance(module, Quantizer) and not module.ready
    )
    if waiting:
        raise ConfigError(
            f"Quantizers have seen no data yet, {shortened(waiting)}; train or calibrate the model."
        )


def _packed(codes: Tensor, bits: int) -> Tensor:
    if codes.dtype == torch.uint8:
        codes = (codes.to(torch.int16) - 2 ** (bits - 1)).to(torch.int8)
    return pack(codes.cpu(), bits)


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.cpu() for part in parts]) if parts else _no_bytes()


def _no_bytes() -> Tensor:
    return torch.empty(0, dtype=torch.float32, device="cpu")


def _sorted_header(content: bytes) -> bytes:
    """The same file with its header in a fixed order, which safetensors does not promise."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _read(file: WeightsFile) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors, texts = read_tensors(file)
    if METADATA_KEY not in texts or PACKED_KEY not in texts:
        raise CheckpointError(f"{file.source} is not a packed file; `qmamba quantize` makes one.")
    return tensors, texts


def _described(
    texts: Mapping[str, str], size: int
) -> tuple[NetworkConfig, ModelMetadata, dict[str, Any]]:
    fields, metadata = descriptions.decode(texts[METADATA_KEY])
    architecture = ARCHITECTURES.get(metadata.architecture)
    if architecture is None or not architecture.quantizable:
        raise ConfigError(f"the architecture {metadata.architecture[:40]!r} cannot be packed.")
    config = architecture.config.from_dict(fields)
    if config.blocks * _BYTES_PER_BLOCK > size:
        raise ConfigError(f"the config promises more blocks than {size} bytes can hold.")
    try:
        description = json.loads(texts[PACKED_KEY])
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the description of the codes is not readable JSON: {error}.") from error
    names = {"format", "config", "excluded", "unsigned", "layout"}
    if not isinstance(description, dict) or set(description) != names:
        raise ConfigError(f"the description of the codes must have the fields {sorted(names)}.")
    if description["format"] != FORMAT:
        raise ConfigError(
            f"the codes have format {str(description['format'])[:20]!r} while this version of "
            f"qmamba reads format {FORMAT}; install a newer qmamba."
        )
    for key in ("excluded", "unsigned"):
        values = description[key]
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise ConfigError(f"{key!r} must be a list of names.")
    if not isinstance(description["config"], dict) or not all(
        isinstance(key, str) for key in description["config"]
    ):
        raise ConfigError("the configuration of the quantization must be a mapping.")
    known = {field.name for field in dataclasses.fields(QuantConfig)}
    if unknown := set(description["config"]) - known:
        raise ConfigError(f"the quantization has unknown settings {sorted(unknown)[:6]}.")
    return config, metadata, description


def _check(
    tensors: Mapping[str, Tensor], layout: PackedLayout, description: Mapping[str, Any]
) -> None:
    if set(tensors) != set(_TENSORS):
        raise ConfigError(f"it must hold {', '.join(_TENSORS)}, got {sorted(tensors)[:6]}.")
    if description["layout"] != layout.digest():
        raise ConfigError(
            "its layout is not the one that its configurations lead to; it was written by another "
            "version of qmamba, or altered."
        )
    if not set(description["unsigned"]) <= set(layout.codes):
        raise ConfigError("it names constants that the model does not have.")
    dtypes = {
        "codes": (torch.uint8,),
        "numbers": (torch.float32,),
        "rest": tuple(REST_DTYPES.values()),
    }
    for key, count in layout.sizes().items():
        tensor = tensors[key]
        if tensor.dtype not in dtypes[key] or tuple(tensor.shape) != (count,):
            raise ShapeError(
                f"{key} must be {' or '.join(map(str, dtypes[key]))} ({count},), got "
                f"{tensor.dtype} {tuple(tensor.shape)}."
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ShapeError(f"{key} are not all finite.")


def _state(
    tensors: Mapping[str, Tensor], layout: PackedLayout, unsigned: list[str]
) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    begin = 0
    for key, (shape, bits) in layout.codes.items():
        size = packed_size(math.prod(shape), bits)
        codes = unpack(tensors["codes"][begin : begin + size], bits, shape)
        if key in unsigned:
            codes = (codes.to(torch.int16) + 2 ** (bits - 1)).to(torch.uint8)
        state[key] = codes
        begin += size
    for part, indices in (("numbers", layout.numbers), ("rest", layout.rest)):
        begin = 0
        for key, shape in indices.items():
            values = tensors[part][begin : begin + math.prod(shape)].view(shape)
            state[key] = values.to(torch.float32, copy=True)
            begin += math.prod(shape)
    for key in layout.numbers:
        last = key.rpartition(".")[2]
        if last == "signed":
            state[key] = state[key] != 0
        if last == "scale" and not bool((state[key] > 0).all()):
            raise ShapeError(f"{shortened((key,))} is not positive.")
    state.update(
        (key, torch.ones((), dtype=torch.bool, device="cpu")) for key in layout.initialized
    )
    return state
