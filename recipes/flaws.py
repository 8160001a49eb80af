"""Train the small heads that look at an image at its native size: its reasons, its technical flaws.

Both heads take nothing but the image statistics of a crop. First the statistics of many ladders of
damage are collected, in chunks that depend on their number alone; a run can be stopped at any
moment and goes on. Then the heads are trained, which takes a minute.

    python recipes/flaws.py --rated DATA/iqa/biq2021 --clean DATA/clean/bsds500_train \
        DATA/clean/T91 --out RUN/flaws --chunks 60

`reasons.safetensors` has one output per kind of flaw (:class:`qmamba.assess.Reasons`),
`technical.safetensors` one in all, which rises with noise, compression and blur also where the
image was soft before. Every tenth photograph of the first folder is set aside: nothing is trained
on it, and how the heads do on it is printed.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from damage import (
    KINDS,
    LEVELS,
    TECHNICAL,
    Ladder,
    damaged,
    photographs,
    random_crop,
    random_ladder,
    severity,
    to_batch,
)
from robust import read_ratings
from torch import Tensor, nn
from trial import parse

from qmamba.files import atomic_write
from qmamba.nn.image_statistics import StatisticsBranch, image_statistics

NAMES = ("blur", "noise", "compression", "overexposure", "underexposure", "contrast", "color")
"""The outputs of the reasons, in the order of :class:`qmamba.assess.Reasons`."""
SIDE, RATED_SIDE = 160, 224
LADDERS, RATED = 40, 40
"""Ladders and crops of rated photographs in a chunk."""
WELL_RATED = 0.3
"""Ratings above it, in deviations from their mean, shall have no flaw."""

FLAW = {
    **TECHNICAL,
    **dict.fromkeys(("overexposure", "brighten"), "overexposure"),
    **dict.fromkeys(("underexposure", "darken"), "underexposure"),
    **dict.fromkeys(("haze", "lower_contrast"), "contrast"),
    **dict.fromkeys(
        ("saturation_lab", "saturation_hsv", "color_shift", "color_diffusion"), "color"
    ),
}
"""Which flaw a kind of damage is; the other kinds teach nothing."""

UNSURE = {
    "jpeg2000": ("blur",),
    "jpeg": ("blur",),
    "webp": ("blur",),
    "downscale": ("compression",),
    "gaussian_blur": ("contrast",),
    "lens_blur": ("contrast",),
    "motion_blur": ("contrast",),
    "white_noise_ycbcr": ("color",),
    "haze": ("overexposure", "color"),
    "overexposure": ("contrast", "color"),
    "brighten": ("contrast", "color"),
    "underexposure": ("contrast", "color"),
    "darken": ("contrast", "color"),
    "color_shift": ("blur",),
}
"""Flaws that a kind of damage may or may not bring with it."""


class Pool(NamedTuple):
    """Statistics of ladders, of shape (ladders, 1 + LEVELS, STATISTICS), and what they are of."""

    statistics: Tensor
    levels: Tensor
    """(ladders, 1 + LEVELS)."""
    softness: Tensor
    """(ladders,)."""
    kinds: list[str]
    rated: Tensor
    """Statistics (images, STATISTICS) of crops of well-rated photographs."""


def chunk_of(number: int, clean: list[Path], rated: list[tuple[Path, float]]) -> Pool:
    """The chunk of this number: the same photographs give the same statistics."""
    random = np.random.default_rng([number, 15])
    good = [path for path, rating in rated if rating > -WELL_RATED]
    ladders = [_ladder(clean, good, random) for _ in range(LADDERS)]
    best = [path for path, rating in rated if rating > WELL_RATED]
    chosen = random.choice(len(best), min(RATED, len(best)), replace=False)
    crops = [random_crop(best[index], RATED_SIDE, random) for index in chosen]
    return Pool(
        torch.stack([image_statistics(to_batch(ladder.images)) for ladder in ladders]),
        torch.tensor([ladder.levels for ladder in ladders]),
        torch.tensor([ladder.softness for ladder in ladders]),
        [ladder.kind for ladder in ladders],
        torch.cat([image_statistics(to_batch([crop])) for crop in crops]),
    )


def collect(folder: Path, chunks: int, clean: list[Path], rated: list[tuple[Path, float]]) -> Pool:
    """All chunks, those that are missing computed."""
    found: list[Pool] = []
    for number in range(chunks):
        path = folder / f"chunk_{number:04d}.pt"
        if not path.exists():
            with atomic_write(path) as file:
                torch.save(chunk_of(number, clean, rated)._asdict(), file)
            print(f"chunk {number + 1} of {chunks}", flush=True)
        found.append(Pool(**torch.load(path, weights_only=True)))
    return Pool(
        torch.cat([pool.statistics for pool in found]),
        torch.cat([pool.levels for pool in found]),
        torch.cat([pool.softness for pool in found]),
        [kind for pool in found for kind in pool.kinds],
        torch.cat([pool.rated for pool in found]),
    )


def reasons_targets(pool: Pool) -> tuple[Tensor, Tensor]:
    """Severity of every flaw, and how much each counts: (ladders, 1 + LEVELS, flaws)."""
    wanted = torch.zeros(*pool.levels.shape, len(NAMES))
    weight = torch.ones_like(wanted)
    wanted[..., NAMES.index("blur")] = pool.softness[:, None]
    for index, kind in enumerate(pool.kinds):
        if kind not in FLAW:
            weight[index, 1:] = 0
            continue
        place = NAMES.index(FLAW[kind])
        found = _severities(pool.levels[index])
        wanted[index, :, place] = torch.maximum(wanted[index, :, place], found)
        for name in UNSURE.get(kind, ()):
            weight[index, 1:, NAMES.index(name)] = 0
        if pool.softness[index] > 0 and FLAW[kind] != "blur":
            # Noise and blocks hide softness.
            weight[index, 1:, NAMES.index("blur")] = 0
    return wanted, weight


def technical_targets(pool: Pool) -> tuple[Tensor, Tensor]:
    """Severity of all technical flaws together, and how much each image counts."""
    wanted = pool.softness[:, None].expand(pool.levels.shape).clone()
    weight = torch.ones_like(wanted)
    for index, kind in enumerate(pool.kinds):
        added = _severities(pool.levels[index])
        if kind not in TECHNICAL:
            # Light and color are no matter of the native size.
            weight[index, 1:] = 0.3 if kind in FLAW else 0.0
        elif TECHNICAL[kind] == "blur":
            wanted[index] = torch.maximum(wanted[index], added)
        else:
            wanted[index] = 1 - (1 - wanted[index]) * (1 - added)
    return wanted, weight


def fit(
    pool: Pool,
    wanted: Tensor,
    weight: Tensor,
    *,
    hidden: int,
    steps: int,
    unflawed: float,
    order: float = 0.0,
    seed: int = 0,
) -> StatisticsBranch:
    """Train a head whose sigmoid is the severity.

    Args:
        pool: the statistics.
        wanted, weight: (ladders, 1 + LEVELS, outputs).
        hidden: width of the head.
        steps: of 128 ladders each.
        unflawed: weight of well-rated photographs, which shall have no flaw.
        order: weight of the order within a ladder.
        seed: of the first weights and of the draws.
    """
    torch.manual_seed(seed)
    head = StatisticsBranch(hidden, wanted.shape[-1])
    head.standardize_by(pool.statistics.flatten(0, 1))
    nn.init.trunc_normal_(head.fc2.weight, std=0.1)
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 3e-5)
    first, second = torch.triu_indices(1 + LEVELS, 1 + LEVELS, 1)
    for _ in range(steps):
        chosen = torch.randint(len(wanted), (128,))
        found = torch.sigmoid(head.from_statistics(pool.statistics[chosen]))
        target, counts = wanted[chosen], weight[chosen]
        loss = ((found - target) ** 2 * counts).sum() / len(chosen)
        rises = target[:, second] - target[:, first]
        behind = F.relu(0.8 * rises - (found[:, second] - found[:, first]))
        loss = loss + order * (behind * counts[:, second] * (rises > 0)).sum() / len(chosen)
        clear = pool.rated[torch.randint(len(pool.rated), (96,))]
        loss = loss + unflawed * (torch.sigmoid(head.from_statistics(clear)) ** 2).sum() / len(
            clear
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return head.eval().requires_grad_(False)


def report(reasons: StatisticsBranch, technical: StatisticsBranch, aside: list[Path]) -> None:
    """Severities on the photographs set aside, by kind and level."""
    print("kind: severity at levels 0 to 5 by its own reason, and of all technical flaws")
    for kind in KINDS:
        if kind not in FLAW:
            continue
        found = torch.stack([_at_all_levels(path, kind, index) for index, path in enumerate(aside)])
        own = torch.sigmoid(reasons.from_statistics(found))[..., NAMES.index(FLAW[kind])]
        whole = torch.sigmoid(technical.from_statistics(found))[..., 0]
        rises = (whole.diff(dim=1) > 0).all(1).float().mean()
        print(
            f"{kind:22}{_rounded(own)}  {_rounded(whole)}  rises at every level in {rises:.0%}",
            flush=True,
        )


def _ladder(clean: list[Path], good: list[Path], random: np.random.Generator) -> Ladder:
    source = clean if random.random() < 0.5 or not good else good
    path = source[int(random.integers(len(source)))]
    return random_ladder(path, SIDE, random, saved=0.35, soft=0.35)


def _severities(levels: Tensor) -> Tensor:
    return torch.tensor([severity(level) for level in levels.tolist()])


def _at_all_levels(path: Path, kind: str, seed: int) -> Tensor:
    image = random_crop(path, RATED_SIDE + 16, np.random.default_rng(seed))
    levels = [
        image if level == 0 else damaged(image, kind, level, np.random.default_rng(seed))
        for level in range(6)
    ]
    return image_statistics(to_batch([entry[3:-13, 5:-11] for entry in levels]))


def _rounded(severities: Tensor) -> str:
    return " ".join(f"{value:.2f}" for value in severities.mean(0).tolist())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rated", type=Path, required=True, help="folder with scores.csv, images/")
    parser.add_argument("--clean", type=Path, nargs="+", required=True, help="folders to damage")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--chunks", type=int, default=60, help=f"each of {LADDERS} ladders")
    parser.add_argument("--steps", type=int, default=1500, help="of each head")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--aside", type=int, default=20, help="photographs to report on")
    arguments = parse(
        parser,
        "--rated {data}/iqa/biq2021 --clean {examples} --out {out} --chunks 1 --steps 3 --aside 1",
    )
    (arguments.out / "chunks").mkdir(parents=True, exist_ok=True)
    least = SIDE + 8
    first = photographs(arguments.clean[:1], least)
    aside = [path for path in first[::10] if path in set(photographs(arguments.clean[:1], 248))]
    clean = [path for path in photographs(arguments.clean, least) if path not in set(first[::10])]
    with open(arguments.rated / "scores.csv", newline="") as file:
        ratings = [float(row["mos"]) for row in csv.DictReader(file) if row["split"] == "train"]
    rated = read_ratings(arguments.rated, float(np.mean(ratings)), float(np.std(ratings)) or 1.0)
    pool = collect(arguments.out / "chunks", arguments.chunks, clean or first, rated)
    common = {"steps": arguments.steps, "seed": arguments.seed}
    reasons = fit(pool, *reasons_targets(pool), hidden=64, unflawed=0.15, **common)
    wanted, weight = technical_targets(pool)
    technical = fit(
        pool, wanted[..., None], weight[..., None], hidden=48, unflawed=0.1, order=6.0, **common
    )
    for name, head in (("reasons", reasons), ("technical", technical)):
        path = arguments.out / f"{name}.safetensors"
        state = {key: tensor.half() for key, tensor in head.state_dict().items()}
        with atomic_write(path) as file:
            file.write(safetensors.torch.save(state))
        print(path)
    report(reasons, technical, aside[: arguments.aside])


if __name__ == "__main__":
    main()
