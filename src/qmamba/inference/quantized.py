"""Converted networks prepared for inference on the CPU: every quantized layer computes on codes.

A network whose layers are all of kinds that the C++ kernel computes gets a new ``forward``; the
layers themselves stay as they are, as the definition. Parts that the kernel does not compute (the
official quantizers of ``compat=True``, activations in full precision) run as PyTorch modules, which
turn their codes into values while they run, and so does everything where there is no kernel.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.inference.layers import Layer, apply
from qmamba.inference.prepare import InferenceModel
from qmamba.inference.quantized_layers import Chain, NotDeployable, linear
from qmamba.inference.quantized_scan import Mixer
from qmamba.inference.restoration import RestorationModel
from qmamba.models.mambair.network import MambaIR
from qmamba.models.qmamba.network import QMamba, Stage
from qmamba.nn import ChannelAttention, ChannelAttentionBlock, ResidualGroup, ScaledSkipBlock
from qmamba.nn.blocks import VSSBlock
from qmamba.ops.native.library import unavailable_reason
from qmamba.ops.native.maps import weighted_sum
from qmamba.ops.native.memory import Buffers
from qmamba.quantization.layers import FrozenTensor
from qmamba.quantization.quantizers import DLS
from qmamba.quantization.ss2d import QuantizedSS2D

AnyModel = TypeVar("AnyModel", bound=nn.Module)


def deploy_(model: AnyModel) -> AnyModel:
    """Let a converted network compute on its codes, in place.

    Its results are those of the converted network but for the order of sums in float32. On
    photographs every block is within 60 dB of its definition from the same input, and at 8 bits the
    network as well. With fewer bits a value between two levels may take the other one and move
    values after it; in float64 the converted network differs from itself as much.

    Does nothing where the C++ kernel is not available, on other devices than the CPU, and for
    networks that are neither a MambaIR nor a QMamba.

    Args:
        model: after the step ``convert`` or from a packed file; from then on for inference only.
    """
    on_cpu = all(tensor.device.type == "cpu" for tensor in model.state_dict().values())
    converted = any(isinstance(module, FrozenTensor) for module in model.modules())
    if not converted or not on_cpu or unavailable_reason() is not None:
        return model
    network: Callable[[Tensor], Tensor]
    buffers = Buffers()
    if isinstance(model, MambaIR):
        network = RestorationModel(model, group=partial(_group, buffers=buffers))
    elif isinstance(model, QMamba):
        network = InferenceModel(model, stage=partial(_stage, buffers=buffers))
    else:
        return model
    model.forward = _Forward(model, network)
    return model


class _Forward:
    """The forward pass of a deployed network."""

    def __init__(self, model: nn.Module, network: Callable[[Tensor], Tensor]) -> None:
        self._model = model
        self._network = network
        self._one_by_one = any(
            isinstance(module, DLS) and module.statistics == "batch" for module in model.modules()
        )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        # The kernel takes statistics of one image at a time.
        whole_batch = self._one_by_one and len(images) > 1
        if images.device.type != "cpu" or images.dtype != torch.float32 or whole_batch:
            return type(self._model).forward(self._model, images)
        return self._network(images)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[[Tensor], Tensor]:
        # The calls hold addresses of tensors, so a copy of the model starts from its definition.
        copied = memo[id(self._model)]
        return types.MethodType(type(copied).forward, copied)


def _group(group: ResidualGroup, buffers: Buffers) -> Layer:
    """A residual group on ``(batch, height, width, dim)``."""
    blocks = [
        _or_module(SkipBlock, block, buffers)
        for block in cast(nn.Sequential, group.residual_group.blocks)
    ]
    layers = list(group.conv) if isinstance(group.conv, nn.Sequential) else [group.conv]
    try:
        convolution: Layer = Chain(layers, buffers)
    except NotDeployable:
        convolution = group.conv

    def run(x: Tensor) -> Tensor:
        return convolution(apply(blocks, x)).add_(x)

    return run


def _stage(stage: Stage, buffers: Buffers) -> list[Layer]:
    """The blocks of a stage and what follows them."""
    blocks = [_or_module(ScoringBlock, block, buffers) for block in stage.blocks]
    after = list(stage.downsample) if isinstance(stage.downsample, nn.Sequential) else []
    try:
        return [*blocks, *([Chain(after, buffers)] if after else [])]
    except NotDeployable:
        return [*blocks, stage.downsample]


def _or_module(
    deployed: Callable[[Any, Buffers], Layer], module: nn.Module, buffers: Buffers
) -> Layer:
    try:
        return deployed(module, buffers)
    except NotDeployable:
        return module


class SkipBlock:
    """A block of MambaIR on ``(batch, height, width, dim)``."""

    def __init__(self, block: ScaledSkipBlock, buffers: Buffers) -> None:
        mixer = block.self_attention
        if not isinstance(mixer, QuantizedSS2D):
            raise NotDeployable
        self._in = linear(mixer.in_proj, buffers, block.ln_1)
        self._out = linear(mixer.out_proj, buffers)
        self._mix = Mixer(mixer, buffers, self._out.rule)
        *convolutions, attention = cast(ChannelAttentionBlock, block.conv_blk).cab
        self._convolutions = Chain([block.ln_2, *convolutions], buffers, "convolution")
        self._attention = cast(ChannelAttention, attention).attention
        self._skip, self._skip2 = block.skip_scale.detach(), block.skip_scale2.detach()

    def __call__(self, x: Tensor) -> Tensor:
        scanned, gate = self._in(x, name="inner").chunk(2, dim=-1)
        mixed, qparams = self._mix(scanned, gate)
        x = self._out(mixed, qparams=qparams, residual=x, residual_scale=self._skip, name="scanned")
        y = self._convolutions(x)
        weights = torch.sigmoid(self._attention(y.mean((1, 2), keepdim=True)))
        return weighted_sum(x, self._skip2, y, weights)


class ScoringBlock:
    """A block of QMamba on ``(batch, height, width, dim)``."""

    def __init__(self, block: VSSBlock, buffers: Buffers) -> None:
        mixer = block.op
        if not isinstance(mixer, QuantizedSS2D):
            raise NotDeployable
        self._in = linear(mixer.in_proj, buffers, block.norm)
        self._out = linear(mixer.out_proj, buffers)
        self._mix = Mixer(mixer, buffers, self._out.rule)
        self._fc1 = linear(block.mlp.fc1, buffers, block.norm2)
        self._fc2 = linear(block.mlp.fc2, buffers)

    def __call__(self, x: Tensor) -> Tensor:
        mixed, qparams = self._mix(self._in(x, name="inner"))
        x = self._out(mixed, qparams=qparams, residual=x, name="scanned")
        return self._fc2(F.gelu(self._fc1(x, name="hidden")), residual=x)
