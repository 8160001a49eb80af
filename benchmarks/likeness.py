"""How likeness tells damaged photographs from unrelated ones, as `qmamba compare` uses it.

Each photograph is compared with itself after every kind of damage at its strongest level, and after
other changes that leave it the same image (tone, a shift, a turn, a smaller frame), and with the
others. Pairs of unrelated photographs that are above the limit go unnoticed; a changed photograph
below it is a false alarm. The folders must not hold an image twice.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from benchmarks.examples import rated_examples
from benchmarks.measure import write
from qmamba.datasets.distortions import DISTORTIONS, Pixels, distort
from qmamba.evaluation.comparison.likeness import LEAST_LIKENESS, likeness
from qmamba.images import IMAGE_SUFFIXES

STRONGEST = 5


def _shifted(image: Image.Image) -> Image.Image:
    across, down = 0.03 * image.width, 0.03 * image.height
    return image.transform(image.size, Image.Transform.AFFINE, (1, 0, across, 0, 1, down))


def _cut(image: Image.Image) -> Image.Image:
    left, top = image.width // 20, image.height // 20
    return image.crop((left, top, image.width - left, image.height - top))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "gray": lambda image: image.convert("L").convert("RGB"),
    "equalized": ImageOps.equalize,
    "shift of 3 %": _shifted,
    "frame smaller by 10 %": _cut,
    "turn of 2 degrees": lambda image: image.rotate(2, Image.Resampling.BICUBIC),
    "an eighth of the size": lambda image: image.reduce(8),
}
"""Changes that are no damage, or none of the known kinds."""


def quantiles(values: list[float], *wanted: float) -> dict[str, float]:
    """The ends and quantiles of a sample, and how much of it is below the limit."""
    array = np.array(values)
    found = {f"{share:.0%}": float(np.quantile(array, share)) for share in wanted}
    return {
        "number": len(values),
        "least": float(array.min()),
        **found,
        "most": float(array.max()),
        "below": float((array < LEAST_LIKENESS).mean()),
    }


def report(photographs: list[Pixels]) -> dict[str, Any]:
    """Likeness of every photograph to what is made of it, and to the others."""
    changed: dict[str, dict[str, float]] = {}
    for kind in DISTORTIONS:
        values = []
        for seed, photograph in enumerate(photographs):
            damaged = distort(photograph, kind, STRONGEST, np.random.default_rng(seed))
            values.append(likeness(photograph, damaged))
        changed[kind] = quantiles(values, 0.01, 0.5)
    for name, change in CHANGES.items():
        values = [
            likeness(photograph, np.asarray(change(Image.fromarray(photograph))))
            for photograph in photographs
        ]
        changed[name] = quantiles(values, 0.01, 0.5)
    unrelated = [likeness(first, second) for first, second in combinations(photographs, 2)]
    return {
        "limit": LEAST_LIKENESS,
        "photographs": len(photographs),
        "changed": dict(sorted(changed.items(), key=lambda item: item[1]["least"])),
        "unrelated": quantiles(unrelated, 0.5, 0.99),
    }


def photographs_in(folders: list[Path], most: int) -> list[Pixels]:
    """The first images of each folder."""
    found = []
    for folder in folders:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        for path in paths[:most]:
            with Image.open(path) as image:
                found.append(np.asarray(image.convert("RGB")))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folders", nargs="*", type=Path, help="folders of photographs")
    parser.add_argument("--most", type=int, default=100, help="photographs of each folder (100)")
    parser.add_argument("-o", "--out", type=Path, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="four crops of examples/ instead")
    arguments = parser.parse_args()
    if arguments.quick:
        with rated_examples() as folder:
            photographs = photographs_in([folder / "images"], 4)
    else:
        photographs = photographs_in(arguments.folders, arguments.most)
    if len(photographs) < 2:
        parser.error("give folders that hold two photographs or more")
    found = report(photographs)
    for name, row in [*found["changed"].items(), ("unrelated", found["unrelated"])]:
        print(
            f"{name:24} least {row['least']:+.2f}, median {row['50%']:+.2f}, most"
            f" {row['most']:+.2f}, below {found['limit']}: {row['below']:.2%}"
        )
    if arguments.out:
        write(arguments.out, found)


if __name__ == "__main__":
    main()
