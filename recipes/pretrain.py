"""First stage of the embedded model: learn to see damage, without any human rating."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from loop import Schedule, train
from pretext import CROP, FIDELITIES, KINDS, STATISTICS, read_chunks
from torch import Tensor, nn

from qmamba.files import atomic_write
from qmamba.images import normalize
from qmamba.models import QMamba, create_model

KIND_WEIGHT = 3.0
FIDELITY_WEIGHT = 2.0
RARE = -4.0
"""Log odds of a kind of damage before anything is learned."""
SIDE = 128
"""Side of the part of a sample that one step looks at."""


class PretextModel(nn.Module):
    """The backbone and one linear layer for all pretext targets."""

    def __init__(self, backbone: QMamba) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.config.dims[-1], STATISTICS + FIDELITIES + len(KINDS))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        nn.init.constant_(self.head.bias[-len(KINDS) :], RARE)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone.forward_features(images))


def spread_out(backbone: QMamba) -> None:
    """Draw the linear weights with the deviation that keeps the scale of a layer's input.

    With the 0.02 of wide networks, layers this narrow start so weak that the features of all images
    fall together within the first few hundred steps.
    """
    for layer in backbone.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=layer.in_features**-0.5)


def fresh_backbone(name: str, **overrides: Any) -> QMamba:
    backbone = create_model(name, **overrides)
    if not isinstance(backbone, QMamba):
        raise SystemExit(f"{name} is no quality model; see `qmamba models`.")
    return backbone


def standardise(targets: Tensor) -> Tensor:
    """Every statistic and similarity to mean 0 and deviation 1, outliers cut at 4 deviations."""
    measured = STATISTICS + FIDELITIES
    mean, deviation = targets[:, :measured].mean(0), targets[:, :measured].std(0)
    scaled = ((targets[:, :measured] - mean) / (deviation + 1e-6)).clamp(-4, 4)
    return torch.cat([scaled, targets[:, measured:]], dim=1)


def pretext_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    groups = (STATISTICS, FIDELITIES, len(KINDS))
    (statistics, fidelity, kinds), (s, f, k) = outputs.split(groups, 1), targets.split(groups, 1)
    applied = F.binary_cross_entropy_with_logits(kinds, k)
    return (
        F.smooth_l1_loss(statistics, s)
        + FIDELITY_WEIGHT * F.smooth_l1_loss(fidelity, f)
        + KIND_WEIGHT * applied
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=Path, required=True, help="folder that pretext.py wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="qmamba-nano")
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    chunk = read_chunks(arguments.chunks)
    targets = standardise(torch.from_numpy(chunk.targets))
    model = PretextModel(fresh_backbone(arguments.name))
    spread_out(model.backbone)

    def loss_of_step(step: int) -> Tensor:
        random = np.random.default_rng([arguments.seed, step])
        chosen = random.integers(len(chunk.images), size=arguments.batch)
        top, left = random.integers(CROP - SIDE + 1, size=2)
        part = chunk.images[chosen, top : top + SIDE, left : left + SIDE]
        images = torch.from_numpy(part).permute(0, 3, 1, 2).float() / 255
        mirrored = torch.from_numpy(random.random(arguments.batch) < 0.5)
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(normalize(images))
        return pretext_loss(outputs.float(), targets[torch.from_numpy(chosen)])

    schedule = Schedule(steps=arguments.steps, learning_rate=3e-4)
    averaged = train(model, loss_of_step, schedule, arguments.out / "pretrain.ckpt")
    with atomic_write(arguments.out / "pretrained.pt", "wb") as file:
        torch.save(averaged.state_dict(), file)


if __name__ == "__main__":
    main()
