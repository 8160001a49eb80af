"""Can the scores be trusted? Damage in known steps, images without content, ratings, sizes.

What is asked of the default weights, each with its bar:

- twelve kinds of damage at five levels on photographs: the score falls with the level (mean
  Spearman correlation of the two), the first level is seldom above the undamaged photograph, and
  for blur, noise, JPEG and resampling the score falls at every step in nearly all photographs;
- pure noise, flat colors and gradients score below the 20th percentile of photographs;
- rank and linear correlation with ratings, and the spread of the scores beside that of the ratings;
- a data set with other kinds of damage that was not trained on;
- the same photographs at 1, 2 and 4 times the size are ranked alike;
- the reasons (``--reasons``) do not light up on undamaged and well-rated photographs.

Nothing is trained or chosen here. Parts whose folder is not given are left out. Folders of ratings
hold ``scores.csv`` (image, mos, split, for the other set also distortion) and ``images/``.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.examples import EXAMPLES, rated_examples
from benchmarks.measure import write
from qmamba.assess import Score, Scorer
from qmamba.assess.native.reasons import VISIBLE
from qmamba.datasets.distortions import DISTORTIONS, Pixels, distort
from qmamba.datasets.distortions.tone import lower_contrast
from qmamba.evaluation.metrics.correlation import bootstrap_interval, plcc, srcc
from qmamba.images import IMAGE_SUFFIXES

LEVELS = range(6)
"""0 is the undamaged photograph."""

DAMAGES = (
    "gaussian_blur",
    "motion_blur",
    "white_noise",
    "sensor_noise",
    "impulse_noise",
    "jpeg",
    "downscale",
    "overexposure",
    "underexposure",
    "lower_contrast",
    "haze",
    "quantization",
)
STRICT = ("gaussian_blur", "white_noise", "jpeg", "downscale")
"""Where every level must score lower than the one before."""

BARS = {
    "spearman": 0.97,
    "first_level_above": 0.05,
    "strictly_falling": 0.90,
    "no_content_percentile": 20.0,
    "false_alarms": 0.05,
    "rated_srcc": 0.76,
    "spread": 0.8,
    "other_srcc": 0.80,
    "sizes_srcc": 0.95,
}

REASON_OF = {
    "gaussian_blur": "blur",
    "motion_blur": "blur",
    "downscale": "blur",
    "white_noise": "noise",
    "sensor_noise": "noise",
    "impulse_noise": "noise",
    "jpeg": "compression",
    "overexposure": "overexposure",
    "underexposure": "underexposure",
    "lower_contrast": "contrast",
    "haze": "contrast",
}
"""Which reason names a kind of damage."""

ScoreOf = Callable[[Iterable[Pixels]], NDArray[np.float64]]


def damaged(photograph: Pixels, kind: str, level: int, seed: int) -> Pixels:
    """The photograph itself at level 0; the same chance at every level."""
    if level == 0:
        return photograph
    generator = np.random.default_rng(seed)
    if kind == "lower_contrast":
        amount = DISTORTIONS["contrast_change"].parameter(level)
        return lower_contrast(photograph, amount, generator)
    return distort(photograph, kind, level, generator)


def without_content(side: int = 384) -> dict[str, Pixels]:
    """Images that show nothing: noise, flat colors, gradients."""
    generator = np.random.default_rng(0)
    shape = (side, side, 3)
    ramp = np.linspace(0.0, 1.0, side)[:, None, None]
    images = {
        "uniform noise": generator.uniform(0, 256, shape),
        "gray noise": np.broadcast_to(generator.normal(128, 50, (side, side, 1)), shape),
        "gaussian noise": generator.normal(128, 40, shape),
        "weak noise": generator.normal(128, 12, shape),
    }
    for name, color in (
        ("black", (0, 0, 0)),
        ("gray", (128, 128, 128)),
        ("white", (255, 255, 255)),
        ("red", (255, 0, 0)),
        ("sky blue", (110, 160, 230)),
    ):
        images[f"flat {name}"] = np.broadcast_to(np.array(color, dtype=float), shape)
    images["gray gradient"] = np.broadcast_to(255 * ramp, shape)
    blue = np.array([40, 80, 160]) * (1 - ramp) + np.array([200, 220, 255]) * ramp
    images["blue gradient"] = blue
    images["sideways gradient"] = blue.transpose(1, 0, 2)
    return {
        name: np.ascontiguousarray(np.clip(np.broadcast_to(image, shape), 0, 255).astype(np.uint8))
        for name, image in images.items()
    }


def damage_report(
    score: ScoreOf, photographs: list[Pixels], kinds: Sequence[str] = DAMAGES
) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    undamaged = score(photographs)[:, None]
    for kind in kinds:
        falling = [
            score(damaged(photograph, kind, level, seed) for level in LEVELS[1:])
            for seed, photograph in enumerate(photographs)
        ]
        ladders = np.hstack([undamaged, np.array(falling)])
        rows[kind] = {
            "spearman": float(np.mean([srcc(-ladder, list(LEVELS)) for ladder in ladders])),
            "first_level_above": float(np.mean(ladders[:, 1] > ladders[:, 0])),
            "strictly_falling": float(np.mean((np.diff(ladders, axis=1) < 0).all(axis=1))),
            "mean_score": ladders.mean(axis=0).round(4).tolist(),
        }
        print(f"{kind:15}", _line(rows[kind]), flush=True)
    return rows


def no_content_report(score: ScoreOf, photographs: NDArray[np.float64]) -> dict[str, Any]:
    images = without_content()
    values = score(images.values())
    percentiles = [100 * float(np.mean(photographs < value)) for value in values]
    return {
        name: {"score": float(value), "percentile": percentile}
        for name, value, percentile in zip(images, values, percentiles, strict=True)
    }


def rated_report(predicted: NDArray[np.float64], ratings: NDArray[np.float64]) -> dict[str, Any]:
    interval = partial(bootstrap_interval, predicted, ratings)
    return {
        "images": len(ratings),
        "srcc": [srcc(predicted, ratings), *interval(srcc)],
        "plcc": [plcc(predicted, ratings), *interval(plcc)],
        "spread": float(predicted.std() / ratings.std()),
        "bias": float((predicted - ratings).mean()),
    }


def size_report(score: ScoreOf, photographs: list[Pixels]) -> dict[str, Any]:
    values = {
        factor: score(enlarged(photograph, factor) for photograph in photographs)
        for factor in (1, 2, 4)
    }
    return {
        "images": len(photographs),
        "srcc": {
            f"{first}x to {second}x": srcc(values[first], values[second])
            for first, second in ((1, 2), (1, 4), (2, 4))
        },
        "mean_score": {f"{factor}x": float(value.mean()) for factor, value in values.items()},
    }


def enlarged(photograph: Pixels, factor: int) -> Pixels:
    if factor == 1:
        return photograph
    height, width = photograph.shape[:2]
    image = Image.fromarray(photograph)
    return np.array(image.resize((factor * width, factor * height), Image.Resampling.BICUBIC))


def read_photographs(folder: Path, count: int) -> list[Pixels]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    chosen = [files[index * len(files) // count] for index in range(min(count, len(files)))]
    return [np.array(Image.open(path).convert("RGB")) for path in chosen]


def read_ratings(folder: Path, split: str | None) -> list[dict[str, str]]:
    with open(folder / "scores.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if split in (None, row["split"])]


def reasons_report(looks: Scorer, photographs: list[Pixels]) -> dict[str, Any]:
    """How well each reason tells damage of level 3 from undamaged photographs."""
    undamaged = [_severities(score) for score in looks(photographs)]
    rows: dict[str, Any] = {}
    for kind, name in REASON_OF.items():
        found = [
            _severities(looks(damaged(photograph, kind, 3, seed)))[name]
            for seed, photograph in enumerate(photographs)
        ]
        before = [values[name] for values in undamaged]
        rows[kind] = {"reason": name, "auc": auc(before, found), "mean": float(np.mean(found))}
    lit = {name: float(np.mean([v[name] >= VISIBLE for v in undamaged])) for name in undamaged[0]}
    return {"level_3": rows, "undamaged_lit": lit}


def auc(negatives: list[float], positives: list[float]) -> float:
    """Share of pairs in which the second is larger, half of the equal ones."""
    differences = np.subtract.outer(positives, negatives)
    return float(np.mean(differences > 0) + np.mean(differences == 0) / 2)


def _severities(score: Score) -> dict[str, float]:
    assert score.reasons is not None
    return asdict(score.reasons)


class Verdict(NamedTuple):
    """A figure beside its bar."""

    name: str
    value: float
    bar: float
    least: bool
    """Whether the bar is the least that is asked for; else it is the most."""

    @property
    def reached(self) -> bool:
        return self.value >= self.bar if self.least else self.value <= self.bar

    def __str__(self) -> str:
        met, side = "met   " if self.reached else "MISSED", ">=" if self.least else "<="
        return f"{met}  {self.name:45} {self.value:7.3f}  {side} {self.bar:g}"


def verdicts(report: dict[str, Any]) -> list[Verdict]:
    """Every bar that could be looked at, with the figure beside it."""
    found: list[Verdict] = []

    def least(name: str, value: float, bar: str) -> None:
        found.append(Verdict(name, value, BARS[bar], True))

    def most(name: str, value: float, bar: str) -> None:
        found.append(Verdict(name, value, BARS[bar], False))

    for kind, row in report.get("damage", {}).items():
        least(f"{kind}: Spearman with the level", row["spearman"], "spearman")
        most(f"{kind}: first level above undamaged", row["first_level_above"], "first_level_above")
        if kind in STRICT:
            least(f"{kind}: falls at every step", row["strictly_falling"], "strictly_falling")
    for name, row in report.get("no_content", {}).items():
        most(f"{name}: percentile of photographs", row["percentile"], "no_content_percentile")
    if "rated" in report:
        least("ratings: SRCC", report["rated"]["srcc"][0], "rated_srcc")
        least("ratings: spread of the scores", report["rated"]["spread"], "spread")
    if "other" in report:
        least("other set: SRCC", report["other"]["all"]["srcc"][0], "other_srcc")
    for pair, value in report.get("sizes", {}).get("srcc", {}).items():
        least(f"sizes {pair}: SRCC", value, "sizes_srcc")
    for name, share in report.get("reasons", {}).get("undamaged_lit", {}).items():
        most(f"reason {name}: lit on undamaged photographs", share, "false_alarms")
    for name, share in report.get("rated_lit", {}).items():
        most(f"reason {name}: lit on the better half of the rated", share, "false_alarms")
    return found


def rated_lit(scores: list[Score], ratings: NDArray[np.float64]) -> dict[str, float]:
    """How often each reason lights up on photographs rated above the median."""
    good = [_severities(s) for s, r in zip(scores, ratings, strict=True) if r > np.median(ratings)]
    return {name: float(np.mean([v[name] >= VISIBLE for v in good])) for name in good[0]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--photographs", type=Path, help="folder of clean photographs to damage")
    parser.add_argument("--count", type=int, default=20, help="photographs taken of that folder")
    parser.add_argument(
        "--kinds", nargs="+", default=DAMAGES, choices=DAMAGES, help="of damage; all without it"
    )
    parser.add_argument("--rated", type=Path, help="folder with ratings of photographs")
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int, help="rated images to score, the first of the split")
    parser.add_argument("--other", type=Path, help="folder with ratings of another data set")
    parser.add_argument("--sizes", type=int, default=40, help="rated images to enlarge")
    parser.add_argument("--model", help="weights; without it the default")
    parser.add_argument("--policy", help="views of an image; without it the model's own")
    parser.add_argument("-o", "--out", type=Path, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="a few examples: does it run?")
    arguments = parser.parse_args()
    if arguments.quick:
        # A correlation needs three of them.
        arguments.photographs, arguments.count, arguments.sizes = EXAMPLES, 1, 3
        arguments.model = arguments.model or "qmamba-nano-biq2021"
        with rated_examples() as folder:
            arguments.rated = arguments.rated or folder
            arguments.other = arguments.other or folder
            measure(arguments)
    else:
        measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    """Everything that there are images for."""
    scorer = Scorer.from_pretrained(arguments.model, policy=arguments.policy)
    looks = Scorer(scorer.model, scorer.metadata, policy=scorer.policy, reasons=True)
    report: dict[str, Any] = {
        "model": scorer.metadata.name,
        "sha256": scorer.metadata.sha256,
        "policy": str(scorer.policy),
        "bars": BARS,
    }

    def score(images: Iterable[Any]) -> NDArray[np.float64]:
        return np.array([result.raw for result in scorer(iter(images))])

    photographs: NDArray[np.float64] | None = None
    if arguments.rated is not None:
        rows = read_ratings(arguments.rated, arguments.split)[: arguments.limit]
        paths = [arguments.rated / "images" / row["image"] for row in rows]
        scores = looks(paths)
        photographs = np.array([result.raw for result in scores])
        ratings = np.array([float(row["mos"]) for row in rows])
        report["rated"] = rated_report(photographs, ratings)
        report["rated_lit"] = rated_lit(scores, ratings)
        print("ratings", report["rated"], flush=True)
        every = max(1, len(paths) // max(1, arguments.sizes))
        chosen = [np.array(Image.open(path).convert("RGB")) for path in paths[::every]]
        if arguments.sizes:
            report["sizes"] = size_report(score, chosen[: arguments.sizes])
            print("sizes", report["sizes"], flush=True)
    if arguments.other is not None:
        rows = read_ratings(arguments.other, None)
        predicted = score(arguments.other / "images" / row["image"] for row in rows)
        ratings = np.array([float(row["mos"]) for row in rows])
        kinds = np.array([row["distortion"] for row in rows])
        report["other"] = {"all": rated_report(predicted, ratings)}
        for kind in sorted(set(kinds)):
            if (kinds == kind).sum() > 5:
                report["other"][kind] = {
                    "images": int((kinds == kind).sum()),
                    "srcc": srcc(predicted[kinds == kind], ratings[kinds == kind]),
                }
        print("other set", report["other"], flush=True)
    if arguments.photographs is not None:
        clean = read_photographs(arguments.photographs, arguments.count)
        report["damage"] = damage_report(score, clean, arguments.kinds)
        report["reasons"] = reasons_report(looks, clean)
        print("reasons", report["reasons"], flush=True)
        photographs = score(clean) if photographs is None else photographs
    if photographs is not None:
        report["no_content"] = no_content_report(score, photographs)
        print("no content", report["no_content"], flush=True)
    judged = verdicts(report)
    report["verdicts"] = [{**v._asdict(), "reached": v.reached} for v in judged]
    for verdict in judged:
        print(verdict)
    print(f"{sum(verdict.reached for verdict in judged)} of {len(judged)} bars met")
    if arguments.out is not None:
        write(arguments.out, report)


def _line(row: dict[str, Any]) -> str:
    return (
        f"Spearman {row['spearman']:.3f}, first level above {row['first_level_above']:.0%}, "
        f"strictly falling {row['strictly_falling']:.0%}, {row['mean_score']}"
    )


if __name__ == "__main__":
    main()
