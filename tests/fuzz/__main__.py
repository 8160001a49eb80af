"""`python -m tests.fuzz all|files|operators|runs [--seconds N] [--seed S]`; exit code 1 for faults.

`all` makes every kind of trial, in ten minutes: 2,000 mutated files, 500 calls of the operators
under the sanitizers and 200 tampered run folders. Each kind is a module of this folder with
`run(seconds, seed) -> number of faults`; a fault is printed with the seed that repeats it.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import time
import warnings
from pathlib import Path

from tests.fuzz import sanitizers

SANITIZED = "operators"


def kinds() -> list[str]:
    """The modules beside this one that can be run."""
    return sorted(
        p.stem for p in Path(__file__).parent.glob("[a-z]*.py") if "def run(" in p.read_text()
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=["all", *kinds()])
    parser.add_argument("--seconds", type=float, default=190, help="time for each kind (190)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first trial (0)")
    parser.add_argument("--plain", action="store_true", help="operators without the sanitizers")
    arguments = parser.parse_args()
    if arguments.kind == "all":
        return run_all(arguments)
    if arguments.kind == SANITIZED and not arguments.plain and not sanitizers.use():
        return sanitizers.run_again(sys.argv[1:])
    # Libraries have their say on damaged files; the command line of the package keeps it back.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    module = importlib.import_module(f"tests.fuzz.{arguments.kind}")
    return 1 if module.run(arguments.seconds, arguments.seed) else 0


def run_all(arguments: argparse.Namespace) -> int:
    """Every kind in a process of its own; one that dies counts as a fault."""
    options = ["--seconds", str(arguments.seconds), "--seed", str(arguments.seed)]
    if not arguments.plain:
        sanitizers.build()
    begun, faulty = time.monotonic(), []
    for kind in kinds():
        print(f"== {kind}", flush=True)
        plain = ["--plain"] if arguments.plain and kind == SANITIZED else []
        command = [sys.executable, "-m", "tests.fuzz", kind, *options, *plain]
        if subprocess.run(command).returncode:
            faulty.append(kind)
    minutes = (time.monotonic() - begun) / 60
    print(f"== {minutes:.1f} minutes; {', '.join(faulty) + ': faults' if faulty else 'no faults'}")
    return 1 if faulty else 0


if __name__ == "__main__":
    raise SystemExit(main())
