"""A MambaIR prepared for inference on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.errors import ShapeError
from qmamba.inference.attentive import PreparedAttentiveBlock
from qmamba.inference.layers import (
    Attention,
    Convolution,
    Layer,
    LayerNorm,
    apply,
    channel_attention,
    integer_weight,
    sequence,
)
from qmamba.inference.mixer import plain_mixer
from qmamba.inference.packed import PackedLinear
from qmamba.inference.precision import Precision, ProcessBound, own_precision, require_cpu
from qmamba.models.mambair.network import MambaIR, input_mean, mirrored_to_multiple
from qmamba.nn import (
    SS2D,
    AttentiveBlock,
    ChannelAttention,
    ChannelAttentionBlock,
    ResidualGroup,
    ScaledSkipBlock,
)
from qmamba.ops.native.integer import IntegerCall
from qmamba.ops.native.maps import attended_sum
from qmamba.ops.native.memory import kept_memory
from qmamba.ops.scan.dispatch import kernel_is_live

_USUAL_SIDE = 64
_FLOAT = 4


class PreparedMambaIR(ProcessBound):
    """What :class:`~qmamba.models.MambaIR` computes, faster, on the CPU.

    Args:
        model: the network; its weights are copied as they are now.
        precision: ``"fp32"``; ``"bf16"`` for bfloat16 weights and activations with the state of
            the scan, the input and what is added to it in float32; ``"int8"`` for linear layers and
            convolutions of many channels on 8-bit integers, but for the last one, which makes the
            image. Grids are as for :class:`~qmamba.inference.quality.PreparedQMamba`.
        timed: see :class:`~qmamba.inference.quality.PreparedQMamba`.
        group: what takes the place of each residual group, for networks that are quantized.

    Raises:
        BackendError: the precision is ``int8`` and the C++ kernel is not available.
        ConfigError: the model is not on the CPU.
    """

    def __init__(
        self,
        model: MambaIR,
        precision: Precision = "fp32",
        *,
        timed: bool = False,
        group: Callable[[ResidualGroup], Layer] | None = None,
    ) -> None:
        require_cpu(model)
        self._config, self._multiple = model.config, model.multiple
        self._name = type(model).__name__
        self._dtype = dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        size = (_USUAL_SIDE, _USUAL_SIDE)
        self._first = Convolution(model.conv_first, dtype, size)
        self._embed = LayerNorm(cast(nn.LayerNorm, model.patch_embed[0]), dtype)
        integers = precision == "int8"
        prepared = group or partial(_Group, dtype=dtype, timed=timed, integers=integers)
        self._groups = [prepared(cast(ResidualGroup, layer)) for layer in model.layers]
        self._norm = LayerNorm(model.norm, dtype)
        self._after_body = sequence([model.conv_after_body], dtype, size, integers=integers)
        tail = {name: layer for name, layer in model.named_children() if name in _TAIL}
        last = "conv_last" if "conv_last" in tail else "upsample"
        self._tail = {
            name: sequence([layer], dtype, size, integers=integers and name != last)
            for name, layer in tail.items()
        }

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images in [0, 1] and their conditions to restored images, float32.

        Args:
            images: ``(batch, channels + condition_channels, height, width)``.

        Raises:
            ShapeError: the images have another shape.
        """
        config = self._config
        if images.dim() != 4 or images.shape[1] != config.inputs or 0 in images.shape:
            raise ShapeError(
                f"This {self._name} needs images of shape (batch, {config.inputs}, height, "
                f"width), none of them zero, got {tuple(images.shape)}."
            )
        height, width = (config.scale * side for side in images.shape[2:])
        images = mirrored_to_multiple(images, self._multiple)
        largest = images[:, 0].numel() * config.widest * _FLOAT
        with own_precision(), kept_memory(largest):
            colors = slice(config.channels)
            mean = images.new_tensor(input_mean(config))
            x = (images.permute(0, 2, 3, 1) - mean) * config.image_range
            y = self._reconstruct(self._features(x.to(self._dtype))).float()
            if config.task in ("denoise", "jpeg"):
                y = x[..., colors] + y
            y = (y / config.image_range + mean[colors]).permute(0, 3, 1, 2)
            return y[..., :height, :width]

    def _features(self, x: Tensor) -> Tensor:
        shallow = self._first(x)
        deep = self._embed(shallow)
        for group in self._groups:
            deep = group(deep)
        return apply(self._after_body, self._norm(deep)).add_(shallow)

    def _reconstruct(self, x: Tensor) -> Tensor:
        tail = self._tail
        if self._config.task == "sr-real":
            x = apply(tail["conv_before_upsample"], x)
            for name in ("conv_up1", "conv_up2"):
                larger = F.interpolate(x.permute(0, 3, 1, 2), scale_factor=2.0, mode="nearest")
                x = F.leaky_relu(apply(tail[name], larger.permute(0, 2, 3, 1)), 0.2)
            return apply(tail["conv_last"], F.leaky_relu(apply(tail["conv_hr"], x), 0.2))
        for name in ("conv_before_upsample", "upsample", "conv_last"):
            x = apply(tail.get(name, []), x)
        return x


_TAIL = ("conv_before_upsample", "upsample", "conv_up1", "conv_up2", "conv_hr", "conv_last")


class _Group:
    """A residual group on ``(batch, height, width, dim)``."""

    def __init__(
        self, group: ResidualGroup, dtype: torch.dtype, timed: bool, integers: bool
    ) -> None:
        self._blocks: list[Layer] = [
            _block(block, dtype, timed, integers) for block in group.blocks
        ]
        size = (_USUAL_SIDE, _USUAL_SIDE)
        self._convolution = sequence([group.conv], dtype, size, integers=integers)

    def __call__(self, x: Tensor) -> Tensor:
        return apply(self._convolution, apply(self._blocks, x)).add_(x)


def _block(block: nn.Module, dtype: torch.dtype, timed: bool, integers: bool) -> Layer:
    if isinstance(block, AttentiveBlock):
        return PreparedAttentiveBlock(block, dtype, timed, integers)
    return _Block(cast(ScaledSkipBlock, block), dtype, timed, integers)


class _Block:
    """A block on ``(batch, height, width, dim)``."""

    def __init__(
        self, block: ScaledSkipBlock, dtype: torch.dtype, timed: bool, integers: bool
    ) -> None:
        def packed(weight: Tensor) -> PackedLinear | IntegerCall:
            if integers:
                return IntegerCall(integer_weight(weight))
            return PackedLinear(weight.to(dtype), None, _USUAL_SIDE**2, timed=timed)

        size = (_USUAL_SIDE, _USUAL_SIDE)
        mixer = cast(SS2D, block.self_attention)
        self._norm, self._norm2 = LayerNorm(block.ln_1, dtype), LayerNorm(block.ln_2, dtype)
        # Apart, because the convolution would have to copy its half of a wider map.
        scanned, gate = mixer.in_proj.weight.chunk(2)
        self._gate = packed(gate)
        project = packed(mixer.x_proj_weight.flatten(0, 1))
        self._mix = plain_mixer(mixer, dtype, packed(scanned), project, size)
        self._out = packed(mixer.out_proj.weight)
        *convolutions, attention = cast(ChannelAttentionBlock, block.conv_blk).cab
        self._convolutions = sequence(convolutions, dtype, size, integers=integers)
        self._attention = Attention(cast(ChannelAttention, attention), dtype)
        self._attention_weights = channel_attention(cast(ChannelAttention, attention))
        self._skip = block.skip_scale.detach().to(dtype, copy=True)
        self._skip2 = block.skip_scale2.detach().to(dtype, copy=True)
        self._one_pass = dtype == torch.float32 and kernel_is_live()

    def __call__(self, x: Tensor) -> Tensor:
        normalized = self._norm(x)
        y = self._mix(normalized).map
        y = y.mul_(F.silu(self._gate(normalized), inplace=True))
        x = self._out(y, residual=x * self._skip)
        y = apply(self._convolutions, self._norm2(x))
        if self._one_pass:
            return attended_sum(x, self._skip2, y.contiguous(), self._attention_weights)
        return torch.addcmul(x * self._skip2, y, self._attention.weights(y))
