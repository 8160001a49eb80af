"""Restoration at few bits: which quantizer is how good after the same short training.

From a full-precision network of each task, every cell of the grid prepares the network with one
method at one number of bits, trains it with one schedule that is the same for all, packs it, and
measures the packed file on test sets. A run can be stopped at any moment and continues from its
checkpoint; finished cells are not repeated, and cells whose full-precision network is not there yet
are passed over. The most telling cells come first. ``--table`` prints what is done so far.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from trial import parse

from qmamba.checkpoints import load
from qmamba.datasets.clean.images import CleanImage, find_clean_images, split_clean_images
from qmamba.datasets.clean.test_sets import find_restoration_set
from qmamba.evaluation.restoration.benchmark import evaluate_set
from qmamba.files import atomic_write
from qmamba.models import MambaIR
from qmamba.quantization import quantization_of
from qmamba.restore.degradations import Degradation
from qmamba.training import TrainingOptions
from qmamba.training.restoration.initial_network import (
    degradation_for,
    prepare_quantized,
    restoration_network,
)
from qmamba.training.restoration.run import train_restoration
from qmamba.training.restoration.task import CropOptions, RestorationTask
from qmamba.training.run import MODEL_NAME

# The published recipe with its milestones, shortened; the rate is higher because the run is short.
SCHEDULE = TrainingOptions(
    epochs=None,
    steps=240,
    learning_rate=1e-3,
    milestones=(0.5, 0.75, 0.875, 0.9375),
    milestone_factor=0.5,
    weight_decay=0.0,
    betas=(0.9, 0.99),
    clip_norm=1.0,
    checkpoint_every=40,
    log_every=40,
)
LONG_STEPS = 1500
"""Steps of the networks that are handed out, with batches twice as large."""

MAIN = "dls+rfa"
RIVALS = ("lsq", "lsq+", "dorefa", "dls", "rfa")
SEEDS = (0, 1)


@dataclass(frozen=True)
class Lesson:
    """A task with its crops and its test sets."""

    batch: int
    """Crops of one step in the grid."""
    crop: int
    sets: tuple[str, ...]
    qualities: tuple[int, ...] = ()


LESSONS = {
    "x2": Lesson(4, 32, ("Set5", "Set14")),
    "denoise": Lesson(2, 48, ("Set5", "Set14")),
    "jpeg": Lesson(2, 48, ("Classic5",), (10, 40)),
    "x4": Lesson(4, 32, ("Set5", "Set14")),
}


@dataclass(frozen=True)
class Cell:
    """One training run."""

    task: str
    bits: str
    method: str
    seed: int
    long: bool = False

    @property
    def name(self) -> str:
        length = "-long" if self.long else ""
        return f"{self.task}-{self.bits}-{self.method}{length}-s{self.seed}"


def grid() -> Iterator[Cell]:
    """All cells, the most telling ones first."""
    for bits in ("w4a4", "w2a2", "w8a8"):
        for task in LESSONS:
            yield Cell(task, bits, MAIN, 0)
    for seed in SEEDS:
        for task in LESSONS:
            for bits in ("w4a4", "w2a2"):
                yield from (
                    Cell(task, bits, method, seed)
                    for method in (MAIN, *RIVALS)
                    if (method, seed) != (MAIN, 0)
                )


def long_cells() -> Iterator[Cell]:
    """The networks that are handed out."""
    yield from (Cell(task, "w4a4", MAIN, 0, long=True) for task in LESSONS)


@dataclass(frozen=True)
class Places:
    """Folders."""

    full: Path
    out: Path
    sets: Path


def run_cell(
    cell: Cell,
    indices: Places,
    training: tuple[CleanImage, ...],
    validation: tuple[CleanImage, ...],
    steps: int | None = None,
) -> dict[str, Any] | None:
    """Train and measure a cell; None where it was stopped."""
    lesson, weights = LESSONS[cell.task], indices.full / cell.task / MODEL_NAME
    network = restoration_network(None, weights=weights, seed=cell.seed)
    task = RestorationTask(
        degradation_for(network), training, validation, CropOptions(side=lesson.crop)
    )
    config = quantization_of(cell.bits, cell.method)
    prepare_quantized(network, config, task, seed=cell.seed)
    options = replace(SCHEDULE, batch_size=lesson.batch, seed=cell.seed)
    if cell.long:
        options = replace(
            options,
            steps=LONG_STEPS,
            batch_size=2 * lesson.batch,
            checkpoint_every=100,
            log_every=100,
        )
    if steps is not None:
        options = replace(options, steps=steps, checkpoint_every=steps)
    started = time.process_time()
    result = train_restoration(
        network,
        task,
        options,
        indices.out / cell.name,
        name=f"mambair-nano-{cell.task}-{cell.bits}",
        quantization=config,
        card={"data": f"{len(training)} images of BSDS500 and T91"},
        resume=True,
    )
    if result.interrupted:
        return None
    seconds = time.process_time() - started
    measured = measure(indices.out / cell.name / MODEL_NAME, cell.task, indices.sets)
    return {
        **asdict(cell),
        "steps": options.steps,
        "validation": result.figures,
        "cpu_seconds": round(seconds, 1),
        **measured,
    }


def measure(weights: Path | None, name: str, sets: Path) -> dict[str, Any]:
    """Bytes and figures of a weights file, of the degraded input where there is none."""
    network = None if weights is None else load(weights)
    assert network is None or isinstance(network, MambaIR)
    figures = {}
    for degradation in strengths(name):
        for each in LESSONS[name].sets:
            found = find_restoration_set(each, sets)
            if found is None:
                raise SystemExit(f"There is no {each} below {sets}.")
            mean = evaluate_set(network, found, degradation).mean
            figures[f"{each}, {degradation}"] = asdict(mean)
    return {"bytes": None if weights is None else weights.stat().st_size, "sets": figures}


def strengths(name: str) -> list[Degradation]:
    """What is measured of a task."""
    if name == "denoise":
        return [Degradation("denoise", sigma=(25.0, 25.0))]
    if name == "jpeg":
        return [
            Degradation("jpeg", quality=(quality, quality), channels=1)
            for quality in LESSONS[name].qualities
        ]
    return [Degradation("sr", scale=int(name[1:]))]


def references(indices: Places, tasks: Iterable[str]) -> None:
    """Measure the degraded input and the full-precision networks, once."""
    for task in tasks:
        path = indices.out / f"{task}-input" / "result.json"
        if not path.exists():
            values = {"task": task, "bits": "", "method": "input", "seed": 0, "long": False}
            write_result(path, {**values, **measure(None, task, indices.sets)})
        path = indices.out / f"{task}-full" / "result.json"
        weights = indices.full / task / MODEL_NAME
        if weights.exists() and not path.exists():
            values = {"task": task, "bits": "fp32", "method": "full", "seed": 0, "long": False}
            write_result(path, {**values, **measure(weights, task, indices.sets)})


def write_result(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, "w") as stream:
        json.dump(result, stream, indent=1)


def table(out: Path) -> str:
    """Markdown: one table for each task, one row for each method, means over seeds."""
    results = [json.loads(path.read_text()) for path in sorted(out.glob("*/result.json"))]
    lines = []
    for task in LESSONS:
        own = [result for result in results if result["task"] == task]
        if not own:
            continue
        sets = list(own[0]["sets"])
        lines += [
            f"\n### {task}\n",
            f"| bits | method | seeds | bytes | {' | '.join(sets)} |",
            f"| --- | --- | ---: | ---: | {' | '.join('---:' for _ in sets)} |",
        ]
        for bits in ("", "fp32", "w8a8", "w4a4", "w2a2"):
            rows = [result for result in own if result["bits"] == bits]
            groups: dict[tuple[str, bool], list[dict[str, Any]]] = {}
            for result in rows:
                groups.setdefault((result["method"], result["long"]), []).append(result)
            ranked = sorted(groups.items(), key=lambda item: -_mean(item[1], sets[0], "psnr"))
            for (method, long), members in ranked:
                size = members[0]["bytes"]
                label = f"{method}, {members[0]['steps']} steps" if long else method
                cells = [
                    f"{_mean(members, each, 'psnr'):.2f}{_spread(members, each)}"
                    f" / {_mean(members, each, 'ssim'):.4f}"
                    for each in sets
                ]
                lines.append(
                    f"| {bits or '-'} | {label} | {len(members)} | "
                    f"{'-' if size is None else format(size, ',')} | {' | '.join(cells)} |"
                )
    return "\n".join(lines) + "\n"


def _mean(results: list[dict[str, Any]], name: str, key: str) -> float:
    return sum(result["sets"][name][key] for result in results) / len(results)


def _spread(results: list[dict[str, Any]], name: str) -> str:
    values = [result["sets"][name]["psnr"] for result in results]
    return f" ± {(max(values) - min(values)) / 2:.2f}" if len(values) > 1 else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of clean images")
    parser.add_argument("--sets", type=Path, required=True, help="folder of test sets; never train")
    parser.add_argument(
        "--full", type=Path, required=True, help="folder with x2/, x4/, denoise/, jpeg/ (trained)"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", action="append", choices=list(LESSONS), help="only these")
    parser.add_argument("--long", action="store_true", help="the networks that are handed out")
    parser.add_argument("--table", action="store_true", help="print what is done and stop")
    parser.add_argument("--cells", type=int, help="stop after so many new ones")
    parser.add_argument("--steps", type=int, help="of a cell, instead of its schedule")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parse(
        parser,
        "--data {data}/clean --sets {data}/sets --full {networks} --out {out} --task x2 --cells 1 "
        "--steps 2",
    )
    if arguments.table:
        print(table(arguments.out))
        return
    torch.set_num_threads(arguments.threads)
    indices = Places(arguments.full, arguments.out, arguments.sets)
    tasks = arguments.task or list(LESSONS)
    references(indices, tasks)
    training, validation = split_clean_images(
        find_clean_images([arguments.data], exclude=[arguments.sets])
    )
    new = 0
    for cell in long_cells() if arguments.long else grid():
        if new == arguments.cells:
            return
        path = indices.out / cell.name / "result.json"
        there = (indices.full / cell.task / MODEL_NAME).exists()
        if cell.task not in tasks or path.exists() or not there:
            continue
        print(f"{time.strftime('%H:%M:%S')} {cell.name}", flush=True)
        result = run_cell(cell, indices, training, validation, arguments.steps)
        if result is None:
            print("stopped; the same command goes on", flush=True)
            return
        new += 1
        write_result(path, result)
        print(json.dumps(result["sets"]), flush=True)


if __name__ == "__main__":
    main()
