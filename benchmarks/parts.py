"""Where the time of a prepared network goes, by kind of layer, and what its linear layers could do.

Every prepared layer is timed from outside; what is left of the whole is Python, elementwise passes
and the head. The floor is the arithmetic of the linear layers and convolutions at the speed that
one large packed product reaches here, and the scan as it is.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import write
from qmamba.inference import Precision, prepare
from qmamba.inference.layers import LayerNorm, integer_weight
from qmamba.inference.packed import PackedConv2d, PackedLinear
from qmamba.models import count_flops, create_model
from qmamba.ops.native.depthwise import DepthwiseConvolution
from qmamba.ops.native.integer import IntegerCall
from qmamba.ops.native.prepared_scan import PackedScan
from qmamba.ops.native.quantized_scan import QuantizedScan
from qmamba.quantization import QuantConfig, calibrate, quantize_
from qmamba.quantization.calibration_images import calibration_inputs

KINDS: dict[str, tuple[type, ...]] = {
    "linear": (PackedLinear,),
    "integer linear": (IntegerCall,),
    "convolution": (PackedConv2d, DepthwiseConvolution),
    "norm": (LayerNorm,),
    "scan": (PackedScan, QuantizedScan),
}
CASES: tuple[tuple[str, Precision, int, int], ...] = (
    ("qmamba-tiny", "fp32", 1, 224),
    ("qmamba-tiny", "bf16", 1, 224),
    ("qmamba-tiny", "int8", 1, 224),
    ("qmamba-tiny", "fp32", 8, 224),
    ("qmamba-tiny", "int8", 8, 224),
    ("mambair-light-x4", "fp32", 1, 64),
    ("mambair-light-x4", "bf16", 1, 64),
    ("mambair-light-x4", "int8", 1, 64),
    ("qmamba-tiny", "codes", 1, 224),
    ("mambair-light-x4", "codes", 1, 64),
    ("mambair-nano-x2", "fp32", 1, 128),
    ("mambair-nano-x2", "codes", 1, 128),
)
"""Networks, precisions (codes are those of 4 bits), images and their side."""
TRIAL: tuple[tuple[str, Precision, int, int], ...] = (
    ("qmamba-nano", "fp32", 1, 64),
    ("qmamba-nano", "int8", 2, 64),
    ("mambair-nano-x2", "bf16", 1, 32),
    ("mambair-nano-x2", "codes", 1, 32),
)
"""What ``--quick`` takes apart instead."""


def timed(kinds: dict[str, tuple[type, ...]], spent: dict[str, float]) -> Callable[[], None]:
    """Have the calls of some classes add their seconds to an account; gives the way back."""
    originals = {kind: kind.__call__ for each in kinds.values() for kind in each}

    def wrapped(label: str, call: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def run(*args: Any, **options: Any) -> Tensor:
            before = time.perf_counter()
            result = call(*args, **options)
            spent[label] += time.perf_counter() - before
            return result

        return run

    for label, each in kinds.items():
        for kind in each:
            kind.__call__ = wrapped(label, originals[kind])  # type: ignore[method-assign]

    def restore() -> None:
        for kind, call in originals.items():
            kind.__call__ = call  # type: ignore[method-assign]

    return restore


def best_rate(precision: Precision) -> float:
    """Multiply-adds per second of a large product, 1024 rows, inputs and outputs."""
    weight, x = torch.randn(1024, 1024), torch.randn(1024, 1024)
    run: Callable[[Tensor], Tensor]
    if precision in ("int8", "codes"):
        run = IntegerCall(integer_weight(weight))
    else:
        dtype = torch.float32 if precision == "fp32" else torch.bfloat16
        weight, x = weight.to(dtype), x.to(dtype)
        run = PackedLinear(weight, None, 1024)
    best = float("inf")
    for _ in range(20):
        before = time.perf_counter()
        run(x)
        best = min(best, time.perf_counter() - before)
    return 1024**3 / best


def profile(name: str, precision: Precision, batch: int, side: int, repeats: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model = create_model(name).eval()
    flops = count_flops(model, side, side)
    if precision == "codes":
        quantize_(model, QuantConfig(weight_bits=4, activation_bits=4, step="ptq"))
        calibrate(model, calibration_inputs(model, count=2))
        quantize_(model, QuantConfig(step="convert"))
    network = prepare(model, precision)
    images = torch.rand(batch, 3, side, side)
    network(images)
    spent: dict[str, float] = defaultdict(float)
    restore = timed(KINDS, spent)
    before = time.perf_counter()
    try:
        for _ in range(repeats):
            network(images)
    finally:
        restore()
    whole = (time.perf_counter() - before) / repeats
    parts = {label: 1e3 * seconds / repeats for label, seconds in spent.items()}
    operations = batch * (flops.convolution + flops.linear)
    rate = best_rate(precision)
    return {
        "model": name,
        "precision": precision,
        "batch": batch,
        "side": side,
        "whole_ms": 1e3 * whole,
        "parts_ms": {**parts, "rest": 1e3 * whole - sum(parts.values())},
        "multiply_adds": operations,
        "best_multiply_adds_per_second": rate,
        "floor_ms": 1e3 * operations / rate + parts["scan"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument(
        "--quick", action="store_true", help="one round of small networks: does it run?"
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for case in TRIAL if arguments.quick else CASES:
        repeats = 1 if arguments.quick else max(3, arguments.repeats // case[2])
        rows.append(profile(*case, repeats))
        row = rows[-1]
        parts = ", ".join(f"{label} {ms:.1f}" for label, ms in row["parts_ms"].items())
        print(
            f"{case}: {row['whole_ms']:.1f} ms = {parts}; floor {row['floor_ms']:.1f}", flush=True
        )
    write(arguments.out, {"rows": rows})


if __name__ == "__main__":
    main()
