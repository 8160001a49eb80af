"""What `branch.py` learns from: the backbone's features and the statistics of crops, kept in files.

The backbone is fixed, so each crop goes through it once. A chunk depends on its part and number
alone, is written when it is complete, and is not computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from damage import (
    KINDS,
    TECHNICAL,
    Ladder,
    damaged,
    share_of_the_way,
    to_batch,
    without_content,
)
from PIL import Image
from torch import Tensor

from qmamba.datasets.distortions import Pixels
from qmamba.files import atomic_write
from qmamba.images import crop_grid, normalize
from qmamba.nn.image_statistics import image_statistics
from qmamba.restore.degradations import jpeg

CROP = 224
LADDERS, LEVELS = 4, 3
"""Kinds of damage of a photograph in training, and levels of each."""
CROPS = 2
"""Crops of a photograph in training."""
RATED, EMPTY = 100, 240
"""Images in a chunk of rated photographs and of images that show nothing."""
SAVED, SHRUNK = 0.25, 0.5
"""Probabilities that a ladder is saved as JPEG after the damage, and that it is scaled down."""
SMALLEST = 0.2
"""Least factor of that: large photographs are looked at small."""

FREQUENT = {
    **dict.fromkeys(("lower_contrast", "overexposure", "underexposure", "jpeg"), 3.0),
    "haze": 2.5,
    **dict.fromkeys(("darken", "gaussian_blur", "downscale"), 1.5),
    **dict.fromkeys(("webp", "white_noise"), 1.2),
    **dict.fromkeys(("brighten", "motion_blur", "sensor_noise", "impulse_noise"), 1.0),
    **dict.fromkeys(("quantization", "saturation_hsv", "saturation_lab", "jpeg2000"), 0.8),
}
"""How much oftener than the others, which have 0.4, a kind is drawn."""

JUDGED = (
    *("gaussian_blur", "motion_blur", "white_noise", "sensor_noise", "impulse_noise", "jpeg"),
    *("downscale", "overexposure", "underexposure", "lower_contrast", "haze", "quantization"),
    *("saturation_hsv", "saturation_lab", "color_shift", "webp"),
)
"""Kinds that are looked at on the photographs set aside, each at levels 1 to 5."""


class Ladders(NamedTuple):
    """Photographs at rising levels of some kinds of damage; the undamaged one is image 0."""

    features: Tensor
    """float16 (photographs, 1 + kinds * levels, crops, channels)."""
    statistics: Tensor
    """(photographs, 1 + kinds * levels, crops, STATISTICS)."""
    kinds: list[tuple[str, ...]]
    """Of each photograph."""
    levels: Tensor
    """(photographs, kinds, levels) in 1..5."""
    shares: Tensor
    """How far each is on the way to the worst there is, of the same shape."""


class Crops(NamedTuple):
    """Photographs without damage, or images that show nothing."""

    features: Tensor
    """float16 (images, crops, channels)."""
    statistics: Tensor
    ratings: Tensor
    """(images,), in deviations from the mean; 0 where there are none."""


class Looked(NamedTuple):
    """What is known of crops."""

    features: Tensor
    statistics: Tensor


class Collector:
    """Features and statistics in chunks.

    Args:
        backbone: normalized images (batch, 3, CROP, CROP) to features (batch, channels).
        folder: where the chunks are.
        contents: photographs in a chunk of ladders.
    """

    def __init__(self, backbone: Callable[[Tensor], Tensor], folder: Path, contents: int) -> None:
        self._backbone, self._folder, self._contents = backbone, folder, contents
        folder.mkdir(parents=True, exist_ok=True)

    def ladders(self, number: int, photographs: list[Path]) -> Ladders:
        """Chunk of this number of damaged photographs to learn from."""

        def compute() -> Ladders:
            random = np.random.default_rng([number, 1])
            found = []
            for index in random.integers(len(photographs), size=self._contents):
                kinds = _some_kinds(random)
                levels = np.sort(random.uniform(1.0, 5.0, (LADDERS, LEVELS)), axis=1)
                levels[:, 0] = np.minimum(levels[:, 0], random.uniform(1.0, 1.5, LADDERS))
                image = _scaled(photographs[index], random)
                found.append(self._ladder(image, kinds, levels, random, CROPS, varied=True))
            return joined(found)

        return self._kept(f"ladders_{number:04d}", Ladders, compute)

    def all_ladders(self) -> Ladders:
        """All chunks of ladders that are there."""
        paths = sorted(self._folder.glob("ladders_*.pt"))
        return joined([Ladders(**torch.load(path, weights_only=True)) for path in paths])

    def judged(self, number: int, photograph: Path) -> Ladders:
        """A photograph set aside at all levels of :data:`JUDGED`, as people would look at it."""

        def compute() -> Ladders:
            image = np.asarray(Image.open(photograph).convert("RGB"))
            levels = np.tile(np.arange(1.0, 6.0), (len(JUDGED), 1))
            random = np.random.default_rng([number, 2])
            return joined([self._ladder(image, JUDGED, levels, random, 3, varied=False)])

        return self._kept(f"judged_{number:04d}", Ladders, compute)

    def rated(self, number: int, images: Sequence[tuple[Path, float]], part: str) -> Crops:
        """Chunk of this number of rated photographs: random crops of ``train``, fixed of others."""

        def compute() -> Crops:
            random = np.random.default_rng([number, 3])
            looked = []
            for path, _ in images[number * RATED : (number + 1) * RATED]:
                pixels = np.asarray(Image.open(path).convert("RGB"))
                if part == "train":
                    places = _random_places(pixels, CROPS, random)
                else:
                    places = crop_grid(pixels.shape[0], pixels.shape[1], CROP, 5)
                looked.append(self._look(_cut(pixels, places)))
            ratings = [rating for _, rating in images[number * RATED : (number + 1) * RATED]]
            return Crops(
                torch.stack([entry.features for entry in looked]),
                torch.stack([entry.statistics for entry in looked]),
                torch.tensor(ratings),
            )

        return self._kept(f"{part}_{number:04d}", Crops, compute)

    def empty(self) -> Crops:
        """Images that show nothing."""

        def compute() -> Crops:
            random = np.random.default_rng([0, 4])
            looked = self._look([without_content(CROP, random) for _ in range(EMPTY)])
            return Crops(looked.features[:, None], looked.statistics[:, None], torch.zeros(EMPTY))

        return self._kept("empty_0000", Crops, compute)

    def _ladder(
        self,
        image: Pixels,
        kinds: Sequence[str],
        levels: np.ndarray,
        random: np.random.Generator,
        crops: int,
        *,
        varied: bool,
    ) -> Ladders:
        """One photograph; ``varied``: sometimes saved or scaled down after the damage."""
        quality = int(random.integers(70, 97)) if varied and random.random() < SAVED else None
        factor = 1.0
        if varied and random.random() < SHRUNK:
            # As large as what people take and then look at small.
            for _ in range(int(random.integers(1, 3))):
                image = _mirrored(image)
            least, half = CROP / min(image.shape[:2]), min(image.shape[:2]) / 1024
            factor = float(random.uniform(max(least, SMALLEST), min(0.9, 0.9 / half)))
        seed = int(random.integers(2**31))

        def finished(pixels: Pixels, kind: str) -> Pixels:
            if quality is not None and TECHNICAL.get(kind) != "compression":
                pixels = jpeg(pixels, quality)
            return pixels if factor == 1.0 else _resized(pixels, factor)

        places: list[tuple[int, int]] = []
        looked: list[Looked] = []
        shares = []
        for kind, values in zip(kinds, levels, strict=True):
            stages = [finished(image, kind)] + [
                finished(damaged(image, kind, level, np.random.default_rng(seed)), kind)
                for level in values
            ]
            places = places or (
                _random_places(stages[0], crops, random)
                if varied
                else crop_grid(stages[0].shape[0], stages[0].shape[1], CROP, crops)
            )
            cut = [_cut(stage, places) for stage in stages]
            # Scaling down hides what the level alone would promise.
            level = [0.0, *(1 + (value - 1) * factor for value in values)]
            shares.append(share_of_the_way(Ladder([c[0] for c in cut], kind, level))[1:])
            looked += [self._look(entry) for entry in (cut[1:] if looked else cut)]
        return Ladders(
            torch.stack([entry.features for entry in looked])[None],
            torch.stack([entry.statistics for entry in looked])[None],
            [tuple(kinds)],
            torch.tensor(levels, dtype=torch.float32)[None],
            torch.stack(shares)[None],
        )

    @torch.no_grad()
    def _look(self, crops: list[Pixels]) -> Looked:
        images = to_batch(crops)
        return Looked(self._backbone(normalize(images)).half(), image_statistics(images))

    def _kept(self, name: str, form: type, compute: Callable[[], NamedTuple]):  # type: ignore[no-untyped-def]
        path = self._folder / f"{name}.pt"
        if not path.exists():
            result = compute()
            with atomic_write(path) as file:
                torch.save(result._asdict(), file)
            print(name, flush=True)
            return result
        return form(**torch.load(path, weights_only=True))


def joined(parts: Sequence[Ladders]) -> Ladders:
    """All of them as one."""
    return Ladders(
        torch.cat([part.features for part in parts]),
        torch.cat([part.statistics for part in parts]),
        [kinds for part in parts for kinds in part.kinds],
        torch.cat([part.levels for part in parts]),
        torch.cat([part.shares for part in parts]),
    )


def _some_kinds(random: np.random.Generator) -> list[str]:
    weights = np.array([FREQUENT.get(kind, 0.4) for kind in KINDS])
    return [KINDS[i] for i in random.choice(len(KINDS), LADDERS, False, weights / weights.sum())]


def _scaled(path: Path, random: np.random.Generator) -> Pixels:
    """A photograph, often scaled down first, which hides the traces of its own JPEG."""
    image = Image.open(path).convert("RGB")
    pixels = np.asarray(image)
    least = (CROP + 8) / min(image.size)
    if least < 0.95 and random.random() < 0.5:
        pixels = _resized(pixels, float(random.uniform(max(least, 0.5), 1.0)))
    return np.ascontiguousarray(pixels[:, ::-1] if random.random() < 0.5 else pixels)


def _mirrored(pixels: Pixels) -> Pixels:
    """Twice as large each way: the image and its mirror images."""
    wide = np.concatenate([pixels, pixels[:, ::-1]], 1)
    return np.ascontiguousarray(np.concatenate([wide, wide[::-1]], 0))


def _resized(pixels: Pixels, factor: float) -> Pixels:
    height, width = (max(CROP, round(factor * side)) for side in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def _random_places(
    pixels: Pixels, count: int, random: np.random.Generator
) -> list[tuple[int, int]]:
    height, width = pixels.shape[:2]
    return [
        (int(random.integers(height - CROP + 1)), int(random.integers(width - CROP + 1)))
        for _ in range(count)
    ]


def _cut(pixels: Pixels, places: Sequence[tuple[int, int]]) -> list[Pixels]:
    return [
        np.ascontiguousarray(pixels[top : top + CROP, left : left + CROP]) for top, left in places
    ]
