"""The embedded 4-bit networks on their codes and on the values of those: what changes in an image.

Photographs of `examples/` are degraded as each network was trained for and restored in the
precisions that a quantized network can have. Printed are the mean PSNR with the original, and the
least and the greatest PSNR between the codes and each other precision.

    python -m benchmarks.codes_or_values -o benchmarks/results/codes_or_values.json
    python -m benchmarks.quantized_page
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.measure import write
from benchmarks.prepared_agreement import decibels
from qmamba.checkpoints import load
from qmamba.inference import Precision, prepare
from qmamba.models import RestorationConfig

EXAMPLES = Path(__file__).parent.parent / "examples"
PHOTOGRAPHS = ("cat.jpg", "coffee.jpg", "coffee_small.png")
NETWORKS = tuple(f"mambair-nano-{task}-w4a4" for task in ("x2", "x4", "denoise", "jpeg"))
PRECISIONS: tuple[Precision, ...] = ("codes", "fp32", "bf16", "int8")
_SIDE = 240
_SIGMA, _QUALITY = 25, 20


def pair(path: Path, config: RestorationConfig) -> tuple[Tensor, Tensor]:
    """A degraded and an original image, ``(1, channels, height, width)`` in [0, 1]."""
    image = Image.open(path).convert("RGB" if config.channels == 3 else "L")
    width, height = (min(side, _SIDE) // 8 * 8 for side in image.size)
    image = image.crop((0, 0, width, height))
    original = as_tensor(image)
    if config.task == "denoise":
        noise = torch.randn(original.shape, generator=torch.Generator().manual_seed(0))
        return (original + noise * _SIGMA / 255).clamp(0, 1), original
    if config.task == "jpeg":
        compressed = io.BytesIO()
        image.save(compressed, "JPEG", quality=_QUALITY)
        return as_tensor(Image.open(compressed)), original
    size = (image.width // config.scale, image.height // config.scale)
    return as_tensor(image.resize(size, Image.Resampling.BICUBIC)), original


def as_tensor(image: Image.Image) -> Tensor:
    samples = torch.from_numpy(np.array(image)).float() / 255
    return samples.reshape(image.height, image.width, -1).permute(2, 0, 1)[None]


def compared(name: str) -> dict[str, Any]:
    """The row of one network."""
    model = load(name)
    config = model.config
    assert isinstance(config, RestorationConfig)
    runs = {precision: prepare(model, precision) for precision in PRECISIONS}
    to_original: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    to_codes: dict[str, list[float]] = {precision: [] for precision in PRECISIONS[1:]}
    for photograph in PHOTOGRAPHS:
        degraded, original = pair(EXAMPLES / photograph, config)
        restored = {precision: run(degraded) for precision, run in runs.items()}
        for precision, image in restored.items():
            to_original[precision].append(decibels(image, original))
            if precision != "codes":
                to_codes[precision].append(decibels(image, restored["codes"]))
    return {
        "model": name,
        "original": {key: sum(values) / len(values) for key, values in to_original.items()},
        "codes": {key: [min(values), max(values)] for key, values in to_codes.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("-o", "--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="one network: does it run?")
    arguments = parser.parse_args()
    rows = []
    with torch.no_grad():
        for name in NETWORKS[:1] if arguments.quick else NETWORKS:
            rows.append(compared(name))
            print(rows[-1], flush=True)
    write(arguments.out, {"rows": rows})


if __name__ == "__main__":
    main()
