"""Sizes of packed files of the published networks, random weights.

    python -m benchmarks.packed_size -o benchmarks/results/packed_size.json

writes every network at 8, 4 and 2 bits, with the rest in float32 and in float16, and puts down the
bytes of each file and of its parts; a minute or two.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import write
from qmamba.checkpoints.packed_file import REST_DTYPES, packed_parts, save_quantized
from qmamba.models import ModelMetadata, count_parameters, create_model, model_config
from qmamba.quantization import QuantConfig, quantize_, quantizers

NETWORKS = (
    *(f"mambair-light-x{scale}" for scale in (2, 3, 4)),
    *(f"mambair-classic-x{scale}" for scale in (2, 3, 4)),
    "mambair-denoise-color",
    "mambair-jpeg",
    "mambair-nano-x2",
    "qmamba-nano",
    "qmamba-tiny",
)
BITS = (8, 4, 2)


def sizes(name: str, folder: Path) -> list[dict[str, Any]]:
    """A row for each width and precision of the rest."""
    rows: list[dict[str, Any]] = []
    full = 4 * count_parameters(model_config(name))
    for bits in BITS:
        torch.manual_seed(0)
        model = create_model(name)
        # Range quantizers for weights start at once; grids of the same shape are as large.
        quantize_(model, QuantConfig(bits, bits, step="ptq", weight="minmax"))
        for _, quantizer in quantizers(model):
            quantizer.initialized.fill_(True)
        metadata = ModelMetadata(name=name, architecture=model.config.architecture)
        for rest in REST_DTYPES:
            path = folder / f"{name}.safetensors"
            save_quantized(model, path, metadata, rest=rest)
            row = {"model": name, "bits": bits, "rest": rest, "full_bytes": full}
            rows.append({**row, "file_bytes": path.stat().st_size, "parts": packed_parts(path)})
            print(f"{name} W{bits} {rest}: {path.stat().st_size / 1024:.1f} KiB", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("-o", "--out", type=Path, help="JSON file to write")
    parser.add_argument("--models", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--quick", action="store_true", help="the smallest network: does it run?")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.models = ["mambair-nano-x2"]
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for name in arguments.models for row in sizes(name, Path(folder))]
    if arguments.out is not None:
        write(arguments.out, {"rows": rows})


if __name__ == "__main__":
    main()
