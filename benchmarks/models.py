"""Whole models: plain modules, the prepared networks, and well-known backbones.

At 224 x 224 against Swin-T, ViT-S and ResNet-50 of timm, eager and under ONNX Runtime; the same
with the instruction sets held down to AVX2, in a process of its own; and a restoration network
against its own loop. All weights are random. What is not installed is left out. A trial
(`--quick`) runs one round of the smallest of each kind: the loop starts its threads some ten
thousand times for an image, and on a busy machine every start may have to wait.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.competitors import backbones, on_backend, onnx_runtime
from benchmarks.measure import take_turns, write
from qmamba.inference import Precision, prepare
from qmamba.models import Network, create_model

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
AVX2 = {
    "QMAMBA_INSTRUCTION_SET": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
}
Row = dict[str, Any]
Runs = dict[str, Callable[[], object]]


def networks(quick: bool) -> tuple[str, ...]:
    """The networks of this package that rate images, the main one first."""
    return ("qmamba-nano",) if quick else ("qmamba-tiny", "qmamba-nano")


def rivals(quick: bool) -> dict[str, torch.nn.Module]:
    """The backbones, of which one is enough for a trial."""
    return backbones("Swin-T") if quick else backbones()


def quality(batch: int, threads: int, quick: bool) -> Runs:
    """QMamba in every way it can be run on this machine, and the backbones."""
    images = torch.randn(batch, 3, 224, 224)
    runs: Runs = {}
    for name in networks(quick):
        model = create_model(name).eval()
        runs[f"{name} module"] = partial(model, images)
        for precision in PRECISIONS:
            runs[f"{name} {precision}"] = partial(prepare(model, precision), images)
    for label, module in rivals(quick).items():
        runs[label] = partial(module, images)
        if label == "Swin-T":
            # A copy: bfloat16() changes the module itself.
            half = copy.deepcopy(module).bfloat16()
            runs["Swin-T bf16"] = partial(half, images.bfloat16())
        if batch == 1 and not quick:
            exported = onnx_runtime(module, images, threads)
            if exported is not None:
                runs[f"{label} ONNX Runtime"] = exported
    return runs


def without_kernel(model: Network, images: torch.Tensor) -> Callable[[], object]:
    """The network that is prepared where there is no compiled code of this package."""
    prepared: list[Callable[[torch.Tensor], torch.Tensor]] = []
    on_backend("chunked", lambda: prepared.append(prepare(model)))()
    return partial(prepared[0], images)


def fallbacks(side: int, quick: bool) -> Runs:
    """What there is without compiled code, beside the loop and Swin-T."""
    images = torch.randn(1, 3, side, side)
    name = networks(quick)[0]
    model = create_model(name).eval()
    runs: Runs = {
        f"{name} loop": on_backend("naive", partial(model, images)),
        f"{name} chunked": on_backend("chunked", partial(model, images)),
        f"{name} chunked fp32": on_backend("chunked", without_kernel(model, images)),
        f"{name} fp32": partial(prepare(model), images),
    }
    if not quick:
        runs |= {label: partial(module, images) for label, module in backbones("Swin-T").items()}
    return runs


def narrow(quick: bool) -> Runs:
    """What goes into the process that may use AVX2 only."""
    images = torch.randn(1, 3, 224, 224)
    name = networks(quick)[0]
    runs: Runs = {f"{name} fp32": partial(prepare(create_model(name).eval()), images)}
    if not quick:
        runs |= {label: partial(module, images) for label, module in backbones().items()}
    return runs


def restoration(side: int, loop: bool) -> Runs:
    """The lightweight MambaIR."""
    images = torch.rand(1, 3, side, side)
    name = "mambair-light-x4"
    model = create_model(name).eval()
    runs: Runs = {f"{name} module": on_backend("native", partial(model, images))}
    if loop:
        runs[f"{name} loop"] = on_backend("naive", partial(model, images))
        runs[f"{name} chunked"] = on_backend("chunked", partial(model, images))
    for precision in PRECISIONS:
        runs[f"{name} {precision}"] = partial(prepare(model, precision), images)
    return runs


def measured(group: str, runs: Runs, size: Row, repeats: int, seconds: float) -> list[Row]:
    """One row for each competitor of a group that took turns."""
    with torch.no_grad():
        found = take_turns(runs, repeats, seconds, fewest=min(3, repeats))
    rows = [{"group": group, "model": name, **size, **times} for name, times in found.items()]
    for row in rows:
        print(f"{group:12} {row['model']:24} {row['median_ms']:9.1f} ms", flush=True)
    return rows


def in_avx2(arguments: argparse.Namespace) -> list[Row]:
    """The rows of this script's AVX2 group, from a process that can use no more."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "avx2.json"
        command = [sys.executable, "-m", "benchmarks.models", "--only", "avx2", "-o", str(out)]
        command += ["--threads", str(arguments.threads), "--repeats", str(arguments.repeats)]
        command += ["--quick"] if arguments.quick else []
        subprocess.run(command, env={**os.environ, **AVX2}, check=True)
        return json.loads(out.read_text())["rows"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="a few rounds: does it run?")
    parser.add_argument("--only", choices=("avx2",), help=argparse.SUPPRESS)
    parser.add_argument("-o", "--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    repeats = 1 if arguments.quick else arguments.repeats
    at_224: Row = {"side": 224, "batch": 1}
    if arguments.only:
        rows = measured("avx2", narrow(arguments.quick), at_224, repeats, 15)
        write(arguments.out, {"rows": rows})
        return
    rows = []
    for batch in (1,) if arguments.quick else (1, 8):
        runs = quality(batch, arguments.threads, arguments.quick)
        rows += measured("quality", runs, {"side": 224, "batch": batch}, repeats, 20)
    size = {"side": 64 if arguments.quick else 224, "batch": 1}
    runs = fallbacks(size["side"], arguments.quick)
    rows += measured("fallback", runs, size, min(repeats, 5), 10)
    rows += in_avx2(arguments)
    for side in (16,) if arguments.quick else (64, 256):
        size = {"side": side, "batch": 1}
        loop = side < 256
        rows += measured("restoration", restoration(side, loop), size, min(repeats, 5), 20)
    write(arguments.out, {"rows": rows})


if __name__ == "__main__":
    main()
