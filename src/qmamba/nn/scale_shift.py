"""Layers whose result is scaled and shifted per channel, which SSF tuning makes of every layer.

The layers keep the names and tensors of the ones that they replace and add ``scale`` and ``shift``,
which start at 1 and 0. For inference both fold into the weight and the bias.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from qmamba.nn.layers import ChannelLastConv2d, LayerNorm, Linear

Network = TypeVar("Network", bound=nn.Module)


class ScaleShift:
    """Mixin of a layer with a channel-last result: ``scale * layer(x) + shift``."""

    scale: nn.Parameter
    """``(channels,)``."""
    shift: nn.Parameter
    """``(channels,)``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale + self.shift  # type: ignore[misc]


class ScaledLinear(ScaleShift, Linear):
    """``nn.Linear`` with a scale and a shift of its outputs."""


class ScaledLayerNorm(ScaleShift, LayerNorm):
    """``nn.LayerNorm`` over the last axis with a scale and a shift of its result."""


class ScaledConv2d(ScaleShift, ChannelLastConv2d):
    """A channel-last convolution with a scale and a shift of its outputs."""


_SCALED: dict[type[nn.Module], type[nn.Module]] = {
    Linear: ScaledLinear,
    LayerNorm: ScaledLayerNorm,
    ChannelLastConv2d: ScaledConv2d,
}
_PLAIN = {scaled: plain for plain, scaled in _SCALED.items()}


def add_scale_shift(layer: nn.Module) -> bool:
    """Turn a linear layer, layer norm or convolution into its scaled form, in place.

    Returns:
        Whether it is a layer that has such a form.
    """
    if type(layer) not in _SCALED:
        return False
    like = next(layer.parameters())
    channels = like.shape[0]
    # As torch's own parametrisations do it: the layer keeps its name, tensors and place.
    layer.__class__ = _SCALED[type(layer)]
    for name, value in (("scale", 1.0), ("shift", 0.0)):
        tensor = torch.full((channels,), value, dtype=like.dtype, device=like.device)
        layer.register_parameter(name, nn.Parameter(tensor))
    return True


def without_scale_shift(network: Network) -> Network:
    """The same function in plain layers: the network itself, or a copy with the factors folded in.

    A folded layer always has a bias.
    """
    if not any(isinstance(layer, ScaleShift) for layer in network.modules()):
        return network
    folded = copy.deepcopy(network)
    for layer in folded.modules():
        if isinstance(layer, ScaledLinear | ScaledLayerNorm | ScaledConv2d):
            _fold(layer)
    return folded


@torch.no_grad()
def _fold(layer: ScaledLinear | ScaledLayerNorm | ScaledConv2d) -> None:
    scale, shift = layer.scale, layer.shift
    del layer.scale, layer.shift
    layer.__class__ = _PLAIN[type(layer)]  # type: ignore[assignment]
    bias = shift if layer.bias is None else layer.bias * scale + shift
    layer.bias = nn.Parameter(bias.clone(), requires_grad=False)
    factors = scale.view(-1, *[1] * (layer.weight.dim() - 1))
    layer.weight = nn.Parameter(layer.weight * factors, requires_grad=False)
