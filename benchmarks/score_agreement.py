"""Correlation of `qmamba score` with the ratings of a list, per precision and policy.

The list is a `scores.csv` with image, mos and split beside a folder `images`. Nothing is trained or
chosen here; the figures of the model card come from the first row. The other precisions are
compared with the first row on the same images: the correlation of the ranks and the largest
change of a score.
"""

from __future__ import annotations

import argparse
import csv
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.examples import rated_examples
from benchmarks.measure import write
from qmamba.assess import DEFAULT_WEIGHTS, Scorer
from qmamba.evaluation.metrics.correlation import bootstrap_interval, plcc, rmse, srcc
from qmamba.inference import Precision

SETTINGS: tuple[tuple[Precision, str | None], ...] = (
    ("fp32", None),
    ("bf16", None),
    ("int8", None),
    ("fp32", "crops:count=5"),
    ("fp32", "crops:count=1"),
    ("fp32", "native"),
    ("fp32", "resize:size=224"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="folder with scores.csv and images/")
    parser.add_argument("--split", default="val")
    parser.add_argument("--model", default=DEFAULT_WEIGHTS)
    parser.add_argument("-o", "--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--limit", type=int, help="images to score, the first ones of the split")
    parser.add_argument("--quick", action="store_true", help="20 images: does it run?")
    arguments = parser.parse_args()
    if arguments.quick and arguments.folder is None:
        with rated_examples() as arguments.folder:
            return compare(arguments)
    if arguments.folder is None:
        parser.error("name a folder with scores.csv and images/")
    compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """Scores of each precision beside the ratings and beside each other."""
    with open(arguments.folder / "scores.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == arguments.split]
    rows = rows[: 20 if arguments.quick else arguments.limit]
    ratings = np.array([float(row["mos"]) for row in rows])
    paths = [arguments.folder / "images" / row["image"] for row in rows]
    results, reference = [], np.empty(0)
    for precision, policy in SETTINGS:
        scorer = Scorer.from_pretrained(arguments.model, precision=precision, policy=policy)
        predicted = np.array([score.raw for score in scorer(iter(paths))])
        reference = reference if reference.size else predicted
        interval = partial(bootstrap_interval, predicted, ratings)
        results.append(
            {
                "precision": precision,
                "policy": str(scorer.policy),
                "images": len(rows),
                "srcc": [srcc(predicted, ratings), *interval(srcc)],
                "plcc": [plcc(predicted, ratings), *interval(plcc)],
                "rmse": rmse(predicted, ratings),
                "srcc_to_first": srcc(predicted, reference),
                "largest_change": float(np.abs(predicted - reference).max()),
                "typical_change": float(np.sqrt(np.mean((predicted - reference) ** 2))),
            }
        )
        print(results[-1], flush=True)
    write(arguments.out, {"model": arguments.model, "rows": results})


if __name__ == "__main__":
    main()
