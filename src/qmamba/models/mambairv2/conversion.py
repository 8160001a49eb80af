"""State dicts of MambaIRv2: official checkpoints and their configuration."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from torch import Tensor

from qmamba.errors import CheckpointError, ConfigError
from qmamba.models.fields import expansion_of
from qmamba.models.mambair.conversion import (
    channels_and_conditions,
    convert_mambair,
    task_and_scale,
)
from qmamba.models.mambairv2.config import MambaIRv2Config
from qmamba.models.state_dicts import Conversion, block_counts, size_of

_BLOCK = re.compile(r"^(?:module\.)?layers\.(\d{1,4})\.residual_group\.layers\.(\d{1,4})\.")
_FIRST = "layers.0.residual_group.layers.0."
_MARK = "assm.embeddingB.weight"
_INDEX = "relative_position_index_SA"
"""A table in official files that follows from the side of the window and is not kept here."""


def is_mambairv2(state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint has the prompts of MambaIRv2."""
    return any(key.endswith(_MARK) and _BLOCK.match(key) for key in state)


def convert_mambairv2(content: Mapping[str, Tensor]) -> Conversion:
    """Take the prefix of wrapped models from the keys and leave the index table out.

    Raises:
        CheckpointError: two tensors claim the same place.
    """
    plain = convert_mambair(content)
    dropped = tuple(key for key in content if key.removeprefix("module.") == _INDEX)
    state = {key: tensor for key, tensor in plain.state.items() if key != _INDEX}
    converted = tuple(text for text in plain.converted if not text.endswith(_INDEX))
    return Conversion("mambairv2", state, dropped, converted)


def infer_mambairv2_config(state: Mapping[str, Tensor]) -> MambaIRv2Config:
    """The configuration with which a state dict was made.

    The range of values, which leaves no trace in the weights, is taken as 1, and a network without
    enlargement as ``denoise`` for color and ``jpeg`` for gray, as the official ones are.

    Raises:
        CheckpointError: the tensors do not describe a MambaIRv2.
    """
    try:
        channels, conditions = channels_and_conditions(state)
        dim = size_of(state, "conv_first.weight", 0)
        task, scale = task_and_scale(state, channels)
        positions, heads = (
            size_of(state, _FIRST + "win_mhsa.relative_position_bias_table", axis)
            for axis in (0, 1)
        )
        gated = _FIRST + "convffn1.sg.norm.weight" in state
        return MambaIRv2Config(
            task=task,
            scale=scale,
            channels=channels,
            dim=dim,
            depths=block_counts(state, _BLOCK),
            heads=heads,
            window=(math.isqrt(positions) + 1) // 2,
            state_size=size_of(state, _FIRST + "embeddingA.weight", 1),
            expansion=expansion_of(size_of(state, _FIRST + "assm.out_proj.weight", 1), dim),
            classes=size_of(state, _FIRST + _MARK, 0),
            prompt_rank=size_of(state, _FIRST + _MARK, 1),
            feed_forward="gated" if gated else "convolutional",
            group_convolution="1conv" if "layers.0.conv.weight" in state else "3conv",
            condition_channels=conditions,
        )
    except (ConfigError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"The checkpoint is not a MambaIRv2 of a known kind: {error}"
        ) from error
