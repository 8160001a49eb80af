"""Run every benchmark that needs no GPU, one after the other, each in a process of its own.

    python -m benchmarks.all -o benchmarks/results --photographs FOLDER

takes up to an hour; `python -m benchmarks.render` then puts the tables and plots into the
page. A part that fails or takes too long does not stop the others, and `--resume` goes on with a
run that was cut off. The folder holds `scores.csv` and `images/`, as for
`benchmarks/score_agreement.py`; without it the scores of the precisions are not compared and no
folder is scored. `--quick` tries every script here, also those that need other data or a GPU, in a
few minutes on one thread, and leaves no figures behind unless a folder is named.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
PAGE = ("scan", "models", "parts", "memory", "scaling", "iqa", "training", "busy")
"""Scripts of docs/performance.md, which take the number of threads."""
OTHERS = (
    *("quantized", "packed_size", "prepared_agreement", "quantized_training", "quantizer_error"),
    *("onnx_speed", "scale", "restore_memory", "codes_or_values"),
)
"""Scripts of other pages, which need no data."""
RATED = (
    *("feature_baseline", "trust", "quantizer_start", "equal_results"),
    *("gpu", "large", "rises", "reasons", "routing", "restoration_files", "likeness"),
)
"""Scripts that need data, another checkout or a GPU, but for a trial."""
PAGES = ("render", "quantized_page")
"""Scripts that write pages, of which a trial makes a copy."""
PROGRESS = "progress.json"
"""Which parts of a run are done, beside their results."""


def commands(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """The name of each part, which is that of its JSON, and its script with the options."""
    quick = ["--quick"] if arguments.quick else []
    shared = ["--threads", str(arguments.threads), *quick]
    found = {name: [name, *shared] for name in PAGE}
    found |= {name: [name, *quick] for name in OTHERS}
    networks = ("mambair-nano-x2", "mambair-light-x4")
    found["restore_memory"] = ["restore_memory", *(quick or networks)]
    if quick:
        found |= {name: [name, *quick] for name in (*RATED, *PAGES)}
        if arguments.photographs is None:
            found |= {name: [name, *quick] for name in ("score_folder", "score_agreement")}
    if arguments.photographs is None:
        return found
    for precision in ("fp32", "bf16", "int8"):
        suffix = "" if precision == "fp32" else f"_{precision}"
        found[f"score_folder{suffix}"] = [
            *("score_folder", str(arguments.photographs / "images"), "--repeats", "1"),
            *("--sizes", *(("5", "10") if arguments.quick else ("20", "125"))),
            *("--option=--precision", f"--option={precision}"),
        ]
    folder = str(arguments.photographs)
    found["score_agreement"] = ["score_agreement", folder, "--limit", "500", *quick]
    return found


def succeeds(command: list[str], out: Path, seconds: float, environment: dict[str, str]) -> bool:
    """Run one part; its JSON takes its place only when it is complete."""
    unfinished = out.with_suffix(".unfinished")
    script = [sys.executable, "-m", f"benchmarks.{command[0]}", *command[1:]]
    if command[0] not in PAGES:
        script += ["-o", str(unfinished)]
    try:
        subprocess.run(script, timeout=seconds, check=True, env=environment)
        if command[0] not in PAGES:
            unfinished.replace(out)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"{out.stem} failed: {error}", file=sys.stderr, flush=True)
        unfinished.unlink(missing_ok=True)
        return False
    return True


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("-o", "--out", type=Path, help="folder of JSON (benchmarks/results)")
    parser.add_argument("--photographs", type=Path, help="rated images for score_agreement")
    parser.add_argument("--threads", type=int, help="2; 1 with --quick")
    parser.add_argument("--quick", action="store_true", help="a few rounds each: do they run?")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="parts to run; see --list")
    parser.add_argument("--list", action="store_true", help="print the names of the parts")
    parser.add_argument("--resume", action="store_true", help="leave out what the last run did")
    parser.add_argument("--minutes", type=float, default=60, help="no part starts after these")
    parser.add_argument("--limit", type=float, default=10, help="longest that a part may take")
    arguments = parser.parse_args()
    if arguments.threads is None:
        arguments.threads = 1 if arguments.quick else 2
    if arguments.out is not None or not arguments.quick:
        return run(parser, arguments, arguments.out or HERE / "results")
    with tempfile.TemporaryDirectory() as folder:
        return run(parser, arguments, Path(folder))


def run(parser: argparse.ArgumentParser, arguments: argparse.Namespace, out: Path) -> int:
    """Run the parts that are asked for; the number of those that did not end well."""
    parts = commands(arguments)
    if arguments.list:
        print("\n".join(parts))
        return 0
    if unknown := set(arguments.only or ()) - set(parts):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {list(parts)}")
    out.mkdir(parents=True, exist_ok=True)
    progress = out / PROGRESS
    done: dict[str, int] = {}
    if arguments.resume and progress.exists():
        done = json.loads(progress.read_text())["seconds"]
    elif arguments.resume:
        print(f"== nothing to go on from: there is no {progress}", flush=True)
    names = [name for name in arguments.only or parts if name not in done]
    if "gpu" in names and find_spec("triton") is None:
        names.remove("gpu")
        print("== gpu is left out: Triton is not installed", flush=True)
    environment = dict(os.environ)
    if arguments.quick:
        # Two threads that wait for each other on a busy machine take twenty times as long.
        environment.setdefault("OMP_NUM_THREADS", str(arguments.threads))
    failed = []
    begun = time.perf_counter()
    for index, name in enumerate(names, 1):
        started = time.perf_counter()
        if started - begun > 60 * arguments.minutes:
            failed += names[index - 1 :]
            break
        print(f"== {index} of {len(names)}, {name}: at {clock(started - begun)}", flush=True)
        if succeeds(parts[name], out / f"{name}.json", 60 * arguments.limit, environment):
            done[name] = round(time.perf_counter() - started)
            progress.write_text(json.dumps({"seconds": done}, indent=1) + "\n")
        else:
            failed.append(name)
        print(f"== {name}: {clock(time.perf_counter() - started)}", flush=True)
    print(f"{clock(time.perf_counter() - begun)} in all", flush=True)
    if failed:
        print(f"failed or not begun: {', '.join(failed)}; see --resume", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    raise SystemExit(main())
