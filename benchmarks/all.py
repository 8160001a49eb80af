"""Run every benchmark of docs/performance.md, one after the other, each in a process of its own.

    python -m benchmarks.all -o benchmarks/results --photographs FOLDER

takes about ten minutes; `python -m benchmarks.render` then puts the tables and plots into the page.
The folder holds `scores.csv` and `images/`, as for `benchmarks/score_agreement.py`; without it the
scores of the precisions are not compared and no folder is scored.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = ("scan", "models", "parts", "iqa", "memory", "scaling")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("-o", "--out", type=Path, default=HERE / "results", help="folder of JSON")
    parser.add_argument("--photographs", type=Path, help="rated pictures for score_agreement.py")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a few rounds each: do they run?")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="names of the JSON files")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    shared = ["--quick"] if arguments.quick else []
    commands = {name: ["--threads", str(arguments.threads), *shared] for name in SCRIPTS}
    if arguments.photographs is not None:
        limit = ["--limit", "500"]
        commands["score_agreement"] = [str(arguments.photographs), *limit, *shared]
        for precision in ("fp32", "bf16", "int8"):
            sizes = ["5", "10"] if arguments.quick else ["20", "125"]
            suffix = "" if precision == "fp32" else f"_{precision}"
            commands[f"score_folder{suffix}"] = [
                *(str(arguments.photographs / "images"), "--repeats", "1", "--sizes", *sizes),
                *("--option=--precision", f"--option={precision}"),
            ]
    failed = []
    for name, options in commands.items():
        if arguments.only and name not in arguments.only:
            continue
        print(f"== {name}", flush=True)
        started = time.perf_counter()
        source = "score_folder" if name.startswith("score_folder") else name
        script = [sys.executable, str(HERE / f"{source}.py"), *options]
        run = subprocess.run([*script, "-o", str(arguments.out / f"{name}.json")])
        print(f"== {name}: {time.perf_counter() - started:.0f} s", flush=True)
        if run.returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    raise SystemExit(main())
