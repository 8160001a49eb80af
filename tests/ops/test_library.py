"""Finding the compiled kernel."""

from __future__ import annotations

from pathlib import Path

import qmamba
from qmamba.ops.native import library


def test_a_library_that_was_built_is_found() -> None:
    """Wherever below the package it lies: a move of either must not silently cost the kernel."""
    built = [path for folder in qmamba.__path__ for path in Path(folder).rglob("libqmamba_scan.*")]
    assert bool(built) == (library.unavailable_reason() is None)
