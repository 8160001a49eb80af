"""Layers on channel-last maps ``(batch, height, width, channels)``; they know nothing of tasks."""

from qmamba.nn.attentive_block import (
    FEED_FORWARDS,
    AttentiveBlock,
    ConvolutionalGate,
    ConvolutionalMlp,
    GatedMlp,
)
from qmamba.nn.attentive_scan import ROUTINGS, AttentiveScan
from qmamba.nn.blocks import DropPath, Mlp, VSSBlock, downsample, stem
from qmamba.nn.channel_attention import (
    CHANNEL_ATTENTION_BLOCKS,
    ChannelAttention,
    ChannelAttentionBlock,
)
from qmamba.nn.gate import GatedMerge, RouteGate
from qmamba.nn.layers import ChannelLastConv2d
from qmamba.nn.residual import (
    GROUP_CONVOLUTIONS,
    ResidualGroup,
    ScaledSkipBlock,
    group_convolution,
)
from qmamba.nn.ss2d import SS2D, SelectiveScan
from qmamba.nn.upsampling import pixel_shuffle, pixel_shuffle_stages
from qmamba.nn.window_attention import WindowAttention

__all__ = [
    "CHANNEL_ATTENTION_BLOCKS",
    "FEED_FORWARDS",
    "GROUP_CONVOLUTIONS",
    "ROUTINGS",
    "SS2D",
    "AttentiveBlock",
    "AttentiveScan",
    "ChannelAttention",
    "ChannelAttentionBlock",
    "ChannelLastConv2d",
    "ConvolutionalGate",
    "ConvolutionalMlp",
    "DropPath",
    "GatedMerge",
    "GatedMlp",
    "Mlp",
    "ResidualGroup",
    "RouteGate",
    "ScaledSkipBlock",
    "SelectiveScan",
    "VSSBlock",
    "WindowAttention",
    "downsample",
    "group_convolution",
    "pixel_shuffle",
    "pixel_shuffle_stages",
    "stem",
]
