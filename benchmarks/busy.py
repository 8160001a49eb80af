"""What another program on the same processors costs, and how long threads should wait for it.

Processes of two threads run packed and full-precision networks and training steps alone, then
beside loops that each keep a processor busy, once with OpenMP's own waiting and once with the brief
one that the command line chooses on a busy machine (``qmamba.cli.waiting``). Linux only: GNU's
OpenMP is what reads that setting.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import write
from benchmarks.training import step_of
from qmamba import create_model, load
from qmamba.cli.waiting import BRIEFLY, WAITING_VARIABLES
from qmamba.inference import prepare

WAITING: dict[str, dict[str, str]] = {"default": {}, "brief": {"GOMP_SPINCOUNT": BRIEFLY}}
WORK = ("mambair-nano-x2-w4a4, 128 x 128", "mambair-nano-x2 training step", "QMamba-T, 224 x 224")


def work(name: str) -> Callable[[], object]:
    """One run of what is measured."""
    if "training" in name:
        return step_of("mambair-nano-x2", 8, 32, "fp32")
    if name.startswith("QMamba"):
        network, side = prepare(create_model("qmamba-tiny").eval()), 224
    else:
        network, side = prepare(load("mambair-nano-x2-w4a4")), 128
    images = torch.rand(1, 3, side, side)

    def run() -> object:
        with torch.inference_mode():
            return network(images)

    return run


def print_times(name: str, rounds: int, seconds: float) -> None:
    """Milliseconds of every run, as the child of this benchmark."""
    run = work(name)
    run()
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < rounds and (len(times) < 3 or time.perf_counter() - started < seconds):
        before = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - before))
    print(json.dumps(times))


@contextmanager
def loops(count: int) -> Iterator[None]:
    """Other programs that want a processor each."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def child(arguments: argparse.Namespace, name: str, setting: dict[str, str]) -> list[float]:
    """Milliseconds of the runs of a process with this waiting."""
    kept = {k: v for k, v in os.environ.items() if k not in WAITING_VARIABLES}
    limits = ["--rounds", str(arguments.rounds), "--seconds", str(arguments.seconds)]
    printed = subprocess.run(
        [sys.executable, "-m", "benchmarks.busy", "--child", name, *limits],
        env={**kept, "OMP_NUM_THREADS": str(arguments.threads), **setting},
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    times: list[float] = json.loads(printed)
    return times


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for name in WORK[:1] if arguments.quick else WORK:
        for busy in (0, 1, 2)[: 2 if arguments.quick else 3]:
            times: dict[str, list[float]] = {waiting: [] for waiting in WAITING}
            with loops(busy):
                for _ in range(arguments.processes):
                    for waiting, setting in WAITING.items():
                        times[waiting] += child(arguments, name, setting)
            row = {"work": name, "busy": busy, "threads": arguments.threads}
            row |= {f"{k}_ms": statistics.median(v) for k, v in times.items()}
            rows.append(row)
            print(row, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("-o", "--out", type=Path, help="JSON file to write")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2, help="processes of each kind, in turns")
    parser.add_argument("--rounds", type=int, default=20, help="runs of each process")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each process, about")
    parser.add_argument("--quick", action="store_true", help="a few runs: does it work?")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.processes, arguments.rounds, arguments.threads = 1, 1, 1
    if arguments.child:
        return print_times(arguments.child, arguments.rounds, arguments.seconds)
    rows = measure(arguments)
    if arguments.out:
        write(arguments.out, {"rows": rows})
    return None


if __name__ == "__main__":
    main()
