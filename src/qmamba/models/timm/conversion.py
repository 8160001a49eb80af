"""State dicts of the backbones from timm, torchvision and their authors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

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
    "efficientnet": "blocks.0.0.conv_dw.weight",
}
_BUFFERS = ("relative_position_index", "attn_mask")
_OLD_SWIN = "layers.0.downsample.reduction.weight"
_DOWNSAMPLE = re.compile(r"^layers\.(\d)\.downsample\.")
_OLD_SWIN_HEAD = re.compile(r"^head\.(weight|bias)$")
# EfficientNet-Lite as published numbers its blocks through and calls its layers otherwise.
_PUBLISHED_EFFICIENTNET = "_blocks.0._depthwise_conv.weight"
_PUBLISHED_BLOCK = re.compile(r"^_blocks\.(\d{1,3})\.(_\w+)\.(\w+)$")
_FIRST_STAGE = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_OTHER_STAGES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_AROUND = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
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
    published = _PUBLISHED_EFFICIENTNET in plain
    places = _efficientnet_places(plain) if published else []
    state: dict[str, Tensor] = {}
    dropped, converted = [], []
    for key, original in plain.items():
        if key.endswith(_BUFFERS):
            dropped.append(original)
            continue
        ours = _efficientnet_key(key, places) if published else key
        if old_swin:
            ours = _DOWNSAMPLE.sub(lambda match: f"layers.{int(match[1]) + 1}.downsample.", ours)
            ours = _OLD_SWIN_HEAD.sub(r"head.fc.\1", ours)
        state[PREFIX + ours] = content[original]
        if ours != original:
            converted.append(f"{original} -> {PREFIX}{ours}")
    return Conversion("timm", state, tuple(dropped), tuple(converted))


def _efficientnet_places(keys: Iterable[str]) -> list[tuple[int, int]]:
    """Stage and block of each block that is numbered through; none for an unknown number."""
    numbers = {int(match[1]) for key in keys if (match := _PUBLISHED_BLOCK.match(key))}
    for backbone in BACKBONES.values():
        if backbone.family == "efficientnet" and sum(backbone.depths) == len(numbers):
            return [(s, i) for s, depth in enumerate(backbone.depths) for i in range(depth)]
    raise CheckpointError(f"The EfficientNet-Lite has {len(numbers)} blocks; 16 and 21 are known.")


def _efficientnet_key(key: str, places: list[tuple[int, int]]) -> str:
    match = _PUBLISHED_BLOCK.match(key)
    if match and int(match[1]) < len(places):
        stage, block = places[int(match[1])]
        name = (_OTHER_STAGES if stage else _FIRST_STAGE).get(match[2], match[2])
        return f"blocks.{stage}.{block}.{name}.{match[3]}"
    layer, _, last = key.rpartition(".")
    return f"{_AROUND.get(layer, layer)}.{last}"


def infer_timm_config(state: Mapping[str, Tensor]) -> TimmConfig:
    """The configuration, with one output, of a converted state dict.

    Raises:
        CheckpointError: its widths and depths are those of none of the known backbones.
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
        elif family == "efficientnet":
            dim = size_of(plain, "conv_stem.weight", 0)
            depths = tuple(_blocks(plain, rf"blocks\.{i}\.(\d+)\.") for i in range(7))
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
    if _PUBLISHED_EFFICIENTNET in keys:
        return "efficientnet"
    return next((family for family, mark in _MARKS.items() if mark in keys), None)


def _blocks(state: Mapping[str, Tensor], pattern: str) -> int:
    numbers = {int(match[1]) for key in state if (match := re.match(pattern, key))}
    return len(numbers)
