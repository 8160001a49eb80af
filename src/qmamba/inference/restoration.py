"""A MambaIR prepared for inference on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.errors import ShapeError
from qmamba.inference.attentive import PreparedAttentiveBlock
from qmamba.inference.bands import Bands, margin_of
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
from qmamba.ops.native.library import held_workspace
from qmamba.ops.native.maps import attended_sum
from qmamba.ops.native.memory import Buffers, kept_memory
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
        group: what takes the place of each residual group, for networks that are quantized; it is
            also told the place for its results.
        buffers: where intermediate results go.

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
        group: Callable[..., Layer] | None = None,
        buffers: Buffers | None = None,
    ) -> None:
        require_cpu(model)
        self._buffers = buffers = buffers or Buffers()
        self._makes_fresh_maps = any(isinstance(m, AttentiveBlock) for m in model.modules())
        self._config, self._multiple = model.config, model.multiple
        self._name = type(model).__name__
        self._dtype = dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        size = (_USUAL_SIDE, _USUAL_SIDE)
        self._first = Convolution(model.conv_first, dtype, size)
        self._embed = LayerNorm(cast(nn.LayerNorm, model.patch_embed[0]), dtype)
        integers = precision == "int8"
        prepared = group or partial(
            _Group, dtype=dtype, timed=timed, integers=integers, buffers=buffers
        )
        # A group needs its input to the end, so results take turns.
        self._groups = [
            prepared(cast(ResidualGroup, layer), place=f"group {index % 2}")
            for index, layer in enumerate(model.layers)
        ]
        self._norm = LayerNorm(model.norm, dtype)
        after = sequence([model.conv_after_body], dtype, size, integers=integers)
        margin = margin_of(model.conv_after_body)
        after = [self._norm, *after]
        # No block needs its pixels any more.
        self._after_body = Bands(partial(apply, after), buffers, "pixels", margin=margin)
        tail = {name: layer for name, layer in model.named_children() if name in _TAIL}
        last = "conv_last" if "conv_last" in tail else "upsample"
        self._tail = {
            name: sequence([layer], dtype, size, integers=integers and name != last)
            for name, layer in tail.items()
        }
        margin = margin_of(*tail.values())
        scale = model.config.scale
        self._image = Bands(self._reconstruct, buffers, None, margin=margin, scale=scale)

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
        kept = kept_memory(largest) if self._makes_fresh_maps else nullcontext()
        with own_precision(), self._buffers.held(), held_workspace(), kept:
            colors = slice(config.channels)
            mean = images.new_tensor(input_mean(config))
            x = (images.permute(0, 2, 3, 1) - mean) * config.image_range
            y = self._image(self._features(x.to(self._dtype))).float()
            if config.task in ("denoise", "jpeg"):
                y = x[..., colors] + y
            y = (y / config.image_range + mean[colors]).permute(0, 3, 1, 2)
            return y[..., :height, :width]

    def _features(self, x: Tensor) -> Tensor:
        shallow = self._first(x)
        deep = self._embed(shallow)
        for group in self._groups:
            deep = group(deep)
        return self._after_body(deep).add_(shallow)

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
        self,
        group: ResidualGroup,
        dtype: torch.dtype,
        timed: bool,
        integers: bool,
        buffers: Buffers,
        place: str,
    ) -> None:
        self._blocks: list[Layer] = [
            _block(block, dtype, timed, integers, buffers) for block in group.blocks
        ]
        size = (_USUAL_SIDE, _USUAL_SIDE)
        convolutions = sequence([group.conv], dtype, size, integers=integers)
        margin = margin_of(group.conv)
        self._convolve = Bands(partial(apply, convolutions), buffers, place, margin=margin)

    def __call__(self, x: Tensor) -> Tensor:
        return self._convolve(apply(self._blocks, x)).add_(x)


def _block(
    block: nn.Module, dtype: torch.dtype, timed: bool, integers: bool, buffers: Buffers
) -> Layer:
    if isinstance(block, AttentiveBlock):
        return PreparedAttentiveBlock(block, dtype, timed, integers)
    return _Block(cast(ScaledSkipBlock, block), dtype, timed, integers, buffers)


class _Block:
    """A block on ``(batch, height, width, dim)``."""

    def __init__(
        self,
        block: ScaledSkipBlock,
        dtype: torch.dtype,
        timed: bool,
        integers: bool,
        buffers: Buffers,
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
        entered, self._gate = packed(scanned), packed(gate)
        project = packed(mixer.x_proj_weight.flatten(0, 1))
        enter = [self._norm, entered]
        self._mix = plain_mixer(mixer, dtype, partial(apply, enter), project, size, buffers)
        self._out = packed(mixer.out_proj.weight)
        # Pixels are not needed after the scan, projected ones neither.
        self._leave = Bands(self._left, buffers, "pixels")
        *convolutions, attention = cast(ChannelAttentionBlock, block.conv_blk).cab
        convolve: list[Layer] = [
            self._norm2,
            *sequence(convolutions, dtype, size, integers=integers),
        ]
        margin = margin_of(*convolutions)
        self._convolve = Bands(partial(apply, convolve), buffers, "projected", margin=margin)
        self._attention = Attention(cast(ChannelAttention, attention), dtype)
        self._attention_weights = channel_attention(cast(ChannelAttention, attention))
        self._skip = block.skip_scale.detach().to(dtype, copy=True)
        self._skip2 = block.skip_scale2.detach().to(dtype, copy=True)
        self._one_pass = dtype == torch.float32 and kernel_is_live()
        self._buffers = buffers

    def __call__(self, x: Tensor) -> Tensor:
        y = self._mix(x)
        x = self._leave(x, y)
        y = self._convolve(x)
        if self._one_pass:
            out = self._buffers("block", tuple(x.shape))
            return attended_sum(x, self._skip2, y.contiguous(), self._attention_weights, out)
        return torch.addcmul(x * self._skip2, y, self._attention.weights(y))

    def _left(self, x: Tensor, y: Tensor) -> Tensor:
        """The input and the scanned map, gated and in its channels again, together."""
        y = y.mul_(F.silu(self._gate(self._norm(x)), inplace=True))
        return self._out(y, residual=x * self._skip)
