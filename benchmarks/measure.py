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

Competitors = Mapping[str, Callable[[], object]]
Times = dict[str, dict[str, float]]


def take_turns(
    competitors: Competitors, repeats: int, seconds: float = 20.0, *, fewest: int = 3
) -> Times:
    """Median, quartiles, minimum and maximum milliseconds of each competitor.

    All of them run once unmeasured, then one after the other in every round, so that a drift of the
    machine's speed meets all alike. Rounds end after ``repeats`` or when ``seconds`` have passed,
    but not before ``fewest``.
    """
    for run in competitors.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in competitors}
    started = time.perf_counter()
    for done in range(repeats):
        if done >= fewest and time.perf_counter() - started > seconds:
            break
        for name, run in competitors.items():
            # Threads of another library may still spin for a moment after their last call.
            time.sleep(0.002)
            before = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - before))
    return {name: _summary(values) for name, values in times.items()}


def _summary(values: list[float]) -> dict[str, float]:
    quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else 3 * values
    return {
        "median_ms": statistics.median(values),
        "low_quartile_ms": quartiles[0],
        "high_quartile_ms": quartiles[2],
        "min_ms": min(values),
        "max_ms": max(values),
        "rounds": len(values),
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    name, generation = platform.processor() or platform.machine(), "unknown"
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        lines = [line.split(":", 1) for line in cpu.read_text().splitlines() if ":" in line]
        found = {key.strip(): value.strip() for key, value in reversed(lines)}
        name = found.get("model name", name)
        # A name such as "AMD EPYC" does not tell which it is.
        generation = f"family {found.get('cpu family')}, model {found.get('model')}"
    return {
        "processor": name,
        "generation": generation,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "load": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def write(path: Path, report: Mapping[str, Any]) -> None:
    path.write_text(json.dumps({"machine": machine(), **report}, indent=1) + "\n")
