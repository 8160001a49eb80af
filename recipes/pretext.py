"""Pre-training data of the embedded model: damaged crops and what can be known of them.

Every sample is a crop of an undistorted or in-the-wild photograph, damaged by none, one or two
synthetic distortions. Its targets need no human rating: the natural-scene statistics of the result,
its full-reference similarity to the crop before the damage, and which distortions were applied and
how strongly. Chunks are written one by one and are a function of their number alone, so generation
can be stopped, resumed and shared between processes.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from trial import parse

from qmamba.datasets.distortions import DISTORTIONS, random_distortion_chain
from qmamba.evaluation.metrics.fidelity import gmsd, ssim
from qmamba.evaluation.metrics.natural_scenes import brisque_features, image_statistics
from qmamba.files import atomic_write

KINDS = tuple(DISTORTIONS)
CROP = 160
CHUNK = 1000
UNDAMAGED_SHARE = 0.15
LARGEST_SHRINK = 2.5
STATISTICS = 57
FIDELITIES = 2


@dataclass(frozen=True)
class Chunk:
    """uint8 (n, CROP, CROP, 3) and float32 (n, STATISTICS + FIDELITIES + kinds)."""

    images: NDArray[np.uint8]
    targets: NDArray[np.float32]


def source_images(data: Path) -> list[Path]:
    """Clean photographs, and the training photographs of BIQ2021 (their ratings are not read)."""
    clean = sorted((data / "clean").glob("*/*.*"))
    with open(data / "iqa" / "biq2021" / "scores.csv", newline="") as file:
        rated = [row["image"] for row in csv.DictReader(file) if row["split"] == "train"]
    return clean + [data / "iqa" / "biq2021" / "images" / name for name in rated]


def make_chunk(number: int, sources: list[Path], count: int = CHUNK) -> Chunk:
    generator = np.random.default_rng([20261121, number])
    damaged = np.empty((count, CROP, CROP, 3), np.uint8)
    original = np.empty_like(damaged)
    levels = np.zeros((count, len(KINDS)), np.float32)
    for i in range(count):
        original[i] = random_crop(sources[generator.integers(len(sources))], generator)
        damaged[i] = original[i]
        if generator.random() >= UNDAMAGED_SHARE:
            damaged[i], chain = random_distortion_chain(original[i], generator, max_length=2)
            for name, level in chain:
                levels[i, KINDS.index(name)] = level / 5
    measured = []
    for start in range(0, count, 50):
        batch = slice(start, start + 50)
        images, before = (
            torch.from_numpy(p[batch]).permute(0, 3, 1, 2).float() / 255
            for p in (damaged, original)
        )
        measured.append(
            torch.cat(
                [
                    brisque_features(images),
                    image_statistics(images),
                    ssim(images, before)[:, None],
                    gmsd(images, before)[:, None],
                ],
                dim=1,
            )
        )
    targets = np.concatenate([torch.cat(measured).numpy(), levels], axis=1)
    return Chunk(damaged, targets.astype(np.float32))


def random_crop(path: Path, generator: np.random.Generator) -> NDArray[np.uint8]:
    """A square of random place and size, shrunk to CROP and perhaps mirrored."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    shortest = min(image.size)
    side = int(min(shortest, CROP * generator.uniform(1, LARGEST_SHRINK)))
    left = int(generator.integers(image.width - side + 1))
    top = int(generator.integers(image.height - side + 1))
    square = image.resize(
        (CROP, CROP), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side)
    )
    pixels = np.asarray(square)
    return np.ascontiguousarray(pixels[:, ::-1] if generator.random() < 0.5 else pixels)


def write_chunks(data: Path, folder: Path, numbers: range, count: int = CHUNK) -> None:
    sources = source_images(data)
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        path = folder / f"chunk_{number:03d}.npz"
        if path.exists():
            continue
        chunk = make_chunk(number, sources, count)
        with atomic_write(path, "wb") as file:
            np.savez(file, images=chunk.images, targets=chunk.targets)
        print(f"wrote {path}", flush=True)


def read_chunks(folder: Path) -> Chunk:
    images, targets = [], []
    for path in sorted(folder.glob("chunk_*.npz")):
        with np.load(path) as arrays:
            images.append(arrays["images"])
            targets.append(arrays["targets"])
    return Chunk(np.concatenate(images), np.concatenate(targets))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with clean/ and iqa/")
    parser.add_argument("--out", type=Path, required=True, help="where the chunks go")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--chunks", type=int, default=24)
    parser.add_argument("--samples", type=int, default=CHUNK, help="of a chunk")
    arguments = parse(parser, "--data {data} --out {out} --chunks 1 --samples 20")
    torch.set_num_threads(1)
    numbers = range(arguments.first, arguments.first + arguments.chunks)
    write_chunks(arguments.data, arguments.out, numbers, arguments.samples)


if __name__ == "__main__":
    main()
