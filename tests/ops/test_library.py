"""Finding the compiled kernel, and the layout of what is handed to it."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest

import qmamba
from qmamba.ops.native import library, structs
from tests.conftest import REPOSITORY

needs_kernel = pytest.mark.skipif(
    library.unavailable_reason() is not None, reason=str(library.unavailable_reason())
)


def test_a_library_that_was_built_is_found() -> None:
    """Wherever below the package it lies: a move of either must not silently cost the kernel."""
    built = [path for folder in qmamba.__path__ for path in Path(folder).rglob("libqmamba_scan.*")]
    assert bool(built) == (library.unavailable_reason() is None)


@needs_kernel
def test_every_struct_is_laid_out_as_the_library_says() -> None:
    loaded = library.load_kernel().library
    assert structs.first_difference(loaded) is None
    assert len(structs.all_structs()) >= 14
    for struct in structs.all_structs():
        name = struct.c_name.encode()
        assert loaded.qmamba_layout(name, b"") == ctypes.sizeof(struct)
        assert loaded.qmamba_layout(name, b"no such field") == -1


@needs_kernel
def test_every_struct_of_the_headers_is_mirrored() -> None:
    headers = (REPOSITORY / "native").rglob("*.h")
    defined = {
        name for path in headers for name in re.findall(r"struct (qmamba_\w+) {", path.read_text())
    }
    assert defined == {struct.c_name for struct in structs.all_structs()}


@needs_kernel
def test_a_library_of_another_layout_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = [*structs.LayerNormStruct._fields_, ("another", ctypes.c_int64)]
    names = {"c_name": "qmamba_layer_norm", "_fields_": fields}
    longer = type("Longer", (structs.Struct,), names)
    monkeypatch.setattr(structs, "all_structs", lambda: [structs.ScanStruct, longer])
    library._load.cache_clear()
    try:
        assert "built from other sources (the size of qmamba_layer_norm)" in str(
            library.unavailable_reason()
        )
    finally:
        library._load.cache_clear()
