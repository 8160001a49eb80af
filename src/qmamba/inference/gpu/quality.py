"""A QMamba prepared for inference on a GPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.inference.gpu.graphs import GraphedCalls
from qmamba.inference.gpu.layers import Linear, Mixer, Norm, moved
from qmamba.inference.precision import Precision
from qmamba.models.qmamba.network import QMamba, Stage, denormalized
from qmamba.nn import SS2D, VSSBlock
from qmamba.nn.scale_shift import without_scale_shift
from qmamba.ops.triton.layers import bias_gelu_


class GpuQMamba:
    """What :class:`~qmamba.models.QMamba` computes, with fewer passes over memory.

    Sums of skip connections and the norms after them, the depthwise convolution and its SiLU, and
    the bias and GELU of the MLP are a kernel each; maps stay channel-last and in one dtype. Calls
    of small batches are replayed as CUDA graphs. Without Triton it computes the same by the
    definitions of those kernels.

    Args:
        model: the network; its weights are copied as they are now.
        precision: ``fp32``, or ``bf16`` for maps and products in bfloat16. Scans, norms and the
            head compute in float32.
    """

    def __init__(self, model: QMamba, precision: Precision = "fp32") -> None:
        model = without_scale_shift(model)
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        names = dict(model.patch_embed.named_children())
        self._stem = [
            (moved(names["0"], self._dtype), Norm(cast(nn.LayerNorm, names["2"]), gelu=True)),
            (moved(names["5"], self._dtype), Norm(cast(nn.LayerNorm, names["7"]))),
        ]
        self._stages = [_Stage(cast(Stage, stage), self._dtype) for stage in model.layers]
        self._prompts = (
            None
            if model.prompts is None
            else [moved(prompt, self._dtype) for prompt in model.prompts]
        )
        self._norm = Norm(model.classifier.norm)
        self._head = copy.deepcopy(model.classifier.head).float()
        self._statistics = copy.deepcopy(model.classifier.statistics)
        self._features: Callable[[Tensor], Tensor] = GraphedCalls(self._averaged)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Normalized images ``(batch, 3, height, width)`` to float32 ``(batch, outputs)``."""
        outputs: Tensor = self._head(self._features(images))
        return outputs if self._statistics is None else outputs + self._beside(images)

    @torch.no_grad()
    def forward_features(self, images: Tensor) -> Tensor:
        """The last map, normalized and averaged: float32 ``(batch, dims[-1])``."""
        return self._features(images)

    @torch.no_grad()
    def forward_with_map(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`qmamba.inference.preparation.MappingNetwork.forward_with_map`."""
        features = self._last_map(images)
        outputs: Tensor = self._head(features.mean((1, 2)))
        positions: Tensor = self._head(features)
        if self._statistics is None:
            return outputs, positions
        beside = self._beside(images)
        return outputs + beside, positions + beside[:, None, None]

    def _averaged(self, images: Tensor) -> Tensor:
        return self._last_map(images).mean((1, 2))

    def _last_map(self, images: Tensor) -> Tensor:
        x = images.to(self._dtype).permute(0, 2, 3, 1)
        for convolution, norm in self._stem:
            _, x = norm(convolution(x))
        branch: Tensor | None = None
        for index, stage in enumerate(self._stages):
            x, branch = stage(x, branch)
            if self._prompts is not None:
                x, branch = self._prompts[index](x if branch is None else x + branch), None
        _, normed = self._norm(x, branch)
        return normed.float()

    def _beside(self, images: Tensor) -> Tensor:
        assert self._statistics is not None
        outputs: Tensor = self._statistics(denormalized(images))
        return outputs


class _Stage:
    """Blocks and downsampling; what the last block adds may still be apart."""

    def __init__(self, stage: Stage, dtype: torch.dtype) -> None:
        self._blocks = [_Block(cast(VSSBlock, block), dtype) for block in stage.blocks]
        layers = dict(stage.downsample.named_children())
        self._convolution = moved(layers["1"], dtype) if layers else None
        self._norm = Norm(cast(nn.LayerNorm, layers["3"])) if layers else None

    def __call__(self, x: Tensor, branch: Tensor | None) -> tuple[Tensor, Tensor | None]:
        for block in self._blocks:
            x, branch = block(x, branch)
        if self._convolution is None or self._norm is None:
            return x, branch
        _, x = self._norm(self._convolution(x if branch is None else x + branch))
        return x, None


class _Block:
    """A block whose last sum is left to the norm after it."""

    def __init__(self, block: VSSBlock, dtype: torch.dtype) -> None:
        self._norm, self._norm2 = Norm(block.norm), Norm(block.norm2)
        self._mix = Mixer(cast(SS2D, block.op), dtype)
        self._fc1, self._fc2 = (Linear.of(m, dtype) for m in (block.mlp.fc1, block.mlp.fc2))

    def __call__(self, x: Tensor, branch: Tensor | None) -> tuple[Tensor, Tensor]:
        x, normed = self._norm(x, branch)
        x, normed = self._norm2(x, self._mix(normed))
        assert self._fc1.bias is not None
        hidden = bias_gelu_(F.linear(normed, self._fc1.weight), self._fc1.bias)
        return x, self._fc2(hidden)
