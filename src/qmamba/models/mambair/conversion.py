"""State dicts of MambaIR: official checkpoints, their configuration, other last layers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Size, Tensor

from qmamba.errors import CheckpointError, ConfigError
from qmamba.models.fields import expansion_of
from qmamba.models.mambair.config import MambaIRConfig
from qmamba.models.metadata import shortened
from qmamba.models.state_dicts import Conversion, Refit, block_counts, size_of

_PREFIX = "module."
_GROUP = ".residual_group."
_ATTENTIVE = ".assm."
_BLOCK = re.compile(r"^layers\.(\d{1,4})\.residual_group\.blocks\.(\d{1,4})\.")
_FIRST_BLOCK = "layers.0.residual_group.blocks.0."
_CAB = _FIRST_BLOCK + "conv_blk.cab."
# Every kind of channel attention block by the layers that have weights; the last is the attention.
_CAB_LAYERS = {
    ("0", "2", "3"): "convolution",
    ("0", "1", "3", "4", "5"): "separable",
    ("0", "1"): "depthwise",
}
_ENLARGING = ("conv_before_upsample", "upsample", "conv_up1", "conv_up2", "conv_hr", "conv_last")
_TASKS = {
    ("conv_before_upsample", "upsample", "conv_last"): "sr-classic",
    ("upsample",): "sr-light",
    ("conv_before_upsample", "conv_up1", "conv_up2", "conv_hr", "conv_last"): "sr-real",
}


def is_mambair(state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint is built of residual groups, as MambaIR and its relatives are.

    MambaIRv2 is another family, which its attentive scans tell.
    """
    return any(_GROUP in key for key in state) and not any(_ATTENTIVE in key for key in state)


def convert_mambair(content: Mapping[str, Tensor]) -> Conversion:
    """Take the prefix of wrapped models from the keys of a MambaIR checkpoint; all else stays.

    Raises:
        CheckpointError: two tensors claim the same place.
    """
    state: dict[str, Tensor] = {}
    for original, tensor in content.items():
        key = original.removeprefix(_PREFIX)
        if key in state:
            raise CheckpointError(f"The checkpoint holds {key} twice, once as {_PREFIX}{key}.")
        state[key] = tensor
    renamed = tuple(f"{key} -> {key[len(_PREFIX) :]}" for key in content if key not in state)
    return Conversion("mambair", state, (), renamed)


def infer_mambair_config(state: Mapping[str, Tensor]) -> MambaIRConfig:
    """The configuration with which a state dict was made.

    Some of it leaves no trace in the weights: the range of values is taken as 1, and a network
    without enlargement as ``denoise`` for color and ``jpeg`` for gray, as the official ones are.

    Raises:
        CheckpointError: the tensors do not describe a MambaIR, or one of an unknown generation;
            the message says what was seen.
    """
    try:
        channels, conditions = channels_and_conditions(state)
        dim = size_of(state, "conv_first.weight", 0)
        cab, attention = _channel_attention_block(state, dim)
        task, scale = task_and_scale(state, channels)
        return MambaIRConfig(
            task=task,
            scale=scale,
            channels=channels,
            dim=dim,
            depths=block_counts(state, _BLOCK),
            state_size=size_of(state, _FIRST_BLOCK + "self_attention.A_logs", 1),
            expansion=expansion_of(
                size_of(state, _FIRST_BLOCK + "self_attention.out_proj.weight", 1), dim
            ),
            cab=cab,
            cab_reduction=dim // size_of(state, _CAB + "0.weight", 0),
            attention_reduction=dim // size_of(state, attention, 0),
            group_convolution="1conv" if "layers.0.conv.weight" in state else "3conv",
            condition_channels=conditions,
        )
    except (ConfigError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"The checkpoint is not a MambaIR of a known kind: {error}"
        ) from error


def refit_mambair(
    state: Mapping[str, Tensor],
    shapes: Mapping[str, Size],
    given: MambaIRConfig,
    wanted: MambaIRConfig,
) -> Refit:
    """What may be dropped and left fresh when a state starts a MambaIR for another task or scale.

    Of the layers after the body, those that the state lacks or has in another shape; a layer's
    weight and bias go together.

    Args:
        state: the tensors that there are.
        shapes: the tensors that the network needs.
        given: the configuration that the state was made with.
        wanted: the configuration of the network.
    """
    if (given.task, given.scale) == (wanted.task, wanted.scale):
        return Refit(set(), set())
    ours = {key for key in shapes if key.split(".")[0] in _ENLARGING}
    theirs = {key for key in state if key.split(".")[0] in _ENLARGING}
    other = {
        _layer(key)
        for key in ours | theirs
        if key not in state or key not in shapes or state[key].shape != shapes[key]
    }
    dropped, fresh = ({key for key in keys if _layer(key) in other} for keys in (theirs, ours))
    return Refit(dropped, fresh)


def _layer(key: str) -> str:
    return key.rpartition(".")[0]


def _channel_attention_block(state: Mapping[str, Tensor], dim: int) -> tuple[str, str]:
    """The kind of the block and the first weight of its attention."""
    found = {key: tensor for key, tensor in state.items() if key.startswith(_CAB)}
    layers = tuple(sorted({key[len(_CAB) :].split(".")[0] for key in found}))
    kind = _CAB_LAYERS.get(layers)
    shape = tuple(found[_CAB + "0.weight"].shape) if _CAB + "0.weight" in found else ()
    expected = {
        "convolution": (*shape[:1], dim, 3, 3),
        "separable": (*shape[:1], dim, 1, 1),
        "depthwise": (dim, 1, 3, 3),
    }
    if kind is not None and shape == expected[kind]:
        return kind, f"{_CAB}{layers[-1]}.attention.1.weight"
    seen = tuple(f"{key[len(_CAB) :]} {tuple(tensor.shape)}" for key, tensor in found.items())
    raise ConfigError(
        f"its channel attention block has none of the published forms ({_names(_CAB_LAYERS)}); "
        f"under {_CAB}* it has {shortened(seen, 12)}."
    )


def channels_and_conditions(state: Mapping[str, Tensor]) -> tuple[int, int]:
    """Channels of the images, and of what the network is told about them besides.

    Only a network without enlargement has conditions; its last layer tells how many channels of the
    input are not of the image.
    """
    inputs = size_of(state, "conv_first.weight", 1)
    enlarges = any(key.split(".")[0] in ("upsample", "conv_before_upsample") for key in state)
    if enlarges or "conv_last.weight" not in state:
        return inputs, 0
    channels = size_of(state, "conv_last.weight", 0)
    return channels, inputs - channels


def task_and_scale(state: Mapping[str, Tensor], channels: int) -> tuple[str, int]:
    """What the last layers are for, and by which factor they enlarge.

    Raises:
        ConfigError: they belong to no task.
    """
    roots = {key.split(".")[0] for key in state}
    layers = tuple(name for name in _ENLARGING if name in roots)
    if layers == ("conv_last",):
        return ("denoise" if channels == 3 else "jpeg"), 1
    task = _TASKS.get(layers)
    if task == "sr-real":
        return task, 4
    if task == "sr-light":
        return task, math.isqrt(size_of(state, "upsample.0.weight", 0) // channels)
    if task == "sr-classic":
        rows, columns = (size_of(state, "upsample.0.weight", axis) for axis in (0, 1))
        steps = [key for key in state if re.fullmatch(r"upsample\.\d+\.weight", key)]
        return task, 3 if rows == 9 * columns else 2 ** len(steps)
    raise ConfigError(
        f"its last layers belong to none of the tasks ({_names(_TASKS)}, denoise, jpeg); it has "
        f"{shortened(layers)} and, on the whole, {shortened(tuple(sorted(roots)))}."
    )


def _names(kinds: Mapping[tuple[str, ...], str]) -> str:
    return ", ".join(kinds.values())
