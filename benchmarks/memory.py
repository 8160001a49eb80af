"""Peak memory: a training step, and inference of whole images per pixel. Linux only.

Every row runs in a process of its own. The figure is the largest resident size during the call less
the resident size before it, after the allocator has given back what it kept: the weights and the
libraries were there before and are not in it.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import write
from qmamba.checkpoints import load
from qmamba.inference import prepare
from qmamba.models import create_model

TRAINING: tuple[tuple[str, int, int], ...] = (("qmamba-tiny", 8, 224), ("qmamba-nano", 8, 224))
INFERENCE: tuple[tuple[str, str, int], ...] = (
    *(("qmamba-tiny", precision, side) for precision in ("fp32", "int8") for side in (224, 1024)),
    ("qmamba-tiny", "fp32", 512),
    ("qmamba-tiny", "fp32", 2048),
    *(("mambair-nano-x2", "fp32", side) for side in (256, 512, 1024, 2048)),
    *(("mambair-nano-x2-w4a4", "codes", side) for side in (256, 512, 1024, 2048)),
    *(("mambair-light-x4", "fp32", side) for side in (128, 256, 512)),
)

Case = tuple[str, str, str, int, int]
"""Kind, network, precision, batch and side."""
TRIAL: tuple[Case, ...] = (
    ("training step", "qmamba-nano", "fp32", 1, 64),
    ("inference", "mambair-nano-x2-w4a4", "codes", 1, 64),
)
"""What ``--quick`` measures instead: a case of each kind."""


def resident(name: str) -> int:
    """A line of the kernel's account of this process, in bytes."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def growth(run: Any) -> int:
    """Bytes by which the resident size grew at most during a call."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def training_step(name: str, batch: int, side: int) -> int:
    """Forward, backward and a step of AdamW; gradients and the optimizer's state are included."""
    model = create_model(name)
    optimizer = torch.optim.AdamW(model.parameters())
    images = torch.randn(batch, 3, side, side)

    def step() -> None:
        model(images).square().mean().backward()
        optimizer.step()

    return growth(step)


def inference(name: str, precision: str, side: int) -> int:
    model = load(name) if precision == "codes" else create_model(name).eval()
    network = prepare(model, precision)  # type: ignore[arg-type]
    network(torch.rand(1, 3, 32, 32))
    images = torch.rand(1, 3, side, side)
    return growth(lambda: network(images))


def in_process(threads: int, kind: str, *sizes: Any) -> int:
    command = [sys.executable, "-m", "benchmarks.memory", "--one", json.dumps([kind, *sizes])]
    command += ["--threads", str(threads), "-o", "-"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(run.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one small case of each kind")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        kind, *sizes = json.loads(arguments.one)
        print(training_step(*sizes) if kind == "training step" else inference(*sizes))
        return
    rows: list[dict[str, Any]] = []
    cases: list[Case] = [
        ("training step", name, "fp32", batch, side) for name, batch, side in TRAINING
    ]
    cases += [("inference", name, precision, 1, side) for name, precision, side in INFERENCE]
    for kind, name, precision, batch, side in TRIAL if arguments.quick else cases:
        sizes = (name, batch, side) if kind == "training step" else (name, precision, side)
        size = in_process(arguments.threads, kind, *sizes)
        per_pixel = size / (batch * side**2)
        rows.append(
            {
                "kind": kind,
                "model": name,
                "precision": precision,
                "batch": batch,
                "side": side,
                "bytes": size,
                "bytes_per_pixel": round(per_pixel),
            }
        )
        print(
            f"{kind:14} {name:18} {precision} {batch} x {side}^2: {size / 1e6:.0f} MB, "
            f"{per_pixel:.0f} bytes per pixel",
            flush=True,
        )
    write(arguments.out, {"rows": rows})


if __name__ == "__main__":
    main()
