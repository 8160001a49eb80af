"""Linear and convolution layers with fake-quantized or frozen weights and quantized inputs."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.nn import ChannelLastConv2d
from qmamba.quantization.qparams import QuantParams
from qmamba.quantization.quantizers import Quantizer


class FrozenTensor(nn.Module):
    """A constant as codes on a qparams.

    Args:
        codes: int8 or uint8, the shape of the constant.
        qparams: what the codes stand for, the same for the whole constant.
        bits: width of a code.
    """

    codes: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(self, codes: Tensor, qparams: QuantParams, bits: int) -> None:
        super().__init__()
        self.bits, self.low, self.high = bits, qparams.low, qparams.high
        self.register_buffer("codes", codes)
        self.register_buffer("scale", qparams.scale.reshape(1))
        self.register_buffer("offset", qparams.offset.reshape(1))
        for name, bound in zip(("lowest", "highest"), qparams.clamp or (None, None), strict=True):
            self.register_buffer(name, None if bound is None else bound.reshape(1))

    def qparams(self) -> QuantParams:
        """What the codes stand for."""
        lowest, highest = cast("Tensor | None", self.lowest), cast("Tensor | None", self.highest)
        clamp = None if lowest is None or highest is None else (lowest, highest)
        return QuantParams(self.scale, self.offset, self.low, self.high, clamp)

    def forward(self) -> Tensor:
        """The constant, in the dtype of its scale."""
        return self.qparams().dequantize(self.codes)

    def extra_repr(self) -> str:
        return f"{tuple(self.codes.shape)}, bits={self.bits}"


@torch.no_grad()
def freeze(quantizer: Quantizer, value: Tensor) -> FrozenTensor:
    """The codes that a quantizer gives to a constant."""
    value = value.detach()
    codes = quantizer.quantize(value)
    qparams = quantizer.choose_qparams(value)
    return FrozenTensor(codes, qparams, quantizer.bits)


class QuantizedLinear(nn.Linear):
    """A linear layer whose weight and input are quantized.

    Args:
        layer: the layer whose parameters are taken over, not copied.
        weight_quantizer, input_quantizer: ``None`` for full precision.
    """

    weight_quantizer: Quantizer | None
    input_quantizer: Quantizer | None
    frozen_weight: FrozenTensor | None

    def __init__(
        self,
        layer: nn.Linear,
        weight_quantizer: Quantizer | None,
        input_quantizer: Quantizer | None,
    ) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, "meta")
        _take_over(self, layer, weight_quantizer, input_quantizer)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.input_quantizer is None else self.input_quantizer(x)
        return F.linear(x, quantized_weight(self), self.bias)

    def convert(self) -> None:
        """Replace the weight by its codes."""
        _freeze_weight(self)


class QuantizedConv2d(nn.Conv2d):
    """A convolution whose weight and input are quantized; zero padding stays exactly zero.

    On maps ``(batch, height, width, channels)`` if the layer is a
    :class:`~qmamba.nn.ChannelLastConv2d`, on ``(batch, channels, height, width)`` otherwise.

    Args:
        layer: the layer whose parameters are taken over, not copied.
        weight_quantizer, input_quantizer: ``None`` for full precision.
    """

    weight_quantizer: Quantizer | None
    input_quantizer: Quantizer | None
    frozen_weight: FrozenTensor | None

    def __init__(
        self,
        layer: nn.Conv2d,
        weight_quantizer: Quantizer | None,
        input_quantizer: Quantizer | None,
    ) -> None:
        super().__init__(
            layer.in_channels,
            layer.out_channels,
            cast("tuple[int, int]", layer.kernel_size),
            cast("tuple[int, int]", layer.stride),
            cast("str | tuple[int, int]", layer.padding),
            cast("tuple[int, int]", layer.dilation),
            layer.groups,
            layer.bias is not None,
            layer.padding_mode,
            "meta",
        )
        self.channel_last = isinstance(layer, ChannelLastConv2d)
        _take_over(self, layer, weight_quantizer, input_quantizer)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.input_quantizer is None else self.input_quantizer(x)
        weight = quantized_weight(self)
        if not self.channel_last:
            return self._conv_forward(x, weight, self.bias)
        return self._conv_forward(x.permute(0, 3, 1, 2), weight, self.bias).permute(0, 2, 3, 1)

    def convert(self) -> None:
        """Replace the weight by its codes."""
        _freeze_weight(self)


def quantized_weight(layer: QuantizedLinear | QuantizedConv2d) -> Tensor:
    """The weight that a layer computes with."""
    if layer.frozen_weight is not None:
        return layer.frozen_weight()
    return layer.weight if layer.weight_quantizer is None else layer.weight_quantizer(layer.weight)


def _take_over(
    new: QuantizedLinear | QuantizedConv2d,
    layer: nn.Linear | nn.Conv2d,
    weight_quantizer: Quantizer | None,
    input_quantizer: Quantizer | None,
) -> None:
    new.weight, new.bias = layer.weight, layer.bias
    new.weight_quantizer, new.input_quantizer = weight_quantizer, input_quantizer
    new.frozen_weight = None
    new.train(layer.training)


def _freeze_weight(layer: QuantizedLinear | QuantizedConv2d) -> None:
    if layer.weight_quantizer is not None:
        layer.frozen_weight = freeze(layer.weight_quantizer, layer.weight)
        layer.weight_quantizer = None
        del layer.weight
        layer.register_parameter("weight", None)
