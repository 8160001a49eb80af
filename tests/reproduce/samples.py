"""Tiny data sets under the names of real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from qmamba.datasets import RatedDataset, RatedImage
from qmamba.reproduce import Sources

CONTENTS = 5


def tiny_dataset(name: str, folder: Path, *, higher_is_better: bool = True) -> RatedDataset:
    """Five contents, each with the distortions 01, 02, 11 and 25, that get noisier."""
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for content in range(CONTENTS):
        rng = np.random.default_rng(content)
        base = rng.uniform(60, 190, (40, 48, 3))
        for place, distortion in enumerate(("01", "02", "11", "25")):
            noisy = base + 20 * place * rng.standard_normal(base.shape)
            path = folder / f"{content}_{distortion}.png"
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
            quality = 90 - 20 * place - content
            mos = float(quality if higher_is_better else 100 - quality)
            images.append(RatedImage(path.name, path, mos, f"c{content}", distortion))
    return RatedDataset(name, tuple(images), (0.0, 100.0), higher_is_better, f"{name} scores", None)


def tiny_sources(folder: Path, *names: str) -> Sources:
    sets = {
        name: tiny_dataset(name, folder / name, higher_is_better=name != "live") for name in names
    }
    return Sources(sets, {}, None, fresh=True)
