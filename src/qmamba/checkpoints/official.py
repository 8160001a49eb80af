"""Checkpoints of the official Q-MambaIR training, as models prepared with ``compat=True``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from qmamba.errors import CheckpointError
from qmamba.models.mambair.conversion import convert_mambair, infer_mambair_config
from qmamba.models.mambair.network import MambaIR
from qmamba.models.state_dicts import find_state_dict
from qmamba.quantization.config import QuantConfig
from qmamba.quantization.prepare import quantize_

_LAYER = re.compile(r"^(.*)\.(?:conv|linear)_(act|weight)_quant\.([a-z_0-9]+)$")
_OPERAND = re.compile(r"^(.*)\.([A-Za-z_]+)_q\.([a-z_0-9]+)$")
_QUANTIZERS = {
    "x_proj_act": "x_proj_input",
    "x_proj_weight": "x_proj_weight",
    "dt_proj_act": "dt_proj_input",
    "dt_proj_weight": "dt_projs_weight",
    "xs": "x",
    "dts": "steps",
    "As": "A_logs",
    "Bs": "B",
    "Cs": "C",
    "Ds": "Ds",
    "dt_projs_bias": "dt_projs_bias",
}
_THRESHOLDS = ".a"


def is_official(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is one of the official Q-MambaIR code: it has rounding thresholds."""
    return any(key.endswith(_THRESHOLDS) and _owner_of(key) is not None for key in state)


def load_official(content: Mapping[str, object], **config_overrides: Any) -> MambaIR:
    """The network of an official Q-MambaIR checkpoint, prepared and in evaluation mode.

    Task, widths and bits are inferred; weights and activations have the same number of bits there.

    Args:
        content: what the checkpoint file holds, with the state dict itself or under ``params``.
        config_overrides: fields of :class:`~qmamba.models.MambaIRConfig` that leave no trace in
            the weights: ``image_range``, and ``task`` of a gray network without enlargement.

    Raises:
        CheckpointError: the tensors are not those of a quantized MambaIR.
        ConfigError: an override is not allowed.
    """
    state = convert_mambair(find_state_dict(content)).state
    if not is_official(state):
        raise CheckpointError("The checkpoint holds no quantizers of the official Q-MambaIR code.")
    bits = _bits(state)
    config = infer_mambair_config({k: v for k, v in state.items() if not _owner_of(k)})
    model = MambaIR(config.replace(**config_overrides))
    quantize_(model, QuantConfig(bits, bits, compat=True))
    try:
        missing, unexpected = model.load_state_dict(convert_official(state), strict=False)
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"The tensors of the checkpoint do not fit a Q-MambaIR: {_last_line(error)}."
        ) from error
    if missing or unexpected:
        raise CheckpointError(
            f"The quantizers of the checkpoint are not those of Q-MambaIR: {len(missing)} tensors "
            f"are missing and {len(unexpected)} unknown, for example "
            f"{(missing + unexpected)[0]}."
        )
    return model.eval()


def convert_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An official state dict with our names; four scalars at a time become one parameter."""
    converted: dict[str, Tensor] = {}
    for key, tensor in state.items():
        owner = _owner_of(key)
        if owner is None:
            converted[key] = tensor
        elif owner[1] in ("init_state", "signed"):
            name = "initialized" if owner[1] == "init_state" else "signed"
            converted[f"{owner[0]}.{name}"] = tensor.reshape(()).bool()
        elif not owner[1].startswith("weight"):
            converted[".".join(owner)] = tensor
    for key in state:
        owner = _owner_of(key)
        if owner is not None and owner[1] in ("weight1", "weight21"):
            name = "step_weights" if owner[1] == "weight1" else "offset_weights"
            stem = key[:-1]
            parts = [state[f"{stem}{i}"].reshape(1) for i in range(1, 5)]
            converted[f"{owner[0]}.{name}"] = torch.cat(parts)
    return converted


def _owner_of(key: str) -> tuple[str, str] | None:
    """Our name of the quantizer that a tensor belongs to, and the official one of the tensor."""
    match = _LAYER.match(key)
    if match:
        kind = "input" if match[2] == "act" else "weight"
        return f"{match[1]}.{kind}_quantizer", match[3]
    match = _OPERAND.match(key)
    if match and match[2] in _QUANTIZERS:
        return f"{match[1]}.{_QUANTIZERS[match[2]]}_quantizer", match[3]
    return None


def _last_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[-1].strip().rstrip(".")


def _bits(state: Mapping[str, Tensor]) -> int:
    sizes = {
        tensor.numel()
        for key, tensor in state.items()
        if key.endswith(_THRESHOLDS) and _owner_of(key) is not None
    }
    bits = next(iter(sizes), 0).bit_length() - 1
    if sizes != {2**bits}:
        raise CheckpointError(
            f"The weights of a Q-MambaIR have one number of bits; the checkpoint has thresholds "
            f"for {sorted(sizes)} levels."
        )
    return bits
