"""Hand-made features and a support vector machine: the figure a learned model has to pass.

Extracts the features of every image of a scores.csv folder (columns image, mos, content_id,
split; images under images/), chooses the hyper-parameters of an RBF support vector regression by
cross-validation over the contents of the train split, fits on that split and reports rank and
linear correlation on the val split. Needs scikit-learn.

    python -m benchmarks.feature_baseline FOLDER --features brisque -o brisque.json
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.examples import rated_examples
from qmamba.errors import DataError, QMambaError
from qmamba.evaluation.metrics.correlation import bootstrap_interval, plcc, rmse, srcc
from qmamba.evaluation.metrics.natural_scenes import (
    BRISQUE_NAMES,
    STATISTIC_NAMES,
    brisque_features,
    image_statistics,
)
from qmamba.images import read_image, to_tensor

FloatArray = NDArray[np.float64]

HALVINGS = ("plain", "antialiased")
FEATURE_SETS = ("brisque", "statistics", "both", "laplacian")
GRID = {
    "svr__C": [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0],
    "svr__gamma": [0.001, 0.003, 0.01, 0.03, 0.1],
    "svr__epsilon": [0.1, 0.3, 0.5],
}


@dataclass(frozen=True)
class Ratings:
    """The rows of a scores.csv, one entry per image in file order."""

    folder: Path
    images: tuple[str, ...]
    mos: FloatArray
    contents: NDArray[np.str_]
    splits: NDArray[np.str_]

    @classmethod
    def read(cls, folder: Path) -> Ratings:
        """Raises DataError where the file or a column is missing or a split is empty."""
        path = folder / "scores.csv"
        if not path.is_file():
            raise DataError(f"{path} does not exist; pass the folder that holds scores.csv")
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        missing = {"image", "mos", "content_id", "split"} - set(rows[0] if rows else ())
        if missing:
            raise DataError(f"{path} has no rows or lacks the columns {sorted(missing)}")
        splits = np.array([row["split"] for row in rows])
        for split in ("train", "val"):
            if split not in splits:
                raise DataError(f"{path} has no row of the split {split}; the baseline needs both")
        return cls(
            folder,
            tuple(row["image"] for row in rows),
            np.array([float(row["mos"]) for row in rows]),
            np.array([row["content_id"] for row in rows]),
            splits,
        )


@dataclass(frozen=True)
class Features:
    """The feature tables of the images, rows in the order of the ratings."""

    brisque: FloatArray
    brisque_plain: FloatArray
    statistics: FloatArray

    def select(self, name: str, halving: str) -> FloatArray:
        """The columns of one of FEATURE_SETS, BRISQUE's second scale by one of HALVINGS."""
        brisque = self.brisque if halving == "antialiased" else self.brisque_plain
        if name == "brisque":
            return brisque
        if name == "statistics":
            return self.statistics
        if name == "laplacian":
            return self.statistics[:, [STATISTIC_NAMES.index("log_laplacian_1")]]
        return np.concatenate((brisque, self.statistics), axis=1)


def extract(ratings: Ratings) -> Features:
    """Features of the whole images, one image at a time because sizes may differ."""
    rows: tuple[list[FloatArray], ...] = ([], [], [])
    for name in _progress(ratings.images):
        image = to_tensor(read_image(ratings.folder / "images" / name).pixels).unsqueeze(0)
        tables = (
            brisque_features(image),
            brisque_features(image, antialias=False),
            image_statistics(image),
        )
        for row, table in zip(rows, tables, strict=True):
            row.append(table[0].double().numpy())
    return Features(*(np.stack(row) for row in rows))


def cached_features(ratings: Ratings, cache: Path | None) -> Features:
    """Features from the file where it fits these images and columns, else extracted anew."""
    if cache is not None and cache.is_file():
        with np.load(cache) as stored:
            if (
                {"image", "brisque_names", "brisque_plain", "statistic_names"} <= set(stored.files)
                and tuple(stored["image"]) == ratings.images
                and tuple(stored["brisque_names"]) == BRISQUE_NAMES
                and tuple(stored["statistic_names"]) == STATISTIC_NAMES
            ):
                return Features(stored["brisque"], stored["brisque_plain"], stored["statistics"])
    features = extract(ratings)
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            cache,
            image=np.array(ratings.images),
            brisque=features.brisque,
            brisque_plain=features.brisque_plain,
            brisque_names=np.array(BRISQUE_NAMES),
            statistics=features.statistics,
            statistic_names=np.array(STATISTIC_NAMES),
        )
    return features


def evaluate(ratings: Ratings, table: FloatArray, *, folds: int, seed: int, jobs: int) -> dict:
    """Fits on train, evaluates on val; the val split takes no part in any choice."""
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.metrics import make_scorer
    from sklearn.model_selection import GridSearchCV, GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVR

    train, val = ratings.splits == "train", ratings.splits == "val"
    # Grid values are in units of standardised features and scores.
    model = TransformedTargetRegressor(
        make_pipeline(StandardScaler(), SVR(kernel="rbf")), transformer=StandardScaler()
    )
    search = GridSearchCV(
        model,
        {f"regressor__{name}": values for name, values in GRID.items()},
        scoring=make_scorer(_rank_correlation),
        cv=GroupKFold(folds, shuffle=True, random_state=seed),
        n_jobs=jobs,
    )
    search.fit(table[train], ratings.mos[train], groups=ratings.contents[train])
    prediction = search.predict(table[val])
    target = ratings.mos[val]
    return {
        "train_images": int(train.sum()),
        "val_images": int(val.sum()),
        "columns": int(table.shape[1]),
        "hyper_parameters": {
            name.removeprefix("regressor__svr__"): value
            for name, value in search.best_params_.items()
        },
        "cross_validation_srcc": float(search.best_score_),
        "srcc": srcc(prediction, target),
        "srcc_interval_95": bootstrap_interval(prediction, target, srcc, seed=seed),
        "plcc": plcc(prediction, target),
        "plcc_interval_95": bootstrap_interval(prediction, target, plcc, seed=seed),
        "rmse": rmse(prediction, target),
    }


def _rank_correlation(target: FloatArray, prediction: FloatArray) -> float:
    """SRCC for the search; a machine that says one value for all images orders nothing."""
    return 0.0 if np.ptp(prediction) == 0 else srcc(prediction, target)


def _progress(images: tuple[str, ...]) -> Iterator[str]:
    for index, image in enumerate(images):
        if sys.stderr.isatty():
            print(f"\r{index + 1}/{len(images)}", end="", file=sys.stderr)
        yield image
    if sys.stderr.isatty():
        print(file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", nargs="?", type=Path, help="folder with scores.csv and images/")
    parser.add_argument("--features", choices=FEATURE_SETS, default="brisque")
    parser.add_argument(
        "--halving",
        choices=HALVINGS,
        default="plain",
        help="how BRISQUE's second scale is made; antialiased is the authors', plain ranks better",
    )
    parser.add_argument("--cache", type=Path, help=".npz of features to read or write")
    parser.add_argument("--folds", type=int, default=5, help="content-grouped folds inside train")
    parser.add_argument("--seed", type=int, default=0, help="of the folds and the bootstrap")
    parser.add_argument("--jobs", type=int, default=1, help="processes of the search")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="a few examples: does it run?")
    options = parser.parse_args()
    if options.quick and options.folder is None:
        with rated_examples() as options.folder:
            return measure(options)
    if options.folder is None:
        parser.error("name a folder with scores.csv and images/")
    return measure(options)


def measure(options: argparse.Namespace) -> int:
    """Features, search and figures of a folder."""
    start = time.perf_counter()
    try:
        ratings = Ratings.read(options.folder)
        features = cached_features(ratings, options.cache)
        extracted = time.perf_counter()
        figures = evaluate(
            ratings,
            features.select(options.features, options.halving),
            folds=options.folds,
            seed=options.seed,
            jobs=options.jobs,
        )
    except QMambaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report = {
        "data": options.folder.resolve().name,
        "features": options.features,
        "halving": options.halving,
        "seed": options.seed,
        "folds": options.folds,
        **figures,
        "feature_seconds": round(extracted - start, 1),
        "search_seconds": round(time.perf_counter() - extracted, 1),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    for name in ("srcc", "plcc"):
        low, high = report[f"{name}_interval_95"]
        print(f"{options.features} {name.upper()} {report[name]:.4f}  95% [{low:.4f}, {high:.4f}]")
    if options.output is not None:
        options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
