"""Fine-tune a quality network so that its scores can be trusted: ratings, damage, empty images.

Every example is a rated crop, a ladder of damage and an image without content. The rated crop shall
get its rating and stay near what the network said before; an undamaged crop keeps its score, its
damaged copies go down by as much as their level and a full-reference metric say; and what shows
nothing scores low. Stop it at any time and start it again: it goes on from its checkpoint, and the
averaged weights so far are written with every part of the run.

    python recipes/robust.py --rated DATA/iqa/biq2021 --clean DATA/clean/bsds500_train \
        --out RUN/robust --steps 4000 --device cuda --batch 32

With `--teacher` the features of an ImageNet network are learned, too (`teacher.py`). With
`--features-only` nothing else is: no rating and no damage, from random weights, which gives a
backbone that knows ImageNet and that `qmamba train --from` and `qmamba tune` can start from.

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
from teacher import Distilled, Teacher
from torch import Tensor, nn
from trial import parse

from qmamba.assess import DEFAULT_WEIGHTS
from qmamba.checkpoints import load, save_model
from qmamba.images import normalize
from qmamba.models import ModelMetadata, QMamba
from qmamba.training import TrainingOptions, train
from qmamba.training.quality.initial_network import starting_model

CROP, SIDE = 224, 160
FLOOR = -2.7
"""Where the worst damage leads, in deviations of the ratings below their mean."""
EMPTY = -2.4
TRIAL_STEPS = 6
TEACHER_IMAGES = 32


class RobustTask:
    """Rated crops, ladders of damage and empty images, as the package's loop takes them.

    Args:
        rated: paths with their ratings, in deviations from the mean.
        clean: photographs to damage.
        before: the network as it was, which says where undamaged crops are to stay; None learns
            the teacher's features and nothing else.
        teacher: whose features are learned on the rated crops, too.
        teacher_weight: how much they count.
    """

    metric = None

    def __init__(
        self,
        rated: list[tuple[Path, float]],
        clean: list[Path],
        before: QMamba | None,
        teacher: Teacher | None = None,
        teacher_weight: float = 0.5,
    ) -> None:
        self._rated, self._clean = rated, clean
        self._before = None if before is None else before.eval().requires_grad_(False)
        self._teacher, self._teacher_weight = teacher, teacher_weight

    @property
    def examples(self) -> int:
        return len(self._rated)

    def example(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        seed = int(torch.randint(2**31, (), generator=generator))
        random = np.random.default_rng(seed)
        path, rating = self._rated[index]
        if self._before is None:
            return {"rated": to_batch([random_crop(path, CROP, random)])[0]}
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
        if self._teacher is None:
            return self._scores_loss(model, batch)
        assert isinstance(model, Distilled)
        crops = batch["rated"]
        distance = model.distance(crops, self._teacher.to(crops.device))
        if self._before is None:
            return distance
        return self._scores_loss(model, batch) + self._teacher_weight * distance

    def _scores_loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        assert self._before is not None
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
        if name.startswith("compared."):
            return 2.0
        return 5.0 if name.removeprefix("network.").startswith("classifier.") else 1.0


def read_ratings(folder: Path, mean: float, deviation: float) -> list[tuple[Path, float]]:
    """The training part of a list of ratings, in deviations from the mean."""
    with open(folder / "scores.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    return [(folder / "images" / r["image"], (float(r["mos"]) - mean) / deviation) for r in rows]


def first_network(arguments: argparse.Namespace) -> QMamba:
    """The network to train: that of the weights, or one of random weights."""
    if arguments.features_only:
        drawn = starting_model(arguments.model, seed=arguments.seed, statistics=0)
        assert isinstance(drawn, QMamba)
        return drawn.to(arguments.device)
    network = load(arguments.weights, device=arguments.device)
    assert isinstance(network, QMamba)
    return network


def with_teacher(network: QMamba, arguments: argparse.Namespace, paths: list[Path]) -> Distilled:
    """The network together with what compares it with the teacher, on crops of these images."""
    teacher = Teacher(arguments.teacher, arguments.teacher_weights).to(arguments.device)
    random = np.random.default_rng(arguments.seed)
    chosen = random.choice(len(paths), TEACHER_IMAGES)
    crops = to_batch([random_crop(paths[index], CROP, random) for index in chosen])
    return Distilled(network, teacher, crops.to(arguments.device))


def written(network: QMamba, path: Path, arguments: argparse.Namespace, steps: int) -> None:
    """The weights file, with how it came to be."""
    said = f"{steps} steps of {arguments.batch} examples of recipes/robust.py"
    if arguments.teacher:
        said += f", features of {arguments.teacher} (ImageNet)"
    name = path.stem
    if arguments.features_only:
        metadata = ModelMetadata(name=name, training={"protocol": f"{said}; no ratings"})
    else:
        assert network.metadata is not None
        training = {**network.metadata.training, "robust": said}
        metadata = replace(network.metadata, name=name, training=training, sha256=None, source=None)
    print(f"{path}: sha256 {save_model(network.cpu().eval(), path, metadata=metadata).sha256}")


def steps_for(seconds: float, model: nn.Module, task: RobustTask, batch: int) -> int:
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
    parser.add_argument("--teacher", help="timm's name, for example tf_efficientnet_lite2")
    parser.add_argument("--teacher-weights", type=Path, help="its trained weights, a .pth file")
    parser.add_argument("--teacher-weight", type=float, default=0.5, help="of its features")
    parser.add_argument(
        "--features-only", action="store_true", help="no ratings, from random weights"
    )
    parser.add_argument("--model", default="qmamba-mini", help="network of --features-only")
    arguments = parse(
        parser, "--rated {data}/iqa/biq2021 --clean {examples} --out {out} --steps 2 --batch 2"
    )
    if bool(arguments.teacher) != bool(arguments.teacher_weights):
        parser.error("--teacher and --teacher-weights need each other")
    if arguments.features_only and not arguments.teacher:
        parser.error("--features-only needs --teacher")
    network = first_network(arguments)
    before: QMamba | None = None
    mean, deviation = 0.0, 1.0
    if not arguments.features_only:
        loaded = load(arguments.weights, device=arguments.device)
        assert isinstance(loaded, QMamba)
        before = loaded
        assert network.metadata is not None and network.metadata.score is not None
        mean, deviation = network.metadata.score.target_mean, network.metadata.score.target_std
    network.requires_grad_(not arguments.classifier_only).train()
    network.classifier.requires_grad_(True)
    rated = read_ratings(arguments.rated, mean, deviation)
    model: nn.Module = network
    teacher = None
    if arguments.teacher:
        model = with_teacher(network, arguments, [path for path, _ in rated])
        teacher = Teacher(arguments.teacher, arguments.teacher_weights)
    clean = photographs(arguments.clean, SIDE + 8)
    task = RobustTask(rated, clean, before, teacher, arguments.teacher_weight)
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
    written(network, arguments.out / "robust.safetensors", arguments, result.step)


if __name__ == "__main__":
    main()
