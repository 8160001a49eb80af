"""Adapting one small model to other kinds of images: StylePrompt beside its rivals.

The base is trained on photographs with authentic damage (BIQ2021). It is tuned for synthetic damage
(LIVE), for recoloring (HECD), and for all three at once, with every tuning, with the same schedule
and the same seeds for all (full tuning also at a tenth of the learning rate); nothing is chosen on
a test part.

LIVE and HECD are divided into halves by content; each half trains once and tests once for every
seed, so that every image is predicted by models that have not seen its content. Of BIQ2021, the
official training part trains and the official validation part tests.

A run can be stopped at any moment; finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from trial import parse

from qmamba.assess import CropsPolicy, Scorer
from qmamba.checkpoints import load
from qmamba.datasets import RatedDataset, official_split, read_csv_dataset, split_by_content
from qmamba.evaluation.metrics.correlation import plcc, srcc
from qmamba.files import atomic_write
from qmamba.models import Network, QMamba, count_parameters
from qmamba.prompts import TuningConfig, count_tuned
from qmamba.training import QualityPart, QualityTask, TrainingOptions
from qmamba.training.quality.tuning import TUNED_NAME, tune

WIDTH = 32
"""Channels of a prompt: StylePrompt then has 4.3 % of the model's parameters, as in the paper."""
CROP = 128
"""Side of a training crop; crops at test have 224."""
TEST_CROPS = 5
FOLDS = (0, 1)
RESAMPLES = 1000
MEMORY = 1 << 29


LEARNING_RATE = 1e-3
LOWER_RATES = {"full, lower rate": 1e-4}
"""One rate for all would be unfair to full tuning, which is usually done at a tenth of it."""


def schedule(steps: int, seed: int, tuning: str) -> TrainingOptions:
    return TrainingOptions(
        epochs=None,
        steps=steps,
        batch_size=16,
        learning_rate=LOWER_RATES.get(tuning, LEARNING_RATE),
        schedule="cosine",
        warmup=0.1,
        clip_norm=1.0,
        precision="bf16",
        seed=seed,
        checkpoint_every=steps,
        log_every=50,
    )


TUNINGS = {
    "none": TuningConfig("none"),
    "linear probe": TuningConfig("probe"),
    "full": TuningConfig("full"),
    "full, lower rate": TuningConfig("full"),
    "SSF": TuningConfig("ssf"),
    "SSF & R": TuningConfig("ssf", regressor=True),
    "cross-attention prompt": TuningConfig("cross-attention"),
    "cross-attention prompt & R": TuningConfig("cross-attention", regressor=True),
    "convolution prompt": TuningConfig("convolution", width=WIDTH),
    "convolution prompt & R": TuningConfig("convolution", width=WIDTH, regressor=True),
    "StylePrompt": TuningConfig("style", width=WIDTH),
    "StylePrompt & R": TuningConfig("style", width=WIDTH, regressor=True),
}


@dataclass(frozen=True)
class Target:
    """What the base is adapted to, and what the result is tested on."""

    title: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    tunings: tuple[str, ...] = tuple(TUNINGS)


TARGETS = {
    "live": Target("synthetic damage (LIVE)", ("live",), ("live",)),
    "hecd": Target("recoloring (HECD)", ("hecd",), ("hecd",)),
    "universal": Target(
        "universal",
        ("biq2021", "hecd", "live"),
        ("biq2021", "hecd", "live"),
        ("none", "linear probe", "full", "full, lower rate", "StylePrompt", "StylePrompt & R"),
    ),
}
NAMES = {"biq2021": "BIQ2021", "hecd": "HECD", "live": "LIVE"}


def without_statistics(model: QMamba) -> QMamba:
    """The network without its branch of image statistics: what the backbone alone knows."""
    alone = QMamba(replace(model.config, statistics=0))
    branch = "classifier.statistics."
    kept = {k: v for k, v in model.state_dict().items() if not k.startswith(branch)}
    alone.load_state_dict(kept)
    alone.metadata = model.metadata
    return alone.eval()


def divided(data: RatedDataset, seed: int, fold: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Training and test positions."""
    if data.name == "biq2021":
        split = official_split(data)
        return split.train, split.test
    split = split_by_content(data, seed, 0.5)
    return (split.train, split.test) if fold == 0 else (split.test, split.train)


def predictions(model: Network, data: RatedDataset, positions: Sequence[int]) -> dict[str, Any]:
    """Names and predicted qualities of the images at some positions."""
    scorer = Scorer(model, policy=CropsPolicy(count=TEST_CROPS))
    sign = 1 if scorer.scale.higher_is_better else -1
    scores = scorer(iter([data[position].path for position in positions]))
    return {
        "names": [data[position].name for position in positions],
        "qualities": [sign * score.raw for score in scores],
    }


def task_of(target: Target, data: Mapping[str, RatedDataset], seed: int, fold: int) -> QualityTask:
    parts = [QualityPart(data[name], divided(data[name], seed, fold)[0]) for name in target.train]
    return QualityTask(
        parts, policy=CropsPolicy(size=CROP), crops=1, sampling="balanced", memory=MEMORY
    )


def run(
    target: Target,
    tuning: TuningConfig,
    base: QMamba,
    data: Mapping[str, RatedDataset],
    task: Callable[[], QualityTask],
    folder: Path,
    options: TrainingOptions,
    fold: int,
) -> dict[str, Any]:
    """Tune once, if there is something to tune, and predict the test parts."""
    model, seconds, size = base, 0.0, 0
    if tuning.method != "none":
        started = time.process_time()
        result = tune(base, task(), tuning, options, folder, resume=True)
        seconds = time.process_time() - started
        if result.interrupted:
            raise SystemExit("stopped; the same command goes on")
        model = result.model
        size = (folder / TUNED_NAME).stat().st_size
        for name in ("checkpoint.pt", TUNED_NAME):
            (folder / name).unlink()
    return {
        "seconds": seconds,
        "bytes": size,
        "parameters": count_tuned(base.config, tuning),
        "of": count_parameters(base.config),
        "predictions": {
            name: predictions(model, data[name], divided(data[name], options.seed, fold)[1])
            for name in target.test
        },
    }


def jobs(targets: Sequence[str], seeds: Sequence[int]) -> Iterator[tuple[str, int, int, str]]:
    """(target, seed, fold, tuning) of every run; one of each kind before the second of any."""
    for fold in FOLDS:
        for seed in seeds:
            for target in targets:
                for tuning in TARGETS[target].tunings:
                    yield target, seed, fold, tuning


def stored_at(out: Path, target: str, seed: int, fold: int, tuning: str) -> Path:
    name = tuning.replace(",", "").replace(" ", "-").replace("-&-", "-and-")
    return out / f"{target}_{name}_{seed}{fold}.json"


class Figures:
    """The mean of a correlation over runs, and its interval when the images are drawn anew.

    Every draw takes images of the data set with replacement, the same for all runs.
    """

    def __init__(self, runs: Sequence[Mapping[str, Any]], data: RatedDataset) -> None:
        self._runs = [
            (
                np.array([data.index(name) for name in found["names"]]),
                np.array(found["qualities"], dtype=np.float64),
            )
            for found in runs
        ]
        self._truth = data.qualities

    def mean(self, metric: Callable[..., float]) -> float:
        found = [metric(quality, self._truth[indices]) for indices, quality in self._runs]
        return float(np.mean(found))

    def interval(self, metric: Callable[..., float]) -> tuple[float, float]:
        generator = np.random.default_rng(0)
        values = []
        for _ in range(RESAMPLES):
            times = np.bincount(
                generator.integers(0, len(self._truth), len(self._truth)),
                minlength=len(self._truth),
            )
            found = []
            for indices, quality in self._runs:
                drawn: NDArray[np.int64] = np.repeat(np.arange(len(indices)), times[indices])
                found.append(metric(quality[drawn], self._truth[indices][drawn]))
            values.append(np.mean(found))
        low, high = np.quantile(values, (0.025, 0.975))
        return float(low), float(high)


def table(out: Path, data: Mapping[str, RatedDataset], seeds: Sequence[int]) -> str:
    """What has been run, as Markdown."""
    lines = []
    for key, target in TARGETS.items():
        for test in target.test:
            rows = []
            for tuning in target.tunings:
                paths = [stored_at(out, key, s, f, tuning) for s in seeds for f in FOLDS]
                found = [json.loads(path.read_text()) for path in paths if path.exists()]
                if found:
                    rows.append(_row(tuning, found, test, data[test]))
            if rows:
                learned = "+".join(NAMES[name] for name in target.train)
                lines += ["", f"**{target.title}**: learns {learned}, tested on {NAMES[test]}", ""]
                lines += [
                    "| tuning | parameters | share | file | CPU time | SRCC | PLCC | runs |",
                    "|---|---:|---:|---:|---:|---|---|---:|",
                    *rows,
                ]
    return "\n".join(lines[1:]) + "\n"


def _row(tuning: str, runs: list[dict[str, Any]], test: str, data: RatedDataset) -> str:
    figures = Figures([run["predictions"][test] for run in runs], data)
    parameters = runs[0]["parameters"]
    seconds = float(np.median([run["seconds"] for run in runs]))
    cells = [
        tuning,
        f"{parameters:,}",
        f"{100 * parameters / runs[0]['of']:.1f} %",
        f"{runs[0]['bytes'] / 1000:,.0f} kB",
        f"{seconds:.0f} s",
    ]
    for metric in (srcc, plcc):
        low, high = figures.interval(metric)
        cells.append(f"{figures.mean(metric):.3f} ({low:.3f} to {high:.3f})")
    return f"| {' | '.join([*cells, str(len(runs))])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, title in NAMES.items():
        parser.add_argument(
            f"--{name}", type=Path, required=True, help=f"scores.csv of {title}, images beside it"
        )
    parser.add_argument("--out", type=Path, required=True, help="folder of runs and results")
    parser.add_argument("--base", default="qmamba-nano-biq2021", help="weights trained on BIQ2021")
    parser.add_argument(
        "--without-statistics",
        action="store_true",
        help="leave out the base's branch of image statistics: the backbone alone adapts",
    )
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--tunings", nargs="+", default=list(TUNINGS), choices=list(TUNINGS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="only write the table")
    arguments = parse(
        parser,
        "--biq2021 {data}/iqa/biq2021/scores.csv --hecd {data}/iqa/hecd/scores.csv "
        "--live {data}/iqa/live/scores.csv --out {out} --targets hecd --tunings none StylePrompt "
        "--seeds 0 --steps 1",
    )
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    data = {name: read_csv_dataset(getattr(arguments, name), name=name) for name in NAMES}
    base = load(arguments.base)
    assert isinstance(base, QMamba)
    if arguments.without_statistics:
        base = without_statistics(base)
    base.requires_grad_(False)
    tasks: dict[tuple[str, int, int], QualityTask] = {}
    wanted = () if arguments.table else jobs(arguments.targets, arguments.seeds)
    for key, seed, fold, name in wanted:
        stored = stored_at(arguments.out, key, seed, fold, name)
        if stored.exists() or name not in arguments.tunings:
            continue

        def task(index: tuple[str, int, int] = (key, seed, fold)) -> QualityTask:
            # Images are decoded once for all tunings of the same part.
            if index not in tasks:
                tasks.clear()
                tasks[index] = task_of(TARGETS[index[0]], data, *index[1:])
            return tasks[index]

        started = time.perf_counter()
        # Of a mix, every data set gives as many examples as it does alone.
        options = schedule(arguments.steps * len(TARGETS[key].train), seed, name)
        folder = arguments.out / "runs" / stored.stem
        result = run(TARGETS[key], TUNINGS[name], base, data, task, folder, options, fold)
        with atomic_write(stored, "w") as file:
            json.dump({"seed": seed, "fold": fold, "tuning": name, **result}, file)
        first = TARGETS[key].test[0]
        figure = Figures([result["predictions"][first]], data[first]).mean(srcc)
        print(
            f"{stored.stem}: SRCC {figure:.3f} on {first}, {time.perf_counter() - started:.0f} s",
            flush=True,
        )
    text = table(arguments.out, data, arguments.seeds)
    with atomic_write(arguments.out / "transfer.md", "w") as file:
        file.write(text)
    print(text)


if __name__ == "__main__":
    main()
