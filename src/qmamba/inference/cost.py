"""Time and memory of a network, measured in a process of its own.

`python -m qmamba.inference.cost WEIGHTS SIDE` prints what it found as JSON.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

_LEAST_RUNS = 3
_MOST_RUNS = 20
_SECONDS = 5.0


class Measurement(NamedTuple):
    """What one network took for one image."""

    milliseconds: float
    """Median of several runs."""
    megabytes: float
    """Largest resident memory while it was loaded and run, above that of the program before."""


def measured(source: str, side: int) -> Measurement | None:
    """Load a network as it is used and run it on one square image; None where that fails.

    Args:
        source: weights.
        side: of the image, in pixels.
    """
    command = [sys.executable, "-m", __name__, source, str(side)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return Measurement(**json.loads(done.stdout))
    except (ValueError, TypeError):
        return None


def _measure(source: str, side: int) -> Measurement:
    import torch

    from qmamba.checkpoints import load
    from qmamba.inference import prepare

    generator = torch.Generator().manual_seed(0)
    before = _peak_bytes(restart=True)
    model = load(source)
    channels = int(getattr(model.config, "channels", 3))
    image = torch.rand(
        1, channels, side, side, generator=generator, dtype=torch.float32, device="cpu"
    )
    network = prepare(model)
    times: list[float] = []
    network(image)
    started = time.perf_counter()
    while len(times) < _LEAST_RUNS or (
        len(times) < _MOST_RUNS and time.perf_counter() - started < _SECONDS
    ):
        begin = time.perf_counter()
        network(image)
        times.append(time.perf_counter() - begin)
    memory = _peak_bytes() - before
    return Measurement(1000 * statistics.median(times), memory / 1e6)


def _peak_bytes(*, restart: bool = False) -> int:
    """Largest resident memory of this process; 0 where the system does not tell.

    Args:
        restart: forget the peak so far and give what is resident now, where the system can.
    """
    try:
        if restart:
            with open("/proc/self/clear_refs", "w") as stream:
                stream.write("5")
        with open("/proc/self/status") as stream:
            fields = dict(line.split(":", 1) for line in stream)
        return 1024 * int(fields["VmHWM"].split()[0])
    except (OSError, KeyError, ValueError):
        pass
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


if __name__ == "__main__":
    print(json.dumps(_measure(sys.argv[1], int(sys.argv[2]))._asdict()))
