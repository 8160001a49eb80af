"""A restoration network right after its quantizers have started: PSNR without any training.

Every method stands in the same places. The quantizers start from crops of a folder of images, and
`official`, in addition, is Q-MambaIR as its code computes it.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.examples import cropped_examples
from benchmarks.measure import write
from benchmarks.prepared_agreement import NETWORK
from qmamba.checkpoints import load
from qmamba.datasets.clean.images import find_clean_images, read_clean
from qmamba.datasets.clean.test_sets import find_restoration_set
from qmamba.evaluation.restoration.benchmark import evaluate_set
from qmamba.models import MambaIR
from qmamba.quantization import QuantConfig, calibrate, dequantized, quantize_
from qmamba.restore.degradations import Degradation

CROP = 96
METHODS: dict[str, dict[str, Any]] = {
    "DLS + RFA": {},
    "DLS + RFA, frozen": {"statistics": "frozen"},
    "official": {"compat": True},
    "DLS, weights exact": {"weight_bits": None},
    "RFA, activations exact": {"activation_bits": None},
    **{
        name: {"weight": name, "activation": name}
        for name in ("lsq+", "lsq", "quantsr", "pams", "dorefa", "minmax")
    },
}


def crops(folder: Path, degradation: Degradation, count: int) -> Iterator[Tensor]:
    """Degraded crops ``(1, channels, side, side)`` from the middle of evenly chosen images."""
    images = find_clean_images([folder])
    for image in images[:: max(1, len(images) // count)][:count]:
        pixels = degradation.clean(read_clean(image.path))
        top, left = ((side - CROP) // 2 for side in pixels.shape[:2])
        if min(top, left) >= 0:
            crop = degradation.benchmark(pixels[top : top + CROP, left : left + CROP])
            yield torch.from_numpy(crop).permute(2, 0, 1)[None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", help="a super-resolution model")
    parser.add_argument("--calibration", type=Path, help="folder of images")
    parser.add_argument("--test", type=Path, help="folder of test images")
    parser.add_argument("--count", type=int, default=16, help="crops to start from")
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 4, 3, 2])
    parser.add_argument("-o", "--out", type=Path, help="JSON file to write besides")
    parser.add_argument("--quick", action="store_true", help="the examples at 4 bits: does it run?")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.quick:
        arguments.count, arguments.bits = 2, [4]
        with cropped_examples() as folder:
            arguments.calibration = arguments.test = folder
            measure(parser, arguments)
    elif arguments.weights and arguments.calibration and arguments.test:
        measure(parser, arguments)
    else:
        parser.error("--weights, --calibration and --test are needed")


def measure(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """All methods at all numbers of bits."""
    model = load(arguments.weights) if arguments.weights else dequantized(load(NETWORK))
    assert isinstance(model, MambaIR)
    degradation = Degradation("sr", scale=model.config.scale)
    batch = torch.cat(list(crops(arguments.calibration, degradation, arguments.count)))
    test_set = find_restoration_set(str(arguments.test), arguments.test)
    if test_set is None:
        parser.error(f"there are no images in {arguments.test}")

    def mean_psnr(network: MambaIR) -> float:
        return evaluate_set(network.eval(), test_set, degradation).mean.psnr

    rows = [{"method": "full precision", "32": mean_psnr(model)}]
    print(f"full precision {rows[0]['32']:.2f} dB", flush=True)
    for method, options in METHODS.items():
        row: dict[str, Any] = {"method": method}
        for bits in arguments.bits:
            settings = {"weight_bits": bits, "activation_bits": bits, **options}
            network = quantize_(copy.deepcopy(model), QuantConfig(**settings))
            row[str(bits)] = mean_psnr(calibrate(network, [batch]))
        rows.append(row)
        values = (f"{row[str(bits)]:.2f}" for bits in arguments.bits)
        print(f"| {method} | " + " | ".join(values) + " |", flush=True)
    if arguments.out is not None:
        write(arguments.out, {"crops": len(batch), "rows": rows})


if __name__ == "__main__":
    main()
