"""`python -m tests.fuzz files|operators|runs --seconds N --seed S`; exit code 1 for faults.

Each kind is a module of this folder with `run(seconds, seed) -> number of faults`; a fault is
printed with the seed that repeats it.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path


def kinds() -> list[str]:
    """The modules beside this one that can be run."""
    return sorted(
        p.stem for p in Path(__file__).parent.glob("[a-z]*.py") if "run(" in p.read_text()
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("kind", choices=kinds())
    parser.add_argument("--seconds", type=float, default=200, help="time to spend (200)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first trial (0)")
    arguments = parser.parse_args()
    module = importlib.import_module(f"tests.fuzz.{arguments.kind}")
    return 1 if module.run(arguments.seconds, arguments.seed) else 0


if __name__ == "__main__":
    raise SystemExit(main())
