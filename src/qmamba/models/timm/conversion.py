"""State dicts of ResNet, ViT and Swin Transformer from timm, torchvision and their authors."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Size, Tensor

from qmamba.errors import CheckpointError, ConfigError
from qmamba.models.state_dicts import Conversion, Refit, size_of
from qmamba.models.timm.config import BACKBONES, HEADS, TimmConfig

PREFIX = "network."
"""What stands in front of timm's keys in a :class:`~qmamba.models.TimmBackbone`."""

_WRAPPER = "module."
_MARKS = {
    "resnet": "layer1.0.bn3.weight",
    "vit": "blocks.0.attn.qkv.weight",
    "swin": "layers.0.blocks.0.attn.relative_position_bias_table",
}
_BUFFERS = ("relative_position_index", "attn_mask")
_OLD_SWIN = "layers.0.downsample.reduction.weight"
_DOWNSAMPLE = re.compile(r"^layers\.(\d)\.downsample\.")
_OLD_SWIN_HEAD = re.compile(r"^head\.(weight|bias)$")
_COUNTER = "num_batches_tracked"


def is_timm(state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint is that of a ResNet with bottlenecks, a ViT or a Swin Transformer."""
    return _family(state) is not None


def convert_timm(content: Mapping[str, Tensor]) -> Conversion:
    """Give the tensors of a checkpoint the keys of a :class:`~qmamba.models.TimmBackbone`.

    The Swin Transformers of their authors merge pixels at the end of a stage and timm's at the
    start of the next one; index tables that are computed anew are left out.
    """
    plain = {key.removeprefix(_WRAPPER): key for key in content}
    old_swin = _OLD_SWIN in plain
    state: dict[str, Tensor] = {}
    dropped, converted = [], []
    for key, original in plain.items():
        if key.endswith(_BUFFERS):
            dropped.append(original)
            continue
        ours = key
        if old_swin:
            ours = _DOWNSAMPLE.sub(lambda match: f"layers.{int(match[1]) + 1}.downsample.", ours)
            ours = _OLD_SWIN_HEAD.sub(r"head.fc.\1", ours)
        state[PREFIX + ours] = content[original]
        if ours != original:
            converted.append(f"{original} -> {PREFIX}{ours}")
    return Conversion("timm", state, tuple(dropped), tuple(converted))


def infer_timm_config(state: Mapping[str, Tensor]) -> TimmConfig:
    """The configuration, with one output, of a converted state dict.

    Raises:
        CheckpointError: its widths and depths are those of none of the nine backbones.
    """
    plain = {key.removeprefix(PREFIX): tensor for key, tensor in state.items()}
    family = _family(plain)
    try:
        if family == "resnet":
            dim = size_of(plain, "conv1.weight", 0)
            depths = tuple(_blocks(plain, rf"layer{stage}\.(\d+)\.") for stage in range(1, 5))
        elif family == "vit":
            dim = size_of(plain, "blocks.0.attn.qkv.weight", 1)
            depths = (_blocks(plain, r"blocks\.(\d+)\."),)
        else:
            dim = size_of(plain, "layers.0.blocks.0.norm1.weight", 0)
            depths = tuple(_blocks(plain, rf"layers\.{i}\.blocks\.(\d+)\.") for i in range(4))
    except ConfigError as error:
        raise CheckpointError(f"The checkpoint is not a whole backbone: {error}") from error
    for name, backbone in BACKBONES.items():
        if (backbone.family, backbone.dim, backbone.depths) == (family, dim, depths):
            return TimmConfig(backbone=name)
    raise CheckpointError(
        f"The checkpoint is a {family} of width {dim} and depths {list(depths)}, which is none of "
        f"{', '.join(BACKBONES)}."
    )


def refit_timm(
    state: Mapping[str, Tensor],
    shapes: Mapping[str, Size],
    given: TimmConfig,
    wanted: TimmConfig,
) -> Refit:
    """What may be dropped and left fresh when a state starts a backbone: a head of another size.

    Counters of batches, which old files lack and nothing reads, may be absent.
    """
    head = PREFIX + HEADS[wanted.network.family] + "."
    ours = {key for key in shapes if key.startswith(head)}
    theirs = {key for key in state if key.startswith(head)}
    fresh = {key for key in shapes if key.endswith(_COUNTER) and key not in state}
    if all(key in state and state[key].shape == shapes[key] for key in ours):
        return Refit(set(), fresh)
    return Refit(theirs, ours | fresh)


def _family(state: Mapping[str, Tensor]) -> str | None:
    keys = {key.removeprefix(_WRAPPER) for key in state}
    return next((family for family, mark in _MARKS.items() if mark in keys), None)


def _blocks(state: Mapping[str, Tensor], pattern: str) -> int:
    numbers = {int(match[1]) for key in state if (match := re.match(pattern, key))}
    return len(numbers)
