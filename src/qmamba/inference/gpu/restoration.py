"""A MambaIR prepared for inference on a GPU."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from qmamba.errors import ShapeError
from qmamba.inference.gpu.graphs import GraphedCalls
from qmamba.inference.gpu.layers import Mixer, Norm, copied, moved
from qmamba.inference.precision import Precision
from qmamba.models.mambair.network import RGB_MEAN, MambaIR
from qmamba.nn import SS2D, ResidualGroup, ScaledSkipBlock


class GpuMambaIR:
    """What :class:`~qmamba.models.MambaIR` computes, with fewer passes over memory.

    Scaled skip connections and the norms after them, and the depthwise convolution and its SiLU,
    are a kernel each; maps stay channel-last and in one dtype. Calls of small images are replayed
    as CUDA graphs. Without Triton it computes the same by the definitions of those kernels.

    Args:
        model: a MambaIR (a MambaIRv2 has other blocks); its weights are copied as they are now.
        precision: ``fp32``, or ``bf16`` for maps and products in bfloat16. Scans and norms compute
            in float32.
    """

    def __init__(self, model: MambaIR, precision: Precision = "fp32") -> None:
        self._config = model.config
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        # For its convolutions at both ends; its blocks are not called.
        self._ends = cast(MambaIR, moved(model, self._dtype))
        self._enter = Norm(cast(nn.LayerNorm, model.patch_embed[0]))
        self._groups = [_Group(cast(ResidualGroup, group), self._dtype) for group in model.layers]
        self._leave = Norm(model.norm)
        self._restored = GraphedCalls(self._restore)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images in [0, 1] and their conditions to restored images, float32.

        Args:
            images: ``(batch, channels + condition_channels, height, width)``.

        Raises:
            ShapeError: the images have another shape.
        """
        channels = self._config.inputs
        if images.dim() != 4 or images.shape[1] != channels or 0 in images.shape:
            raise ShapeError(
                f"This MambaIR needs images of shape (batch, {channels}, height, width), none of "
                f"them zero, got {tuple(images.shape)}."
            )
        return self._restored(images)

    def _restore(self, images: Tensor) -> Tensor:
        config = self._config
        color = config.channels == len(RGB_MEAN)
        mean = images.new_zeros(1, config.inputs, 1, 1)
        for channel, value in enumerate(RGB_MEAN if color else ()):
            mean[:, channel] = value
        x = (images - mean) * config.image_range
        features = self._features(x.to(self._dtype).permute(0, 2, 3, 1))
        if config.scale == 1:
            # The correction is added in the precision of the images.
            y = self._ends.conv_last(features).float() + x[:, : config.channels]
        else:
            y = self._ends.reconstruct(x, features).float()
        return y / config.image_range + mean[:, : config.channels]

    def _features(self, x: Tensor) -> Tensor:
        shallow = self._ends.conv_first(x)
        _, deep = self._enter(shallow)
        for group in self._groups:
            deep = group(deep)
        _, deep = self._leave(deep)
        return (self._ends.conv_after_body(deep) + shallow).permute(0, 3, 1, 2)


class _Group:
    """A residual group on ``(batch, height, width, dim)``."""

    def __init__(self, group: ResidualGroup, dtype: torch.dtype) -> None:
        blocks = [cast(ScaledSkipBlock, block) for block in group.blocks]
        scales = [None, *(block.skip_scale2 for block in blocks[:-1])]
        self._blocks = [
            _Block(block, scale, dtype) for block, scale in zip(blocks, scales, strict=True)
        ]
        self._last_scale = copied(blocks[-1].skip_scale2, dtype)
        self._convolution = moved(group.conv, dtype)

    def __call__(self, entering: Tensor) -> Tensor:
        x, branch = entering, None
        for block in self._blocks:
            x, branch = block(x, branch)
        assert branch is not None
        y: Tensor = self._convolution(torch.addcmul(branch, x, self._last_scale))
        return y + entering


class _Block:
    """A block whose last sum is left to the norm after it."""

    def __init__(self, block: ScaledSkipBlock, scale: Tensor | None, dtype: torch.dtype) -> None:
        self._norm = Norm(block.ln_1, scale=scale)
        self._norm2 = Norm(block.ln_2, scale=block.skip_scale)
        self._mix = Mixer(cast(SS2D, block.self_attention), dtype)
        self._convolve = moved(block.conv_blk, dtype)

    def __call__(self, x: Tensor, branch: Tensor | None) -> tuple[Tensor, Tensor]:
        x, normed = self._norm(x, branch)
        x, normed = self._norm2(x, self._mix(normed))
        return x, self._convolve(normed)
