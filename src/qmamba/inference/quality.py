"""A QMamba prepared for inference on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor

from qmamba.inference.layers import Layer, LayerNorm, apply, integer_weight, sequence
from qmamba.inference.mixer import plain_mixer
from qmamba.inference.packed import PackedLinear
from qmamba.inference.precision import Precision, ProcessBound, own_precision, require_cpu
from qmamba.models.qmamba.network import QMamba, Stage, denormalized
from qmamba.nn import SS2D, VSSBlock
from qmamba.nn.scale_shift import without_scale_shift
from qmamba.ops.native.integer import IntegerCall
from qmamba.ops.native.memory import kept_memory

_USUAL_SIDE = 56
_STEM_STRIDE = 4
_FLOAT = 4
_USUAL_IMAGES = 10


class PreparedQMamba(ProcessBound):
    """What :class:`~qmamba.models.QMamba` computes, faster, on the CPU.

    In ``int8`` every output of a weight has its own scale, and so has every row of activations,
    from its least to its greatest value at that moment: nothing is calibrated, and no pixel's
    rounding depends on another's or on what shares the batch.

    Args:
        model: the network; its weights are copied as they are now.
        precision: see :data:`Precision`.
        timed: choose between the packed operator and ``F.linear`` for each linear layer by timing
            both once for its sizes, instead of by the rule that the packed one is taken where it
            works. The two differ in the last bits, so a result is the same from one process to the
            next only as far as the timings are.
        stage: what takes the place of each stage, for networks that are quantized.

    Raises:
        BackendError: the precision is ``int8`` and the C++ kernel is not available.
        ConfigError: the model is not on the CPU.
    """

    def __init__(
        self,
        model: QMamba,
        precision: Precision = "fp32",
        *,
        timed: bool = False,
        stage: Callable[[Stage], list[Layer]] | None = None,
    ) -> None:
        require_cpu(model)
        model = without_scale_shift(model)
        integers = precision == "int8"
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        side = _USUAL_SIDE
        stem_size = (4 * side, 4 * side)
        self._stem = sequence(model.patch_embed, self._dtype, stem_size, integers=integers)
        self._widest = int(model.config.mlp_ratio * model.config.dims[0])
        self._stages = []
        for layer in model.layers:
            assert isinstance(layer, Stage)
            layers = stage(layer) if stage else self._prepared(layer, side, timed, integers)
            self._stages.append(layers)
            side = max(1, side // 2)
        if model.prompts is not None:
            for layers, prompt in zip(self._stages, model.prompts, strict=True):
                layers.append(copy.deepcopy(prompt).to(self._dtype))
        self._norm = LayerNorm(model.classifier.norm, torch.float32)
        self._head = copy.deepcopy(model.classifier.head).float()
        self._statistics = copy.deepcopy(model.classifier.statistics)

    def _prepared(self, stage: Stage, side: int, timed: bool, integers: bool) -> list[Layer]:
        blocks: list[Layer] = []
        for block in stage.blocks:
            assert isinstance(block, VSSBlock)
            if integers:
                blocks.append(_IntegerBlock(block, side))
            else:
                blocks.append(_Block(block, self._dtype, side, timed))
        after = sequence([stage.downsample], self._dtype, (side, side), integers=integers)
        return [*blocks, *after]

    @torch.no_grad()
    def forward_features(self, images: Tensor) -> Tensor:
        """The last map, normalized and averaged: float32 ``(batch, dims[-1])``."""
        return self._last_map(images).mean((1, 2))

    @torch.no_grad()
    def forward_with_map(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs, and the head's output at each position of the last map.

        Args:
            images: as in a call.

        Returns:
            float32 ``(batch, outputs)``, the bits of a call, and ``(batch, height, width,
            outputs)``, whose mean over the positions they are to rounding.
        """
        features = self._last_map(images)
        outputs, positions = self._rated(features.mean((1, 2))), self._rated(features)
        if self._statistics is not None:
            beside = self._beside(images)
            outputs, positions = outputs + beside, positions + beside[:, None, None]
        return outputs, positions

    def _last_map(self, images: Tensor) -> Tensor:
        # Stages halve the sides and double the widths, so the first one has the largest maps.
        pixels = images[:, 0].numel() // _STEM_STRIDE**2
        with own_precision(), kept_memory(pixels * self._widest * _FLOAT):
            x = apply(self._stem, images.to(self._dtype).permute(0, 2, 3, 1))
            for layers in self._stages:
                x = apply(layers, x)
            return self._norm(x.float())

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Normalized images ``(batch, 3, height, width)`` to float32 ``(batch, outputs)``."""
        outputs = self._rated(self.forward_features(images))
        return outputs if self._statistics is None else outputs + self._beside(images)

    def _beside(self, images: Tensor) -> Tensor:
        """What the image statistics add to the outputs."""
        assert self._statistics is not None
        with own_precision():
            outputs: Tensor = self._statistics(denormalized(images))
        return outputs

    def _rated(self, features: Tensor) -> Tensor:
        with own_precision():
            outputs: Tensor = self._head(features)
        return outputs


class _Block:
    """A block on ``(batch, height, width, dim)``."""

    def __init__(self, block: VSSBlock, dtype: torch.dtype, side: int, timed: bool) -> None:
        def packed(weight: Tensor, bias: Tensor | None) -> PackedLinear:
            return PackedLinear(weight.to(dtype), bias, _USUAL_IMAGES * side**2, timed=timed)

        mixer, mlp = cast(SS2D, block.op), block.mlp
        self._norm, self._norm2 = LayerNorm(block.norm, dtype), LayerNorm(block.norm2, dtype)
        enter = packed(mixer.in_proj.weight, mixer.in_proj.bias)
        project = packed(mixer.x_proj_weight.flatten(0, 1), None)
        self._mix = plain_mixer(mixer, dtype, enter, project, (side, side))
        self._out = packed(mixer.out_proj.weight, mixer.out_proj.bias)
        self._fc1 = packed(mlp.fc1.weight, mlp.fc1.bias)
        self._fc2 = packed(mlp.fc2.weight, mlp.fc2.bias)

    def __call__(self, x: Tensor) -> Tensor:
        x = self._out(self._mix(self._norm(x)), residual=x)
        return self._fc2(self._fc1(self._norm2(x), gelu=True), residual=x)


class _IntegerBlock:
    """A block on integers, ``(batch, height, width, dim)``; norms and quantization are fused."""

    def __init__(self, block: VSSBlock, side: int) -> None:
        mixer, mlp = cast(SS2D, block.op), block.mlp
        enter = IntegerCall(
            integer_weight(mixer.in_proj.weight, mixer.in_proj.bias), norm=block.norm
        )
        project = IntegerCall(integer_weight(mixer.x_proj_weight.flatten(0, 1)))
        self._mix = plain_mixer(mixer, torch.float32, enter, project, (side, side))
        self._out = IntegerCall(integer_weight(mixer.out_proj.weight, mixer.out_proj.bias))
        self._mlp = IntegerCall(
            integer_weight(mlp.fc1.weight, mlp.fc1.bias),
            integer_weight(mlp.fc2.weight, mlp.fc2.bias),
            norm=block.norm2,
        )

    def __call__(self, x: Tensor) -> Tensor:
        x = self._out(self._mix(x), residual=x)
        return self._mlp(x, gelu=True, residual=x)
