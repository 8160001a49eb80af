"""What matters when a small network learns BIQ2021: one change at a time, three seeds each.

Every run has the same schedule, which was fixed beforehand, trains on the 2094 images of `train`
and is read once, after its last step, on the 606 of `val`. A run can be stopped at any moment and
continues from its checkpoint; finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from trial import parse

from qmamba.assess import CropsPolicy, Scorer
from qmamba.datasets import RatedDataset, read_csv_dataset
from qmamba.evaluation.metrics.correlation import plcc, srcc
from qmamba.files import atomic_write
from qmamba.models import QMamba
from qmamba.training import QualityPart, QualityTask, TrainingOptions, parse_loss, train
from qmamba.training.quality.initial_network import starting_model

CROP = 128
"""Side of a training crop; crops at test have 224."""
SCHEDULE = TrainingOptions(
    epochs=9,
    batch_size=16,
    learning_rate=3e-4,
    schedule="cosine",
    warmup=0.05,
    betas=(0.9, 0.99),
    clip_norm=1.0,
    ema_decay=0.998,
    precision="bf16",
    checkpoint_every=100,
    log_every=100,
)
HEAD_FACTOR = 5.0
DROP_PATH = 0.1
RESAMPLES = 1000
EXPLANATION = """\
Each run: {epochs:g} epochs of one random {crop} x {crop} crop per image, batches of {batch},
AdamW at {rate:g} with half a cosine, a moving average of the weights, bfloat16; {images}
images of `val` are scored with crops of 224. The local scan starts from the same pre-trained
tensors as the cross scan, its route gates fresh. The last column is the difference of the mean
SRCC with its 95 % interval over the contents of `val`, drawn anew {resamples} times.
"""


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    title: str
    model: str = "qmamba-nano"
    pretrained: bool = True
    loss: str = "smooth_l1"
    counts: tuple[int, ...] = (10,)
    """Crops of an image at test."""


VARIANTS = {
    "default": Variant("cross scan, pre-trained on distortions, smooth L1", counts=(10, 5, 1)),
    "random": Variant("random weights at the start", pretrained=False),
    "plcc": Variant("smooth L1 + 0.5 PLCC loss", loss="smooth_l1+0.5*plcc"),
    "rank": Variant("smooth L1 + 0.5 rank loss", loss="smooth_l1+0.5*rank"),
    "local": Variant("local scan, pre-trained weights of the cross scan", model="lqmamba-nano"),
    "local-random": Variant(
        "local scan, random weights at the start", model="lqmamba-nano", pretrained=False
    ),
}


def starting_point(variant: Variant, pretrained: Path, seed: int) -> QMamba:
    """The network of a variant, with what `pretrain.py` learned where the variant wants it."""
    model = starting_model(variant.model, seed=seed, drop_path=DROP_PATH)
    assert isinstance(model, QMamba)
    if variant.pretrained:
        prefix = "backbone."
        stored = torch.load(pretrained, weights_only=True)
        state = {
            name[len(prefix) :]: value
            for name, value in stored.items()
            if name.startswith(prefix) and ".head." not in name
        }
        missing, unexpected = model.load_state_dict(state, strict=False)
        surprising = [name for name in missing if ".head." not in name and ".attn." not in name]
        if surprising or unexpected:
            raise SystemExit(
                f"{pretrained} does not fit {variant.model}: {surprising or unexpected}"
            )
    return model


def run(
    variant: Variant,
    seed: int,
    data: RatedDataset,
    pretrained: Path,
    folder: Path,
    device: str = "cpu",
    epochs: float | None = SCHEDULE.epochs,
) -> dict[str, Any]:
    """Train one variant with one seed; its predictions on `val` by the number of crops."""
    positions = {
        part: tuple(i for i, image in enumerate(data) if image.split == part)
        for part in ("train", "val")
    }
    task = QualityTask(
        [QualityPart(data, positions["train"])],
        loss=parse_loss(variant.loss),
        policy=CropsPolicy(size=CROP),
        crops=1,
        head_factor=HEAD_FACTOR,
    )
    options = replace(SCHEDULE, seed=seed, epochs=epochs)
    model = starting_point(variant, pretrained, seed)
    result = train(
        model,
        task,
        options,
        folder,
        resume=True,
        device=device,
        report=lambda p: print(
            f"  step {p.step}/{p.steps} loss {p.loss:.4f}, {p.seconds_left:.0f} s left", flush=True
        ),
    )
    if result.interrupted:
        raise SystemExit("stopped; the same command goes on")
    images = [data[position].path for position in positions["val"]]
    metadata = task.metadata(variant.model, {})
    predictions = {}
    for count in variant.counts:
        scorer = Scorer(model, metadata, policy=CropsPolicy(count=count))
        predictions[str(count)] = [score.raw for score in scorer(iter(images))]
    return {"title": variant.title, "seed": seed, "predictions": predictions}


def difference(
    ours: Sequence[NDArray[np.float64]],
    reference: Sequence[NDArray[np.float64]],
    truth: NDArray[np.float64],
    contents: Sequence[str],
) -> tuple[float, float]:
    """95 % interval of the difference of the mean SRCC over seeds, contents drawn anew."""
    generator = np.random.default_rng(0)
    names = sorted(set(contents))
    members = {name: np.flatnonzero(np.array(contents) == name) for name in names}
    values = []
    for _ in range(RESAMPLES):
        drawn = generator.choice(len(names), len(names))
        chosen = np.concatenate([members[names[i]] for i in drawn])
        means = [
            np.mean([srcc(prediction[chosen], truth[chosen]) for prediction in predictions])
            for predictions in (ours, reference)
        ]
        values.append(means[0] - means[1])
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def table(results: Path, data: RatedDataset, seeds: Sequence[int]) -> str:
    """The results that are there, as Markdown."""
    images = [image for image in data if image.split == "val"]
    truth = np.array([image.mos for image in images])
    contents = [image.content for image in images]
    lines = [
        "| variant | crops at test | SRCC, mean of seeds | SRCC of each seed | PLCC, mean of seeds"
        " | SRCC against the first row |",
        "|---|---|---|---|---|---|",
    ]
    reference: list[NDArray[np.float64]] | None = None
    for name, variant in VARIANTS.items():
        stored = [results / f"{name}-{seed}.json" for seed in seeds]
        read = [json.loads(path.read_text()) for path in stored if path.exists()]
        for count in variant.counts if read else ():
            ours = [np.array(result["predictions"][str(count)]) for result in read]
            ranks = [srcc(prediction, truth) for prediction in ours]
            linear = [plcc(prediction, truth) for prediction in ours]
            against = "-"
            if reference is not None and len(ours) == len(reference):
                change = np.mean(ranks) - np.mean([srcc(r, truth) for r in reference])
                low, high = difference(ours, reference, truth, contents)
                against = f"{change:+.3f} ({low:+.3f} to {high:+.3f})"
            reference = ours if reference is None else reference
            each = ", ".join(f"{value:.3f}" for value in ranks)
            lines.append(
                f"| {variant.title} | {count} | {np.mean(ranks):.3f} | {each} |"
                f" {np.mean(linear):.3f} | {against} |"
            )
    explanation = EXPLANATION.format(
        epochs=SCHEDULE.epochs,
        crop=CROP,
        batch=SCHEDULE.batch_size,
        rate=SCHEDULE.learning_rate,
        images=len(images),
        resamples=RESAMPLES,
    )
    return "\n".join([*lines, "", explanation])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of BIQ2021")
    parser.add_argument("--pretrained", type=Path, required=True, help="file of pretrain.py")
    parser.add_argument("--out", type=Path, required=True, help="folder of runs and results")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=SCHEDULE.epochs, help="of the images")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--table", action="store_true", help="only write the table")
    arguments = parse(
        parser,
        "--data {data}/iqa/biq2021 --pretrained {pretrained} --out {out} --variants local "
        "--seeds 0 --epochs 1",
    )
    torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    data = read_csv_dataset(arguments.data / "scores.csv", name="BIQ2021", scale=(0.0, 1.0))
    for seed in () if arguments.table else arguments.seeds:
        for name in arguments.variants:
            stored = arguments.out / f"{name}-{seed}.json"
            if stored.exists():
                continue
            print(f"{name}, seed {seed}", flush=True)
            folder = arguments.out / f"{name}-{seed}"
            variant, device = VARIANTS[name], arguments.device
            result = run(
                variant, seed, data, arguments.pretrained, folder, device, arguments.epochs
            )
            with atomic_write(stored, "w") as file:
                json.dump(result, file)
    text = table(arguments.out, data, arguments.seeds)
    with atomic_write(arguments.out / "table.md", "w") as file:
        file.write(text)
    print(text)


if __name__ == "__main__":
    main()
