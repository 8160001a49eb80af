"""The backbones that the paper compares QMamba with, and the configuration of one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qmamba.errors import ConfigError, unknown_name
from qmamba.models.fields import MAX_WIDTH, NetworkConfig, number, whole


@dataclass(frozen=True)
class Backbone:
    """What is known of a backbone without building it."""

    timm_name: str
    """Its name in timm."""
    family: str
    """``"resnet"``, ``"vit"``, ``"swin"`` or ``"efficientnet"``."""
    dim: int
    """Channels of the first stage."""
    depths: tuple[int, ...]
    """Blocks of each stage."""
    features: int
    """Values that the head sees."""
    parameters: int
    """Parameters without the head."""


BACKBONES: dict[str, Backbone] = {
    "resnet-50": Backbone("resnet50", "resnet", 64, (3, 4, 6, 3), 2048, 23_508_032),
    "resnet-101": Backbone("resnet101", "resnet", 64, (3, 4, 23, 3), 2048, 42_500_160),
    "resnet-152": Backbone("resnet152", "resnet", 64, (3, 8, 36, 3), 2048, 58_143_808),
    "vit-tiny": Backbone("vit_tiny_patch16_224", "vit", 192, (12,), 192, 5_524_416),
    "vit-small": Backbone("vit_small_patch16_224", "vit", 384, (12,), 384, 21_665_664),
    "vit-base": Backbone("vit_base_patch16_224", "vit", 768, (12,), 768, 85_798_656),
    "swin-tiny": Backbone(
        "swin_tiny_patch4_window7_224", "swin", 96, (2, 2, 6, 2), 768, 27_519_354
    ),
    "swin-small": Backbone(
        "swin_small_patch4_window7_224", "swin", 96, (2, 2, 18, 2), 768, 48_837_258
    ),
    "swin-base": Backbone(
        "swin_base_patch4_window7_224", "swin", 128, (2, 2, 18, 2), 1024, 86_743_224
    ),
    "efficientnet-lite0": Backbone(
        "tf_efficientnet_lite0", "efficientnet", 32, (1, 2, 2, 3, 3, 4, 1), 1280, 3_371_008
    ),
    "efficientnet-lite2": Backbone(
        "tf_efficientnet_lite2", "efficientnet", 32, (1, 3, 3, 4, 4, 5, 1), 1280, 4_811_072
    ),
}
"""The nine backbones of the paper's tables by our names, and two small ones whose ImageNet weights
are Python packages."""

HEADS = {"resnet": "fc", "vit": "head", "swin": "head.fc", "efficientnet": "classifier"}
"""Where timm keeps the head of each family."""

FIXED_SIDE = 224
"""Side of the images that ViT and Swin Transformer are bound to."""


@dataclass(frozen=True)
class TimmConfig(NetworkConfig):
    """Everything that decides a :class:`~qmamba.models.TimmBackbone`.

    Raises:
        ConfigError: the backbone is unknown or a value is outside its range.

    Source: QMamba paper, table 1; timm has the networks.
    """

    architecture: ClassVar[str] = "timm"

    backbone: str = "resnet-50"
    """One of :data:`BACKBONES`."""
    num_outputs: int = 1
    """Outputs of the head; a quality score needs one."""
    drop_path: float = 0.0
    """Probability of dropping a branch in training; it grows from 0 to this over the blocks."""

    def __post_init__(self) -> None:
        if not isinstance(self.backbone, str) or self.backbone not in BACKBONES:
            raise ConfigError(unknown_name("backbone", str(self.backbone), BACKBONES))
        whole("num_outputs", self.num_outputs, 1, MAX_WIDTH)
        object.__setattr__(self, "drop_path", number("drop_path", self.drop_path, 0.0, 0.99))

    @property
    def network(self) -> Backbone:
        """The facts about the backbone."""
        return BACKBONES[self.backbone]

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks of each stage."""
        return self.network.depths

    @property
    def image_size(self) -> int | None:
        """224 for ViT and Swin Transformer, None for the others, which take any size."""
        return FIXED_SIDE if self.network.family in ("vit", "swin") else None

    @property
    def parameters(self) -> int:
        """Number of parameters, the head included."""
        return self.network.parameters + (self.network.features + 1) * self.num_outputs
