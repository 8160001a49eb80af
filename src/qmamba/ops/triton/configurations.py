"""The kernels of the scan with their configurations: by the rule, or by Triton's trials."""

# mypy: ignore-errors
# Triton's decorators have no types.

from __future__ import annotations

import triton

from qmamba.ops.triton.choices import autotuned, backward_choice, scan_choice
from qmamba.ops.triton.kernels import scan_backward_kernel, scan_kernel

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether the kernels run in Triton's interpreter, decided when this module is imported."""


class _Launched:
    """A kernel whose configuration a rule gives, or Triton's trials where they are asked for.

    Args:
        kernel: the kernel.
        configurations: what trials choose from.
        fits: whether a configuration is possible for the arguments of a call.
        rule: from the arguments of a call to its configuration.
    """

    def __init__(self, kernel, configurations, fits, rule):
        self.kernel = triton.heuristics(
            {
                "EVEN": lambda values: values["steps"] % values["TILE"] == 0,
                "WHOLE": lambda values: values["channels"] % values["BLOCK_D"] == 0,
            }
        )(kernel)
        self.rule = rule
        self.trials = _tuned(self.kernel, configurations, fits)

    def __getitem__(self, grid):
        return lambda **values: self._launch(grid, values)

    def _launch(self, grid, values):
        # The interpreter has no clock to choose by.
        if autotuned() and not INTERPRETED:
            return self.trials[grid](**values)
        return self.kernel[grid](**values, **self.rule(values).all_kwargs())


def _tuned(kernel, configurations, fits):
    """Let Triton time the configurations that fit, once per key, and keep its choice on disk.

    The key is the number of channels, the rank, the states, the block and tile sizes that the
    caller fixes, the dtypes, and how many programs there are for each multiprocessor, as a power of
    two (``fullness``). It holds no side of the map, so images of any size share one choice, which
    Triton stores beside its compiled kernels, in ``TRITON_CACHE_DIR``.
    """
    names = ["channels", "RANK", "STATES", "SAVE", "BLOCK_D", "TILE", "fullness"]
    return triton.autotune(
        configurations,
        key=[name for name in names if name not in configurations[0].kwargs],
        prune_configs_by={
            "early_config_prune": lambda configs, _, **values: [
                config for config in configs if fits({**values, **config.all_kwargs()})
            ]
        },
        cache_results=True,
    )(kernel)


def _scan_configuration(block, vector, tile, warps, stages):
    return triton.Config({"BLOCK_D": block, "VECTOR": vector, "TILE": tile}, warps, stages)


def _backward_configuration(vector, warps, stages):
    return triton.Config({"VECTOR": vector}, warps, stages)


# Sixteen or thirty-two values of a tile per thread, all threads of a warp side by side along the
# channels (see channels_of): more values spill, fewer leave the multiprocessor waiting for memory.
SCAN_CONFIGURATIONS = [
    _scan_configuration(*choice)
    for choice in [
        (32, 1, 16, 1, 1),
        (64, 1, 16, 2, 1),
        (64, 2, 16, 1, 1),
        (64, 2, 16, 1, 3),
        (128, 2, 16, 2, 1),
        (32, 1, 32, 1, 1),
        (32, 1, 32, 1, 3),
        (64, 1, 32, 2, 1),
    ]
]
BACKWARD_CONFIGURATIONS = [
    _backward_configuration(vector, warps, stages)
    for vector, stages in ((1, 1), (1, 3), (2, 1))
    for warps in (1, 2, 4)
]


def _fits_scan(values):
    return values["SAVE"] == 0 or values["SAVE"] % values["TILE"] == 0


def _fits_backward(values):
    across = 32 * values["VECTOR"] * values["num_warps"]
    return values["BLOCK_D"] == across and values["VECTOR"] * values["TILE"] <= 32


def _chosen_scan(values):
    return _scan_configuration(*scan_choice(values["channels"], values["STATES"], values["SAVE"]))


def _chosen_backward(values):
    return _backward_configuration(*backward_choice(values["BLOCK_D"], values["TILE"]))


scan = _Launched(scan_kernel, SCAN_CONFIGURATIONS, _fits_scan, _chosen_scan)
scan_backward = _Launched(
    scan_backward_kernel, BACKWARD_CONFIGURATIONS, _fits_backward, _chosen_backward
)
