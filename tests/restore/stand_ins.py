"""Networks whose result is known, and small images, for the tests of restoration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from qmamba.checkpoints import save_model
from qmamba.images import resize_to
from qmamba.models import MambaIRConfig, ModelMetadata, Network
from qmamba.restore.degradations import Degradation
from tests.models.micro_mambair import MICRO, VARIANTS, build

DEGRADATIONS = {
    "sr": Degradation("sr", 2),
    "denoise": Degradation("denoise", sigma=(0, 50)),
    "jpeg": Degradation("jpeg", quality=(10, 40), channels=1),
}


class StandIn(Network):
    """Enlarges by bicubic interpolation, or leaves the image as it is."""

    config: MambaIRConfig

    def __init__(self, task: str = "sr-light", scale: int = 2, channels: int = 3) -> None:
        super().__init__()
        self.config = MambaIRConfig(task=task, scale=scale, channels=channels)
        self.weight = nn.Parameter(torch.ones(()))
        self.calls: list[tuple[int, ...]] = []
        self.change: Callable[[Tensor], Tensor] = lambda image: image

    def forward(self, images: Tensor) -> Tensor:
        assert images.ndim == 4 and images.shape[1] == self.config.channels
        self.calls.append(tuple(images.shape))
        images = self.change(images)
        size = (self.config.scale * images.shape[2], self.config.scale * images.shape[3])
        return resize_to(images, size) * self.weight


def identity(channels: int = 3) -> StandIn:
    return StandIn("denoise", 1, channels)


def save_networks(folder: Path) -> dict[str, Path]:
    """Files of one tiny random network per task, by task."""
    configs = {"sr": MICRO, "denoise": VARIANTS["denoise"], "jpeg": VARIANTS["jpeg-gray"]}
    paths = {}
    for task, config in configs.items():
        paths[task] = folder / f"tiny-{task}.safetensors"
        degradation = DEGRADATIONS[task].to_dict()
        save_model(
            build(config),
            paths[task],
            metadata=ModelMetadata(f"tiny-{task}", training={"degradation": degradation}),
            dtype=torch.float32,
        )
    return paths


def smooth(height: int, width: int, channels: int = 3) -> np.ndarray:
    """A uint8 image of slow waves."""
    rows, columns = np.mgrid[:height, :width]
    planes = [np.sin(rows / (5 + i)) + np.cos(columns / (7 + i)) for i in range(channels)]
    return ((np.stack(planes, axis=2) + 2) * 63).astype(np.uint8)
