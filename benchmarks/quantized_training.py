"""One training step of a network in full precision and with fake quantizers, taking turns."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from benchmarks.measure import take_turns, write
from qmamba.models import create_model
from qmamba.ops.native import rounding as bindings
from qmamba.quantization import QuantConfig, quantize_


def training_step(model: nn.Module, batch: int, side: int) -> Callable[[], None]:
    images = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))

    def run() -> None:
        model.zero_grad()
        model(images).square().mean().backward()

    return run


def without_kernel(run: Callable[[], None]) -> Callable[[], None]:
    """The same with the rounding in PyTorch operations; the scan stays in the C++ kernel."""

    def plain() -> None:
        available = bindings.available
        bindings.available = lambda: False
        try:
            run()
        finally:
            bindings.available = available

    return plain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["mambair-light-x4", "mambair-nano-x2"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--side", type=int, default=48)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("-o", "--out", type=Path, help="JSON file to write besides")
    parser.add_argument(
        "--quick", action="store_true", help="two rounds of the smallest network: does it run?"
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.models, arguments.repeats = ["mambair-nano-x2"], 2
    torch.set_num_threads(arguments.threads)
    rows = []
    for name in arguments.models:
        torch.manual_seed(0)
        sizes = (arguments.batch, arguments.side)
        exact = training_step(create_model(name).train(), *sizes)
        config = QuantConfig(arguments.bits, arguments.bits)
        quantized = training_step(quantize_(create_model(name), config).train(), *sizes)
        found = take_turns(
            {"exact": exact, "quantized": quantized, "in PyTorch": without_kernel(quantized)},
            arguments.repeats,
            seconds=60,
            fewest=min(3, arguments.repeats),
        )
        times = {key: entry["median_ms"] for key, entry in found.items()}
        rows.append({"model": name, "ms": found})
        ratios = (f"{key} {ms:.0f} ms ({ms / times['exact']:.2f}x)" for key, ms in times.items())
        print(name, "  ".join(ratios), flush=True)
    if arguments.out is not None:
        write(arguments.out, {"batch": arguments.batch, "side": arguments.side, "rows": rows})


if __name__ == "__main__":
    main()
