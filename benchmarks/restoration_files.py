"""Restoration of files as people have them: blind denoising, color JPEG, real enlarging, no harm.

Test sets lie below --sets (Kodak24, Set5, Set14, LIVE1, BSD100). All results are cut and rounded to
8 bits and compared on all samples of red, green and blue; of enlarged images, on the video luma
without a border. `--bm3d` needs the package bm3d.

    python -m benchmarks.restoration_files --sets DATA/sr --bm3d -o restoration_files.json
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qmamba import Restorer
from qmamba.datasets.clean.images import read_clean
from qmamba.datasets.clean.test_sets import find_restoration_set
from qmamba.evaluation.restoration.protocol import judge
from qmamba.images import ImageLayers
from qmamba.restore.degradations import (
    Degradation,
    add_benchmark_noise,
    crop_to_multiple,
    enlarge,
    jpeg,
)

Pixels = NDArray[np.uint8]
Method = Callable[[NDArray[Any]], NDArray[Any]]
Rows = list[dict[str, Any]]

SIGMAS = (5, 15, 25, 50)
QUALITIES = (10, 20, 30, 50, 70, 90)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", type=Path, help="folder of the test sets")
    parser.add_argument("--quick", action="store_true", help="one small drawn image, no test set")
    parser.add_argument("--names", nargs="+", default=["Kodak24"], help="test sets to measure")
    parser.add_argument("--most", type=int, help="images of each set, the first ones by name")
    parser.add_argument("--crop", type=int, help="side of the square in the middle to measure")
    parser.add_argument("--bm3d", action="store_true", help="also measure BM3D")
    parser.add_argument("--parts", nargs="+", default=list(PARTS))
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.sets is None and not arguments.quick:
        parser.error("give the folder of the test sets with --sets")
    rows: Rows = []
    for name in ["drawn"] if arguments.quick else arguments.names:
        images = [_drawn()] if arguments.quick else _images(name, arguments.sets, arguments.most)
        if arguments.crop:
            images = [_middle(image, arguments.crop) for image in images]
        for part in arguments.parts:
            for row in PARTS[part](images, arguments.bm3d):
                rows.append({"set": name, "n": len(images), "crop": arguments.crop, **row})
                print(json.dumps(rows[-1]), flush=True)
                arguments.output.write_text(json.dumps(rows, indent=1))


def _images(name: str, sets: Path, most: int | None) -> list[Pixels]:
    found = find_restoration_set(name, sets)
    if found is None:
        raise SystemExit(f"{name} does not lie below {sets}")
    return [_color(read_clean(path)) for path in found.paths[:most]]


def _middle(pixels: Pixels, side: int) -> Pixels:
    top, left = (max(0, (length - side) // 2) for length in pixels.shape[:2])
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def _drawn() -> Pixels:
    y, x = np.mgrid[:96, :96]
    gray = 128 + 60 * np.sin(x / 9) * np.cos(y / 7)
    return np.stack([gray, gray[::-1], 255 - gray], axis=2).astype(np.uint8)


def harm(images: list[Pixels], bm3d: bool) -> Rows:
    """What clean images keep of themselves: the mean, and the worst of all."""
    rows = []
    for task in ("denoise", "jpeg"):
        results = [_restored(image, task=task) for image in images]
        kept = [_psnr(result, image) for result, image in zip(results, images, strict=True)]
        finite = [min(value, 100.0) for value in kept]
        rows.append(
            {
                "part": "harm",
                "method": _model(task=task),
                "psnr": round(float(np.mean(finite)), 2),
                "least": round(min(finite), 2),
                "below_42": sum(value < 42 for value in kept),
            }
        )
    return rows


def noise(images: list[Pixels], bm3d: bool) -> Rows:
    """Denoising of the fixed draw, cut and rounded to 8 bits, and as published results have it."""
    rows = []
    for sigma in SIGMAS:
        methods: dict[str, Method] = {
            "input": lambda noisy: noisy,
            "blind, noise measured": lambda noisy: _restored(noisy, task="denoise"),
            "blind, noise given": lambda noisy, sigma=sigma: _restored(  # type: ignore[misc]
                noisy, model="mambair-nano-denoise-blind-w4a4", sigma=sigma
            ),
        }
        if sigma == 25:
            methods["fixed"] = lambda noisy: _restored(noisy, model="mambair-nano-denoise-w4a4")
        if bm3d:
            methods["BM3D, noise given"] = lambda noisy, sigma=sigma: _bm3d(noisy, sigma)  # type: ignore[misc]
        for rounded in (True, False):
            pairs = []
            for image in images:
                noisy = add_benchmark_noise(image, sigma)
                pairs.append((_eight_bits(noisy) if rounded else noisy, image))
            for name, method in methods.items():
                figures = [_psnr(method(noisy), image) for noisy, image in pairs]
                rows.append(
                    {
                        "part": "noise",
                        "sigma": sigma,
                        "input": "8 bits" if rounded else "not rounded",
                        "method": name,
                        "psnr": round(float(np.mean(figures)), 2),
                    }
                )
    return rows


def compression(images: list[Pixels], bm3d: bool) -> Rows:
    """JPEG in color (4:2:0), as it is, cropped so that blocks begin elsewhere, and twice."""
    rows = []
    for quality in QUALITIES:
        for kind in ("aligned", "cropped", "twice"):
            pairs = []
            for image in images:
                damaged = jpeg(image, quality)
                if kind == "twice":
                    damaged[3:, 5:] = jpeg(np.ascontiguousarray(damaged[3:, 5:]), 75)
                shift = (slice(3, None), slice(5, None)) if kind != "aligned" else ()
                pairs.append((damaged[shift], image[shift]))
            methods: dict[str, Method] = {
                "input": lambda damaged: damaged,
                "color": lambda damaged: _restored(damaged, task="jpeg"),
            }
            if 10 <= quality <= 50:
                methods["luma"] = lambda damaged: _restored(damaged, model="mambair-nano-jpeg-w4a4")
            for name, method in methods.items():
                figures = [_psnr(method(damaged), image) for damaged, image in pairs]
                rows.append(
                    {
                        "part": "jpeg",
                        "quality": quality,
                        "kind": kind,
                        "method": name,
                        "psnr": round(float(np.mean(figures)), 2),
                    }
                )
    return rows


def noisy_jpeg(images: list[Pixels], bm3d: bool) -> Rows:
    """Noise that was saved as JPEG, restored as a file and as pixels that do not say so."""
    blind = "mambair-nano-denoise-blind-w4a4"
    rows = []
    for sigma in (0, 5, 10, 15, 25):
        for quality in (60, 75, 90):
            pairs = []
            for image in images:
                noisy = _eight_bits(add_benchmark_noise(image, sigma)) if sigma else image
                pairs.append((jpeg(noisy, quality), image))
            methods: dict[str, Method] = {
                "input": lambda saved: saved,
                "jpeg": lambda saved: _restored(saved, task="jpeg"),
                "denoise, noise measured": lambda saved: _restored(
                    saved, task="denoise", file="JPEG"
                ),
                "the same, pixels alone": lambda saved: _restored(saved, task="denoise"),
                "denoise, noise given": lambda saved, sigma=sigma: _restored(  # type: ignore[misc]
                    saved, model=blind, sigma=sigma
                ),
                "denoise, then jpeg": lambda saved: _restored(
                    _restored(saved, task="denoise", file="JPEG"), task="jpeg", file="JPEG"
                ),
            }
            for name, method in methods.items():
                figures = [_psnr(method(saved), image) for saved, image in pairs]
                found = {"method": name, "psnr": round(float(np.mean(figures)), 2)}
                rows.append({"part": "noisy_jpeg", "sigma": sigma, "quality": quality, **found})
    return rows


def real(images: list[Pixels], bm3d: bool) -> Rows:
    """Enlarging of small soft, noisy and compressed images: one fixed draw for each image."""
    rows = []
    for scale in (2, 3, 4):
        degradation = Degradation("sr", scale, real=True)
        pairs = []
        for index, image in enumerate(images):
            clean = crop_to_multiple(image, scale)
            small = degradation.benchmark(clean, seed=index)
            pairs.append((_eight_bits(small), clean))
        methods: dict[str, Method] = {
            "bicubic": lambda small, scale=scale: enlarge(small, scale),  # type: ignore[misc]
            "network of clean images": lambda small, scale=scale: _restored(  # type: ignore[misc]
                small, model=f"mambair-nano-x{scale}-w4a4"
            ),
            "network of real images": lambda small, scale=scale: _restored(  # type: ignore[misc]
                small, model=f"mambair-nano-x{scale}-real-w4a4"
            ),
        }
        for name, method in methods.items():
            figures = [_psnr(method(small), clean, border=scale) for small, clean in pairs]
            rows.append(
                {
                    "part": "real",
                    "scale": scale,
                    "method": name,
                    "psnr": round(float(np.mean(figures)), 2),
                }
            )
    return rows


PARTS = {
    "harm": harm,
    "noise": noise,
    "jpeg": compression,
    "noisy_jpeg": noisy_jpeg,
    "real": real,
}


def _color(pixels: Pixels) -> Pixels:
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels


@cache
def _restorer(model: str | None, task: str | None, sigma: float | None) -> Restorer:
    return Restorer.from_pretrained(model, task=task, sigma=sigma)  # type: ignore[arg-type]


def _model(**options: Any) -> str:
    restorer = _restorer(options.get("model"), options.get("task"), options.get("sigma"))
    assert restorer.metadata is not None
    return restorer.metadata.name


def _restored(
    pixels: NDArray[Any],
    *,
    model: str | None = None,
    task: str | None = None,
    sigma: float | None = None,
    file: str | None = None,
) -> NDArray[Any]:
    restorer = _restorer(model, task, sigma)
    if pixels.dtype == np.uint8:
        layers = ImageLayers(np.ascontiguousarray(pixels), format=file)
        return restorer.restore(layers).pixels
    # Noise that was not rounded stands below black and above white by more than is allowed.
    planes = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
    restored = restorer.restore_tensor(planes.clamp(-0.5, 1.5))[0]
    return restored.permute(1, 2, 0).numpy()


def _bm3d(noisy: NDArray[Any], sigma: float) -> NDArray[Any]:
    import bm3d

    unit = noisy.astype(np.float64) / (255.0 if noisy.dtype == np.uint8 else 1.0)
    return np.asarray(bm3d.bm3d_rgb(unit, sigma / 255.0), np.float32)


def _eight_bits(image: NDArray[Any]) -> Pixels:
    return np.round(np.clip(image, 0.0, 1.0) * 255.0).astype(np.uint8)


def _psnr(result: NDArray[Any], clean: Pixels, *, border: int = 0) -> float:
    unit = result.astype(np.float64) / (255.0 if result.dtype == np.uint8 else 1.0)
    planes = torch.from_numpy(np.ascontiguousarray(unit.transpose(2, 0, 1)))[None]
    found = judge(planes, clean, border=border).psnr
    return found if math.isfinite(found) else 100.0


if __name__ == "__main__":
    main()
