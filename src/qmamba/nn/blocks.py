"""The parts between the scans: MLP, residual block, stem and downsampling."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.nn.initialization import linear
from qmamba.nn.layers import ChannelLastConv2d, LayerNorm


class Mlp(nn.Module):
    """Two linear layers with GELU between them, on the last axis."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = linear(dim, hidden)
        self.fc2 = linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class DropPath(nn.Module):
    """In training, drop the whole branch of a sample with probability ``rate`` and scale the rest.

    Draws from torch's global generator, like ``nn.Dropout``.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0.0 or not self.training:
            return x
        shape = (x.shape[0],) + (1,) * (x.dim() - 1)
        kept = torch.full(shape, 1 - self.rate, dtype=torch.float32, device=x.device)
        return x * (torch.bernoulli(kept) / kept).to(x.dtype)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


class VSSBlock(nn.Module):
    """``x + op(norm(x))``, then ``x + mlp(norm2(x))``, each branch with drop path.

    Args:
        dim: channels.
        op: the mixer between pixels, ``(batch, height, width, dim)`` to the same shape.
        mlp_ratio: hidden channels of the MLP as a multiple of ``dim``.
        drop_path: probability of dropping a branch in training.

    Source: ``VSSBlock`` of VMamba.
    """

    def __init__(
        self, dim: int, op: nn.Module, *, mlp_ratio: float = 4.0, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.norm = LayerNorm(dim)
        self.op = op
        self.drop_path = DropPath(drop_path)
        self.norm2 = LayerNorm(dim)
        self.mlp = Mlp(dim, int(mlp_ratio * dim))

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, height, width, dim)`` to the same shape."""
        x = x + self.drop_path(self.op(self.norm(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def stem(channels: int, dim: int) -> nn.Sequential:
    """Two strided convolutions, from ``channels`` to ``dim`` at a quarter of each side.

    Maps are ``(batch, height, width, channels)``; odd sides are rounded up at each halving. The
    names are positions in VMamba's patch embedding, whose changes of layout are not layers here.
    """
    return nn.Sequential(
        OrderedDict(
            [
                ("0", _halving(channels, dim // 2)),
                ("2", LayerNorm(dim // 2)),
                ("4", nn.GELU()),
                ("5", _halving(dim // 2, dim)),
                ("7", LayerNorm(dim)),
            ]
        )
    )


def downsample(dim: int, out_dim: int) -> nn.Sequential:
    """A strided convolution and a norm: half of each side, rounded up, and ``out_dim`` channels."""
    return nn.Sequential(OrderedDict([("1", _halving(dim, out_dim)), ("3", LayerNorm(out_dim))]))


def _halving(dim: int, out_dim: int) -> ChannelLastConv2d:
    return ChannelLastConv2d(dim, out_dim, 3, stride=2, padding=1)
