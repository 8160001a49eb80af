"""How far a prepared network is from the fake-quantized one, and that one from itself.

The embedded network of 4 bits, and its weights quantized once more to 2, 3, 4 and 8 bits, restore
crops of the two photographs in `examples/`. Compared by peak signal-to-noise ratio with the
fake-quantized network in float32 are: the prepared network, the fake-quantized one in float64, the
same with an input that differs by one part in ten million, and full precision.

    python -m benchmarks.prepared_agreement -o benchmarks/results/prepared_agreement.json
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import write
from qmamba.checkpoints import load, save_quantized
from qmamba.evaluation.metrics.fidelity import psnr
from qmamba.images import read_image, to_tensor
from qmamba.inference import prepare
from qmamba.models import ModelMetadata, Network
from qmamba.quantization import QuantConfig, calibrate, dequantized, quantize_

HERE = Path(__file__).parent

NETWORK = "mambair-nano-x2-w4a4"
BITS = (2, 3, 4, 8)
CROPS = ((0, 0, 63, 77), (40, 60, 96, 128))
"""Top, left, height and width in each photograph."""


def photographs() -> list[Tensor]:
    """``(1, 3, height, width)`` each."""
    images = [
        to_tensor(read_image(HERE.parent / "examples" / name).pixels)
        for name in ("cat.jpg", "coffee_small.png")
    ]
    return [
        image[None, :, top : top + height, left : left + width]
        for image in images
        for top, left, height, width in CROPS
    ]


def decibels(actual: Tensor, expected: Tensor) -> float:
    """PSNR of one image ``(..., 3, height, width)`` cut to [0, 1]."""
    first, second = (
        each.double().clamp(0, 1).view(1, *each.shape[-3:]) for each in (actual, expected)
    )
    return float(psnr(first, second))


def compared(label: str, model: Any, full: Network | None, images: list[Tensor]) -> Any:
    """The least and the greatest ratio over all images, for each comparison."""
    network, double = prepare(model, "codes"), copy.deepcopy(model).double()
    generator = torch.Generator().manual_seed(0)
    found: dict[str, list[float]] = {}
    for x in images:
        noise = 1 + 1e-7 * torch.randn(x.shape, generator=generator)
        expected = model(x)
        others = {
            "prepared": network(x),
            "float64": double(x.double()),
            "changed input": model(x * noise),
        }
        if full is not None:
            others["full precision"] = full(x)
        for name, other in others.items():
            found.setdefault(name, []).append(decibels(other, expected))
    row = {name: [min(values), max(values)] for name, values in found.items()}
    print(label, row, flush=True)
    return {"bits": label, **row}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("-o", "--out", type=Path, help="JSON file to write")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="4 bits alone: does it run?")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    images = photographs()
    embedded = load(NETWORK)
    full = dequantized(embedded)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        rows = [compared("4, trained", embedded, None, images)]
        for bits in (4,) if arguments.quick else BITS:
            model: Any = quantize_(copy.deepcopy(full), QuantConfig(bits, bits, step="ptq"))
            calibrate(model, images)
            path = Path(folder) / "m.safetensors"
            save_quantized(model, path, ModelMetadata(name="m"), rest="fp32")
            rows.append(compared(str(bits), load(path), full, images))
    if arguments.out is not None:
        write(arguments.out, {"rows": rows})


if __name__ == "__main__":
    main()
