"""Other processes that keep an output."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import qmamba

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(qmamba.__file__).parent.parent)}


@contextmanager
def owner_of(path: Path, *, is_folder: bool) -> Iterator[subprocess.Popen[str]]:
    """Another process that keeps an output."""
    name = "owned_folder" if is_folder else "owned_output"
    code = (
        f"import sys; from qmamba.locks import {name}\n"
        f"with {name}(sys.argv[1]): print('mine', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "mine\n"
        yield process
        process.communicate()
