"""MambaIR: super-resolution, denoising and JPEG artifact reduction with the selective scan."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.errors import ShapeError
from qmamba.models.mambair.config import MambaIRConfig, RestorationConfig
from qmamba.models.network import Network
from qmamba.nn import (
    SS2D,
    ChannelAttentionBlock,
    ChannelLastConv2d,
    ResidualGroup,
    ScaledSkipBlock,
    group_convolution,
    pixel_shuffle,
    pixel_shuffle_stages,
)
from qmamba.nn.layers import LayerNorm

RGB_MEAN = (0.4488, 0.4371, 0.4040)
"""Mean of each sRGB channel in [0, 1] that is subtracted before the network; 0 for gray."""

TAIL_DIM = 64
"""Channels between the convolutions that enlarge, in ``sr-classic`` and ``sr-real``."""


class MambaIR(Network):
    """Image to restored image: convolution, residual groups of scanning blocks, reconstruction.

    State-dict keys are those of the official checkpoints. Fresh weights are drawn from torch's
    global generator, so call ``torch.manual_seed`` first where they must repeat.

    Source: MambaIR paper (Guo et al., 2024) and its official code; restoration as in SwinIR.
    """

    config: RestorationConfig

    # The task decides which of these there are.
    conv_before_upsample: nn.Module
    upsample: nn.Module
    conv_up1: nn.Module
    conv_up2: nn.Module
    conv_hr: nn.Module
    conv_last: nn.Module

    def __init__(self, config: RestorationConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MambaIRConfig()
        dim = config.dim
        self.conv_first = ChannelLastConv2d(config.inputs, dim, 3, padding=1)
        self.patch_embed = nn.Sequential(OrderedDict(norm=LayerNorm(dim)))
        self.layers = nn.Sequential(*self._groups())
        self.norm = LayerNorm(dim)
        self.conv_after_body = group_convolution(dim, config.group_convolution)
        for name, layer in _reconstruction(config):
            self.add_module(name, layer)

    def _groups(self) -> Iterator[ResidualGroup]:
        """The residual groups in their order."""
        config = self.config
        assert isinstance(config, MambaIRConfig)
        count = sum(config.depths)
        rising = torch.linspace(0, config.drop_path, count, dtype=torch.float32, device="cpu")
        rates = iter(rising.tolist())
        for depth in config.depths:
            blocks = [_block(config, next(rates)) for _ in range(depth)]
            yield ResidualGroup(config.dim, blocks, convolution=config.group_convolution)

    def forward(self, images: Tensor) -> Tensor:
        """Restore images.

        Args:
            images: ``(batch, channels + condition_channels, height, width)``, any sides of at least
                1; first the image in [0, 1], gray for one channel and sRGB for three, then the
                conditions.

        Returns:
            ``(batch, channels, scale * height, scale * width)``, about [0, 1] and not clamped.

        Raises:
            ShapeError: the images have another shape.
        """
        config = self.config
        if images.dim() != 4 or images.shape[1] != config.inputs or 0 in images.shape:
            raise ShapeError(
                f"This {type(self).__name__} needs images of shape (batch, {config.inputs}, "
                f"height, width), none of them zero, got {tuple(images.shape)}."
            )
        mean = images.new_tensor(input_mean(config)).view(1, -1, 1, 1)
        height, width = (config.scale * side for side in images.shape[2:])
        x = (mirrored_to_multiple(images, self.multiple) - mean) * config.image_range
        restored = self.reconstruct(x[:, : config.channels], self.forward_features(x))
        restored = restored / config.image_range + mean[:, : config.channels]
        return restored[..., :height, :width]

    @property
    def multiple(self) -> int:
        """What the sides of the maps inside are multiples of."""
        return 1

    def forward_features(self, x: Tensor) -> Tensor:
        """The body: images less their mean to features ``(batch, dim, height, width)``."""
        shallow = self.conv_first(x.permute(0, 2, 3, 1))
        deep = self.norm(self.layers(self.patch_embed(shallow)))
        return (self.conv_after_body(deep) + shallow).permute(0, 3, 1, 2)

    def reconstruct(self, x: Tensor, features: Tensor) -> Tensor:
        """The end: images less their mean and features, both channel-first, to restored images."""
        task = self.config.task
        if task == "sr-light":
            return self.upsample(features)
        if task == "sr-classic":
            return self.conv_last(self.upsample(self.conv_before_upsample(features)))
        if task == "sr-real":
            features = self.conv_before_upsample(features)
            for enlarge in (self.conv_up1, self.conv_up2):
                larger = F.interpolate(features, scale_factor=2.0, mode="nearest")
                features = F.leaky_relu(enlarge(larger), 0.2)
            return self.conv_last(F.leaky_relu(self.conv_hr(features), 0.2))
        return x + self.conv_last(features)


def input_mean(config: RestorationConfig) -> tuple[float, ...]:
    """What is subtracted from each channel of the input: :data:`RGB_MEAN` from colors."""
    colors = RGB_MEAN if config.channels == 3 else (0.0,)
    return colors + (0.0,) * config.condition_channels


def mirrored_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Images continued at the bottom and right by their mirror images.

    Args:
        images: ``(batch, channels, height, width)``.
        multiple: of which both sides become multiples.
    """
    for axis in (2, 3):
        side = images.shape[axis]
        if side % multiple:
            longer = side + -side % multiple
            index = torch.arange(longer, dtype=torch.int64, device=images.device) % (2 * side)
            index = torch.minimum(index, 2 * side - 1 - index)
            images = images.index_select(axis, index)
    return images


def _block(config: MambaIRConfig, drop_path: float) -> ScaledSkipBlock:
    return ScaledSkipBlock(
        config.dim,
        SS2D(
            config.dim,
            state_size=config.state_size,
            expansion=config.expansion,
            conv_bias=True,
            z_gate=True,
        ),
        ChannelAttentionBlock(
            config.dim,
            kind=config.cab,
            reduction=config.cab_reduction,
            attention_reduction=config.attention_reduction,
        ),
        drop_path=drop_path,
    )


def _reconstruction(config: RestorationConfig) -> Iterator[tuple[str, nn.Module]]:
    """The last layers by name, on channel-first maps as pixel shuffle needs them."""
    if config.task == "sr-light":
        yield "upsample", pixel_shuffle(config.dim, config.channels, config.scale)
        return
    dim = config.dim
    if config.task in ("sr-classic", "sr-real"):
        before = nn.Sequential(nn.Conv2d(dim, TAIL_DIM, 3, padding=1), nn.LeakyReLU(0.01))
        yield "conv_before_upsample", before
        dim = TAIL_DIM
    if config.task == "sr-classic":
        yield "upsample", pixel_shuffle_stages(dim, config.scale)
    if config.task == "sr-real":
        for name in ("conv_up1", "conv_up2", "conv_hr"):
            yield name, nn.Conv2d(dim, dim, 3, padding=1)
    yield "conv_last", nn.Conv2d(dim, config.channels, 3, padding=1)
