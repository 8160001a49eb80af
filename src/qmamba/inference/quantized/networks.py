"""Converted networks prepared for inference on the CPU: every quantized layer computes on codes.

The layers of the network stay as they are, as the definition. Parts that the C++ kernel does not
compute (the official quantizers of ``compat=True``, activations in full precision) run as PyTorch
modules, which turn their codes into values while they run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.inference.layers import Layer, apply, channel_attention
from qmamba.inference.quality import PreparedQMamba
from qmamba.inference.quantized.attentive import QuantizedAttentiveBlock
from qmamba.inference.quantized.layers import Chain, NotPreparable, linear
from qmamba.inference.quantized.mixer import QuantizedMixer
from qmamba.inference.restoration import PreparedMambaIR
from qmamba.models.mambair.network import MambaIR
from qmamba.models.qmamba.network import QMamba, Stage
from qmamba.nn import (
    AttentiveBlock,
    ChannelAttention,
    ChannelAttentionBlock,
    ResidualGroup,
    ScaledSkipBlock,
)
from qmamba.nn.blocks import VSSBlock
from qmamba.ops.native.maps import attended_sum
from qmamba.ops.native.memory import Buffers
from qmamba.quantization.ss2d import QuantizedSS2D


def quantized_mambair(model: MambaIR) -> PreparedMambaIR:
    """A converted MambaIR or MambaIRv2 on its codes."""
    buffers = Buffers()
    return PreparedMambaIR(model, group=partial(_group, buffers=buffers), buffers=buffers)


def quantized_qmamba(model: QMamba) -> PreparedQMamba:
    """A converted QMamba on its codes."""
    return PreparedQMamba(model, stage=partial(_stage, buffers=Buffers()))


def _group(group: ResidualGroup, buffers: Buffers, place: str) -> Layer:
    """A residual group on ``(batch, height, width, dim)``; its result lies in a place."""
    blocks = [_or_module(_prepared_kind(block), block, buffers) for block in group.blocks]
    layers = list(group.conv) if isinstance(group.conv, nn.Sequential) else [group.conv]
    try:
        convolution: Layer = Chain(layers, buffers, (place, "inner"))
    except NotPreparable:
        convolution = group.conv

    def run(x: Tensor) -> Tensor:
        return convolution(apply(blocks, x)).add_(x)

    return run


def _stage(stage: Stage, buffers: Buffers) -> list[Layer]:
    """The blocks of a stage and what follows them."""
    blocks = [_or_module(QuantizedVSSBlock, block, buffers) for block in stage.blocks]
    after = list(stage.downsample) if isinstance(stage.downsample, nn.Sequential) else []
    try:
        return [*blocks, *([Chain(after, buffers)] if after else [])]
    except NotPreparable:
        return [*blocks, stage.downsample]


def _prepared_kind(block: nn.Module) -> Callable[[Any, Buffers], Layer]:
    return QuantizedAttentiveBlock if isinstance(block, AttentiveBlock) else QuantizedSkipBlock


def _or_module(
    prepared: Callable[[Any, Buffers], Layer], module: nn.Module, buffers: Buffers
) -> Layer:
    try:
        return prepared(module, buffers)
    except NotPreparable:
        return module


class QuantizedSkipBlock:
    """A block of MambaIR on ``(batch, height, width, dim)``."""

    def __init__(self, block: ScaledSkipBlock, buffers: Buffers) -> None:
        mixer = block.self_attention
        if not isinstance(mixer, QuantizedSS2D):
            raise NotPreparable
        self._out = linear(mixer.out_proj, buffers)
        self._mix = QuantizedMixer(mixer, block.ln_1, buffers, self._out.rule)
        *convolutions, attention = cast(ChannelAttentionBlock, block.conv_blk).cab
        # Of what the scan has read, nothing is needed any more.
        places = ("inner", "projected")
        self._convolutions = Chain([block.ln_2, *convolutions], buffers, places)
        self._buffers = buffers
        self._attention = channel_attention(cast(ChannelAttention, attention))
        self._skip, self._skip2 = block.skip_scale.detach(), block.skip_scale2.detach()

    def __call__(self, x: Tensor) -> Tensor:
        mixed, qparams = self._mix(x)
        x = self._out(mixed, qparams=qparams, residual=x, residual_scale=self._skip, name="pixels")
        out = self._buffers("block", tuple(x.shape))
        return attended_sum(x, self._skip2, self._convolutions(x), self._attention, out)


class QuantizedVSSBlock:
    """A block of QMamba on ``(batch, height, width, dim)``."""

    def __init__(self, block: VSSBlock, buffers: Buffers) -> None:
        mixer = block.op
        if not isinstance(mixer, QuantizedSS2D):
            raise NotPreparable
        self._out = linear(mixer.out_proj, buffers)
        self._mix = QuantizedMixer(mixer, block.norm, buffers, self._out.rule)
        self._fc1 = linear(block.mlp.fc1, buffers, block.norm2)
        self._fc2 = linear(block.mlp.fc2, buffers)

    def __call__(self, x: Tensor) -> Tensor:
        mixed, qparams = self._mix(x)
        x = self._out(mixed, qparams=qparams, residual=x, name="scanned")
        grid = self._fc2.reads
        if grid is not None and self._fc1.writes_codes:
            hidden, _ = self._fc1.codes(x, grid, gelu=True, name="hidden")
        else:
            hidden = F.gelu(self._fc1(x, name="hidden"))
        return self._fc2(hidden, residual=x)
