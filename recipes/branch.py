"""Teach a fixed backbone to mind damage: a small branch of image statistics beside it.

The backbone knows what things look like; how an image was exposed, compressed or faded it hardly
sees. Beside it `qmamba.nn.image_statistics` does, and a small branch that is trained here adds what
they say. What it learns from: ratings; photographs at rising levels of damage of every kind, the
undamaged one on top and the distances by level and likeness (`damage.py`); images that show
nothing, which shall score low.

    python recipes/branch.py --backbone trial.safetensors --rated DATA/iqa/biq2021 \
        --clean DATA/clean/bsds500_train DATA/clean/T91 --out RUN/branch --chunks 60

The features are collected in chunks first, which takes nearly all of the time (about 25 s of one
core each); a run can be stopped at any moment and goes on. With `--seconds` no chunk is begun after
that time; a second process can collect beside the first from another `--first`. Then the head is
fitted to the ratings and the branch trained on all chunks that are there, in a minute or two.
`branch.safetensors` is what `qmamba score --model` takes.

Every tenth photograph of the first clean folder is set aside: what the scores do on these at every
level is printed, beside the validation part of the ratings. Choices were made by these two.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from branch_features import CROP, JUDGED, LADDERS, RATED, Collector, Crops, Ladders, joined
from damage import photographs
from torch import Tensor, nn
from transfer import without_statistics
from trial import parse

from qmamba.assess import DEFAULT_WEIGHTS
from qmamba.assess.policies import CropsPolicy, policy_to_metadata
from qmamba.checkpoints import load, save_model
from qmamba.evaluation.metrics.correlation import plcc, srcc
from qmamba.files import atomic_write
from qmamba.inference import PreparedQMamba, prepare
from qmamba.models import QMamba, ScoreScale
from qmamba.nn.image_statistics import StatisticsBranch

FLOOR, EMPTY = -2.1, -1.75
"""Where the worst damage and what shows nothing lead, in deviations of the ratings."""
RIDGE = 1000.0
"""How firmly the head stays what it was."""
WELL_RATED = 0.057
"""Photographs rated better than this are damaged, too."""
STRICT_KINDS = {
    **dict.fromkeys(("lower_contrast", "overexposure", "underexposure", "haze"), 6.0),
    "gaussian_blur": 6.0,
    **dict.fromkeys(("jpeg", "webp", "quantization", "darken"), 2.0),
    **dict.fromkeys(("color_shift", "saturation_lab"), 2.0),
}
"""How much more the order within a ladder counts for the kinds that are hard to tell."""
POLICY = CropsPolicy(size=CROP, count=10, shorter=512, native=True)


class Known(NamedTuple):
    """Everything that was collected."""

    ladders: Ladders
    train: Crops
    validation: Crops
    empty: Crops
    judged: Ladders


class Weights(NamedTuple):
    """How much each part of the loss counts."""

    ratings: float = 4.0
    correlation: float = 4.0
    stay: float = 6.0
    """That what the branch adds differs little from one rated photograph to the next."""
    levels: float = 0.05
    order: float = 3.0
    top: float = 16.0
    """That no damage raises the score."""
    margin: float = 0.06
    """By how much the least damage shall lower it."""
    empty: float = 1.0
    elsewhere: float = 0.7
    """How far the statistics of a whole ladder are moved at random, in deviations."""


WEIGHTS = Weights()


def refit(head: nn.Linear, train: Crops) -> nn.Linear:
    """The head with what the ratings still say of the features, by ridge regression.

    Args:
        head: from features to deviations of the ratings.
        train: rated photographs.
    """
    features = train.features.float().mean(1)
    mean, deviation = features.mean(0), features.std(0) + 1e-3
    usual = (features - mean) / deviation
    left = train.ratings - head(features)[:, 0]
    squares = usual.T @ usual + RIDGE * torch.eye(usual.shape[1])
    change = torch.linalg.solve(squares, usual.T @ (left - left.mean())) / deviation
    better = nn.Linear(head.in_features, 1).requires_grad_(False)
    better.weight.copy_(head.weight + change)
    better.bias.copy_(head.bias + left.mean() - change @ mean)
    return better


def fit(
    known: Known,
    head: nn.Linear,
    *,
    hidden: int = 96,
    steps: int = 1200,
    rate: float = 3e-3,
    decay: float = 0.5,
    weights: Weights = WEIGHTS,
    seed: int = 0,
) -> StatisticsBranch:
    """Train the branch.

    Args:
        known: what was collected.
        head: from features to deviations of the ratings.
        hidden: width of the branch.
        steps: of 48 photographs with all their ladders and 256 rated ones each.
        rate: learning rate.
        decay: of the weights.
        weights: of the parts of the loss.
        seed: of the first weights and of the draws.
    """
    torch.manual_seed(seed)
    branch, objective = StatisticsBranch(hidden, 1), Objective(known, head, weights)
    branch.standardize_by(known.ladders.statistics.flatten(0, -2))
    optimizer = torch.optim.AdamW(branch.parameters(), lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, steps + 1, pct_start=0.05, final_div_factor=100
    )
    average = {key: value.clone() for key, value in branch.state_dict().items()}
    for step in range(steps):
        loss = objective.loss(branch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        kept = min(0.995, (1 + step) / (10 + step))
        with torch.no_grad():
            for key, value in branch.state_dict().items():
                average[key].lerp_(value, 1 - kept)
    branch.load_state_dict(average)
    return branch.eval().requires_grad_(False)


class Objective:
    """The loss of a random batch."""

    def __init__(self, known: Known, head: nn.Linear, weights: Weights) -> None:
        self._known, self._weights = known, weights
        self._targets = targets(known.ladders, head)
        self._strict = torch.tensor(
            [[STRICT_KINDS.get(kind, 1.0) for kind in names] for names in known.ladders.kinds]
        )
        with torch.no_grad():
            self._ladders, self._train, self._empty = (
                head(crops.features.float())[..., 0]
                for crops in (known.ladders, known.train, known.empty)
            )
        count = 1 + known.ladders.levels.shape[2]
        self._better, self._worse = torch.triu_indices(count, count, 1)

    def loss(self, branch: StatisticsBranch) -> Tensor:
        weights = self._weights
        return (
            self._rated_loss(branch)
            + self._ladder_loss(branch)
            + weights.empty * self._empty_loss(branch)
        )

    def _rated_loss(self, branch: StatisticsBranch) -> Tensor:
        known, weights = self._known.train, self._weights
        chosen = torch.randint(len(known.ratings), (256,))
        added = branch.from_statistics(known.statistics[chosen])[..., 0]
        found, rating = (self._train[chosen] + added).mean(-1), known.ratings[chosen]
        return (
            weights.ratings * F.smooth_l1_loss(found, rating)
            + weights.correlation * (1 - torch.corrcoef(torch.stack([found, rating]))[0, 1])
            + weights.stay * added.mean(-1).var()
        )

    def _ladder_loss(self, branch: StatisticsBranch) -> Tensor:
        known, weights = self._known.ladders, self._weights
        kinds = known.levels.shape[1]
        chosen = torch.randint(len(known.levels), (48,))
        statistics = known.statistics[chosen]
        # Damage shall count the same in photographs that are a little different.
        elsewhere = weights.elsewhere * torch.randn(len(chosen), 1, 1, statistics.shape[-1])
        added = branch.from_statistics(statistics + elsewhere * branch.deviation)[..., 0]
        found = with_undamaged((self._ladders[chosen] + added).mean(-1), kinds)
        target, counts = self._targets[chosen], self._strict[chosen][..., None]
        falls = found[..., self._better] - found[..., self._worse]
        wanted = target[..., self._better] - target[..., self._worse]
        top = found[..., :1] - found[..., 1:]
        return (
            weights.levels * F.smooth_l1_loss(found, target, beta=0.5)
            + weights.order * (F.relu(0.5 * wanted + 0.02 - falls) * counts).mean()
            + weights.top * (F.relu(weights.margin - top) * counts).mean()
        )

    def _empty_loss(self, branch: StatisticsBranch) -> Tensor:
        known = self._known.empty
        added = branch.from_statistics(known.statistics)[..., 0]
        return F.relu(self._empty + added - EMPTY).mean()


def with_undamaged(scores: Tensor, kinds: int) -> Tensor:
    """(photographs, 1 + kinds * levels) to (photographs, kinds, 1 + levels)."""
    undamaged = scores[:, :1, None].expand(-1, kinds, -1)
    return torch.cat([undamaged, scores[:, 1:].unflatten(1, (kinds, -1))], 2)


@torch.no_grad()
def targets(ladders: Ladders, head: nn.Linear) -> Tensor:
    """What every image should score: (photographs, kinds, 1 + levels)."""
    undamaged = head(ladders.features[:, 0].float())[..., 0].mean(-1).clamp(-0.75, 1.75)
    start = undamaged[:, None, None]
    falls = (FLOOR - start) * ladders.shares
    return torch.cat([start.expand(-1, ladders.levels.shape[1], 1), start + falls], 2)


@torch.no_grad()
def report(known: Known, head: nn.Linear, branch: StatisticsBranch | None) -> dict[str, Any]:
    """What the scores do on the photographs set aside and on the validation part."""

    def scored(crops: Ladders | Crops) -> Tensor:
        outputs = head(crops.features.float())[..., 0]
        if branch is not None:
            outputs = outputs + branch.from_statistics(crops.statistics)[..., 0]
        return outputs.mean(-1)

    validation, empty = scored(known.validation).numpy(), scored(known.empty).numpy()
    ratings = known.validation.ratings.numpy()
    ladders = with_undamaged(scored(known.judged), len(JUDGED)).numpy()
    kinds = {}
    for index, kind in enumerate(JUDGED):
        rows = ladders[:, index]
        kinds[kind] = {
            "first_level_above": float((rows[:, 1] > rows[:, 0]).mean()),
            "spearman": float(np.mean([srcc(-row, range(len(row))) for row in rows])),
            "strictly_falling": float((np.diff(rows, axis=1) < 0).all(1).mean()),
            "mean": rows.mean(0).round(3).tolist(),
        }
    return {
        "validation": {
            "srcc": srcc(validation, ratings),
            "plcc": plcc(validation, ratings),
            "spread": float(validation.std() / ratings.std()),
        },
        "empty_above_20th_percentile": float((empty > np.quantile(validation, 0.2)).mean()),
        "kinds": kinds,
    }


def finished(
    backbone: QMamba, head: nn.Linear, branch: StatisticsBranch, scale: ScoreScale, said: str
) -> QMamba:
    """The backbone with the trained branch and the corrected head."""
    hidden, inputs = branch.fc1.weight.shape
    network = QMamba(
        replace(backbone.config, statistics=hidden, statistics_inputs=inputs, drop_path=0.0)
    )
    state = backbone.state_dict()
    state["classifier.head.weight"], state["classifier.head.bias"] = head.weight, head.bias
    for key, value in branch.state_dict().items():
        state[f"classifier.statistics.{key}"] = value
    network.load_state_dict(state)
    assert backbone.metadata is not None
    training = {**backbone.metadata.training, "branch": said}
    network.metadata = replace(
        backbone.metadata,
        score=scale,
        policy=policy_to_metadata(POLICY),
        training=training,
        sha256=None,
        source=None,
    )
    return network.eval()


def collected(arguments: argparse.Namespace, backbone: QMamba) -> Known:
    """Everything to learn from, as much of it as was asked for or as there is time for."""
    network = prepare(backbone, "fp32")
    assert isinstance(network, PreparedQMamba)
    collector = Collector(network.forward_features, arguments.out / "chunks", arguments.contents)
    least = CROP + 8
    aside = photographs(arguments.clean[:1], least)[::10]
    everything = photographs(arguments.clean, least)
    clean = [path for path in everything if path not in set(aside)] or everything
    train, validation = (ratings_of(arguments.rated, part) for part in ("train", "val"))
    mean, deviation = unit_of(train)
    good = [path for path, rating in train if rating > mean + WELL_RATED * deviation]
    pool = clean * max(1, len(good) // len(clean)) + good
    started = time.monotonic()

    def rated(images: list[tuple[Path, float]], part: str) -> Crops:
        chunks = [
            collector.rated(number, images, part) for number in range(-(-len(images) // RATED))
        ]
        features, statistics, ratings = map(torch.cat, zip(*chunks, strict=True))
        return Crops(features, statistics, (ratings - mean) / deviation)

    empty, trained, validated = collector.empty(), rated(train, "train"), rated(validation, "val")
    looked = aside[: arguments.looked]
    judged = [collector.judged(number, path) for number, path in enumerate(looked)]
    for number in range(arguments.first, arguments.first + arguments.chunks):
        if number > arguments.first and time.monotonic() - started > arguments.seconds:
            print(f"{number - arguments.first} chunks in the time that there was")
            break
        collector.ladders(number, pool)
    return Known(collector.all_ladders(), trained, validated, empty, joined(judged))


def ratings_of(folder: Path, part: str) -> list[tuple[Path, float]]:
    """The images of a part with their ratings."""
    with open(folder / "scores.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == part]
    return [(folder / "images" / row["image"], float(row["mos"])) for row in rows]


def unit_of(rated: list[tuple[Path, float]]) -> tuple[float, float]:
    """Mean and deviation of ratings."""
    values = [rating for _, rating in rated]
    return float(np.mean(values)), float(np.std(values)) or 1.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--backbone", default=DEFAULT_WEIGHTS, help="rated weights; a branch of theirs is left out"
    )
    parser.add_argument("--rated", type=Path, required=True, help="folder with scores.csv, images/")
    parser.add_argument("--clean", type=Path, nargs="+", required=True, help="folders to damage")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--chunks", type=int, default=60, help="of damaged photographs")
    parser.add_argument("--contents", type=int, default=20, help="photographs in a chunk")
    parser.add_argument("--first", type=int, default=0, help="number of the first chunk")
    parser.add_argument("--looked", type=int, default=16, help="photographs to report on")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="begin no chunk after that time"
    )
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--stretch", type=float, default=1.0, help="of the scores about their mean")
    parser.add_argument("--name", default="qmamba-mini-biq2021", help="what the weights are called")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parse(
        parser,
        "--backbone qmamba-nano-biq2021 --rated {data}/iqa/biq2021 "
        "--clean {data}/clean/photographs --out {out} --chunks 1 --contents 2 --steps 3",
    )
    backbone = load(arguments.backbone)
    assert isinstance(backbone, QMamba) and backbone.metadata is not None
    scale = backbone.metadata.score
    if scale is None:
        parser.error("--backbone must be weights that were trained on ratings")
    backbone = without_statistics(backbone).requires_grad_(False)
    known = collected(arguments, backbone)
    mean, deviation = unit_of(ratings_of(arguments.rated, "train"))
    head = nn.Linear(backbone.config.dims[-1], 1).requires_grad_(False)
    head.weight.copy_(backbone.classifier.head.weight * scale.target_std / deviation)
    head.bias.copy_(
        (backbone.classifier.head.bias * scale.target_std + scale.target_mean - mean) / deviation
    )
    figures = {"before": report(known, head, None)}
    head = refit(head, known.train)
    branch = fit(known, head, steps=arguments.steps, seed=arguments.seed)
    figures["after"] = report(known, head, branch)
    with atomic_write(arguments.out / "report.json", "w") as file:
        json.dump(figures, file, indent=1)
    print(json.dumps(figures["after"], indent=1))
    count = len(known.ladders.levels)
    said = (
        f"recipes/branch.py: {arguments.steps} steps, {count} photographs with "
        f"{LADDERS} kinds of damage each, {len(known.train.ratings)} ratings"
    )
    stretched = replace(scale, target_mean=mean, target_std=deviation * arguments.stretch)
    network = finished(backbone, head, branch, stretched, said)
    path = arguments.out / "branch.safetensors"
    assert network.metadata is not None
    metadata = replace(network.metadata, name=arguments.name)
    print(f"{path}: sha256 {save_model(network, path, metadata=metadata).sha256}")


if __name__ == "__main__":
    main()
