"""Layers of channel-last maps: linear, norm, convolution; the kernel trains them on the CPU."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.ops import layers


class Linear(nn.Linear):
    """``nn.Linear`` with the kernel's gradients (:func:`qmamba.ops.layers.linear`)."""

    def forward(self, x: Tensor) -> Tensor:
        return layers.linear(x, self.weight, self.bias)


class LayerNorm(nn.LayerNorm):
    """``nn.LayerNorm`` over the last axis with the kernel's gradients."""

    def forward(self, x: Tensor) -> Tensor:
        return layers.layer_norm(x, self.weight, self.bias, self.eps)


class ChannelLastConv2d(nn.Conv2d):
    """``nn.Conv2d`` from ``(batch, height, width, channels)`` to the same layout.

    Weights keep torch's layout ``(out, in / groups, rows, columns)``, as in every checkpoint.
    Depthwise windows and those of one pixel have the kernel's gradients in training.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.is_depthwise:
            return layers.depthwise_convolution(
                x, self.weight, self.bias, dilation=self.dilation[0]
            )
        if self._is_linear and layers.trains_natively((x,), (self.weight, self.bias)):
            return layers.linear(x, self.weight.flatten(1), self.bias)
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    @property
    def is_depthwise(self) -> bool:
        """Whether it has a window of its own for each channel and keeps the size of the map."""
        side = self.kernel_size[0]
        return (
            self.in_channels == self.out_channels == self.groups
            and self.kernel_size == (side, side)
            and self.dilation[0] == self.dilation[1]
            and self.padding == (side // 2 * self.dilation[0],) * 2
            and side % 2 == 1
            and self.stride == (1, 1)
            and self.padding_mode == "zeros"
        )

    @property
    def _is_linear(self) -> bool:
        plain = self.kernel_size == self.stride == (1, 1) and self.padding == (0, 0)
        return plain and self.groups == 1


def gated(norm: nn.Module, x: Tensor, gate: Tensor) -> Tensor:
    """``norm(x) * silu(gate)``, in one pass where nothing else wants to see the parts.

    Args:
        norm: any module that keeps the shape of its input.
        x, gate: ``(..., channels)``.
    """
    if type(norm) is LayerNorm and not is_watched(norm):
        return layers.gated_norm(x, norm.weight, norm.bias, gate, norm.eps)
    return norm(x) * F.silu(gate)


def convolved_silu(layer: nn.Module, x: Tensor) -> Tensor:
    """``silu(layer(x))``, in one pass where nothing else wants to see the parts."""
    if type(layer) is ChannelLastConv2d and layer.is_depthwise and not is_watched(layer):
        return layers.depthwise_convolution(
            x, layer.weight, layer.bias, dilation=layer.dilation[0], activation="silu"
        )
    return F.silu(layer(x))


def is_watched(module: nn.Module) -> bool:
    """Whether a call of the module has to be a call, because hooks wait for it."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )
