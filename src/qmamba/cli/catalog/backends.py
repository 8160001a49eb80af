"""`qmamba backends`: which implementation of the scan runs here, and why not the others."""

from __future__ import annotations

import os
import platform

from qmamba.cli.common import answer, table_lines


def backends() -> None:
    """Show which scan implementation is live on the CPU and the GPU, and why the others are not."""
    import torch

    from qmamba import ops
    from qmamba.ops.scan.dispatch import BACKEND_VARIABLE

    answer(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}")
    forced = os.environ.get(BACKEND_VARIABLE)
    if forced:
        answer(f"{BACKEND_VARIABLE}={forced} overrides the choice")
    rows = ops.backends()
    states = {
        (row.device, row.name): "live" if row.live else "available" if row.available else "no"
        for row in rows
    }
    lines = table_lines(
        ("device", "scan", "state"),
        [(row.device, row.name, states[row.device, row.name]) for row in rows],
    )
    details = ["why or on what", *(row.detail for row in rows)]
    for line, detail in zip(lines, details, strict=True):
        answer(f"{line}  {detail}")
