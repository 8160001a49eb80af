"""Do the reasons name the flaws of an image, and no others? Also in files saved as JPEG.

Of undamaged photographs that are damaged in known steps:

- the damage that each reason names: its severity at five levels, the area under the curve (AUC)
  that tells level 3 from undamaged, and which reasons are lit (0.5 and above) then;
- white noise of a deviation of 5 to 50 (of 255) that was saved as JPEG of quality 50 to 95:
  severity of the noise, AUC against the same photographs saved the same way without it;
- photographs without noise, also softened, darkened and enlarged ones, saved as JPEG: how often the
  noise is lit.

Of rated photographs: how often each reason is lit, as they are and saved as JPEG once more.

Nothing is trained or chosen here. The reasons are of the weights that come with the package.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.examples import cropped_examples, rated_examples
from benchmarks.measure import write
from benchmarks.trust import (
    LEVELS,
    REASON_OF,
    auc,
    damaged,
    enlarged,
    read_photographs,
    read_ratings,
)
from qmamba.assess.native.heads import NATIVE_CROPS, NATIVE_SIDE
from qmamba.assess.native.reasons import SLIGHT, VISIBLE, find_reasons
from qmamba.assess.policies import CropsPolicy
from qmamba.assess.views import tensor_views
from qmamba.datasets.distortions import Pixels
from qmamba.images import to_tensor
from qmamba.restore.degradations import jpeg

SIGMAS = (5, 10, 15, 25, 50)
QUALITIES = (50, 65, 75, 85, 95)
CHROMAS = {"4:2:0": 2, "4:4:4": 0}
"""How colors are saved, with Pillow's numbers."""

CLEAN: dict[str, Callable[[Pixels, int], Pixels]] = {
    "as they are": lambda photograph, seed: photograph,
    "softened": lambda photograph, seed: damaged(photograph, "gaussian_blur", 3, seed),
    "darkened": lambda photograph, seed: damaged(photograph, "underexposure", 3, seed),
    "enlarged": lambda photograph, seed: enlarged(photograph, 2),
}
"""Photographs without noise; the second argument is the number of the photograph."""

Severities = dict[str, float]


def severities(image: Pixels) -> Severities:
    """The reasons of an image, from the same crops as `qmamba score --reasons`."""
    policy = CropsPolicy(size=NATIVE_SIDE, count=NATIVE_CROPS)
    return asdict(find_reasons(tensor_views(to_tensor(image), policy).views))


def saved(image: Pixels, quality: int, chroma: str) -> Pixels:
    return jpeg(image, quality, subsampling=CHROMAS[chroma])


def noisy(photograph: Pixels, sigma: float, seed: int) -> Pixels:
    noise = np.random.default_rng(seed).standard_normal(photograph.shape)
    return np.clip(np.rint(photograph + sigma * noise), 0, 255).astype(np.uint8)


def lit(found: list[Severities], least: float = VISIBLE) -> Severities:
    """Share of the images in which each reason is at least so severe."""
    return {name: float(np.mean([each[name] >= least for each in found])) for name in found[0]}


def levels_report(photographs: list[Pixels]) -> dict[str, Any]:
    """Every kind of damage by the reason that names it, and what is lit at level 3."""
    undamaged = [severities(photograph) for photograph in photographs]
    rows: dict[str, Any] = {"undamaged": {"lit": lit(undamaged), "slight": lit(undamaged, SLIGHT)}}
    for kind, name in REASON_OF.items():
        ladders = [
            [severities(damaged(photograph, kind, level, seed)) for level in LEVELS[1:]]
            for seed, photograph in enumerate(photographs)
        ]
        third = [ladder[2] for ladder in ladders]
        rows[kind] = {
            "reason": name,
            "severity": np.mean([[v[name] for v in ladder] for ladder in ladders], 0).tolist(),
            "auc": auc([v[name] for v in undamaged], [v[name] for v in third]),
            "lit": lit(third),
        }
        print(kind, name, np.round(rows[kind]["severity"], 2), f"AUC {rows[kind]['auc']:.3f}")
    return rows


def saved_report(photographs: list[Pixels]) -> list[dict[str, Any]]:
    """Noise, and none, in photographs that were saved as JPEG."""
    rows: list[dict[str, Any]] = []
    for chroma in CHROMAS:
        for quality in QUALITIES:
            found = {
                sigma: [
                    severities(saved(noisy(photograph, sigma, seed), quality, chroma))
                    for seed, photograph in enumerate(photographs)
                ]
                for sigma in (0, *SIGMAS)
            }
            for sigma, images in found.items():
                noise = [image["noise"] for image in images]
                row: dict[str, Any] = {
                    "chroma": chroma,
                    "quality": quality,
                    "sigma": sigma,
                    "noise": float(np.mean(noise)),
                    "compression": float(np.mean([image["compression"] for image in images])),
                    "auc": auc([image["noise"] for image in found[0]], noise) if sigma else None,
                    "lit": lit(images),
                    "slight": lit(images, SLIGHT),
                }
                rows.append(row)
                print(
                    f"{chroma} quality {quality} sigma {sigma:2}: noise {row['noise']:.2f}, "
                    f"lit in {row['lit']['noise']:.0%}, slight in {row['slight']['noise']:.0%}, "
                    f"compression {row['compression']:.2f}, AUC {row['auc']}",
                    flush=True,
                )
    return rows


def clean_report(photographs: list[Pixels]) -> dict[str, Any]:
    """What is lit in photographs without noise that were saved as JPEG, all qualities together."""
    rows = {}
    for name, prepare in CLEAN.items():
        found = [
            severities(saved(prepare(photograph, seed), quality, chroma))
            for seed, photograph in enumerate(photographs)
            for quality in QUALITIES
            for chroma in CHROMAS
        ]
        rows[name] = {"images": len(found), "lit": lit(found), "slight": lit(found, SLIGHT)}
        print("clean, saved,", name, rows[name], flush=True)
    return rows


def rated_report(folder: Path, split: str, limit: int | None) -> dict[str, Any]:
    """What is lit in rated photographs, in all of them and in the better half."""
    rows = read_ratings(folder, split)[:limit]
    ratings = np.array([float(row["mos"]) for row in rows])
    images = [np.array(Image.open(folder / "images" / row["image"]).convert("RGB")) for row in rows]
    report: dict[str, Any] = {"images": len(rows)}
    for name, found in (
        ("as they are", [severities(image) for image in images]),
        ("saved with quality 75", [severities(saved(image, 75, "4:2:0")) for image in images]),
    ):
        better = [
            v for v, rating in zip(found, ratings, strict=True) if rating > np.median(ratings)
        ]
        report[name] = {
            "lit": lit(found),
            "slight": lit(found, SLIGHT),
            "lit_better_half": lit(better),
        }
        print("rated,", name, report[name], flush=True)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--photographs", type=Path, help="folder of clean photographs to damage")
    parser.add_argument("--count", type=int, default=20, help="photographs taken of that folder")
    parser.add_argument("--rated", type=Path, help="folder with ratings of photographs")
    parser.add_argument("--split", default="val")
    parser.add_argument("--limit", type=int, help="rated images, the first of the split")
    parser.add_argument("-o", "--out", type=Path, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="two small crops: does it run?")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.limit = arguments.limit or 4
        with cropped_examples() as photographs, rated_examples() as rated:
            arguments.photographs = arguments.photographs or photographs
            arguments.rated = arguments.rated or rated
            measure(arguments)
    else:
        measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    """Everything that there are images for."""
    report: dict[str, Any] = {}
    if arguments.photographs is not None:
        photographs = read_photographs(arguments.photographs, arguments.count)
        report["photographs"] = len(photographs)
        report["levels"] = levels_report(photographs)
        report["saved"] = saved_report(photographs)
        report["clean_saved"] = clean_report(photographs)
    if arguments.rated is not None:
        report["rated"] = rated_report(arguments.rated, arguments.split, arguments.limit)
    if arguments.out is not None:
        write(arguments.out, report)


if __name__ == "__main__":
    main()
