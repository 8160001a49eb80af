"""The block of MambaIRv2: window attention and the attentive scan, and two feed-forward nets."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.nn.attentive_scan import AttentiveScan
from qmamba.nn.initialization import linear, module_kwargs
from qmamba.nn.layers import ChannelLastConv2d, LayerNorm
from qmamba.nn.window_attention import WindowAttention

FEED_FORWARDS = ("convolutional", "gated")
"""Kinds of :func:`feed_forward`."""

_SCALE = 1e-4


class ConvolutionalMlp(nn.Module):
    """Linear, GELU, a 5x5 depthwise convolution with GELU beside a skip connection, linear.

    Source: ``ConvFFN`` of MambaIRv2, whose names the parameters have.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = linear(dim, hidden)
        convolution = nn.Sequential(_depthwise(hidden), nn.GELU())
        self.dwconv = nn.Sequential(OrderedDict(depthwise_conv=convolution))
        self.fc2 = linear(hidden, dim)

    @property
    def convolution(self) -> nn.Conv2d:
        """The depthwise convolution."""
        layer = self.dwconv.get_submodule("depthwise_conv.0")
        assert isinstance(layer, nn.Conv2d)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, height, width, dim)`` to the same shape."""
        x = F.gelu(self.fc1(x))
        return self.fc2(x + self.dwconv(x))


class ConvolutionalGate(nn.Module):
    """Half of the channels times the other half, which is normalized and convolved (5x5 depthwise).

    Args:
        dim: channels of a half.

    Source: ``Gate`` of MambaIRv2.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = LayerNorm(dim)
        self.conv = _depthwise(dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, height, width, 2 * dim)`` to ``(batch, height, width, dim)``."""
        kept, gate = x.chunk(2, dim=-1)
        return kept * self.conv(self.norm(gate))


class GatedMlp(nn.Module):
    """Linear, GELU, :class:`ConvolutionalGate`, linear.

    Source: ``GatedMLP`` of the lightweight MambaIRv2.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = linear(dim, hidden)
        self.sg = ConvolutionalGate(hidden // 2)
        self.fc2 = linear(hidden // 2, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, height, width, dim)`` to the same shape."""
        return self.fc2(self.sg(F.gelu(self.fc1(x))))


def feed_forward(kind: str, dim: int, hidden: int) -> ConvolutionalMlp | GatedMlp:
    """A feed-forward net of one of :data:`FEED_FORWARDS`; ``hidden`` is even for ``gated``."""
    return GatedMlp(dim, hidden) if kind == "gated" else ConvolutionalMlp(dim, hidden)


class AttentiveBlock(nn.Module):
    """``y = x + attention(norm1(x))``, ``x = scale1 x + y + ffn1(norm2(y))``, and the same again
    with the attentive scan.

    Args:
        dim: channels.
        attention: the mixer inside windows.
        scan: the mixer over the map.
        feed_forward_kind: of both feed-forward nets, one of :data:`FEED_FORWARDS`.
        hidden: channels inside them.

    Source: ``AttentiveLayer`` of MambaIRv2, whose names the parameters have.
    """

    def __init__(
        self,
        dim: int,
        attention: WindowAttention,
        scan: AttentiveScan,
        *,
        feed_forward_kind: str,
        hidden: int,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = LayerNorm(dim), LayerNorm(dim)
        self.norm3, self.norm4 = LayerNorm(dim), LayerNorm(dim)
        self.scale1 = nn.Parameter(torch.full((dim,), _SCALE, **module_kwargs()))
        self.scale2 = nn.Parameter(torch.full((dim,), _SCALE, **module_kwargs()))
        self.wqkv = linear(dim, 3 * dim)
        self.win_mhsa = attention
        self.assm = scan
        self.convffn1 = feed_forward(feed_forward_kind, dim, hidden)
        self.convffn2 = feed_forward(feed_forward_kind, dim, hidden)
        rank, states = scan.embeddingB.embedding_dim, scan.selectiveScan.state_size
        self.embeddingA = nn.Embedding(rank, states)
        nn.init.uniform_(self.embeddingA.weight, -1 / rank, 1 / rank)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, height, width, dim)`` to the same shape; sides are multiples of the window."""
        y = x + self.win_mhsa(self.wqkv(self.norm1(x)))
        x = torch.addcmul(y + self.convffn1(self.norm2(y)), x, self.scale1)
        y = x + self.assm(self.norm3(x), self.embeddingA.weight)
        return torch.addcmul(y + self.convffn2(self.norm4(y)), x, self.scale2)


def _depthwise(dim: int) -> ChannelLastConv2d:
    return ChannelLastConv2d(dim, dim, 5, padding=2, groups=dim)
