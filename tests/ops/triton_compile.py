"""Compiles the Triton kernels for a GPU that need not be there. ``test_triton.py`` runs this file.

The interpreter accepts more than the compiler does. Here launches go to a driver that compiles each
kernel for an H100, as the real one would for these arguments, and then does not run it. With
``--all`` it goes through every configuration of the autotuner, otherwise through the one that the
rule gives for each call, and no trial may be started.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from qmamba.ops.triton import configurations, launch, layers
from qmamba.ops.triton.operators import selective_scan_triton, ss2d_triton
from tests.ops.cases import map_inputs, route_tables, scan_inputs

compiled: Counter[str] = Counter()


class CompilingDriver:
    """What Triton asks of a driver."""

    def __init__(self) -> None:
        self.utils = SimpleNamespace(
            get_device_properties=lambda _device: {"max_shared_mem": 232448},
            load_binary=self.load_binary,
        )

    def load_binary(self, name: str, *_: Any) -> tuple[object, None, int, int, int]:
        compiled[name] += 1
        return object(), None, 0, 0, 1024

    def launcher_cls(self, _source: Any, _metadata: Any) -> Callable[..., None]:
        return lambda *_: None

    def get_benchmarker(self) -> Callable[..., list[float]]:
        assert "--all" in sys.argv, "a trial was started that nobody asked for"

        def run(call: Callable[[], None], quantiles: tuple[float, ...]) -> list[float]:
            call()
            return [1.0 for _ in quantiles]

        return run

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int) -> int:
        return 0


def compile_map(sizes: tuple[int, int, int, int, int, int], dtype: torch.dtype) -> None:
    x, projected, *rest = map_inputs(*sizes)
    maps = (t.to(dtype).requires_grad_() for t in (x, projected))
    parameters = (t.float().requires_grad_() for t in rest)
    y = ss2d_triton(*maps, route_tables(sizes[1], sizes[2]), *parameters)
    y.sum().backward()


def compile_layers(dtype: torch.dtype) -> None:
    layers._runs = lambda *_: True
    x, branch, wide = torch.rand(2, 3, 4, 40), torch.rand(2, 3, 4, 40), torch.rand(2, 3, 4, 80)
    gate, entered = wide.to(dtype).chunk(2, dim=-1)
    weight = torch.rand(40)
    layers.residual_norm(x.to(dtype), branch.to(dtype), weight, weight, scale=weight, gate=gate)
    layers.residual_norm(x.to(dtype), None, weight, weight, gelu=True)
    layers.bias_gelu_(x.to(dtype), weight.to(dtype))
    layers.depthwise_silu(entered, torch.rand(3, 3, 40), weight)
    layers.depthwise_silu(entered, torch.rand(3, 3, 40), None)


def main() -> None:
    driver.set_active(CompilingDriver())
    for launched in (configurations.scan, configurations.scan_backward):
        launched.trials.cache_results = False
    if "--all" in sys.argv:
        os.environ["QMAMBA_AUTOTUNE"] = "1"
    compile_map((1, 8, 8, 64, 1, 4), torch.bfloat16)
    compile_map((1, 5, 5, 40, 10, 4), torch.float32)
    launch.segments_for = lambda *_: 2
    scan = [t.float().requires_grad_() for t in scan_inputs(1, 64, 80, 3, 1)]
    selective_scan_triton(*scan).sum().backward()
    compile_layers(torch.bfloat16)
    compile_layers(torch.float32)
    print(dict(compiled))


if __name__ == "__main__":
    main()
