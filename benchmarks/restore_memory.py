"""Memory of restoration networks per pixel of the input: what the process took, and the estimate.

Each size runs in a process of its own, because freed memory is not given back at once. Linux only.

    python -m benchmarks.restore_memory mambair-nano-x2 mambair-light-x4 --sides 128 256
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

SOURCE = "from benchmarks.restore_memory import measured; print(measured({!r}, {}, {!r}))"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", help="names of MambaIR networks")
    parser.add_argument("--sides", nargs="+", type=int, default=[128, 256, 384])
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("-o", "--out", type=Path, help="JSON file to write besides")
    parser.add_argument("--quick", action="store_true", help="one small network: does it run?")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.models, arguments.sides = ["mambair-nano-x2"], [64, 96]
    elif not arguments.models:
        parser.error("name networks")
    rows = []
    print("| network | input | bytes per pixel | estimate |\n|---|---|---|---|")
    for name in arguments.models:
        for side in arguments.sides:
            code = SOURCE.format(name, side, arguments.precision)
            result = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            )
            taken, estimate = map(int, result.stdout.split())
            rows.append({"model": name, "side": side, "bytes": taken, "estimate": estimate})
            print(f"| {name} | {side}x{side} | {taken} | {estimate} |", flush=True)
    if arguments.out is not None:
        arguments.out.write_text(
            json.dumps({"precision": arguments.precision, "rows": rows}) + "\n"
        )


def measured(name: str, side: int, precision: str) -> str:
    """Growth of this process while an image goes through the network, and the estimate."""
    import torch

    from qmamba.inference import prepare
    from qmamba.models import MambaIR, create_model
    from qmamba.restore.memory import bytes_per_pixel

    model = create_model(name).eval()
    assert isinstance(model, MambaIR)
    run = prepare(model, "bf16" if precision == "bf16" else "fp32")
    image = torch.rand(1, model.config.inputs, side, side)
    run(image[:, :, :16, :16])
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    run(image)
    taken = (_status("VmHWM") - before) // side**2
    return f"{taken} {bytes_per_pixel(model.config, 'bf16' if precision == 'bf16' else 'fp32')}"


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


if __name__ == "__main__":
    main()
