"""State dicts of LoDa, and of the two networks that it is built on."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Size, Tensor

from qmamba.errors import CheckpointError, ConfigError
from qmamba.models.loda.config import LoDaConfig
from qmamba.models.state_dicts import Conversion, Refit, size_of

_LEARNER = "learner."
_BUFFERS = "bn_buffer."
_CNN, _VIT = "cnn.", "vit."
_WRAPPER = "module."
_MARK = "learner.scale_factor"
_VIT_MARK, _CNN_MARK = "blocks.0.attn.qkv.weight", "layer1.0.bn3.weight"
_CLASSIFIER = re.compile(r"^(head|fc|fc_norm)\.")
_TRANSFORMERS = {192: "vit-tiny", 384: "vit-small", 768: "vit-base"}


def is_loda(state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint is that of a LoDa, whole or only what has learned."""
    return _MARK in state


def starts_loda(state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint is that of a vision transformer or of a ResNet-50."""
    keys = {key.removeprefix(_WRAPPER) for key in state}
    return not keys.isdisjoint((_VIT_MARK, _CNN_MARK))


def convert_loda(content: Mapping[str, Tensor]) -> Conversion:
    """Give the tensors of an official LoDa, a vision transformer or a ResNet-50 our keys."""
    plain = {key.removeprefix(_WRAPPER): key for key in content}
    prefix = ""
    if _MARK not in plain:
        prefix = _VIT if _VIT_MARK in plain else _CNN
    state: dict[str, Tensor] = {}
    dropped, converted = [], []
    for key, original in plain.items():
        if prefix and _CLASSIFIER.match(key):
            dropped.append(original)
            continue
        ours = prefix + key
        if key.startswith(_BUFFERS):
            ours = _CNN + key.removeprefix(_BUFFERS)
        state[ours] = content[original]
        if ours != original:
            converted.append(f"{original} -> {ours}")
    return Conversion("loda", state, tuple(dropped), tuple(converted))


def infer_loda_config(state: Mapping[str, Tensor]) -> LoDaConfig:
    """The configuration of a converted state dict.

    Raises:
        CheckpointError: the tensors do not describe a LoDa or a part of one.
    """
    try:
        if _MARK in state:
            dim, width = size_of(state, _MARK, 1), size_of(state, "learner.conv.0.0.weight", 0)
        else:
            width = LoDaConfig().width
            key = _VIT + _VIT_MARK
            dim = size_of(state, key, 1) if key in state else LoDaConfig().dim
        if dim not in _TRANSFORMERS:
            raise ConfigError(f"its tokens have {dim} channels.")
        return LoDaConfig(transformer=_TRANSFORMERS[dim], width=width)
    except ConfigError as error:
        raise CheckpointError(f"The checkpoint is not a LoDa: {error}") from error


def refit_loda(
    state: Mapping[str, Tensor],
    shapes: Mapping[str, Size],
    given: LoDaConfig,
    wanted: LoDaConfig,
) -> Refit:
    """What may be fresh: whatever of the three parts and the map the file does not hold.

    Official files hold neither of the frozen networks; the load report names what is missing.
    """
    parts = {key.split(".")[0] + "." for key in state}
    # Of the ResNet an official file has the statistics only.
    has_cnn = _CNN + "conv1.weight" in state
    fresh = {
        key
        for key in shapes
        if key not in state
        and (
            not any(key.startswith(part) for part in parts)
            or (key.startswith(_CNN) and not has_cnn)
            or key.endswith("num_batches_tracked")
        )
    }
    return Refit(set(), fresh)
