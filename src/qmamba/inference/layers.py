"""Layers prepared for inference on the CPU, on channel-last maps, from those of the networks.

Each takes the weights of the moment it is made and gives no gradients.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.inference.packed import Activation, PackedConv2d
from qmamba.nn import ChannelAttention
from qmamba.ops.native.integer import IntegerCall, PackedCodes
from qmamba.ops.native.maps import ChannelAttentionWeights, layer_norm
from qmamba.ops.scan.dispatch import kernel_is_live

Layer: TypeAlias = Callable[[Tensor], Tensor]

_FEWEST_INTEGER_CHANNELS = 16


class LayerNorm:
    """Layer norm over the last axis."""

    def __init__(self, layer: nn.LayerNorm, dtype: torch.dtype) -> None:
        self._has_kernel = kernel_is_live()
        kept = torch.float32 if self._has_kernel else dtype
        self._weight = layer.weight.detach().to(kept, copy=True)
        self._bias = layer.bias.detach().to(kept, copy=True)
        self._epsilon = layer.eps

    def __call__(self, x: Tensor) -> Tensor:
        if self._has_kernel:
            return layer_norm(x, self._weight, self._bias, self._epsilon)
        return F.layer_norm(x, self._weight.shape, self._weight, self._bias, self._epsilon)


class Convolution:
    """A convolution with the activation after it."""

    def __init__(
        self,
        layer: nn.Conv2d,
        dtype: torch.dtype,
        size: tuple[int, int],
        activation: Activation | None = None,
    ) -> None:
        self._convolution = PackedConv2d(layer, dtype, size)
        self._activation = activation

    def __call__(self, x: Tensor) -> Tensor:
        return self._convolution(x, activation=self._activation)


class Attention:
    """Channel attention: the map, and the weights of its channels that it still has to be given."""

    def __init__(self, layer: ChannelAttention, dtype: torch.dtype) -> None:
        self._attention = copy.deepcopy(layer.attention).to(dtype)

    def weights(self, x: Tensor) -> Tensor:
        """``(batch, height, width, dim)`` to ``(batch, 1, 1, dim)``."""
        return torch.sigmoid(self._attention(x.mean((1, 2), keepdim=True)))


def channel_attention(layer: ChannelAttention) -> ChannelAttentionWeights:
    """The weights of a channel attention for the kernel, copied."""
    squeeze, excite = (module for module in layer.attention if isinstance(module, nn.Conv2d))
    copies = []
    for convolution in (squeeze, excite):
        assert convolution.bias is not None
        for tensor in (convolution.weight.flatten(1), convolution.bias):
            copies.append(tensor.detach().to("cpu", torch.float32, copy=True).contiguous())
    return ChannelAttentionWeights(*copies)


class Shuffle:
    """Pixel shuffle."""

    def __init__(self, layer: nn.PixelShuffle) -> None:
        self._factor = layer.upscale_factor

    def __call__(self, x: Tensor) -> Tensor:
        larger = F.pixel_shuffle(x.permute(0, 3, 1, 2), self._factor)
        return larger.permute(0, 2, 3, 1).contiguous()


def sequence(
    modules: Iterable[nn.Module],
    dtype: torch.dtype,
    size: tuple[int, int] = (56, 56),
    *,
    integers: bool = False,
) -> list[Layer]:
    """Convolutions, norms, activations and pixel shuffles in their order.

    Args:
        modules: the layers; containers are entered.
        dtype: float32 or bfloat16.
        size: height and width of the maps they usually get.
        integers: run convolutions of many channels on 8-bit integers.
    """
    flat = [leaf for module in modules for leaf in _leaves(module)]
    layers: list[Layer] = []
    for index, layer in enumerate(flat):
        following = flat[index + 1] if index + 1 < len(flat) else None
        if isinstance(layer, nn.Conv2d):
            fused: Activation | None = "gelu" if isinstance(following, nn.GELU) else None
            if integers and layer.groups == 1 and layer.in_channels >= _FEWEST_INTEGER_CHANNELS:
                layers.append(partial(integer_convolution(layer), gelu=fused is not None))
            else:
                layers.append(Convolution(layer, dtype, size, fused))
        elif isinstance(layer, nn.LayerNorm):
            layers.append(LayerNorm(layer, dtype))
        elif isinstance(layer, nn.PixelShuffle):
            layers.append(Shuffle(layer))
        elif isinstance(layer, nn.GELU):
            if not (index and isinstance(flat[index - 1], nn.Conv2d)):
                layers.append(F.gelu)
        else:
            assert isinstance(layer, nn.LeakyReLU), layer
            layers.append(copy.deepcopy(layer))
    return layers


def _leaves(module: nn.Module) -> Iterable[nn.Module]:
    if isinstance(module, nn.Sequential):
        return [leaf for child in module for leaf in _leaves(child)]
    return [] if isinstance(module, nn.Identity) else [module]


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes from -127 to 127 of each row of a matrix, each row with its own scale.

    Args:
        weight: ``(outputs, inputs)``.

    Returns:
        int8 codes of that shape, and float32 scales ``(outputs,)``.
    """
    weight = weight.detach().float()
    scale = (weight.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
    return torch.round(weight / scale.unsqueeze(1)).to(torch.int8), scale


def integer_weight(weight: Tensor, bias: Tensor | None = None) -> PackedCodes:
    """A matrix ``(outputs, inputs)`` on 8 bits, each output with its own scale."""
    codes, scale = quantize_weight(weight)
    return PackedCodes(codes, scale, None, bias)


def integer_convolution(layer: nn.Conv2d) -> IntegerCall:
    """A square convolution without groups or dilation, padded to keep the map, on integers."""
    side, stride = layer.kernel_size[0], layer.stride[0]
    assert layer.kernel_size == (side, side) and layer.stride == (stride, stride)
    assert layer.padding == (side // 2, side // 2) and layer.groups == 1
    weight = integer_weight(layer.weight.permute(0, 2, 3, 1).flatten(1), layer.bias)
    return IntegerCall(weight, side=side, stride=stride)


def apply(layers: Iterable[Layer], x: Tensor) -> Tensor:
    """One layer after the other."""
    for layer in layers:
        x = layer(x)
    return x
