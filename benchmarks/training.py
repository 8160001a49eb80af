"""Training steps on the CPU: ours beside Swin-T (timm), and beside those of another checkout.

    python -m benchmarks.training --other ../before/src -o benchmarks/results/training.json

A step is forward, backward, clipping and AdamW on one fixed batch of noise, with random weights.
Every competitor is a process of its own that waits while the others run, so that two checkouts can
take turns; the kernel must be built in both. About six minutes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import take_turns, write

HERE = Path(__file__).parents[1]
SWIN = "swin_tiny_patch4_window7_224"
CASES = (
    ("qmamba-tiny", 4, 224),
    ("qmamba-nano", 8, 224),
    ("mambair-nano-x2", 8, 32),
    ("mambair-light-x4", 4, 32),
)
"""Network, batch and side of the input; Swin-T takes its turns with the first."""
TRIAL = (("qmamba-nano", 1, 64), ("mambair-nano-x2", 1, 16))
"""What ``--quick`` trains instead."""


@dataclass
class Worker:
    """A process that makes one step for each line that it is sent."""

    process: subprocess.Popen[str]

    @classmethod
    def start(cls, source: Path, model: str, batch: int, side: int, precision: str) -> Worker:
        names = ["--step", model, str(batch), str(side), precision]
        paths = os.pathsep.join((str(source), str(HERE)))
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.training", *names],
            env={**os.environ, "PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        worker = cls(process)
        worker.step()
        return worker

    def step(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("step\n")
        self.process.stdin.flush()
        if not self.process.stdout.readline():
            raise SystemExit("A process that trains ended; see its error above.")

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def step_of(model: str, batch: int, side: int, precision: str) -> Callable[[], None]:
    """One training step of a network of this package, or of Swin-T."""
    torch.manual_seed(0)
    network: torch.nn.Module
    if model == SWIN:
        from qmamba.extras import declare_torchvision_operators

        declare_torchvision_operators()
        import timm

        network = timm.create_model(SWIN, num_classes=1, img_size=side)
    else:
        from qmamba.models import create_model

        network = create_model(model)
    network.train()
    images = torch.rand(batch, 3, side, side)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            outputs = network(images)
        optimizer.zero_grad(set_to_none=True)
        outputs.float().abs().mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    return step


def serve(model: str, batch: int, side: int, precision: str) -> None:
    step = step_of(model, batch, side, precision)
    for _ in sys.stdin:
        step()
        print("done", flush=True)


def measured(
    other: Path | None, cases: Sequence[tuple[str, int, int]], seconds: float, rounds: int
) -> Iterator[dict[str, Any]]:
    """Rows of all cases; competitors that cannot be had are left out."""
    for precision in ("fp32", "bf16"):
        for model, batch, side in cases:
            sources = {"here": (HERE / "src", model)}
            if other is not None:
                sources["before"] = (other, model)
            if model == cases[0][0] and _has_timm():
                sources["Swin-T"] = (HERE / "src", SWIN)
            workers = {
                name: Worker.start(source, network, batch, side, precision)
                for name, (source, network) in sources.items()
            }
            try:
                steps = {name: worker.step for name, worker in workers.items()}
                times = take_turns(steps, rounds, seconds, fewest=min(3, rounds))
            finally:
                for worker in workers.values():
                    worker.stop()
            for name, found in times.items():
                yield {
                    "model": model,
                    "who": name,
                    "precision": precision,
                    "batch": batch,
                    "side": side,
                    **found,
                }
                pace = 1e3 * batch / found["median_ms"]
                print(f"{model} {precision} {name}: {pace:.2f} images/s", flush=True)


def _has_timm() -> bool:
    from qmamba.extras import declare_torchvision_operators

    try:
        declare_torchvision_operators()
        import timm  # noqa: F401
    except (ImportError, RuntimeError):
        return False
    return True


def main() -> None:
    """Measure and write the rows."""
    if sys.argv[1:2] == ["--step"]:
        serve(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--other", type=Path, help="folder `src` of the checkout before")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one round of small networks")
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    # Threads that spin while another process runs would take its time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    other = None if arguments.other is None else arguments.other.resolve()
    cases, seconds, rounds = (TRIAL, 1.0, 1) if arguments.quick else (CASES, 30.0, 15)
    started = time.perf_counter()
    rows = list(measured(other, cases, seconds, rounds))
    write(arguments.output, {"seconds": time.perf_counter() - started, "rows": rows})


if __name__ == "__main__":
    main()
