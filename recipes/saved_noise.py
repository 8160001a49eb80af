"""Teach the reasons to see noise in files that were saved as JPEG, as nearly all photographs are.

JPEG takes the high frequencies of noise, and the head of `flaws.py` knows noise by them. Here the
noise alone is learned anew, with hidden units of its own beside those there are; all other outputs
stay what they were in the head that comes with the package. The statistics are of photographs with
noise and of others without, most of them saved as JPEG of quality 50 to 96 afterwards. They are
collected in chunks that depend on their number alone; a run can be stopped at any moment and goes
on. Then the training takes seconds.

    python recipes/saved_noise.py --rated DATA/iqa/biq2021 --clean DATA/clean/bsds500_train \
        DATA/clean/T91 --out RUN/saved_noise

Every tenth photograph of the first folder is set aside: nothing is trained on it, and how the old
and the new noise do on it is printed.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
from damage import (
    FREQUENT,
    KINDS,
    LEVELS,
    TECHNICAL,
    damaged,
    enlarged,
    photographs,
    random_crop,
    severity,
    to_batch,
)
from flaws import NAMES, WELL_RATED
from robust import read_ratings
from torch import Tensor, nn
from trial import parse

from qmamba.assess.native.heads import embedded_head
from qmamba.datasets.distortions import Pixels
from qmamba.files import atomic_write
from qmamba.nn.image_statistics import StatisticsBranch, image_statistics
from qmamba.restore.degradations import jpeg

SIDES = {160: 11, 224: 4}
"""Sides of the ladders in pixels, and of how many of 15 chunks. The reasons look at 224."""
RATED_SIDE = 224
LADDERS, RATED = 40, 24
"""Ladders and crops of rated photographs in a chunk."""
HIDDEN, BATCH = 64, 640
NOISY = 2.0
"""How much oftener an image with noise counts than one without: what JPEG leaves of weak noise
looks like texture, and would be called none."""
QUALITIES = (50, 96)

_NOISES = [kind for kind, flaw in TECHNICAL.items() if flaw == "noise"]
_CODECS = [kind for kind, flaw in TECHNICAL.items() if flaw == "compression"]
_LEAVES_NOISE = ("denoise", "high_sharpen", "jitter", "displaced_patches", "color_quantization")
_OTHERS = [kind for kind in KINDS if kind not in (*_NOISES, *_CODECS, *_LEAVES_NOISE)]
_BEFORE = ("underexposure", "darken", "overexposure", "haze", "lower_contrast", "gaussian_blur")
_PLACE = NAMES.index("noise")


class Examples(NamedTuple):
    """Images and the severity of their noise."""

    statistics: Tensor
    """(images, statistics)."""
    noise: Tensor
    """(images,), as it was before the image was saved."""


def chunk_of(
    number: int, side: int, clean: list[Path], rated: list[tuple[Path, float]]
) -> Examples:
    """The chunk of this number and side: the same photographs give the same statistics."""
    random = np.random.default_rng([number, 16])
    good = [path for path, rating in rated if rating > -WELL_RATED]
    best = [path for path, rating in rated if rating > WELL_RATED]
    found: list[Tensor] = []
    noise: list[float] = []
    for _ in range(LADDERS):
        source = clean if random.random() < 0.5 or not good else good
        images, severities = noisy_ladder(source[int(random.integers(len(source)))], side, random)
        found.append(image_statistics(to_batch(images)))
        noise += severities
    for index in random.choice(len(best), min(RATED, len(best)), replace=False):
        crop = random_crop(best[index], RATED_SIDE, random)
        found.append(image_statistics(to_batch([crop, _saved(crop, random)])))
        noise += [0.0, 0.0]
    return Examples(torch.cat(found), torch.tensor(noise))


def noisy_ladder(
    path: Path, side: int, random: np.random.Generator
) -> tuple[list[Pixels], list[float]]:
    """A photograph at rising levels of one kind of damage, and the severities of its noise.

    Half of the ladders have noise, on photographs that are often soft, dark or flat before; a fifth
    have artifacts of a codec, and the others anything else. All images of four in five ladders are
    saved the same way.
    """
    soft, whole = random.random() < 0.3, side + 8
    first = enlarged(path, whole, random)[0] if soft else random_crop(path, whole, random)
    kinds = (_NOISES, _CODECS, _OTHERS)[int(random.choice(3, p=(0.5, 0.2, 0.3)))]
    weights = np.array([FREQUENT.get(kind, 1.0) for kind in kinds])
    kind = kinds[int(random.choice(len(kinds), p=weights / weights.sum()))]
    if kinds is _NOISES and random.random() < 0.35:
        worse = _BEFORE[int(random.integers(len(_BEFORE)))]
        first = damaged(first, worse, float(random.uniform(1.0, 3.5)), random)
    levels = np.sort(random.uniform(1.0, 5.0, LEVELS))
    levels[0] = min(levels[0], random.uniform(1.0, 2.2))
    seed = int(random.integers(2**31))
    images = [first, *(damaged(first, kind, v, np.random.default_rng(seed)) for v in levels)]
    if random.random() < 0.8:
        seed = int(random.integers(2**31))
        images = [_saved(image, np.random.default_rng(seed)) for image in images]
    top, left = random.integers(0, 8, 2)
    cut = [np.ascontiguousarray(i[top : top + side, left : left + side]) for i in images]
    if kinds is not _NOISES:
        return cut, [0.0] * len(cut)
    return cut, [0.0, *(severity(level) for level in levels.tolist())]


def _saved(image: Pixels, random: np.random.Generator) -> Pixels:
    quality = int(random.integers(QUALITIES[0], QUALITIES[1] + 1))
    return jpeg(image, quality, subsampling=2 if random.random() < 0.7 else 0)


def collect(
    folder: Path, chunks: int, clean: list[Path], rated: list[tuple[Path, float]]
) -> Examples:
    """All chunks, those that are missing computed; at least one of each side."""
    folder.mkdir(parents=True, exist_ok=True)
    found: list[Examples] = []
    for side, share in SIDES.items():
        large = set(photographs(sorted({path.parent for path in clean}), side + 8))
        usable = [path for path in clean if path in large]
        for number in range(max(1, chunks * share // sum(SIDES.values()))):
            path = folder / f"side_{side}_{number:04d}.pt"
            if not path.exists():
                with atomic_write(path) as file:
                    torch.save(chunk_of(number, side, usable, rated)._asdict(), file)
                print(f"chunk {number + 1} of {side} pixels", flush=True)
            found.append(Examples(**torch.load(path, weights_only=True)))
    return Examples(
        torch.cat([each.statistics for each in found]), torch.cat([each.noise for each in found])
    )


def fit(examples: Examples, old: StatisticsBranch, steps: int, seed: int) -> StatisticsBranch:
    """A head of one output, whose sigmoid is the severity of the noise.

    It sees the statistics as the old head does, so that the two can be one.
    """
    torch.manual_seed(seed)
    head = StatisticsBranch(HIDDEN, 1, len(old.mean))
    head.load_state_dict({"mean": old.mean, "deviation": old.deviation}, strict=False)
    nn.init.trunc_normal_(head.fc2.weight, std=0.1)
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 3e-5)
    for _ in range(steps):
        chosen = torch.randint(len(examples.noise), (BATCH,))
        found = torch.sigmoid(head.from_statistics(examples.statistics[chosen])[:, 0])
        wanted = examples.noise[chosen]
        counts = torch.where(wanted > 0, NOISY, 1.0)
        loss = 5 * ((found - wanted) ** 2 * counts).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return head.eval().requires_grad_(False)


def joined(old: StatisticsBranch, noise: StatisticsBranch) -> StatisticsBranch:
    """The old head with the noise of the other one, whose hidden units follow the old ones.

    Hidden units that only the old noise used are left out, so a second run replaces the first.
    """
    others = old.fc2.weight.clone()
    others[_PLACE] = 0
    kept = (others != 0).any(0)
    outgoing = torch.zeros(len(NAMES), int(kept.sum()) + len(noise.fc1.bias))
    outgoing[:, : int(kept.sum())] = others[:, kept]
    outgoing[_PLACE, int(kept.sum()) :] = noise.fc2.weight[0]
    bias = old.fc2.bias.clone()
    bias[_PLACE] = noise.fc2.bias[0]
    head = StatisticsBranch(outgoing.shape[1], len(NAMES), len(old.mean))
    head.load_state_dict(
        {
            "mean": old.mean,
            "deviation": old.deviation,
            "fc1.weight": torch.cat([old.fc1.weight[kept], noise.fc1.weight]),
            "fc1.bias": torch.cat([old.fc1.bias[kept], noise.fc1.bias]),
            "fc2.weight": outgoing,
            "fc2.bias": bias,
        }
    )
    return head.eval().requires_grad_(False)


def report(heads: dict[str, StatisticsBranch], aside: list[Path]) -> None:
    """Severity of the noise of the photographs set aside, by what was done to them."""
    for sigma in (0, 5, 10, 15, 25, 50):
        for quality in (None, 50, 75, 95):
            crops = []
            for seed, path in enumerate(aside):
                image = random_crop(path, RATED_SIDE, np.random.default_rng(seed))
                drawn = np.random.default_rng(seed).standard_normal(image.shape)
                image = np.clip(np.rint(image + sigma * drawn), 0, 255).astype(np.uint8)
                crops.append(image if quality is None else jpeg(image, quality))
            found = image_statistics(to_batch(crops))
            line = f"deviation {sigma:2}, " + (f"JPEG {quality}" if quality else "unsaved")
            for name, head in heads.items():
                noise = torch.sigmoid(head.from_statistics(found))[:, _PLACE]
                line += f"  {name} {noise.mean():.2f}, lit in {(noise >= 0.5).float().mean():.0%}"
            print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rated", type=Path, required=True, help="folder with scores.csv, images/")
    parser.add_argument("--clean", type=Path, nargs="+", required=True, help="folders to damage")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--chunks", type=int, default=150, help=f"each of {LADDERS} ladders")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parse(
        parser,
        "--rated {data}/iqa/biq2021 --clean {examples} --out {out} --chunks 1 --steps 3",
    )
    old = embedded_head("reasons")
    least = max(SIDES) + 8
    first = photographs(arguments.clean[:1], least)
    aside = first[::10]
    clean = [p for p in photographs(arguments.clean, min(SIDES) + 8) if p not in set(aside)]
    with open(arguments.rated / "scores.csv", newline="") as file:
        ratings = [float(row["mos"]) for row in csv.DictReader(file) if row["split"] == "train"]
    rated = read_ratings(arguments.rated, float(np.mean(ratings)), float(np.std(ratings)) or 1.0)
    examples = collect(arguments.out / "chunks", arguments.chunks, clean or first, rated)
    new = joined(old, fit(examples, old, arguments.steps, arguments.seed))
    path = arguments.out / "reasons.safetensors"
    state = {key: tensor.half() for key, tensor in new.state_dict().items()}
    with atomic_write(path) as file:
        file.write(safetensors.torch.save(state))
    print(path)
    report({"old": old, "new": new}, aside)


if __name__ == "__main__":
    main()
