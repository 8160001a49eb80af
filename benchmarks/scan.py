"""The fused 2-D scan of each backend against the loop of the field, forward and with gradients.

The reference is the definition (`ops/scan/naive.py`), which does what VMamba's CPU fallback does:
permuted copies, one step at a time. "packed" is the native one with its weights packed beforehand,
as prepared networks run it. mambapy's parallel scan and transformers' slow path run where they are
installed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.competitors import parallel_scan, transformers_mixer
from benchmarks.measure import take_turns, write
from qmamba.ops import scan_routes, ss2d
from qmamba.ops.native.prepared_scan import PackedScan

# name: batch, side, channels, states, rank
SHAPES = {
    "S1": (1, 56, 192, 1, 6),
    "S2": (1, 28, 384, 1, 12),
    "S3": (1, 14, 768, 1, 24),
    "S4": (1, 7, 1536, 1, 48),
    "MambaIR-light 64": (1, 64, 72, 10, 4),
    "L65536": (1, 256, 192, 1, 6),
}
BACKWARD = ("S2", "S3", "S4")
OTHERS = ("S1", "S2", "S3", "MambaIR-light 64")


def inputs(batch: int, side: int, channels: int, states: int, rank: int) -> list[Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(batch, side * side, channels),
        torch.randn(batch, side * side, 4, rank + 2 * states),
        torch.randn(4, channels, rank) * 0.3,
        torch.randn(4, channels) - 2,
        -0.1 - torch.rand(4, channels, states),
        torch.randn(4, channels),
    ]


def competitors(
    sizes: tuple[int, int, int, int, int], names: list[str], gradients: bool
) -> dict[str, Callable[[], object]]:
    x, projected, *parameters = inputs(*sizes)
    routes = scan_routes(sizes[1], sizes[1])
    leaves = [x, projected, *parameters]

    def run(backend: str) -> object:
        if not gradients:
            with torch.no_grad():
                return ss2d(x, projected, routes, *parameters, backend=backend)
        for leaf in leaves:
            leaf.requires_grad_().grad = None
        y = ss2d(x, projected, routes, *parameters, backend=backend)
        return y.sum().backward()

    runs: dict[str, Callable[[], object]] = {name: partial(run, name) for name in names}
    if not gradients:
        runs["packed"] = partial(PackedScan(*parameters), x, projected, routes)
    return runs


def others(sizes: tuple[int, int, int, int, int]) -> dict[str, Callable[[], object]]:
    _, side, channels, states, rank = sizes
    x, projected, *parameters = inputs(*sizes)
    found = {
        "mambapy": parallel_scan(x, projected, side, *parameters),
        "transformers": transformers_mixer(channels, states, rank, side * side),
    }
    return {name: run for name, run in found.items() if run is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--quick", action="store_true", help="a few rounds: does it run?")
    parser.add_argument("-o", "--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    repeats, seconds = (2, 1.0) if arguments.quick else (arguments.repeats, 8.0)
    shapes = ["S3", "S4"] if arguments.quick else arguments.shapes
    rows = []
    for shape in shapes:
        for gradients in (False, True) if shape in BACKWARD else (False,):
            runs = competitors(SHAPES[shape], ["naive", "chunked", "native"], gradients)
            if shape in OTHERS and not gradients:
                runs |= others(SHAPES[shape])
            found = take_turns(runs, repeats, seconds, fewest=min(3, repeats))
            reference = found["naive"]["median_ms"]
            ratios = {name: reference / times["median_ms"] for name, times in found.items()}
            rows.append({"shape": shape, "gradients": gradients, "ms": found, "times": ratios})
            label = f"{shape:18} {'fwd+bwd' if gradients else 'fwd':8}"
            columns = (f"{n} {found[n]['median_ms']:.2f} ms ({ratios[n]:.1f}x)" for n in found)
            print(label, "  ".join(columns), flush=True)
    write(arguments.out, {"rows": rows})


if __name__ == "__main__":
    main()
