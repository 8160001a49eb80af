"""Channel attention, and the convolutions that MambaIR puts before it."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from qmamba.nn.layers import ChannelLastConv2d

CHANNEL_ATTENTION_BLOCKS = ("convolution", "separable", "depthwise")
"""Kinds of :class:`ChannelAttentionBlock`."""


class ChannelAttention(nn.Module):
    """Weigh the channels of a map by ``sigmoid(W2 relu(W1 mean(x) + b1) + b2)``.

    Args:
        dim: channels.
        reduction: the hidden layer has ``dim // reduction`` units, at least one.

    Source: RCAN; names of the parameters as in MambaIR.
    """

    def __init__(self, dim: int, *, reduction: int = 30) -> None:
        super().__init__()
        hidden = dim // reduction
        self.attention = nn.Sequential(
            OrderedDict(
                [
                    ("1", ChannelLastConv2d(dim, hidden, 1)),
                    ("2", nn.ReLU()),
                    ("3", ChannelLastConv2d(hidden, dim, 1)),
                ]
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, height, width, dim)`` to the same shape."""
        return x * torch.sigmoid(self.attention(x.mean((1, 2), keepdim=True)))


class ChannelAttentionBlock(nn.Module):
    """Local convolutions followed by :class:`ChannelAttention`.

    Args:
        dim: channels.
        kind: ``convolution``: 3x3 to the hidden channels, GELU, 3x3 back. ``separable``: 1x1 to the
            hidden channels, 3x3 depthwise, GELU, 1x1 back, 3x3 depthwise with dilation 2.
            ``depthwise``: one 3x3 depthwise convolution.
        reduction: hidden channels are ``dim // reduction``.
        attention_reduction: the same for the attention.

    Source: ``CAB`` of MambaIR; the kinds are those of its published versions, in which
    ``convolution`` served the large networks throughout and the lightweight ones in March 2024,
    ``depthwise`` the lightweight ones in February and ``separable`` since October.
    """

    def __init__(
        self, dim: int, *, kind: str, reduction: int = 1, attention_reduction: int = 30
    ) -> None:
        super().__init__()
        hidden = dim // reduction
        layers: list[nn.Module]
        if kind == "convolution":
            layers = [_square(dim, hidden), nn.GELU(), _square(hidden, dim)]
        elif kind == "separable":
            layers = [
                ChannelLastConv2d(dim, hidden, 1),
                _depthwise(hidden),
                nn.GELU(),
                ChannelLastConv2d(hidden, dim, 1),
                _depthwise(dim, dilation=2),
            ]
        else:
            layers = [_depthwise(dim)]
        self.cab = nn.Sequential(*layers, ChannelAttention(dim, reduction=attention_reduction))

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, height, width, dim)`` to the same shape."""
        return self.cab(x)


def _square(dim: int, out_dim: int) -> ChannelLastConv2d:
    return ChannelLastConv2d(dim, out_dim, 3, padding=1)


def _depthwise(dim: int, dilation: int = 1) -> ChannelLastConv2d:
    return ChannelLastConv2d(dim, dim, 3, padding=dilation, dilation=dilation, groups=dim)
