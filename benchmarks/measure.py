"""What every benchmark here shares: competitors take turns in one process, medians, JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch


def take_turns(
    competitors: Mapping[str, Callable[[], object]], repeats: int, seconds: float = 20.0
) -> dict[str, dict[str, float]]:
    """Median, minimum and maximum milliseconds of each competitor.

    All of them run once unmeasured, then one after the other in every round, so that a drift of the
    machine's speed meets all alike. Rounds end after ``repeats`` or when ``seconds`` have passed,
    but not before three.
    """
    for run in competitors.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in competitors}
    started = time.perf_counter()
    for done in range(repeats):
        if done >= 3 and time.perf_counter() - started > seconds:
            break
        for name, run in competitors.items():
            before = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - before))
    return {
        name: {
            "median_ms": statistics.median(values),
            "min_ms": min(values),
            "max_ms": max(values),
            "rounds": len(values),
        }
        for name, values in times.items()
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    name = platform.processor() or platform.machine()
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        names = [line for line in cpu.read_text().splitlines() if line.startswith("model name")]
        name = names[0].split(":", 1)[1].strip() if names else name
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def write(path: Path, report: Mapping[str, Any]) -> None:
    path.write_text(json.dumps({"machine": machine(), **report}, indent=1) + "\n")
