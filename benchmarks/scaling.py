"""Time per pixel of whole images, from small to large: the scan is linear in their number.

The share of the processor's time that the operating system took, which is that of handing out
memory, comes with it. Linux and macOS only.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import write
from qmamba.inference import prepare
from qmamba.models import create_model

SIDES = {
    "qmamba-tiny": (256, 512, 1024, 2048),
    "mambair-nano-x2": (256, 512, 1024, 2048),
    "mambair-light-x4": (128, 256, 512),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2, help="passes over all sizes")
    parser.add_argument("--quick", action="store_true", help="one pass over one small size")
    parser.add_argument("-o", "--out", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows: list[dict[str, Any]] = []
    for name, sides in SIDES.items():
        network = prepare(create_model(name).eval())
        sides = (64,) if arguments.quick else sides
        seconds: dict[int, list[float]] = {side: [] for side in sides}
        system = dict.fromkeys(sides, 0.0)
        network(torch.rand(1, 3, sides[0], sides[0]))
        for done in range(1 if arguments.quick else arguments.rounds):
            for side in sides:
                # One look at the largest size, which alone takes longer than all others.
                if done and side == sides[-1] and seconds[side][0] > 20:
                    continue
                images = torch.rand(1, 3, side, side)
                used = resource.getrusage(resource.RUSAGE_SELF)
                before = time.perf_counter()
                network(images)
                seconds[side].append(time.perf_counter() - before)
                total = resource.getrusage(resource.RUSAGE_SELF)
                own = total.ru_utime - used.ru_utime
                kernel = total.ru_stime - used.ru_stime
                system[side] = kernel / (own + kernel)
        for side, values in seconds.items():
            best = min(values)
            per_pixel = 1e6 * best / side**2
            row = {"model": name, "side": side, "seconds": values, "microseconds": per_pixel}
            rows.append({**row, "system_share": system[side]})
            print(
                f"{name:18} {side:5}: {best:.2f} s, {per_pixel:.2f} us per pixel, "
                f"{system[side]:.0%} in the system",
                flush=True,
            )
    write(arguments.out, {"rows": rows})


if __name__ == "__main__":
    main()
