"""Convolution on channel-last maps."""

from __future__ import annotations

from torch import Tensor, nn


class ChannelLastConv2d(nn.Conv2d):
    """``nn.Conv2d`` from ``(batch, height, width, channels)`` to the same layout.

    Weights keep torch's layout ``(out, in / groups, rows, columns)``, as in every checkpoint.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
