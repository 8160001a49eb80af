"""A small rated data set on disk, a small network, and a task that takes milliseconds a step."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from qmamba.assess import CropsPolicy
from qmamba.datasets import RatedDataset, read_csv_dataset
from qmamba.models import QMamba
from qmamba.training import QualityPart, QualityTask, TrainingOptions
from qmamba.training.quality.initial_network import starting_model

CROPS = CropsPolicy(size=32, count=2)


def write_rated(
    folder: Path, count: int = 12, *, name: str = "ratings", scale: float = 1.0
) -> Path:
    """A CSV of images 40 x 48 whose score falls with their noise; two images per content."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(count)
    rows = []
    for i in range(count):
        noise = 90.0 * i / (count - 1)
        ramp = 128 + 40 * np.sin(np.arange(48) / (3 + i // 2))[None, :, None]
        image = ramp + noise * generator.standard_normal((40, 48, 3))
        path = folder / f"{name}{i:02d}.png"
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path)
        rows.append((path.name, f"{scale * (5 - noise / 25):.4f}", f"scene{i // 2}"))
    table = folder / f"{name}.csv"
    with open(table, "w", newline="") as file:
        csv.writer(file).writerows([("path", "mos", "content"), *rows])
    return table


def rated(folder: Path, count: int = 12, **options: Any) -> RatedDataset:
    return read_csv_dataset(write_rated(folder, count), **options)


def quality_task(dataset: RatedDataset, validation: int = 4, **options: Any) -> QualityTask:
    positions = tuple(range(len(dataset)))
    part = QualityPart(dataset, positions[validation:], positions[:validation])
    return QualityTask([part], **{"policy": CROPS, "crops": 2, **options})


def small_network(seed: int = 0, **overrides: Any) -> QMamba:
    sizes = {"dims": (8, 16), "depths": (1, 1), "windows": (1, 1)}
    model = starting_model("qmamba-nano", seed=seed, **{**sizes, **overrides})
    assert isinstance(model, QMamba)
    return model


def small_options(**changes: Any) -> TrainingOptions:
    values: dict[str, Any] = {
        "epochs": None,
        "steps": 8,
        "batch_size": 4,
        "learning_rate": 3e-3,
        "log_every": 1,
        "checkpoint_every": 3,
    }
    return TrainingOptions(**{**values, **changes})


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether every tensor is the same to the last bit."""
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )
