"""The fused 2-D scan of each backend against the loop of the field, forward and with gradients.

The reference is the definition (`ops/naive.py`), which does what VMamba's CPU fallback does:
permuted copies, one step at a time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from measure import take_turns, write
from torch import Tensor

from qmamba.ops import scan_routes, ss2d

# name: batch, side, channels, states, rank
SHAPES = {
    "S1": (1, 56, 192, 1, 6),
    "S2": (1, 28, 384, 1, 12),
    "S3": (1, 14, 768, 1, 24),
    "S4": (1, 7, 1536, 1, 48),
    "MambaIR-light 64": (1, 64, 72, 10, 3),
    "L65536": (1, 256, 192, 1, 6),
}
BACKWARD = ("S2", "S3", "S4")


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

    return {name: partial(run, name) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("-o", "--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    for shape in arguments.shapes:
        for gradients in (False, True) if shape in BACKWARD else (False,):
            names = ["naive", "chunked", "native"]
            found = take_turns(competitors(SHAPES[shape], names, gradients), arguments.repeats)
            reference = found["naive"]["median_ms"]
            ratios = {name: reference / found[name]["median_ms"] for name in names}
            rows.append({"shape": shape, "gradients": gradients, "ms": found, "times": ratios})
            label = f"{shape:18} {'fwd+bwd' if gradients else 'fwd':8}"
            columns = (f"{n} {found[n]['median_ms']:.2f} ms ({ratios[n]:.1f}x)" for n in names)
            print(label, "  ".join(columns), flush=True)
    write(arguments.out, {"rows": rows})


if __name__ == "__main__":
    main()
