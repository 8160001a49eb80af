"""Large photographs: does damage at native size lower the score, and what does size cost?

There are no large photographs in public research sets that we may use, so they are made, and this
is what they are: mosaics of photographs at their own size, sharp at native size like a good camera,
and bicubic enlargements by 4, which are soft at native size like a phone's zoom. Damage is done to
the whole at native size. For every kind the table says how the score falls with the level, beside
what the image scaled down to 512 alone would say (``whole``).

The second part scores noise-free images of 224 pixels to 100 megapixels from JPEG files, with the
time and the peak of memory of one call. Linux only.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.examples import EXAMPLES
from benchmarks.measure import write
from benchmarks.memory import growth
from benchmarks.trust import LEVELS, damaged, enlarged, read_photographs
from qmamba.assess import Scorer
from qmamba.datasets.distortions import Pixels
from qmamba.evaluation.metrics.correlation import srcc

KINDS = ("white_noise", "sensor_noise", "jpeg", "webp", "gaussian_blur", "downscale")
COLUMNS, ROWS = 3, 4
SIZES = ((224, 224), (512, 512), (1024, 1024), (2048, 1536), (6000, 4000), (12240, 8160))


def mosaic(photographs: list[Pixels]) -> Pixels:
    """Photographs side by side at their own size, turned and cut to one shape."""
    lying = [p if p.shape[1] >= p.shape[0] else np.rot90(p) for p in photographs]
    height, width = (min(p.shape[axis] for p in lying) for axis in (0, 1))
    cut = [p[:height, :width] for p in lying]
    rows = [np.concatenate(cut[r * COLUMNS : (r + 1) * COLUMNS], axis=1) for r in range(ROWS)]
    return np.ascontiguousarray(np.concatenate(rows))


def ladders(scorer: Scorer, images: list[Pixels], kind: str) -> dict[str, Any]:
    """How the scores of images fall with the level of one kind of damage at native size."""
    results = [
        [scorer(damaged(image, kind, level, seed)) for level in LEVELS]
        for seed, image in enumerate(images)
    ]

    def figures(values: NDArray[np.float64]) -> dict[str, Any]:
        return {
            "spearman": float(np.mean([srcc(-ladder, list(LEVELS)) for ladder in values])),
            "strictly_falling": float(np.mean((np.diff(values, axis=1) < 0).all(axis=1))),
            "first_level_above": float(np.mean(values[:, 1] > values[:, 0])),
            "largest_rise": float(np.diff(values, axis=1).max()),
            "mean": values.mean(axis=0).round(4).tolist(),
        }

    native = np.array([[score.native for score in ladder] for ladder in results], dtype=float)
    return {
        "score": figures(np.array([[score.raw for score in ladder] for ladder in results])),
        "whole": figures(np.array([[score.whole for score in ladder] for ladder in results])),
        "native": native.mean(axis=0).round(4).tolist(),
    }


def size_costs(scorer: Scorer, photograph: Pixels) -> list[dict[str, Any]]:
    rows = []
    for width, height in SIZES:
        large = Image.fromarray(photograph).resize((width, height), Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        large.save(stream, "JPEG", quality=92)
        del large
        content = stream.getvalue()
        seconds: list[float] = []

        def run(content: bytes = content, seconds: list[float] = seconds) -> None:
            started = perf_counter()
            scorer(content)
            seconds.append(perf_counter() - started)

        run()
        memory = growth(run)
        row = {"width": width, "height": height, "seconds": min(seconds), "peak_bytes": memory}
        print(f"{width} x {height}: {min(seconds):.2f} s, {memory / 1e6:.0f} MB", flush=True)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photographs", type=Path, help="folder of clean ones")
    parser.add_argument("--count", type=int, default=4, help="mosaics, and enlargements")
    parser.add_argument(
        "--kinds", nargs="+", default=KINDS, choices=KINDS, help="of damage; all without it"
    )
    parser.add_argument("--model", help="weights; without it the default")
    parser.add_argument("--no-sizes", action="store_true", help="leave out time and memory")
    parser.add_argument("-o", "--out", type=Path, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="one small mosaic: does it run?")
    arguments = parser.parse_args()
    kinds: Sequence[str] = arguments.kinds
    if arguments.quick:
        arguments.photographs, arguments.count, arguments.no_sizes = EXAMPLES, 1, True
        kinds = KINDS[:1]
    if arguments.photographs is None:
        parser.error("--photographs is needed")
    scorer = Scorer.from_pretrained(arguments.model)
    photographs = read_photographs(arguments.photographs, 24)
    random = np.random.default_rng(0)
    tiles = np.resize(np.arange(len(photographs)), max(len(photographs), COLUMNS * ROWS))
    sets = {
        "mosaics": [
            mosaic([photographs[i] for i in random.permutation(tiles)[: COLUMNS * ROWS]])
            for _ in range(arguments.count)
        ],
        "enlargements": [enlarged(p, 4) for p in photographs[: arguments.count]],
    }
    report: dict[str, Any] = {
        "model": scorer.metadata.name,
        "sha256": scorer.metadata.sha256,
        "policy": str(scorer.policy),
    }
    for name, images in sets.items():
        report[name] = {"images": len(images), "size": list(images[0].shape[:2])}
        for kind in kinds:
            found = report[name][kind] = ladders(scorer, images, kind)
            for key in ("score", "whole"):
                row = found[key]
                print(
                    f"{name:12} {kind:13} {key:5} Spearman {row['spearman']:.3f}, first level "
                    f"above {row['first_level_above']:.0%}, strictly falling "
                    f"{row['strictly_falling']:.0%}, largest rise {row['largest_rise']:+.3f}, "
                    f"{row['mean']}",
                    flush=True,
                )
    if not arguments.no_sizes:
        report["sizes"] = size_costs(scorer, photographs[0])
    if arguments.out is not None:
        write(arguments.out, report)


if __name__ == "__main__":
    main()
