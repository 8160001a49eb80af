"""Packed networks beside full precision: size, time and memory, and the scan with tables.

Weights are random. Networks take turns in one process; the memory of each is that of a process that
loads its file and runs it once, above what it had before, weights included (Linux only).

    python -m benchmarks.quantized -o benchmarks/results/quantized.json
    python -m benchmarks.quantized_page

measures and puts the tables into docs/quantization.md. The file is written after each network, and
what it holds already is left out the next time, unless `--again` is given.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.measure import take_turns, write
from qmamba.checkpoints import load, save_model
from qmamba.checkpoints.packed_file import save_quantized
from qmamba.inference import Precision, prepare
from qmamba.models import ModelMetadata, Network, create_model
from qmamba.ops import scan_routes
from qmamba.ops.native.operands import Constant, QParamsRule
from qmamba.ops.native.prepared_scan import PackedScan
from qmamba.ops.native.quantized_scan import QuantizedScan, ScanRules
from qmamba.quantization import QuantConfig, calibrate, quantize_
from qmamba.quantization.calibration_images import calibration_inputs

NETWORKS = {
    "mambair-nano-x2": 128,
    "mambair-nano-x4": 128,
    "mambair-nano-denoise": 128,
    "mambair-nano-jpeg": 128,
    "mambair-light-x2": 64,
    "mambair-light-x4": 64,
    "mambair-classic-x4": 64,
    "qmamba-tiny": 224,
}
"""Names and the side of the image."""
BITS = (8, 4, 2)
SIMULATED = "W4A4, simulated"
SCANS = {"nano": (32, 4, 2), "light": (72, 10, 4), "classic": (360, 16, 12)}
"""Channels, states and rank of the scan, on 64 x 64 pixels."""
_SIDE = 64

Files = dict[str, tuple[Path, Precision]]


def written(name: str, folder: Path) -> Files:
    """A file and a precision for each way to run a network."""
    torch.manual_seed(0)
    model = create_model(name).eval()
    metadata = ModelMetadata(name=name, architecture=model.config.architecture)
    full = folder / f"{name}.safetensors"
    save_model(model, full, metadata=metadata, dtype=torch.float32)
    files: Files = {"fp32": (full, "fp32"), "bf16": (full, "bf16")}
    for bits in BITS:
        files[f"W{bits}A{bits}"] = folder / f"{name}-{bits}.safetensors", "codes"
        save_quantized(simulated(name, bits), files[f"W{bits}A{bits}"][0], metadata)
    return files


def simulated(name: str, bits: int) -> Network:
    """A network that computes in float32 on rounded weights and activations, as in training."""
    torch.manual_seed(0)
    model = create_model(name).eval()
    quantize_(model, QuantConfig(weight_bits=bits, activation_bits=bits, step="ptq"))
    calibrate(model, calibration_inputs(model, count=2))
    return model


def prepared(path: Path, precision: Precision, side: int) -> Callable[[], object]:
    """A run of the network of a file on one image."""
    model = load(path)
    return partial(prepare(model, precision), image(model, side))


def image(model: Network, side: int) -> torch.Tensor:
    return torch.rand(1, int(getattr(model.config, "channels", 3)), side, side)


def peak_megabytes(path: Path, precision: str, side: int, threads: int) -> float | None:
    """Of a process that loads and runs the network."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.quantized",
        "--memory",
        str(path),
        precision,
        str(side),
    ]
    done = subprocess.run(
        [*command, "--threads", str(threads)], capture_output=True, text=True, check=False
    )
    return float(done.stdout) if done.returncode == 0 else None


def print_memory(path: str, precision: str, side: int) -> None:
    """What the process that :func:`peak_megabytes` starts does."""
    status = Path("/proc/self/status")
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")

    def resident(name: str) -> int:
        line = next(row for row in status.read_text().splitlines() if row.startswith(name))
        return int(line.split()[1])

    before = resident("VmRSS")
    prepared(Path(path), cast(Precision, precision), side)()
    print((resident("VmHWM") - before) / 1000)


def measure_network(name: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Size, time and memory of a network in every precision."""
    rows: list[dict[str, Any]] = []
    side = NETWORKS[name]
    with tempfile.TemporaryDirectory() as folder:
        files = written(name, Path(folder))
        runs = {label: prepared(*file, side) for label, file in files.items()}
        model = simulated(name, 4)
        runs[SIMULATED] = partial(model, image(model, side))
        repeats = arguments.repeats
        found = take_turns(runs, repeats, arguments.seconds, fewest=min(3, repeats))
        del runs, model
        for label, (path, precision) in files.items():
            memory = peak_megabytes(path, precision, side, arguments.threads)
            size = path.stat().st_size / (2 if label == "bf16" else 1)
            row = {"model": name, "precision": label, "side": side, "file_bytes": size}
            rows.append({**row, "peak_megabytes": memory, **found[label]})
            print(line(rows[-1], found["fp32"]["median_ms"]), flush=True)
        # A simulation has the file of full precision.
        row = {**rows[0], "precision": SIMULATED, "peak_megabytes": None, **found[SIMULATED]}
        rows.append(row)
        print(line(row, found["fp32"]["median_ms"]), flush=True)
    return rows


def kept(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of networks and of scans that have been measured already."""
    if arguments.again or arguments.out is None or not arguments.out.exists():
        return [], []
    report = json.loads(arguments.out.read_text())
    return report["networks"], report["scans"]


def line(row: dict[str, Any], full: float) -> str:
    """A row of the Markdown table."""
    time, memory = row["median_ms"], row["peak_megabytes"]
    shown = "-" if memory is None else f"{memory:.0f} MB"
    return (
        f"| {row['model']}, {row['side']} x {row['side']} | {row['precision']} | "
        f"{row['file_bytes'] / 1024:.0f} KiB | {time:.1f} ms | {full / time:.2f}x | {shown} |"
    )


def measure_scans(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The scan in float32 and on quantized operands, and apart the pass that places them."""
    rows: list[dict[str, Any]] = []
    repeats, seconds = arguments.repeats, min(arguments.seconds, 10.0)
    for name, (channels, states, rank) in SCANS.items():
        if arguments.quick and rows:
            break
        runs = scan_runs(channels, states, rank)
        found = take_turns(runs, repeats, seconds, fewest=min(3, repeats))
        for label, values in found.items():
            ratio = found["fp32"]["median_ms"] / values["median_ms"]
            rows.append({"scan": name, "way": label, "ratio": ratio, **values})
            print(f"| {name} | {label} | {values['median_ms']:.2f} ms | {ratio:.2f}x |", flush=True)
    return rows


def scan_runs(channels: int, states: int, rank: int) -> dict[str, Callable[[], object]]:
    """One call of each scan: time steps, four routes, norm; of quantized operands in two parts."""
    pixels = _SIDE * _SIDE
    x = torch.randn(1, pixels, channels)
    projected = torch.randn(1, pixels, 4, rank + 2 * states)
    routes, norm = scan_routes(_SIDE, _SIDE), torch.nn.LayerNorm(channels)
    full = PackedScan(
        0.3 * torch.randn(4, channels, rank),
        torch.randn(4, channels) - 1,
        -torch.rand(4, channels, states) - 0.1,
        torch.randn(4, channels),
        norm=norm,
    )
    runs: dict[str, Callable[[], object]] = {"fp32": partial(full, x, projected, routes)}
    for bits in (4, 2):
        maps, numbers = x.clone(), projected.clone()
        for way, tables in (("tables", True), ("computed", False)):
            scan = quantized_scan(channels, states, rank, bits, norm, tables=tables)
            qparams = scan.fake_quantize_(maps, numbers)
            runs[f"{way}, {bits} bits"] = partial(scan, maps, numbers, routes, qparams=qparams)
        runs[f"operands fake-quantized, {bits} bits"] = partial(scan.fake_quantize_, maps, numbers)
    return runs


def quantized_scan(
    channels: int, states: int, rank: int, bits: int, norm: torch.nn.LayerNorm, *, tables: bool
) -> QuantizedScan:
    """A scan with random codes whose grids follow the image."""

    def codes(*shape: int) -> torch.Tensor:
        return torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), shape, dtype=torch.int8)

    rule = QParamsRule(bits, weights=torch.tensor([0, 0.5, 0, 0, -1, -0.25, 0, 0]))
    low = QParamsRule(bits, fixed=(4 / 2**bits, 0.0))
    padded = torch.nn.functional.pad(codes(4, rank, channels), (0, -channels % 16))
    return QuantizedScan(
        ScanRules(low, rule, rule, rule, rule),
        Constant(padded.contiguous(), 0.1, 0.03),
        Constant(codes(4, channels), 0.3, 1.0),
        Constant(codes(4, channels, states), 0.1, 1.0),
        Constant(codes(4, channels), 0.2, 0.1),
        norm=norm,
        output=rule,
        tables=tables,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("-o", "--out", type=Path, help="JSON file to write, or to complete")
    parser.add_argument("--again", action="store_true", help="measure what it holds as well")
    parser.add_argument("--threads", type=int, help="2; 1 with --quick")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=40.0, help="for each network at most")
    parser.add_argument("--models", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument(
        "--quick", action="store_true", help="one round of the smallest: does it run?"
    )
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.threads = arguments.threads or (1 if arguments.quick else 2)
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        path, precision, side = arguments.memory
        return print_memory(path, precision, int(side))
    if arguments.quick:
        arguments.repeats, arguments.seconds = 1, 1.0
        arguments.models = ["mambair-nano-x2"]
    networks, scans = kept(arguments)
    done = {row["model"] for row in networks}
    with torch.no_grad():
        print("| scan | way | time | against fp32 |\n|---|---|---|---|")
        scans = scans or measure_scans(arguments)
        print("\n| network | precision | file | time | against fp32 | peak memory |")
        print("|---|---|---|---|---|---|")
        for name in arguments.models:
            if name not in done:
                networks += measure_network(name, arguments)
            if arguments.out is not None:
                write(arguments.out, {"networks": networks, "scans": scans})


if __name__ == "__main__":
    main()
