"""The goals of speed and memory, each with the figure that was measured for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

Rows = list[dict[str, Any]]
Results = dict[str, Rows]
Find = Callable[[Results], float]


@dataclass(frozen=True)
class Goal:
    """A bound on a ratio and where it is found; ``part`` names the profile with its floor."""

    what: str
    bound: float
    at_least: bool
    find: Find
    part: tuple[str, str] | None = None

    @property
    def wanted(self) -> str:
        return f"{'at least' if self.at_least else 'at most'} {self.bound:g}x"

    def measured(self, results: Results) -> float | None:
        """The ratio, or ``None`` where its figures are not there."""
        try:
            return self.find(results)
        except KeyError:
            return None

    def is_met(self, found: float) -> bool:
        return found >= self.bound if self.at_least else found <= self.bound

    def floor(self, results: Results, found: float) -> float | None:
        """What the ratio would be if the network took no longer than the floor of its profile."""
        for row in results.get("parts", []):
            if (row["model"], row["precision"], row["batch"]) == (*(self.part or ("", "")), 1):
                share = row["floor_ms"] / row["whole_ms"]
                return found / share if self.at_least else found * share
        return None


_CODES = {
    "mambair-nano-x2": 1.5,
    "mambair-light-x2": 1.7,
    "mambair-light-x4": 1.7,
    "mambair-classic-x4": 2,
    "qmamba-tiny": 2,
}


def goals() -> Iterator[Goal]:
    """Every goal, in the order of the page."""
    yield from _scan()
    yield from _quality()
    yield from _fallbacks()
    yield from _restoration()
    yield from _quantized()
    yield from _scaling()
    yield from _training()


def _scan() -> Iterator[Goal]:
    for shape, gradients, bound in (
        ("S1", False, 60),
        ("S3", False, 30),
        ("MambaIR-light 64", False, 150),
        ("S2", True, 50),
        ("L65536", False, 90),
    ):

        def find(results: Results, shape: str = shape, gradients: bool = gradients) -> float:
            times = {(row["shape"], row["gradients"]): row["times"] for row in results["scan"]}
            return times[shape, gradients]["native"]

        passes = ", forward and backward" if gradients else ""
        yield Goal(f"scan {shape}{passes}: faster than the loop", bound, True, find)


def _ratio(results: Results, group: str, above: tuple[str, int], below: tuple[str, int]) -> float:
    """Of the medians of two models, each on images of one side."""
    medians = {
        (row["model"], row["side"]): row["median_ms"]
        for row in results["models"]
        if (row["group"], row["batch"]) == (group, 1)
    }
    return medians[above] / medians[below]


def _of_models(group: str, above: str, below: str, sides: tuple[int, int] = (224, 224)) -> Find:
    pairs = (above, sides[0]), (below, sides[1])
    return partial(_ratio, group=group, above=pairs[0], below=pairs[1])


def _quality() -> Iterator[Goal]:
    for precision, other, label, bound in (
        ("fp32", "Swin-T", "Swin-T, eager", 0.55),
        ("fp32", "Swin-T", "Swin-T, eager (stretch)", 0.42),
        ("fp32", "Swin-T ONNX Runtime", "Swin-T, ONNX Runtime", 0.95),
        ("fp32", "ResNet-50", "ResNet-50, eager", 1.0),
        ("fp32", "ResNet-50 ONNX Runtime", "ResNet-50, ONNX Runtime", 1.0),
        ("bf16", "qmamba-tiny fp32", "its fp32", 0.70),
        ("bf16", "Swin-T bf16", "Swin-T bf16, eager", 0.90),
        ("int8", "qmamba-tiny fp32", "its fp32", 0.60),
        ("int8", "qmamba-tiny fp32", "its fp32 (stretch)", 0.45),
    ):
        find = _of_models("quality", f"qmamba-tiny {precision}", other)
        part = ("qmamba-tiny", precision)
        yield Goal(f"QMamba-T {precision} to {label}", bound, False, find, part)


def _fallbacks() -> Iterator[Goal]:
    own, chunked, loop = "qmamba-tiny fp32", "qmamba-tiny chunked fp32", "qmamba-tiny loop"
    find = _of_models("fallback", loop, own)
    yield Goal("QMamba-T fp32: faster than the loop", 7, True, find)
    find = _of_models("fallback", loop, chunked)
    yield Goal("QMamba-T without compiled code: faster than the loop", 3.5, True, find)
    find = _of_models("fallback", chunked, "Swin-T")
    yield Goal("QMamba-T without compiled code to Swin-T, eager", 1.3, False, find)
    find = _of_models("avx2", own, "Swin-T")
    yield Goal("QMamba-T fp32 to Swin-T, eager, AVX2 only", 0.85, False, find)


def _restoration() -> Iterator[Goal]:
    own = "mambair-light-x4 fp32"
    find = _of_models("restoration", "mambair-light-x4 loop", own, (64, 64))
    yield Goal("MambaIR-light, 64 x 64: faster than the loop", 60, True, find)
    find = _of_models("restoration", own, own, (256, 64))
    yield Goal("MambaIR-light, 256 x 256 to 64 x 64", 20, False, find)


def _quantized() -> Iterator[Goal]:
    def scan(results: Results, *, operands: bool) -> float:
        scans = {(row["scan"], row["way"]): row["median_ms"] for row in results["quantized scans"]}
        taken = scans["light", "tables, 4 bits"]
        if operands:
            taken += scans["light", "operands fake-quantized, 4 bits"]
        return scans["light", "fp32"] / taken

    def network(results: Results, name: str, precision: str) -> float:
        rows = results["quantized networks"]
        found = {(row["model"], row["precision"]): row["median_ms"] for row in rows}
        return found[name, "fp32"] / found[name, precision]

    tables = "MambaIR-light, scan of 4 bits by tables: faster than its fp32"
    yield Goal(tables, 3, True, partial(scan, operands=False))
    yield Goal(f"{tables}, operands included", 3, True, partial(scan, operands=True))
    for precision in ("W4A4", "W8A8"):
        for name, bound in _CODES.items():
            find = partial(network, name=name, precision=precision)
            part = (name, "codes") if precision == "W4A4" else None
            what = f"{name} {precision} on codes: faster than its fp32"
            yield Goal(what, bound, True, find, part)


def _scaling() -> Iterator[Goal]:
    def growth(results: Results, name: str, part: str, value: str) -> float:
        found = {
            (row["model"], row["side"]): row[value]
            for row in results[part]
            if row.get("kind", "inference") == "inference"
            and row.get("precision") in (None, "fp32")
        }
        return found[name, 2048] / found[name, 512]

    for name in ("qmamba-tiny", "mambair-nano-x2"):
        sizes = "per pixel, 2048 x 2048 to 512 x 512"
        find = partial(growth, name=name, part="scaling", value="microseconds")
        yield Goal(f"{name}: time {sizes}", 1.3, False, find)
        find = partial(growth, name=name, part="memory", value="bytes_per_pixel")
        yield Goal(f"{name}: memory {sizes}", 1.1, False, find)


def _training() -> Iterator[Goal]:
    def ratio(results: Results, model: str, precision: str, *, other: str, faster: bool) -> float:
        medians = {
            (row["model"], row["precision"], row["who"]): row["median_ms"]
            for row in results["training"]
        }
        found = medians[model, precision, other] / medians[model, precision, "here"]
        return found if faster else 1 / found

    for precision in ("fp32", "bf16"):
        find = partial(
            ratio, model="qmamba-tiny", precision=precision, other="Swin-T", faster=False
        )
        yield Goal(f"QMamba-T training step {precision} to Swin-T, eager", 0.6, False, find)
    for model, bound in (("qmamba-nano", 2), ("mambair-nano-x2", 1.5)):
        find = partial(ratio, model=model, precision="fp32", other="before", faster=True)
        yield Goal(f"{model} training step: faster than before", bound, True, find)
