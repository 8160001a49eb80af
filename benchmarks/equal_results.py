"""Whether two versions of the sources give the same bits from the same commands.

    python -m benchmarks.equal_results ../other/src -o equal.json

runs scoring, restoration and quantization of the images in `examples/` with the sources of another
checkout and with those here, and compares every file that is written, pixel data and weights byte
for byte. The kernel must be built in both (`cmake --install build --prefix src`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import safetensors

REPOSITORY = Path(__file__).parents[1]
EXAMPLES = REPOSITORY / "examples"
MODEL = "qmamba-nano-biq2021"
COMMANDS: dict[str, tuple[str, ...]] = {
    "score": ("score", "{examples}", "--model", MODEL, "-o", "{out}.csv"),
    "score int8": (
        "score", "{examples}", "--model", MODEL, "--precision", "int8", "-o", "{out}.csv",
    ),
    "score bf16 native": (
        "score", "{examples}", "--model", MODEL, "--precision", "bf16", "--policy", "native",
        "-o", "{out}.jsonl",
    ),
    "restore x2": ("restore", "{examples}/coffee_small.png", "-o", "{out}.png"),
    "restore x4": ("restore", "{examples}/coffee_small.png", "--scale", "4", "-o", "{out}.png"),
    "restore tiles": (
        "restore", "{examples}/coffee_small.png", "--tile", "96", "-o", "{out}.png",
    ),
    "restore denoise": (
        "restore", "{examples}/coffee_small.png", "--task", "denoise", "-o", "{out}.png",
    ),
    "restore jpeg": ("restore", "{examples}/coffee_small.png", "--task", "jpeg", "-o", "{out}.png"),
    "restore ensemble": (
        "restore", "{examples}/coffee_small.png", "--ensemble", "-o", "{out}.png",
    ),
    "quantize": (
        "quantize", MODEL, "--weight-bits", "4", "--activation-bits", "8", "--no-measure",
        "-o", "{out}.safetensors",
    ),
}  # fmt: skip
"""Command lines by name; `{examples}` and `{out}` are filled in."""


def run(source: Path, name: str, folder: Path) -> str:
    """What a command writes with some sources: a digest, or the error that it ended with."""
    out = folder / name.replace(" ", "-")
    arguments = [part.format(examples=EXAMPLES, out=out) for part in COMMANDS[name]]
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "qmamba", *arguments],
        env=environment, cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    written = sorted(folder.glob(f"{out.name}.*"))
    if done.returncode or not written:
        return f"exit code {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"
    return digest(written[0])


def digest(path: Path) -> str:
    """Of the content; of weights without the record of how they were made, which names versions."""
    total = hashlib.sha256()
    if path.suffix == ".safetensors":
        for part in tensors(path):
            total.update(part)
    else:
        total.update(path.read_bytes())
    return total.hexdigest()


def tensors(path: Path) -> Iterator[bytes]:
    """Names and bytes of the tensors of a file, in order."""
    with safetensors.safe_open(path, "np") as file:
        for name in sorted(file.keys()):
            yield name.encode()
            yield file.get_tensor(name).tobytes()


def main() -> None:
    """Compare, print a line for each command, and write the digests."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("other", nargs="?", type=Path, help="folder `src` of another checkout")
    parser.add_argument("-o", "--output", type=Path, help="JSON file for the digests")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="scores alone",
    )
    arguments = parser.parse_args()
    if arguments.other is None:
        if not arguments.quick:
            parser.error("name the folder `src` of another checkout")
        arguments.other = REPOSITORY / "src"
    rows = {}
    for name in list(COMMANDS)[: 1 if arguments.quick else None]:
        found = []
        for source in (arguments.other.resolve(), REPOSITORY / "src"):
            with tempfile.TemporaryDirectory() as folder:
                found.append(run(source, name, Path(folder)))
        rows[name] = {"other": found[0], "here": found[1], "equal": found[0] == found[1]}
        print(f"{'same' if rows[name]['equal'] else 'DIFFERENT'}  {name}", flush=True)
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(rows, indent=1) + "\n")
    sys.exit(0 if all(row["equal"] for row in rows.values()) else 1)


if __name__ == "__main__":
    main()
