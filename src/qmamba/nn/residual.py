"""Residual blocks with learned skip connections, and groups of them, as in MambaIR."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from qmamba.nn.blocks import DropPath
from qmamba.nn.initialization import module_kwargs
from qmamba.nn.layers import ChannelLastConv2d, LayerNorm

GROUP_CONVOLUTIONS = ("1conv", "3conv")
"""Kinds of :func:`group_convolution`."""


class ScaledSkipBlock(nn.Module):
    """``scale x + mix(norm(x))``, then ``scale2 x + convolve(norm2(x))``; scales of each channel.

    Args:
        dim: channels.
        mix: the mixer between pixels, ``(batch, height, width, dim)`` to the same shape.
        convolve: the local branch, between the same shapes.
        drop_path: probability of dropping the first branch in training.

    Source: ``VSSBlock`` of MambaIR, whose names the parameters have.
    """

    def __init__(
        self, dim: int, mix: nn.Module, convolve: nn.Module, *, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.skip_scale = nn.Parameter(torch.ones(dim, **module_kwargs()))
        self.skip_scale2 = nn.Parameter(torch.ones(dim, **module_kwargs()))
        self.ln_1 = LayerNorm(dim)
        self.self_attention = mix
        self.drop_path = DropPath(drop_path)
        self.conv_blk = convolve
        self.ln_2 = LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, height, width, dim)`` to the same shape."""
        x = torch.addcmul(self.drop_path(self.self_attention(self.ln_1(x))), x, self.skip_scale)
        return torch.addcmul(self.conv_blk(self.ln_2(x)), x, self.skip_scale2)


class ResidualGroup(nn.Module):
    """``x + conv(blocks(x))`` on maps ``(batch, height, width, dim)``.

    Args:
        dim: channels.
        blocks: the blocks of the group in order.
        convolution: a kind of :func:`group_convolution`.
        name: what the state dict calls the blocks.

    Source: ``ResidualGroup`` of MambaIR, ``ASSB`` of MambaIRv2.
    """

    def __init__(
        self,
        dim: int,
        blocks: Iterable[nn.Module],
        *,
        convolution: str = "1conv",
        name: str = "blocks",
    ) -> None:
        super().__init__()
        self.residual_group = nn.Sequential(OrderedDict({name: nn.Sequential(*blocks)}))
        self.conv = group_convolution(dim, convolution)

    @property
    def blocks(self) -> nn.Sequential:
        """The blocks, whatever the state dict calls them."""
        (blocks,) = self.residual_group.children()
        assert isinstance(blocks, nn.Sequential)
        return blocks

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(self.residual_group(x))


def group_convolution(dim: int, kind: str) -> nn.Module:
    """What ends a residual group or the body of the network.

    ``1conv`` is one 3x3 convolution; ``3conv`` goes through a quarter of the channels: 3x3, 1x1 and
    3x3 with leaky ReLU between them.
    """
    if kind == "1conv":
        return ChannelLastConv2d(dim, dim, 3, padding=1)
    return nn.Sequential(
        ChannelLastConv2d(dim, dim // 4, 3, padding=1),
        nn.LeakyReLU(0.2),
        ChannelLastConv2d(dim // 4, dim // 4, 1),
        nn.LeakyReLU(0.2),
        ChannelLastConv2d(dim // 4, dim, 3, padding=1),
    )
