"""State dicts of DEIQT, and of the vision transformers that it starts from."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Size, Tensor

from qmamba.errors import CheckpointError, ConfigError
from qmamba.models.deiqt.config import PATCH, DEIQTConfig
from qmamba.models.state_dicts import Conversion, Refit, size_of

_MARK = "head.bunch_embedding"
_ENCODER = ("blocks.0.attn.qkv.weight", "blocks.0.gamma_1", "blocks.0.ls1.gamma")
_WRAPPER = "module."
_SCALE = re.compile(r"^(blocks\.\d+\.)ls([12])\.gamma$")
_BLOCK = re.compile(r"^blocks\.(\d{1,4})\.")
_CLASSIFIER = ("head.weight", "head.bias")
_USUAL_HEAD_DIM = 64


def is_deiqt(state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint is that of a DEIQT."""
    return any(key.removeprefix(_WRAPPER) == _MARK for key in state)


def starts_deiqt(state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint is that of a DeiT-III, whose blocks have a scale per channel."""
    keys = {key.removeprefix(_WRAPPER) for key in state}
    return _ENCODER[0] in keys and bool(keys.intersection(_ENCODER[1:]))


def convert_deiqt(content: Mapping[str, Tensor]) -> Conversion:
    """Give the tensors of a DEIQT or a DeiT-III the keys of ours; a classifier is left out."""
    state: dict[str, Tensor] = {}
    dropped, converted = [], []
    for original, tensor in content.items():
        key = _SCALE.sub(r"\1gamma_\2", original.removeprefix(_WRAPPER))
        if key in _CLASSIFIER:
            dropped.append(original)
            continue
        state[key] = tensor
        if key != original:
            converted.append(f"{original} -> {key}")
    return Conversion("deiqt", state, tuple(dropped), tuple(converted))


def infer_deiqt_config(state: Mapping[str, Tensor]) -> DEIQTConfig:
    """The configuration of a converted state dict; heads of 64 channels, as published.

    Raises:
        CheckpointError: the tensors do not describe a DEIQT or its encoder.
    """
    try:
        dim = size_of(state, "blocks.0.attn.qkv.weight", 1)
        numbers = {int(match[1]) for key in state if (match := _BLOCK.match(key))}
        queries = size_of(state, _MARK, 1) if _MARK in state else DEIQTConfig().queries
        side = PATCH * math.isqrt(size_of(state, "pos_embed", 1))
        heads = max(1, dim // _USUAL_HEAD_DIM)
        return DEIQTConfig(dim=dim, depth=len(numbers), heads=heads, queries=queries, side=side)
    except ConfigError as error:
        raise CheckpointError(f"The checkpoint is not a DEIQT: {error}") from error


def refit_deiqt(
    state: Mapping[str, Tensor],
    shapes: Mapping[str, Size],
    given: DEIQTConfig,
    wanted: DEIQTConfig,
) -> Refit:
    """What may be fresh when a state starts a DEIQT: the decoder, where there is none."""
    if _MARK in state:
        return Refit(set(), set())
    return Refit(set(), {key for key in shapes if key.startswith("head.")})
