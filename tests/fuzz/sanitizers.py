"""The kernel built with the address and undefined-behavior sanitizers, and a process that uses it.

A read or write beside a tensor, or an undefined operation, then ends the process with a report. The
library is built into `build-sanitize/`, the first time for some minutes, later only what changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "build-sanitize"
VARIABLE = "QMAMBA_SANITIZED_KERNEL"
"""Where the library lies, in a process that is to use it."""


def build(folder: Path = FOLDER) -> Path:
    """Build what has changed; the folder of the library.

    Raises:
        SystemExit: no compiler or CMake, or the build fails.
    """
    missing = [name for name in ("cmake", "gcc") if shutil.which(name) is None]
    if missing:
        raise SystemExit(f"The sanitizers need {' and '.join(missing)}; --plain goes without them.")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    known = (folder / "CMakeCache.txt").exists()
    configure = ["cmake", "-S", str(REPOSITORY), "-B", str(folder), "-DQMAMBA_SANITIZE=ON"]
    for command in (
        configure + ([] if known else generator),
        ["cmake", "--build", str(folder), "--parallel", str(os.cpu_count() or 1)],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"The kernel was not built:\n{(done.stdout + done.stderr)[-4000:]}")
    return folder


def environment(folder: Path) -> dict[str, str]:
    """The variables of a process that runs the sanitized library in a folder."""
    runtimes = (
        subprocess.check_output(["gcc", f"-print-file-name=lib{name}.so"], text=True).strip()
        for name in ("asan", "ubsan")
    )
    return {
        **os.environ,
        "LD_PRELOAD": ":".join(runtimes),
        # Python itself keeps what it has until its end.
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        VARIABLE: str(folder),
    }


def use() -> bool:
    """Load the sanitized library in this process, if it was started for it."""
    folder = os.environ.get(VARIABLE)
    if folder is None:
        return False
    import qmamba.ops.native

    qmamba.ops.native.__path__.insert(0, folder)
    from qmamba.ops.native import library

    reason = library.unavailable_reason()
    if reason is not None:
        raise SystemExit(f"The sanitized kernel cannot be used: {reason}.")
    loaded = Path(library.load_kernel().library._name)
    if not loaded.is_relative_to(folder):
        raise SystemExit(f"The kernel of {loaded.parent} is used instead of the sanitized one.")
    return True


def run_again(arguments: list[str]) -> int:
    """The exit code of the same command in a process that uses the sanitized library."""
    command = [sys.executable, "-m", "tests.fuzz", *arguments]
    return subprocess.run(command, env=environment(build())).returncode
