"""Layers on channel-last maps ``(batch, height, width, channels)``; they know nothing of tasks."""

from qmamba.nn.blocks import DropPath, Mlp, VSSBlock, downsample, stem
from qmamba.nn.convolution import ChannelLastConv2d
from qmamba.nn.gate import GatedMerge, RouteGate
from qmamba.nn.ss2d import SS2D

__all__ = [
    "SS2D",
    "ChannelLastConv2d",
    "DropPath",
    "GatedMerge",
    "Mlp",
    "RouteGate",
    "VSSBlock",
    "downsample",
    "stem",
]
