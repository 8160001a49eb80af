"""An exported network in ONNX Runtime, with and without our operators, beside the package."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from qmamba import Scorer, export_onnx
from qmamba.images import normalize
from qmamba.inference import prepare
from qmamba.interop.onnx import operator_library
from qmamba.interop.onnx.verification import open_session, sample_image, session_runner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="qmamba-nano-biq2021")
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("-o", "--out", type=Path, help="JSON file to write besides")
    parser.add_argument("--quick", action="store_true", help="two rounds: does it run?")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 2
    torch.set_num_threads(1)
    scorer = Scorer.from_pretrained(arguments.model)
    network = prepare(scorer.model)
    image = sample_image((1, 3, arguments.side, arguments.side))
    with TemporaryDirectory() as folder:
        path = export_onnx(scorer, Path(folder) / "model.onnx").path
        plain = session_runner(open_session(path, threads=1))
        own = session_runner(open_session(path, threads=1, operators=operator_library()))
    runs: dict[str, Callable[[], object]] = {
        "qmamba": lambda: network(normalize(image)),
        "standard operators": lambda: plain(image),
        "operator library": lambda: own(image),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    medians = {name: 1e3 * statistics.median(values) for name, values in times.items()}
    result = {
        "model": arguments.model,
        "side": arguments.side,
        "threads": 1,
        "clock": "processor time, median",
        "milliseconds": medians,
        "ratio": {name: value / medians["qmamba"] for name, value in medians.items()},
    }
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
