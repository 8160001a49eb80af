"""Fine-tune a quality network so that its scores can be trusted: ratings, damage, empty images.

Every example is a rated crop, a ladder of damage and an image without content. The rated crop shall
get its rating and stay near what the network said before; an undamaged crop keeps its score, its
damaged copies go down by as much as their level and a full-reference metric say; and what shows
nothing scores low. Stop it at any time and start it again: it goes on from its checkpoint, and the
averaged weights so far are written with every part of the run.

    python recipes/robust.py --rated DATA/iqa/biq2021 --clean DATA/clean/bsds500_train \
        --out RUN/robust --steps 4000 --device cuda --batch 32

With `--seconds` a few steps are timed first and the number of steps follows from the time there is,
so that the learning rate has come down when it ends.
"""

from __future__ import annotations

import argparse
import csv
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from damage import (
    LEVELS,
    photographs,
    random_crop,
    random_ladder,
    share_of_the_way,
    to_batch,
    without_content,
)
from torch import Tensor, nn
from trial import parse

from qmamba.assess import DEFAULT_WEIGHTS
from qmamba.checkpoints import load, save_model
from qmamba.images import normalize
from qmamba.models import QMamba
from qmamba.training import TrainingOptions, train

CROP, SIDE = 224, 160
FLOOR = -2.7
"""Where the worst damage leads, in deviations of the ratings below their mean."""
EMPTY = -2.4
TRIAL_STEPS = 6


class RobustTask:
    """Rated crops, ladders of damage and empty images, as the package's loop takes them.

    Args:
        rated: paths with their ratings, in deviations from the mean.
        clean: photographs to damage.
        before: the network as it was, which says where undamaged crops are to stay.
    """

    metric = None

    def __init__(self, rated: list[tuple[Path, float]], clean: list[Path], before: QMamba) -> None:
        self._rated, self._clean = rated, clean
        self._before = before.eval().requires_grad_(False)

    @property
    def examples(self) -> int:
        return len(self._rated)

    def example(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        seed = int(torch.randint(2**31, (), generator=generator))
        random = np.random.default_rng(seed)
        path, rating = self._rated[index]
        chosen = self._clean[int(random.integers(len(self._clean)))]
        ladder = random_ladder(chosen, SIDE, random, saved=0.3)
        return {
            "rated": to_batch([random_crop(path, CROP, random)])[0],
            "rating": torch.tensor(rating),
            "ladder": to_batch(ladder.images),
            "share": share_of_the_way(ladder),
            "empty": to_batch([without_content(SIDE, random)])[0],
        }

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        rated, ladder = normalize(batch["rated"]), normalize(batch["ladder"].flatten(0, 1))
        before = self._before.to(rated.device)
        with torch.no_grad():
            kept = before(rated)[:, 0].float()
            undamaged = before(ladder[:: LEVELS + 1])[:, :1].float().clamp(-1.2, 1.6)
        target = undamaged + (FLOOR - undamaged) * batch["share"]
        ours = model(rated)[:, 0].float()
        levels, empty = (
            model(torch.cat([ladder, normalize(batch["empty"])]))
            .float()
            .split([len(ladder), len(rated)])
        )
        levels = levels.view_as(target)
        better, worse = torch.triu_indices(LEVELS + 1, LEVELS + 1, 1, device=target.device)
        wanted = 0.8 * (target[:, better] - target[:, worse])
        order = F.relu(wanted - (levels[:, better] - levels[:, worse])).mean()
        return (
            F.smooth_l1_loss(ours, batch["rating"].float())
            + 0.5 * F.smooth_l1_loss(ours, kept)
            + F.smooth_l1_loss(levels, target, beta=0.5)
            + 1.5 * order
            + 0.2 * F.relu(empty[:, 0] - EMPTY).mean()
        )

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        return {}

    def learning_rate_factor(self, name: str) -> float:
        return 5.0 if name.startswith("classifier.") else 1.0


def read_ratings(folder: Path, mean: float, deviation: float) -> list[tuple[Path, float]]:
    """The training part of a list of ratings, in deviations from the mean."""
    with open(folder / "scores.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    return [(folder / "images" / r["image"], (float(r["mos"]) - mean) / deviation) for r in rows]


def steps_for(seconds: float, model: QMamba, task: RobustTask, batch: int) -> int:
    """How many steps fit into the time, by timing a few of them on a copy of nothing."""
    random = torch.Generator().manual_seed(0)
    started = time.monotonic()
    for _ in range(TRIAL_STEPS):
        chosen = torch.randint(task.examples, (batch,), generator=random).tolist()
        examples = [task.example(index, random) for index in chosen]
        stacked = {key: torch.stack([e[key] for e in examples]) for key in examples[0]}
        device = next(model.parameters()).device
        task.loss(model, {key: value.to(device) for key, value in stacked.items()}).backward()
        model.zero_grad()
    return max(1, int(seconds * TRIAL_STEPS / (time.monotonic() - started)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rated", type=Path, required=True, help="folder with scores.csv, images/")
    parser.add_argument("--clean", type=Path, nargs="+", required=True, help="folders to damage")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--weights", default=DEFAULT_WEIGHTS, help="what to start from")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--steps", type=int)
    length.add_argument("--seconds", type=float)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--classifier-only", action="store_true", help="keep the backbone")
    arguments = parse(
        parser, "--rated {data}/iqa/biq2021 --clean {examples} --out {out} --steps 2 --batch 2"
    )
    model = load(arguments.weights, device=arguments.device)
    before = load(arguments.weights, device=arguments.device)
    assert isinstance(model, QMamba) and isinstance(before, QMamba)
    assert model.metadata is not None and model.metadata.score is not None
    scale = model.metadata.score
    model.requires_grad_(not arguments.classifier_only).train()
    model.classifier.requires_grad_(True)
    rated = read_ratings(arguments.rated, scale.target_mean, scale.target_std)
    task = RobustTask(rated, photographs(arguments.clean, SIDE + 8), before)
    steps = arguments.steps or steps_for(arguments.seconds, model, task, arguments.batch)
    options = TrainingOptions(
        epochs=None,
        steps=steps,
        batch_size=arguments.batch,
        learning_rate=arguments.learning_rate,
        schedule="cosine",
        warmup=min(0.5, 50 / steps),
        weight_decay=0.02,
        betas=(0.9, 0.98),
        clip_norm=2.0,
        ema_decay=min(0.998, 1 - 10 / (steps + 10)),
        precision=arguments.precision,
        seed=arguments.seed,
        checkpoint_every=max(1, min(100, steps // 10)),
        log_every=10,
    )
    result = train(
        model, task, options, arguments.out, resume=True, device=arguments.device, report=print
    )
    training = {
        **model.metadata.training,
        "robust": f"{result.step} steps of {arguments.batch} examples of recipes/robust.py",
    }
    path = arguments.out / "robust.safetensors"
    metadata = replace(model.metadata, name=path.stem, training=training, sha256=None, source=None)
    print(f"{path}: sha256 {save_model(model.cpu().eval(), path, metadata=metadata).sha256}")


if __name__ == "__main__":
    main()
