"""The goals of speed and memory, each with the figure that was measured for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Rows = list[dict[str, Any]]
Results = dict[str, Rows]


@dataclass(frozen=True)
class Goal:
    """A bound on a ratio, and what was found."""

    what: str
    bound: float
    at_least: bool
    found: float

    @property
    def met(self) -> bool:
        return self.found >= self.bound if self.at_least else self.found <= self.bound

    @property
    def wanted(self) -> str:
        return f"{'at least' if self.at_least else 'at most'} {self.bound:g}x"


def goals(results: Results) -> Iterator[Goal]:
    """Every goal whose figures there are."""
    for build in (_scan, _quality, _restoration, _quantized, _fallbacks, _scaling):
        yield from _found(build, results)


def _found(build: Callable[[Results], Iterator[Goal]], results: Results) -> Iterator[Goal]:
    try:
        yield from build(results)
    except KeyError as error:
        print(f"goals without {error}")


def _scan(results: Results) -> Iterator[Goal]:
    times = {(row["shape"], row["gradients"]): row["times"] for row in results["scan"]}
    for shape, gradients, bound in (
        ("S1", False, 60),
        ("S3", False, 20),
        ("MambaIR-light 64", False, 150),
        ("S2", True, 50),
        ("L65536", False, 90),
    ):
        label = f"scan {shape}{', forward and backward' if gradients else ''}: faster than the loop"
        yield Goal(label, bound, True, times[shape, gradients]["native"])


def _medians(results: Results, group: str, side: int, batch: int = 1) -> dict[str, float]:
    return {
        row["model"]: row["median_ms"]
        for row in results["models"]
        if (row["group"], row["side"], row["batch"]) == (group, side, batch)
    }


def _quality(results: Results) -> Iterator[Goal]:
    ms = _medians(results, "quality", 224)
    own = ms["qmamba-tiny fp32"]
    yield Goal("QMamba-T fp32 to Swin-T, eager", 0.55, False, own / ms["Swin-T"])
    yield Goal("QMamba-T fp32 to Swin-T, eager (stretch)", 0.42, False, own / ms["Swin-T"])
    yield Goal("QMamba-T bf16 to its fp32", 0.70, False, ms["qmamba-tiny bf16"] / own)
    swin = ms["Swin-T bf16"]
    yield Goal("QMamba-T bf16 to Swin-T bf16", 0.90, False, ms["qmamba-tiny bf16"] / swin)
    yield Goal("QMamba-T int8 to its fp32", 0.60, False, ms["qmamba-tiny int8"] / own)
    yield Goal("QMamba-T int8 to its fp32 (stretch)", 0.45, False, ms["qmamba-tiny int8"] / own)
    yield Goal("QMamba-T fp32 to ResNet-50, eager", 1.0, False, own / ms["ResNet-50"])
    runtime = ms["Swin-T ONNX Runtime"]
    yield Goal("QMamba-T fp32 to Swin-T, ONNX Runtime", 0.95, False, own / runtime)


def _restoration(results: Results) -> Iterator[Goal]:
    small, large = _medians(results, "restoration", 64), _medians(results, "restoration", 256)
    name = "mambair-light-x4"
    growth = large[f"{name} fp32"] / small[f"{name} fp32"]
    yield Goal("MambaIR-light, 256 x 256 to 64 x 64", 20, False, growth)
    faster = small[f"{name} loop"] / small[f"{name} fp32"]
    yield Goal("MambaIR-light, 64 x 64: faster than the loop", 60, True, faster)


def _quantized(results: Results) -> Iterator[Goal]:
    scans = {(row["scan"], row["way"]): row["median_ms"] for row in results["quantized scans"]}
    full, tables = scans["light", "fp32"], scans["light", "tables, 4 bits"]
    whole = tables + scans["light", "its operands onto their grids, 4 bits"]
    yield Goal("scan of 4 bits by tables: faster than its fp32", 3, True, full / tables)
    yield Goal("the same with all that stands before it", 3, True, full / whole)
    networks = {
        row["precision"]: row["median_ms"]
        for row in results["quantized networks"]
        if row["model"] == "mambair-light-x4"
    }
    faster = networks["fp32"] / networks["W4A4"]
    yield Goal("MambaIR-light W4A4: faster than its fp32", 2, True, faster)


def _fallbacks(results: Results) -> Iterator[Goal]:
    ms = _medians(results, "fallback", 224)
    chunked, loop = ms["qmamba-tiny chunked fp32"], ms["qmamba-tiny loop"]
    yield Goal("QMamba-T fp32: faster than the loop", 7, True, loop / ms["qmamba-tiny fp32"])
    yield Goal("QMamba-T without compiled code: faster than the loop", 3.5, True, loop / chunked)
    yield Goal(
        "QMamba-T without compiled code to Swin-T, eager", 1.3, False, chunked / ms["Swin-T"]
    )
    narrow = _medians(results, "avx2", 224)
    ratio = narrow["qmamba-tiny fp32"] / narrow["Swin-T"]
    yield Goal("QMamba-T fp32 to Swin-T, eager, AVX2 only", 0.85, False, ratio)


def _scaling(results: Results) -> Iterator[Goal]:
    seconds = {(row["model"], row["side"]): row["microseconds"] for row in results["scaling"]}
    memory = {
        (row["model"], row["side"]): row["bytes_per_pixel"]
        for row in results["memory"]
        if row["kind"] == "inference" and row["precision"] == "fp32"
    }
    for name in ("qmamba-tiny", "mambair-nano-x2"):
        ratio = seconds[name, 2048] / seconds[name, 512]
        yield Goal(f"{name}: time per pixel, 2048 x 2048 to 512 x 512", 1.3, False, ratio)
        ratio = memory[name, 2048] / memory[name, 512]
        yield Goal(f"{name}: memory per pixel, 2048 x 2048 to 512 x 512", 1.1, False, ratio)
