"""Tuned files: only what a tuning trained, and which base it belongs to."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from qmamba.checkpoints.loading import load
from qmamba.checkpoints.mismatch import MismatchError
from qmamba.checkpoints.safetensors_file import METADATA_KEY, read_tensors, require_finite
from qmamba.checkpoints.sources import WeightsFile, list_weights, read_weights
from qmamba.errors import CheckpointError, ConfigError
from qmamba.files import atomic_write
from qmamba.models import LoadReport, ModelMetadata, Network, QMamba
from qmamba.models import metadata as descriptions
from qmamba.prompts.config import TuningConfig
from qmamba.prompts.tuned import BaseIdentity, TunedQMamba, attach, identity_of

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_SHA256 = re.compile("[0-9a-f]{64}")


def save_tuned(
    model: TunedQMamba,
    path: str | Path,
    metadata: ModelMetadata,
    *,
    dtype: torch.dtype = torch.float16,
) -> ModelMetadata:
    """Write what a tuning trained to a safetensors file; the base is only named in it.

    The file appears under its name only when it is complete. The same tensors and metadata give the
    same bytes. 3.83 M parameters take 7.7 MB as float16.

    Args:
        model: a tuned model.
        path: the file to write or replace.
        metadata: name, score scale, policy and training of the tuned model.
        dtype: float16, bfloat16 or float32.

    Returns:
        ``metadata`` with the digest and path of the written file.

    Raises:
        ConfigError: the dtype is another one, or the metadata is not plain JSON.
        CheckpointError: nothing was trained, or a value is not finite in ``dtype``.
        DataError: the file cannot be written.
    """
    if dtype not in _DTYPES:
        raise ConfigError(f"Weights are saved as float16, bfloat16 or float32, not {dtype}.")
    tensors = {
        key: tensor.detach().to("cpu", dtype).contiguous()
        for key, tensor in model.trained_state().items()
    }
    if not tensors:
        raise CheckpointError("The tuning 'none' has nothing to save; use the base itself.")
    require_finite(tensors, f"The tuned model cannot be saved as {dtype}")
    metadata = dataclasses.replace(metadata, architecture=descriptions.TUNED)
    config = {"tuning": model.tuning.to_dict(), "base": dataclasses.asdict(model.base)}
    text = descriptions.encode(config, metadata)
    content = safetensors.torch.save(tensors, metadata={METADATA_KEY: text})
    with atomic_write(path) as stream:
        stream.write(content)
    digest = hashlib.sha256(content).hexdigest()
    return dataclasses.replace(metadata, sha256=digest, source=str(path))


def load_tuned(base: Network, file: str | Path, *, revision: str | None = None) -> TunedQMamba:
    """A tuned model on a base that is already loaded, in evaluation mode.

    The frozen tensors share the memory of the base, however many tuned files are loaded on it. Do
    not train the base meanwhile.

    Args:
        base: the model that the file was tuned on, with the same weights.
        file: path or hub id of a tuned file.
        revision: branch, tag or commit of a hub repository.

    Returns:
        The model on the device of the base; ``metadata`` is that of the file.

    Raises:
        CheckpointError: the file cannot be found, is malformed, or was tuned on another base.
    """
    return read_tuned(file, revision).on(base)


def load_tuned_model(
    base: str | Path | None,
    file: str | Path,
    *,
    device: torch.device | str = "cpu",
    revision: str | None = None,
) -> TunedQMamba:
    """Load a base and a tuned file on it.

    Args:
        base: as for :func:`qmamba.checkpoints.load`; ``None`` finds it among the embedded weights.
        file: path or hub id of a tuned file.
        device: where the model is put.
        revision: branch, tag or commit of the hub repository of the base.

    Raises:
        CheckpointError: a file cannot be found, is malformed, or does not fit the other.
        ConfigError: the device cannot be used.
    """
    tuned = read_tuned(file, None)
    source = tuned.embedded_base() if base is None else base
    return tuned.on(load(source, device=device, revision=revision).requires_grad_(False))


def is_tuned_file(file: str | Path) -> bool:
    """Whether a path is that of a tuned file; False for anything that cannot be read."""
    try:
        with open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, 2**25)))
            described = json.loads(header["__metadata__"][METADATA_KEY])
        return bool(described["architecture"] == descriptions.TUNED)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False


@dataclasses.dataclass(frozen=True)
class TunedFile:
    """A tuned file that has been read and checked, not yet put on its base."""

    source: str
    sha256: str
    state: Mapping[str, Tensor]
    tuning: TuningConfig
    base: BaseIdentity
    metadata: ModelMetadata

    def embedded_base(self) -> str:
        """The embedded weights that the file belongs to."""
        for name in list_weights():
            digest = hashlib.sha256(read_weights(name).content).hexdigest()
            if digest == self.base.file_sha256:
                return name
        raise CheckpointError(
            f"{self.source} was tuned on {self._base_name}, which is not among the embedded "
            "weights; give that base as well."
        )

    def on(self, base: Network) -> TunedQMamba:
        """The tuned model; raises CheckpointError where the base is another one."""
        if not isinstance(base, QMamba):
            raise CheckpointError(
                f"{self.source} was tuned on {self._base_name} and this base is a "
                f"{type(base).__name__}; give the base that it was tuned on."
            )
        found = identity_of(base)
        if found.weights_sha256 != self.base.weights_sha256:
            raise CheckpointError(
                f"{self.source} was tuned on {self._base_name} with weights of sha256 "
                f"{self.base.weights_sha256[:12]}, and this base is {reprlib.repr(found.name)} "
                f"with {found.weights_sha256[:12]}; give the base that it was tuned on."
            )
        # No memory is taken for what the file promises before it has proved to hold it.
        with torch.device("meta"):
            expected = TunedQMamba(QMamba(base.config), self.tuning).trained_state()
        self._require_same(expected)
        with torch.random.fork_rng(devices=[]):
            model = attach(base, self.tuning)
        like = base.classifier.head.weight
        model.load_state_dict(
            {key: tensor.to(like) for key, tensor in self.state.items()}, strict=False
        )
        model.metadata = dataclasses.replace(self.metadata, sha256=self.sha256, source=self.source)
        model.load_report = LoadReport(self.source, "tuned")
        return model.requires_grad_(False).eval()

    @property
    def _base_name(self) -> str:
        return reprlib.repr(self.base.name)

    def _require_same(self, expected: Mapping[str, Tensor]) -> None:
        missing = tuple(key for key in expected if key not in self.state)
        unexpected = tuple(key for key in self.state if key not in expected)
        misshapen = tuple(
            f"{key}: {tuple(tensor.shape)}, model {tuple(expected[key].shape)}"
            for key, tensor in self.state.items()
            if key in expected and tensor.shape != expected[key].shape
        )
        if missing or unexpected or misshapen:
            raise MismatchError(self.source, missing, unexpected, misshapen)


def read_tuned(source: str | Path, revision: str | None = None) -> TunedFile:
    """Read a tuned file without its base.

    Raises:
        CheckpointError: the file cannot be found or is malformed.
    """
    file = read_weights(source, revision)
    state, text = _tensors(file)
    try:
        config, described = descriptions.decode(text)
        if described.architecture != descriptions.TUNED:
            raise ConfigError(
                f"it holds a whole {described.architecture} model, which is loaded without a base."
            )
        if not isinstance(config, dict) or set(config) != {"tuning", "base"}:
            raise ConfigError(f"its config is {reprlib.repr(config)}.")
        tuning, base = TuningConfig.from_dict(config["tuning"]), _base(config["base"])
    except ConfigError as error:
        raise CheckpointError(f"{file.source} is not a tuned file: {error}") from error
    for key, tensor in state.items():
        if tensor.dtype not in _DTYPES:
            raise CheckpointError(f"{key} of {file.source} is {tensor.dtype}, not floating point.")
    require_finite(state, f"The tensors of {file.source} are damaged")
    digest = hashlib.sha256(file.content).hexdigest()
    return TunedFile(file.source, digest, state, tuning, base, described)


def _tensors(file: WeightsFile) -> tuple[dict[str, Tensor], str]:
    try:
        state, texts = read_tensors(file)
        return state, texts[METADATA_KEY]
    except (CheckpointError, KeyError) as error:
        raise CheckpointError(f"{file.source} is not a tuned file: {error}.") from error


def _base(values: Any) -> BaseIdentity:
    names = {field.name for field in dataclasses.fields(BaseIdentity)}
    if not isinstance(values, dict) or set(values) != names:
        raise ConfigError(f"its base is {reprlib.repr(values)}.")
    digests = (values["file_sha256"] or "0" * 64, values["weights_sha256"])
    if not isinstance(values["name"], str) or not all(
        isinstance(digest, str) and _SHA256.fullmatch(digest) for digest in digests
    ):
        raise ConfigError(f"its base is {reprlib.repr(values)}.")
    return BaseIdentity(**values)
