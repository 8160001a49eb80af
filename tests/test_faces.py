"""Every package face that imports on first use leads to what it names."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

import qmamba

PACKAGE = Path(qmamba.__file__).parent
FACES = [
    ".".join(path.parent.relative_to(PACKAGE.parent).parts)
    for path in sorted(PACKAGE.rglob("__init__.py"))
    if "\n_HOMES = {" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", FACES)
def test_names_resolve(name: str) -> None:
    face = import_module(name)
    assert set(face._HOMES) <= set(face.__all__)
    for public in face._HOMES:
        assert getattr(face, public) is not None
