"""QMamba and LQMamba: a hierarchical Mamba backbone with a linear head for image quality."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from qmamba.errors import ShapeError
from qmamba.images import IMAGENET_MEAN, IMAGENET_STD
from qmamba.models.network import RatingNetwork
from qmamba.models.qmamba.config import QMambaConfig
from qmamba.nn import SS2D, VSSBlock, downsample, stem
from qmamba.nn.image_statistics import STATISTICS, StatisticsBranch
from qmamba.nn.initialization import linear
from qmamba.nn.layers import LayerNorm

IMAGE_MEAN = IMAGENET_MEAN
"""Mean of each sRGB channel in [0, 1] that is subtracted before the network (ImageNet's)."""
IMAGE_STD = IMAGENET_STD
"""Deviation of each channel that divides the difference."""


class StageMaps(NamedTuple):
    """What one stage produced, both ``(batch, height, width, channels)``."""

    blocks: Tensor
    """After the blocks of the stage."""
    output: Tensor
    """After its downsampling, which the last stage lacks, and its prompt, if there is one."""


class Stage(nn.Module):
    """Blocks at one resolution, then the step to the next one."""

    def __init__(self, blocks: list[VSSBlock], downsampling: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.downsample = downsampling

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.blocks(x))


class Classifier(nn.Module):
    """Norm, average over all pixels, linear head; beside them a branch of image statistics."""

    def __init__(
        self, dim: int, num_outputs: int, statistics: int = 0, inputs: int = STATISTICS
    ) -> None:
        super().__init__()
        self.norm = LayerNorm(dim)
        self.head = linear(dim, num_outputs)
        self.statistics = StatisticsBranch(statistics, num_outputs, inputs) if statistics else None

    def pool(self, x: Tensor) -> Tensor:
        """``(batch, height, width, dim)`` to features ``(batch, dim)``."""
        return self.norm(x).mean((1, 2))

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, height, width, dim)`` to ``(batch, num_outputs)``."""
        return self.head(self.pool(x))


class QMamba(RatingNetwork):
    """Image to quality: stem, stages of scanning blocks, norm, global average, linear head.

    With ``statistics`` in the configuration, which the paper's networks lack, a small branch beside
    the backbone adds what :func:`~qmamba.nn.image_statistics.image_statistics` says.

    State-dict keys are those of the official VMamba checkpoints; the route gates of LQMamba have
    LocalMamba's names. Fresh weights are drawn from torch's global generator, so call
    ``torch.manual_seed`` first where they must repeat.

    Source: QMamba paper; VMamba v2 (``s2l*``, forward type ``v05_noz``); LocalMamba's gate.
    """

    config: QMambaConfig

    def __init__(self, config: QMambaConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or QMambaConfig()
        dims = config.dims
        self.patch_embed = stem(3, dims[0])
        count = sum(config.depths)
        rates = iter(
            torch.linspace(0, config.drop_path, count, dtype=torch.float32, device="cpu").tolist()
        )
        self.layers = nn.ModuleList()
        for i, dim in enumerate(dims):
            blocks = [
                VSSBlock(
                    dim,
                    SS2D(
                        dim,
                        state_size=config.state_size,
                        expansion=config.expansion,
                        window=config.windows[i],
                        route_gate=config.route_gate,
                    ),
                    mlp_ratio=config.mlp_ratio,
                    drop_path=next(rates),
                )
                for _ in range(config.depths[i])
            ]
            last = i == len(dims) - 1
            self.layers.append(
                Stage(blocks, nn.Identity() if last else downsample(dim, dims[i + 1]))
            )
        self.classifier = Classifier(
            dims[-1], config.num_outputs, config.statistics, config.statistics_inputs
        )
        self.prompts: nn.ModuleList | None = None
        """What the output of each stage goes through before the next stage, one module per stage;
        set by :func:`qmamba.prompts.attach`."""

    def forward(self, images: Tensor) -> Tensor:
        """Raw outputs, not on any rating scale.

        Args:
            images: ``(batch, 3, height, width)``, any sides of at least 1 (4 or more to be useful),
                sRGB in [0, 1] normalized by :data:`IMAGE_MEAN` and :data:`IMAGE_STD`.

        Returns:
            ``(batch, num_outputs)``.

        Raises:
            ShapeError: the images have another shape.
        """
        outputs = self.classifier.head(self.forward_features(images))
        return outputs if self.classifier.statistics is None else outputs + self.beside(images)

    def beside(self, images: Tensor) -> Tensor:
        """What the image statistics add to the outputs: normalized images to float32
        ``(batch, num_outputs)``, zeros where there is no such branch."""
        if self.classifier.statistics is None:
            return images.new_zeros(len(images), self.config.num_outputs, dtype=torch.float32)
        return self.classifier.statistics(denormalized(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """The last map, normalized and averaged over its pixels: ``(batch, dims[-1])``."""
        return self.last_map(images).mean((1, 2))

    def last_map(self, images: Tensor) -> Tensor:
        """The last map, normalized at each position: ``(batch, height, width, dims[-1])``.

        The head is linear, so its output at each position averages to the output for the image.
        """
        x = self.embed(images)
        for index, layer in enumerate(self.layers):
            x = self._prompted(index, layer(x))
        return self.classifier.norm(x)

    def embed(self, images: Tensor) -> Tensor:
        """The stem: images to ``(batch, ceil(height / 4), ceil(width / 4), dims[0])``."""
        if images.dim() != 4 or images.shape[1] != 3 or 0 in images.shape:
            raise ShapeError(
                f"A QMamba model needs images of shape (batch, 3, height, width), none of them "
                f"zero, got {tuple(images.shape)}."
            )
        return self.patch_embed(images.permute(0, 2, 3, 1))

    def stages(self, images: Tensor) -> Iterator[StageMaps]:
        """Run the backbone and yield the maps of one stage after the other."""
        x = self.embed(images)
        for index, layer in enumerate(self.layers):
            stage = cast(Stage, layer)
            blocks = stage.blocks(x)
            x = self._prompted(index, stage.downsample(blocks))
            yield StageMaps(blocks, x)

    def _prompted(self, index: int, x: Tensor) -> Tensor:
        return x if self.prompts is None else self.prompts[index](x)


def denormalized(images: Tensor) -> Tensor:
    """Normalized images ``(batch, 3, height, width)`` as they were before, float32."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=images.device).view(3, 1, 1)
        for values in (IMAGE_MEAN, IMAGE_STD)
    )
    return images.float() * std + mean
