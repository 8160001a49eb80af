"""First stage of the embedded model: learn to see damage, without any human rating."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pretext import CROP, FIDELITIES, KINDS, STATISTICS, Chunk, read_chunks
from torch import Tensor, nn
from trial import parse

from qmamba.files import atomic_write
from qmamba.images import normalize
from qmamba.models import QMamba, create_model
from qmamba.training import TrainingOptions, train
from qmamba.training.quality.initial_network import spread_out

KIND_WEIGHT = 3.0
FIDELITY_WEIGHT = 2.0
RARE = -4.0
"""Log odds of a kind of damage before anything is learned."""
HEAD_FACTOR = 5.0
"""How much faster than the backbone the output layers learn."""
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


def fresh_backbone(name: str, **overrides: Any) -> QMamba:
    backbone = create_model(name, **overrides)
    if not isinstance(backbone, QMamba):
        raise SystemExit(f"{name} is no quality model; see `qmamba models`.")
    return backbone


def standardize(targets: Tensor) -> Tensor:
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


class PretextTask:
    """Random parts of the samples, mirrored at random, as the package's loop takes them."""

    metric = None

    def __init__(self, chunk: Chunk) -> None:
        self._images = chunk.images
        self._targets = standardize(torch.from_numpy(chunk.targets))

    @property
    def examples(self) -> int:
        return len(self._images)

    def example(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        top, left = torch.randint(CROP - SIDE + 1, (2,), generator=generator).tolist()
        part = self._images[index, top : top + SIDE, left : left + SIDE]
        image = torch.from_numpy(part).permute(2, 0, 1).float() / 255
        if torch.rand((), generator=generator) < 0.5:
            image = image.flip(2)
        return {"image": image, "target": self._targets[index]}

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return pretext_loss(model(normalize(batch["image"])).float(), batch["target"])

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {}

    def learning_rate_factor(self, name: str) -> float:
        return HEAD_FACTOR if "head." in name else 1.0


def schedule(steps: int, learning_rate: float, batch: int, seed: int) -> TrainingOptions:
    """What both stages have in common."""
    return TrainingOptions(
        epochs=None,
        steps=steps,
        batch_size=batch,
        learning_rate=learning_rate,
        schedule="cosine",
        warmup=min(0.5, 200 / steps),
        weight_decay=0.05,
        betas=(0.9, 0.99),
        clip_norm=1.0,
        ema_decay=0.998,
        precision="bf16",
        seed=seed,
        checkpoint_every=250,
        log_every=50,
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
    arguments = parse(parser, "--chunks {chunks} --out {out} --steps 2 --batch 4")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    model = PretextModel(fresh_backbone(arguments.name))
    spread_out(model.backbone)
    task = PretextTask(read_chunks(arguments.chunks))
    options = schedule(arguments.steps, 3e-4, arguments.batch, arguments.seed)
    folder = arguments.out / "pretrain"
    result = train(model, task, options, folder, resume=True, report=print)
    if result.interrupted:
        raise SystemExit(f"stopped after step {result.step}; the same command goes on")
    with atomic_write(arguments.out / "pretrained.pt", "wb") as file:
        torch.save(model.state_dict(), file)


if __name__ == "__main__":
    main()
