"""Backbones of timm with a linear head, to compare QMamba with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qmamba.errors import ShapeError
from qmamba.models.network import RatingNetwork
from qmamba.models.qmamba.network import IMAGE_MEAN, IMAGE_STD
from qmamba.models.timm.config import TimmConfig
from qmamba.models.timm.library import timm_library


class TimmBackbone(RatingNetwork):
    """A backbone of timm with the contract of :class:`~qmamba.models.QMamba`.

    State-dict keys are timm's with ``network.`` in front. Fresh weights are drawn from torch's
    global generator.

    Raises:
        QMambaError: timm is not installed.

    Source: QMamba paper, section 4.1 (ResNet, ViT and Swin Transformer under the same protocol).
    """

    config: TimmConfig

    def __init__(self, config: TimmConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or TimmConfig()
        self.network: Any
        """The module of timm."""
        if torch.get_default_device().type == "meta":
            # Index tables of Swin are in no weights file and would have no values on this device.
            with torch.random.fork_rng(devices=[]), torch.device("cpu"):
                self.network = _network(config)
        else:
            self.network = _network(config)

    def forward(self, images: Tensor) -> Tensor:
        """Raw outputs, not on any rating scale.

        Args:
            images: ``(batch, 3, height, width)``, 224 x 224 for ViT and Swin, any sides of at least
                32 for the others; sRGB in [0, 1] normalized by
                :data:`~qmamba.models.IMAGE_MEAN` and :data:`~qmamba.models.IMAGE_STD`.

        Returns:
            ``(batch, num_outputs)``.

        Raises:
            ShapeError: the images have another shape.
        """
        outputs: Tensor = self.network.get_classifier()(self.forward_features(images))
        return outputs

    def forward_features(self, images: Tensor) -> Tensor:
        """What the head sees: ``(batch, features)``, pooled over the image."""
        self._require_shape(images)
        if self.config.network.family == "efficientnet":
            images = _to_unit_range(images)
        maps = self.network.forward_features(images)
        features: Tensor = self.network.forward_head(maps, pre_logits=True)
        return features

    def _require_shape(self, images: Tensor) -> None:
        side = self.config.image_size
        if images.dim() != 4 or images.shape[1] != 3 or 0 in images.shape:
            raise ShapeError(
                f"A {self.config.backbone} needs images of shape (batch, 3, height, width), none "
                f"of them zero, got {tuple(images.shape)}."
            )
        if side is not None and images.shape[2:] != (side, side):
            raise ShapeError(
                f"A {self.config.backbone} takes images of {side} x {side} pixels, got "
                f"{images.shape[2]} x {images.shape[3]}."
            )


def _to_unit_range(images: Tensor) -> Tensor:
    """From the normalization of all models here to that of EfficientNet-Lite, [-1, 1]."""
    mean, std = (images.new_tensor(values).view(-1, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    return (images * std + mean) * 2 - 1


def _network(config: TimmConfig) -> Any:
    network = timm_library().create_model(
        config.network.timm_name,
        pretrained=False,
        num_classes=config.num_outputs,
        drop_path_rate=config.drop_path,
    )
    return network
