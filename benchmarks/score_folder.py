"""Speed and peak memory of `qmamba score` on a folder, whole processes, at several folder sizes.

Peak memory must not grow with the number of images, so each size is a run of its own.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.examples import EXAMPLES
from qmamba.images import IMAGE_SUFFIXES


def run(images: list[Path], extra: list[str]) -> dict[str, float]:
    """Score links to these images in a process of its own; seconds, peak megabytes and rows."""
    with tempfile.TemporaryDirectory() as folder:
        links = Path(folder) / "images"
        links.mkdir()
        for image in images:
            shutil.copy(image, links / image.name)
        table = Path(folder) / "scores.csv"
        command = [sys.executable, "-m", "qmamba", "score", str(links), "-o", str(table), *extra]
        started = time.perf_counter()
        pid = os.posix_spawn(
            sys.executable,
            command,
            os.environ,
            file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
        )
        _, status, usage = os.wait4(pid, 0)
        seconds = time.perf_counter() - started
        if os.waitstatus_to_exitcode(status) != 0:
            raise SystemExit(f"`{' '.join(command)}` failed")
        with open(table, newline="") as file:
            scored = sum(row["error"] == "" for row in csv.DictReader(file))
    return {"seconds": seconds, "peak_megabytes": usage.ru_maxrss / 1024, "scored": scored}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="folder with enough images")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 125, 500])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--option", action="append", default=[], help="handed on to qmamba score")
    parser.add_argument("-o", "--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="few of the examples: does it run?")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.sizes, arguments.repeats = [1, 3], 1
    folder = arguments.folder or (EXAMPLES if arguments.quick else None)
    if folder is None:
        parser.error("name a folder of images")
    images = [path for path in sorted(folder.iterdir()) if path.suffix in IMAGE_SUFFIXES]
    rows = []
    for size in arguments.sizes:
        runs = [run(images[:size], arguments.option) for _ in range(arguments.repeats)]
        rows.append(
            {
                "images": size,
                "scored": runs[0]["scored"],
                "seconds": statistics.median(r["seconds"] for r in runs),
                "peak_megabytes": max(r["peak_megabytes"] for r in runs),
            }
        )
        print(rows[-1], flush=True)
    first, last = rows[0], rows[-1]
    # The difference of two sizes leaves out the start of the process.
    pace = (last["images"] - first["images"]) / (last["seconds"] - first["seconds"])
    report = {
        "rows": rows,
        "images_per_second": pace,
        "options": arguments.option,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
    }
    arguments.out.write_text(json.dumps(report, indent=1))
    print(f"{pace:.1f} images per second after the start")


if __name__ == "__main__":
    main()
