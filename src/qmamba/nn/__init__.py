"""Layers on channel-last maps ``(batch, height, width, channels)``; they know nothing of tasks."""

from qmamba.nn.blocks import DropPath, Mlp, VSSBlock, downsample, stem
from qmamba.nn.channel_attention import (
    CHANNEL_ATTENTION_BLOCKS,
    ChannelAttention,
    ChannelAttentionBlock,
)
from qmamba.nn.convolution import ChannelLastConv2d
from qmamba.nn.gate import GatedMerge, RouteGate
from qmamba.nn.residual import (
    GROUP_CONVOLUTIONS,
    ResidualGroup,
    ScaledSkipBlock,
    group_convolution,
)
from qmamba.nn.ss2d import SS2D
from qmamba.nn.upsampling import pixel_shuffle, pixel_shuffle_stages

__all__ = [
    "CHANNEL_ATTENTION_BLOCKS",
    "GROUP_CONVOLUTIONS",
    "SS2D",
    "ChannelAttention",
    "ChannelAttentionBlock",
    "ChannelLastConv2d",
    "DropPath",
    "GatedMerge",
    "Mlp",
    "ResidualGroup",
    "RouteGate",
    "ScaledSkipBlock",
    "VSSBlock",
    "downsample",
    "group_convolution",
    "pixel_shuffle",
    "pixel_shuffle_stages",
    "stem",
]
